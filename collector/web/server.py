"""Serves the application on its address, with TLS where it is configured."""

import errno
import logging
import os
from collections.abc import Callable

import anyio
import anyio.to_thread
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from collector.config import ConfigError, ServerSettings
from collector.text import one_line
from collector.web.application import application
from collector.web.context import CollectorView
from collector.web.tls import ServerTls

__all__ = ["serve"]

log = logging.getLogger(__name__)

_DRAIN = 5.0  # seconds that answers under way may take when the server stops


async def serve(context: CollectorView, server: ServerSettings, *, ready: Callable[[str], None]) -> None:
    """Serve until cancelled; `ready` is given the URL as soon as connections are taken.

    Raises ConfigError when the address cannot be taken or the certificate not be read.
    """
    tls = await anyio.to_thread.run_sync(ServerTls.of, server)
    await anyio.to_thread.run_sync(_check_token_file, server)
    runner = web.AppRunner(
        application(context, server),
        logger=_handling,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=_DRAIN,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, server.listen.host or None, server.listen.port, ssl_context=tls)
        try:
            await site.start()
        except (OSError, UnicodeError) as error:
            taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            reason = "the address is already in use" if taken else _system(error)
            raise ConfigError(f"server.listen: cannot listen on {server.listen}: {reason}") from error
        ready(_url(server, runner))
        if tls is None:
            await anyio.sleep_forever()
        else:
            await tls.follow()
    finally:
        with anyio.move_on_after(_DRAIN + 1, shield=True):
            await runner.cleanup()


def _is_ours(record: logging.LogRecord) -> bool:
    """Leave out what clients do wrong: anybody may send anything, and must not fill the log."""
    error = record.exc_info[1] if record.exc_info else None
    if not isinstance(error, HttpProcessingError):
        return True
    log.debug("not a request: %s", one_line(error, 200))
    return False


_handling = logging.getLogger(f"{__name__}.handling")
_handling.addFilter(_is_ours)


def _check_token_file(server: ServerSettings) -> None:
    path = server.bearer_token_file
    try:
        if path is not None and not path.read_text(encoding="utf-8").strip():
            raise ConfigError(f"server.bearer_token_file: expected a token in {path}, which is empty")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "expected UTF-8 text"
        raise ConfigError(f"server.bearer_token_file: cannot read {path}: {reason}") from error


def _url(server: ServerSettings, runner: web.AppRunner) -> str:
    host, port = runner.addresses[0][:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104  a name that works in a browser on this machine
        host = "localhost"
    elif ":" in host:
        host = f"[{host}]"
    return f"{'https' if server.cert_file else 'http'}://{host}:{port}"


def _system(error: OSError | UnicodeError) -> str:
    """Say what is wrong without the address, which asyncio repeats; a name that is not found has no system number."""
    if isinstance(error, UnicodeError):
        return "not the name of a host"
    known = error.errno is not None and error.errno > 0
    return (os.strerror(error.errno or 0) if known else error.strerror or "cannot be resolved").lower()
