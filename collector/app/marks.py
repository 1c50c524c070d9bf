"""Keeps the active marks in sync with the store: this collector, another one or a command may set them."""

import logging

import anyio

from collector.marks import Marks
from collector.store import Store, StoreError

__all__ = ["MarkFollower"]

log = logging.getLogger(__name__)

POLL_SECONDS = 3.0  # between two checks of the version of the marks in the store


class MarkFollower:
    """A loop that fills `marks` from the store; while it cannot be read, the previous marks are kept."""

    def __init__(self, store: Store, marks: Marks, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._store = store
        self._marks = marks
        self._poll_seconds = poll_seconds
        self._version = ""
        self._store_id = ""
        self._lock = anyio.Lock()

    async def run(self) -> None:
        """Follow the store until cancelled."""
        while True:
            await self.try_refresh()
            await anyio.sleep(self._poll_seconds)

    async def try_refresh(self) -> None:
        """Call `refresh`, and report a failure as the store's health."""
        try:
            await self.refresh()
            self._store.health.succeeded("marks")
        except StoreError as error:
            self._store.health.failed("marks", str(error))

    async def refresh(self) -> None:
        """Read the marks if they have changed; raises StoreError."""
        async with self._lock:
            version = await self._store.marks.version()
            store_id = self._store.database.id
            if self._store_id and store_id != self._store_id:
                log.warning("copying the marks to the store that replaces the damaged one")
                await self._store.marks.refill(self._marks)
            elif version == self._version:
                return
            version, marks = await self._store.marks.in_force()
            self._marks.replace(marks)
            self._version, self._store_id = version, store_id
