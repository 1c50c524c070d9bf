"""The page for people: problems, places and changes, in HTML that needs no scripts."""

from aiohttp import web

from collector.web.limits import HttpLimits
from collector.web.pages import changes, chassis, clusters, gpus, health, nodes, past, problems, search, static, stream
from collector.web.pages.gpu_table import CHOICES, TEXTS
from collector.web.pages.gpu_table import gpus as gpu_list
from collector.web.pages.index import clusters as cluster_list
from collector.web.pages.index import index, models
from collector.web.pages.lookup import lookup, scan
from collector.web.pages.node_table import nodes as node_list
from collector.web.pages.past import looking_back
from collector.web.pages.rendering import error_page, wants_page
from collector.web.pages.stream import STREAMS, Streams
from collector.web.params import accepting

__all__ = ["ROUTES", "SCAN", "STREAM", "add_to", "error_page", "index", "lookup", "wants_page"]

STREAM = "/changes/stream"
CLUSTER_LIST = ("name", "show", "sort", "page")
NODE_LIST = (*CLUSTER_LIST, "model", "driver")
GPU_LIST = ("q", *TEXTS, *CHOICES, "sort", "page")
SCAN = "/scan"  # the only page that may use a camera
ROUTES = {  # a name in a path may be anything; a slash is written %2F
    "/": accepting(looking_back(index, past.fleet), *CLUSTER_LIST, "at"),
    "/problems": accepting(problems.problems),
    "/search": accepting(search.search, "q", "at", "page"),
    "/clusters": accepting(cluster_list, *CLUSTER_LIST),
    "/models": accepting(models),
    "/nodes": accepting(node_list, *NODE_LIST, "cluster"),
    "/gpus": accepting(gpu_list, *GPU_LIST),
    "/lookup": accepting(lookup, "ids", "format"),
    SCAN: accepting(scan),
    "/clusters/{cluster:[^/]+}": accepting(looking_back(clusters.cluster, past.cluster), *NODE_LIST, "at", "after"),
    "/clusters/{cluster:[^/]+}/nodes/{node:[^/]+}": accepting(looking_back(nodes.node, past.node), "at"),
    "/chassis/{chassis:[^/]+}": accepting(looking_back(chassis.chassis, past.chassis), "at"),
    "/gpus/{uuid:[^/]+}": accepting(looking_back(gpus.gpu, past.gpu), "at", "before"),
    "/health": accepting(health.health, *health.FILTERS, "page"),
    "/health.csv": health.health_csv,
    "/changes": changes.changes,
    "/static/{name}": static.static,
    STREAM: stream.stream_changes,
}


def add_to(app: web.Application, limits: HttpLimits) -> None:
    """Add the page to an application; its paths are `ROUTES`."""
    app[STREAMS] = Streams(limits)
    app.on_shutdown.append(app[STREAMS].close)
