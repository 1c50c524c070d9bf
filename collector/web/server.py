"""Serves the application on its address, with TLS where it is configured."""

import errno
import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread
from aiohttp import web

from collector.config import ConfigError, Server
from collector.web.application import application
from collector.web.context import Context

__all__ = ["serve"]

log = logging.getLogger(__name__)

_DRAIN = 5.0  # seconds that answers under way may take when the server stops
_CERTIFICATE_CHECK = 10.0  # seconds between two looks at the certificate's files


async def serve(context: Context, server: Server, *, ready: Callable[[str], None]) -> None:
    """Serve until cancelled; `ready` is given the URL as soon as connections are taken.

    Raises ConfigError when the address cannot be taken or the certificate not be read.
    """
    tls = _tls(server)
    await anyio.to_thread.run_sync(_check_token_file, server)
    runner = web.AppRunner(
        application(context, server), access_log=None, handler_cancellation=True, shutdown_timeout=_DRAIN
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
            await _follow_certificate(server, tls)
    finally:
        with anyio.move_on_after(_DRAIN + 1, shield=True):
            await runner.cleanup()


def _check_token_file(server: Server) -> None:
    path = server.bearer_token_file
    try:
        if path is not None and not path.read_text(encoding="utf-8").strip():
            raise ConfigError(f"server.bearer_token_file: expected a token in {path}, which is empty")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "expected UTF-8 text"
        raise ConfigError(f"server.bearer_token_file: cannot read {path}: {reason}") from error


def _url(server: Server, runner: web.AppRunner) -> str:
    host, port = runner.addresses[0][:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104  a name that works in a browser on this machine
        host = "localhost"
    elif ":" in host:
        host = f"[{host}]"
    return f"{'https' if server.tls_cert else 'http'}://{host}:{port}"


def _tls(server: Server) -> ssl.SSLContext | None:
    if server.tls_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _load(server, context)
    if server.client_ca is not None:
        try:
            context.load_verify_locations(server.client_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"server.client_ca: cannot use {server.client_ca}: {_reason(error)}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _load(server: Server, context: ssl.SSLContext) -> None:
    try:
        context.load_cert_chain(str(server.tls_cert), str(server.tls_key))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"server.tls_cert: cannot use {server.tls_cert} with its key: {_reason(error)}") from error


def _system(error: OSError | UnicodeError) -> str:
    """Say what is wrong without the address, which asyncio repeats; a name that is not found has no system number."""
    if isinstance(error, UnicodeError):
        return "not the name of a host"
    known = error.errno is not None and error.errno > 0
    return (os.strerror(error.errno or 0) if known else error.strerror or "cannot be resolved").lower()


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


async def _follow_certificate(server: Server, context: ssl.SSLContext) -> None:
    """Load the certificate again when its files change; connections that are open keep the one they have."""
    before = _stamps(server)
    while True:
        await anyio.sleep(_CERTIFICATE_CHECK)
        if (after := _stamps(server)) != before:
            try:
                _load(server, context)
            except ConfigError as error:
                log.warning("the new certificate is refused, the old one stays in use: %s", error)
            else:
                log.info("the certificate was loaded again")
            before = after


def _stamps(server: Server) -> list[tuple[int, int] | None]:
    return [_stamp(path) for path in (server.tls_cert, server.tls_key) if path is not None]


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
