"""Read-only queries for where GPUs were and what happened to them, even while another process records."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Self

import msgspec
from sqlalchemy import Column, ColumnElement, Result, TextClause, and_, func, or_, select, tuple_, union
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.health import Condition
from collector.model import FieldChange, LastReport, Place, canonical_uuid
from collector.store import schema
from collector.store.bounded import in_time
from collector.store.conditions import recorded_conditions
from collector.store.containing import contains
from collector.store.gone import GoneNode, gone_gpus, gone_nodes
from collector.store.history_changes import HistoricChange, HistoryChanges
from collector.store.history_lookup import HistoryLookup
from collector.store.sound import moment, sound, sound_changes, sound_last_known, text

__all__ = [
    "MAX_ALTERATIONS",
    "Alteration",
    "HistoricChange",
    "History",
    "PastPlacement",
    "Position",
    "Seat",
    "past_placement",
    "plain_rows",
]

MAX_ALTERATIONS = 20  # of one placement, newest first


class Position(NamedTuple):
    """The position at which a page of placements ended; it stays valid when placements end or are deleted."""

    present: bool
    since: float
    id: int

    def __str__(self) -> str:
        """Return the text with which to request the next page."""
        return f"{'present' if self.present else 'past'}-{self.since!r}-{self.id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the position written by `str`; raises ValueError."""
        if (found := _POSITION.fullmatch(text)) is None:
            raise ValueError("expected the `next` value of the previous page")
        return cls(found[1] == "present", float(found[2]), int(found[3]))


class Alteration(NamedTuple):
    """A GPU's fields altered by a reading, and when (Unix seconds)."""

    time: float
    changes: tuple[FieldChange, ...]


class PastPlacement(msgspec.Struct, frozen=True, kw_only=True):
    """The stay of one GPU on one node; times are Unix seconds."""

    id: int
    uuid: str
    serial: str | None
    model: str | None
    chassis: str | None
    cluster: str
    node: str
    machine: str
    since: float
    until: float | None  # None while it is there
    confirmed: float  # when it was last read there
    last_known: tuple[LastReport, ...] = ()  # the fields whose values are only last known
    altered: tuple[Alteration, ...] = ()  # while it was there, newest first; at most MAX_ALTERATIONS
    health_changes: tuple[Alteration, ...] = ()  # likewise
    tray: str | None = None  # its position in the machine, or its last one, as far as recorded
    slot: str | None = None
    module: str | None = None
    pci_bus_id: str | None = None

    @property
    def position(self) -> Position:
        """Its position in the order of all placements."""
        return Position(self.until is None, self.since, self.id)


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU's position in its node from some time on, as far as reported by the hardware."""

    uuid: str
    cluster: str
    node: str
    since: float  # Unix seconds
    tray: str | None
    slot: str | None
    module: str | None
    pci_bus_id: str | None

    @property
    def place(self) -> Place:
        """The node."""
        return Place(self.cluster, self.node)

    @property
    def facts(self) -> dict[str, str | None]:
        """The position, by the names of a GPU's fields."""
        return {name: getattr(self, name) for name in ("tray", "slot", "module", "pci_bus_id")}


class History(HistoryChanges, HistoryLookup):
    """The queries; all raise StoreError, including when they exceed a deadline."""

    @in_time
    async def where(self, term: str, *, after: Position | None = None, limit: int = 1000) -> list[PastPlacement]:
        """Return every placement of the GPUs with this UUID (in either case), serial or chassis.

        Current ones come first, then the newest. `after` is the position of the last one of the previous page.
        """
        uuid = canonical_uuid(term)
        matches = (
            select(_placements.id).where(column == value)
            for column, value in ((_placements.uuid, uuid), (_placements.serial, term), (_placements.chassis, term))
        )
        return await self._placements(_placements.id.in_(union(*matches)), after, limit)

    @in_time
    async def node(
        self, node: str, cluster: str | None = None, *, after: Position | None = None, limit: int = 1000
    ) -> list[PastPlacement]:
        """Return all placements on a node, or on the nodes of that name in every cluster, in the order of `where`."""
        condition = _placements.node == node
        if cluster is not None:
            condition &= _placements.cluster == cluster
        return await self._placements(condition, after, limit)

    @in_time
    async def left(self, node: str, *, limit: int = 1000) -> list[PastPlacement]:
        """Return the last ended placement on each node of this name, newest first."""
        return await self._last_ended(_placements.node == node, (_placements.cluster, _placements.node), limit)

    @in_time
    async def left_like(self, part: str, *, limit: int = 1000) -> list[PastPlacement]:
        """Return the same as `left` for nodes whose name or machine contains a text, in any case; scans the history."""
        condition = _contains(part, _placements.node, _placements.machine)
        return await self._last_ended(condition, (_placements.cluster, _placements.node), limit)

    @in_time
    async def where_like(self, part: str, *, limit: int = 1000) -> list[PastPlacement]:
        """Return GPUs that left a node and whose UUID, serial or chassis contains a text, in any case.

        Returns the last such placement of each, newest first; scans the whole history.
        """
        condition = _contains(part, _placements.uuid, _placements.serial, _placements.chassis)
        return await self._last_ended(condition, (_placements.uuid,), limit)

    @in_time
    async def left_from(self, place: Place, *, limit: int = 1000) -> list[PastPlacement]:
        """Return the ended placements on a node, latest departure first."""
        condition = and_(
            _placements.cluster == place.cluster, _placements.node == place.node, _placements.until.is_not(None)
        )
        return await self._placements(condition, None, limit, order=(_placements.until.desc(), _placements.id.desc()))

    @in_time
    async def left_chassis(self, chassis: str, *, limit: int = 1000) -> list[PastPlacement]:
        """Return the ended placements in a chassis, latest departure first."""
        condition = and_(_placements.chassis == chassis, _placements.until.is_not(None))
        return await self._placements(condition, None, limit, order=(_placements.until.desc(), _placements.id.desc()))

    @in_time
    async def by_number(self, ids: Sequence[int]) -> list[PastPlacement]:
        """Return the placements with these ids, in the order of `where`."""
        return await self._placements(_placements.id.in_(ids), None, len(ids))

    @in_time
    async def gone(
        self, where: Mapping[str, Collection[str]], *, after: str | None = None, limit: int = 1000
    ) -> list[PastPlacement]:
        """Return the last placement of each GPU that is on no node, in order of UUID.

        `where` has the admitted values of columns. `after` is the last UUID of the previous page.
        """
        return await self._placements(gone_gpus(where, after), None, limit, order=(_placements.uuid,))

    @in_time
    async def gone_nodes(
        self, where: Mapping[str, Collection[str]], *, after: Place | None = None, limit: int = 1000
    ) -> list[GoneNode]:
        """Return the nodes that had GPUs and no longer have any, by cluster and node."""
        async with self._read() as connection:
            rows = (await connection.execute(gone_nodes(where, after, limit))).mappings().all()
        return [
            GoneNode(
                Place(text(row["cluster"]), text(row["node"])),
                text(row["machine"]),
                moment(row["until"]),
                None if row["confirmed"] is None else moment(row["confirmed"]),
            )
            for row in rows
        ]

    @in_time
    async def conditions(self, uuids: Collection[str]) -> dict[str, Condition]:
        """Return the known conditions of GPUs at their last reading, by UUID."""
        async with self._read() as connection:
            return await recorded_conditions(connection, uuids)

    @in_time
    async def seats(self, uuids: Collection[str]) -> list[Seat]:
        """Return every position that some GPUs ever had."""
        asked, columns = sorted(uuids), [_placements[name] for name in Seat.__struct_fields__]
        found: list[Seat] = []
        async with self._read() as connection:
            for start in range(0, len(asked), _IDS_PER_QUERY):
                query = select(*columns).where(_placements.uuid.in_(asked[start : start + _IDS_PER_QUERY]))
                found += [sound(Seat, dict(row)) for row in (await connection.execute(query)).mappings()]
        return found

    async def _last_ended(
        self, condition: ColumnElement[bool], of: Sequence[Column[Any]], limit: int
    ) -> list[PastPlacement]:
        last_first = (_placements.until.desc(), _placements.id.desc())
        ended = select(_placements.id, _placements.until, *of).where(_placements.until.is_not(None), condition)
        # Found first and ranked afterwards: otherwise SQLite would scan all rows in the order of the ranks' index.
        found_first = ended.cte("ended").prefix_with("MATERIALIZED").c
        order_of_rank = (found_first.until.desc(), found_first.id.desc())
        rank = func.row_number().over(partition_by=[found_first[column.key] for column in of], order_by=order_of_rank)
        ranked = select(found_first.id, found_first.until, rank.label("rank")).subquery().c
        ids = select(ranked.id).where(ranked.rank == 1).order_by(ranked.until.desc(), ranked.id.desc()).limit(limit)
        # A separate query: engines overestimate how many rows contain a text.
        async with self._read() as connection:
            found = (await connection.scalars(ids)).all()
        return await self._placements(_placements.id.in_(found), None, limit, order=last_first)

    async def _placements(
        self,
        condition: ColumnElement[bool],
        after: Position | None,
        limit: int,
        *,
        order: Sequence[ColumnElement[Any]] = (),
    ) -> list[PastPlacement]:
        """Return placements, in the order of `where` unless another is given; `after` requires that order."""
        columns = [_placements[name] for name in PastPlacement.__struct_fields__ if name in _placements]
        here = and_(_nodes.cluster == _placements.cluster, _nodes.node == _placements.node, _placements.until.is_(None))
        query = (
            select(*columns, _nodes.read_at)
            .outerjoin_from(schema.placements, schema.nodes, here)
            .where(condition)
            .order_by(*order or (_placements.until.is_not(None), _placements.since.desc(), _placements.id.desc()))
            .limit(limit)
        )
        if after is not None:
            past = _placements.until.is_not(None)
            later = tuple_(_placements.since, _placements.id) < tuple_(after.since, after.id)
            query = query.where(past | later if after.present else past & later)
        async with self._read() as connection:
            rows = plain_rows(await connection.execute(query))
            altered = await _alterations(connection, rows, schema.ALTERED)
            health = await _alterations(connection, rows, schema.HEALTH)
        return [past_placement(row, altered.get(row["id"], ()), health.get(row["id"], ())) for row in rows]


_IDS_PER_QUERY = 1000
_POSITION = re.compile(r"(present|past)-(\d{1,15}(?:\.\d{1,20})?)-(\d{1,18})", re.ASCII)
_placements, _nodes, _changes = schema.placements.c, schema.nodes.c, schema.changes.c


def _contains(part: str, *columns: ColumnElement[Any]) -> ColumnElement[bool]:
    return or_(*(contains(column, part) for column in columns))


async def _alterations(
    connection: AsyncConnection, placements: Sequence[Mapping[str, Any]], event: TextClause
) -> dict[int, tuple[Alteration, ...]]:
    """Return the alterations during some placements by events of this kind, by placement id."""
    if not placements:
        return {}
    during = and_(
        _changes.uuid == _placements.uuid,
        _changes.cluster == _placements.cluster,
        _changes.node == _placements.node,
        _changes.time >= _placements.since,
        or_(_placements.until.is_(None), _changes.time <= _placements.until),
        event,
        _changes.changes.is_not(None),
    )
    newest = func.row_number().over(partition_by=_placements.id, order_by=(_changes.time.desc(), _changes.id.desc()))
    found: dict[int, tuple[Alteration, ...]] = {}
    ids = [row["id"] for row in placements]
    for start in range(0, len(ids), _IDS_PER_QUERY):
        ranked = (
            select(_placements.id, _changes.time, _changes.changes, newest.label("rank"))
            .join_from(schema.placements, schema.changes, during)
            .where(_placements.id.in_(ids[start : start + _IDS_PER_QUERY]))
            .subquery()
            .c
        )
        query = select(ranked.id, ranked.time, ranked.changes).where(ranked.rank <= MAX_ALTERATIONS)
        for id_, time, changes in await connection.execute(query.order_by(ranked.rank)):
            found[id_] = (*found.get(id_, ()), Alteration(moment(time), sound_changes(changes)))
    return found


def plain_rows(found: Result[Any]) -> list[dict[str, Any]]:
    """Return rows as dicts by column name; SQLAlchemy's own mappings are several times slower."""
    names = list(map(str, found.keys()))
    return [dict(zip(names, row, strict=True)) for row in found]


def past_placement(
    row: Mapping[str, Any], altered: tuple[Alteration, ...] = (), health: tuple[Alteration, ...] = ()
) -> PastPlacement:
    """Return a placement with when its node was last read; damaged values are omitted."""
    fields = dict(row)
    fields["last_known"] = sound_last_known(fields["last_known"])
    times = (fields["since"], fields.pop("confirmed"), fields.pop("read_at"))
    confirmed = max(moment(time) for time in times)
    return sound(PastPlacement, {**fields, "altered": altered, "health_changes": health, "confirmed": confirmed})
