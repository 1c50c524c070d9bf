"""One pool of connections to one API server, with the TLS, proxy and headers that they all share."""

import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import anyio
from yarl import URL

from collector import __version__
from collector.kube import proxy, tls
from collector.kube.connection import ConnectionInfo
from collector.kube.credentials import impersonation
from collector.kube.errors import BadContextError, CredentialPluginFailedError, from_answer

__all__ = ["ConnectionSettings", "Query", "Socket", "Transport"]

Query = Mapping[str, str] | Sequence[tuple[str, str]]

_CONNECT = 30.0  # seconds until a connection is made, its proxy and TLS included
_ERROR_BODY = 1 << 16  # bytes of an error's body that are looked at
_READ_BUFFER = 1 << 18  # bytes


class ConnectionSettings:
    """What an access comes to once its files are read: made in a thread, never changed. Raises BadContext."""

    def __init__(self, access: ConnectionInfo) -> None:
        self.access = access
        cluster = access.cluster
        self.server = _server(access)
        self.host = str(self.server.origin())
        self.server_name = cluster.tls_server_name or None
        self.shown = tls.certificate(access.user, access.where)
        self._trusted = tls.authorities(cluster, access.where)
        self._context = self._make_context(self.shown)
        self.proxy = proxy.choose(self.server, cluster.proxy_url, os.environ, access.where)
        self.encoding = "identity" if cluster.disable_compression else "gzip"
        self.headers = [
            ("User-Agent", f"gpuid/{__version__}"),
            ("Accept", "application/json"),
            *impersonation(access.user, access.where),
        ]

    def context(self, shown: tls.Certificate | None) -> ssl.SSLContext:
        """Give the TLS context that shows `shown`; raises PluginFailed if that is not the kubeconfig's and no good."""
        if shown == self.shown:
            return self._context
        try:
            return self._make_context(shown)
        except BadContextError as error:
            raise CredentialPluginFailedError(str(error)) from None

    def _make_context(self, shown: tls.Certificate | None) -> ssl.SSLContext:
        insecure = self.access.cluster.insecure_skip_tls_verify
        return tls.context(self._trusted, shown, insecure=insecure, where=self.access.where)


class Socket(aiohttp.ClientWebSocketResponse):
    """A WebSocket that can be left without a word."""

    def abort(self) -> None:
        """Close the connection at once, without the closing handshake."""
        self._response.close()


class Transport:
    """Connections made of one Settings and one client certificate; it closes once retired and unused."""

    def __init__(
        self, settings: ConnectionSettings, shown: tls.Certificate | None, http: aiohttp.ClientSession
    ) -> None:
        self.settings = settings
        self.shown = shown
        self.http = http
        self._users = 0
        self._retired = False

    @classmethod
    async def open(cls, settings: ConnectionSettings, shown: tls.Certificate | None) -> "Transport":
        """Prepare the pool; raises PluginFailed for a certificate of a plugin that is no good."""
        context = await anyio.to_thread.run_sync(settings.context, shown)

        async def refuse(answer: aiohttp.ClientResponse) -> None:
            await _raise_for_status(answer, settings.host)

        http = aiohttp.ClientSession(
            # No limit: what runs at once is limited by those who start it, and a full pool would keep out the watches.
            connector=aiohttp.TCPConnector(ssl=context, limit=0, socket_factory=_socket),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=settings.headers,
            raise_for_status=refuse,
            read_bufsize=_READ_BUFFER,
            timeout=aiohttp.ClientTimeout(total=None, connect=_CONNECT, sock_connect=_CONNECT),
            trust_env=False,  # would let ~/.netrc overrule our credentials; the proxy is decided by ourselves
            ws_response_class=Socket,
        )
        return cls(settings, shown, http)

    @property
    def route(self) -> dict[str, Any]:
        """Arguments that every request must be given."""
        return {"proxy": self.settings.proxy, "server_hostname": self.settings.server_name}

    def url(self, path: str, params: Query) -> URL:
        """Where `path` is on this server."""
        server = self.settings.server
        return URL(f"{str(server).rstrip('/')}{path}").with_query(params or None)

    def timeout(self, *, total: float | None = None) -> aiohttp.ClientTimeout:
        """Limits in seconds: `total` for the whole request, beside those for the connection."""
        return aiohttp.ClientTimeout(total=total, connect=_CONNECT, sock_connect=_CONNECT)

    def acquire(self) -> None:
        """Keep it open until release."""
        self._users += 1

    async def release(self) -> None:
        """End one use."""
        self._users -= 1
        await self._close_unused()

    async def retire(self) -> None:
        """Close it as soon as the requests under way have ended."""
        self._retired = True
        await self._close_unused()

    async def close(self) -> None:
        """Close it now, with whatever is under way."""
        with anyio.CancelScope(shield=True):
            await self.http.close()

    async def _close_unused(self) -> None:
        if self._retired and self._users == 0:
            await self.close()


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Make a socket that notices when its other end is gone without a word: a watch may say nothing for long."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        if hasattr(socket, option):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return made


# After 30 seconds without a packet three probes, 10 seconds apart; and as much for what is sent to be confirmed (ms).
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}


def _server(access: ConnectionInfo) -> URL:
    text = access.cluster.server
    if "://" not in text:
        secure = access.cluster.certificate_authority or access.cluster.certificate_authority_data
        text = f"{'https' if secure or access.cluster.insecure_skip_tls_verify else 'http'}://{text}"
    try:
        url = URL(text)
    except ValueError:
        raise BadContextError(f"{access.where}: server: not a URL") from None
    if url.scheme not in {"http", "https"} or not url.host or url.user or url.password:
        raise BadContextError(f"{access.where}: server: expected a URL such as https://10.0.0.1:6443")
    return url.with_query(None).with_fragment(None)


async def _raise_for_status(answer: aiohttp.ClientResponse, host: str) -> None:
    """Turn an answer that is no success into our error, its body read first; WebSocket handshakes come here too."""
    if answer.status == 101 or 200 <= answer.status < 300:
        return
    body = bytearray()
    try:
        while len(body) < _ERROR_BODY and (chunk := await answer.content.readany()):
            body += chunk
    except (aiohttp.ClientError, OSError):
        pass  # what has come of it must do
    finally:
        if not answer.content.at_eof():
            answer.close()
    raise from_answer(host, answer.status, bytes(body[:_ERROR_BODY]), answer.headers.get("Retry-After"))
