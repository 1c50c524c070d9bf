"""Connections for httpx that notice a response while the request is still being sent.

A receiver may respond early, such as with 413, and hang up or stop reading. httpcore reads the response only after
writing the whole request or failing to, and an asyncio transport that fails to write drops received data. A socket
keeps it.
"""

import asyncio
import math
import re
import select
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import httpcore
import httpx
from aiohappyeyeballs import start_connection
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream
from yarl import URL

from collector import socks
from collector.http_errors import reason
from collector.proxies import describe, is_socks

__all__ = ["Transport"]

_ANSWER = re.compile(rb"(?:\A|\r\n\r\n)HTTP/1\.[01] ([2-9])")  # not 1xx, which precede another one
_ACCEPTED_SECONDS = 1.0  # to send the rest of a request after a 2xx response
_EARLY_LIMIT = 1 << 16  # bytes buffered while a request is being sent
_HAPPY_EYEBALLS_SECONDS = 0.25  # until the next address is tried in parallel
_KEEPALIVE_SECONDS = 15.0


class Transport(httpx.AsyncHTTPTransport):
    """The transport for httpx, through `proxy` if there is one."""

    def __init__(self, context: ssl.SSLContext, proxy: URL | None) -> None:
        # httpx itself cannot pass a network backend to httpcore.
        options: dict[str, Any] = {
            "ssl_context": context,
            "keepalive_expiry": _KEEPALIVE_SECONDS,
            "network_backend": _Backend(proxy),
        }
        if proxy is None or is_socks(proxy):
            self._pool = _OneConnection(**options)
            return
        login = None
        if proxy.user is not None or proxy.password is not None:
            login = (proxy.user or "").encode(), (proxy.password or "").encode()
        self._pool = _HttpProxy(
            httpcore.URL(scheme=proxy.scheme, host=proxy.raw_host or "", port=proxy.port, target="/"),
            proxy_auth=login,
            proxy_ssl_context=context if proxy.scheme == "https" else None,
            **options,
        )


class _OneConnection(httpcore.AsyncConnectionPool):
    """Keeps one connection, for one request at a time and to one receiver.

    httpcore's own pool looks at all requests and connections before and after each, and each time for `sniffio`, which
    Python searches everywhere if it is not installed.
    """

    _current: httpcore.AsyncConnectionInterface | None = None

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        if request.url.scheme not in (b"http", b"https"):
            raise httpcore.UnsupportedProtocol("the URL's scheme is neither http nor https")
        current = self._current
        if current is not None and (not current.is_available() or current.has_expired() or _has_more(current)):
            await self.aclose()
        if self._current is None:
            self._current = self.create_connection(request.url.origin)
        return await self._current.handle_async_request(request)

    async def aclose(self) -> None:
        connection, self._current = self._current, None
        if connection is not None:
            await connection.aclose()


def _has_more(connection: Any) -> bool:
    """Return whether more than the last response was received, which would be taken for the next one.

    httpcore does not ask h11 what is left in its buffer; a connection without one is not used again.
    """
    while connection is not None:
        if (state := getattr(connection, "_h11_state", None)) is not None:
            return bool(state.trailing_data[0])
        connection = getattr(connection, "_connection", None)
    return True


class _HttpProxy(_OneConnection, httpcore.AsyncHTTPProxy):
    """Puts IPv6 addresses in brackets, which httpcore omits."""

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        if b":" in request.url.host:
            request.url.host = b"[%b]" % request.url.host
        return await super().handle_async_request(request)


class _Backend(httpcore.AsyncNetworkBackend):
    """Connects to a receiver or its HTTP proxy, or through a SOCKS5 proxy."""

    def __init__(self, proxy: URL | None) -> None:
        self._proxy = proxy

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        proxy = self._proxy
        with (
            _translated(
                httpcore.ConnectError,
                httpcore.ConnectTimeout,
                f"{describe(proxy)}: " if proxy is not None and not is_socks(proxy) else "",
            ),
            anyio.fail_after(timeout),
        ):
            if proxy is not None and is_socks(proxy):
                connected = await socks.connect(proxy, host, port)
            else:
                try:
                    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
                except (socket.gaierror, UnicodeError):
                    raise httpcore.ConnectError(f"cannot resolve {host}") from None
                connected = await start_connection(found, happy_eyeballs_delay=_HAPPY_EYEBALLS_SECONDS)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain = _Socket(connected)
        return _Stream(plain, plain)

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class _Socket(ByteStream):
    """A socket that can still be read after writing failed."""

    def __init__(self, connected: socket.socket) -> None:
        self.connected = connected
        self.cut = False  # whether something was not sent
        self.deadline = math.inf  # of sending
        self._sending = anyio.CancelScope()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        while True:
            try:
                received = self.connected.recv(max_bytes)
            except BlockingIOError:
                # Waiting before reading ensures that cancelling loses nothing.
                await anyio.wait_readable(self.connected)
            else:
                if not received:
                    raise anyio.EndOfStream
                return received

    @property
    def readable(self) -> bool:
        """Whether there is data to read, or the end."""
        poll = select.poll()
        poll.register(self.connected, select.POLLIN)
        return bool(poll.poll(0))

    def send_now(self, item: bytes) -> int:
        """Send what needs no waiting, if there is nothing to read; return how many bytes."""
        try:
            return 0 if self.readable else self.connected.send(item)
        except OSError:  # including one that would block; a later `send` meets it again
            return 0

    async def send(self, item: bytes) -> None:
        """Send everything, or set `cut` and return: an error would also end TLS for reading."""
        rest = memoryview(item)
        try:
            with anyio.CancelScope(deadline=self.deadline) as self._sending:
                while rest:
                    try:
                        rest = rest[self.connected.send(rest) :]
                    except BlockingIOError:
                        await anyio.wait_writable(self.connected)
        except OSError:
            pass
        self.cut = self.cut or bool(rest)

    def stop_sending(self, seconds: float) -> None:
        """Drop data that is not sent within this time."""
        self.deadline = self._sending.deadline = anyio.current_time() + seconds

    async def send_eof(self) -> None:
        self.connected.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        self.connected.close()


class _Stream(httpcore.AsyncNetworkStream):
    """A connection that is read while being written; `stream` is its socket or TLS on it."""

    def __init__(self, plain: _Socket, stream: ByteStream) -> None:
        self._socket = plain
        self._stream = stream
        self._early = bytearray()  # received while writing
        self._failure: Exception | None = None  # the error that ended receiving

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._socket.deadline = math.inf
        if self._early:
            kept = bytes(self._early[:max_bytes])
            del self._early[:max_bytes]
            return kept
        with _translated(httpcore.ReadError, httpcore.ReadTimeout), anyio.fail_after(timeout):
            if self._failure is not None:
                raise self._failure
            try:
                return await self._stream.receive(max_bytes)
            except anyio.EndOfStream:
                return b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all; raise WriteError, after which httpcore reads the response, if the receiver stops reading."""
        if buffer and self._stream is self._socket:
            buffer = buffer[self._socket.send_now(buffer) :]  # no response can be missed while it fits the buffer
        if not buffer:
            return
        try:
            with anyio.fail_after(timeout):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._listen)
                    try:
                        await self._stream.send(buffer)
                    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream):
                        self._socket.cut = True
                    tasks.cancel_scope.cancel()
        except TimeoutError:
            if not self._early:
                raise httpcore.WriteTimeout from None
            self._socket.cut = True
        if self._socket.cut:
            raise httpcore.WriteError("the connection was closed")

    async def _listen(self) -> None:
        """Buffer received data; stop sending on a response or end, with a delay if the rest may be accepted."""
        try:
            while len(self._early) < _EARLY_LIMIT:
                self._early += await self._stream.receive()
                if self._socket.deadline == math.inf and (answer := _ANSWER.search(self._early)):
                    self._socket.stop_sending(_ACCEPTED_SECONDS if answer[1] == b"2" else 0)
        except anyio.EndOfStream:
            self._socket.stop_sending(0)
        except (OSError, anyio.BrokenResourceError) as error:
            self._failure = error
            self._socket.stop_sending(0)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            with _translated(httpcore.ConnectError, httpcore.ConnectTimeout), anyio.fail_after(timeout):
                secured = await TLSStream.wrap(
                    self._stream,
                    server_side=False,
                    hostname=server_hostname and server_hostname.strip("[]"),
                    ssl_context=ssl_context,
                    standard_compatible=False,  # few receivers close TLS before they close the connection
                )
        except BaseException:
            await self.aclose()
            raise
        return _Stream(self._socket, secured)

    async def aclose(self) -> None:
        await self._socket.aclose()

    def get_extra_info(self, info: str) -> Any:
        """Return whether there is data to read, which a healthy idle connection does not have."""
        if info != "is_readable":
            return None
        return bool(self._early or self._failure or self._socket.readable)


@contextmanager
def _translated(
    failed: type[httpcore.NetworkError], late: type[httpcore.TimeoutException], place: str = ""
) -> Iterator[None]:
    """Raise errors as httpcore's, without secrets in their text."""
    try:
        yield
    except anyio.EndOfStream:
        raise failed("the server closed the connection") from None
    except (OSError, anyio.BrokenResourceError, socks.SocksProxyError) as error:
        if isinstance(error, TimeoutError) and error.errno is None:
            raise late from None
        cause = error.__cause__ if isinstance(error, anyio.BrokenResourceError) else None
        raise failed(place + reason(cause or error)) from None
