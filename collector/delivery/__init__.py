"""From the outbox to the sinks: batches, their order, retries and dead letters."""
