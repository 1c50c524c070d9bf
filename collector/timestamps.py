"""Times as text: RFC 3339 in UTC, the one form that logs, API, records and Kubernetes share."""

from datetime import UTC, datetime
from typing import Literal, overload

__all__ = ["rfc3339", "utc_seconds"]


@overload
def rfc3339(seconds: float, timespec: Literal["milliseconds", "seconds"] = ...) -> str: ...


@overload
def rfc3339(seconds: None, timespec: Literal["milliseconds", "seconds"] = ...) -> None: ...


def rfc3339(seconds: float | None, timespec: Literal["milliseconds", "seconds"] = "milliseconds") -> str | None:
    """Return Unix seconds as RFC 3339 in UTC, cut to milliseconds or seconds; None for None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def utc_seconds(text: str) -> float:
    """Return the Unix seconds of an ISO 8601 time, which without a time zone is in UTC; raises ValueError."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
