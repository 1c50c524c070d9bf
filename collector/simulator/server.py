"""One simulated API server: accepts requests over TLS, authenticates, authorizes and dispatches them."""

import asyncio
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from aiohttp import web

from collector.config import ConfigError
from collector.simulator import discovery, errors, misbehaviour, read_verbs, write_verbs
from collector.simulator.connections import Connections
from collector.simulator.exec_sessions import ExecSessions
from collector.simulator.faults import Counters, Faults, Misbehaviour
from collector.simulator.images import Image
from collector.simulator.objects import NODES, PODS, RESOURCES, Resource
from collector.simulator.printing import PodLogs
from collector.simulator.requests import RequestInfo, flag, parse
from collector.simulator.service_accounts import ServiceAccounts
from collector.simulator.slices import Slices
from collector.simulator.smi import Printed
from collector.simulator.state import State
from collector.simulator.storage import Storage
from collector.text import describe_os_error

__all__ = ["USER", "ApiServer"]

USER = "simulated-user"

_HEALTH_PATHS = {"/healthz", "/livez", "/readyz"}
_KEEPALIVE_SECONDS = 300.0  # that an idle connection stays open
_SHUTDOWN_SECONDS = 0.1  # for open requests


class ApiServer:
    """Serves the storage of one cluster as a Kubernetes API server does."""

    def __init__(
        self,
        storage: Storage,
        *,
        token: str,
        slices: Slices,
        run_smi: Callable[[str, Sequence[str]], Printed],
        image: Callable[[str, str], Image],
        latency: float,
        bookmark_interval: float,
        context: ssl.SSLContext,
        host: str,
    ) -> None:
        self.storage = storage
        self.token = token
        self._slices = slices
        self.accounts = ServiceAccounts()
        self.faults = Faults()
        self.counters = Counters()
        self.connections = Connections()
        self._state = State(storage, self.faults, self.counters, self.connections)
        self.execs = ExecSessions(self._state, run_smi, image, latency)
        self.logs = PodLogs(self._state, run_smi)
        self.bookmark_interval = bookmark_interval
        self.host = host
        self.port = 0
        self._context = context
        self._runner: web.ServerRunner | None = None
        self._printing: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether the port is open."""
        return self._runner is not None

    async def start(self, port: int) -> None:
        """Open `port` (0: any free one) on the host; raises ConfigError if it is not available."""
        # With handler_cancellation a client that disconnects ends its watch or exec.
        server = web.Server(
            self._answer, handler_cancellation=True, access_log=None, keepalive_timeout=_KEEPALIVE_SECONDS
        )
        runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_SECONDS)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.host, port, ssl_context=self._context, backlog=1024).start()
        except OSError as error:
            await runner.cleanup()
            reason = describe_os_error(error, "unknown error")
            raise ConfigError(f"{self.host}:{port}: cannot listen here: {reason}") from error
        self.port = runner.addresses[0][1]
        self.connections.server = server
        self._runner = runner
        self._printing = asyncio.create_task(self.logs.run())

    async def stop(self) -> None:
        """Close the port and every connection."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        if self._printing is not None:
            self._printing.cancel()
        self.connections.thaw()
        self.connections.drop()
        await runner.cleanup()
        self.connections.server = None

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        info = parse(request.method, request.path, watch=flag(request.query, "watch"))
        verb = info.subresource if info.subresource in ("exec", "log") else info.verb
        self.counters.requests[verb, info.resource] += 1
        try:
            misbehaved = await misbehaviour.answer(self.faults, request)
            response = await self._respond(request, info) if misbehaved is None else misbehaved
        except errors.ApiError as error:
            response = web.Response(
                status=error.code, body=error.body, content_type="application/json", headers=error.headers
            )
        except ConnectionError:  # the client left before the answer began
            response = web.Response()
        self.counters.responses[response.status] += 1
        await self.connections.wait_until_thawed(request)
        return response

    async def _respond(self, request: web.BaseRequest, info: RequestInfo) -> web.StreamResponse:
        await self.connections.wait_until_thawed(request)
        if not info.is_resource and info.resource in _HEALTH_PATHS:
            return web.Response(text="ok")
        if self.faults.throttles():
            raise errors.too_many_requests(self.faults.retry_after)
        user = self._authenticate(request)
        if not info.is_resource:
            return self._discovery(info.resource)
        self._authorize(info, user)
        if info.resource in write_verbs.REVIEWS:
            return write_verbs.review(info, await write_verbs.read_body(request), self.faults, user)
        if (info.group, info.right) == ("", "serviceaccounts/token"):
            return await self.accounts.answer(info, request)
        resource = self._resource(info)
        if resource is None:
            raise errors.unknown_path()
        if info.subresource == "exec" and resource is PODS:
            return await self.execs.serve(request, info)
        if info.subresource == "log" and resource is PODS:
            return self.logs.serve(request, info)
        if info.subresource and not (info.subresource == "status" and resource is NODES):
            raise errors.unknown_path()
        return await self._serve(request, info, resource)

    def _resource(self, info: RequestInfo) -> Resource | None:
        known = (RESOURCES.get((info.group, info.resource)), self._slices.resource)
        wanted = (info.group, info.resource, info.version)
        return next((one for one in known if one and (one.group, one.plural, one.version) == wanted), None)

    def _discovery(self, path: str) -> web.Response:
        body = self._slices.discovery(path) or discovery.document(path)
        if body is None:
            raise errors.unknown_path()
        if path.rstrip("/") == "/apis" and (group := self._slices.group()) is not None:
            groups = msgspec.json.decode(body)
            body = msgspec.json.encode(groups | {"groups": [*groups["groups"], group]})
        return web.Response(body=body, content_type="application/json")

    async def _serve(self, request: web.BaseRequest, info: RequestInfo, resource: Resource) -> web.StreamResponse:
        if info.verb not in resource.verbs:
            raise errors.method_not_allowed()
        if info.verb == "watch":
            return await read_verbs.watch(self._state, request, info, resource, self.bookmark_interval)
        if info.verb == "list":
            listed = read_verbs.list_objects(self.storage, request, info, resource, time.time())
            return await misbehaviour.tear(request, listed) if self.faults.misbehaves(Misbehaviour.TORN) else listed
        if info.verb == "get":
            return read_verbs.get(self.storage, request, info, resource, time.time())
        body = b"" if info.verb == "delete" else await request.read()
        manager = request.query.get("fieldManager", "")
        return write_verbs.write(self.storage, info, resource, body, request.content_type, manager)

    def _authenticate(self, request: web.BaseRequest) -> str:
        """Return the user; raises ApiError 401."""
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        user = USER if token == self.token and not self.accounts.knows(token) else self.accounts.user(token)
        if self.faults.refuses_tokens or not user:
            raise errors.unauthorized()
        return user

    def _authorize(self, info: RequestInfo, user: str) -> None:
        # Exec over WebSocket is a GET, and since Kubernetes 1.35 also needs the right to create.
        verbs = {info.verb, "create"} if info.subresource == "exec" else {info.verb}
        for verb in sorted(verbs, reverse=True):
            if self.faults.denies(verb, info.right, info.namespace):
                raise errors.forbidden(user, verb, info.right, info.group, info.namespace, info.name)


def describe(server: ApiServer) -> dict[str, Any]:
    """Return the state of a server as JSON values."""
    return {
        "url": f"https://{server.host}:{server.port}",
        "running": server.running,
        "resource_version": server.storage.version,
        "faults": server.faults.describe(),
        "counters": server.counters.describe(),
    }
