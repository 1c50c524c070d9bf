"""Describes failures of aiohttp connections and requests, without secrets."""

import os
import ssl
from collections.abc import Callable
from typing import Any

import aiohttp

from collector.socks import SocksProxyError
from collector.text import one_line

__all__ = ["NO_UPGRADE", "proxy_answer", "reason", "tls_cause"]

NO_UPGRADE = "a proxy or load balancer in between may not pass WebSockets"


def reason(error: BaseException) -> str:
    """Return why a request got no response, without secrets."""
    for kind, words in _REASONS:
        if isinstance(error, kind):
            return words(error)
    return f"the request failed ({type(error).__name__})"


def tls_cause(error: BaseException) -> ssl.SSLError | None:
    """Return the TLS error that caused another one, if any."""
    # An alert after the handshake is wrapped in a ClientOSError, whose number is then meaningless.
    for one in (error, getattr(error, "os_error", None), error.__cause__):
        if isinstance(one, ssl.SSLError):
            return one
    return None


def _not_http(error: aiohttp.ClientResponseError) -> str:
    if error.message.startswith(("Got more than", "Too many headers")):  # aiohttp has no type for it
        return "the response headers are too long or too many; a proxy in between may add them"
    return "the response is not valid HTTP"


def proxy_answer(status: int) -> str:
    """Return the meaning of a proxy's status for a CONNECT request."""
    said = f"the proxy responded with HTTP status {status}"
    return f"{said}: it requires a login in the proxy URL" if status == 407 else said


def _system(error: OSError) -> str:
    if (tls := tls_cause(error)) is not None:
        text = getattr(tls, "reason", None) or "connection closed"
        return f"TLS failure: {one_line(text.replace('_', ' ').lower(), 200)}"
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()
    return "cannot connect"


# The first match counts. Never use str(error) of an error with a URL or headers: both may contain credentials.
_REASONS: tuple[tuple[type[BaseException], Callable[[Any], str]], ...] = (
    (SocksProxyError, str),
    (aiohttp.ClientConnectorCertificateError, lambda error: reason(error.certificate_error)),
    (ssl.SSLCertVerificationError, lambda error: f"certificate verify failed: {one_line(error.verify_message, 200)}"),
    (aiohttp.ClientConnectorDNSError, lambda error: f"cannot resolve {error.host}"),
    (aiohttp.ClientProxyConnectionError, lambda error: f"proxy {error.host}:{error.port}: {_system(error.os_error)}"),
    (aiohttp.ClientHttpProxyError, lambda error: proxy_answer(error.status)),
    (aiohttp.ClientConnectorError, lambda error: reason(error.os_error)),
    (TimeoutError, lambda _: "timed out"),
    (aiohttp.InvalidURL, lambda _: "not a valid address"),
    (aiohttp.ServerDisconnectedError, lambda _: "the server closed the connection"),
    (aiohttp.ClientPayloadError, lambda _: "the connection broke in the middle of the response"),
    (aiohttp.ClientConnectionResetError, lambda _: "the connection was closed"),
    (OSError, _system),
    (aiohttp.WSServerHandshakeError, lambda _: f"the server did not upgrade to a WebSocket; {NO_UPGRADE}"),
    (aiohttp.ClientResponseError, lambda error: _not_http(error)),
)
