"""Queries for GPUs that are no longer on any node, by their last placement, and for nodes without GPUs."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select, tuple_

from collector.model import Place
from collector.store import schema

__all__ = ["GoneNode", "gone_gpus", "gone_nodes"]


class GoneNode(NamedTuple):
    """A node that had GPUs and no longer has any; times are Unix seconds."""

    place: Place
    machine: str
    until: float  # when its last GPU left
    confirmed: float | None  # when it was last read with a GPU, if recorded


Where = Mapping[str, Collection[str]]  # by column: the admitted values

_placements = schema.placements.c


def gone_gpus(where: Where, after: str | None) -> ColumnElement[bool]:
    """Return the query for the last placements of GPUs that are on no node, to be read in order of UUID."""
    other = schema.placements.alias().c
    later = and_(
        other.uuid == _placements.uuid,
        or_(
            other.until.is_(None),
            other.until > _placements.until,
            and_(other.until == _placements.until, other.id > _placements.id),
        ),
    )
    conditions = [_placements.until.is_not(None), ~exists().where(later), *_admitted(where)]
    if after is not None:
        conditions.append(_placements.uuid > after)
    return and_(*conditions)


def gone_nodes(where: Where, after: Place | None, limit: int) -> Select[Any]:
    """Return the query of the nodes that have had GPUs and have none, with machine and when the last one left."""
    there = schema.placements.alias().c
    present = exists().where(
        there.node == _placements.node, there.cluster == _placements.cluster, there.until.is_(None)
    )
    query = (
        select(
            _placements.cluster,
            _placements.node,
            func.max(_placements.machine).label("machine"),
            func.max(_placements.until).label("until"),
            func.max(_placements.confirmed).label("confirmed"),
        )
        .where(~present, *_admitted(where))
        .group_by(_placements.cluster, _placements.node)
        .order_by(_placements.cluster, _placements.node)
        .limit(limit)
    )
    # From the start of all, or SQLite would read them in another order and sort.
    begins = tuple_(_placements.cluster, _placements.node)
    return query.where(begins >= tuple_("", "") if after is None else begins > tuple_(*after))


def _admitted(where: Where) -> list[ColumnElement[bool]]:
    return [_placements[name].in_(sorted(values)) for name, values in where.items()]
