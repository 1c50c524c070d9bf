"""The first page: what is wrong, the clusters at a glance, what the fleet is made of, and what happened last."""

import itertools

from aiohttp import web

from collector.web.context import CONTEXT
from collector.web.pages.paging import ROWS, window
from collector.web.pages.rendering import page
from collector.web.pages.survey import SURVEYS, fleet_models, problems, sink_problems, store_problems

__all__ = ["index"]

_LATEST = 12  # changes
_PROBLEMS = 50
_MODELS = 20


async def index(request: web.Request) -> web.Response:
    """Show the fleet at a glance."""
    context = request.app[CONTEXT]
    found = await request.app[SURVEYS].all(context)
    wrong = [
        *store_problems(context.recording()),
        *sink_problems(context.sinks.by_name(), context.clock()),
        *(problem for one in found for problem in problems(one)),
    ]
    wrong.sort(key=lambda problem: not problem.grave)
    models = fleet_models(found)
    part = window(request, len(found))
    return await page(
        request,
        "index.html",
        clusters=found,
        shown=found[part.offset : part.offset + ROWS],
        window=part,
        problems=wrong[:_PROBLEMS],
        unsaid=max(0, len(wrong) - _PROBLEMS),
        models=models.most_common(_MODELS),
        gpus=models.total(),
        latest=list(itertools.islice(context.latest.newest(), _LATEST)),
    )
