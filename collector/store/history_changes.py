"""The queries of what happened: changes in either order, of one node or GPU, and first sights by day."""

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from sqlalchemy import RowMapping, Select, select, tuple_

from collector.model import FieldChange, LastReport, Place
from collector.store import schema
from collector.store.bounded import Bounded, in_time
from collector.store.change_queries import (
    ALL_CHANGES,
    ChangeFilter,
    ChangePosition,
    conditions,
    day_of,
    sides_of,
)
from collector.store.first_sights import FirstSights, first_sights_of, newest_first_sights
from collector.store.sound import sound, sound_changes, sound_last_known, text

__all__ = ["HistoricChange", "HistoryChanges"]

_NAMES_PER_QUERY = 1000
_changes = schema.changes.c


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
    changes: tuple[FieldChange, ...] = ()  # what was altered
    last_known: tuple[LastReport, ...] = ()  # the fields whose values only earlier readings had
    mark: str | None = None  # the kind of the mark that it had when this was recorded
    first_sight: bool = False  # whether nothing was recorded of its node before


class HistoryChanges(Bounded):
    """The queries of changes; all raise StoreError, also when they are not answered by a deadline."""

    @in_time
    async def changes(
        self, wanted: ChangeFilter = ALL_CHANGES, *, after: int | None = None, limit: int = 1000
    ) -> list[HistoricChange]:
        """Return what happened, oldest first; without `since` and `until`, in the order in which it was recorded.

        `after` is the id of the last change of the page before. A client that polls for what is new gives no times: of
        two nodes read at the same time, the later one may be recorded first.
        """
        query: Select[Any] = select(schema.changes).limit(limit).where(*conditions(wanted))
        async with self._read() as connection:
            if wanted.since is None and wanted.until is None:
                query = query.order_by(_changes.id).where(_changes.id > (after or 0))
                after = None
            else:
                query = query.order_by(_changes.time, _changes.id)
            if after is not None:
                time = await connection.scalar(select(_changes.time).where(_changes.id == after))
                # A change that is forgotten by now was older than all that are left.
                if time is not None:
                    # Where the engine begins to look is said by the time alone.
                    query = query.where(_changes.time >= time, tuple_(_changes.time, _changes.id) > tuple_(time, after))
            rows = (await connection.execute(query)).mappings().all()
        return [_change(row) for row in rows]

    @in_time
    async def latest_changes(
        self, wanted: ChangeFilter = ALL_CHANGES, *, before: ChangePosition | None = None, limit: int = 1000
    ) -> list[HistoricChange]:
        """Return what happened last, newest first; `before` is where the part before this one ended."""
        query: Select[Any] = select(schema.changes).order_by(_changes.time.desc(), _changes.id.desc()).limit(limit)
        if before is not None:
            query = query.where(
                _changes.time <= before.time, tuple_(_changes.time, _changes.id) < tuple_(before.time, before.id)
            )
        queries = [query.where(*conditions(wanted))]
        if wanted.cluster is not None and wanted.node is None:  # each of the two by its own index, in its order
            others = conditions(msgspec.structs.replace(wanted, cluster=None))
            queries = [query.where(side, *others) for side in sides_of(wanted.cluster)]
        async with self._read() as connection:
            found = [_change(row) for one in queries for row in (await connection.execute(one)).mappings().all()]
        return found if len(queries) == 1 else sorted(found, key=_newest, reverse=True)[:limit]

    @in_time
    async def latest_first_sights(
        self,
        wanted: ChangeFilter = ALL_CHANGES,
        *,
        before: ChangePosition | None = None,
        since: float = 0.0,
        limit: int = 100,
    ) -> list[FirstSights]:
        """Return the first sights of nodes, one row for each cluster and day (in UTC), newest first.

        `wanted` chooses by its cluster and times alone. Those of a cluster are a row of their own as a whole: if the
        last one was not before `before`, it is left out. Those of days that ended before `since` (Unix seconds) are not
        looked for; of the last day there may be more than `limit` asks for.
        """
        found: list[FirstSights] = []
        end = None if before is None else day_of(before.time) + 1
        since = max(since, wanted.since or 0.0)
        async with self._read() as connection:
            while len(found) < limit:
                end = await newest_first_sights(connection, wanted, end)
                if end is None or end < day_of(since):
                    break
                of_day = await first_sights_of(connection, wanted, end)
                found += [one for one in of_day if before is None or one.position < before]
        return found

    @in_time
    async def changes_of_places(
        self, places: Collection[Place], events: Collection[str], *, since: float, until: float, limit: int = 10_000
    ) -> list[HistoricChange]:
        """Return what happened on some nodes between two times (Unix seconds, both included), newest first."""
        names = sorted({place.node for place in places})
        query: Select[Any] = select(schema.changes).order_by(_changes.time.desc(), _changes.id.desc()).limit(limit)
        query = query.where(_changes.event.in_(sorted(events)), _changes.time >= since, _changes.time <= until)
        found: list[HistoricChange] = []
        async with self._read() as connection:
            for start in range(0, len(names), _NAMES_PER_QUERY):
                of_names = query.where(_changes.node.in_(names[start : start + _NAMES_PER_QUERY]))
                found += map(_change, (await connection.execute(of_names)).mappings().all())
        return [one for one in found if Place(one.cluster, one.node) in places]

    @in_time
    async def health_changes(
        self, uuids: Sequence[str], *, before: float | None = None, limit: int = 1000
    ) -> list[HistoricChange]:
        """Return the changes of health of these GPUs, newest first: those before a time (Unix seconds), if given."""
        query = select(schema.changes).where(schema.HEALTH, _changes.uuid.in_(uuids))
        if before is not None:
            query = query.where(_changes.time < before)
        async with self._read() as connection:
            ordered = query.order_by(_changes.time.desc(), _changes.id.desc()).limit(limit)
            rows = (await connection.execute(ordered)).mappings().all()
        return [_change(row) for row in rows]


def _newest(change: HistoricChange) -> ChangePosition:
    return ChangePosition(change.time, change.id)


def _change(row: RowMapping) -> HistoricChange:
    fields = dict(row)
    cluster, node = fields.pop("previous_cluster"), fields.pop("previous_node")
    fields["changes"] = sound_changes(fields["changes"])
    fields["last_known"] = sound_last_known(fields["last_known"])
    return sound(HistoricChange, {**fields, "previous": None if cluster is None else Place(text(cluster), text(node))})
