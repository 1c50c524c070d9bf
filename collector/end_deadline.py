"""The one deadline of a collector's end, and the share of it that each stage has."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum

__all__ = ["END_SECONDS", "EndDeadline", "Stage"]

END_SECONDS = 8.0  # for the whole end; Docker kills after 10


class Stage(Enum):
    """What is to be done by when, in seconds since the end began. What runs side by side shares a deadline."""

    DELIVER = 5.0  # the sinks get what waits
    STORE = 6.0  # the last commit; sinks and HTTP connections are closed
    RELEASE = 6.5  # another collector may lead
    CLOSE = 7.0  # connections to the store are closed
    REPORT = 7.5  # what could not be kept is reported; the rest is for the process itself


class EndDeadline:
    """When the end began; nothing has a deadline before that. `scale` stretches all times, for tests."""

    def __init__(self, *, scale: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._scale = scale
        self._clock = clock
        self._began: float | None = None
        self._callbacks: list[Callable[[], None]] = []

    def begin(self, since: float | None = None) -> None:
        """Begin the end, now or at a time of `time.monotonic`, and call what waits for it; later calls do nothing."""
        if self._began is None:
            self._began = self._clock() if since is None else since
            for callback in list(self._callbacks):
                callback()

    def left(self, stage: Stage) -> float:
        """Return the seconds that a stage still has; infinity before the end has begun."""
        if self._began is None:
            return float("inf")
        return max(0.0, self._began + stage.value * self._scale - self._clock())

    @contextmanager
    def calling(self, callback: Callable[[], None]) -> Iterator[None]:
        """Have `callback` called when the end begins during the block, or at once if it has begun."""
        self._callbacks.append(callback)
        try:
            if self._began is not None:
                callback()
            yield
        finally:
            self._callbacks.remove(callback)
