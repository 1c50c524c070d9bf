"""Where a running collector answers and how to be let in, from its configuration or from options."""

import re
import ssl
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from collector.config import ConfigError, Listen, ServerSettings

__all__ = ["Endpoint", "of_server", "of_url", "reason", "tls"]


class Endpoint(NamedTuple):
    """One collector's HTTP server as a client on the same machine reaches it."""

    url: str  # without a trailing slash
    tls: ssl.SSLContext | None = None  # None: plain HTTP, or HTTPS that the system's authorities vouch for
    token_file: Path | None = None


def of_server(server: ServerSettings) -> Endpoint:
    """Find the server of this configuration; raises ConfigError when its certificate cannot be read.

    The certificate to expect is known exactly, so it is trusted by itself, whatever host name it is for.
    """
    url = f"{'http' if server.cert_file is None else 'https'}://{_reachable(server.listen)}"
    if server.cert_file is None:
        return Endpoint(url, None, server.bearer_token_file)
    try:
        chain = server.cert_file.read_text(encoding="ascii")
        context = ssl.create_default_context(cadata=_FIRST.findall(chain)[0])
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(f"server.cert_file: {server.cert_file}: {_unusable(error)}") from error
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if server.client_ca_file is not None and server.key_file is not None:
        _show(context, server.cert_file, server.key_file, "server.key_file")
    return Endpoint(url, context, server.bearer_token_file)


def of_url(url: str, context: ssl.SSLContext | None = None) -> Endpoint:
    """Take the URL that a user gave; raises ConfigError when it is none."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f'--url: expected http://HOST:PORT or https://HOST:PORT, got "{url}"')
    return Endpoint(url.rstrip("/"), context)


def reason(error: BaseException) -> str:
    """Say why a connection failed, in the words of the first cause that has some."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return (
                f"TLS: {getattr(cause, 'verify_message', '') or (cause.reason or str(cause)).replace('_', ' ').lower()}"
            )
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def tls(*, ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Trust `ca` instead of the system's authorities, and show `cert` (whose key may be in the same file)."""
    if ca is None and cert is None:
        return None
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--ca: {ca}: {_unusable(error)}") from error
    if cert is not None:
        _show(context, cert, key, "--cert")
    return context


_FIRST = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


def _show(context: ssl.SSLContext, cert: Path, key: Path | None, option: str) -> None:
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{option}: {key or cert}: {_unusable(error)}") from error


def _unusable(error: Exception) -> str:
    absent = isinstance(error, OSError) and not isinstance(error, ssl.SSLError)
    return (
        absent and getattr(error, "strerror", None)
    ) or "expected certificates in PEM form, and keys that are theirs"


def _reachable(listen: Listen) -> str:
    """Turn "every interface" into the loopback one."""
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104
    return f"[{host}]:{listen.port}" if ":" in host else f"{host}:{listen.port}"
