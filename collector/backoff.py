"""How long to wait before trying again: as a backoff says, or as a server asked."""

import random
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec

__all__ = ["LONGEST", "Backoff", "parse_retry_after"]

LONGEST = 3600.0  # seconds that a server may make us wait, whatever it asks for


class Backoff(msgspec.Struct, frozen=True):
    """Delays in seconds that grow by `factor` from `initial` to `maximum`.

    `jitter` is the part of a delay that chance may take off or add (0.2 is ±20 %), so that many clients that failed
    together do not come back together.
    """

    initial: float
    maximum: float
    factor: float = 2.0
    jitter: float = 0.2

    def delay(self, attempt: int, rng: random.Random | None = None) -> float:
        """Seconds to wait after failure number `attempt`, counted from 0."""
        steady = self.maximum
        if attempt < 64:  # past that the power says nothing more, and would overflow at last
            steady = min(self.maximum, self.initial * self.factor**attempt)
        return steady * (rng or random).uniform(1 - self.jitter, 1 + self.jitter)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Read a Retry-After header, seconds or an HTTP date, as seconds from `now`, at most LONGEST; or None."""
    text = (value or "").strip()
    try:
        seconds = float(text) if _NUMBER.fullmatch(text) else _aware(parsedate_to_datetime(text)).timestamp() - now
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), LONGEST)


_NUMBER = re.compile(r"\d+(\.\d+)?")


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
