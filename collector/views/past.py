"""The fleet at a past time: where GPUs were and, as far as recorded, their condition and marks."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from collector.health import Condition
from collector.marks import NO_MARKS, Mark, Marks
from collector.model import GpuidError, Place
from collector.store import ClusterCount, GpuPosition, Past, PastNode, PastPlacement, Stay
from collector.timestamps import as_of, rfc3339
from collector.views.collector_view import CollectorView
from collector.views.cooperative import yielding
from collector.views.past_condition import condition_at
from collector.views.placements import last_condition

__all__ = ["LookBack", "NotRecordedError", "PastGpu", "look_back"]


class NotRecordedError(GpuidError):
    """There is no history, or it does not go back to the requested time."""


class PastGpu(NamedTuple):
    """One GPU at a past time."""

    placement: PastPlacement
    confirmed: float | None  # Unix seconds of the last reading before; None: only a later one is recorded
    condition: Condition | None  # None: unknown
    mark: Mark | None

    @property
    def place(self) -> Place:
        """Where it was."""
        return Place(self.placement.cluster, self.placement.node)


class LookBack:
    """The fleet at a past time; all methods raise StoreError."""

    def __init__(self, time: float, past: Past, health_begins: float, view: CollectorView | None) -> None:
        self.time = time  # Unix seconds
        self._past = past
        self._health_begins = health_begins  # since when (Unix seconds) readings include conditions
        self._view = view  # which knows the current conditions; None: use the store's
        self._marks: Marks | None = None

    async def counts(self) -> dict[str, ClusterCount]:
        """Return the totals of each cluster that had GPUs, whether or not it is configured now."""
        return await self._past.counts(self.time)

    async def nodes(
        self, where: Mapping[str, Collection[str]] = {}, *, after: Place | None = None, limit: int = 1000
    ) -> list[PastNode]:
        """Return the nodes that had GPUs, by cluster and node."""
        return await self._past.nodes(self.time, where, after=after, limit=limit)

    async def gpus(
        self, where: Mapping[str, Collection[str]] = {}, *, after: GpuPosition | None = None, limit: int = 1000
    ) -> list[PastGpu]:
        """Return the GPUs, by cluster, node and UUID."""
        found = await self._past.gpus(self.time, where, after=after, limit=limit)
        conditions = await self._conditions(found)
        if self._marks is None and found:
            self._marks = await self._past.marks(self.time)
        marks = self._marks or NO_MARKS
        return [
            PastGpu(
                one if not one.last_known else _as_then(one, self.time),
                one.confirmed if one.confirmed <= self.time else None,
                conditions.get((one.uuid, one.id)),
                marks.of(one.uuid, one.serial, self.time),
            )
            async for one in yielding(found)
        ]

    async def total_gpus(self, where: Mapping[str, Collection[str]] = {}) -> int:
        """Return how many GPUs `gpus` returns on all its pages."""
        if where.keys() <= {"cluster"}:
            return sum(one.gpus for one in (await self._chosen(where)).values())
        if where.keys() <= {"cluster", "model"}:
            counts = (await self._chosen(where)).values()
            return sum(one.models.get(model, 0) for one in counts for model in set(where["model"]))
        return await self._past.count_gpus(self.time, where)

    async def total_nodes(self, where: Mapping[str, Collection[str]] = {}) -> int:
        """Return how many nodes `nodes` returns on all its pages."""
        if where.keys() <= {"cluster"}:
            return sum(one.nodes for one in (await self._chosen(where)).values())
        return await self._past.count_nodes(self.time, where)

    async def _chosen(self, where: Mapping[str, Collection[str]]) -> dict[str, ClusterCount]:
        counts = await self.counts()
        return {name: one for name, one in counts.items() if "cluster" not in where or name in where["cluster"]}

    async def _conditions(self, found: Sequence[PastPlacement]) -> dict[tuple[str, int], Condition | None]:
        """Return the conditions of these GPUs, by UUID and placement: the current ones with later changes undone."""
        if self.time < self._health_begins or not found:
            return {}
        uuids = sorted({one.uuid for one in found})
        if self._view is None:
            now: Mapping[str, Condition] = await self._past.conditions(uuids)
        else:
            known = [(uuid, last_condition(self._view, uuid)) async for uuid in yielding(uuids)]
            now = {uuid: one for uuid, one in known if one is not None}
            await self._view.wait_committed()  # otherwise a change they include would not be undone
        changes = await self._past.health_changes(self.time, uuids)
        stays = await self._past.stays(list(changes))
        return {
            (one.uuid, one.id): condition_at(
                self.time,
                Stay(Place(one.cluster, one.node), one.since, one.until),
                changes.get(one.uuid, ()),
                stays.get(one.uuid, ()),
                now.get(one.uuid),
            )
            async for one in yielding(found)
        }


async def look_back(past: Past | None, time: float, view: CollectorView | None = None) -> LookBack:
    """Return the fleet at a time (Unix seconds), for one response; raises NotRecordedError and StoreError."""
    if past is None:
        raise NotRecordedError("this collector keeps no history: its configuration has no [store]")
    if view is not None:
        await view.wait_committed()
    begins, health_begins = await past.begins()
    if begins is None:
        raise NotRecordedError("the history is empty: nothing has been recorded yet")
    if time < begins:
        raise NotRecordedError(f"the history begins at {rfc3339(begins)} and has nothing for {as_of(time)}")
    return LookBack(time, past, health_begins, view)


def _as_then(placement: PastPlacement, time: float) -> PastPlacement:
    """Return a placement in which a value is marked last known only if it was no longer reported by then."""
    return msgspec.structs.replace(placement, last_known=tuple(one for one in placement.last_known if one.time < time))
