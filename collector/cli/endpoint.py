"""The endpoint of a running collector and how to connect to it, from its configuration or from options."""

import ssl
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from collector.config import ConfigError, Listen, ServerSettings
from collector.text import describe_os_error, one_line
from collector.tls import TlsFileError, client_context, read_authorities

__all__ = ["Endpoint", "client_tls", "connection_problem", "server_endpoint", "url_endpoint"]


class Endpoint(NamedTuple):
    """A collector's HTTP server as reached by a client on the same machine."""

    url: str  # without a trailing slash
    tls: ssl.SSLContext | None = None  # None: plain HTTP, or HTTPS with a certificate from the system's CAs
    token_file: Path | None = None


def server_endpoint(server: ServerSettings, *, identify: bool = True) -> Endpoint:
    """Return the endpoint of the server with these settings; raises ConfigError if its certificate cannot be used.

    The exact certificate is known, so only it is trusted, whatever host name it is for. With `identify`, it also serves
    as a client certificate where the server requires one.
    """
    url = f"{'http' if server.cert_file is None else 'https'}://{_local_address(server.listen)}"
    if server.cert_file is None:
        return Endpoint(url, None, server.bearer_token_file)
    own = identify and server.client_ca_file is not None
    try:
        context = client_context(
            ca_data=_first_certificate(server.cert_file),
            cert=server.cert_file if own else None,
            key=server.key_file if own else None,
        )
    except TlsFileError as error:
        key = "cert_file" if error.kind == "ca" else "key_file"
        raise ConfigError(f"server.{key}: {error.file or server.cert_file}: {error}") from error
    context.check_hostname = False
    return Endpoint(url, context, server.bearer_token_file)


def url_endpoint(url: str, context: ssl.SSLContext | None = None) -> Endpoint:
    """Return the endpoint at a URL given by the user; raises ConfigError if it is invalid."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f'--url: expected http://HOST:PORT or https://HOST:PORT, got "{one_line(url, 200)}"')
    return Endpoint(url.rstrip("/"), context)


def client_tls(*, ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return a context that trusts `--ca` instead of the system's CAs and presents `--cert`; None without both.

    The key may be in the certificate file. Raises ConfigError.
    """
    if ca is None and cert is None:
        return None
    try:
        return client_context(ca=ca, cert=cert, key=key)
    except TlsFileError as error:
        option = "--ca" if error.kind == "ca" else "--key" if error.file == key else "--cert"
        raise ConfigError(f"{option}: {error.file}: {error}") from error


def connection_problem(error: BaseException) -> str:
    """Return why a connection failed: the first cause that is a TLS or system error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            reason = getattr(cause, "verify_message", "") or (cause.reason or str(cause)).replace("_", " ").lower()
            return f"TLS: {reason}"
        if text := describe_os_error(cause, ""):
            return text
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def _first_certificate(file: Path) -> bytes:
    try:
        return read_authorities(file.read_bytes(), file).certificates[0]
    except OSError as error:
        raise TlsFileError(describe_os_error(error, "cannot be read"), kind="ca", file=file) from error


def _local_address(listen: Listen) -> str:
    """Return an address that reaches a listener on this machine: the wildcard address becomes loopback."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104
    return f"[{host}]:{listen.port}" if ":" in host else f"{host}:{listen.port}"
