"""The search page."""

from aiohttp import web

from collector.model import Place
from collector.views import search as views
from collector.views.search import MAX_PARTIAL_HITS, SearchResult
from collector.web.keys import COLLECTOR
from collector.web.pages.links import cluster_url, gpu_url, node_url
from collector.web.pages.paging import PAGE_ROWS, window
from collector.web.pages.rendering import page
from collector.web.public_url import public_url

__all__ = ["search"]

MAX_TERM_LENGTH = 200  # characters


async def search(request: web.Request) -> web.Response:
    """Show what a term finds, or redirect to the one thing that it can be."""
    collector = request.app[COLLECTOR]
    term = "".join(request.query.get("q", "").split())[:MAX_TERM_LENGTH]
    if not term:
        return await page(request, "search.html", looked_for="", mark=None)
    found = await views.search(collector, term)
    if (target := _only_target(found)) is not None:
        raise web.HTTPSeeOther(public_url(request).prefix + target)
    part = window(request, max((len(hits.shown) for hits in found.kinds), default=0))
    shown = slice(part.offset, part.offset + PAGE_ROWS)
    return await page(
        request,
        "search.html",
        looked_for=term,
        mark=None if found.total else collector.marks.of(term, term, collector.now()),
        window=part,
        found=found,
        most=MAX_PARTIAL_HITS,
        nodes=found.nodes.shown[shown],
        gpus=found.gpus.shown[shown],
        former_nodes=found.former_nodes.shown[shown],
        former_gpus=[(row, collector.inventory.find(uuid=row.uuid)) for row in found.former_gpus.shown[shown]],
        history=found.history,
    )


def _only_target(found: SearchResult) -> str | None:
    """Return the address of the one thing that was found, if it is one."""
    if found.cut:
        return None
    targets = {gpu_url(placement.gpu.uuid) for placement in found.gpus.shown}
    targets |= {node_url(entry.place) for entry in found.nodes.shown}
    targets |= {node_url(Place(row.cluster, row.node)) for row in found.former_nodes.shown}
    targets |= {gpu_url(row.uuid) for row in found.former_gpus.shown}
    if found.cluster:
        targets.add(cluster_url(found.cluster))
    return targets.pop() if len(targets) == 1 else None
