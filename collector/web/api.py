"""The JSON API: clusters, nodes, GPUs and problems with filters, in pages."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec
from aiohttp import web

from collector.health import Degradation, Level
from collector.marks import MarkKind
from collector.views.cooperative import yielding
from collector.views.fleet import Filters, admits, filter_gpus, filter_nodes
from collector.views.rows import cluster_row, gpu_row, node_row, problem_row
from collector.web.answers import json_answer
from collector.web.keys import COLLECTOR, PROBLEMS, SUMMARIES
from collector.web.params import Paging, check_parameters, check_values, paging

__all__ = ["clusters", "gpus", "nodes", "problems"]

PAGING_PARAMETERS = frozenset({"limit", "offset"})
NODE_FILTERS = frozenset({"cluster", "node", "machine", "chassis"})
GPU_FILTERS = NODE_FILTERS | {"serial", "uuid", "model", "board_part_number", "gpu_part_number"}
CONDITION_FILTERS: Mapping[str, tuple[str, ...]] = MappingProxyType(  # of GPUs, with their values
    {"degraded": ("true", "false"), "reason": tuple(Degradation), "level": tuple(Level), "mark": tuple(MarkKind)}
)


async def clusters(request: web.Request) -> web.Response:
    """Return the clusters with their status and what is in them, filtered by name."""
    collector = request.app[COLLECTOR]
    filters, part = _filters(request, frozenset({"cluster"})), paging(request)
    names = [name for name in sorted(collector.clusters()) if admits(filters, "cluster", name)]
    window = names[part.offset : part.offset + part.limit]
    degraded = {summary.name: summary.degraded for summary in await request.app[SUMMARIES].all()}
    rows = [cluster_row(collector, name, degraded.get(name)) async for name in yielding(window)]
    return _page("clusters", rows, len(names), part)


async def nodes(request: web.Request) -> web.Response:
    """Return the GPU nodes, read or not, filtered by cluster, node, machine and chassis."""
    collector = request.app[COLLECTOR]
    filters, part = _filters(request, NODE_FILTERS), paging(request)
    found = await filter_nodes(collector.inventory, filters)
    rows = [node_row(collector, entry) for entry in found[part.offset : part.offset + part.limit]]
    return _page("nodes", rows, len(found), part)


async def gpus(request: web.Request) -> web.Response:
    """Return the GPUs, filtered by place, by what identifies them, by model and parts, and by their condition."""
    collector = request.app[COLLECTOR]
    filters, part = _filters(request, GPU_FILTERS | CONDITION_FILTERS.keys()), paging(request)
    for key, values in CONDITION_FILTERS.items():
        check_values(request, key, values)
    found, total = await filter_gpus(collector, filters, offset=part.offset, limit=part.limit)
    return _page("gpus", [gpu_row(collector, placement) for placement in found], total, part)


async def problems(request: web.Request) -> web.Response:
    """Return what is wrong, the worst first; filtered by cluster, only the problems of these clusters.

    A cluster that is not configured is refused: it has no problems, and nobody looks after it.
    """
    collector = request.app[COLLECTOR]
    filters, part = _filters(request, frozenset({"cluster"})), paging(request)
    check_values(request, "cluster", sorted(collector.clusters()))
    fleet = request.app[PROBLEMS]
    found = await (fleet.of(filters["cluster"]) if filters else fleet.all())
    rows = [problem_row(problem) for problem in found[part.offset : part.offset + part.limit]]
    return _page("problems", rows, len(found), part)


def _filters(request: web.Request, known: frozenset[str]) -> Filters:
    check_parameters(request, known | PAGING_PARAMETERS, repeatable=known)
    return {key: frozenset(request.query.getall(key)) for key in request.query if key in known}


def _page(name: str, rows: Sequence[msgspec.Struct], total: int, part: Paging) -> web.Response:
    return json_answer({name: rows, "total": total, "limit": part.limit, "offset": part.offset})
