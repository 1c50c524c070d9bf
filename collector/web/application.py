"""The routes of the HTTP server, and the headers of every response."""

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
    # A proxy may keep or strip the prefix of the public URL; `find_below_prefix` handles a prefix known only from
    # the request.
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

# Queries by POST, since thousands of ids do not fit into a URL; they change nothing.
LOOKUPS: dict[str, _Handler] = {
    "/lookup": pages.lookup,
    "/api/v1/gpus/lookup": lookup.lookup,
}

# All writes; each handler rejects unauthenticated clients.
WRITES: tuple[tuple[str, str, _Handler], ...] = (
    ("PUT", "/api/v1/gpus/{id}/mark", marks.set_mark),
    ("DELETE", "/api/v1/gpus/{id}/mark", marks.remove_mark),
)


@web.middleware
async def _errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Return every error as one line, JSON below /api and text elsewhere; browsers get a page."""
    below_api = local_path(request).startswith("/api/")
    request[IN_API] = below_api  # for errors that no handler catches
    try:
        if "\0" in request.path or "\0" in request.query_string:  # no name contains one, and PostgreSQL rejects it
            raise web.HTTPBadRequest(text="expected text without null characters")
        return await handler(request)
    except StoreError as caught:
        error: web.HTTPException = web.HTTPServiceUnavailable(text=str(caught))
    except web.HTTPException as caught:
        error = caught
        if error.status < 400:
            raise
    if request.writer.output_size > 0:  # once a response has started, only a broken connection can signal failure
        log.warning(
            "response aborted", extra={"path": one_line(request.path, 200), "reason": one_line(error.text or "")}
        )
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the response has already started") from error
    headers = {name: value for name, value in error.headers.items() if name in FORWARDED_HEADERS}
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("Retry-After", RETRY_AFTER_SECONDS)
    if below_api:
        return problem_response(error, headers)
    line = one_line(error.text or error.reason)  # it may quote the request
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
        # The URL of a packaged file changes with its content.
        response.headers["Cache-Control"] = "private, max-age=31536000, immutable"
    response.headers.setdefault("Cache-Control", "no-store")
