"""Delays before retries: exponential backoff with jitter, and Retry-After."""

import random
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec

__all__ = ["MAX_RETRY_AFTER_SECONDS", "Backoff", "parse_retry_after"]

MAX_RETRY_AFTER_SECONDS = 3600.0  # upper limit on a server's Retry-After

_MAX_EXPONENT = 63  # later attempts wait for the maximum; larger powers would overflow
_NUMBER = re.compile(r"\d+(\.\d+)?")


class Backoff(msgspec.Struct, frozen=True):
    """Delays in seconds that grow by `factor` from `initial` to `maximum`.

    `jitter` is the random part of a delay (0.2 means ±20 %), so that clients that failed together do not all retry
    together.
    """

    initial: float
    maximum: float
    factor: float = 2.0
    jitter: float = 0.2

    def delay(self, attempt: int, rng: random.Random | None = None) -> float:
        """Return the seconds to wait after failure number `attempt`, counted from 0."""
        seconds = self.maximum
        if attempt <= _MAX_EXPONENT:
            seconds = min(self.maximum, self.initial * self.factor**attempt)
        return seconds * (rng or random).uniform(1 - self.jitter, 1 + self.jitter)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Return a Retry-After header (seconds or an HTTP date) as seconds from `now`; None if it is neither.

    The result is at most MAX_RETRY_AFTER_SECONDS.
    """
    text = (value or "").strip()
    try:
        seconds = float(text) if _NUMBER.fullmatch(text) else _aware(parsedate_to_datetime(text)).timestamp() - now
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
