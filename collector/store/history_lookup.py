"""Queries that look up many ids at once in the history, each by an index."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, func, select

from collector.store import schema
from collector.store.bounded import Bounded, in_time
from collector.store.sound import optional_text, text

__all__ = ["FIRST_CHANGE", "FormerNode", "HistoryLookup", "Identity"]

IDS_PER_QUERY = 1000
ROWS_PER_QUERY = 200  # of whole placements: decoding them blocks the event loop for some milliseconds


class Identity(NamedTuple):
    """A GPU's identifiers in some of its placements, and the last of these."""

    uuid: str
    serial: str | None
    chassis: str | None
    placement: int


class FormerNode(NamedTuple):
    """A node that a GPU has left, and the last such placement."""

    cluster: str
    node: str
    placement: int


class HistoryLookup(Bounded, ABC):
    """The queries; all raise StoreError, including when they exceed a deadline."""

    @abstractmethod
    async def by_number(self, ids: Sequence[int]) -> list[Any]:
        """Return the placements with these ids, current ones first, then the newest."""

    @in_time
    async def identities(self, names: Collection[str]) -> list[Identity]:
        """Return the GPUs that ever had one of these UUIDs (in the tool's spelling), serials or chassis."""
        found: dict[Identity, None] = {}
        async with self._read() as connection:
            for part in _parts(names, IDS_PER_QUERY):
                for column in (_placements.uuid, _placements.serial, _placements.chassis):
                    identity = (_placements.uuid, _placements.serial, _placements.chassis)
                    query = select(*identity, func.max(_placements.id)).where(column.in_(part)).group_by(*identity)
                    for uuid, serial, chassis, number in await connection.execute(query):
                        found[Identity(text(uuid), optional_text(serial), optional_text(chassis), number)] = None
        return list(found)

    @in_time
    async def left_nodes(self, names: Collection[str]) -> list[FormerNode]:
        """Return the nodes with these names that a GPU has left, in every cluster."""
        found: list[FormerNode] = []
        async with self._read() as connection:
            for part in _parts(names, IDS_PER_QUERY):
                condition: ColumnElement[bool] = _placements.node.in_(part) & _placements.until.is_not(None)
                place = (_placements.cluster, _placements.node)
                query = select(*place, func.max(_placements.id)).where(condition).group_by(*place)
                found += [
                    FormerNode(text(cluster), text(node), number)
                    for cluster, node, number in await connection.execute(query)
                ]
        return found

    async def numbered(self, ids: Collection[int]) -> AsyncIterator[Any]:
        """Yield the placements with these ids, in chunks; raises StoreError."""
        for part in _parts(ids, ROWS_PER_QUERY):
            for row in await self.by_number(part):
                yield row

    @in_time
    async def begins(self) -> float | None:
        """Return the time of the oldest remaining change (Unix seconds); None if there is none."""
        async with self._read() as connection:
            found = await connection.scalar(FIRST_CHANGE)
        return found if isinstance(found, int | float) else None


def _parts(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    iterator = iter(dict.fromkeys(items))
    while part := list(itertools.islice(iterator, size)):
        yield part


_placements = schema.placements.c
# Not with min(): on a view, SQLite would read every row for it.
FIRST_CHANGE = select(schema.changes.c.time).order_by(schema.changes.c.time).limit(1)
