"""`/metrics` in the form that the scraper asks for, and `/sd`, where scrapers learn what to ask for."""

from collections.abc import Iterator

import anyio
import anyio.lowlevel
from aiohttp import web

from collector.exposition import Body
from collector.web.context import CONTEXT
from collector.web.rows import check_parameters

__all__ = ["accepts_gzip", "accepts_openmetrics", "collector", "metrics", "service_discovery"]

_WRITE_TIMEOUT = 30.0  # seconds that a client may take for one piece
_TURN = 1 << 20  # bytes between two turns of the event loop


async def metrics(request: web.Request) -> web.StreamResponse:
    """Answer every series, or with `?cluster=` (repeatable) those of some clusters."""
    check_parameters(request, {"cluster"}, repeatable={"cluster"})
    context = request.app[CONTEXT]
    chosen = request.query.getall("cluster", None)
    for name in chosen or ():
        if name not in context.clusters():
            raise web.HTTPNotFound(text=f'there is no cluster "{name}"')
    body = await context.exposition.scrape(
        clusters=None if chosen is None else dict.fromkeys(chosen),
        openmetrics=accepts_openmetrics(request.headers.get("Accept", "")),
        gzip=accepts_gzip(request.headers.get("Accept-Encoding", "")),
    )
    await context.durable()
    return await _send(request, body)


async def collector(request: web.Request) -> web.StreamResponse:
    """Answer the series that belong to no cluster."""
    body = await request.app[CONTEXT].exposition.scrape_collector(
        openmetrics=accepts_openmetrics(request.headers.get("Accept", "")),
        gzip=accepts_gzip(request.headers.get("Accept-Encoding", "")),
    )
    return await _send(request, body)


async def service_discovery(request: web.Request) -> web.Response:
    """Answer Prometheus' HTTP service discovery: one target for each cluster, and one for the collector itself.

    The form is Prometheus' (https://prometheus.io/docs/prometheus/latest/http_sd/).
    """
    context = request.app[CONTEXT]
    if not request.host:
        raise web.HTTPBadRequest(text="expected a Host header with the address that the targets are to have")

    def group(path: str, **labels: str) -> dict[str, object]:
        return {
            "targets": [request.host],
            "labels": {"__scheme__": request.scheme, "__metrics_path__": path, **labels},
        }

    groups = [
        group("/metrics", __param_cluster=name, **{context.cluster_label: name}) for name in sorted(context.clusters())
    ]
    return web.json_response([*groups, group("/metrics/collector")])


def accepts_openmetrics(accept: str) -> bool:
    """Tell whether an Accept header prefers OpenMetrics 1.0.0 to the classic text format."""
    openmetrics = classic = 0.0
    for kind, parameters in _ranges(accept):
        quality = _quality(parameters)
        if kind == "application/openmetrics-text" and parameters.get("version", "1.0.0") == "1.0.0":
            openmetrics = max(openmetrics, quality)
        elif kind == "text/plain" and parameters.get("version", "0.0.4") == "0.0.4":
            classic = max(classic, quality)
    return openmetrics > 0 and openmetrics >= classic


def accepts_gzip(accept_encoding: str) -> bool:
    """Tell whether an Accept-Encoding header allows gzip."""
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
        unturned = 0
        for chunk in body.chunks:
            with anyio.fail_after(_WRITE_TIMEOUT):
                await response.write(chunk)
            unturned += len(chunk)
            if unturned > _TURN:
                unturned = 0
                await anyio.lowlevel.checkpoint()
    await response.write_eof()
    return response
