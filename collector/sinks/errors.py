"""Errors of sinks, which say whether to retry later or never."""

import re
from collections.abc import Container
from enum import StrEnum

from collector.model import GpuidError

__all__ = [
    "TEXT_LIMIT",
    "KnownKeyError",
    "Reason",
    "RejectedError",
    "SinkError",
    "TooLargeError",
    "UnavailableError",
    "from_status",
]

TEXT_LIMIT = 200  # characters of a receiver's text that an error quotes


class Reason(StrEnum):
    """Why a batch was not delivered: the closed set of the `reason` label."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    THROTTLED = "throttled"
    SERVER_ERROR = "server_error"
    UNAUTHORIZED = "unauthorized"
    MISSING = "missing"  # the endpoint, bucket, table or column does not exist (yet)
    MISCONFIGURED = "misconfigured"  # someone must fix the settings, a secret file or the receiver
    REJECTED = "rejected"  # the records themselves are rejected


# Meaning of statuses below 500; any other must be fixed by someone, at either end or in between.
_REASONS = {
    401: Reason.UNAUTHORIZED,
    403: Reason.UNAUTHORIZED,
    404: Reason.MISSING,
    405: Reason.MISSING,
    407: Reason.UNAUTHORIZED,
    408: Reason.TIMEOUT,
    409: Reason.SERVER_ERROR,
    410: Reason.MISSING,
    413: Reason.THROTTLED,  # with a retry time: RFC 9110 defines it for temporary limits
    423: Reason.SERVER_ERROR,
    424: Reason.SERVER_ERROR,
    425: Reason.SERVER_ERROR,
    429: Reason.THROTTLED,
}
# Bodies of 400 responses that are independent of the request body: from nginx, Go, Apache, Tomcat, HTTP.sys, HAProxy
# and uvicorn, and from Starlette, Django and Werkzeug for a host that they do not serve.
_NOT_OF_THE_BODY = (
    "plain http request was sent to https port",
    "sent an http request to an https server",
    "speaking plain http to an ssl-enabled server port",
    "combination of host and port requires tls",
    "no required ssl certificate was sent",
    "the ssl certificate error",
    "request header or cookie too large",
    "request header field exceeds",
    "required host header",
    r"bad request - (invalid host|request too long)",
    r"http error 400\. the (request|size of the request)",
    r"your browser sent an invalid request\.",
    r"your browser sent a request that this server could not understand",
    r"invalid http request received\.",
    r"invalid host header",
    r"answered 400: bad request \(400\)$",
    r"host '[^']*' is not trusted",
)


class SinkError(GpuidError):
    """A batch was not delivered; the text is one line without secrets."""

    def __init__(self, text: str, reason: Reason) -> None:
        super().__init__(text)
        self.reason = reason


class UnavailableError(SinkError):
    """The sink cannot accept the batch now: retry it, after `retry_after` seconds if the sink named a time.

    With `outcome_unknown`, the whole batch was sent and the receiver may have it.
    """

    def __init__(
        self, text: str, reason: Reason, *, retry_after: float | None = None, outcome_unknown: bool = False
    ) -> None:
        super().__init__(text, reason)
        self.retry_after = retry_after
        self.outcome_unknown = outcome_unknown


class KnownKeyError(UnavailableError):
    """The receiver knows the batch's idempotency key: it has the batch, if an earlier attempt may have delivered it."""


class RejectedError(SinkError):
    """The sink will never accept this batch."""

    def __init__(self, text: str, reason: Reason = Reason.REJECTED) -> None:
        super().__init__(text, reason)


class TooLargeError(RejectedError):
    """The sink will never accept a batch of this size, but perhaps its halves."""


def from_status(
    status: int, text: str, retry_after: float | None = None, *, about_records: Container[int] = ()
) -> SinkError:
    """Return the error for an HTTP status other than 2xx; `text` quotes the receiver.

    Only a status in `about_records` rejects a batch permanently. Everything else can be fixed at either end or in
    between without changing the records, and the sink waits until then.
    """
    if status in about_records and not (
        status == 400 and any(re.search(words, text.lower()) for words in _NOT_OF_THE_BODY)
    ):
        if status != 413:
            return RejectedError(text)
        if retry_after is None:
            return TooLargeError(text)
    fallback = Reason.MISCONFIGURED if status < 500 else Reason.SERVER_ERROR
    reason = _REASONS.get(status, fallback)
    # A proxy also returns 502, 503 or 504 for a request that the receiver accepted without responding.
    return UnavailableError(text, reason, retry_after=retry_after, outcome_unknown=status >= 500)
