"""Serves the application on its address, with TLS if configured."""

import errno
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from anyio.abc import SocketAttribute

from collector.config import ConfigError, ServerSettings
from collector.config.values import Listen
from collector.end_deadline import EndDeadline, Stage
from collector.files import UnreadableFileError, read_secret
from collector.text import describe_os_error, one_line
from collector.tls import Validity
from collector.views.collector_view import CollectorView
from collector.web.application import application
from collector.web.connections import Connections
from collector.web.limits import DEFAULT_LIMITS, HttpLimits
from collector.web.tls import ServerTls

__all__ = ["serve"]

log = logging.getLogger(__name__)

BACKLOG = 1024  # connections that the kernel queues until they are accepted


async def serve(
    collector: CollectorView,
    server: ServerSettings,
    *,
    ready: Callable[[str], None],
    on_certificate: Callable[[Validity | None], None] = lambda _validity: None,
    limits: HttpLimits = DEFAULT_LIMITS,
    end: EndDeadline | None = None,
) -> None:
    """Serve until cancelled; `ready` is called with the URL as soon as connections are accepted.

    `on_certificate` is called with the certificate's validity, at first and on every new certificate. `end` is the
    deadline of the whole process.

    Raises ConfigError if it cannot listen on the address or use a certificate or token file.
    """
    tls = await anyio.to_thread.run_sync(ServerTls.load, server, abandon_on_cancel=True)
    if tls is not None:
        on_certificate(tls.validity)
    await anyio.to_thread.run_sync(_check_token_file, server, abandon_on_cancel=True)
    runner = web.AppRunner(
        application(collector, server, limits),
        handler_cancellation=True,
        shutdown_timeout=limits.shutdown_timeout,
    )
    await runner.setup()
    listeners: list[socket.socket] = []
    try:
        listeners = await _listen(server.listen)
        assert runner.server is not None  # noqa: S101  after its setup
        connections = Connections(runner.server, server, tls, _handling)
        ready(_url(server, listeners[0]))
        async with anyio.create_task_group() as tasks:
            if tls is not None:
                tasks.start_soon(tls.watch_files, limits.certificate_check_interval, on_certificate)
            await connections.serve(listeners, limits.sweep_interval)
    finally:
        for listener in listeners:
            listener.close()
        end = end or EndDeadline()
        end.begin()
        with anyio.move_on_after(min(limits.shutdown_timeout + 1, end.left(Stage.STORE)), shield=True):
            await runner.cleanup()


def _is_our_error(record: logging.LogRecord) -> bool:
    """Return whether an error is ours: clients may send anything and must not be able to flood the log."""
    error = record.exc_info[1] if record.exc_info else None
    malformed = (HttpProcessingError, web.RequestPayloadError)  # malformed headers, or a body that cannot be decoded
    if error is None or not (isinstance(error, malformed) or _is_from_parser(error)):
        return True
    log.debug("malformed request: %s", one_line(error, 200))
    return False


def _is_from_parser(error: BaseException) -> bool:
    """Return whether aiohttp's request parser let another library's error through, after which it hangs up."""
    frame = error.__traceback__
    while frame is not None:
        if Path(frame.tb_frame.f_code.co_filename).name in _PARSERS:
            return True
        frame = frame.tb_next
    return False


_PARSERS = frozenset({"_http_parser.pyx", "http_parser.py"})
_handling = logging.getLogger(f"{__name__}.handling")
_handling.addFilter(_is_our_error)
logging.getLogger("asyncio").addFilter(_is_our_error)  # the event loop reports what a protocol raises


def _check_token_file(server: ServerSettings) -> None:
    path = server.bearer_token_file
    try:
        if path is not None and not read_secret(path):
            raise ConfigError(f"server.bearer_token_file: expected a token in {path}, but the file is empty")
    except UnreadableFileError as error:
        raise ConfigError(f"server.bearer_token_file: cannot read {path}: {error}") from error


async def check_address(address: Listen) -> None:
    """Check that it is possible to listen on an address now; raises ConfigError."""
    for listener in await _listen(address):
        listener.close()


async def _listen(address: Listen) -> list[socket.socket]:
    """Return a listening socket for each address of the host; raises ConfigError."""
    host, port = address.host or None, address.port
    try:
        bound = await anyio.create_tcp_listener(local_host=host, local_port=port, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"server.listen: cannot listen on {address}: {_listen_error(error)}") from error
    # anyio closes a connection that fails and has no limits, so only its sockets are used.
    return [listener.extra(SocketAttribute.raw_socket) for listener in bound.listeners]  # noqa: S610  no Django


def _url(server: ServerSettings, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104  a name that works in a browser on this machine
        host = "localhost"
    elif ":" in host:
        host = f"[{host}]"
    return f"{'https' if server.cert_file else 'http'}://{host}:{port}"


def _listen_error(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "invalid host name"
    if error.errno == errno.EADDRINUSE:
        return "the address is already in use"
    if error.errno is not None and error.errno > 0:  # asyncio's own text repeats the address
        return os.strerror(error.errno).lower()
    return describe_os_error(error, "cannot be resolved")
