"""The first page: what is wrong, the clusters at a glance, what the fleet is made of, and the latest changes."""

import functools
from collections import Counter

from aiohttp import web

from collector.views.cluster_summary import fleet_coverage, fleet_models
from collector.views.fleet_health import Share
from collector.views.latest_changes import latest_changes
from collector.web.keys import COLLECTOR, PROBLEMS, SUMMARIES
from collector.web.pages.paging import PAGE_ROWS, window
from collector.web.pages.rendering import page

__all__ = ["index"]

WORST_PROBLEMS = 5  # that are shown here; /problems has them all
MAX_MODELS = 20


async def index(request: web.Request) -> web.Response:
    """Show the fleet at a glance."""
    collector = request.app[COLLECTOR]
    summaries = await request.app[SUMMARIES].all()
    lead = collector.lead_status
    problems = await request.app[PROBLEMS].all()
    models = fleet_models(summaries)
    read, unread = fleet_coverage(summaries)
    part = window(request, len(summaries))
    return await page(
        request,
        "index.html",
        clusters=summaries,
        shown=summaries[part.offset : part.offset + PAGE_ROWS],
        window=part,
        leader=lead.holder if lead is not None and lead.has_leader and not lead.leads else "",
        problems=problems,
        worst=WORST_PROBLEMS,
        models=models.most_common(MAX_MODELS),
        gpus=models.total(),
        degraded=sum((summary.degraded for summary in summaries), Counter()),
        share=functools.reduce(Share.plus, (summary.share for summary in summaries), Share()),
        read=read,
        unread=unread,
        latest=await latest_changes(collector),
    )
