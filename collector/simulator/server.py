"""One simulated API server: takes requests over TLS, authenticates, authorizes and hands them on."""

import ssl
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from collector.config import ConfigError
from collector.simulator import discovery, errors, reading, writing
from collector.simulator.connections import Connections
from collector.simulator.exec_sessions import ExecSessions
from collector.simulator.faults import Counters, Faults
from collector.simulator.objects import NODES, PODS, RESOURCES, Resource
from collector.simulator.requests import RequestInfo, flag, parse
from collector.simulator.state import State
from collector.simulator.storage import Storage

__all__ = ["USER", "ApiServer"]

USER = "simulated-user"


class ApiServer:
    """Serves one cluster's storage as a Kubernetes API server does."""

    def __init__(
        self,
        storage: Storage,
        *,
        token: str,
        print_xml: Callable[[str], bytes],
        latency: float,
        bookmark_interval: float,
        context: ssl.SSLContext,
        host: str,
    ) -> None:
        self.storage = storage
        self.token = token
        self.faults = Faults()
        self.counters = Counters()
        self.connections = Connections()
        self._state = State(storage, self.faults, self.counters, self.connections)
        self.execs = ExecSessions(self._state, print_xml, latency)
        self.bookmark_interval = bookmark_interval
        self.host = host
        self.port = 0
        self._context = context
        self._runner: web.ServerRunner | None = None

    @property
    def running(self) -> bool:
        """True while the port is open."""
        return self._runner is not None

    async def start(self, port: int) -> None:
        """Open `port` (0: a free one) on the host; raises ConfigError when it cannot be had."""
        # A client that goes away ends its watch and its exec: that is what handler_cancellation is for.
        server = web.Server(self._answer, handler_cancellation=True, access_log=None, keepalive_timeout=300)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.host, port, ssl_context=self._context, backlog=1024).start()
        except OSError as error:
            await runner.cleanup()
            raise ConfigError(f"{self.host}:{port}: cannot listen here: {error.strerror}") from error
        self.port = runner.addresses[0][1]
        self.connections.server = server
        self._runner = runner

    async def stop(self) -> None:
        """Close the port and every connection."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        self.connections.thaw()
        self.connections.drop()
        await runner.cleanup()
        self.connections.server = None

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        info = parse(request.method, request.path, watch=flag(request.query, "watch"))
        verb = "exec" if info.subresource == "exec" else info.verb
        self.counters.requests[verb, info.resource] += 1
        try:
            response = await self._respond(request, info)
        except errors.ApiError as error:
            response = web.Response(
                status=error.code, body=error.body, content_type="application/json", headers=error.headers
            )
        self.counters.responses[response.status] += 1
        await self.connections.pass_gate(request)
        return response

    async def _respond(self, request: web.BaseRequest, info: RequestInfo) -> web.StreamResponse:
        await self.connections.pass_gate(request)
        if not info.is_resource and info.resource in _HEALTH:
            return web.Response(text="ok")
        if self.faults.throttles():
            raise errors.too_many_requests(self.faults.retry_after)
        if self.faults.refuses_tokens or request.headers.get("Authorization") != f"Bearer {self.token}":
            raise errors.unauthorized()
        if not info.is_resource:
            return _discovery(info.resource)
        self._authorize(info)
        if info.resource in writing.REVIEWS:
            return writing.review(info, await writing.read_body(request), self.faults, USER)
        resource = RESOURCES.get((info.group, info.resource))
        if resource is None:
            raise errors.unknown_path()
        if info.subresource == "exec" and resource is PODS:
            return await self.execs.serve(request, info)
        if info.subresource and not (info.subresource == "status" and resource is NODES):
            raise errors.unknown_path()
        return await self._serve(request, info, resource)

    async def _serve(self, request: web.BaseRequest, info: RequestInfo, resource: Resource) -> web.StreamResponse:
        if info.verb not in resource.verbs:
            raise errors.method_not_allowed()
        if info.verb == "watch":
            return await reading.watch(self._state, request, info, resource, self.bookmark_interval)
        if info.verb == "list":
            return reading.listing(self.storage, request, info, resource, time.time())
        if info.verb == "get":
            return reading.get(self.storage, request, info, resource, time.time())
        body = b"" if info.verb == "delete" else await request.read()
        return writing.write(self.storage, info, resource, body, request.content_type)

    def _authorize(self, info: RequestInfo) -> None:
        # Exec over WebSocket is a GET, and since Kubernetes 1.35 needs the right to create all the same.
        verbs = {info.verb, "create"} if info.subresource == "exec" else {info.verb}
        for verb in sorted(verbs, reverse=True):
            if self.faults.denies(verb, info.right):
                raise errors.forbidden(USER, verb, info.right, info.group, info.namespace, info.name)


_HEALTH = {"/healthz", "/livez", "/readyz"}


def _discovery(path: str) -> web.Response:
    body = discovery.answer(path)
    if body is None:
        raise errors.unknown_path()
    return web.Response(body=body, content_type="application/json")


def describe(server: ApiServer) -> dict[str, Any]:
    """How a server is, for a reader."""
    return {
        "url": f"https://{server.host}:{server.port}",
        "running": server.running,
        "resource_version": server.storage.version,
        "faults": server.faults.describe(),
        "counters": server.counters.describe(),
    }
