"""The page for people: what is wrong, where everything is, what happened; HTML that needs no script."""

from aiohttp import web

from collector.web.limits import HttpLimits
from collector.web.pages import changes, chassis, clusters, gpus, health, nodes, past, problems, search, static, stream
from collector.web.pages.gpu_table import gpus as gpu_list
from collector.web.pages.index import clusters as cluster_list
from collector.web.pages.index import index, models
from collector.web.pages.lookup import lookup, scan
from collector.web.pages.node_table import nodes as node_list
from collector.web.pages.past import looking_back
from collector.web.pages.rendering import compile_templates, error_page, wants_page
from collector.web.pages.stream import STREAMS, Streams

__all__ = ["ROUTES", "SCAN", "STREAM", "add_to", "error_page", "index", "lookup", "wants_page"]

STREAM = "/changes/stream"
SCAN = "/scan"  # the one page that may use a camera
ROUTES = {  # a name in them may be anything but a slash, which is written %2F
    "/": looking_back(index, past.fleet),
    "/problems": problems.problems,
    "/search": search.search,
    "/clusters": cluster_list,
    "/models": models,
    "/nodes": node_list,
    "/gpus": gpu_list,
    "/lookup": lookup,
    SCAN: scan,
    "/clusters/{cluster:[^/]+}": looking_back(clusters.cluster, past.cluster),
    "/clusters/{cluster:[^/]+}/nodes/{node:[^/]+}": looking_back(nodes.node, past.node),
    "/chassis/{chassis:[^/]+}": chassis.chassis,
    "/gpus/{uuid:[^/]+}": looking_back(gpus.gpu, past.gpu),
    "/health": health.health,
    "/health.csv": health.health_csv,
    "/changes": changes.changes,
    "/static/{name}": static.static,
    STREAM: stream.stream_changes,
}


def add_to(app: web.Application, limits: HttpLimits) -> None:
    """Prepare an application for the page, whose paths are `ROUTES`."""
    compile_templates()
    app[STREAMS] = Streams(limits)
    app.on_shutdown.append(app[STREAMS].close)
