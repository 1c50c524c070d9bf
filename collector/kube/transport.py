"""One connection pool for one API server, with the TLS, proxy and headers that its connections share.

A pool never changes: new settings or a new client certificate create a new one, and the old one stays open until its
pending requests have ended.
"""

import asyncio
import functools
import socket
import ssl
from collections.abc import Sequence
from typing import Any

import aiohttp
import anyio
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from collector import __version__
from collector.kube import tls
from collector.kube.bound_token import BoundToken, bound_token, expiry_problem
from collector.kube.connection import ConnectionInfo
from collector.kube.credentials import Credential, impersonation, jwt_validity
from collector.kube.errors import (
    BadContextError,
    CredentialPluginFailedError,
    ServerError,
    from_answer,
    without_upgrade,
)
from collector.kube.identity import Evidence, trust
from collector.kube.limits import LoopShare
from collector.kube.proxy import choose
from collector.kube.server_url import parse_server
from collector.proxies import is_socks
from collector.redaction import Secrets
from collector.socks import connector
from collector.text import one_line
from collector.timestamps import rfc3339

__all__ = ["ConnectionSettings", "PacedReceiver", "Transport", "WebSocket", "request_timeout"]

CONNECT_TIMEOUT_SECONDS = 30.0  # proxy and TLS included
READ_BUFFER_BYTES = 1 << 18
MAX_HEADER_BYTES = 1 << 17  # of one response header; proxies add some far longer than aiohttp's 8 kB
MAX_HEADERS = 256  # of one response
RECEIVE_BYTES = 1 << 16  # parsed in one piece on asyncio's own event loop; four times as much on uvloop
# For parsing, several times what ordinary bytes take. Without a pause uvloop would use 32 times as much in one turn.
RECEIVE_TURN_SECONDS = 0.001
WAKE_SECONDS, BYTE_SECONDS = 5e-5, 1e-9  # event loop time to receive a notification, and a byte
# After 30 seconds without a packet three probes, 10 seconds apart; and at most 60,000 ms until sent data is confirmed.
_KEEPALIVE_OPTIONS = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}


class ConnectionSettings:
    """How to connect, with all files read; created in a thread, immutable. Raises BadContextError."""

    def __init__(self, info: ConnectionInfo, evidence: Evidence | None = None) -> None:
        self.info = info
        self._evidence = evidence
        cluster = info.cluster
        self.server, written_host, self.authorization = parse_server(info)
        self.host = str(self.server.origin())
        self.server_name = cluster.tls_server_name or None
        self.client_certificate = tls.client_certificate(info.user, info.where)
        self.validity = tls.validity(self.client_certificate.chain) if self.client_certificate else None
        bundle = tls.trusted_certificates(cluster, info.where)
        if cluster.insecure_skip_tls_verify and (bundle or cluster.certificate_authority):
            keys = "insecure-skip-tls-verify and certificate-authority"
            raise BadContextError(f"{info.where}: {keys} are mutually exclusive; remove one")
        self._trusted = tls.authorities(bundle, "certificate-authority", info.where)
        self._context = self._make_context(self.client_certificate)
        self.proxy = choose(self.server, cluster.proxy_url, info.where, host=written_host)
        self.trust = None if cluster.insecure_skip_tls_verify else trust(self._trusted)
        self.encoding = "identity" if cluster.disable_compression else "gzip"
        self.headers = [
            ("User-Agent", f"gpuid/{__version__}"),
            ("Accept", "application/json"),
            *impersonation(info.user, info.where),
        ]

    def credential_problem(self, credential: Credential, now: float) -> str:
        """Return why a server may refuse our credentials, as far as they show it; empty if they look good."""
        certificate = credential.certificate or self.client_certificate
        if not credential.authorization and not self.authorization and certificate is None:
            name = one_line(self.info.user_name, 100)
            return f'user "{name}" of the kubeconfig has no credentials' if name else "its context names no user"
        if (bound := self._bound_token(credential)) is not None and (problem := expiry_problem(bound, now)):
            return problem
        token = jwt_validity(credential.authorization.removeprefix("Bearer "))
        if token is not None and now >= token.ends:
            return f"the token expired on {rfc3339(token.ends, 'seconds')}; renew it"
        return self.certificate_problem(credential, now)

    def has_lapsed(self, credential: Credential, now: float) -> bool:
        """Return whether we present an expired token that must be replaced manually."""
        bound = self._bound_token(credential)
        return bound is not None and not bound.of_pod and now >= bound.validity.ends

    def _bound_token(self, credential: Credential) -> BoundToken | None:
        """Return the kubeconfig's service-account token."""
        return bound_token(credential.authorization.removeprefix("Bearer ")) if self.info.files else None

    def certificate_problem(self, credential: Credential, now: float) -> str:
        """Return what is wrong with the validity of our client certificate; empty if nothing is."""
        own = tls.validity(credential.certificate.chain) if credential.certificate else self.validity
        if own is not None and now >= own.ends:
            return f"the client certificate expired on {rfc3339(own.ends, 'seconds')}; renew it"
        if own is not None and now < own.begins:
            return f"the client certificate is valid from {rfc3339(own.begins, 'seconds')} on; is the clock right?"
        return ""

    def context(self, client_certificate: tls.Certificate | None) -> ssl.SSLContext:
        """Return the TLS context that presents `client_certificate`.

        Raises CredentialPluginFailedError for an unusable one that is not from the kubeconfig.
        """
        if client_certificate == self.client_certificate:
            return self._context
        try:
            return self._make_context(client_certificate)
        except BadContextError as error:
            raise CredentialPluginFailedError(str(error)) from None

    def _make_context(self, client_certificate: tls.Certificate | None) -> ssl.SSLContext:
        insecure = self.info.cluster.insecure_skip_tls_verify
        made = tls.context(self._trusted, client_certificate, insecure=insecure, where=self.info.where)
        if self._evidence is not None:
            self._evidence.observe(made)
        return made


class PacedReceiver(ResponseHandler):
    """Receives and parses a server's data, and pauses reading when that has used too much of the event loop.

    Parsing takes time before anybody awaits the result, and nobody awaits incomplete messages: fragments of a frame,
    one-byte chunks, interim responses.
    """

    def __init__(self, share: LoopShare, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._share = share
        self._receiving = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Limit what the connection delivers in one piece to what is parsed in a short turn."""
        source = getattr(transport, "_ssl_protocol", transport)
        if hasattr(source, "max_size"):  # as asyncio's own have
            source.max_size = RECEIVE_BYTES
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Accept received data, or continue with earlier data."""
        if self._receiving or not data:  # it passes on the rest; or the reader of the earlier data resumes it
            super().data_received(data)
            return
        started = self._share.clock() - WAKE_SECONDS - len(data) * BYTE_SECONDS
        self._receiving = True
        try:
            super().data_received(data)
        finally:
            self._receiving = False
        seconds = self._share.charge(started, turn=RECEIVE_TURN_SECONDS)
        if seconds and self.transport is not None:
            self._pause_transport_reading()
            self._loop.call_later(seconds, self._continue)

    def _continue(self) -> None:
        if not self._reading_paused and not self._buffer_paused:  # by aiohttp, whose buffer is full
            self._resume_transport_reading()


class WebSocket(aiohttp.ClientWebSocketResponse):
    """A WebSocket that can be dropped without the closing handshake."""

    aborted = False

    def abort(self) -> None:
        """Close the connection immediately."""
        self.aborted = True
        self._response.close()


class Transport:
    """Connections with the same settings and client certificate; it closes once it is retired and unused."""

    def __init__(
        self, settings: ConnectionSettings, client_certificate: tls.Certificate | None, http: aiohttp.ClientSession
    ) -> None:
        self.settings = settings
        self.client_certificate = client_certificate
        self.http = http
        self._users = 0
        self._retired = False

    @classmethod
    async def open(
        cls,
        settings: ConnectionSettings,
        client_certificate: tls.Certificate | None,
        secrets: Secrets,
        *,
        share: LoopShare,
        max_error_size: int,
    ) -> "Transport":
        """Return a pool without connections yet; errors that it raises later repeat none of the secrets.

        Receiving is charged to `share`; at most `max_error_size` bytes of an error's body are read.

        Raises CredentialPluginFailedError for an unusable certificate of a credential plugin.
        """
        context = await anyio.to_thread.run_sync(settings.context, client_certificate, abandon_on_cancel=True)

        async def refuse(answer: aiohttp.ClientResponse) -> None:
            await _raise_for_status(answer, settings.host, secrets, max_error_size)

        async def refuse_redirect(_http: object, _context: object, seen: aiohttp.TraceRequestRedirectParams) -> None:
            await _raise_for_status(seen.response, settings.host, secrets, max_error_size)

        redirects = aiohttp.TraceConfig()  # ws_connect follows redirects, and has no argument to disable that
        redirects.on_request_redirect.append(refuse_redirect)
        # No limit: callers limit their own concurrency, and a full pool would block the watches.
        pool = connector(settings.proxy, context, prepare=_keep_alive, limit=0)
        pool._factory = functools.partial(PacedReceiver, share, asyncio.get_running_loop())  # type: ignore[assignment]  # noqa: SLF001
        http = aiohttp.ClientSession(
            connector=pool,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=settings.headers,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            raise_for_status=refuse,
            read_bufsize=READ_BUFFER_BYTES,
            timeout=request_timeout(),
            trace_configs=[redirects],
            trust_env=False,  # would let ~/.netrc override our credentials; the proxy is chosen in proxies.py
            ws_response_class=WebSocket,
        )
        return cls(settings, client_certificate, http)

    @property
    def route(self) -> dict[str, Any]:
        """The arguments of every request."""
        http_proxy = None if is_socks(self.settings.proxy) else self.settings.proxy
        return {"proxy": http_proxy, "server_hostname": self.settings.server_name}

    def url(self, path: str, query: Sequence[tuple[str, str]]) -> URL:
        """Return the URL of `path` on this server."""
        server = self.settings.server
        return URL(f"{str(server).rstrip('/')}{path}").with_query(query or None)

    async def websocket(
        self,
        path: str,
        query: Sequence[tuple[str, str]],
        *,
        protocols: Sequence[str],
        headers: Sequence[tuple[str, str]],
        close_timeout: float,
        max_message_size: int,
    ) -> WebSocket:
        """Return an open WebSocket, whose closing handshake may take `close_timeout` seconds.

        Pings are delivered as messages: the receiver counts and answers them. A close frame is one as well, which is
        answered when the WebSocket is closed, unless it is aborted: an API server has closed the connection by then.
        """
        try:
            socket = await self.http.ws_connect(
                self.url(path, query),
                protocols=protocols,
                headers=headers,
                autoclose=False,
                autoping=False,
                max_msg_size=max_message_size,
                timeout=aiohttp.ClientWSTimeout(ws_close=close_timeout),
                **self.route,
            )
        except ServerError as error:
            raise without_upgrade(error) from None
        assert isinstance(socket, WebSocket)  # noqa: S101
        return socket

    def acquire(self) -> None:
        """Keep the pool open until release."""
        self._users += 1

    async def release(self) -> None:
        """End one use."""
        self._users -= 1
        await self._close_unused()

    async def retire(self) -> None:
        """Close the pool as soon as its pending requests have ended."""
        self._retired = True
        await self._close_unused()

    async def close(self) -> None:
        """Close the pool now, including pending requests."""
        with anyio.CancelScope(shield=True):
            await self.http.close()

    async def _close_unused(self) -> None:
        if self._retired and self._users == 0:
            await self.close()


def request_timeout(total: float | None = None) -> aiohttp.ClientTimeout:
    """Return the timeouts of a request: `total` seconds overall, and those of the connection."""
    return aiohttp.ClientTimeout(total=total, connect=CONNECT_TIMEOUT_SECONDS, sock_connect=CONNECT_TIMEOUT_SECONDS)


def _keep_alive(made: socket.socket) -> None:
    """Make a socket detect when its peer vanishes: a watch may be silent for long."""
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE_OPTIONS.items():
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def _raise_for_status(answer: aiohttp.ClientResponse, host: str, secrets: Secrets, max_error_size: int) -> None:
    """Raise our error for an unsuccessful response after reading its body; also for WebSocket handshakes."""
    if answer.status == 101 or 200 <= answer.status < 300:
        return
    body = bytearray()
    try:
        while len(body) < max_error_size and (chunk := await answer.content.readany()):
            body += chunk
    except (aiohttp.ClientError, OSError):
        pass  # the part that arrived is enough
    finally:
        if not answer.content.at_eof():
            answer.close()
    raise from_answer(
        host,
        answer.status,
        bytes(body[:max_error_size]),
        answer.headers.get("Retry-After"),
        location=answer.headers.get("Location"),
        redact=secrets.redact,
    )
