"""A cluster's page: how it is, and its nodes."""

from collections.abc import Callable
from typing import Any

from aiohttp import web

from collector.model import NodeState
from collector.views.cooperative import in_slices, sorted_window
from collector.web.context import CONTEXT, CollectorView
from collector.web.pages.paging import ROWS, chosen, window
from collector.web.pages.rendering import page
from collector.web.pages.survey import missing, problems, survey

__all__ = ["cluster"]

_SORTS: dict[str, Callable[[NodeState], Any]] = {
    "node": lambda entry: entry.place.node,
    "machine": lambda entry: (entry.node.machine, entry.place.node),
    "chassis": lambda entry: (entry.chassis, entry.place.node),
    "gpus": lambda entry: (len(entry.gpus), entry.place.node),
    "missing": lambda entry: (missing(entry), entry.place.node),
    "driver": lambda entry: (entry.driver_version or "", entry.place.node),
    "read": lambda entry: (entry.time or 0.0, entry.place.node),
}
_SHOWN = {
    "": "all nodes",
    "wrong": "nodes with anything wrong",
    "failing": "nodes that cannot be read",
    "missing": "nodes that miss GPUs",
    "unread": "nodes that were never read",
    "overdue": "nodes whose reading is overdue",
    "conflict": "nodes with a conflict",
}


async def cluster(request: web.Request) -> web.Response:
    """Show one cluster with its nodes; `show` and `name` choose among them, `sort` orders them."""
    context = request.app[CONTEXT]
    name = request.match_info["cluster"]
    if name not in context.clusters() and name not in context.inventory.clusters():
        raise web.HTTPNotFound(text=f"No cluster is named “{name}” in this collector's configuration.")
    show = chosen(request, "show", list(_SHOWN))
    sort = chosen(request, "sort", [*_SORTS, *(f"-{key}" for key in _SORTS)])
    part_of_name = request.query.get("name", "").strip()
    found = await survey(context, name)
    contested = _contested_nodes(context, name)
    admits = _filter(context, show, contested)
    entries = [
        entry
        async for entry in in_slices(list(context.inventory.nodes(name).values()))
        if part_of_name in entry.place.node and admits(entry)
    ]
    part = window(request, len(entries))
    key = _SORTS[sort.removeprefix("-")]
    rows = await sorted_window(entries, key, part.offset, ROWS, reverse=sort.startswith("-"))
    return await page(
        request,
        "cluster.html",
        cluster=found,
        problems=list(problems(found)),
        nodes=rows,
        contested=contested,
        missing=missing,
        overdue=context.overdue,
        window=part,
        choices=_SHOWN,
        show=show,
        sort=sort,
        part_of_name=part_of_name,
    )


def _filter(context: CollectorView, show: str, contested: set[str]) -> Callable[[NodeState], bool]:
    wrong: dict[str, Callable[[NodeState], bool]] = {
        "failing": lambda entry: entry.failing is not None,
        "missing": lambda entry: missing(entry) > 0,
        "unread": lambda entry: entry.time is None,
        "overdue": context.overdue,
        "conflict": lambda entry: entry.place.node in contested,
    }
    if show == "wrong":
        return lambda entry: any(is_so(entry) for is_so in wrong.values())
    return wrong.get(show, lambda _entry: True)


def _contested_nodes(context: CollectorView, cluster: str) -> set[str]:
    inventory = context.inventory
    return {
        placement.place.node
        for uuid in inventory.contested(cluster)
        for placement in inventory.find(uuid=uuid)
        if placement.place.cluster == cluster
    }
