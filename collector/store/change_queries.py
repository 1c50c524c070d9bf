"""Which changes of the history are wanted, as conditions on its table; and the first sights of nodes, by day."""

from collections.abc import Collection
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Select, and_, distinct, func, or_, select, tuple_

from collector.model import canonical_uuid
from collector.store import schema

__all__ = [
    "ALL_CHANGES",
    "DAY_SECONDS",
    "ChangeFilter",
    "ChangePosition",
    "FirstSights",
    "conditions",
    "day_of",
    "first_sights",
]

DAY_SECONDS = 86400


class ChangePosition(NamedTuple):
    """Where a part of the changes, newest first, ended."""

    time: float  # Unix seconds
    id: int


class ChangeFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which changes are wanted; all of them where nothing is said."""

    since: float | None = None  # Unix seconds, itself included
    until: float | None = None  # Unix seconds, itself excluded
    events: Collection[str] = ()
    cluster: str | None = None  # what happened in it or led out of it
    node: str | None = None  # likewise
    uuid: str | None = None  # in either case
    serial: str | None = None  # of GPUs that have or once had it
    text: str | None = None  # part of a name, an identifier or of what was altered, in either case; scans the history
    first_sights: bool | None = None  # only those, or only others


class FirstSights(NamedTuple):
    """The GPUs of the nodes of one cluster of which the first ones were seen on one day (in UTC)."""

    cluster: str
    node: str  # one of them
    nodes: int
    gpus: int
    since: float  # Unix seconds
    position: ChangePosition  # of the last one


ALL_CHANGES = ChangeFilter()

_changes, _placements = schema.changes.c, schema.placements.c
_SEARCHED = ("uuid", "serial", "model", "chassis", "cluster", "node", "machine", "previous_node", "changes", "mark")


def conditions(wanted: ChangeFilter) -> list[ColumnElement[bool]]:
    """Return what the rows of wanted changes fulfil."""
    found: list[ColumnElement[bool]] = []
    if wanted.since is not None:
        found.append(_changes.time >= wanted.since)
    if wanted.until is not None:
        found.append(_changes.time < wanted.until)
    if wanted.events:
        found.append(_changes.event.in_(sorted(wanted.events)))
    if wanted.node is not None:
        found.append(_within(wanted.node, wanted.cluster))
    elif wanted.cluster is not None:
        found.append(or_(_changes.cluster == wanted.cluster, _changes.previous_cluster == wanted.cluster))
    if wanted.uuid is not None:
        found.append(_changes.uuid == canonical_uuid(wanted.uuid))
    if wanted.serial is not None:
        found.append(_changes.uuid.in_(select(_placements.uuid).where(_placements.serial == wanted.serial)))
    if wanted.text is not None:
        found.append(or_(*(_changes[name].icontains(wanted.text, autoescape=True) for name in _SEARCHED)))
    if wanted.first_sights is not None:
        found.append(schema.FIRST_SIGHT if wanted.first_sights else ~_changes.first_sight)  # type: ignore[arg-type]
    return found


def _within(node: str, cluster: str | None) -> ColumnElement[bool]:
    """Return the condition of what happened on a node or led out of it; each half has an index of its own."""
    here, before = [_changes.node == node], [_changes.previous_node == node]
    if cluster is not None:
        here.append(_changes.cluster == cluster)
        before.append(_changes.previous_cluster == cluster)
    return or_(and_(*here), and_(*before))


def first_sights(wanted: ChangeFilter, day: int, before: ChangePosition | None) -> Select[Any]:
    """Return the query of the first sights of a day, counted from 1970, of each cluster, newest first.

    Those of a cluster are a row of their own as a whole: if the last one was not before `before`, it is left out.
    """
    of_day = (_changes.time >= day * DAY_SECONDS, _changes.time < (day + 1) * DAY_SECONDS)
    last = (func.max(_changes.time), func.max(_changes.id))
    query = (
        select(
            _changes.cluster,
            func.min(_changes.node),
            func.count(distinct(_changes.node)),
            func.count(),
            func.min(_changes.time),
            *last,
        )
        .where(*conditions(wanted), *of_day)
        .group_by(_changes.cluster)
        .order_by(*(one.desc() for one in last))
    )
    return query if before is None else query.having(tuple_(*last) < tuple_(*before))


def day_of(time: float) -> int:
    """Return the number of the day, in UTC, of a time."""
    return int(time // DAY_SECONDS)
