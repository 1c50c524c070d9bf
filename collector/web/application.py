"""Which handler answers which path, and the headers that every answer carries."""

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from collector.config import ServerSettings
from collector.store import StoreError
from collector.text import one_line
from collector.views.cluster_summary import ClusterSummaries
from collector.views.collector_view import CollectorView
from collector.views.health import HealthSurveys
from collector.views.problems.current import FleetProblems
from collector.web import api, health, history, lookup, marks, metrics, pages
from collector.web.answers import compressing
from collector.web.auth import authentication
from collector.web.keys import COLLECTOR, HEALTH_SURVEYS, PROBLEMS, SUMMARIES
from collector.web.limits import DEFAULT_LIMITS, HttpLimits
from collector.web.problem import IN_API, problem_response
from collector.web.public_url import EXTERNAL_URL, PublicUrl, find_below_prefix, local_path, route_below_prefix
from collector.web.security_headers import CAMERA_POLICY, SECURITY_HEADERS

__all__ = ["LOOKUPS", "ROUTES", "WRITES", "application"]

log = logging.getLogger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

RETRY_AFTER_SECONDS = "5"
FORWARDED_HEADERS = ("Allow", "Retry-After", "WWW-Authenticate")  # of an error


def application(
    collector: CollectorView, server: ServerSettings, limits: HttpLimits = DEFAULT_LIMITS
) -> web.Application:
    """Return the HTTP application of a collector."""
    app = web.Application(
        middlewares=[find_below_prefix, _errors, authentication(server), compressing, route_below_prefix]
    )
    app[COLLECTOR] = collector
    app[SUMMARIES] = ClusterSummaries(collector)
    app[PROBLEMS] = FleetProblems(collector, app[SUMMARIES])
    app[HEALTH_SURVEYS] = HealthSurveys(collector)
    app[health.READINESS] = health.Readiness()
    app.on_response_prepare.append(_add_headers)
    app[EXTERNAL_URL] = external = PublicUrl.parse(server.external_url) if server.external_url else None
    pages.add_to(app, limits)
    # A proxy may leave the prefix of the public URL in the path, or take it away; `find_below_prefix` does the same
    # for a prefix that only the request names.
    for prefix in {"", external.prefix if external else ""}:
        app.router.add_routes(
            [web.get(f"{prefix}{path}", handler, allow_head=path != pages.STREAM) for path, handler in ROUTES.items()]
        )
        app.router.add_routes([web.route(method, f"{prefix}{path}", handler) for method, path, handler in WRITES])
        app.router.add_routes([web.post(f"{prefix}{path}", handler) for path, handler in LOOKUPS.items()])
        if prefix:
            app.router.add_get(prefix, pages.index)
    return app


ROUTES: dict[str, _Handler] = {
    **pages.ROUTES,
    "/metrics": metrics.metrics,
    "/metrics/collector": metrics.collector,
    "/sd": metrics.service_discovery,
    "/healthz": health.healthz,
    "/readyz": health.readyz,
    "/api/v1/openapi.json": api.document,
    "/api/v1/clusters": api.clusters,
    "/api/v1/clusters/{cluster}": api.cluster,
    "/api/v1/clusters/{cluster}/nodes/{node}": api.node,
    "/api/v1/nodes": api.nodes,
    "/api/v1/gpus": api.gpus,
    "/api/v1/gpus/{id}": api.gpu,
    "/api/v1/problems": api.problems,
    "/api/v1/gpus/{id}/history": history.gpu,
    "/api/v1/nodes/{node}/history": history.node,
    "/api/v1/changes": history.changes,
    "/api/v1/marks": marks.marks,
    "/api/v1/suggest": lookup.suggestions,
}

# What is asked by POST, since ids in thousands fit into no address; they change nothing.
LOOKUPS: dict[str, _Handler] = {
    "/lookup": pages.lookup,
    "/api/v1/gpus/lookup": lookup.lookup,
}

# All that writes anything; each handler refuses who has not authenticated.
WRITES: tuple[tuple[str, str, _Handler], ...] = (
    ("PUT", "/api/v1/gpus/{id}/mark", marks.set_mark),
    ("DELETE", "/api/v1/gpus/{id}/mark", marks.remove_mark),
)


@web.middleware
async def _errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Return every error in one line, as JSON below /api and as text elsewhere; a browser gets a page."""
    below_api = local_path(request).startswith("/api/")
    request[IN_API] = below_api  # for what no handler catches
    try:
        if "\0" in request.path or "\0" in request.query_string:  # no name has one, and PostgreSQL takes none
            raise web.HTTPBadRequest(text="expected text without null characters")
        return await handler(request)
    except StoreError as caught:
        error: web.HTTPException = web.HTTPServiceUnavailable(text=str(caught))
    except web.HTTPException as caught:
        error = caught
        if error.status < 400:
            raise
    if request.writer.output_size > 0:  # of an answer that has begun, only a broken connection says that it failed
        log.warning(
            "answer broken off", extra={"path": one_line(request.path, 200), "reason": one_line(error.text or "")}
        )
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the answer has begun already") from error
    headers = {name: value for name, value in error.headers.items() if name in FORWARDED_HEADERS}
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("Retry-After", RETRY_AFTER_SECONDS)
    if below_api:
        return problem_response(error, headers)
    line = one_line(error.text or error.reason)  # it may repeat what was asked for
    if pages.wants_page(request):
        answer = await pages.error_page(request, error)
        answer.headers.update(headers)
        return answer
    return web.Response(text=f"{line}\n", status=error.status, headers=headers)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(SECURITY_HEADERS)
    if local_path(request) == pages.SCAN and response.status == 200:
        response.headers["Permissions-Policy"] = CAMERA_POLICY
    if local_path(request).startswith("/static/") and response.status == 200:
        # The address of a packaged file changes with its content.
        response.headers["Cache-Control"] = "private, max-age=31536000, immutable"
    response.headers.setdefault("Cache-Control", "no-store")
