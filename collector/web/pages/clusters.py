"""A cluster's page: its status, its problems and its nodes."""

from aiohttp import web

from collector.views.cluster_summary import summarize
from collector.views.latest_changes import latest_changes
from collector.views.problems.current import cluster_problems
from collector.web.keys import COLLECTOR
from collector.web.pages.node_table import node_table
from collector.web.pages.rendering import page

__all__ = ["cluster"]

MAX_LATEST = 5  # changes


async def cluster(request: web.Request) -> web.Response:
    """Show one cluster with its nodes."""
    collector = request.app[COLLECTOR]
    name = request.match_info["cluster"]
    if name not in collector.clusters() and name not in collector.inventory.clusters():
        raise web.HTTPNotFound(text=f"No cluster named “{name}” is configured.")
    table = await node_table(request, name)
    summary = await summarize(collector, name)
    return await page(
        request,
        "cluster.html",
        cluster=summary,
        owner=collector.owner(name),
        own=name in collector.own_clusters(),
        problems=await cluster_problems(collector, summary),
        latest=await latest_changes(collector, cluster=name, limit=MAX_LATEST),
        **table,
    )
