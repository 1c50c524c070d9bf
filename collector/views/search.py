"""Finds GPUs by serial, UUID, chassis or part number, and nodes by name or machine; also in the history."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Self, TypeVar

from collector.inventory import Inventory
from collector.model import Gpu, NodeState, Place, Placement
from collector.store import History, PastPlacement
from collector.views.collector_view import CollectorView
from collector.views.fleet import walk_nodes
from collector.views.history_query import HistoryAnswer, query_history
from collector.views.trays import position

__all__ = ["MAX_PARTIAL_HITS", "Hits", "SearchResult", "search"]

MIN_PARTIAL_LENGTH = 4  # characters, from which on a part of a name is searched for
MAX_PARTIAL_HITS = 1000  # of each kind

_T = TypeVar("_T")
_Matcher = Callable[[str | None], bool]


@dataclass
class Hits(Generic[_T]):
    """The hits of one kind: the first of them, and how many there are."""

    shown: list[_T] = field(default_factory=list)
    total: int = 0
    more: bool = False  # than `total`, at which counting ended

    @classmethod
    def of(cls, found: list[_T]) -> Self:
        """Return hits that are all shown."""
        return cls(found, len(found))

    @property
    def cut(self) -> bool:
        """Whether there are more than are shown."""
        return self.more or self.total > len(self.shown)

    def add(self, hit: _T) -> None:
        """Count a hit, and keep it while there is room."""
        self.total += 1
        if len(self.shown) < MAX_PARTIAL_HITS:
            self.shown.append(hit)


class HistoryRows(NamedTuple):
    """What the history knows of a term."""

    gpus: list[PastPlacement]
    nodes: list[PastPlacement]


@dataclass
class SearchResult:
    """What a term found, and how."""

    exact: bool = True  # else the term is a part of what was found
    cluster: str = ""  # named by the term; empty if nothing but a cluster is
    nodes: Hits[NodeState] = field(default_factory=Hits)
    gpus: Hits[Placement] = field(default_factory=Hits)
    former_nodes: Hits[PastPlacement] = field(default_factory=Hits)  # the last placement in each
    former_gpus: Hits[PastPlacement] = field(default_factory=Hits)  # the newest placement of each
    history: HistoryAnswer[HistoryRows] = field(default_factory=lambda: HistoryAnswer([], configured=False))

    @property
    def kinds(self) -> list[Hits[Any]]:
        """The kinds with at least one hit."""
        return [hits for hits in (self.nodes, self.gpus, self.former_nodes, self.former_gpus) if hits.total]

    @property
    def total(self) -> int:
        """The number of hits, as far as they were counted."""
        return sum(hits.total for hits in self.kinds)

    @property
    def more(self) -> bool:
        """Whether there are more hits than were counted."""
        return any(hits.more for hits in self.kinds)

    @property
    def cut(self) -> bool:
        """Whether there are more hits than are shown."""
        return any(hits.cut for hits in self.kinds)


async def search(view: CollectorView, term: str) -> SearchResult:
    """Return what a term is exactly, in any case; if that is nothing and the term is long enough, what contains it."""
    known = view.history  # whose time both queries share
    result = await _search_present(view.inventory, term, exact=True)
    result.history = await query_history(view, functools.partial(_recorded, term), known)
    _add_history(view.inventory, result, _matcher(term, exact=True))
    if result.kinds:
        return result
    if term in view.clusters():
        result.cluster = term
        return result
    if len(term) < MIN_PARTIAL_LENGTH:
        return result
    history = result.history
    result = await _search_present(view.inventory, term, exact=False)
    if not history.error:
        history = await query_history(view, functools.partial(_recorded_like, term), known)
    result.history = history
    _add_history(view.inventory, result, _matcher(term, exact=False))
    return result


async def _search_present(inventory: Inventory, term: str, *, exact: bool) -> SearchResult:
    """Find what is present, in any case: phones write capitals of their own accord."""
    result = SearchResult(exact=exact)
    matches = _matcher(term, exact=exact)
    if exact:
        result.gpus = Hits.of(_indexed(inventory, term))
    parts: Hits[Placement] = Hits()
    async for entry in walk_nodes(inventory):
        if matches(entry.place.node) or matches(entry.node.machine):
            result.nodes.add(entry)
        if exact and result.gpus.total:  # no serial, UUID or chassis is a part number, too
            continue
        for gpu, since in zip(entry.gpus, entry.since, strict=True):
            if _matches_part(gpu, matches) if exact else _matches_gpu(gpu, matches):
                parts.add(entry.placement(gpu, since))
    if parts.total:
        result.gpus = parts
    return result


def _matcher(term: str, *, exact: bool) -> _Matcher:
    lowered = term.lower()
    if exact:
        return lambda value: value is not None and lowered == value.lower()
    return lambda value: value is not None and lowered in value.lower()


def _matches_gpu(gpu: Gpu, matches: _Matcher) -> bool:
    return matches(gpu.serial) or matches(gpu.uuid) or matches(gpu.chassis) or _matches_part(gpu, matches)


def _matches_part(gpu: Gpu, matches: _Matcher) -> bool:
    return matches(gpu.board_part_number) or matches(gpu.gpu_part_number)


def _indexed(inventory: Inventory, term: str) -> list[Placement]:
    find = inventory.find
    gpus: dict[tuple[object, object], Placement] = {}
    for spelling in dict.fromkeys((term, term.upper(), term.lower())):
        for placement in (*find(serial=spelling), *find(uuid=spelling), *find(chassis=spelling)):
            gpus.setdefault((placement.gpu.uuid, placement.place), placement)
    return sorted(gpus.values(), key=lambda placement: (placement.place.cluster, position(placement.gpu)))


async def _recorded(term: str, history: History) -> list[HistoryRows]:
    nodes = await history.left(term)
    if (lowered := term.lower()) != term:
        nodes += await history.left(lowered)
    return [HistoryRows(await history.where(term), nodes)]


async def _recorded_like(term: str, history: History) -> list[HistoryRows]:
    limit = MAX_PARTIAL_HITS + 1
    return [HistoryRows(await history.where_like(term, limit=limit), await history.left_like(term, limit=limit))]


def _add_history(inventory: Inventory, result: SearchResult, matches: _Matcher) -> None:
    """Add what the history knows and what is not among what is present."""
    for rows in result.history.rows:
        newest = {
            row.uuid: row
            for row in reversed(rows.gpus)
            if not any(_matches_gpu(placement.gpu, matches) for placement in inventory.find(uuid=row.uuid))
        }
        for row in reversed(newest.values()):
            result.former_gpus.add(row)
        for row in rows.nodes:
            if inventory.node(Place(row.cluster, row.node)) is None:
                result.former_nodes.add(row)
        for hits in (result.former_gpus, result.former_nodes):
            if hits.total > MAX_PARTIAL_HITS:
                hits.total, hits.more = MAX_PARTIAL_HITS, True
