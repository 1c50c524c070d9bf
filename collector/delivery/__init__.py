"""Delivers from the outbox to the sinks: batches, order, retries and dead letters."""
