"""Keeps the lease among the collectors that share a store, or takes it over when it is free."""

import logging
from collections.abc import Callable, Sequence

import anyio

from collector.app.catch_up import CatchUp
from collector.events import ResettableEvent
from collector.inventory import Inventory
from collector.model import NodeState
from collector.store import LostLeadershipError, Store, StoreError

__all__ = ["TakeOver"]

log = logging.getLogger(__name__)

ASK_SECONDS = 1.0  # between two attempts to take the lease
RENEW_SECONDS = 3.0  # between two renewals of a leader's lease


class TakeOver:
    """A loop that makes a standby the leader, and then brings the history in line with the inventory.

    Before that, `adopt` gets everything that the previous leader recorded, some nodes at a time, to add to the
    inventory what it does not know yet.
    """

    def __init__(self, store: Store, inventory: Inventory, adopt: Callable[[Sequence[NodeState]], None]) -> None:
        self._store = store
        self._catch_up = CatchUp(store, inventory, adopt)
        self._taken = ResettableEvent()
        self._logged: object = None

    async def run(self) -> None:
        """Keep the lease, or take it when it is free, until cancelled."""
        database, leadership, health = self._store.database, self._store.leadership, self._store.health
        async with anyio.create_task_group() as tasks:
            # Separate, because a large fleet takes longer than a lease lasts, so it is renewed during that.
            tasks.start_soon(self._take_over, name="store: take-over")
            while True:
                renewed = False
                try:
                    held = await leadership.ask()
                    behind = held and (not leadership.recording or database.renewed)
                    if behind:
                        self._taken.set()
                    elif not held:
                        health.succeeded("take-over")  # another collector does it now
                    renewed = leadership.leads and not database.single_process
                    if not (behind and database.single_process):  # a new file is useful only once it has records
                        health.succeeded("lead")
                except StoreError as error:
                    health.failed("lead", str(error))
                self._log()
                await anyio.sleep(RENEW_SECONDS if renewed else ASK_SECONDS)

    def _log(self) -> None:
        """Log changes of the leader; an SQLite file has only one collector, and its health covers the rest."""
        if self._store.database.single_process:
            return
        status = self._store.leadership.status
        state: tuple[str, ...]
        if status.leads:
            state = ("leads",)
        elif not status.has_leader:
            state = ("nobody",)
        elif status.holder:
            state = ("stands by", status.holder)
        else:
            return  # not known yet
        if state == self._logged:
            return
        self._logged = state
        if status.leads:
            log.info("leading: recording into the store and delivering to the sinks")
        elif status.has_leader:
            log.info("standing by: another collector leads", extra={"leader": status.holder})
        else:
            log.error("no collector leads: nothing is recorded or delivered", extra={"lease": status.holder or "free"})

    async def _take_over(self) -> None:
        health = self._store.health
        while True:
            await self._taken.wait()
            self._taken.clear()
            try:
                if self._store.leadership.held and not self._store.leadership.recording:
                    await self._catch_up.run()
                elif self._store.database.renewed:
                    await self._store.renew(self._catch_up.snapshot)
                health.succeeded("take-over")
            except LostLeadershipError:
                log.debug("lost the lead to another collector")
            except StoreError as error:
                health.failed("take-over", str(error))
