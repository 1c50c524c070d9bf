"""The fleet at a past time in the JSON API: lists and single resources with `at`."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from collector.model import Place
from collector.text import enumerated, one_line
from collector.timestamps import as_of
from collector.views.columns import UNRECORDED
from collector.views.fleet import words_of
from collector.views.listing import Cursor, Listed
from collector.views.past import LookBack, NotRecordedError, look_back
from collector.views.past_lists import (
    cursor_time,
    list_past_clusters,
    list_past_gpus,
    list_past_nodes,
)
from collector.views.past_rows import past_cluster_row, past_gpu_row, past_node_row
from collector.web import operations
from collector.web.answers import answer, row_answer
from collector.web.keys import COLLECTOR
from collector.web.operation import Operation
from collector.web.problem import Code, InvalidParameterError, NoStoreError, coded
from collector.web.query import Query

__all__ = ["past_cluster", "past_clusters", "past_gpu", "past_gpus", "past_node", "past_nodes"]

MAX_NAMED = 10  # UUIDs in an error

_List = Callable[..., Awaitable[Listed[Any]]]


async def past_clusters(request: web.Request, query: Query) -> web.StreamResponse:
    """Return the clusters that had GPUs, configured now or not."""
    return await _list(request, query, operations.LIST_CLUSTERS, list_past_clusters)


async def past_nodes(request: web.Request, query: Query) -> web.StreamResponse:
    """Return the nodes that had GPUs."""
    return await _list(request, query, operations.LIST_NODES, list_past_nodes)


async def past_gpus(request: web.Request, query: Query) -> web.StreamResponse:
    """Return the GPUs that were on nodes."""
    return await _list(request, query, operations.LIST_GPUS, list_past_gpus)


async def past_cluster(request: web.Request, query: Query) -> web.Response:
    """Return one cluster."""
    then, name = await _look_back(request, query["at"]), query["cluster"]
    count = (await then.counts()).get(name)
    if count is None:
        raise _nothing(f'no GPU was in a cluster "{name}"', then)
    return row_answer(past_cluster_row(name, count), query)


async def past_node(request: web.Request, query: Query) -> web.Response:
    """Return one node."""
    then, place = await _look_back(request, query["at"]), Place(query["cluster"], query["node"])
    found = await then.nodes({"cluster": [place.cluster], "node": [place.node]}, limit=1)
    if not found:
        raise _nothing(f'no GPU was on a node "{place.node}" in the cluster "{place.cluster}"', then)
    return row_answer(past_node_row(found[0]), query)


async def past_gpu(request: web.Request, query: Query) -> web.Response:
    """Return one GPU."""
    then, name = await _look_back(request, query["at"]), query["id"]
    found = await then.gpus({"uuid": [name]}) or await then.gpus({"serial": [name]})
    if not found:
        raise _nothing(f'no GPU with the UUID or serial "{name}" was on a node', then)
    uuids = list(dict.fromkeys(one.placement.uuid for one in found))
    if len(uuids) > 1:
        text = f"{len(uuids)} GPUs had this serial; use the UUID of one of them: {enumerated(uuids, MAX_NAMED)}"
        raise coded(web.HTTPConflict(text=text), Code.AMBIGUOUS)
    return row_answer(past_gpu_row(found[0]), query)


async def _list(request: web.Request, query: Query, operation: Operation, rows: _List) -> web.StreamResponse:
    if "sort" in query:
        raise InvalidParameterError("sort", "not allowed with `at`: rows are sorted by place")
    if "state" in query and query["state"] != "present" and operation is operations.LIST_NODES:
        raise InvalidParameterError("state", "expected present with `at`: only GPUs have other states in the history")
    if "state" in query and query["state"] in ("gone", "all"):
        raise InvalidParameterError("state", "expected present, found or lost with `at`")
    if missing := next((name for name in UNRECORDED if name in query.filters), None):
        raise InvalidParameterError(missing, "not allowed with `at`: the history does not have it")
    filters = query.filters
    if "state" in query and query["state"] != "present":
        filters = {**filters, "state": frozenset([query["state"]])}

    async def page(after: Cursor | None, limit: int) -> Listed[Any]:
        time = query["at"] if after is None else cursor_time(after, request.app[COLLECTOR].now())
        then = await _look_back(request, time)
        return await rows(then, filters, words=words_of(query["q"] or ""), after=after, limit=limit)

    return await answer(request, query, operation, page)


async def _look_back(request: web.Request, time: float) -> LookBack:
    view = request.app[COLLECTOR]
    if view.past is None:
        raise NoStoreError("history")
    try:
        return await look_back(view.past, time, view)
    except NotRecordedError as error:
        raise coded(web.HTTPNotFound(text=str(error)), Code.NOT_RECORDED) from None


def _nothing(text: str, then: LookBack) -> web.HTTPException:
    return web.HTTPNotFound(text=f"{one_line(text)} at {as_of(then.time)}")
