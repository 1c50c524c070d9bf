"""What can go wrong at a sink: try again later, or never again."""

import re
from collections.abc import Iterable
from enum import StrEnum

from collector.model import GpuidError
from collector.text import one_line

__all__ = ["Reason", "RejectedError", "SinkError", "UnavailableError", "from_status", "tidy"]


class Reason(StrEnum):
    """Why a batch did not get through: the closed set of the `reason` label."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    THROTTLED = "throttled"
    SERVER_ERROR = "server_error"
    UNAUTHORIZED = "unauthorized"
    MISSING = "missing"  # the endpoint, bucket, table or column is not there (yet)
    MISCONFIGURED = "misconfigured"  # a person has to mend the settings, a secret's file or the receiver's
    REJECTED = "rejected"  # the records themselves are refused


class SinkError(GpuidError):
    """A batch did not get through; the text is one line without secrets."""

    def __init__(self, text: str, reason: Reason) -> None:
        super().__init__(text)
        self.reason = reason


class UnavailableError(SinkError):
    """The sink cannot take the batch now: keep it and try again, not before `retry_after` seconds if it said so."""

    def __init__(self, text: str, reason: Reason, *, retry_after: float | None = None) -> None:
        super().__init__(text, reason)
        self.retry_after = retry_after


class RejectedError(SinkError):
    """The sink will never take this batch, however often it is sent."""

    def __init__(self, text: str, reason: Reason = Reason.REJECTED) -> None:
        super().__init__(text, reason)


def from_status(status: int, text: str, retry_after: float | None = None) -> SinkError:
    """Judge an HTTP status that is no success; what a person mends at either end keeps the data."""
    reason = _WAITING.get(status)
    if reason is None and 400 <= status < 500:
        return RejectedError(text)
    fallback = Reason.MISCONFIGURED if status < 400 else Reason.SERVER_ERROR
    return UnavailableError(text, reason or fallback, retry_after=retry_after)


def tidy(text: str, secrets: Iterable[str] = ()) -> str:
    """Make a foreign text fit for one line of error: secrets blotted out, no control characters, 200 characters."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return one_line(_URL_LOGIN.sub(r"\1***@", _CREDENTIAL.sub(r"\1***", one_line(text))), 200)


_WAITING = {
    401: Reason.UNAUTHORIZED,
    403: Reason.UNAUTHORIZED,
    404: Reason.MISSING,
    405: Reason.MISSING,
    407: Reason.UNAUTHORIZED,
    408: Reason.TIMEOUT,
    409: Reason.SERVER_ERROR,  # an earlier try with the same idempotency key is still at work
    410: Reason.MISSING,
    415: Reason.MISCONFIGURED,  # it takes no JSON or no gzip, whatever the records are
    421: Reason.MISCONFIGURED,
    423: Reason.SERVER_ERROR,
    425: Reason.SERVER_ERROR,
    429: Reason.THROTTLED,
}
_CREDENTIAL = re.compile(
    r"""((?:\b(?:bearer|basic)\s+|(?:token|password|passwd|secret|signature|credential|authorization|api[-_]?key)"""
    r"""["']?\s*[:=]\s*["']?(?:bearer\s+|basic\s+)?))[^\s"',;&}\]]+""",
    re.IGNORECASE,
)
_URL_LOGIN = re.compile(r"(://)[^/@\s]+@")
