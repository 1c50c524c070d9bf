"""The deadline for a collector's shutdown, and each stage's share of it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum

__all__ = ["END_SECONDS", "EndDeadline", "Stage"]

END_SECONDS = 8.0  # for the whole shutdown; Docker kills after 10


class Stage(Enum):
    """The deadline of each stage, in seconds since shutdown began. Concurrent stages share a deadline."""

    DELIVER = 5.0  # deliver backlogs to the sinks
    STORE = 6.0  # last commit; close sinks and HTTP connections
    RELEASE = 6.5  # hand over the lead
    CLOSE = 7.0  # close connections to the store
    REPORT = 7.5  # report losses; the rest is for the process itself


class EndDeadline:
    """When shutdown began; there is no deadline before. `scale` stretches all times, for tests."""

    def __init__(self, *, scale: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._scale = scale
        self._clock = clock
        self._began: float | None = None
        self._callbacks: list[Callable[[], None]] = []

    def begin(self, since: float | None = None) -> None:
        """Begin shutdown, now or at a time of `time.monotonic`, and run the callbacks; later calls do nothing."""
        if self._began is None:
            self._began = self._clock() if since is None else since
            for callback in list(self._callbacks):
                callback()

    def left(self, stage: Stage) -> float:
        """Return the seconds left for a stage; infinity before shutdown."""
        if self._began is None:
            return float("inf")
        return max(0.0, self._began + stage.value * self._scale - self._clock())

    @contextmanager
    def calling(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call `callback` when shutdown begins during the block, or immediately if it has begun."""
        self._callbacks.append(callback)
        try:
            if self._began is not None:
                callback()
            yield
        finally:
            self._callbacks.remove(callback)
