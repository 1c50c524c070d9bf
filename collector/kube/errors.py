"""The error tree of everything that talks to Kubernetes, and the one table that maps foreign errors to it."""

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

# All that msgspec and the standard library raise for foreign bytes: not UTF-8, too deep, too large, not the type.
UNDECODABLE = (ValueError, RecursionError, OverflowError)

OUT_OF_TIME = (9, 10)  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED

log = logging.getLogger(__name__)


class ClusterError(GpuidError):
    """A request to a cluster failed; `state` is the state of the cluster that follows."""

    state: ClassVar[ClusterState] = ClusterState.SERVER_ERROR


class BadContextError(ClusterError):
    """The kubeconfig, or a file that it names, is missing, unreadable or wrong."""

    state = ClusterState.BAD_CONTEXT


class CredentialPluginMissingError(ClusterError):
    """The exec credential plugin that a kubeconfig names is not installed."""

    state = ClusterState.CREDENTIAL_PLUGIN_MISSING


class CredentialPluginFailedError(ClusterError):
    """The exec credential plugin or the OIDC issuer returned no credentials."""

    state = ClusterState.CREDENTIAL_PLUGIN_FAILED


class UnauthorizedError(ClusterError):
    """The server accepts neither the credentials nor renewed ones."""

    state = ClusterState.UNAUTHORIZED


class ExpiredTokenError(UnauthorizedError):
    """The token that we present has ended, and only a person can replace it."""


class ForbiddenError(ClusterError):
    """The server knows the user and denies the request."""

    state = ClusterState.FORBIDDEN

    @property
    def by_admission(self) -> bool:
        """Whether an admission policy or webhook denies this one request, and no right is missing."""
        return denied_by_admission(str(self))


def denied_by_admission(text: str) -> bool:
    """Return whether a denial is that of an admission policy (`denied request`) or webhook (`denied the request`).

    They are asked once the right is there, and answer with 403, too.
    """
    return "denied request" in text or "denied the request" in text


class UnreachableError(ClusterError):
    """There was no answer: name resolution, connection, TLS, proxy or timeout."""

    state = ClusterState.UNREACHABLE


class TlsFailureError(UnreachableError):
    """The TLS handshake failed."""


class UntrustedCertificateError(TlsFailureError):
    """The kubeconfig does not trust the server's certificate."""


class CertificateTimeError(UntrustedCertificateError):
    """A certificate of the server or of who vouches for it has expired or is not valid yet."""


class FailedWatchError(UnreachableError):
    """A watch that was open ended too soon or said nothing; lists may work all the same."""


class SilentWatchError(FailedWatchError):
    """Nothing has proven for too long that the view of the cluster is current."""


class LimitExceededError(ClusterError):
    """The server sent more than the configuration allows."""

    state = ClusterState.LIMIT_EXCEEDED

    @classmethod
    def of(cls, host: str, what: str, key: str) -> Self:
        """Return the error that says what there is too much of, and which key of the configuration limits it."""
        return cls(f"{host}: {what} ({key}); raise {key} if the cluster needs it")


class ServerError(ClusterError):
    """The server answered with an error: its HTTP `status`, and `retry_after`, the seconds that it asks to wait."""

    def __init__(self, text: str, *, status: int, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after = retry_after
        self.from_kubernetes = False  # the API server itself said so, and not a proxy in between


class GoneError(ServerError):
    """The resource version or the continue token is too old, or newer than what the server has: list again."""


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
    """Return the error for an answer that is not 2xx; `body` is a Kubernetes Status or any text.

    `redact` takes the secrets out of the server's words before they are cut to a length; `location` is the header of an
    answer that redirects, which is never followed.
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
        html = body.lstrip()[:1] == b"<"  # its text helps nobody
        message = (
            "a web page, which no API server sends; is a proxy in between?" if html else body.decode(errors="replace")
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
    """Return the error for a WebSocket that was refused: with a remedy, if that may be due to what is in between."""
    from_between = error.status in _GATEWAY_STATUSES and not error.from_kubernetes
    if "upgrade" not in str(error).lower() and not from_between:
        return error
    return type(error)(f"{error}; {NO_UPGRADE}", status=error.status, retry_after=error.retry_after)


def from_transport(host: str, error: BaseException) -> ClusterError:
    """Return the error for a request that got no answer, from an aiohttp.ClientError, OSError or ValueError."""
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
    """Return the error for one that nobody foresaw; its text is left out, as it may hold a secret."""
    if (why := why_short(error)) is not None:
        return BadContextError(f"{what}: {why}")
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f"{Path(last[0].filename).name}, line {last[0].lineno}" if last else "an unknown place"
    log.error("unexpected %s in %s: %s", type(error).__name__, place, what)
    return BadContextError(f"{what} fails in a way that gpuid does not expect ({place}); please report this")


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
    """Return whether the server has not got as far as the resource version, such as after it was restored.

    It names the cause since Kubernetes 1.18.6; older servers say so in a message (client-go looks for the same).
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
