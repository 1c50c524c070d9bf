"""Queries for changes: in either order, of one node or GPU, and first sights by day."""

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
    """One change of one GPU, as stored in the history."""

    id: int  # increases in the order of recording
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
    changes: tuple[FieldChange, ...] = ()  # altered fields
    last_known: tuple[LastReport, ...] = ()  # the fields whose values are only last known
    mark: str | None = None  # the kind of the GPU's mark when this was recorded
    first_sight: bool = False  # whether its node was unknown before


class HistoryChanges(Bounded):
    """Queries for changes; all raise StoreError, including when they exceed a deadline."""

    @in_time
    async def changes(
        self, wanted: ChangeFilter = ALL_CHANGES, *, after: int | None = None, limit: int = 1000
    ) -> list[HistoricChange]:
        """Return changes, oldest first; without `since` and `until`, in the order of recording.

        `after` is the id of the last change of the previous page. A client that polls for new changes gives no times:
        of two nodes read at about the same time, the later one may be recorded first.
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
                # A change that has been deleted was older than all that remain.
                if time is not None:
                    # Only the time determines where the engine starts to scan.
                    query = query.where(_changes.time >= time, tuple_(_changes.time, _changes.id) > tuple_(time, after))
            rows = (await connection.execute(query)).mappings().all()
        return [_change(row) for row in rows]

    @in_time
    async def latest_changes(
        self, wanted: ChangeFilter = ALL_CHANGES, *, before: ChangePosition | None = None, limit: int = 1000
    ) -> list[HistoricChange]:
        """Return the latest changes, newest first; `before` is where the previous page ended."""
        query: Select[Any] = select(schema.changes).order_by(_changes.time.desc(), _changes.id.desc()).limit(limit)
        if before is not None:
            query = query.where(
                _changes.time <= before.time, tuple_(_changes.time, _changes.id) < tuple_(before.time, before.id)
            )
        queries = [query.where(*conditions(wanted))]
        if wanted.cluster is not None and wanted.node is None:  # each by its own index, in index order
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

        Only the cluster and times of `wanted` are used. A cluster's first sights of a day are one row, which is omitted
        if the last of them was not before `before`. Days that ended before `since` (Unix seconds) are not searched; the
        last day may exceed `limit`.
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
        """Return the changes on some nodes between two times (Unix seconds, both inclusive), newest first."""
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
        """Return these GPUs' changes of health, newest first; only those before a time (Unix seconds), if given."""
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
