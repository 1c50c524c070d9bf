"""The search: finds GPUs by serial, UUID or chassis, and nodes by name or machine; also what is only in the history."""

import functools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Self, TypeVar

from aiohttp import web

from collector.model import Gpu, NodeState, Place, Placement
from collector.store import History, PastPlacement
from collector.views.cooperative import in_slices
from collector.web.context import CONTEXT, CollectorView
from collector.web.pages.links import cluster_url, gpu_url, node_url
from collector.web.pages.nodes import position
from collector.web.pages.paging import ROWS, window
from collector.web.pages.past import look_back
from collector.web.pages.rendering import page

__all__ = ["search"]

_T = TypeVar("_T")
_Matcher = Callable[[str | None], bool]  # tells whether a name is what is looked for

_LONGEST = 200  # characters of what is looked for
_PART_LEAST = 4  # characters, from which on a part of a name is enough
_PARTS_MOST = 1000  # of each kind, that are shown of what is found by a part


@dataclass
class _Hits(Generic[_T]):
    """What was found of one kind: the first of it, and how much of it there is."""

    shown: list[_T] = field(default_factory=list)
    total: int = 0
    more: bool = False  # than `total`, which is where counting ended

    @classmethod
    def of(cls, found: list[_T]) -> Self:
        """Show all that was found."""
        return cls(found, len(found))

    @property
    def cut(self) -> bool:
        """Whether there is more than is shown."""
        return self.more or self.total > len(self.shown)

    def add(self, hit: _T) -> None:
        """Count a hit, and keep it while there is room."""
        self.total += 1
        if len(self.shown) < _PARTS_MOST:
            self.shown.append(hit)


@dataclass
class _Found:
    nodes: _Hits[NodeState] = field(default_factory=_Hits)
    gpus: _Hits[Placement] = field(default_factory=_Hits)
    left: _Hits[PastPlacement] = field(default_factory=_Hits)  # nodes that are gone: the last placement in each
    gone: _Hits[PastPlacement] = field(default_factory=_Hits)  # GPUs: the newest placement of each

    @property
    def kinds(self) -> list[_Hits[Any]]:
        """The kinds of which there is something."""
        return [hits for hits in (self.nodes, self.gpus, self.left, self.gone) if hits.total]


class _Rows(NamedTuple):
    """What the history knows of a term."""

    gpus: list[PastPlacement]
    nodes: list[PastPlacement]


async def search(request: web.Request) -> web.Response:
    """Show what was looked for, or lead straight to the one thing that it can be."""
    context = request.app[CONTEXT]
    term = "".join(request.query.get("q", "").split())[:_LONGEST]
    if not term:
        return await page(request, "search.html", looked_for="")
    found = await _present(context, term, exact=True)
    past = await look_back(context, functools.partial(_past, term))
    _add_past(context, found, past.rows, _matcher(term, exact=True))
    exact = bool(found.kinds)
    if not exact and term in context.clusters():
        raise web.HTTPSeeOther(cluster_url(term))
    if not exact and len(term) >= _PART_LEAST:
        found = await _present(context, term, exact=False)
        if not past.trouble:
            past = await look_back(context, functools.partial(_past_containing, term))
        _add_past(context, found, past.rows, _matcher(term, exact=False))
    if (target := _only(found)) is not None:
        raise web.HTTPSeeOther(target)
    part = window(request, max((len(hits.shown) for hits in found.kinds), default=0))
    shown = slice(part.offset, part.offset + ROWS)
    return await page(
        request,
        "search.html",
        looked_for=term,
        exact=exact,
        window=part,
        found=found,
        total=sum(hits.total for hits in found.kinds),
        more=any(hits.more for hits in found.kinds),
        most=_PARTS_MOST,
        nodes=found.nodes.shown[shown],
        gpus=found.gpus.shown[shown],
        left=found.left.shown[shown],
        gone=[(row, context.inventory.find(uuid=row.uuid)) for row in found.gone.shown[shown]],
        past=past,
    )


async def _present(context: CollectorView, term: str, *, exact: bool) -> _Found:
    """Find what is there now, in any case; phones write capitals of their own accord."""
    found = _Found()
    is_it = _matcher(term, exact=exact)
    if exact:
        found.gpus = _Hits.of(_looked_up(context, term))
    async for entry in _entries(context):
        if is_it(entry.place.node) or is_it(entry.node.machine):
            found.nodes.add(entry)
        if exact:
            continue
        for gpu, since in zip(entry.gpus, entry.since, strict=True):
            if _is_gpu(gpu, is_it):
                found.gpus.add(Placement(gpu=gpu, place=entry.place, since=since, confirmed=entry.time or since))
    return found


def _matcher(term: str, *, exact: bool) -> _Matcher:
    small = term.lower()
    if exact:
        return lambda value: value is not None and small == value.lower()
    return lambda value: value is not None and small in value.lower()


def _is_gpu(gpu: Gpu, is_it: _Matcher) -> bool:
    return is_it(gpu.serial) or is_it(gpu.uuid) or is_it(gpu.chassis)


def _looked_up(context: CollectorView, term: str) -> list[Placement]:
    find = context.inventory.find
    gpus: dict[tuple[object, object], Placement] = {}
    for spelling in dict.fromkeys((term, term.upper(), term.lower())):
        for placement in (*find(serial=spelling), *find(uuid=spelling), *find(chassis=spelling)):
            gpus.setdefault((placement.gpu.uuid, placement.place), placement)
    return sorted(gpus.values(), key=lambda placement: (placement.place.cluster, position(placement.gpu)))


async def _past(term: str, history: History) -> list[_Rows]:
    nodes = await history.left(term)
    if (small := term.lower()) != term:
        nodes += await history.left(small)
    return [_Rows(await history.where(term), nodes)]


async def _past_containing(term: str, history: History) -> list[_Rows]:
    limit = _PARTS_MOST + 1
    return [_Rows(await history.where_like(term, limit=limit), await history.left_like(term, limit=limit))]


def _add_past(context: CollectorView, found: _Found, past: list[_Rows], is_it: _Matcher) -> None:
    """Add what the history knows and what is not among what is there now."""
    inventory = context.inventory
    for rows in past:
        newest = {
            row.uuid: row
            for row in reversed(rows.gpus)
            if not any(_is_gpu(placement.gpu, is_it) for placement in inventory.find(uuid=row.uuid))
        }
        for row in reversed(newest.values()):
            found.gone.add(row)
        for row in rows.nodes:
            if inventory.node(Place(row.cluster, row.node)) is None:
                found.left.add(row)
        for hits in (found.gone, found.left):
            if hits.total > _PARTS_MOST:
                hits.total, hits.more = _PARTS_MOST, True


async def _entries(context: CollectorView) -> AsyncIterator[NodeState]:
    """Walk all nodes by cluster and name, giving other tasks their turn."""
    for cluster in sorted(context.inventory.clusters()):
        nodes = context.inventory.nodes(cluster)
        async for entry in in_slices([nodes[name] for name in sorted(nodes)]):
            yield entry


def _only(found: _Found) -> str | None:
    """Give the address of the one thing that was found, if it is one."""
    if any(hits.cut for hits in found.kinds):
        return None
    targets = {gpu_url(placement.gpu.uuid) for placement in found.gpus.shown}
    targets |= {node_url(entry.place) for entry in found.nodes.shown}
    targets |= {node_url(Place(row.cluster, row.node)) for row in found.left.shown}
    targets |= {gpu_url(row.uuid) for row in found.gone.shown}
    return targets.pop() if len(targets) == 1 else None
