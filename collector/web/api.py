"""The JSON API of the fleet, now or `at` a time: clusters, nodes, GPUs and problems, as lists or single resources."""

from typing import Any

import msgspec
from aiohttp import web

from collector.model import Place, Placement
from collector.text import enumerated, natural_key, one_line
from collector.views.cluster_list import list_clusters
from collector.views.collector_view import CollectorView
from collector.views.columns import GpuRow, NodeRow, ProblemRow
from collector.views.cooperative import yielding
from collector.views.fleet import Filters, list_gpus, list_nodes, words_of
from collector.views.gone import gone_gpu, gone_node, list_gone_gpus, list_gone_nodes
from collector.views.listing import Cursor, Listed
from collector.views.lookup import lookup
from collector.views.lookup_rows import describe_searched
from collector.views.problems.paging import list_problems
from collector.views.problems.problem import Problem
from collector.views.rows import cluster_row, gpu_row, node_row, problem_row
from collector.views.terms import parse_term
from collector.web import operations
from collector.web.answers import Pages, answer, asked, json_answer, row_answer
from collector.web.keys import COLLECTOR, PROBLEMS, SUMMARIES
from collector.web.openapi import openapi
from collector.web.past import past_cluster, past_clusters, past_gpu, past_gpus, past_node, past_nodes
from collector.web.problem import Code, InvalidParameterError, coded
from collector.web.public_url import public_url
from collector.web.query import Query

__all__ = ["cluster", "clusters", "document", "gpu", "gpus", "node", "nodes", "problems"]

MAX_NAMED = 10  # names in an error
LOOKUP_NAME = "lookup"  # in a path, in place of a GPU's name


async def clusters(request: web.Request) -> web.StreamResponse:
    """Return the clusters with their status and totals."""
    view, query = request.app[COLLECTOR], asked(request, operations.LIST_CLUSTERS)
    if "at" in query:
        return await past_clusters(request, query)
    degraded = {summary.name: summary.degraded for summary in await request.app[SUMMARIES].all()}

    async def page(after: Cursor | None, limit: int) -> Listed[Any]:
        words = words_of(query["q"] or "")
        return await list_clusters(
            view, degraded, query.filters, words=words, sort=query["sort"], after=after, limit=limit
        )

    return await answer(request, query, operations.LIST_CLUSTERS, page)


async def cluster(request: web.Request) -> web.Response:
    """Return one cluster."""
    view, query = request.app[COLLECTOR], asked(request, operations.GET_CLUSTER)
    if "at" in query:
        return await past_cluster(request, query)
    name = query["cluster"]
    if name not in view.clusters():
        known = enumerated(sorted(view.clusters(), key=natural_key), MAX_NAMED)
        raise web.HTTPNotFound(text=f'no cluster "{one_line(name)}" is configured; there are: {known or "none"}')
    return row_answer(cluster_row(view, name), query)


async def nodes(request: web.Request) -> web.StreamResponse:
    """Return the GPU nodes, read or not, and depending on `state` those that are gone."""
    view, query = request.app[COLLECTOR], asked(request, operations.LIST_NODES)
    _check_recorded(query, ("condition", "model", "driver_version"))
    if "at" in query:
        return await past_nodes(request, query)

    async def present(after: Cursor | None, limit: int) -> Listed[NodeRow]:
        page = await list_nodes(
            view, _filters(query), words=words_of(query["q"] or ""), sort=query["sort"], after=after, limit=limit
        )
        return Listed([node_row(view, entry) async for entry in yielding(page.rows)], page.next, page.total)

    async def gone(after: Cursor | None, limit: int) -> Listed[NodeRow]:
        return await list_gone_nodes(view, query.filters, words=words_of(query["q"] or ""), after=after, limit=limit)

    return await answer(request, query, operations.LIST_NODES, _of_state(query, present, gone))


async def node(request: web.Request) -> web.Response:
    """Return one GPU node, present or gone."""
    view, query = request.app[COLLECTOR], asked(request, operations.GET_NODE)
    if "at" in query:
        return await past_node(request, query)
    place = Place(query["cluster"], query["node"])
    entry = view.inventory.node(place)
    row = node_row(view, entry) if entry is not None else await gone_node(view, place)
    if row is None:
        name = one_line(f'no GPU node "{place.node}" in the cluster "{place.cluster}"')
        raise web.HTTPNotFound(text=f"{name}. {await _searched(view, place.node)}")
    return row_answer(row, query)


async def gpus(request: web.Request) -> web.StreamResponse:
    """Return the GPUs, and depending on `state` those that are gone."""
    view, query = request.app[COLLECTOR], asked(request, operations.LIST_GPUS)
    _check_recorded(query, ("driver_version",))
    if "at" in query:
        return await past_gpus(request, query)

    async def present(after: Cursor | None, limit: int) -> Listed[GpuRow]:
        page = await list_gpus(
            view, _filters(query), words=words_of(query["q"] or ""), sort=query["sort"], after=after, limit=limit
        )
        return Listed([gpu_row(view, one) async for one in yielding(page.rows)], page.next, page.total)

    async def gone(after: Cursor | None, limit: int) -> Listed[GpuRow]:
        return await list_gone_gpus(view, query.filters, words=words_of(query["q"] or ""), after=after, limit=limit)

    return await answer(request, query, operations.LIST_GPUS, _of_state(query, present, gone))


async def gpu(request: web.Request) -> web.Response:
    """Return one GPU, present or gone."""
    view, query = request.app[COLLECTOR], asked(request, operations.GET_GPU)
    if query["id"] == LOOKUP_NAME:
        text = "expected POST, with the ids in the body"
        raise web.HTTPMethodNotAllowed(request.method, ["POST"], text=text)
    if "at" in query:
        return await past_gpu(request, query)
    name = query["id"]
    rows: list[GpuRow] = []
    for reading in dict.fromkeys((name, *parse_term(name).readings)):  # as given, then as on a sticker
        found: list[Placement] = view.inventory.find(uuid=reading) or view.inventory.find(serial=reading)
        rows = [gpu_row(view, one) for one in sorted(found, key=lambda one: one.claim)] or await gone_gpu(view, reading)
        if rows:
            break
    if not rows:
        raise web.HTTPNotFound(text=f'no GPU has the UUID or serial "{one_line(name)}". {await _searched(view, name)}')
    uuids = list(dict.fromkeys(row.uuid for row in rows))
    if len(uuids) > 1:
        text = f"{len(uuids)} GPUs have this serial; use the UUID of one of them: {enumerated(uuids, MAX_NAMED)}"
        raise coded(web.HTTPConflict(text=text), Code.AMBIGUOUS)
    return row_answer(rows[0], query)


async def problems(request: web.Request) -> web.StreamResponse:
    """Return the problems, worst first; filtered by cluster, only those of these clusters.

    A cluster that is not configured is rejected: it would have no problems because nothing watches it.
    """
    view, query = request.app[COLLECTOR], asked(request, operations.LIST_PROBLEMS)
    filters = query.filters
    _check_clusters(view, filters)
    fleet = request.app[PROBLEMS]
    found = await (fleet.of(filters["cluster"]) if filters else fleet.all())
    prefix = public_url(request).prefix

    def row(problem: Problem) -> ProblemRow:
        return problem_row(msgspec.structs.replace(problem, url=prefix + problem.url) if problem.url else problem)

    async def page(after: Cursor | None, limit: int) -> Listed[Any]:
        page = list_problems(found, after=after, limit=limit)
        return Listed([row(problem) for problem in page.rows], page.next, page.total)

    return await answer(request, query, operations.LIST_PROBLEMS, page)


async def document(request: web.Request) -> web.Response:
    """Return the OpenAPI document."""
    asked(request, operations.OPENAPI)
    servers = [{"url": public_url(request).prefix or "/"}]  # only a path, so that the client keeps its host
    return json_answer(openapi() | {"servers": servers})


def _check_recorded(query: Query, now_only: tuple[str, ...]) -> None:
    """Reject filters that only apply to the present when the past is requested."""
    name = next((one for one in now_only if one in query), None)
    if name is not None and ("at" in query or query["state"] in ("gone", "all")):
        raise InvalidParameterError(name, "not allowed with at, state=gone or state=all: it is not recorded")


def _check_clusters(view: CollectorView, filters: Filters) -> None:
    if not filters.get("cluster", frozenset()) <= set(view.clusters()):
        raise InvalidParameterError(
            "cluster", f"expected one of {enumerated(sorted(view.clusters(), key=natural_key), MAX_NAMED)}"
        )


def _of_state(query: Query, present: Pages, gone: Pages) -> Pages:
    """Return the function that lists rows of the requested `state`."""
    state = query["state"]
    if state not in ("gone", "all"):
        return present
    if "sort" in query:
        raise InvalidParameterError("sort", f"not allowed with state={state}, whose rows have a fixed order")
    if state == "gone":
        return gone

    async def both(after: Cursor | None, limit: int) -> Listed[Any]:
        if after is not None and after.sort == _GONE:
            return await gone(None if after.row == () else Cursor("gone", None, after.row), limit)
        page = await present(after, limit)
        if page.next is not None:
            return Listed(page.rows, page.next, None)
        if len(page.rows) == limit:
            return Listed(page.rows, Cursor(_GONE, None, ()), None)
        rest = await gone(None, limit - len(page.rows))
        following = None if rest.next is None else Cursor(_GONE, None, rest.next.row)
        return Listed([*page.rows, *rest.rows], following, None)

    return both


_GONE = "gone"  # in the cursor of a list of both that has reached the gone ones


def _filters(query: Query) -> Filters:
    state = query["state"]
    return query.filters if state in ("present", "all") else {**query.filters, "state": frozenset([state])}


async def _searched(view: CollectorView, name: str) -> str:
    """Return where the search for something not found looked."""
    found = await lookup(view, [parse_term(name, 1)], most=1)
    return " ".join(describe_searched(found.searched))
