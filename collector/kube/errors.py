"""The errors of everything that talks to Kubernetes, and the one table that maps foreign errors to them."""

import logging
import ssl
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Self

import aiohttp
import msgspec

from collector.backoff import MAX_RETRY_AFTER_SECONDS, parse_retry_after
from collector.http_errors import NO_UPGRADE, reason, tls_cause
from collector.model import ClusterState, GpuidError
from collector.redaction import redact
from collector.shortage import why_short
from collector.text import describe_redirect

__all__ = [
    "OUT_OF_TIME",
    "UNDECODABLE",
    "BadContextError",
    "CertificateTimeError",
    "ClusterError",
    "CredentialPluginFailedError",
    "CredentialPluginMissingError",
    "ExpiredTokenError",
    "FailedWatchError",
    "ForbiddenError",
    "GoneError",
    "LimitExceededError",
    "NotFoundError",
    "ServerError",
    "SilentWatchError",
    "ThrottledError",
    "TlsFailureError",
    "UnauthorizedError",
    "UnreachableError",
    "UntrustedCertificateError",
    "denied_by_admission",
    "from_answer",
    "from_transport",
    "unexpected",
    "without_upgrade",
]

MAX_MESSAGE_LENGTH = 300  # characters of a server's own words
REDIRECTS = frozenset({301, 302, 303, 307, 308})

# Everything msgspec and the standard library raise for foreign bytes: not UTF-8, too deep, too large, wrong type.
UNDECODABLE = (ValueError, RecursionError, OverflowError)

OUT_OF_TIME = (9, 10)  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED

log = logging.getLogger(__name__)


class ClusterError(GpuidError):
    """A request to a cluster failed; `state` is the resulting state of the cluster."""

    state: ClassVar[ClusterState] = ClusterState.SERVER_ERROR


class BadContextError(ClusterError):
    """The kubeconfig, or a file that it names, is missing, unreadable or invalid."""

    state = ClusterState.BAD_CONTEXT


class CredentialPluginMissingError(ClusterError):
    """The exec credential plugin that a kubeconfig names is not installed."""

    state = ClusterState.CREDENTIAL_PLUGIN_MISSING


class CredentialPluginFailedError(ClusterError):
    """The exec credential plugin or the OIDC issuer returned no credentials."""

    state = ClusterState.CREDENTIAL_PLUGIN_FAILED


class UnauthorizedError(ClusterError):
    """The server rejects the credentials, and renewed ones as well."""

    state = ClusterState.UNAUTHORIZED


class ExpiredTokenError(UnauthorizedError):
    """Our token has expired and must be replaced manually."""


class ForbiddenError(ClusterError):
    """The server recognizes the user and denies the request."""

    state = ClusterState.FORBIDDEN

    @property
    def by_admission(self) -> bool:
        """Whether an admission policy or webhook denied this request, rather than a missing right."""
        return denied_by_admission(str(self))


def denied_by_admission(text: str) -> bool:
    """Return whether an admission policy (`denied request`) or webhook (`denied the request`) is behind a denial.

    They run after authorization, and also answer with 403.
    """
    return "denied request" in text or "denied the request" in text


class UnreachableError(ClusterError):
    """No response: name resolution, connection, TLS, proxy or timeout."""

    state = ClusterState.UNREACHABLE


class TlsFailureError(UnreachableError):
    """The TLS handshake failed."""


class UntrustedCertificateError(TlsFailureError):
    """The kubeconfig does not trust the server's certificate."""


class CertificateTimeError(UntrustedCertificateError):
    """A certificate in the server's chain has expired or is not valid yet."""


class FailedWatchError(UnreachableError):
    """An open watch ended too soon or stayed silent; lists may still work."""


class SilentWatchError(FailedWatchError):
    """There has been no proof for too long that the view of the cluster is current."""


class LimitExceededError(ClusterError):
    """The server sent more than the configuration allows."""

    state = ClusterState.LIMIT_EXCEEDED

    @classmethod
    def of(cls, host: str, what: str, key: str) -> Self:
        """Return the error that names what exceeds which limit of the configuration."""
        return cls(f"{host}: {what} ({key}); raise {key} if the cluster needs it")


class ServerError(ClusterError):
    """The server answered with an error: its HTTP `status`, and `retry_after` in seconds, if it sent that."""

    def __init__(self, text: str, *, status: int, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after
        self.from_kubernetes = False  # from the API server itself, not from a proxy in between


class GoneError(ServerError):
    """The resource version or the continue token is too old, or newer than the server's: list again."""


class NotFoundError(ServerError):
    """The object does not exist."""


class ThrottledError(ServerError):
    """The server is overloaded and asks to slow down."""


def from_answer(
    host: str,
    status: int,
    body: bytes,
    retry_after: str | None = None,
    *,
    location: str | None = None,
    redact: Callable[[str, int], str] = redact,
) -> ClusterError:
    """Return the error for a non-2xx response; `body` is a Kubernetes Status or any text.

    `redact` removes secrets from the server's message before it is truncated; `location` is the header of a redirect,
    which is never followed.
    """
    if status in REDIRECTS:
        return ServerError(
            redact(f"{host}: {describe_redirect(status, location, 'server in the kubeconfig')}", MAX_MESSAGE_LENGTH),
            status=status,
        )
    decoded = _Status()
    try:
        decoded = msgspec.json.decode(body, type=_Status)
        message = decoded.message
    except UNDECODABLE:
        html = body.lstrip()[:1] == b"<"  # its text does not help
        message = (
            "got a web page, not an API response; is there a proxy in between?"
            if html
            else body.decode(errors="replace")
        )
    text = f"{host}: {_MEANINGS.get(status, f'HTTP status {status}')}"
    if message := redact(message, MAX_MESSAGE_LENGTH):
        text += f": {message}"
    if status == 401:
        return UnauthorizedError(text)
    if status == 403:
        return ForbiddenError(text)
    if decoded.reason in {"Expired", "Gone"}:
        return GoneError(text, status=410)
    if _too_large(decoded):
        return GoneError(text, status=status)
    kind = _KINDS.get(status, ServerError)
    seconds = parse_retry_after(retry_after, time.time())
    if seconds is None and decoded.details and decoded.details.retryAfterSeconds:
        seconds = min(max(decoded.details.retryAfterSeconds, 0.0), MAX_RETRY_AFTER_SECONDS)
    error = kind(text, status=status, retry_after=seconds or None)
    error.from_kubernetes = bool(decoded.message)
    return error


def without_upgrade(error: ServerError) -> ServerError:
    """Return the error for a refused WebSocket: with a remedy, if a proxy in between may be the cause."""
    from_between = error.status in _GATEWAY_STATUSES and not error.from_kubernetes
    if "upgrade" not in str(error).lower() and not from_between:
        return error
    return type(error)(f"{error}; {NO_UPGRADE}", status=error.status, retry_after=error.retry_after)


def from_transport(host: str, error: BaseException) -> ClusterError:
    """Return the error for a request without a response, from an aiohttp.ClientError, OSError or ValueError."""
    kind: type[ClusterError] = TlsFailureError if tls_cause(error) else UnreachableError
    certificate = getattr(error, "certificate_error", error)
    if isinstance(certificate, ssl.SSLCertVerificationError):
        kind = CertificateTimeError if certificate.verify_code in OUT_OF_TIME else UntrustedCertificateError
    elif isinstance(error, aiohttp.ClientConnectorCertificateError):
        kind = UntrustedCertificateError
    elif isinstance(error, aiohttp.InvalidURL):
        kind = BadContextError
    return kind(f"{host}: {reason(error)}")


def unexpected(what: str, error: Exception) -> BadContextError:
    """Return the error for an unexpected exception; its text is left out, as it may contain a secret."""
    if (why := why_short(error)) is not None:
        return BadContextError(f"{what}: {why}")
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f"{Path(last[0].filename).name}, line {last[0].lineno}" if last else "an unknown place"
    log.error("unexpected %s in %s: %s", type(error).__name__, place, what)
    return BadContextError(f"{what} failed unexpectedly ({place}); please report this as a bug")


class _Cause(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct):
    retryAfterSeconds: float | None = None  # noqa: N815
    causes: list[_Cause] | None = None


class _Status(msgspec.Struct):
    message: str = ""
    reason: str = ""
    details: _Details | None = None


_TOO_LARGE = "Too large resource version"


def _too_large(status: _Status) -> bool:
    """Return whether the server has not reached the resource version yet, such as after a restore.

    Kubernetes 1.18.6 and later name the cause; older servers only have a message (client-go matches the same one).
    """
    causes = (status.details.causes if status.details else None) or ()
    if any(cause.reason == "ResourceVersionTooLarge" for cause in causes):
        return True
    texts = (status.message, *(cause.message for cause in causes))
    return status.reason == "Timeout" and any(_TOO_LARGE in text for text in texts)


_MEANINGS = {
    401: "unauthorized",
    403: "forbidden",
    404: "not found",
    410: "gone",
    429: "too many requests",
}
_KINDS: dict[int, type[ServerError]] = {404: NotFoundError, 410: GoneError, 429: ThrottledError}


_GATEWAY_STATUSES = (400, 426, 501, 502, 504)
