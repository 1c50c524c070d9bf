"""A cluster's page: its status, its problems and its nodes."""

import functools
from collections.abc import Callable
from typing import Any

from aiohttp import web

from collector.marks import MarkKind
from collector.model import NodeState
from collector.views.cluster_summary import is_overdue, missing_gpus, summarize
from collector.views.collector_view import CollectorView
from collector.views.cooperative import sorted_window, yielding
from collector.views.degraded import worst_in
from collector.views.latest_changes import latest_changes
from collector.views.problems import NodeCondition, cluster_problems
from collector.web.keys import COLLECTOR
from collector.web.pages.paging import PAGE_ROWS, window
from collector.web.pages.rendering import page
from collector.web.params import choice

__all__ = ["cluster"]

SORT_KEYS: dict[str, Callable[[NodeState], Any]] = {
    "node": lambda entry: entry.place.node,
    "machine": lambda entry: (entry.node.machine, entry.place.node),
    "chassis": lambda entry: (entry.chassis, entry.place.node),
    "gpus": lambda entry: (entry.found or 0, entry.place.node),
    "missing": lambda entry: (missing_gpus(entry) + entry.lost, entry.place.node),
    "driver": lambda entry: (entry.driver_version or "", entry.place.node),
    "read": lambda entry: (entry.time or 0.0, entry.place.node),
}
ANY_CONDITION = "wrong"
MAX_LATEST = 5  # changes
NODE_CHOICES = {
    "": "all nodes",
    ANY_CONDITION: "nodes with problems",
    NodeCondition.FAILING: "nodes that cannot be read",
    NodeCondition.LOST: "nodes with GPUs that do not answer",
    NodeCondition.DEGRADED: "nodes with degraded GPUs",
    NodeCondition.MARKED_RMA: "nodes with GPUs marked rma",
    NodeCondition.MISSING: "nodes with missing GPUs",
    NodeCondition.UNREAD: "nodes that are unread",
    NodeCondition.OVERDUE: "nodes with an overdue reading",
    NodeCondition.CONFLICT: "nodes with a conflict",
    NodeCondition.CLAIM: "nodes with an unsettled claim",
}


async def cluster(request: web.Request) -> web.Response:
    """Show one cluster with its nodes; `show` and `name` choose among them, `sort` orders them."""
    collector = request.app[COLLECTOR]
    name = request.match_info["cluster"]
    if name not in collector.clusters() and name not in collector.inventory.clusters():
        raise web.HTTPNotFound(text=f"No cluster named “{name}” is configured.")
    show = choice(request, "show", list(NODE_CHOICES))
    sort = choice(request, "sort", [*SORT_KEYS, *(f"-{key}" for key in SORT_KEYS)])
    part_of_name = request.query.get("name", "").strip()
    summary = await summarize(collector, name)
    contested = collector.inventory.nodes_in_conflict(name)
    claimed = collector.inventory.nodes_in_claim(name)
    admits = _node_filter(collector, show, contested, claimed)
    entries = [
        entry
        async for entry in yielding(list(collector.inventory.nodes(name).values()))
        if part_of_name in entry.place.node and admits(entry)
    ]
    part = window(request, len(entries))
    key = SORT_KEYS[sort.removeprefix("-")]
    rows = await sorted_window(entries, key, part.offset, PAGE_ROWS, reverse=sort.startswith("-"))
    return await page(
        request,
        "cluster.html",
        latest=await latest_changes(collector, cluster=name, limit=MAX_LATEST),
        cluster=summary,
        problems=list(cluster_problems(summary)),
        nodes=rows,
        contested=contested,
        claimed=claimed,
        missing_gpus=missing_gpus,
        worst=worst_in,
        is_overdue=functools.partial(is_overdue, collector),
        window=part,
        choices=NODE_CHOICES,
        show=show,
        sort=sort,
        part_of_name=part_of_name,
    )


def _node_filter(
    collector: CollectorView, show: str, contested: set[str], claimed: set[str]
) -> Callable[[NodeState], bool]:
    conditions: dict[str, Callable[[NodeState], bool]] = {
        NodeCondition.FAILING: lambda entry: entry.failing is not None,
        NodeCondition.LOST: lambda entry: entry.lost > 0,
        NodeCondition.DEGRADED: lambda entry: worst_in(entry) is not None,
        NodeCondition.MARKED_RMA: functools.partial(_has_marked_rma, collector),
        NodeCondition.MISSING: lambda entry: missing_gpus(entry) > 0,
        NodeCondition.UNREAD: lambda entry: entry.unread is not None,
        NodeCondition.OVERDUE: functools.partial(is_overdue, collector),
        NodeCondition.CONFLICT: lambda entry: entry.place.node in contested,
        NodeCondition.CLAIM: lambda entry: entry.place.node in claimed,
    }
    if show == ANY_CONDITION:
        return lambda entry: any(holds(entry) for holds in conditions.values())
    return conditions.get(show, lambda _entry: True)


def _has_marked_rma(collector: CollectorView, entry: NodeState) -> bool:
    now = collector.now()
    marks = (collector.marks.of(gpu.uuid, gpu.serial, now) for gpu in entry.gpus)
    return any(mark is not None and mark.kind is MarkKind.RMA for mark in marks)
