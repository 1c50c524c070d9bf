"""Limits per API server: its request rate, its share of the event loop, and concurrency."""

import time
from collections.abc import Callable

import anyio
import anyio.lowlevel

__all__ = ["LoopShare", "RateLimiter", "SharedLimiter", "TokenBucket"]

MIN_REQUESTS_PER_SECOND = 1.0  # however often the server throttles
RECOVERY_REQUESTS = 50  # successes that bring the rate from zero back to the configured one
THROTTLE_INTERVAL_SECONDS = 1.0  # in which several 429s count as one, as their requests were sent at the same rate
TURN_SECONDS = 0.005  # that a cluster may process what its server sends before it yields to the event loop
SAVED_SECONDS = 8.0  # whose share a cluster may save up: at the default, the time that a list of 10,000 nodes takes
MAX_CHARGE_SECONDS = 0.25  # for one turn: whatever took longer, such as a machine that stood still, was not processing
_ROUNDING = 1e-9  # of a token


class TokenBucket:
    """The limiter's decisions, without a clock of its own: `now` is in seconds and monotonic."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self.rate = rate
        self._maximum = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._filled = now
        self._closed_until = now
        self._next_slowdown = now

    def take(self, now: float) -> float:
        """Take a token for one request and return 0; if there is none, return the seconds after which to try again."""
        self._fill(now)
        if now < self._closed_until:
            return self._closed_until - now
        # Rounding must not make a caller that waited for the full delay wait another nanosecond.
        if self._tokens < 1 - _ROUNDING:
            return (1 - self._tokens) / self.rate
        self._tokens -= 1
        return 0.0

    def throttled(self, retry_after: float | None, now: float) -> None:
        """Halve the rate, once for a burst of 429s, and issue no token for `retry_after` seconds."""
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
    """Makes requests wait for their turn, in order of arrival."""

    def __init__(self, rate: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bucket = TokenBucket(rate, burst, clock())
        self._turn = anyio.Lock(fast_acquire=True)

    @property
    def rate(self) -> float:
        """The current limit in requests per second."""
        return self._bucket.rate

    async def acquire(self) -> None:
        """Wait until another request may be sent."""
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


class LoopShare:
    """How much of the event loop's time one cluster may use: a share on average, and a saved-up burst at once.

    Code that processes what a server sends measures the time and calls `pause` at the end, and in between when a turn
    is `over`. So no server keeps the loop from the other clusters, however much it sends and however fast::

        started = share.clock()
        for item in items:
            process(item)
            if share.over(started):
                started = await share.pause(started)
        await share.pause(started)
    """

    def __init__(
        self,
        share: float,
        *,
        burst: float | None = None,
        turn: float = TURN_SECONDS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.clock = clock
        self._share = share
        self._burst = share * SAVED_SECONDS if burst is None else burst
        self._turn = turn
        self._left = self._burst  # seconds that may be used now; below zero while it is over its share
        self._filled = clock()
        self._used = 0.0  # seconds since the last yield
        self._turnstile = anyio.Lock(fast_acquire=True)  # one task of the cluster at a time has a turn

    def over(self, started: float) -> bool:
        """Return whether the turn that began at `started` has lasted long enough."""
        return self.clock() - started >= self._turn

    def charge(self, started: float, *, turn: float | None = None) -> float:
        """Charge the time since `started`; return for how many seconds a caller that cannot `pause` should stop.

        It should do so after a long turn in any case; `turn` is another length for one, in seconds.
        """
        used = max(0.0, min(self.clock() - started, MAX_CHARGE_SECONDS))
        self.spend(used)
        return max(self._debt, used * (1 / self._share - 1) if used >= (turn or self._turn) else 0.0)

    def spend(self, seconds: float) -> None:
        """Charge seconds that were measured elsewhere, such as in a thread, which takes the interpreter as well."""
        now = self.clock()
        self._left = min(self._burst, self._left + (now - self._filled) * self._share) - seconds
        self._filled = now
        self._used += seconds

    async def pause(self, started: float) -> float:
        """Charge the time since `started`, and yield if a turn is over; return when the next one begins.

        Over its share, a cluster waits until it is within it again.
        """
        self.charge(started)
        if self._left < 0 or self._used >= self._turn:
            async with self._turnstile:
                self._used = 0.0
                await anyio.sleep(self._debt)
        return self.clock()

    @property
    def _debt(self) -> float:
        """Seconds until the cluster is within its share again."""
        left = self._left + (self.clock() - self._filled) * self._share
        return max(0.0, -left / self._share)


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
