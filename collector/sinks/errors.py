"""What can go wrong at a sink: an error says whether to try again later or never again."""

from enum import StrEnum

from collector.model import GpuidError

__all__ = ["TEXT_LIMIT", "Reason", "RejectedError", "SinkError", "UnavailableError", "from_status"]

TEXT_LIMIT = 200  # characters of a receiver's text that an error repeats


class Reason(StrEnum):
    """Why a batch was not delivered: the closed set of the `reason` label."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    THROTTLED = "throttled"
    SERVER_ERROR = "server_error"
    UNAUTHORIZED = "unauthorized"
    MISSING = "missing"  # the endpoint, bucket, table or column does not exist (yet)
    MISCONFIGURED = "misconfigured"  # a person has to fix the settings, a secret's file or the receiver
    REJECTED = "rejected"  # the records themselves are refused


# Statuses from 400 to 499 after which a batch is retried: a person can fix the cause without changing the records.
_RETRIED_STATUSES = {
    401: Reason.UNAUTHORIZED,
    403: Reason.UNAUTHORIZED,
    404: Reason.MISSING,
    405: Reason.MISSING,
    407: Reason.UNAUTHORIZED,
    408: Reason.TIMEOUT,
    409: Reason.SERVER_ERROR,  # an earlier attempt with the same idempotency key is still being processed
    410: Reason.MISSING,
    415: Reason.MISCONFIGURED,  # it accepts no JSON or no gzip, whatever the records are
    421: Reason.MISCONFIGURED,
    423: Reason.SERVER_ERROR,
    425: Reason.SERVER_ERROR,
    429: Reason.THROTTLED,
}


class SinkError(GpuidError):
    """A batch was not delivered; the text is one line without secrets."""

    def __init__(self, text: str, reason: Reason) -> None:
        super().__init__(text)
        self.reason = reason


class UnavailableError(SinkError):
    """The sink cannot take the batch now: retry it, not before `retry_after` seconds if the sink named a time."""

    def __init__(self, text: str, reason: Reason, *, retry_after: float | None = None) -> None:
        super().__init__(text, reason)
        self.retry_after = retry_after


class RejectedError(SinkError):
    """The sink will never take this batch, however often it is sent."""

    def __init__(self, text: str, reason: Reason = Reason.REJECTED) -> None:
        super().__init__(text, reason)


def from_status(status: int, text: str, retry_after: float | None = None) -> SinkError:
    """Return the error for an HTTP status other than 2xx; a cause that a person can fix at either end is retried."""
    reason = _RETRIED_STATUSES.get(status)
    if reason is None and 400 <= status < 500:
        return RejectedError(text)
    fallback = Reason.MISCONFIGURED if status < 400 else Reason.SERVER_ERROR
    return UnavailableError(text, reason or fallback, retry_after=retry_after)
