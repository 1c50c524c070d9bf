"""Brings the history in line with the inventory of a collector that takes over the lead."""

import time
from collections.abc import Callable, Collection, Sequence

import msgspec

from collector.inventory import Inventory
from collector.inventory.absent import Absent
from collector.inventory.last_known import facts_of
from collector.model import Gpu, NodeState, Place
from collector.store import Departure, Store

__all__ = ["CatchUp"]


class CatchUp:
    """What a standby does to become the leader: adopt what the previous one recorded, then record what differs.

    `adopt` gets everything that the previous leader recorded, some nodes at a time, to add to the inventory what it
    does not know yet. `clock` returns Unix seconds.
    """

    def __init__(
        self,
        store: Store,
        inventory: Inventory,
        adopt: Callable[[Sequence[NodeState]], None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._inventory = inventory
        self._adopt = adopt
        self._clock = clock

    async def run(self) -> None:
        """Start recording, first what the previous leader missed; no other collector writes during that."""
        leadership = self._store.leadership
        token = leadership.token
        await self._store.reconcile_again()
        self._store.database.renewed = False  # the whole inventory is about to be recorded
        inventory, standby = self._inventory, leadership.standby
        standby.forget_touched()
        recorded: set[Place] = set()
        different: set[Place] = set()
        async for part in self._store.nodes():
            self._adopt([node for node in part if node.place not in standby.gone])
            recorded |= {node.place for node in part}
            different |= {node.place for node in part if not _agrees(inventory.node(node.place), node)}
        different |= self.snapshot().keys() - recorded
        left = await self._settle_times(different | standby.touched)
        if leadership.held and leadership.token == token:  # or another collector has recorded in the meantime
            nodes = {place: inventory.node(place) for place in different | standby.touched}
            self._store.history_writer.begin(nodes, left)

    def snapshot(self) -> dict[Place, NodeState]:
        """Return the state of every node in the inventory."""
        return {
            Place(cluster, node): state
            for cluster in self._inventory.clusters()
            for node, state in self._inventory.nodes(cluster).items()
        }

    async def _settle_times(self, places: Collection[Place]) -> dict[str, Departure]:
        """Ensure that no GPU is in its place since before the previous leader recorded that it left the last one.

        Two collectors read a node at different times, and so notice the same move at different times. Times in the
        future are from when this one's clock was ahead. Returns the departures, by UUID, of GPUs of which only this
        collector knows that they left.
        """
        inventory = self._inventory
        inventory.cap_absences(self._clock())
        recorded = await self._store.recorded({place: inventory.node(place) for place in places})
        away = await self._store.absent()
        inventory.recall(away.absent, {**recorded.latest, **away.left}, away.facts, away.lost)
        left = {one.uuid: one for one in recorded.here if inventory.absent_gpu(one.uuid) is not None}
        inventory.recall(  # including those whose departure the previous leader did not notice
            {uuid: one.place for uuid, one in left.items()},
            {uuid: max(one.confirmed, recorded.latest[uuid]) for uuid, one in left.items()},
            {uuid: facts for uuid, one in left.items() if one.gpu and (facts := facts_of(one.gpu, one.confirmed))},
            {uuid for uuid, one in left.items() if one.lost},
        )
        here = {(placement.uuid, placement.place) for placement in recorded.here}
        now = self._clock()  # after the store was asked: nodes are read meanwhile
        for place in places:
            if (node := inventory.node(place)) is not None:
                since = tuple(
                    at if (gpu.uuid, place) in here else max(min(at, now), recorded.latest.get(gpu.uuid, 0.0))
                    for gpu, at in zip(node.gpus, node.since, strict=True)
                )
                if since != node.since:
                    self._adopt([msgspec.structs.replace(node, since=since)])
        return {uuid: departure for uuid in left if (departure := _departure(uuid, inventory.absent_gpu(uuid)))}


def _departure(uuid: str, absent: Absent | None) -> Departure | None:
    """Return a GPU's departure from its last node, as the store expects it; None if its time is unknown."""
    if absent is None or not absent.time:
        return None
    facts = absent.facts or Gpu(uuid=uuid)
    unsaid = tuple(one for one in facts.last_known if one.time != absent.read)  # according to the last reading
    gpu = msgspec.structs.replace(facts, last_known=unsaid)
    return Departure(absent.place, absent.time, absent.read, gpu, absent.lost)


def _agrees(node: NodeState | None, recorded: NodeState) -> bool:
    """Return whether two collectors have the same data on a node, each from its own reading."""
    if node is None:
        return False
    passing = {"time": recorded.time, "failing": recorded.failing, "uncovered": recorded.uncovered}
    return msgspec.structs.replace(node, **passing) == recorded
