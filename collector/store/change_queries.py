"""Filters of the history's changes, as conditions on its table."""

from collections.abc import Collection
from typing import NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Integer, and_, column, literal_column, or_, select, table

from collector.model import canonical_uuid
from collector.store import schema
from collector.store.containing import by_engine, contains

__all__ = [
    "ALL_CHANGES",
    "DAY_SECONDS",
    "ChangeFilter",
    "ChangePosition",
    "conditions",
    "day_of",
    "sides_of",
]

DAY_SECONDS = 86400


class ChangePosition(NamedTuple):
    """The position at which a page of changes, newest first, ended."""

    time: float  # Unix seconds
    id: int


class ChangeFilter(msgspec.Struct, frozen=True, kw_only=True):
    """A filter of changes; without values it admits all."""

    since: float | None = None  # Unix seconds, inclusive
    until: float | None = None  # Unix seconds, exclusive
    events: Collection[str] = ()
    cluster: str | None = None  # changes in it or out of it
    node: str | None = None  # likewise
    uuid: str | None = None  # in either case
    serial: str | None = None  # changes of GPUs that have or had it
    text: str | None = None  # part of a name, an identifier or an altered value, in either case; scans the history
    first_sights: bool | None = None  # only those, or only the others


ALL_CHANGES = ChangeFilter()

_changes, _placements = schema.changes.c, schema.placements.c
# On SQLite, conditions on the numbers in the rows of changes: no index has the names.
_places = table("gpuid_places", column("id"), column("cluster"), column("node")).c
_texts = table("gpuid_texts", column("id"), column("text")).c
_place = literal_column("gpuid_changes.place", Integer)
_previous = literal_column("gpuid_changes.previous", Integer)
_machine = literal_column("gpuid_changes.machine_text", Integer)
_ACROSS = by_engine(sqlite=literal_column("gpuid_changes.across"), postgresql=schema.ACROSS)  # type: ignore[arg-type]
_SEARCHED = ("uuid", "serial", "model", "chassis", "cluster", "node", "machine", "previous_node", "changes", "mark")


def conditions(wanted: ChangeFilter) -> list[ColumnElement[bool]]:
    """Return the conditions that admitted rows meet."""
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
        found.append(or_(*sides_of(wanted.cluster)))
    if wanted.uuid is not None:
        found.append(_changes.uuid == canonical_uuid(wanted.uuid))
    if wanted.serial is not None:
        found.append(_changes.uuid.in_(select(_placements.uuid).where(_placements.serial == wanted.serial)))
    if wanted.text is not None:
        found.append(_searched(wanted.text))
    if wanted.first_sights is not None:
        found.append(schema.FIRST_SIGHT if wanted.first_sights else schema.NO_FIRST_SIGHT)  # type: ignore[arg-type]
    return found


def _searched(part: str) -> ColumnElement[bool]:
    """Return the condition that a change has a text; SQLite searches the names of nodes and machines once."""
    of_place, of_change = contains(_places.node, part), ("model", "serial", "chassis", "uuid", "changes", "mark")
    once = (
        _place.in_(select(_places.id).where(or_(of_place, contains(_places.cluster, part)))),
        _previous.in_(select(_places.id).where(of_place)),
        _machine.in_(select(_texts.id).where(contains(_texts.text, part))),
    )
    return by_engine(
        sqlite=or_(*(contains(_changes[name], part) for name in of_change), *once),
        postgresql=or_(*(contains(_changes[name], part) for name in _SEARCHED)),
    )


def sides_of(cluster: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Return the conditions for changes in a cluster and for changes out of it; each has its own index."""
    return _changes.cluster == cluster, and_(_changes.previous_cluster == cluster, _ACROSS)


def _within(node: str, cluster: str | None) -> ColumnElement[bool]:
    """Return the condition for changes on a node or out of it; each half has its own index."""
    here, before, there = [_changes.node == node], [_changes.previous_node == node], [_places.node == node]
    if cluster is not None:
        here.append(_changes.cluster == cluster)
        before.append(_changes.previous_cluster == cluster)
        there.append(_places.cluster == cluster)
    places = select(_places.id).where(*there)
    return by_engine(
        sqlite=or_(_place.in_(places), _previous.in_(places)),
        postgresql=or_(and_(*here), and_(*before)),
    )


def day_of(time: float) -> int:
    """Return the number of a time's day, in UTC."""
    return int(time // DAY_SECONDS)
