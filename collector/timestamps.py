"""Times as text: RFC 3339 in UTC, shared by logs, API, records and Kubernetes, and times written by people."""

import math
import re
from datetime import UTC, datetime
from typing import Literal, overload

__all__ = ["CLOCK_SKEW_SECONDS", "EXPECTED_TIME", "MAX_TIME", "as_of", "parse_end", "parse_time", "rfc3339"]

CLOCK_SKEW_SECONDS = 60.0  # by which a client's clock may be ahead: such a time counts as now
EXPECTED_TIME = "expected a time such as 2026-11-24T12:00:00Z, 2026-11-24, yesterday or 2h"
MAX_TIME = 253_402_300_799.0  # Unix seconds: the end of the year 9999, the last date that can be written

_MAX_LENGTH = 60  # characters of a time
_DAY_SECONDS = 86_400.0
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": _DAY_SECONDS, "w": 7 * _DAY_SECONDS}
_UNIT = "(?:s|m|h|d|w|secs?|seconds?|mins?|minutes?|hours?|days?|weeks?)"
_AGE = re.compile(rf"(-?)((?:\d{{1,9}}(?:\.\d{{1,9}})? ?{_UNIT} ?)+)( ?ago)?", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?) ?([a-z])")
_CLOCK = re.compile(r"[t ]\d", re.ASCII)  # a time of day after a date
_FRACTION = re.compile(r"[.,]\d", re.ASCII)
_LAST_MICROSECOND = 999_999  # of a second
_LOST_PLUS = re.compile(r"(.*\d:\d\d(?:[.,]\d+)?) (\d\d:?\d\d)", re.ASCII)  # an unescaped "+" in a URL


@overload
def rfc3339(seconds: float, timespec: Literal["milliseconds", "seconds"] = ...) -> str: ...


@overload
def rfc3339(seconds: None, timespec: Literal["milliseconds", "seconds"] = ...) -> None: ...


def rfc3339(seconds: float | None, timespec: Literal["milliseconds", "seconds"] = "milliseconds") -> str | None:
    """Return Unix seconds as RFC 3339 in UTC, truncated to milliseconds or seconds; None for None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def as_of(time: float) -> str:
    """Format a past time (Unix seconds) so that `parse_time` with `latest` returns the same."""
    whole = datetime.fromtimestamp(time, UTC).microsecond == _LAST_MICROSECOND
    return rfc3339(time, "seconds" if whole else "milliseconds")


def parse_time(text: str, now: float, *, future: bool = False, latest: bool = False) -> float:
    """Parse a time written by a person into Unix seconds, relative to `now`.

    It is an ISO 8601 time (in UTC without a zone), a date (midnight UTC), "now", "today", "yesterday", or an age such
    as "2h", "1h30m", "3d ago" or "-1w". ValueError says in one line what was expected; a future time is rejected
    unless `future`. With `latest`, a time of day means the end of the given second or millisecond: since `rfc3339`
    truncates times, this includes whatever is there since such a time.
    """
    words = _words(text)
    if (age := _length(words)) is not None:
        time = now - age
    elif words in ("now", "today", "yesterday"):
        midnight = now - now % _DAY_SECONDS
        time = {"now": now, "today": midnight}.get(words, midnight - _DAY_SECONDS)
    else:
        time = _absolute(words, text, latest=latest)
    if time > now and not future:
        if time > now + CLOCK_SKEW_SECONDS:
            raise ValueError(f"expected a time in the past, got {_quoted(text)}")
        return now
    return _bounded(time, text)


def parse_end(text: str, now: float) -> float:
    """Parse an end time into Unix seconds: an ISO 8601 time, or a duration from `now` such as "7d".

    ValueError says in one line what was expected.
    """
    words = _words(text)
    if words.startswith("-") or words.endswith("ago") or (length := _length(words)) is None:
        try:
            return _bounded(_absolute(words, text), text)
        except ValueError:
            raise ValueError(
                f'expected a duration such as "7d", or a time such as 2026-12-01T12:00:00Z, got {_quoted(text)}'
            ) from None
    return _bounded(now + length, text)


def _words(text: str) -> str:
    """Return a normalized spelling of a person's input; empty if too long for a time."""
    return " ".join(text.split()).lower() if text.isascii() and len(text) <= _MAX_LENGTH else ""


def _length(words: str) -> float | None:
    """Return the length of an age in seconds; None if it is not an age."""
    if (found := _AGE.fullmatch(words)) is None or (found[1] and found[3]):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(found[2]))


def _absolute(words: str, text: str, *, latest: bool = False) -> float:
    try:
        moment = datetime.fromisoformat(_LOST_PLUS.sub(r"\1+\2", words).upper())
    except ValueError:
        raise ValueError(f"{EXPECTED_TIME}, got {_quoted(text)}") from None
    if latest and _CLOCK.search(words):
        micro = moment.microsecond
        moment = moment.replace(
            microsecond=micro - micro % 1000 + 999 if _FRACTION.search(words) else _LAST_MICROSECOND
        )
    time = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return _last_of_microsecond(time) if latest else time


def _last_of_microsecond(time: float) -> float:
    """Return the last float that truncates and rounds to the same microsecond as this one."""
    for _ in range(4):
        later = math.nextafter(time, math.inf)
        if datetime.fromtimestamp(later, UTC) != datetime.fromtimestamp(time, UTC):
            break
        time = later
    return time


def _bounded(time: float, text: str) -> float:
    if not 0 <= time <= MAX_TIME:
        raise ValueError(f"expected a time in the years 1970 to 9999, got {_quoted(text)}")
    return time


def _quoted(text: str) -> str:
    """Return a text quoted for a message, on one line."""
    return repr(text if len(text) <= _MAX_LENGTH else f"{text[: _MAX_LENGTH - 1]}…")
