"""Keeps the lead among the collectors that share a store, or takes it over when it is free."""

import logging
from collections.abc import Callable, Collection, Sequence

import anyio
import msgspec

from collector.events import ResettableEvent
from collector.inventory import Inventory
from collector.inventory.absent import Absent
from collector.inventory.last_known import facts_of
from collector.model import Gpu, NodeState, Place
from collector.store import Departure, LostLeadershipError, Store, StoreError

__all__ = ["TakeOver"]

log = logging.getLogger(__name__)

ASK_SECONDS = 1.0  # between two questions of who leads
RENEW_SECONDS = 3.0  # between two renewals of a leader's lease


class TakeOver:
    """A loop that makes a standby the leader; the history then comes to agree with the inventory.

    Before that, `adopt` gets all that the leader before had recorded, some nodes at a time: what the inventory does not
    know yet belongs into it.
    """

    def __init__(self, store: Store, inventory: Inventory, adopt: Callable[[Sequence[NodeState]], None]) -> None:
        self._store = store
        self._inventory = inventory
        self._adopt = adopt
        self._taken = ResettableEvent()
        self._logged: object = None

    async def run(self) -> None:
        """Keep the lead, or take it when it is free, until cancelled."""
        database, leadership, health = self._store.database, self._store.leadership, self._store.health
        async with anyio.create_task_group() as tasks:
            # Apart, because a large fleet takes longer than a lease lasts, which is renewed meanwhile.
            tasks.start_soon(self._catch_up, name="store: take-over")
            while True:
                renewed = False
                try:
                    held = await leadership.ask()
                    behind = held and (not leadership.recording or database.renewed)
                    if behind:
                        self._taken.set()
                    elif not held:
                        health.succeeded("take-over")  # it is another collector's task now
                    renewed = leadership.leads and not database.single_process
                    if not (behind and database.single_process):  # a file begins to be of use with what is recorded
                        health.succeeded("lead")
                except StoreError as error:
                    health.failed("lead", str(error))
                self._log()
                await anyio.sleep(RENEW_SECONDS if renewed else ASK_SECONDS)

    def _log(self) -> None:
        """Log who leads, when that has changed; an SQLite file has one collector, and its health says the rest."""
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
            return  # it will be known soon
        if state == self._logged:
            return
        self._logged = state
        if status.leads:
            log.info("leading: recording into the store and delivering to the sinks")
        elif status.has_leader:
            log.info("standing by: another collector leads", extra={"leader": status.holder})
        else:
            log.error("no collector leads: nothing is recorded or delivered", extra={"lease": status.holder or "free"})

    async def _catch_up(self) -> None:
        health = self._store.health
        while True:
            await self._taken.wait()
            self._taken.clear()
            try:
                if self._store.leadership.held and not self._store.leadership.recording:
                    await self._take_over()
                elif self._store.database.renewed:
                    await self._store.renew(self._snapshot)
                health.succeeded("take-over")
            except LostLeadershipError:
                log.debug("lost the lead to another collector")
            except StoreError as error:
                health.failed("take-over", str(error))

    def _snapshot(self) -> dict[Place, NodeState]:
        return {
            Place(cluster, node): state
            for cluster in self._inventory.clusters()
            for node, state in self._inventory.nodes(cluster).items()
        }

    async def _take_over(self) -> None:
        """Begin to record, first what the leader before has missed; nobody else writes meanwhile."""
        leadership = self._store.leadership
        token = leadership.token
        await self._store.reconcile_again()
        self._store.database.renewed = False  # all of the inventory is about to be recorded
        inventory, standby = self._inventory, leadership.standby
        standby.forget_touched()
        recorded: set[Place] = set()
        different: set[Place] = set()
        async for part in self._store.nodes():
            self._adopt([node for node in part if node.place not in standby.gone])
            recorded |= {node.place for node in part}
            different |= {node.place for node in part if not _agrees(inventory.node(node.place), node)}
        different |= self._snapshot().keys() - recorded
        left = await self._settle_times(different | standby.touched)
        if leadership.held and leadership.token == token:  # or another collector has recorded meanwhile
            nodes = {place: inventory.node(place) for place in different | standby.touched}
            self._store.history_writer.begin(nodes, left)

    async def _settle_times(self, places: Collection[Place]) -> dict[str, Departure]:
        """Let no GPU be anywhere since before the collector that led recorded that it left.

        Two collectors read a node at different times, and so notice the same move at different times. Returns how those
        left, by UUID, that only this one knows to have left.
        """
        inventory = self._inventory
        recorded = await self._store.recorded({place: inventory.node(place) for place in places})
        away = await self._store.absent()
        inventory.recall(away.absent, {**recorded.latest, **away.left}, away.facts, away.lost)
        left = {one.uuid: one for one in recorded.here if inventory.absent_gpu(one.uuid) is not None}
        inventory.recall(  # these as well, of which the one before did not notice that they left
            {uuid: one.place for uuid, one in left.items()},
            {uuid: max(one.confirmed, recorded.latest[uuid]) for uuid, one in left.items()},
            {uuid: facts for uuid, one in left.items() if one.gpu and (facts := facts_of(one.gpu, one.confirmed))},
            {uuid for uuid, one in left.items() if one.lost},
        )
        here = {(placement.uuid, placement.place) for placement in recorded.here}
        for place in places:
            if (node := inventory.node(place)) is not None:
                since = tuple(
                    at if (gpu.uuid, place) in here else max(at, recorded.latest.get(gpu.uuid, at))
                    for gpu, at in zip(node.gpus, node.since, strict=True)
                )
                if since != node.since:
                    self._adopt([msgspec.structs.replace(node, since=since)])
        return {uuid: departure for uuid in left if (departure := _departure(uuid, inventory.absent_gpu(uuid)))}


def _departure(uuid: str, absent: Absent | None) -> Departure | None:
    """Return how a GPU left its last node, as the store wants it; None if it is not known when."""
    if absent is None or not absent.time:
        return None
    facts = absent.facts or Gpu(uuid=uuid)
    unsaid = tuple(one for one in facts.last_known if one.time != absent.read)  # by the last reading
    gpu = msgspec.structs.replace(facts, last_known=unsaid)
    return Departure(absent.place, absent.time, absent.read, gpu, absent.lost)


def _agrees(node: NodeState | None, recorded: NodeState) -> bool:
    """Return whether two collectors know the same of a node, each by its own reading."""
    if node is None:
        return False
    passing = {"time": recorded.time, "failing": recorded.failing, "uncovered": recorded.uncovered}
    return msgspec.structs.replace(node, **passing) == recorded
