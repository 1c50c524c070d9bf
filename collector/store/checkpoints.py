"""Counts GPUs by place at any time: from stored counts at some times, and placements begun and ended since.

Counting a fleet's placements takes time proportional to its size. So a collector stores the counts once every
`EVENTS_PER_CHECKPOINT` beginnings or ends of placements, and any other time is counted from the checkpoint before it.
They are derived from the placements alone: a commit that concerns an earlier time deletes the later ones, and they are
created again.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, and_, delete, func, literal, or_, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from collector.store import schema
from collector.store.database import Database
from collector.store.sound import moment, text

__all__ = ["ClusterCount", "count", "forget", "keep", "recount_from", "there_at"]

EVENTS_PER_CHECKPOINT = 1000  # beginnings or ends of placements
LATE_SECONDS = 900.0  # the most recent period, without checkpoints, because readings of that time may still be recorded


class ClusterCount(msgspec.Struct, array_like=True):
    """What a cluster had at a time."""

    nodes: int = 0  # with GPUs
    models: dict[str, int] = {}  # GPUs by model; an empty name: unknown

    @property
    def gpus(self) -> int:
        """The number of GPUs."""
        return sum(self.models.values())


Counts = dict[str, ClusterCount]  # by cluster; only those with GPUs


def there_at(time: float) -> Any:
    """Return the condition that a placement existed at this time (Unix seconds)."""
    return and_(_placements.since <= time, or_(_placements.until.is_(None), _placements.until > time))


async def count(connection: AsyncConnection, time: float) -> Counts:
    """Return each cluster's counts at a time (Unix seconds), by the models that placements have now."""
    query = select(_checkpoints.time, _checkpoints.counts).where(_checkpoints.time <= time)
    row = (await connection.execute(query.order_by(_checkpoints.time.desc()).limit(1))).first()
    found, since = ({}, -1.0) if row is None else (_decoded(row[1]), moment(row[0]))
    if found is None:  # it is damaged
        found, since = {}, -1.0
    if since < time:
        await _add_gpus(connection, found, since, time)
        await _add_nodes(connection, found, since, time)
    return {cluster: one for cluster, one in found.items() if one.gpus}


async def keep(database: Database, now: float, *, events: int = EVENTS_PER_CHECKPOINT, most: int = 100) -> int:
    """Create the checkpoints due at `now` (Unix seconds), up to a limit; return how many. Raises StoreError.

    Each is a separate transaction, during which no other process records.
    """
    for made in range(most):
        async with database.read() as connection:
            if await _due(connection, now, events) is None:
                return made
        async with database.write() as connection:
            if (time := await _due(connection, now, events)) is not None:
                await _keep_at(connection, database, time)
    return most


async def forget(database: Database, before: float) -> None:
    """Delete the checkpoints before a time (Unix seconds), whose placements are about to be deleted."""
    async with database.write() as connection:
        await _keep_at(connection, database, before)
        await connection.execute(delete(schema.checkpoints).where(_checkpoints.time < before))


async def recount_from(connection: AsyncConnection, time: float) -> None:
    """Delete the checkpoints from a time (Unix seconds) on, which a commit makes invalid."""
    await connection.execute(delete(schema.checkpoints).where(_checkpoints.time >= time))


async def _keep_at(connection: AsyncConnection, database: Database, time: float) -> None:
    counts = _encode(await count(connection, time))
    statement = database.insert(schema.checkpoints).values(time=time, counts=counts)
    await connection.execute(statement.on_conflict_do_nothing(index_elements=["time"]))


async def _due(connection: AsyncConnection, now: float, events: int) -> float | None:
    """Return the time of the next checkpoint; None while too little has happened since the last one."""
    since = await connection.scalar(select(func.max(_checkpoints.time)))
    times = []
    for column in (_placements.since, _placements.until):
        query = select(column).order_by(column).offset(events - 1).limit(1)
        times.append(await connection.scalar(query.where(column > (-1.0 if since is None else since))))
    due = min((time for time in times if time is not None), default=None)
    return due if due is not None and due <= now - LATE_SECONDS else None


def _events(column: ColumnElement[Any], since: float, time: float) -> ReadOnlyColumnCollection[str, Any]:
    """Return the placements begun (`n` is 1) and ended (-1) after `since` up to `time`: cluster and this column."""
    began = select(_placements.cluster, column, literal(1).label("n")).where(
        _placements.since > since, _placements.since <= time
    )
    ended = select(_placements.cluster, column, literal(-1).label("n")).where(
        _placements.until > since, _placements.until <= time
    )
    return union_all(began, ended).subquery().c


async def _add_gpus(connection: AsyncConnection, counts: Counts, since: float, time: float) -> None:
    """Add to counts the placements begun after `since` up to `time`, minus those ended."""
    event = _events(_placements.model, since, time)
    query = select(event.cluster, event.model, func.sum(event.n)).group_by(event.cluster, event.model)
    for cluster, model, number in await connection.execute(query):
        models = counts.setdefault(text(cluster), ClusterCount()).models
        if left := models.pop(text(model), 0) + number:
            models[text(model)] = left


async def _add_nodes(connection: AsyncConnection, counts: Counts, since: float, time: float) -> None:
    """Add to counts the nodes that have a GPU at `time` but had none at `since`, minus the reverse."""
    event = _events(_placements.node, since, time)
    other = schema.placements.alias()
    here = select(func.count()).where(
        other.c.cluster == event.cluster,
        other.c.node == event.node,
        other.c.since <= time,
        or_(other.c.until.is_(None), other.c.until > time),
    )
    query = select(event.cluster, func.sum(event.n), here.scalar_subquery()).group_by(event.cluster, event.node)
    for cluster, added, number in await connection.execute(query):
        found = counts.setdefault(text(cluster), ClusterCount())
        found.nodes += (number > 0) - (number - added > 0)


def _decoded(written: object) -> Counts | None:
    try:
        return _decode(written)  # type: ignore[arg-type]  # a column of SQLite may hold anything
    except (msgspec.MsgspecError, RecursionError, TypeError, ValueError):
        return None


def _encode(counts: Mapping[str, ClusterCount]) -> bytes:
    return msgspec.msgpack.encode(counts)


_decode = msgspec.msgpack.Decoder(Counts).decode
_placements, _checkpoints = schema.placements.c, schema.checkpoints.c
