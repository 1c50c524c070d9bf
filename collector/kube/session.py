"""A session with one API server: sends requests with its connections, credentials, rate limit, retry and errors.

Requests are built elsewhere: by the generated API classes, through `collector.kube.client`.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

import aiohttp
import anyio
import msgspec

from collector.config import ClusterSettings
from collector.kube import kubeconfig
from collector.kube.bodies import Chunks, read_body
from collector.kube.connector import Connector, HandedOver
from collector.kube.credential_plugin import PLUGIN_TIMEOUT_SECONDS
from collector.kube.credentials import Credential, RefreshingCredentials
from collector.kube.errors import (
    ExpiredTokenError,
    ForbiddenError,
    ThrottledError,
    UnauthorizedError,
    UnreachableError,
    UntrustedCertificateError,
    from_transport,
)
from collector.kube.identity import Proof
from collector.kube.limits import LoopShare, RateLimiter, SharedLimiter
from collector.kube.token_credentials import TokenCredentials
from collector.kube.transport import Transport, WebSocket, request_timeout
from collector.proxies import describe
from collector.redaction import Secrets, redacting
from collector.tls import Validity

__all__ = ["REQUEST_TIMEOUT_SECONDS", "Answer", "Request", "Session"]

REQUEST_TIMEOUT_SECONDS = 30.0
WEBSOCKET_CLOSE_TIMEOUT_SECONDS = 1.0  # for the closing handshake
MAX_MESSAGE_BYTES = 16 << 20  # bytes of a WebSocket, unless the caller sets a limit
# Each WebSocket holds its TLS buffers and the command's output, 0.5 MB: this must not add up for a hundred clusters
# that start at the same time.
_ALL_WEBSOCKETS = SharedLimiter("WebSockets", 256)

_T = TypeVar("_T")
_Headers = list[tuple[str, str]]
_Send = Callable[[Transport, _Headers], Awaitable[_T]]


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
    the kubeconfig or its certificates have changed.

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
        self.cluster = cluster
        self.limiter = RateLimiter(cluster.request_rate, cluster.request_burst)
        self.secrets = Secrets()  # redacted from everything the server may repeat
        self.share = LoopShare(cluster.loop_share)  # share of the event loop for processing the server's responses
        self._clock = clock
        self._websockets = websockets
        self._websocket_close_timeout = websocket_close_timeout
        self._connector = Connector(
            cluster,
            secrets=self.secrets,
            share=self.share,
            clock=clock,
            service_account=service_account,
            plugin_timeout=plugin_timeout,
            handed_over=handed_over,
            on_credential_expiry=on_credential_expiry,
            on_proof=on_proof,
        )

    async def __aenter__(self) -> Self:
        """Read the kubeconfig; nothing is sent yet. Raises BadContextError."""
        with redacting(self.secrets):
            await self._connector.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._connector.close()

    @property
    def host(self) -> str:
        """The server's URL once it is known, for messages; until then the name of the context."""
        return self._connector.host

    @property
    def credential_plugin(self) -> str:
        """The command of the exec credential plugin in use; empty if there is none."""
        plugin, credentials = self._connector.settings.info.user.exec, self._connector.credentials
        return plugin.command if plugin is not None and isinstance(credentials, RefreshingCredentials) else ""

    @property
    def tokens(self) -> TokenCredentials | None:
        """The credentials in use if they are a token in the kubeconfig or in a file that it names."""
        credentials = self._connector.credentials
        return credentials if isinstance(credentials, TokenCredentials) else None

    @property
    def namespace(self) -> str:
        """The namespace of the kubeconfig's context; empty if unset."""
        return self._connector.settings.info.namespace

    @property
    def anonymous(self) -> bool:
        """Whether the kubeconfig has no credentials."""
        user = self._connector.settings.info.user
        return user.kind == "none" and not user.password and not self._connector.settings.authorization

    async def authenticate(self) -> None:
        """Obtain the credentials now; requests otherwise do so on demand."""
        with redacting(self.secrets):
            await self._connector.credential()

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
                body = await read_body(response, self.host, self.share, self.cluster.max_answer_size)
                return Answer(response.status, body)

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
                yield Chunks(response.content, self.host, self.share)
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
            try:
                places.acquire_on_behalf_of_nowait(borrower)
            except anyio.WouldBlock:
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
                if not socket.aborted:
                    await socket.close()
            except BaseException:
                socket.abort()
                raise
            finally:
                places.release_on_behalf_of(borrower)

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
            transport, own = await self._connector.lease()
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
                if repeated or not await self._connector.cured(failure, transport, credential):
                    raise _with_proxy(_explained(failure, transport, credential, self._clock()), transport) from None
                repeated = True
            else:
                self.limiter.succeeded()
                return transport, answer


def _explained(error: BaseException, transport: Transport, credential: Credential, now: float) -> BaseException:
    """Return the error with what is known of our credentials, if they may be the cause."""
    settings, why = transport.settings, ""
    if isinstance(error, (UnauthorizedError, ForbiddenError)):
        why = settings.credential_problem(credential, now)
        if isinstance(error, UnauthorizedError) and settings.has_lapsed(credential, now):
            return ExpiredTokenError(f"{error}; {why}")
    elif isinstance(error, UnreachableError) and not isinstance(error, UntrustedCertificateError):
        why = settings.certificate_problem(credential, now)
    return type(error)(f"{error}; {why}") if why else error


def _with_proxy(error: BaseException, transport: Transport) -> BaseException:
    """Return the error with the proxy in use added, which may be what failed."""
    proxy = transport.settings.proxy
    if proxy is None or not isinstance(error, UnreachableError):
        return error
    name = describe(proxy)
    text = str(error).replace("the proxy responded", f"{name} responded")
    return type(error)(text if name in text else f"{text}; through {name}")
