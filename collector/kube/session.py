"""A session with one API server: sends requests with its connections, credentials, rate limit, retry and errors.

Requests are built elsewhere: by the generated API classes, through `collector.kube.client`.
"""

import functools
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import NamedTuple, Self, TypeVar

import aiohttp
import anyio
import anyio.to_thread
import msgspec

from collector.config import ClusterSettings
from collector.files import file_stamp, in_time
from collector.kube import authentication, kubeconfig
from collector.kube.connection import ClusterEntry, ConnectionInfo
from collector.kube.credential_plugin import PLUGIN_TIMEOUT_SECONDS
from collector.kube.credentials import Credential, Credentials, RefreshingCredentials
from collector.kube.errors import (
    ClusterError,
    ExpiredTokenError,
    ForbiddenError,
    LimitExceededError,
    ThrottledError,
    UnauthorizedError,
    UnreachableError,
    UntrustedCertificateError,
    from_transport,
    unexpected,
)
from collector.kube.identity import Evidence, Proof
from collector.kube.limits import LoopShare, RateLimiter, SharedLimiter
from collector.kube.secrets import add_connection, add_credential
from collector.kube.token_credentials import TokenCredentials
from collector.kube.transport import ConnectionSettings, Transport, WebSocket, request_timeout
from collector.proxies import describe
from collector.redaction import Secrets, redacting
from collector.tls import Validity

__all__ = ["REQUEST_TIMEOUT_SECONDS", "Answer", "HandedOver", "Request", "Session"]

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_SECONDS = 30.0
FILE_CHECK_INTERVAL_SECONDS = 60.0  # how often the kubeconfig and its certificates are checked for changes
WEBSOCKET_CLOSE_TIMEOUT_SECONDS = 1.0  # for the closing handshake
PIECE_BYTES = 64 << 10  # bytes of a body taken in one piece, and so processed in one turn
MAX_MESSAGE_BYTES = 16 << 20  # bytes of a WebSocket, unless the caller sets a limit
# Each WebSocket holds its TLS buffers and the command's output, 0.5 MB: this must not add up for a hundred clusters
# that start at the same time.
_ALL_WEBSOCKETS = SharedLimiter("WebSockets", 256)

_NOT_REPORTED = Validity(math.nan, math.nan)

_T = TypeVar("_T")
_Headers = list[tuple[str, str]]
_Send = Callable[[Transport, _Headers], Awaitable[_T]]


HandedOver = MutableMapping[tuple[str | None, str | None], tuple[ClusterEntry, Credentials]]
"""By kubeconfig and context: the credentials of the last session there, and the server that they are for."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request to an API server, not sent yet."""

    method: str = "GET"
    path: str  # below the server's URL, percent-encoded
    query: Sequence[tuple[str, str]] = ()
    headers: Sequence[tuple[str, str]] = ()
    body: bytes | None = None


class Answer(NamedTuple):
    """A successful response (2xx), read to the end."""

    status: int
    body: bytes


class Session:
    """The state shared by all requests to one API server.

    Every method raises ClusterError for any problem with the server, the network or the credentials; neither its text
    nor that of any other error of ours from a stream or a WebSocket repeats one of the `secrets`. A `timeout` covers
    the server only, in seconds: waiting for our own limiter or credentials does not count. A request is repeated once
    after a 401 if there are other credentials to try, or after no response, such as for an untrusted certificate, if
    the kubeconfig or its certificates have changed. When files change or credentials expire, the next request uses the
    new ones, and requests in progress are not interrupted.

    `clock` returns Unix seconds; `service_account` is the folder of an in-cluster session; `websockets` limits the
    number of open ones across all sessions; `plugin_timeout` limits credential plugins. `handed_over` are the
    credentials of earlier sessions, whose renewed tokens remain in use, and those of this one. `on_credential_expiry`
    is called with the validity of credentials that gpuid cannot renew (None: no expiry), initially and on every change.
    `on_proof` is called with the proofs of the server's identity whenever they change.
    """

    def __init__(
        self,
        cluster: ClusterSettings,
        *,
        clock: Callable[[], float] = time.time,
        service_account: Path = kubeconfig.SERVICE_ACCOUNT_FOLDER,
        websockets: SharedLimiter = _ALL_WEBSOCKETS,
        websocket_close_timeout: float = WEBSOCKET_CLOSE_TIMEOUT_SECONDS,
        plugin_timeout: float = PLUGIN_TIMEOUT_SECONDS,
        handed_over: HandedOver | None = None,
        on_credential_expiry: Callable[[Validity | None], None] = lambda _expiry: None,
        on_proof: Callable[[frozenset[Proof]], None] = lambda _proofs: None,
    ) -> None:
        self.host = cluster.context or "in_cluster"  # for messages; the server's URL once it is known
        self.cluster = cluster
        self.limiter = RateLimiter(cluster.request_rate, cluster.request_burst)
        self.evidence = Evidence(on_proof)  # proof of the server's identity
        self.secrets = Secrets()  # redacted from everything the server may repeat
        self.share = LoopShare(cluster.loop_share)  # share of the event loop for processing the server's responses
        self._clock = clock
        self._service_account = service_account
        self._websockets = websockets
        self._websocket_close_timeout = websocket_close_timeout
        self._plugin_timeout = plugin_timeout
        self._handed_over: HandedOver = {} if handed_over is None else handed_over
        self._on_credential_expiry = on_credential_expiry
        self._expiry: Validity | None = _NOT_REPORTED
        self._info: ConnectionInfo | None = None
        self._settings: ConnectionSettings
        self._credentials: Credentials
        self._presented: Credential | None = None  # the last credential whose secrets are among `secrets`
        self._stamps: dict[str, object] = {}
        self._checked_at = clock()
        self._changing = anyio.Lock()
        self._transport: Transport | None = None
        self._open: set[Transport] = set()

    async def __aenter__(self) -> Self:
        """Read the kubeconfig; nothing is sent yet. Raises BadContextError."""
        with redacting(self.secrets):
            await self._connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        for transport in self._open:
            await transport.close()

    @property
    def credential_plugin(self) -> str:
        """The command of the exec credential plugin in use; empty if there is none."""
        plugin = self._settings.info.user.exec
        return plugin.command if plugin is not None and isinstance(self._credentials, RefreshingCredentials) else ""

    @property
    def tokens(self) -> TokenCredentials | None:
        """The credentials in use if they are a token in the kubeconfig or in a file that it names."""
        return self._credentials if isinstance(self._credentials, TokenCredentials) else None

    @property
    def namespace(self) -> str:
        """The namespace of the kubeconfig's context; empty if unset."""
        return self._settings.info.namespace

    @property
    def anonymous(self) -> bool:
        """Whether the kubeconfig has no credentials."""
        user = self._settings.info.user
        return user.kind == "none" and not user.password and not self._settings.authorization

    async def authenticate(self) -> None:
        """Obtain the credentials now; requests otherwise do so on demand."""
        with redacting(self.secrets):
            await self._credential()

    async def fetch(
        self, request: Request, *, timeout: float = REQUEST_TIMEOUT_SECONDS, credential: Credential | None = None
    ) -> Answer:
        """Send a request and read the whole response, both within `timeout`; LimitExceededError for a large one.

        `credential`, if given, replaces our own, with no fallback if it is refused.
        """

        async def send(transport: Transport, headers: _Headers) -> Answer:
            async with transport.http.request(
                request.method,
                transport.url(request.path, request.query),
                data=request.body,
                headers=[*request.headers, *headers, ("Accept-Encoding", transport.settings.encoding)],
                allow_redirects=False,
                timeout=request_timeout(timeout),
                **transport.route,
            ) as response:
                return Answer(response.status, await self._body(response))

        async with self._sent(send, credential) as answer:
            return answer

    @asynccontextmanager
    async def stream(
        self, request: Request, *, timeout: float = REQUEST_TIMEOUT_SECONDS
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield the body in chunks as they arrive; `timeout` covers the time until the response begins."""

        async def send(transport: Transport, headers: _Headers) -> aiohttp.ClientResponse:
            with anyio.fail_after(timeout):
                return await transport.http.request(
                    request.method,
                    transport.url(request.path, request.query),
                    data=request.body,
                    headers=[*request.headers, *headers, ("Accept-Encoding", "identity")],
                    allow_redirects=False,
                    timeout=request_timeout(),
                    **transport.route,
                )

        async with self._sent(send) as response:
            try:
                yield _Chunks(response.content, self.host, self.share)
            finally:
                response.close()

    @asynccontextmanager
    async def websocket(
        self,
        request: Request,
        protocols: Sequence[str] = (),
        *,
        timeout: float = REQUEST_TIMEOUT_SECONDS,
        max_message_size: int = MAX_MESSAGE_BYTES,
    ) -> AsyncIterator[WebSocket]:
        """Yield an open WebSocket; `timeout` covers the handshake.

        On an error or cancellation, it closes immediately. Waiting for the limit across all sessions does not count
        either.
        """
        places, borrower = self._websockets.limiter, object()

        async def send(transport: Transport, headers: _Headers) -> WebSocket:
            await places.acquire_on_behalf_of(borrower)
            try:
                with anyio.fail_after(timeout):
                    return await transport.websocket(
                        request.path,
                        request.query,
                        protocols=protocols,
                        headers=[*request.headers, *headers],
                        close_timeout=self._websocket_close_timeout,
                        max_message_size=max_message_size,
                    )
            except BaseException:
                places.release_on_behalf_of(borrower)
                raise

        async with self._sent(send) as socket:
            try:
                yield socket
                await socket.close()
            except BaseException:
                socket.abort()
                raise
            finally:
                places.release_on_behalf_of(borrower)

    # Sending

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        """Return the body, decompressed in small pieces and never beyond the limit."""
        body, limit = bytearray(), self.cluster.max_answer_size
        while True:
            chunk = await _read(response.content, self.share)
            if not chunk:
                return bytes(body)
            started = self.share.clock()
            body += chunk
            if len(body) > limit:
                response.close()
                what = f"a response is larger than {limit}, decompressed"
                raise LimitExceededError.of(self.host, what, "max_answer_size")
            await self.share.pause(started)

    @asynccontextmanager
    async def _sent(self, send: _Send[_T], instead: Credential | None = None) -> AsyncIterator[_T]:
        """Send one request and keep its connections for the body of the `with`, whose errors are redacted, too."""
        with redacting(self.secrets):
            transport, answer = await self._send(send, instead)
            try:
                yield answer
            finally:
                await transport.release()

    async def _send(self, send: _Send[_T], instead: Credential | None = None) -> tuple[Transport, _T]:
        """Send one request, twice if other credentials or certificates may help; the transport returned is in use."""
        repeated = instead is not None
        while True:
            await self.limiter.acquire()
            transport, own = await self._lease()
            credential = instead or own
            authorization = credential.authorization or transport.settings.authorization
            headers = [("Authorization", authorization)] if authorization else []
            try:
                answer = await send(transport, headers)
            except BaseException as error:
                await transport.release()
                if isinstance(error, ThrottledError):
                    self.limiter.throttled(error.retry_after)
                # The cause is left out: aiohttp's errors contain the request's headers and the proxy's password.
                foreign = isinstance(error, (aiohttp.ClientError, OSError))
                failure = from_transport(self.host, error) if foreign else error
                if repeated or not await self._cured(failure, transport, credential):
                    raise _with_proxy(self._explained(failure, transport, credential), transport) from None
                repeated = True
            else:
                self.limiter.succeeded()
                return transport, answer

    async def _lease(self) -> tuple[Transport, Credential]:
        """Return the current transport, in use, and the credential that goes with it."""
        await self._reload_if_changed()
        while True:
            credential = await self._credential()
            if credential is not self._presented:
                add_credential(self.secrets, credential)
                self._presented = credential
            transport = self._transport
            if transport is not None and self._fits(transport, credential):
                self._report_expiry(transport, credential)
                transport.acquire()
                return transport, credential
            async with self._changing:
                if transport is self._transport:
                    await self._replace_transport(credential)

    def _fits(self, transport: Transport, credential: Credential) -> bool:
        return transport.settings is self._settings and transport.client_certificate == (
            credential.certificate or transport.settings.client_certificate
        )

    async def _replace_transport(self, credential: Credential) -> None:
        settings, old = self._settings, self._transport
        self._transport = await Transport.open(
            settings,
            credential.certificate or settings.client_certificate,
            self.secrets,
            share=self.share,
            max_error_size=self.cluster.max_error_size,
        )
        self._open = {one for one in self._open if not one.http.closed} | {self._transport}
        if old is not None:
            await old.retire()

    async def _credential(self) -> Credential:
        """Return the credential to use now; raises ClusterError."""
        try:
            return await self._credentials.get()
        except ClusterError:
            raise
        except Exception as error:
            raise unexpected(f"{self._settings.info.where}: obtaining credentials", error) from None

    def _report_expiry(self, transport: Transport, credential: Credential) -> None:
        """Report the earliest expiry of our credentials, if it has changed."""
        own = transport.settings.validity if credential.certificate is None else None
        expiry = min((found for found in (own, credential.lapse) if found), key=lambda found: found.ends, default=None)
        if expiry != self._expiry:
            self._expiry = expiry
            self._on_credential_expiry(expiry)

    async def _cured(self, error: BaseException, transport: Transport, credential: Credential) -> bool:
        """Return whether a retry may succeed: with other credentials, or a changed kubeconfig."""
        if isinstance(error, UnauthorizedError):
            return await self._renewed(transport, credential)
        return isinstance(error, UnreachableError) and await self._changed(transport)

    def _explained(self, error: BaseException, transport: Transport, credential: Credential) -> BaseException:
        """Return the error with what is known of our credentials, if they may be the cause."""
        settings, why = transport.settings, ""
        if isinstance(error, (UnauthorizedError, ForbiddenError)):
            why = settings.credential_problem(credential, self._clock())
            if isinstance(error, UnauthorizedError) and settings.has_lapsed(credential, self._clock()):
                return ExpiredTokenError(f"{error}; {why}")
        elif isinstance(error, UnreachableError) and not isinstance(error, UntrustedCertificateError):
            why = settings.certificate_problem(credential, self._clock())
        return type(error)(f"{error}; {why}") if why else error

    async def _renewed(self, transport: Transport, credential: Credential) -> bool:
        """Return whether there are now other credentials than those just refused."""
        self._credentials.refused(credential)
        changed = await self._changed(transport)
        fresh = await self._credential()
        return changed or (
            (fresh.authorization, fresh.certificate) != (credential.authorization, credential.certificate)
        )

    async def _changed(self, transport: Transport) -> bool:
        """Return whether the files differ from those that a transport was made from."""
        await self._reload_if_changed(now=True)
        return transport.settings is not self._settings

    # The files that describe the connection

    async def _reload_if_changed(self, *, now: bool = False) -> None:
        """Read the kubeconfig and its certificates again if a file has changed; checks once a minute, or `now`."""
        if not now and not self._check_due():
            return
        async with self._changing:
            if not now and not self._check_due():
                return
            self._checked_at = self._clock()
            stamps = await anyio.to_thread.run_sync(_stamps, self._settings.info, self._stamps, abandon_on_cancel=True)
            if stamps == self._stamps:
                return
            self._stamps = stamps
            try:
                await self._connect()
            except ClusterError as error:
                log.warning("ignoring changed kubeconfig files: %s", error, extra={"cluster": self.cluster.name})
            self._credentials.reset([(file, stamps[file]) for file in self._settings.info.files if file in stamps])

    def _check_due(self) -> bool:
        return not 0 <= self._clock() - self._checked_at < FILE_CHECK_INTERVAL_SECONDS

    def _find(self) -> ConnectionInfo:
        if self.cluster.context is None:
            return kubeconfig.in_cluster(self._service_account)
        return kubeconfig.find(self.cluster.context, self.cluster.kubeconfig)

    async def _connect(self) -> None:
        """Read the kubeconfig and connect as it says from the next request on; raises BadContextError."""
        try:
            await self._adopt(await anyio.to_thread.run_sync(self._find, abandon_on_cancel=True))
        except ClusterError:
            raise
        except Exception as error:
            raise unexpected(f"{self.host}: reading its kubeconfig", error) from None

    async def _adopt(self, info: ConnectionInfo) -> None:
        """Connect as `info` says from the next request on; unchanged credentials are kept."""
        stamps = await anyio.to_thread.run_sync(_stamps, info, abandon_on_cancel=True)
        settings = await anyio.to_thread.run_sync(ConnectionSettings, info, self.evidence, abandon_on_cancel=True)
        before = self._info
        add_connection(self.secrets, info, settings)
        same = {key: getattr(info, key) for key in ("where", "files", "user_name", "namespace")}
        if before is None or msgspec.structs.replace(before, **same) != info:
            context = (self.cluster.kubeconfig, self.cluster.context)
            server, kept = self._handed_over.get(context, (None, None))
            if server != info.cluster:
                kept = None
            self._credentials = authentication.choose(info, self._clock, self.secrets, self._plugin_timeout, kept)
            self._handed_over[context] = (info.cluster, self._credentials)
        self._info, self._settings = info, settings
        self.evidence.add_server(settings.server, settings.server_name, settings.proxy, settings.trust)
        # The stamp from before the read counts: changes made in between are then detected next time.
        self._stamps = {path: self._stamps.get(path, stamp) for path, stamp in stamps.items()}
        self.host = settings.host


class _Chunks:
    """A body as it arrives, with our errors."""

    def __init__(self, content: aiohttp.StreamReader, host: str, share: LoopShare) -> None:
        self._content = content
        self._host = host
        self._share = share

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await _read(self._content, self._share)
        except (aiohttp.ClientError, OSError) as error:
            raise from_transport(self._host, error) from None
        if not chunk:
            raise StopAsyncIteration
        return chunk


def _with_proxy(error: BaseException, transport: Transport) -> BaseException:
    """Return the error with the proxy in use added, which may be what failed."""
    proxy = transport.settings.proxy
    if proxy is None or not isinstance(error, UnreachableError):
        return error
    name = describe(proxy)
    text = str(error).replace("the proxy responded", f"{name} responded")
    return type(error)(text if name in text else f"{text}; through {name}")


def _stamps(info: ConnectionInfo, before: Mapping[str, object] = MappingProxyType({})) -> dict[str, object]:
    """Return the stamp of each source file, or the previous one if a file system does not respond."""
    stamps: dict[str, object] = {}
    for path in info.source_files:
        try:
            stamps[path] = in_time(path, functools.partial(file_stamp, path))
        except OSError:
            stamps[path] = before.get(path)
    return stamps


async def _read(content: aiohttp.StreamReader, share: LoopShare) -> bytes:
    """Return what has arrived of a body, at least a byte, or nothing at its end; charge for reading it.

    It may come in thousands of pieces, and reading one triggers parsing and decompressing the next.
    """
    first = await content.read(1)
    if not first:
        return b""
    started = share.clock()
    chunk = first + content.read_nowait(PIECE_BYTES)
    share.charge(started)
    return chunk
