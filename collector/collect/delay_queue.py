"""Remembers who is due when; asking costs nothing while nobody is."""

import heapq

__all__ = ["DelayQueue"]


class DelayQueue:
    """At most one time for each name; times are of any one clock."""

    def __init__(self) -> None:
        self._times: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []  # also holds what has been changed since; `_times` is the truth

    def set(self, name: str, time: float | None) -> None:
        """Put a name down for a time instead of any earlier one; None strikes it off."""
        if time is None:
            self._times.pop(name, None)
        elif self._times.get(name) != time:
            self._times[name] = time
            heapq.heappush(self._heap, (time, name))

    def take(self, now: float) -> str | None:
        """Strike off and return the name that has been due for longest; None if nobody is."""
        if self.next() > now:
            return None
        name = heapq.heappop(self._heap)[1]
        del self._times[name]
        return name

    def next(self) -> float:
        """Return the earliest time; infinity if there is none."""
        heap = self._heap
        while heap and self._times.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else float("inf")
