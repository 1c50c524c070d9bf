"""The first page, and the lists of clusters and of models that are parts of it."""

from typing import Any

from aiohttp import web

from collector.views.cluster_summary import ClusterSummary, fleet_coverage, fleet_models
from collector.views.cluster_table import (
    CLUSTER_SORTS,
    ClusterShow,
    ClusterTotals,
    failing_nodes,
    list_clusters,
    model_matrix,
    total,
)
from collector.views.latest_changes import latest_changes
from collector.views.problems.kinds import ProblemKind
from collector.views.shards import idle_shards, shard_states
from collector.web.keys import COLLECTOR, PROBLEMS, SUMMARIES
from collector.web.pages.paging import PAGE_ROWS, window
from collector.web.pages.rendering import page
from collector.web.params import choice

__all__ = ["clusters", "index", "models"]

MAX_CHANGES = 3
WORST_PROBLEMS = 5  # that are shown here; /problems has them all
MAX_MODELS = 8  # columns that fit beside each other
MAX_MATRIX_CLUSTERS = 10
MOST_MODELS = 50  # of the page that is about them
CLUSTER_CHOICES = {
    ClusterShow.ALL: "All clusters",
    ClusterShow.PROBLEM: "With problems",
    ClusterShow.DOWN: "Down",
    ClusterShow.UNREAD: "With unread nodes",
    ClusterShow.FAILING: "With failing nodes",
    ClusterShow.MISSING: "With missing or lost GPUs",
    ClusterShow.DEGRADED: "With degraded GPUs",
    ClusterShow.CONFLICT: "With conflicts",
}


async def index(request: web.Request) -> web.Response:
    """Show the fleet at a glance: what needs attention, the clusters, the models, and what happened last."""
    collector = request.app[COLLECTOR]
    summaries = await request.app[SUMMARIES].all()
    lead = collector.lead_status
    problems = await request.app[PROBLEMS].all()
    read, unread = fleet_coverage(summaries)
    fleet, gpus = total(summaries), fleet_models(summaries).total()
    return await page(
        request,
        "index.html",
        **_cluster_list(request, summaries),
        gpus=gpus,
        twice=fleet.gpus - gpus,
        conflicts=sum(one.count for one in problems if one.kind is ProblemKind.CONFLICT),
        fleet=fleet,
        leader=lead.holder if lead is not None and lead.has_leader and not lead.leads else "",
        shard=collector.shard,
        idle_shards=idle_shards(shard_states(collector.shard, collector.shards())),
        problems=problems,
        worst=WORST_PROBLEMS,
        matrix=model_matrix(summaries, MAX_MODELS, MAX_MATRIX_CLUSTERS),
        read=read,
        unread=unread,
        empty=[one.name for one in summaries if not one.nodes],
        latest=await latest_changes(collector, limit=MAX_CHANGES),
    )


async def clusters(request: web.Request) -> web.Response:
    """Show the clusters alone; `show` and `name` choose among them, `sort` orders them."""
    return await page(request, "clusters.html", **_cluster_list(request, await request.app[SUMMARIES].all()))


async def models(request: web.Request) -> web.Response:
    """Show how many GPUs of each model each cluster has."""
    summaries = await request.app[SUMMARIES].all()
    return await page(request, "models.html", matrix=model_matrix(summaries, MOST_MODELS, len(summaries)))


def _cluster_list(request: web.Request, summaries: list[ClusterSummary]) -> dict[str, Any]:
    show = ClusterShow(choice(request, "show", list(ClusterShow)))
    sort = choice(request, "sort", [*CLUSTER_SORTS, *(f"-{key}" for key in CLUSTER_SORTS)])
    name = request.query.get("name", "").strip()
    found = list_clusters(summaries, show, name, sort)
    part = window(request, len(found))
    totals: ClusterTotals = total(found)
    return {
        "shown": found[part.offset : part.offset + PAGE_ROWS],
        "totals": totals,
        "window": part,
        "show": show,
        "sort": sort,
        "name": name,
        "choices": CLUSTER_CHOICES,
        "failing_nodes": failing_nodes,
    }
