"""The search: finds GPUs by serial, UUID or chassis, and nodes by name or machine; also what is only in the history."""

from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

from aiohttp import web

from collector.inventory import NodeEntry
from collector.model import Placement
from collector.store import PastPlacement
from collector.web.context import CONTEXT, Context
from collector.web.pages.links import cluster_url, gpu_url, node_url
from collector.web.pages.nodes import position
from collector.web.pages.paging import ROWS, window
from collector.web.pages.past import look_back
from collector.web.pages.rendering import page
from collector.web.slices import in_slices

__all__ = ["search"]

_LONGEST = 200  # characters of what is looked for
_PART_LEAST = 4  # characters, from which on a part of a name is enough
_PARTS_MOST = 1000  # GPUs and nodes that are found by a part


class _Found(NamedTuple):
    gpus: list[Placement]
    nodes: list[NodeEntry]


async def search(request: web.Request) -> web.Response:
    """Show what was looked for, or lead straight to the one thing that it can be."""
    context = request.app[CONTEXT]
    term = "".join(request.query.get("q", "").split())[:_LONGEST]
    if not term:
        return await page(request, "search.html", looked_for="")
    found = await _exactly(context, term)
    past = await look_back(context, lambda history: history.where(term))
    here = {placement.gpu.uuid for placement in found.gpus}
    gone = [row for row in _newest(past.rows) if row.uuid not in here]
    exact = bool(found.gpus or found.nodes or gone)
    if not exact and term in context.clusters():
        raise web.HTTPSeeOther(cluster_url(term))
    if (target := _only(found, gone)) is not None:
        raise web.HTTPSeeOther(target)
    if not exact and len(term) >= _PART_LEAST:
        found = await _containing(context, term)
    part = window(request, max(len(found.gpus), len(found.nodes), len(gone)))
    shown = slice(part.offset, part.offset + ROWS)
    return await page(
        request,
        "search.html",
        looked_for=term,
        exact=exact,
        window=part,
        total=len(found.gpus) + len(found.nodes) + len(gone),
        gpus=found.gpus[shown],
        nodes=found.nodes[shown],
        gone=[(row, context.inventory.find(uuid=row.uuid)) for row in gone[shown]],
        counts={"gpus": len(found.gpus), "nodes": len(found.nodes), "gone": len(gone)},
        past=past,
    )


async def _exactly(context: Context, term: str) -> _Found:
    find = context.inventory.find
    gpus: dict[tuple[object, object], Placement] = {}
    for spelling in dict.fromkeys((term, term.upper(), term.lower())):  # phones write capitals of their own accord
        for placement in (*find(serial=spelling), *find(uuid=spelling), *find(chassis=spelling)):
            gpus.setdefault((placement.gpu.uuid, placement.place), placement)
    small = term.lower()
    nodes = [
        entry async for entry in _entries(context) if small in (entry.place.node.lower(), entry.node.machine.lower())
    ]
    return _Found(
        sorted(gpus.values(), key=lambda placement: (placement.place.cluster, position(placement.gpu))), nodes
    )


async def _containing(context: Context, term: str) -> _Found:
    found = _Found([], [])
    small, large = term.lower(), term.upper()
    async for entry in _entries(context):
        if small in entry.place.node.lower() or small in entry.node.machine.lower():
            found.nodes.append(entry)
        for gpu, since in zip(entry.gpus, entry.since, strict=True):
            if (
                large in (gpu.serial or "").upper()
                or small in (gpu.uuid or "").lower()
                or large in (gpu.chassis or "").upper()
            ):
                found.gpus.append(Placement(gpu=gpu, place=entry.place, since=since, confirmed=entry.time or since))
        if max(len(found.gpus), len(found.nodes)) >= _PARTS_MOST:
            break
    return found


async def _entries(context: Context) -> AsyncIterator[NodeEntry]:
    for cluster in sorted(context.inventory.clusters()):
        async for entry in in_slices(list(context.inventory.nodes(cluster).values())):
            yield entry


def _newest(rows: Iterable[PastPlacement]) -> list[PastPlacement]:
    """Keep the newest stay of each GPU; they come with the newest first."""
    newest: dict[str, PastPlacement] = {}
    for row in rows:
        newest.setdefault(row.uuid, row)
    return list(newest.values())


def _only(found: _Found, gone: list[PastPlacement]) -> str | None:
    """Give the address of the one thing that was found, if it is one."""
    targets = {gpu_url(str(placement.gpu.uuid)) for placement in found.gpus}
    targets |= {node_url(entry.place) for entry in found.nodes}
    targets |= {gpu_url(row.uuid) for row in gone}
    return targets.pop() if len(targets) == 1 else None
