"""Applies a changed configuration's sinks to the delivery, and retries while the store is unavailable."""

import itertools
import logging
from collections.abc import Callable, Collection, Mapping

import anyio

from collector.backoff import Backoff
from collector.config.sinks import SinkSettings
from collector.delivery.delivery import Delivery
from collector.events import ResettableEvent
from collector.store import StoreError

__all__ = ["SinkReconciler"]

RETRY_BACKOFF = Backoff(initial=1.0, maximum=30.0)
PATIENCE_SECONDS = 1.0  # for which a configuration change waits for the store

log = logging.getLogger(__name__)


class SinkReconciler:
    """Reconciles a delivery with the most recently requested sinks.

    `on_reconciled` is called with the names of the sinks whenever they have been applied.
    """

    def __init__(
        self,
        delivery: Delivery,
        on_reconciled: Callable[[Collection[str]], None],
        *,
        backoff: Backoff = RETRY_BACKOFF,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._delivery = delivery
        self._on_reconciled = on_reconciled
        self._backoff = backoff
        self._patience_seconds = patience_seconds
        self._requested: Mapping[str, SinkSettings] = {}
        self._request = ResettableEvent()  # set while the requested sinks have not been tried
        self._applied = anyio.Event()

    async def reconcile(self, sinks: Mapping[str, SinkSettings]) -> None:
        """Request these sinks; return once they are applied, or after a second while the store is unavailable."""
        self._requested = sinks
        self._applied = anyio.Event()
        self._request.set()
        with anyio.move_on_after(self._patience_seconds):
            await self._applied.wait()

    async def run(self) -> None:
        """Apply what is requested until cancelled."""
        while True:
            await self._request.wait()
            for attempt in itertools.count():
                self._request.clear()
                requested, applied = self._requested, self._applied
                try:
                    await self._delivery.reconcile(requested)
                except StoreError as error:
                    log.warning("cannot update sinks while the store is unavailable; retrying: %s", error)
                else:
                    self._on_reconciled(requested)
                    applied.set()
                    break
                with anyio.move_on_after(self._backoff.delay(attempt)):
                    await self._request.wait()
