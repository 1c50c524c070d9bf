"""The page for people: what is wrong, where everything is, what happened; HTML that needs no script."""

from aiohttp import web

from collector.web.limits import HttpLimits
from collector.web.pages import changes, clusters, gpus, index, nodes, search, static, stream
from collector.web.pages.rendering import compile_templates, error_page, wants_page
from collector.web.pages.stream import STREAMS, Streams

__all__ = ["add_to", "error_page", "wants_page"]


def add_to(app: web.Application, limits: HttpLimits) -> None:
    """Add the page to an application."""
    compile_templates()
    app[STREAMS] = Streams(limits.max_streams, limits.max_stream_time)
    app.on_shutdown.append(app[STREAMS].close)
    app.router.add_routes(_routes())


def _routes() -> list[web.RouteDef]:
    """Return the page's paths; a name in them may be anything but a slash, which is written %2F."""
    return [
        web.get("/", index.index),
        web.get("/search", search.search),
        web.get("/clusters/{cluster:[^/]+}", clusters.cluster),
        web.get("/clusters/{cluster:[^/]+}/nodes/{node:[^/]+}", nodes.node),
        web.get("/gpus/{uuid:[^/]+}", gpus.gpu),
        web.get("/changes", changes.changes),
        web.get("/static/{name}", static.static),
        web.get("/changes/stream", stream.stream_changes, allow_head=False),
    ]
