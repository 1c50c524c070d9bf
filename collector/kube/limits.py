"""How fast requests go to one API server, and how much may run at the same time for all of them."""

import time
from collections.abc import Callable

import anyio
import anyio.lowlevel

__all__ = ["RateLimiter", "SharedLimiter", "TokenBucket"]

MIN_REQUESTS_PER_SECOND = 1.0  # however often the server throttles
RECOVERY_REQUESTS = 50  # successes that bring the rate from nothing back to the configured one
THROTTLE_INTERVAL_SECONDS = 1.0  # in which several 429s count as one: their requests were sent at the same rate
_ROUNDING = 1e-9  # of a token


class TokenBucket:
    """The decisions of the limiter, without a clock of its own: `now` is in seconds and never goes back."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self.rate = rate
        self._maximum = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._filled = now
        self._closed_until = now
        self._next_slowdown = now

    def take(self, now: float) -> float:
        """Take the token of one request and return 0; without one, return the seconds after which to try again."""
        self._fill(now)
        if now < self._closed_until:
            return self._closed_until - now
        # Rounding must not make a caller that waited for the full delay wait another nanosecond.
        if self._tokens < 1 - _ROUNDING:
            return (1 - self._tokens) / self.rate
        self._tokens -= 1
        return 0.0

    def throttled(self, retry_after: float | None, now: float) -> None:
        """Halve the rate, once for 429s that come together, and give out no token for `retry_after` seconds."""
        self._fill(now)
        self._closed_until = max(self._closed_until, now + (retry_after or 0.0))
        if now >= self._next_slowdown:
            self.rate = max(min(MIN_REQUESTS_PER_SECOND, self._maximum), self.rate / 2)
            self._tokens = min(self._tokens, 1.0)
            self._next_slowdown = self._closed_until + THROTTLE_INTERVAL_SECONDS

    def succeeded(self) -> None:
        """Move one step back towards the configured rate."""
        self.rate = min(self._maximum, self.rate + self._maximum / RECOVERY_REQUESTS)

    def _fill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self.rate)
        self._filled = now


class RateLimiter:
    """Makes requests wait for their turn, in the order in which they came."""

    def __init__(self, rate: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bucket = TokenBucket(rate, burst, clock())
        self._turn = anyio.Lock()

    @property
    def rate(self) -> float:
        """The current limit in requests per second."""
        return self._bucket.rate

    async def acquire(self) -> None:
        """Wait until one more request may be sent."""
        async with self._turn:
            while True:
                delay = self._bucket.take(self._clock())
                if delay == 0:
                    return
                await anyio.sleep(delay)

    def throttled(self, retry_after: float | None) -> None:
        """Slow down: the server answered 429, possibly with the seconds to wait."""
        self._bucket.throttled(retry_after, self._clock())

    def succeeded(self) -> None:
        """Speed up again: the server accepted a request."""
        self._bucket.succeeded()


class SharedLimiter:
    """Limits how many of something run at the same time, for all clusters of an event loop."""

    def __init__(self, name: str, limit: int) -> None:
        self._limit = limit
        self._limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar(name)

    @property
    def limiter(self) -> anyio.CapacityLimiter:
        """The limiter of the running event loop."""
        try:
            return self._limiter.get()
        except LookupError:
            limiter = anyio.CapacityLimiter(self._limit)
            self._limiter.set(limiter)
            return limiter
