"""What can go wrong at a sink: an error says whether to try again later or never again."""

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


# What a status below 500 means; any other is for a person to fix, at either end or in between.
_REASONS = {
    401: Reason.UNAUTHORIZED,
    403: Reason.UNAUTHORIZED,
    404: Reason.MISSING,
    405: Reason.MISSING,
    407: Reason.UNAUTHORIZED,
    408: Reason.TIMEOUT,
    409: Reason.SERVER_ERROR,
    410: Reason.MISSING,
    413: Reason.THROTTLED,  # with a time to try again: RFC 9110 has it for a limit that will not last
    423: Reason.SERVER_ERROR,
    424: Reason.SERVER_ERROR,
    425: Reason.SERVER_ERROR,
    429: Reason.THROTTLED,
}
# What servers and proxies answer with 400 before they look at a body: nginx, Go, Apache, Tomcat, HTTP.sys, HAProxy and
# uvicorn, and Starlette, Django and Werkzeug for a host that they do not serve.
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
    """The sink cannot take the batch now: retry it, not before `retry_after` seconds if the sink named a time.

    With `outcome_unknown` the receiver was sent the whole batch, and may have it.
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
    """The sink will never take this batch, however often it is sent."""

    def __init__(self, text: str, reason: Reason = Reason.REJECTED) -> None:
        super().__init__(text, reason)


class TooLargeError(RejectedError):
    """The sink will never take a batch of this size, but perhaps the halves of it."""


def from_status(
    status: int, text: str, retry_after: float | None = None, *, about_records: Container[int] = ()
) -> SinkError:
    """Return the error for an HTTP status other than 2xx; `text` repeats what the receiver said.

    A batch is refused for good only by a status of `about_records`. Whatever else it is, somebody can fix it at either
    end or in between without changing the records, and the sink waits until then.
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
    # A proxy says 502, 503 or 504 also of a request that a receiver took and did not answer.
    return UnavailableError(text, reason, retry_after=retry_after, outcome_unknown=status >= 500)
