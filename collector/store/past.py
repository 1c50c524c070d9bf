"""The queries of the past: the fleet as it was recorded to be at a time."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, and_, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.health import GROWTH_WINDOW_SECONDS, Condition
from collector.marks import Marks
from collector.model import FieldChange, Place, canonical_uuid
from collector.store import schema
from collector.store.bounded import Bounded, in_time
from collector.store.checkpoints import ClusterCount, count, there_at
from collector.store.conditions import recorded_conditions
from collector.store.database import Database
from collector.store.history import PastPlacement, past_placement, plain_rows
from collector.store.marks import marks_at
from collector.store.sound import moment, sound_changes, text

__all__ = ["BEGINS", "GpuPosition", "Past", "PastHealthChange", "PastNode", "Stay", "fact", "note_beginning"]

BEGINS = "history_begins"  # the fact that says from when on (Unix seconds) nothing is forgotten
_HEALTH_BEGINS = "health_begins"  # likewise, from when on readings had the health of GPUs
_NAMES_PER_QUERY = 1000


class GpuPosition(NamedTuple):
    """Where a GPU stands among all of a fleet at a time, in the order of pages."""

    cluster: str
    node: str
    uuid: str


class PastNode(msgspec.Struct, frozen=True, kw_only=True):
    """One node with GPUs at a time."""

    cluster: str
    node: str
    machine: str
    models: Mapping[str, int]  # GPUs by model; empty: one that is not known
    chassis: tuple[str, ...]
    since: float  # Unix seconds; when the last of its GPUs came to it

    @property
    def place(self) -> Place:
        """Which node it is."""
        return Place(self.cluster, self.node)

    @property
    def gpus(self) -> int:
        """How many GPUs it had."""
        return sum(self.models.values())


class Stay(NamedTuple):
    """From when to when a GPU was on a node (Unix seconds)."""

    place: Place
    since: float
    until: float | None  # None: it is there


class PastHealthChange(NamedTuple):
    """One change of the health of one GPU."""

    time: float  # Unix seconds
    place: Place
    changes: tuple[FieldChange, ...]


class Past(Bounded):
    """The queries; all raise StoreError, also when they are not answered by a deadline. Times are Unix seconds."""

    @in_time
    async def begins(self) -> tuple[float | None, float]:
        """Return from when on the history is complete (None: nothing is recorded yet), and the health of GPUs in it."""
        async with self._read() as connection:
            begins = await fact(connection, BEGINS)
            if begins is None:
                first = await connection.scalar(select(func.min(schema.changes.c.time)))
                begins = None if first is None else moment(first)
            return begins, await fact(connection, _HEALTH_BEGINS) or 0.0

    @in_time
    async def counts(self, time: float) -> dict[str, ClusterCount]:
        """Return how much was in each cluster that had GPUs."""
        async with self._read() as connection:
            return await count(connection, time)

    @in_time
    async def nodes(
        self, time: float, where: Mapping[str, Collection[str]] = {}, *, after: Place | None = None, limit: int = 1000
    ) -> list[PastNode]:
        """Return the nodes that had GPUs, by cluster and node; `where` and `after` as for `gpus`."""
        place = (_placements.cluster, _placements.node)
        query = select(*place).where(there_at(time), *_conditions(where)).distinct().order_by(*place).limit(limit)
        if after is not None:
            query = query.where(tuple_(*place) > tuple_(*after))
        async with self._read() as connection:
            keys = [Place(text(cluster), text(node)) for cluster, node in await connection.execute(query)]
            found: dict[Place, list[Any]] = {key: [] for key in keys}
            columns = select(*place, *(_placements[name] for name in ("machine", "model", "chassis", "since")))
            # Of one cluster at a time: SQLite finds no pairs by an index.
            for cluster, group in itertools.groupby(keys, key=lambda key: key.cluster):
                names = [key.node for key in group]
                for start in range(0, len(names), _NAMES_PER_QUERY):
                    part = names[start : start + _NAMES_PER_QUERY]
                    here = and_(_placements.cluster == cluster, _placements.node.in_(part))
                    for row in await connection.execute(columns.where(there_at(time), here)):
                        found[Place(text(row[0]), text(row[1]))].append(row)
        return [_node(place, rows) for place, rows in found.items() if rows]

    @in_time
    async def gpus(
        self,
        time: float,
        where: Mapping[str, Collection[str]] = {},
        *,
        after: GpuPosition | None = None,
        limit: int = 1000,
    ) -> list[PastPlacement]:
        """Return where GPUs were, by cluster, node and UUID.

        `where` chooses by some columns: one of the values of each. `after` is the position of the last one of the page
        before. When it was last read there is known only as its end, so `confirmed` may be later than `time`.
        """
        order = (_placements.cluster, _placements.node, _placements.uuid)
        columns = [_placements[name] for name in PastPlacement.__struct_fields__ if name in _placements]
        here = and_(_nodes.cluster == _placements.cluster, _nodes.node == _placements.node, _placements.until.is_(None))
        query = (
            select(*columns, _nodes.read_at)
            .outerjoin_from(schema.placements, schema.nodes, here)
            .where(there_at(time), *_conditions(where))
            .order_by(*order)
            .limit(limit)
        )
        if after is not None:
            query = query.where(tuple_(*order) > tuple_(*after))
        async with self._read() as connection:
            rows = plain_rows(await connection.execute(query))
        return [past_placement(row) for row in rows]

    @in_time
    async def count_gpus(self, time: float, where: Mapping[str, Collection[str]]) -> int:
        """Return how many GPUs `gpus` returns on all its pages."""
        return await self._count(select(func.count()).where(there_at(time), *_conditions(where)))

    @in_time
    async def count_nodes(self, time: float, where: Mapping[str, Collection[str]]) -> int:
        """Return how many nodes `nodes` returns on all its pages."""
        place = (_placements.cluster, _placements.node)
        distinct = select(*place).where(there_at(time), *_conditions(where)).distinct().subquery()
        return await self._count(select(func.count()).select_from(distinct))

    @in_time
    async def health_changes(self, time: float, uuids: Sequence[str]) -> dict[str, list[PastHealthChange]]:
        """Return the changes of these GPUs' health by UUID, oldest first, that say how they were at a time.

        Those are all since then, and those before by which errors may count as growing.
        """
        found: dict[str, list[PastHealthChange]] = {}
        columns = (_changes.uuid, _changes.time, _changes.cluster, _changes.node, _changes.changes)
        query = select(*columns).where(schema.HEALTH, _changes.time > time - GROWTH_WINDOW_SECONDS)
        async with self._read() as connection:
            for start in range(0, len(uuids), _NAMES_PER_QUERY):
                part = query.where(_changes.uuid.in_(uuids[start : start + _NAMES_PER_QUERY]))
                for uuid, at, *place, changes in await connection.execute(part.order_by(_changes.time, _changes.id)):
                    change = PastHealthChange(moment(at), Place(*map(text, place)), sound_changes(changes))
                    found.setdefault(text(uuid), []).append(change)
        return found

    @in_time
    async def stays(self, uuids: Sequence[str]) -> dict[str, list["Stay"]]:
        """Return when GPUs were where, oldest first, by UUID."""
        found: dict[str, list[Stay]] = {}
        columns = (_placements.uuid, _placements.since, _placements.until, _placements.cluster, _placements.node)
        query = select(*columns)
        async with self._read() as connection:
            for start in range(0, len(uuids), _NAMES_PER_QUERY):
                part = query.where(_placements.uuid.in_(uuids[start : start + _NAMES_PER_QUERY]))
                for uuid, since, until, *place in await connection.execute(
                    part.order_by(_placements.since, _placements.id)
                ):
                    end = None if until is None else moment(until)
                    found.setdefault(text(uuid), []).append(Stay(Place(*map(text, place)), moment(since), end))
        return found

    @in_time
    async def conditions(self, uuids: Collection[str]) -> dict[str, Condition]:
        """Return how GPUs are now, or were when they were read last, by UUID, as far as it is known."""
        async with self._read() as connection:
            return await recorded_conditions(connection, uuids)

    @in_time
    async def marks(self, time: float) -> Marks:
        """Return the marks that were in force, as they were then: not yet removed."""
        async with self._read() as connection:
            return Marks(await marks_at(connection, time))

    async def _count(self, query: Any) -> int:
        async with self._read() as connection:
            return await connection.scalar(query) or 0


async def note_beginning(database: Database, time: float) -> None:
    """Note that the history is complete only from a time (Unix seconds) on, unless a later one is noted already."""
    async with database.write() as connection:
        known = await fact(connection, BEGINS)
        row = database.insert(schema.meta).values(name=BEGINS, value=repr(time if known is None else max(time, known)))
        await connection.execute(row.on_conflict_do_update(index_elements=["name"], set_={"value": row.excluded.value}))


async def fact(connection: AsyncConnection, name: str) -> float | None:
    """Return a number that the store notes about itself; None if it does not."""
    found = await connection.scalar(select(schema.meta.c.value).where(schema.meta.c.name == name))
    try:
        return None if found is None else moment(float(found))
    except (TypeError, ValueError):
        return None


def _conditions(where: Mapping[str, Collection[str]]) -> list[ColumnElement[bool]]:
    conditions = []
    for name, values in where.items():
        wanted = sorted(map(canonical_uuid, values) if name == "uuid" else values)
        conditions.append(_placements[name] == wanted[0] if len(wanted) == 1 else _placements[name].in_(wanted))
    return conditions


def _node(place: Place, rows: Sequence[Any]) -> PastNode:
    models: dict[str, int] = {}
    for _, _, _, model, _, _ in rows:
        models[text(model)] = models.get(text(model), 0) + 1
    return PastNode(
        cluster=place.cluster,
        node=place.node,
        machine=text(rows[0][2]),
        models=models,
        chassis=tuple(sorted({text(row[4]) for row in rows if row[4]})),
        since=max(moment(row[5]) for row in rows),
    )


_placements, _nodes, _changes = schema.placements.c, schema.nodes.c, schema.changes.c
