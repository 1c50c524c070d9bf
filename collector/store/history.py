"""The queries of where GPUs were and what happened to them; they only read, also while another process records."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import msgspec
from sqlalchemy import ColumnElement, RowMapping, Select, and_, func, or_, select, tuple_, union

from collector.model import Place, canonical_uuid
from collector.store import schema
from collector.store.database import Database
from collector.store.sound import moment, sound, text

__all__ = ["HistoricChange", "History", "PastPlacement", "Position"]


class Position(NamedTuple):
    """Where a page of placements ended; it stays where it is when placements end or are forgotten meanwhile."""

    present: bool
    since: float
    id: int

    def __str__(self) -> str:
        """Return it as text, to be given back for the next page."""
        return f"{'present' if self.present else 'past'}-{self.since!r}-{self.id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the position that `str` wrote; raises ValueError."""
        if (found := _POSITION.fullmatch(text)) is None:
            raise ValueError("expected the `next` value of the previous page")
        return cls(found[1] == "present", float(found[2]), int(found[3]))


class PastPlacement(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU on one node from when to when; times are Unix seconds."""

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

    @property
    def position(self) -> Position:
        """Where it stands among all placements."""
        return Position(self.until is None, self.since, self.id)


class HistoricChange(msgspec.Struct, frozen=True, kw_only=True):
    """One change of one GPU, as the history holds it."""

    id: int  # grows in the order in which changes were recorded
    time: float
    event: str
    uuid: str
    serial: str | None
    model: str | None
    chassis: str | None
    cluster: str
    node: str
    machine: str
    source: str
    previous: Place | None


class History:
    """The queries; all raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def where(self, term: str, *, after: Position | None = None, limit: int = 1000) -> list[PastPlacement]:
        """Return every placement of the GPUs with this UUID (in either case) or serial, or in this chassis.

        The present ones come first, then the newest. `after` is the position of the last one of the page before.
        """
        uuid = canonical_uuid(term)
        matches = (
            select(_placements.id).where(column == value)
            for column, value in ((_placements.uuid, uuid), (_placements.serial, term), (_placements.chassis, term))
        )
        return await self._placements(_placements.id.in_(union(*matches)), after, limit)

    async def node(
        self, node: str, cluster: str | None = None, *, after: Position | None = None, limit: int = 1000
    ) -> list[PastPlacement]:
        """Return all that was in a node, or in the nodes of that name of every cluster, in the order of `where`."""
        condition = _placements.node == node
        if cluster is not None:
            condition &= _placements.cluster == cluster
        return await self._placements(condition, after, limit)

    async def left(self, node: str, *, limit: int = 1000) -> list[PastPlacement]:
        """Return the last ended placement in each node of this name that some GPU left, the newest first."""
        return await self._last_ended(_placements.node == node, (_placements.cluster, _placements.node), limit)

    async def left_like(self, part: str, *, limit: int = 1000) -> list[PastPlacement]:
        """Return what `left` does for nodes whose name or machine contains a text, in any case; scans the history."""
        condition = _contains(part, _placements.node, _placements.machine)
        return await self._last_ended(condition, (_placements.cluster, _placements.node), limit)

    async def where_like(self, part: str, *, limit: int = 1000) -> list[PastPlacement]:
        """Return GPUs that left a node and whose UUID, serial or chassis contains a text, in any case.

        Returns the last such placement of each, the newest first; scans the whole history.
        """
        condition = _contains(part, _placements.uuid, _placements.serial, _placements.chassis)
        return await self._last_ended(condition, (_placements.uuid,), limit)

    async def left_from(self, place: Place, *, limit: int = 1000) -> list[PastPlacement]:
        """Return what was in a node and no longer is, the last to leave first."""
        condition = and_(
            _placements.cluster == place.cluster, _placements.node == place.node, _placements.until.is_not(None)
        )
        return await self._placements(condition, None, limit, order=(_placements.until.desc(), _placements.id.desc()))

    async def changes(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        cluster: str | None = None,
        after: int | None = None,
        limit: int = 1000,
    ) -> list[HistoricChange]:
        """Return what happened from `since` on and before `until`, oldest first; without either, as it was recorded.

        `cluster` chooses what happened in it or led out of it. `after` is the id of the last change of the page before.
        A client that polls for what is new passes it alone: of two nodes read at the same time, the later one may be
        recorded first.
        """
        query: Select[Any] = select(schema.changes).limit(limit)
        if until is not None:
            query = query.where(_changes.time < until)
        if cluster is not None:
            query = query.where(or_(_changes.cluster == cluster, _changes.previous_cluster == cluster))
        async with self._database.read() as connection:
            if since is None and until is None:
                query = query.order_by(_changes.id).where(_changes.id > (after or 0))
                after = None
            else:
                query = query.order_by(_changes.time, _changes.id)
            if after is not None:
                time = await connection.scalar(select(_changes.time).where(_changes.id == after))
                # A change that is forgotten by now was older than all that are left.
                if time is not None:
                    query = query.where(tuple_(_changes.time, _changes.id) > tuple_(time, after))
                    since = max(time, time if since is None else since)  # where the engine begins to look
            if since is not None:
                query = query.where(_changes.time >= since)
            rows = (await connection.execute(query)).mappings().all()
        return [_change(row) for row in rows]

    async def latest_changes(
        self, *, event: str | None = None, cluster: str | None = None, before: int | None = None, limit: int = 1000
    ) -> list[HistoricChange]:
        """Return what happened last, newest first; `before` is the id of the last change of the page before."""
        query: Select[Any] = select(schema.changes).order_by(_changes.time.desc(), _changes.id.desc()).limit(limit)
        if event is not None:
            query = query.where(_changes.event == event)
        if cluster is not None:
            query = query.where(or_(_changes.cluster == cluster, _changes.previous_cluster == cluster))
        async with self._database.read() as connection:
            if before is not None:
                time = await connection.scalar(select(_changes.time).where(_changes.id == before))
                if time is None:  # it is forgotten by now, and with it all that was older
                    return []
                query = query.where(_changes.time <= time, tuple_(_changes.time, _changes.id) < tuple_(time, before))
            rows = (await connection.execute(query)).mappings().all()
        return [_change(row) for row in rows]

    async def _last_ended(
        self, condition: ColumnElement[bool], of: Sequence[ColumnElement[Any]], limit: int
    ) -> list[PastPlacement]:
        last_first = (_placements.until.desc(), _placements.id.desc())
        rank = func.row_number().over(partition_by=of, order_by=last_first)
        ended = select(_placements.id, _placements.until, rank.label("rank"))
        ranked = ended.where(_placements.until.is_not(None), condition).subquery().c
        ids = select(ranked.id).where(ranked.rank == 1).order_by(ranked.until.desc(), ranked.id.desc()).limit(limit)
        # A query of its own: engines mistake how few rows a text is in.
        async with self._database.read() as connection:
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
        """Return placements, in the order of `where` unless another is given; `after` needs that order."""
        columns = [_placements[name] for name in PastPlacement.__struct_fields__]
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
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return [_placement(row) for row in rows]


_POSITION = re.compile(r"(present|past)-(\d{1,15}(?:\.\d{1,20})?)-(\d{1,18})", re.ASCII)
_placements, _nodes, _changes = schema.placements.c, schema.nodes.c, schema.changes.c


def _contains(part: str, *columns: ColumnElement[Any]) -> ColumnElement[bool]:
    return or_(*(column.icontains(part, autoescape=True) for column in columns))


def _placement(row: RowMapping) -> PastPlacement:
    fields = dict(row)
    times = (fields["since"], fields.pop("confirmed"), fields.pop("read_at"))
    return sound(PastPlacement, {**fields, "confirmed": max(moment(time) for time in times)})


def _change(row: RowMapping) -> HistoricChange:
    fields = dict(row)
    cluster, node = fields.pop("previous_cluster"), fields.pop("previous_node")
    return sound(HistoricChange, {**fields, "previous": None if cluster is None else Place(text(cluster), text(node))})
