"""The HTTP server's connections: accepted, limited in number and time, and closed if a client is too slow."""

import asyncio
import contextlib
import errno
import fcntl
import ipaddress
import logging
import resource
import socket
import struct
import sys
import termios
import time
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from ssl import SSLContext
from typing import Any, cast

import anyio
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from collector.config import ServerSettings
from collector.web.problem import IN_API, problem_response
from collector.web.security_headers import SECURITY_HEADERS

__all__ = ["Connections"]

log = logging.getLogger(__name__)

MIN_WRITE_RATE = 16 << 10  # bytes per second at which a client must read, or it is disconnected
MAX_UNSENT_BYTES = 128 << 10  # buffered by the kernel per connection, so that slow readers do not exhaust its memory
LINGER_SECONDS = 5.0  # for the rest of a request body that no handler reads
TLS_CLOSE_SECONDS = 5.0  # for a client to confirm the end of a TLS connection
ACCEPT_PAUSE_SECONDS = 0.05  # if the process is out of file descriptors
EVICTED_WITHOUT_FILES = 8  # connections closed then

_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NO_LISTENER = (errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP)
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing discards what the kernel still buffers and sends a reset
_TCP_NOTSENT_LOWAT = 25  # Linux; named in Python since 3.12
_ACKED_OFFSET = 120  # of tcpi_bytes_acked in Linux' struct tcp_info
_HEAD_END = b"\r\n\r\n"
_TOO_LARGE_TEXT = (
    "the address and headers of a request are limited by server.max_header_size; "
    "to look up many ids, POST them to /api/v1/gpus/lookup\n"
)
_TOO_LARGE = (
    "HTTP/1.1 431 Request Header Fields Too Large\r\nServer: gpuid\r\nConnection: close\r\n"
    f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(_TOO_LARGE_TEXT)}\r\n\r\n{_TOO_LARGE_TEXT}"
).encode()


class Connections:
    """All connections of one server.

    New connections are always accepted: at a limit, they replace an old one, taken from the client with the most
    connections, idle ones first, then the oldest. A client that keeps opening connections thus closes its own, and
    probes and scrapes are still answered.
    """

    def __init__(self, server: web.Server, settings: ServerSettings, tls: SSLContext | None, logger: logging.Logger):
        self.settings = settings
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        unlimited = files == resource.RLIM_INFINITY  # which is -1
        self.limit = settings.max_connections if unlimited else min(settings.max_connections, max(8, files // 2))
        self._server = server
        self._tls = tls
        self._logger = logger
        self._open: set[_Connection] = set()
        self._counts: Counter[str] = Counter()  # by client
        self._no_files = False
        if self.limit < settings.max_connections:
            log.warning(
                "server.max_connections reduced: the limit of open files is too low",
                extra={"max_connections": settings.max_connections, "limit": self.limit},
            )

    def __len__(self) -> int:
        """Return the number of connections, including those still in their TLS handshake."""
        return len(self._open)

    async def serve(self, listeners: Sequence[socket.socket], sweep_interval: float) -> None:
        """Accept connections until cancelled, and close those that are too slow."""
        async with anyio.create_task_group() as tasks:
            for listener in listeners:
                tasks.start_soon(self._accept, listener, tasks)
            while True:
                await anyio.sleep(sweep_interval)
                self.sweep()

    def sweep(self) -> None:
        """Close the connections that have used up their time."""
        now = time.monotonic()
        for connection in list(self._open):
            if connection.is_overdue(now):
                self._end(connection)

    def forget(self, connection: "_Connection") -> None:
        """Remove a connection that is closed, or about to be, from the count."""
        if connection in self._open:
            self._open.remove(connection)
            self._counts[connection.client] -= 1
            if not self._counts[connection.client]:
                del self._counts[connection.client]

    async def _accept(self, listener: socket.socket, tasks: anyio.abc.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in _NO_FILES:
                    self._make_files(error)
                    await anyio.sleep(ACCEPT_PAUSE_SECONDS)
                elif error.errno in _NO_LISTENER:
                    raise
                continue  # accept(2) also reports errors of a single client
            self._no_files = False
            client = _client(address[0])
            self._make_room(client)
            connection = _Connection(self._server, self, sock, client, self._logger)
            self._open.add(connection)
            self._counts[client] += 1
            tasks.start_soon(self._begin, connection)
            await anyio.lowlevel.checkpoint()  # accepting without a pause would starve the accepted ones

    async def _begin(self, connection: "_Connection") -> None:
        """Hand a socket to the event loop, with TLS after its handshake."""
        options: dict[str, Any] = {}
        if self._tls is not None:
            options = {
                "ssl": self._tls,
                "ssl_handshake_timeout": self.settings.header_timeout,
                "ssl_shutdown_timeout": TLS_CLOSE_SECONDS,
            }
        with anyio.CancelScope() as connection.beginning:
            try:
                loop = asyncio.get_running_loop()
                await loop.connect_accepted_socket(lambda: connection, connection.sock, **options)
            except OSError as error:  # the client hung up or does not speak TLS
                log.debug("connection rejected: %s", error)
                connection.drop()
            except BaseException:
                connection.drop()
                raise
        if connection.beginning.cancelled_caught:
            connection.drop()
        connection.beginning = None

    def _make_room(self, client: str) -> None:
        if self._counts[client] >= self.settings.max_connections_per_client:
            self._evict(client)
        elif len(self._open) >= self.limit:
            self._evict(self._counts.most_common(1)[0][0])

    def _make_files(self, error: OSError) -> None:
        if not self._no_files:
            log.warning("cannot accept connections, closing old ones: %s", errno.errorcode.get(error.errno or 0, error))
        self._no_files = True
        for _ in range(min(EVICTED_WITHOUT_FILES, len(self._open) // 2)):
            self._evict(self._counts.most_common(1)[0][0])

    def _evict(self, client: str) -> None:
        theirs = [connection for connection in self._open if connection.client == client]
        self._end(min(theirs, key=lambda connection: connection.worth))

    def _end(self, connection: "_Connection") -> None:
        self.forget(connection)
        connection.end()


class _Connection(web.RequestHandler):
    """One accepted connection."""

    def __init__(
        self, server: web.Server, connections: Connections, sock: socket.socket, client: str, logger: logging.Logger
    ) -> None:
        settings = connections.settings
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            logger=logger,
            access_log=None,  # type: ignore[arg-type]  # its annotation forgets None
            keepalive_timeout=settings.idle_timeout,
            lingering_time=LINGER_SECONDS,
            max_line_size=settings.max_header_size,
            max_field_size=settings.max_header_size,
        )
        self.client = client
        self.sock = sock
        self.beginning: anyio.CancelScope | None = None  # until the event loop owns the socket
        self._connections = connections
        self._settings = settings
        self._accepted = self._idle_since = time.monotonic()
        self._head_since: float | None = None  # since when part of a request's head has been here
        self._head_bytes = 0
        self._last_bytes = b""
        self._output: asyncio.Transport | None = None  # `transport` is None before all is sent
        self._waits: tuple[float, int] | None = None  # since when output waits, and how much was read then
        _set_options(sock, settings.write_timeout)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start reading requests."""
        self._output = cast("asyncio.Transport", transport)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Cancel the work for the client."""
        self._connections.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received data, unless it exceeds the limit for a request's head."""
        before = self._request_count
        super().data_received(data)
        self._last_bytes = (self._last_bytes + data)[-len(_HEAD_END) :]
        if self._request_count != before or self._is_answering or self._is_between:
            # Anything after the last head is a body or the start of another head.
            self._head_since = None if self._last_bytes == _HEAD_END else time.monotonic()
            self._head_bytes = 0
            return
        self._head_since = self._head_since or time.monotonic()
        self._head_bytes += len(data)
        if self._head_bytes > self._settings.max_header_size and self.transport is not None:
            self.transport.write(_TOO_LARGE)
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that no handler answered; a client that has hung up is not an error."""
        gone = self.transport is None or self.transport.is_closing()
        if gone and isinstance(exc, (ConnectionError, TimeoutError, web.RequestPayloadError)):
            raise ConnectionResetError("the client hung up") from exc
        response = super().handle_error(request, status, exc, message)
        if isinstance(exc, LineTooLong) and isinstance(response, web.Response):
            response.set_status(431)
            response.text = _TOO_LARGE_TEXT
        elif status >= HTTPStatus.INTERNAL_SERVER_ERROR and request.get(IN_API):
            error = web.HTTPInternalServerError(text="internal error; see the collector's log")
            response = problem_response(error, {})
            response.force_close()
        response.headers.update(SECURITY_HEADERS)
        return response

    @property
    def worth(self) -> tuple[int, float]:
        """The sort key for closing: how much its loss would matter and how old it is; the least is closed first."""
        if self._is_answering:
            return (2, self._accepted)
        if self._request_count and self._head_since is None:
            return (1, self._idle_since)
        return (0, self._head_since or self._accepted)

    def is_overdue(self, now: float) -> bool:
        """Return whether the client has used up its time; called regularly."""
        if unsent := self._unsent():
            return self._is_slow_reader(now, unsent)
        self._waits = None
        if self._is_answering:
            self._idle_since = now
            return False
        if self._request_count == 0:
            return now - self._accepted > self._settings.header_timeout
        if self._head_since is not None:
            return now - self._head_since > self._settings.header_timeout
        return now - self._idle_since > self._settings.idle_timeout

    def end(self) -> None:
        """Close it immediately, discarding unsent data."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if self.beginning is not None:
            self.beginning.cancel()
        if self._output is not None:
            self._output.abort()

    def drop(self) -> None:
        """Forget a connection that was never handed over: close its socket, or tell its protocol (uvloop does not)."""
        self._connections.forget(self)
        if self._output is None:
            self.sock.close()
        else:
            # This cancels a handler that is running, because server.py sets `handler_cancellation`; otherwise it would
            # continue without a transport.
            self.connection_lost(None)

    @property
    def _is_answering(self) -> bool:
        return self._request_in_progress or bool(self._messages)

    @property
    def _is_between(self) -> bool:
        """Whether a request's head is complete: what follows is its body, which aiohttp may drop."""
        return self._request_count > 0 and self._waiter is None

    def _is_slow_reader(self, now: float, unsent: int) -> bool:
        acknowledged = self._acknowledged()
        taken = -unsent if acknowledged is None else acknowledged
        if self._waits is None:
            self._waits = (now, taken)
        since, before = self._waits
        if now - since < self._settings.write_timeout:
            return False
        self._waits = (now, taken)
        if acknowledged is None:  # an unchanged amount left means no progress
            return taken == before
        return taken - before < MIN_WRITE_RATE * self._settings.write_timeout

    def _unsent(self) -> int:
        """Return how many bytes the client has not read yet."""
        if self._output is None:
            return 0
        waiting = self._output.get_write_buffer_size()
        with contextlib.suppress(OSError, ValueError):
            waiting += int.from_bytes(fcntl.ioctl(self.sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder, signed=True)
        return waiting

    def _acknowledged(self) -> int | None:
        """Return how many bytes the client has read so far; None if the kernel does not report it."""
        with contextlib.suppress(OSError, ValueError):
            info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            if len(info) >= _ACKED_OFFSET + 8:  # an old kernel, or a sandbox's own, returns less
                return int.from_bytes(info[_ACKED_OFFSET : _ACKED_OFFSET + 8], sys.byteorder)
        return None


def _set_options(sock: socket.socket, write_timeout: float) -> None:
    """Limit the kernel's buffers, and drop a client that reads nothing even after we closed."""
    with contextlib.suppress(OSError):  # precautions that a kernel may not support
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, MAX_UNSENT_BYTES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(write_timeout * 1000)))


def _client(host: str) -> str:
    """Return the client of an address: with IPv6, every client has at least a /64 network."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return address.exploded[:19]
    return host
