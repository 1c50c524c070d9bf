"""A delay queue: names, each with the time at which it is due. Polling is free while none is due."""

import heapq

__all__ = ["DelayQueue"]

MAX_OUTDATED = 64  # outdated entries, in addition to one per name


class DelayQueue:
    """A priority queue of names by due time, one time per name at most. Any one clock may be used."""

    def __init__(self) -> None:
        self._times: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []  # may hold outdated entries; `_times` decides

    def __len__(self) -> int:
        """Return how many names have a time."""
        return len(self._times)

    def schedule(self, name: str, time: float | None) -> None:
        """Set the time at which a name is due, replacing an earlier one; None removes it."""
        if time is None:
            self._times.pop(name, None)
        elif self._times.get(name) != time:
            self._times[name] = time
            heapq.heappush(self._heap, (time, name))
            if len(self._heap) > MAX_OUTDATED + 2 * len(self._times):
                self._heap = [(at, which) for which, at in self._times.items()]
                heapq.heapify(self._heap)

    def pop_due(self, now: float) -> str | None:
        """Remove and return the name that has been due longest; None if none is due."""
        if self.next_due() > now:
            return None
        name = heapq.heappop(self._heap)[1]
        del self._times[name]
        return name

    def next_due(self) -> float:
        """Return the earliest time; infinity if the queue is empty."""
        heap = self._heap
        while heap and self._times.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else float("inf")
