"""The page for people: the clusters at a glance, and a search for a serial, UUID, chassis, node or machine."""

from typing import Any

import jinja2
from aiohttp import web

from collector import __version__
from collector.web.api import cluster_row, gpu_row, search_placements
from collector.web.context import CONTEXT

__all__ = ["index", "search"]

_SHOWN = 500  # rows of a result; a chassis or a node has far fewer

_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("collector.web"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
)


async def index(request: web.Request) -> web.Response:
    """Show the clusters and where everything else is."""
    context = request.app[CONTEXT]
    rows = [cluster_row(context, name) for name in sorted(context.clusters())]
    return _html("index.html", clusters=rows)


async def search(request: web.Request) -> web.Response:
    """Show where what was searched for is."""
    context = request.app[CONTEXT]
    term = request.query.get("q", "").strip()
    found = search_placements(context, term) if term else []
    rows = [gpu_row(context, placement) for placement in found[:_SHOWN]]
    return _html("search.html", term=term, gpus=rows, total=len(found))


def _html(template: str, **values: Any) -> web.Response:
    text = _templates.get_template(template).render(version=__version__, **values)
    return web.Response(text=text, content_type="text/html")
