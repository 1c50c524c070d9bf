"""Keeps the lease of a shard, and that of the deliveries, among the processes that share a store."""

import logging
from collections.abc import Callable, Mapping

import anyio

from collector.sharding import Shard
from collector.store import LostLeadershipError, Store, StoreError

__all__ = ["ShardLeases"]

log = logging.getLogger(__name__)

ASK_SECONDS = 1.0  # between two attempts to take the lease
RENEW_SECONDS = 3.0  # between two renewals of leases


class ShardLeases:
    """A loop that keeps the shard's lease; one of the leading shards also delivers to the sinks.

    `on_idle` is called after each attempt that does not leave this process recording.
    """

    def __init__(self, store: Store, shard: Shard, *, on_idle: Callable[[], None]) -> None:
        self._store = store
        self._shard = shard
        self._on_idle = on_idle
        self._logged: object = None

    async def run(self) -> None:
        """Keep the lease, or take it when it is free, until cancelled."""
        leadership, delivery, health = self._store.leadership, self._store.delivery, self._store.health
        while True:
            renewed = False
            try:
                if await leadership.ask():
                    renewed = leadership.recording
                    if await delivery.ask() and not delivery.recording:
                        await self._store.reconcile_again()
                        delivery.begin()
                        log.info("delivering to the sinks")
                elif delivery.held:
                    delivery.stand_by()
                    await delivery.release()
                health.succeeded("lead")
            except LostLeadershipError:
                log.debug("another shard delivers to the sinks now")
            except StoreError as error:
                health.failed("lead", str(error))
            self._log()
            if not leadership.recording:
                self._on_idle()
            await anyio.sleep(RENEW_SECONDS if renewed else ASK_SECONDS)

    def _log(self) -> None:
        """Log the holder of the shard's lease when it changes."""
        status, shard = self._store.leadership.status, self._shard
        state: Mapping[str, str] = {"leads": str(status.leads), "holder": "" if status.leads else status.holder}
        if state == self._logged or not (status.leads or status.holder or not status.has_leader):
            return
        self._logged = state
        if status.leads:
            log.info("leading: recording the clusters of %s", shard)
        elif status.has_leader:
            log.info("standing by: another process leads", extra={"leader": status.holder, "shard": shard.index})
        else:
            log.error("no process leads %s; its clusters are not recorded", shard)
