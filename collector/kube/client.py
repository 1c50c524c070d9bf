"""A session with one cluster's API server: every request, its credentials, its errors and its pace."""

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import anyio
import msgspec

from collector import config
from collector.files import file_stamp
from collector.kube import kubeconfig
from collector.kube.connection import ConnectionInfo
from collector.kube.credential_plugin import CredentialPlugin
from collector.kube.credentials import (
    Credential,
    Credentials,
    FileCredentials,
    RefreshingCredentials,
    StaticCredentials,
    basic,
    bearer,
)
from collector.kube.errors import BadContextError, ThrottledError, UnauthorizedError, from_transport
from collector.kube.limits import RateLimiter, SharedLimiter
from collector.kube.oidc import Oidc
from collector.kube.transport import ConnectionSettings, Query, Transport
from collector.text import one_line

__all__ = ["ApiClient"]

log = logging.getLogger(__name__)

_LOOK = 60.0  # seconds after which the kubeconfig and its certificates are looked at for changes
_CLOSE = 1.0  # seconds for a WebSocket's closing handshake
_MESSAGE = 1 << 26  # bytes of one WebSocket message
# Each holds its TLS buffers and what was printed, 0.5 MB; a hundred clusters that start at once must not add up.
_SOCKETS = SharedLimiter("WebSockets", 256)

_T = TypeVar("_T")
_Headers = list[tuple[str, str]]
_Send = Callable[[Transport, _Headers], Awaitable[_T]]


class ApiClient:
    """One cluster's API server.

    Every method raises a ClusterError, whatever goes wrong with the server, the way to it, or the credentials. A
    `timeout` is the server's, in seconds: waiting for our own limiter or credentials does not count. Files that change
    and credentials that expire are followed without dropping the requests under way. `clock` gives Unix seconds.
    """

    def __init__(self, cluster: config.ClusterSettings, *, clock: Callable[[], float] = time.time) -> None:
        self.host = cluster.context or "in_cluster"  # for messages; the server's URL once it is known
        self.limiter = RateLimiter(cluster.request_rate, cluster.request_burst)
        self._cluster = cluster
        self._clock = clock
        self._access: ConnectionInfo | None = None
        self._settings: ConnectionSettings
        self._credentials: Credentials
        self._stamps: dict[str, object] = {}
        self._looked = clock()
        self._changing = anyio.Lock()
        self._transport: Transport | None = None
        self._open: set[Transport] = set()

    async def __aenter__(self) -> Self:
        """Read the kubeconfig; nothing is sent yet. Raises BadContext."""
        await self._adopt(await anyio.to_thread.run_sync(self._find))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        for transport in self._open:
            await transport.close()

    @property
    def plugin(self) -> str:
        """The command of the exec plugin that gives the credentials; empty where there is none."""
        user = self._settings.access.user
        return (
            user.exec.command if user.exec is not None and isinstance(self._credentials, RefreshingCredentials) else ""
        )

    async def authenticate(self) -> None:
        """Obtain the credentials, as every request does by itself where it must."""
        await self._credentials.get()

    async def get(self, path: str, params: Query = (), *, timeout: float = 30.0) -> bytes:
        """Return the body at `path`."""
        return await self._call("GET", path, params, None, "", timeout)

    async def post(self, path: str, body: bytes | dict[str, Any], *, timeout: float = 30.0) -> bytes:
        """Create what `body`, JSON, describes; returns the answer's body."""
        return await self._call("POST", path, (), body, "application/json", timeout)

    async def patch(
        self, path: str, body: bytes | dict[str, Any], content_type: str, *, timeout: float = 30.0
    ) -> bytes:
        """Change what is at `path`; returns the answer's body."""
        return await self._call("PATCH", path, (), body, content_type, timeout)

    @asynccontextmanager
    async def stream(
        self, path: str, params: Query = (), *, timeout: float = 30.0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Give the body at `path` in chunks as they come; `timeout` is for the answer to begin."""

        async def send(transport: Transport, headers: _Headers) -> aiohttp.ClientResponse:
            with anyio.fail_after(timeout):
                return await transport.http.get(
                    transport.url(path, params),
                    headers=[*headers, ("Accept-Encoding", "identity")],
                    allow_redirects=False,
                    timeout=transport.timeout(),
                    **transport.route,
                )

        async with self._sent(send) as answer:
            try:
                yield _Chunks(answer.content, self.host)
            finally:
                answer.close()

    @asynccontextmanager
    async def websocket(
        self, path: str, params: Query = (), protocols: Sequence[str] = (), *, timeout: float = 30.0
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open a WebSocket; `timeout` is for the handshake. Left by an error or cancelled, it closes at once.

        Of all sessions together 256 are open at most; waiting for one of them to close does not count either.
        """
        sockets, borrower = _SOCKETS.limiter, object()

        async def send(transport: Transport, headers: _Headers) -> Any:
            await sockets.acquire_on_behalf_of(borrower)
            try:
                with anyio.fail_after(timeout):
                    return await transport.http.ws_connect(
                        transport.url(path, params),
                        protocols=protocols,
                        headers=headers,
                        max_msg_size=_MESSAGE,
                        timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE),
                        **transport.route,
                    )
            except BaseException:
                sockets.release_on_behalf_of(borrower)
                raise

        async with self._sent(send) as socket:
            try:
                yield socket
                await socket.close()
            except BaseException:
                socket.abort()
                raise
            finally:
                sockets.release_on_behalf_of(borrower)

    async def _call(
        self,
        method: str,
        path: str,
        params: Query,
        body: bytes | Mapping[str, Any] | None,
        content_type: str,
        timeout: float,
    ) -> bytes:
        data = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        extra = [("Content-Type", content_type)] if content_type else []

        async def send(transport: Transport, headers: _Headers) -> bytes:
            async with transport.http.request(
                method,
                transport.url(path, params),
                data=data,
                headers=[*headers, *extra, ("Accept-Encoding", transport.settings.encoding)],
                allow_redirects=False,
                timeout=transport.timeout(total=timeout),
                **transport.route,
            ) as answer:
                return await answer.read()

        async with self._sent(send) as answer:
            return answer

    @asynccontextmanager
    async def _sent(self, send: _Send[_T]) -> AsyncIterator[_T]:
        """Send one request and keep its connections for the body of the `with`."""
        transport, answer = await self._send(send)
        try:
            yield answer
        finally:
            await transport.release()

    async def _send(self, send: _Send[_T]) -> tuple[Transport, _T]:
        """Send one request, and once more if other credentials may cure a 401; the transport is then in use."""
        again = False
        while True:
            await self.limiter.acquire()
            transport, credential = await self._lease()
            headers = [("Authorization", credential.authorization)] if credential.authorization else []
            try:
                answer = await send(transport, headers)
            except BaseException as error:
                await transport.release()
                if isinstance(error, (aiohttp.ClientError, OSError)):
                    # The cause is left out: aiohttp's errors hold the request's headers and the proxy's password.
                    raise from_transport(self.host, error) from None
                if isinstance(error, ThrottledError):
                    self.limiter.throttled(error.retry_after)
                if again or not isinstance(error, UnauthorizedError) or not await self._renewed(transport, credential):
                    raise
                again = True
            else:
                self.limiter.succeeded()
                return transport, answer

    async def _lease(self) -> tuple[Transport, Credential]:
        """Give the transport to use now, in use, and the credential that goes with it."""
        await self._look()
        while True:
            credential = await self._credentials.get()
            transport = self._transport
            if transport is not None and self._fits(transport, credential):
                transport.acquire()
                return transport, credential
            async with self._changing:
                if transport is self._transport:
                    await self._replace(credential)

    def _fits(self, transport: Transport, credential: Credential) -> bool:
        return transport.settings is self._settings and transport.shown == (
            credential.certificate or transport.settings.shown
        )

    async def _replace(self, credential: Credential) -> None:
        settings, old = self._settings, self._transport
        self._transport = await Transport.open(settings, credential.certificate or settings.shown)
        self._open = {one for one in self._open if not one.http.closed} | {self._transport}
        if old is not None:
            await old.retire()

    async def _renewed(self, transport: Transport, credential: Credential) -> bool:
        """Tell whether there is something else to show than what the server has just refused."""
        self._credentials.refused(credential)
        await self._look(now=True)
        fresh = await self._credentials.get()
        return transport.settings is not self._settings or (
            (fresh.authorization, fresh.certificate) != (credential.authorization, credential.certificate)
        )

    async def _look(self, *, now: bool = False) -> None:
        """Follow the files that the session was made of, if one of them has changed."""
        if not now and 0 <= self._clock() - self._looked < _LOOK:
            return
        async with self._changing:
            if not now and 0 <= self._clock() - self._looked < _LOOK:
                return
            self._looked = self._clock()
            stamps = await anyio.to_thread.run_sync(_stamps, self._settings.access)
            if stamps == self._stamps:
                return
            self._stamps = stamps
            try:
                await self._adopt(await anyio.to_thread.run_sync(self._find))
            except BadContextError as error:
                log.warning("the changed files are not used: %s", error, extra={"cluster": self._cluster.name})

    def _find(self) -> ConnectionInfo:
        if self._cluster.context is None:
            return kubeconfig.in_cluster()
        return kubeconfig.find(self._cluster.context, self._cluster.kubeconfig)

    async def _adopt(self, access: ConnectionInfo) -> None:
        """Work by `access` from the next request on; credentials that it leaves as they were are kept."""
        stamps = await anyio.to_thread.run_sync(_stamps, access)
        settings = await anyio.to_thread.run_sync(ConnectionSettings, access)
        before = self._access
        if before is None or msgspec.structs.replace(before, where=access.where, files=access.files) != access:
            self._credentials = _credentials(access, self._clock)
        self._access, self._settings = access, settings
        # A stamp from before the files were read counts: what changed in between is then seen the next time.
        self._stamps = {path: self._stamps.get(path, stamp) for path, stamp in stamps.items()}
        self.host = settings.host


class _Chunks:
    """A body as it comes, with our errors."""

    def __init__(self, content: aiohttp.StreamReader, host: str) -> None:
        self._content = content
        self._host = host

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise from_transport(self._host, error) from None
        if not chunk:
            raise StopAsyncIteration
        return chunk


def _stamps(access: ConnectionInfo) -> dict[str, object]:
    return {path: file_stamp(path) for path in access.followed}


def _credentials(access: ConnectionInfo, clock: Callable[[], float]) -> Credentials:
    """Choose how a user authenticates, in the order in which kubectl prefers one over the other; raises BadContext."""
    user, where = access.user, access.where
    if user.token_file:
        return FileCredentials(Path(user.token_file), where=where, fallback=user.token, clock=clock)
    if user.token:
        return StaticCredentials(bearer(user.token, where))
    if user.username or user.password:
        return StaticCredentials(basic(user.username, user.password))
    if user.exec is not None:
        return RefreshingCredentials(CredentialPlugin(access).run, where=where, clock=clock)
    if user.auth_provider is not None:
        if user.auth_provider.name == "oidc":
            return RefreshingCredentials(Oidc(access, clock=clock).run, where=where, clock=clock)
        name = one_line(user.auth_provider.name, 40)
        successor = _SUCCESSORS.get(name)
        hint = f"; use the exec plugin {successor} instead" if successor else ""
        raise BadContextError(f'{where}: auth-provider "{name}" is not supported{hint}')
    return StaticCredentials(Credential())


_SUCCESSORS = {"gcp": "gke-gcloud-auth-plugin", "azure": "kubelogin"}
