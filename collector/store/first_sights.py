"""Counts the GPUs of nodes read for the first time, by cluster and day, as they are recorded.

A fleet of half a million GPUs may be read for the first time within a day; every page shows that in a row or two.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Select, and_, delete, distinct, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.store import schema
from collector.store.change_queries import DAY_SECONDS, ChangeFilter, ChangePosition, conditions, day_of
from collector.store.sound import moment, text

__all__ = ["FirstSights", "add_first_sights", "first_sights_of", "newest_first_sights", "recount_first_sights"]


class FirstSights(NamedTuple):
    """The GPUs on one cluster's nodes that were first seen on one day (UTC)."""

    cluster: str
    node: str  # one of them
    nodes: int
    gpus: int
    since: float  # Unix seconds
    position: ChangePosition  # of the last GPU


_changes, _counted = schema.changes.c, schema.first_sights.c
_COLUMNS = (
    _counted.cluster,
    _counted.node,
    _counted.nodes,
    _counted.gpus,
    _counted.since,
    _counted.until,
    _counted.last,
)


async def add_first_sights(connection: AsyncConnection, rows: Iterable[Mapping[str, Any]], after: int) -> None:
    """Count the first sights among just inserted changes, whose ids are above `after`."""
    new: dict[int, set[str]] = {}
    for row in rows:
        if row["first_sight"]:
            new.setdefault(day_of(row["time"]), set()).add(row["cluster"])
    for day, clusters in new.items():
        there = select(*_COLUMNS).where(_counted.day == day)
        known = {row[0]: row for row in await connection.execute(there) if row[0] in clusters}
        added = (await connection.execute(_count(day).where(_changes.id > after))).all()
        sums = [_sum(row, known[row[0]]) if row[0] in known else tuple(row) for row in added]
        here = and_(_counted.day == day, _counted.cluster.in_(sorted(known)))
        if known:
            await connection.execute(delete(schema.first_sights).where(here))
        await connection.execute(insert(schema.first_sights), [_row(day, one) for one in sums])


async def recount_first_sights(connection: AsyncConnection, before: float) -> None:
    """Recount the days up to a time (Unix seconds), after changes of them were deleted."""
    old = _counted.day <= day_of(before)
    days = (await connection.scalars(select(_counted.day).where(old).distinct())).all()
    await connection.execute(delete(schema.first_sights).where(old))
    for day in days:
        rows = [_row(day, tuple(row)) for row in await connection.execute(_count(day))]
        if rows:
            await connection.execute(insert(schema.first_sights), rows)


async def newest_first_sights(connection: AsyncConnection, wanted: ChangeFilter, end: int | None) -> int | None:
    """Return the last day before `end`, counted from 1970, that may have matching first sights."""
    query = select(func.max(_counted.day))
    if wanted.cluster is not None:
        query = query.where(_counted.cluster == wanted.cluster)
    if end is not None:
        query = query.where(_counted.day < end)
    if wanted.until is not None:
        query = query.where(_counted.day * DAY_SECONDS < wanted.until)
    found = await connection.scalar(query)
    return found if isinstance(found, int) else None


async def first_sights_of(connection: AsyncConnection, wanted: ChangeFilter, day: int) -> list[FirstSights]:
    """Return the first sights of a day, newest first; only the cluster and times of `wanted` are used."""
    start, end = day * DAY_SECONDS, (day + 1) * DAY_SECONDS
    if (wanted.since is None or wanted.since <= start) and (wanted.until is None or end <= wanted.until):
        query: Select[Any] = select(*_COLUMNS).where(_counted.day == day)
        if wanted.cluster is not None:
            query = query.where(_counted.cluster == wanted.cluster)
    else:
        times = msgspec.structs.replace(wanted, cluster=None)
        query = _count(day).where(*conditions(times))
        if wanted.cluster is not None:
            query = query.where(_changes.cluster == wanted.cluster)
    found = [_first_sights(*row) for row in await connection.execute(query)]
    return sorted(found, key=lambda one: one.position, reverse=True)


def _count(day: int) -> Select[Any]:
    return (
        select(
            _changes.cluster,
            func.min(_changes.node),
            func.count(distinct(_changes.node)),
            func.count(),
            func.min(_changes.time),
            func.max(_changes.time),
            func.max(_changes.id),
        )
        .where(schema.FIRST_SIGHT, _changes.time >= day * DAY_SECONDS, _changes.time < (day + 1) * DAY_SECONDS)
        .group_by(_changes.cluster)
    )


def _sum(one: Sequence[Any], other: Sequence[Any]) -> tuple[Any, ...]:
    cluster, node, nodes, gpus, since, until, last = one
    return (
        cluster,
        min(node, text(other[1])),
        nodes + _number(other[2]),
        gpus + _number(other[3]),
        min(since, moment(other[4])),
        max(until, moment(other[5])),
        max(last, _number(other[6])),
    )


def _row(day: int, values: Sequence[Any]) -> dict[str, Any]:
    return {"day": day} | {column.name: value for column, value in zip(_COLUMNS, values, strict=True)}


def _first_sights(cluster: Any, node: Any, nodes: Any, gpus: Any, since: Any, until: Any, last: Any) -> FirstSights:
    position = ChangePosition(moment(until), _number(last))
    return FirstSights(text(cluster), text(node), _number(nodes), _number(gpus), moment(since), position)


def _number(value: object) -> int:
    """Return a column's number; in a damaged SQLite file the column may hold anything."""
    return value if isinstance(value, int) else 0
