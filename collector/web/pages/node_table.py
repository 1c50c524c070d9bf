"""The table of nodes, of one cluster or all: filters, order and rows."""

import functools
from typing import Any

from aiohttp import web

from collector.views.cluster_summary import fleet_models, is_overdue, missing_gpus
from collector.views.cluster_table import fleet_drivers
from collector.views.cooperative import sorted_window
from collector.views.degraded import worst_in
from collector.views.node_conditions import ANY_CONDITION, nodes_at_odds
from collector.views.node_list import NODE_SORTS, NodeFilter, filtered_nodes
from collector.views.problems.kinds import NodeCondition
from collector.web.keys import COLLECTOR, SUMMARIES
from collector.web.pages.paging import PAGE_ROWS, window
from collector.web.pages.rendering import page
from collector.web.params import choice

__all__ = ["node_table", "nodes"]

NODE_CHOICES = {
    "": "All nodes",
    ANY_CONDITION: "With problems",
    NodeCondition.FAILING: "Cannot be read",
    NodeCondition.UNREAD: "Unread",
    NodeCondition.MISSING: "With missing GPUs",
    NodeCondition.LOST: "With lost GPUs",
    NodeCondition.DEGRADED: "With degraded GPUs",
    NodeCondition.MARKED_RMA: "With GPUs marked rma",
    NodeCondition.CONFLICT: "With a conflict",
    NodeCondition.CLAIM: "Being verified",
    NodeCondition.OVERDUE: "Overdue",
}


async def nodes(request: web.Request) -> web.Response:
    """Show the nodes of all clusters."""
    return await page(request, "nodes.html", **await node_table(request, request.query.get("cluster", "")))


async def node_table(request: web.Request, cluster: str) -> dict[str, Any]:
    """Return the table's values; `show`, `name`, `model` and `driver` filter the nodes, `sort` orders them."""
    collector = request.app[COLLECTOR]
    summaries = await request.app[SUMMARIES].all()
    wanted = NodeFilter(
        cluster=cluster,
        show=choice(request, "show", list(NODE_CHOICES)),
        name=request.query.get("name", "").strip(),
        model=request.query.get("model", ""),
        driver=request.query.get("driver", ""),
    )
    keys = [*NODE_SORTS] if cluster else ["cluster", *(key for key in NODE_SORTS if key != "cluster")]
    sort = choice(request, "sort", [*keys, *(f"-{key}" for key in keys)])
    odds = nodes_at_odds(collector, [cluster] if cluster else ())
    found = await filtered_nodes(collector, wanted, odds)
    part = window(request, len(found))
    key = NODE_SORTS[sort.removeprefix("-")]
    within = [one for one in summaries if not cluster or one.name == cluster]
    return {
        "nodes": await sorted_window(found, key, part.offset, PAGE_ROWS, reverse=sort.startswith("-")),
        "contested": odds.contested,
        "claimed": odds.claimed,
        "missing_gpus": missing_gpus,
        "worst": worst_in,
        "is_overdue": functools.partial(is_overdue, collector),
        "is_up": {one.name: one.up for one in summaries},
        "window": part,
        "wanted": wanted,
        "filtered": any(wanted._replace(cluster="")),
        "sort": sort,
        "choices": NODE_CHOICES,
        "cluster_names": [one.name for one in summaries],
        "models": sorted(model for model in fleet_models(within) if model),
        "drivers": fleet_drivers(within),
    }
