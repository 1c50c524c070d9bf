"""Queries for the recorded state of the fleet at a past time."""

import functools
import itertools
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple, cast

import msgspec
from sqlalchemy import Column, ColumnElement, Integer, Select, and_, func, literal_column, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.visitors import replacement_traverse

from collector.health import GROWTH_WINDOW_SECONDS, Condition
from collector.marks import Marks
from collector.model import FieldChange, Place, canonical_uuid
from collector.store import schema
from collector.store.altered import FACTS, FIELDS, Row, altered_after, as_then, count_as_then, uuids_of
from collector.store.bounded import Bounded, in_time
from collector.store.checkpoints import ClusterCount, count, there_at
from collector.store.compact import STAYS
from collector.store.conditions import recorded_conditions
from collector.store.database import Database
from collector.store.facts import fact, note_latest
from collector.store.history import PastPlacement, past_placement, plain_rows
from collector.store.history_lookup import FIRST_CHANGE
from collector.store.marks import marks_at
from collector.store.sound import moment, sound_changes, text

__all__ = ["BEGINS", "GpuPosition", "Past", "PastHealthChange", "PastNode", "Stay", "note_beginning"]

BEGINS = "history_begins"  # the fact with the time (Unix seconds) since when nothing has been deleted
_HEALTH_BEGINS = "health_begins"  # likewise, since when readings have had the health of GPUs
_NAMES_PER_QUERY = 1000
_GPUS_OF_A_NODE = 8  # in most fleets, so that a page of nodes is one of GPUs


class GpuPosition(NamedTuple):
    """A GPU's position among all of a fleet at a time, in page order."""

    cluster: str
    node: str
    uuid: str


class PastNode(msgspec.Struct, frozen=True, kw_only=True):
    """One node with GPUs, at a time."""

    cluster: str
    node: str
    machine: str
    models: Mapping[str, int]  # GPUs by model; an empty name: unknown
    chassis: tuple[str, ...]
    since: float  # Unix seconds; when the latest of its GPUs arrived

    @property
    def place(self) -> Place:
        """The node."""
        return Place(self.cluster, self.node)

    @property
    def gpus(self) -> int:
        """The number of its GPUs."""
        return sum(self.models.values())


class Stay(NamedTuple):
    """The stay of a GPU on a node (times in Unix seconds)."""

    place: Place
    since: float
    until: float | None  # None: it is still there


class PastHealthChange(NamedTuple):
    """One change of the health of one GPU."""

    time: float  # Unix seconds
    place: Place
    changes: tuple[FieldChange, ...]


class Past(Bounded):
    """The queries; all raise StoreError, including when they exceed a deadline. Times are Unix seconds."""

    @in_time
    async def begins(self) -> tuple[float | None, float]:
        """Return since when the history is complete (None: nothing is recorded yet), and the health of GPUs in it."""
        async with self._read() as connection:
            begins = await fact(connection, BEGINS)
            if begins is None:
                first = await connection.scalar(FIRST_CHANGE)
                begins = None if first is None else moment(first)
            return begins, await fact(connection, _HEALTH_BEGINS) or 0.0

    @in_time
    async def counts(self, time: float) -> dict[str, ClusterCount]:
        """Return the counts of each cluster that had GPUs."""
        async with self._read() as connection:
            counts = await count(connection, time)
            if await altered_after(connection, time):
                await count_as_then(connection, counts, time)
            return counts

    @in_time
    async def nodes(
        self, time: float, where: Mapping[str, Collection[str]] = {}, *, after: Place | None = None, limit: int = 1000
    ) -> list[PastNode]:
        """Return the nodes that had GPUs, by cluster and node; `where` and `after` as for `gpus`."""
        async with self._read() as connection:
            chosen = await _Chosen.of(connection, time, where)
            found: dict[Place, list[Row]] = {}
            while True:
                most = chosen.page(limit - len(found))
                begins = _FROM_START if after is None else tuple_(*_PLACE) > tuple_(*after)
                keys, there = await _next_nodes(connection, time, chosen, begins, most)
                rows = await self._rows_of(connection, time, keys, there, chosen.altered)
                found |= {place: here for place, here in rows.items() if any(map(chosen.admits, here))}
                if len(keys) < most or len(found) >= limit:
                    break
                after = keys[-1]
        return [_node(place, rows) for place, rows in itertools.islice(found.items(), limit)]

    async def _rows_of(
        self,
        connection: AsyncConnection,
        time: float,
        nodes: Sequence[Place],
        there: ColumnElement[bool],
        altered: bool,
    ) -> dict[Place, list[Row]]:
        """Return the placements of some nodes as of that time; `altered` means that some were different then."""
        found: dict[Place, list[Row]] = {key: [] for key in nodes}
        columns = select(*(_placements[name] for name in _NODE_COLUMNS)).where(there_at(time), there)
        rows = plain_rows(await connection.execute(columns))
        if altered:
            await as_then(connection, rows, time)
        for row in rows:
            found[_place(row)].append(row)
        return found

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

        `where` has the admitted values of columns. `after` is the position of the last one of the previous page. The
        time of the last reading is known only for the end of a placement, so `confirmed` may be later than `time`.
        """
        async with self._read() as connection:
            chosen = await _Chosen.of(connection, time, where)
            found: list[Row] = []
            async with aclosing(self._pages(connection, time, chosen, after, limit)) as pages:
                async for rows in pages:
                    found += rows
                    if len(found) >= limit:
                        break
        return [past_placement(row) for row in found[:limit]]

    @in_time
    async def count_gpus(self, time: float, where: Mapping[str, Collection[str]]) -> int:
        """Return how many GPUs `gpus` returns on all its pages."""
        async with self._read() as connection:
            chosen = await _Chosen.of(connection, time, where)
            if not chosen.doubtful:
                query = select(func.count()).select_from(schema.placements).where(there_at(time), *chosen.conditions)
                return await connection.scalar(_without_gpus(connection, query, where)) or 0
            return sum([len(rows) async for rows in self._pages(connection, time, chosen, None, _NAMES_PER_QUERY)])

    async def count_nodes(self, time: float, where: Mapping[str, Collection[str]]) -> int:
        """Return how many nodes `nodes` returns on all its pages."""
        if not await self._doubtful(time, where):
            return await self._count_nodes(time, where)
        found, after = 0, None
        while page := await self.nodes(time, where, after=after):
            found, after = found + len(page), page[-1].place
        return found

    @in_time
    async def _doubtful(self, time: float, where: Mapping[str, Collection[str]]) -> bool:
        async with self._read() as connection:
            return bool((await _Chosen.of(connection, time, where)).doubtful)

    @in_time
    async def _count_nodes(self, time: float, where: Mapping[str, Collection[str]]) -> int:
        async with self._read() as connection:
            nodes = select(*_key(connection)).select_from(schema.placements).where(there_at(time), *_conditions(where))
            distinct = _without_gpus(connection, nodes.distinct(), where).subquery()
            return await connection.scalar(select(func.count()).select_from(distinct)) or 0

    async def _pages(
        self, connection: AsyncConnection, time: float, chosen: "_Chosen", after: GpuPosition | None, limit: int
    ) -> AsyncGenerator[list[Row], None]:
        """Yield the placements of GPUs at that time in pages of limited size."""
        begins = _FROM_START if after is None else tuple_(*_PLACE) >= tuple_(after.cluster, after.node)
        nodes = chosen.page(limit) // _GPUS_OF_A_NODE + 1
        while True:
            keys, there = await _next_nodes(connection, time, chosen, begins, nodes)
            rows = await self._gpus_of(connection, time, keys, there, chosen)
            if after is not None:
                rows = list(itertools.dropwhile(functools.partial(_is_until, after), rows))
            yield list(filter(chosen.admits, rows)) if chosen.doubtful else rows
            if len(keys) < nodes:
                return
            begins, after = tuple_(*_PLACE) > tuple_(*keys[-1]), None

    async def _gpus_of(
        self,
        connection: AsyncConnection,
        time: float,
        nodes: Sequence[Place],
        there: ColumnElement[bool],
        chosen: "_Chosen",
    ) -> list[Row]:
        """Return the placements of GPUs on some nodes as of that time, in page order."""
        columns = [_placements[name] for name in PastPlacement.__struct_fields__ if name in _placements]
        here = and_(_nodes.cluster == _placements.cluster, _nodes.node == _placements.node, _placements.until.is_(None))
        query = (
            select(*columns, _nodes.read_at)
            .outerjoin_from(schema.placements, schema.nodes, here)
            .where(there_at(time), there, *chosen.conditions)
        )
        rows = plain_rows(await connection.execute(query))
        if chosen.altered:
            await as_then(connection, rows, time)
        order = {place: number for number, place in enumerate(nodes)}
        return sorted(rows, key=lambda row: (order[_place(row)], text(row["uuid"])))

    @in_time
    async def health_changes(self, time: float, uuids: Sequence[str]) -> dict[str, list[PastHealthChange]]:
        """Return the changes of these GPUs' health, by UUID, oldest first, that determine their state at that time.

        These are all changes since then, and earlier ones that decide whether errors were growing.
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
        """Return the stays of GPUs, oldest first, by UUID."""
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
        """Return the known current or last conditions of GPUs, by UUID."""
        async with self._read() as connection:
            return await recorded_conditions(connection, uuids)

    @in_time
    async def marks(self, time: float) -> Marks:
        """Return the marks active at that time, as not yet removed."""
        async with self._read() as connection:
            return Marks(await marks_at(connection, time))


class _Chosen(NamedTuple):
    """Selects placements by conditions in the store and, if fields have been altered since, by their earlier values."""

    where: Mapping[str, Collection[str]]  # the admitted values of columns
    conditions: list[ColumnElement[bool]]
    altered: bool  # some placement may have had other values
    doubtful: Mapping[str, Collection[str]]  # those of columns that may have been different

    @classmethod
    async def of(cls, connection: AsyncConnection, time: float, where: Mapping[str, Collection[str]]) -> "_Chosen":
        """Return the selection that admits the given values of each column."""
        altered = await altered_after(connection, time)
        doubtful = {name: where[name] for name in FACTS if name in where} if altered else {}
        if not doubtful:
            return cls(where, _conditions(where), altered, {})
        sure = {name: values for name, values in where.items() if name not in doubtful}
        otherwise = _placements.uuid.in_(uuids_of(time, doubtful))
        return cls(where, [*_conditions(sure), or_(and_(*_conditions(doubtful)), otherwise)], altered, doubtful)

    def page(self, wanted: int) -> int:
        """Return how many rows to request."""
        return max(wanted, _NAMES_PER_QUERY) if self.doubtful else wanted

    def admits(self, row: Row) -> bool:
        """Return whether a placement is admitted, as it was then."""
        return all(row[name] in values for name, values in self.doubtful.items())


async def note_beginning(database: Database, time: float) -> None:
    """Note that the history is complete only from a time (Unix seconds) on, unless a later one is already noted."""
    async with database.write() as connection:
        await note_latest(connection, database, BEGINS, time)


def _conditions(where: Mapping[str, Collection[str]]) -> list[ColumnElement[bool]]:
    conditions = []
    for name, values in where.items():
        wanted = sorted(map(canonical_uuid, values) if name == "uuid" else values)
        conditions.append(_placements[name] == wanted[0] if len(wanted) == 1 else _placements[name].in_(wanted))
    return conditions


def _key(connection: AsyncConnection) -> tuple[ColumnElement[Any], ...]:
    """Return the columns by which placements of a node are found: on SQLite, a column that only its view has."""
    return (literal_column("gpuid_placements.place", Integer),) if connection.dialect.name == "sqlite" else _PLACE


def _without_gpus(connection: AsyncConnection, query: Select[Any], where: Mapping[str, object]) -> Select[Any]:
    """Return a query of placements that on SQLite does not look for their GPUs, where it has no condition on these."""
    if connection.dialect.name != "sqlite" or not where.keys() <= {"cluster", "node"}:
        return query
    traverse: Any = replacement_traverse  # typed for a part of a query only
    return cast("Select[Any]", traverse(query, {}, _instead))


def _instead(part: Any, **_: object) -> Any:
    if part is schema.placements:
        return STAYS
    return STAYS.c[part.name] if isinstance(part, Column) and part.table is schema.placements else None


async def _next_nodes(
    connection: AsyncConnection, time: float, chosen: _Chosen, begins: ColumnElement[bool], limit: int
) -> tuple[list[Place], ColumnElement[bool]]:
    """Return the next nodes that had GPUs, by cluster and node, and the condition for the placements on them."""
    key = _key(connection)
    # SQLite would join all tables of the view if it ordered by the same columns as it selects.
    columns = _PLACE if key is _PLACE else (*_PLACE, *key)
    query = select(*columns).where(there_at(time), *chosen.conditions, begins).distinct().order_by(*_PLACE)
    found = (await connection.execute(_without_gpus(connection, query.limit(limit), chosen.where))).all()
    there = tuple_(*_PLACE).in_(list(map(tuple, found))) if key is _PLACE else key[0].in_([row[2] for row in found])
    return [Place(text(row[0]), text(row[1])) for row in found], there


def _place(row: Row) -> Place:
    return Place(text(row["cluster"]), text(row["node"]))


def _is_until(last: GpuPosition, row: Row) -> bool:
    """Return whether a row of the node of the last GPU of a page was on that page."""
    return _place(row) == (last.cluster, last.node) and text(row["uuid"]) <= last.uuid


def _node(place: Place, rows: Sequence[Row]) -> PastNode:
    models: dict[str, int] = {}
    for row in rows:
        model = text(row["model"])
        models[model] = models.get(model, 0) + 1
    return PastNode(
        cluster=place.cluster,
        node=place.node,
        machine=text(rows[0]["machine"]),
        models=models,
        chassis=tuple(sorted({text(row["chassis"]) for row in rows if row["chassis"]})),
        since=max(moment(row["since"]) for row in rows),
    )


_placements, _nodes, _changes = schema.placements.c, schema.nodes.c, schema.changes.c
_PLACE = (_placements.cluster, _placements.node)
_FROM_START = tuple_(*_PLACE) >= tuple_("", "")  # of all: or SQLite would find by time what it then has to sort
_NODE_COLUMNS = ("uuid", "cluster", "node", "machine", "since", "until", "last_known", *FIELDS)
