"""Reverts alterations of GPUs after a time: placements only have the current or last value of each field.

A placement keeps the last known value of each field, and the history keeps each alteration with the previous value. So
a field's value at a time is the previous value of the first alteration since. If that is "not reported", it is the last
one known by then, from an earlier alteration or the arrival of the GPU.

In most fleets no field of a placement is ever altered. So the store notes when that last happened (`LAST_ALTERED`), and
queries no alterations if that was earlier.
"""

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import anyio.to_thread
from sqlalchemy import ColumnElement, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.model import Event, FieldChange
from collector.store import schema
from collector.store.checkpoints import ClusterCount, there_at
from collector.store.database import Database
from collector.store.facts import fact, note_latest
from collector.store.history import plain_rows
from collector.store.plan import SEAT_COLUMNS
from collector.store.sound import moment, optional_text, sound_changes, text

__all__ = [
    "FACTS",
    "FIELDS",
    "LAST_ALTERED",
    "Row",
    "altered_after",
    "as_then",
    "count_as_then",
    "note_alterations",
    "note_altered",
    "uuids_of",
]

LAST_ALTERED = "last_altered"  # the fact with the time (Unix seconds) at which one of FIELDS was last altered; 0: never
FACTS = ("serial", "chassis", "model")  # these identify a GPU: changes have them too
FIELDS = (*FACTS, *SEAT_COLUMNS)
_UUIDS_PER_QUERY = 1000

Row = dict[str, Any]  # a placement, by column name


class _Altered(NamedTuple):
    time: float  # Unix seconds
    place: tuple[str, str]  # cluster and node
    changes: Mapping[str, FieldChange]  # by field; empty for an arrival
    facts: Mapping[str, str | None]  # by FACTS
    last_known: object  # as in the column


async def altered_after(connection: AsyncConnection, time: float) -> bool:
    """Return whether placements may have different field values than at a time (Unix seconds)."""
    last = await fact(connection, LAST_ALTERED)
    return last is None or last > time


async def note_altered(database: Database) -> None:
    """Note when a placement's GPU was last altered, in a store filled by an earlier version."""
    async with database.read() as connection:
        if await fact(connection, LAST_ALTERED) is not None:
            return
    async with database.write() as connection:
        last = await connection.scalar(select(func.max(_changes.time)).where(schema.NO_FIRST_SIGHT, _names(FIELDS)))
        await note_latest(connection, database, LAST_ALTERED, 0.0 if last is None else moment(last))


async def note_alterations(connection: AsyncConnection, database: Database, changes: Iterable[Row]) -> None:
    """Note when a placement's GPU was last altered, if changes that are about to be recorded do so."""
    times = (
        row["time"]
        for row in changes
        if row["event"] == Event.ALTERED and any(f'"{name}"' in (row["changes"] or "") for name in FIELDS)
    )
    if (last := max(times, default=None)) is not None:
        await note_latest(connection, database, LAST_ALTERED, last)


def uuids_of(time: float, fields: Collection[str]) -> Any:
    """Return the query for UUIDs of GPUs of which one of these fields was altered after a time (Unix seconds)."""
    return select(_changes.uuid).where(schema.NO_FIRST_SIGHT, _changes.time > time, _names(fields))


async def as_then(connection: AsyncConnection, rows: Sequence[Row], time: float) -> None:
    """Revert placements, with all columns, to a time (Unix seconds) at which all of them existed."""
    by_uuid: dict[str, list[Row]] = {}
    for row in rows:
        by_uuid.setdefault(text(row["uuid"]), []).append(row)
    uuids = await _altered(connection, by_uuid, time)
    said = await _said(connection, uuids)
    for uuid in uuids:
        for row in by_uuid[uuid]:
            _undo(row, said.get(uuid, ()), time)


async def count_as_then(connection: AsyncConnection, counts: Mapping[str, ClusterCount], time: float) -> None:
    """Adjust the counts of clusters at a time (Unix seconds) to the models that their GPUs had then."""
    first = and_(_changes.id == _first_after(time, "model"), there_at(time))
    first = and_(first, _placements.uuid.in_(uuids_of(time, ["model"])))
    what = (_placements.cluster, _placements.model, _changes.changes)
    groups = select(*what, func.count()).join_from(schema.placements, schema.changes, first).group_by(*what)
    unsaid = []
    for cluster, model, changes, gpus in await connection.execute(groups):
        before = next((one.before for one in sound_changes(changes) if one.field == "model"), None)
        if before is None:
            unsaid.append(changes)
        else:
            _count(counts, text(cluster), text(model), text(before), gpus)
    names = ("uuid", "cluster", "node", "since", "until", "last_known", *FIELDS)
    columns = select(*(_placements[name] for name in names)).join_from(schema.placements, schema.changes, first)
    for texts in _parts(unsaid):  # the model was not reported: use the last known one
        rows = plain_rows(await connection.execute(columns.where(_changes.changes.in_(texts))))
        for part in _parts(rows):
            now = [text(row["model"]) for row in part]
            await as_then(connection, part, time)
            for model, row in zip(now, part, strict=True):
                _count(counts, text(row["cluster"]), model, text(row["model"]), 1)


def _first_after(time: float, field: str) -> Any:
    """Return the query for the first alteration of a field of a placement's GPU after a time (Unix seconds)."""
    altered = schema.changes.alias().c
    here = and_(
        altered.uuid == _placements.uuid,
        altered.cluster == _placements.cluster,
        altered.node == _placements.node,
        altered.time > time,
        or_(_placements.until.is_(None), altered.time <= _placements.until),
        altered.event == Event.ALTERED.value,
        altered.changes.like(f'%"{field}"%'),
    )
    return select(altered.id).where(here).order_by(altered.time, altered.id).limit(1).scalar_subquery()


def _count(counts: Mapping[str, ClusterCount], cluster: str, now: str, then: str, gpus: int) -> None:
    """Count GPUs of a cluster under the model that they had then instead of their current one."""
    models = counts[cluster].models
    for model, more in ((now, -gpus), (then, gpus)):
        if left := models.pop(model, 0) + more:
            models[model] = left


async def _altered(connection: AsyncConnection, uuids: Iterable[str], time: float) -> list[str]:
    found: list[str] = []
    for part in _parts(sorted(uuids)):
        query = select(_changes.uuid).where(_changes.uuid.in_(part), _changes.time > time, _names(FIELDS)).distinct()
        found += map(text, await connection.scalars(query))
    return found


async def _said(connection: AsyncConnection, uuids: Sequence[str]) -> dict[str, list[_Altered]]:
    """Return the values of these GPUs' fields in changes, by UUID, oldest first."""
    names = ("uuid", "time", "cluster", "node", "event", "changes", "last_known", *FACTS)
    query = (
        select(*(_changes[name] for name in names))
        .where(_changes.event != Event.HEALTH.value)
        .order_by(_changes.time, _changes.id)
    )
    found: dict[str, list[_Altered]] = {}
    for part in _parts(uuids):
        rows = (await connection.execute(query.where(_changes.uuid.in_(part)))).all()
        for uuid, one in await anyio.to_thread.run_sync(lambda rows: [_decoded(row) for row in rows], rows):
            found.setdefault(uuid, []).append(one)
    return found


def _decoded(row: Any) -> tuple[str, _Altered]:
    uuid, time, cluster, node, event, changes, last_known, *facts = row
    fields = {one.field: one for one in sound_changes(changes)} if event == Event.ALTERED else {}
    known = dict(zip(FACTS, map(optional_text, facts), strict=True))
    return text(uuid), _Altered(moment(time), (text(cluster), text(node)), fields, known, last_known)


def _undo(row: Row, said: Iterable[_Altered], time: float) -> None:
    until = row["until"]
    place, since = (text(row["cluster"]), text(row["node"])), moment(row["since"])
    here = [one for one in said if one.place == place and since <= one.time and (until is None or one.time <= until)]
    before = [one for one in here if one.time <= time]
    since_then = [one for one in here if one.time > time and one.changes]
    for field in FIELDS:
        if (first := next((one.changes[field] for one in since_then if field in one.changes), None)) is not None:
            row[field] = optional_text(first.before) if first.before is not None else _last_known(field, before)
    if before and any(field in one.changes for one in since_then for field in FACTS):
        row["last_known"] = before[-1].last_known


def _last_known(field: str, before: Sequence[_Altered]) -> str | None:
    """Return the last known value of a field from changes, oldest first."""
    if field in FACTS:
        return before[-1].facts[field] if before else None
    values = (
        value
        for one in reversed(before)
        if field in one.changes
        for value in (one.changes[field].after, one.changes[field].before)
    )
    return next((optional_text(value) for value in values if value is not None), None)


def _names(fields: Collection[str]) -> ColumnElement[bool]:
    """Return the condition that a change alters one of these fields."""
    return and_(schema.ALTERED, or_(*(_changes.changes.like(f'%"{field}"%') for field in fields)))


def _parts(items: Sequence[Any]) -> Iterable[list[Any]]:
    iterator = iter(items)
    while part := list(itertools.islice(iterator, _UUIDS_PER_QUERY)):
        yield part


_placements, _changes = schema.placements.c, schema.changes.c
