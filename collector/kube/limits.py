"""How fast one API server is asked, and how much is done at once for all of them."""

import time
from collections.abc import Callable

import anyio
import anyio.lowlevel

__all__ = ["RateLimiter", "SharedLimiter", "TokenBucket"]

_FLOOR = 1.0  # requests per second that even a server in distress gets
_STEPS = 50  # successes that bring the rate from nothing back to the configured one
_CALM = 1.0  # seconds in which several refusals count as one: they were sent at the same pace


class TokenBucket:
    """The decisions of the limiter, without a clock of its own: `now` is in seconds and never goes back."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self.rate = rate
        self._maximum = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._filled = now
        self._closed_until = now
        self._calm_until = now

    def take(self, now: float) -> float:
        """Take one request's token; returns 0, or the seconds after which to ask again."""
        self._fill(now)
        if now < self._closed_until:
            return self._closed_until - now
        # The tolerance forgives rounding, so that whoever waited as long as told is not sent away for a nanosecond.
        if self._tokens < 1 - 1e-9:
            return (1 - self._tokens) / self.rate
        self._tokens -= 1
        return 0.0

    def throttled(self, retry_after: float | None, now: float) -> None:
        """Halve the rate, once for refusals that come together, and hand out nothing for `retry_after` seconds."""
        self._fill(now)
        self._closed_until = max(self._closed_until, now + (retry_after or 0.0))
        if now >= self._calm_until:
            self.rate = max(min(_FLOOR, self._maximum), self.rate / 2)
            self._tokens = min(self._tokens, 1.0)
            self._calm_until = self._closed_until + _CALM

    def succeeded(self) -> None:
        """Move one step back to the configured rate."""
        self.rate = min(self._maximum, self.rate + self._maximum / _STEPS)

    def _fill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self.rate)
        self._filled = now


class RateLimiter:
    """Makes requests wait their turn, first come first served."""

    def __init__(self, rate: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bucket = TokenBucket(rate, burst, clock())
        self._turn = anyio.Lock()

    @property
    def rate(self) -> float:
        """Requests per second at present."""
        return self._bucket.rate

    async def acquire(self) -> None:
        """Wait until one more request may go out."""
        async with self._turn:
            while True:
                delay = self._bucket.take(self._clock())
                if delay == 0:
                    return
                await anyio.sleep(delay)

    def throttled(self, retry_after: float | None) -> None:
        """Slow down: the server answered 429 and may have named the seconds to wait."""
        self._bucket.throttled(retry_after, self._clock())

    def succeeded(self) -> None:
        """Speed up again: the server took a request."""
        self._bucket.succeeded()


class SharedLimiter:
    """How many of something may be under way at once, for all clusters of an event loop."""

    def __init__(self, name: str, most: int) -> None:
        self._most = most
        self._limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar(name)

    @property
    def limiter(self) -> anyio.CapacityLimiter:
        """The running event loop's limiter."""
        try:
            return self._limiter.get()
        except LookupError:
            limiter = anyio.CapacityLimiter(self._most)
            self._limiter.set(limiter)
            return limiter
