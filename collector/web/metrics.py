"""`/metrics` in the format that a scraper accepts, and `/sd`, from which scrapers learn their targets."""

from collections.abc import Iterator

import anyio.lowlevel
from aiohttp import web

from collector.exposition import Body
from collector.views.shards import read_by
from collector.web.keys import COLLECTOR
from collector.web.params import check_parameters
from collector.web.public_url import public_url

__all__ = ["accepts_gzip", "accepts_openmetrics", "collector", "metrics", "service_discovery"]

YIELD_INTERVAL_BYTES = 1 << 20  # between two turns of the event loop


async def metrics(request: web.Request) -> web.StreamResponse:
    """Return every series, or with `?cluster=` (repeatable) those of some clusters.

    A shard has only the series of the clusters that it reads.
    """
    check_parameters(request, {"cluster"}, repeatable={"cluster"})
    view = request.app[COLLECTOR]
    chosen = request.query.getall("cluster", None)
    for name in chosen or ():
        if name not in view.clusters():
            raise web.HTTPNotFound(text=f'unknown cluster "{name}"')
        if name not in view.own_clusters():
            raise web.HTTPNotFound(text=f'cluster "{name}" is {read_by(view.owner(name))}')
    body = await view.exposition.scrape(
        clusters=None if chosen is None else dict.fromkeys(chosen),
        openmetrics=accepts_openmetrics(request.headers.get("Accept", "")),
        gzip=accepts_gzip(request.headers.get("Accept-Encoding", "")),
    )
    await view.wait_committed()
    return await _send(request, body)


async def collector(request: web.Request) -> web.StreamResponse:
    """Return the series that belong to no cluster."""
    body = await request.app[COLLECTOR].exposition.scrape_collector(
        openmetrics=accepts_openmetrics(request.headers.get("Accept", "")),
        gzip=accepts_gzip(request.headers.get("Accept-Encoding", "")),
    )
    return await _send(request, body)


async def service_discovery(request: web.Request) -> web.Response:
    """Return Prometheus' HTTP service discovery: one target for each cluster, and one for the collector itself.

    A shard lists only the clusters that it reads.
    The format is Prometheus' (https://prometheus.io/docs/prometheus/latest/http_sd/).
    """
    view = request.app[COLLECTOR]
    scheme, host, prefix = public_url(request)
    if not host:
        raise web.HTTPBadRequest(text="Host header required")
    # Behind a proxy that says nothing, the scheme is the scrape job's own; a wrong one here would overrule it.
    common = {"__scheme__": scheme} if scheme else {}

    def group(path: str, **labels: str) -> dict[str, object]:
        return {
            "targets": [host],
            "labels": {**common, "__metrics_path__": f"{prefix}{path}", **labels},
        }

    names = sorted(view.own_clusters())
    groups = [group("/metrics", __param_cluster=name, **{view.cluster_label: name}) for name in names]
    return web.json_response([*groups, group("/metrics/collector")])


def accepts_openmetrics(accept: str) -> bool:
    """Return whether an Accept header prefers OpenMetrics 1.0.0 to the classic text format."""
    openmetrics = classic = 0.0
    for kind, parameters in _ranges(accept):
        quality = _quality(parameters)
        if kind == "application/openmetrics-text" and parameters.get("version", "1.0.0") == "1.0.0":
            openmetrics = max(openmetrics, quality)
        elif kind == "text/plain" and parameters.get("version", "0.0.4") == "0.0.4":
            classic = max(classic, quality)
    return openmetrics > 0 and openmetrics >= classic


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header allows gzip."""
    qualities = {kind: _quality(parameters) for kind, parameters in _ranges(accept_encoding)}
    return qualities.get("gzip", qualities.get("*", 0.0)) > 0


def _ranges(header: str) -> Iterator[tuple[str, dict[str, str]]]:
    for part in header.split(","):
        kind, *parameters = (text.strip() for text in part.split(";"))
        pairs = (parameter.partition("=") for parameter in parameters)
        yield kind.lower(), {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


def _quality(parameters: dict[str, str]) -> float:
    try:
        return float(parameters.get("q", "1"))
    except ValueError:
        return 0.0


async def _send(request: web.Request, body: Body) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": body.content_type, "Vary": "Accept, Accept-Encoding"})
    if body.encoding != "identity":
        response.headers["Content-Encoding"] = body.encoding
    response.content_length = body.length
    await response.prepare(request)
    if request.method != "HEAD":
        since_yield = 0
        for chunk in body.chunks:
            await response.write(chunk)
            since_yield += len(chunk)
            if since_yield > YIELD_INTERVAL_BYTES:
                since_yield = 0
                await anyio.lowlevel.checkpoint()
    await response.write_eof()
    return response
