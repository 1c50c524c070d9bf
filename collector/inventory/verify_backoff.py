"""How soon a node is read because another one reports its GPUs: at once, then with growing delays, up to an hour."""

import dataclasses

from collector.model import Place

__all__ = ["MAX_DELAY_SECONDS", "VerifyBackoff"]

MAX_DELAY_SECONDS = 3600.0  # between two readings of a node for the same claimant

_FREE = 2  # readings at once: a claim may be opened while the node is being read, which is no answer
_FIRST_DELAY_SECONDS = 20.0  # after these
_FACTOR = 4.0  # by which each delay is longer than the one before
_MAX_EXPONENT = 10
_MAX_PLACES_OF_A_CLAIMANT = 16  # of its own cluster that are counted apart, so that made-up nodes cost no memory
_FORGET_SECONDS = 24 * 3600.0  # after which a claimant that asked for nothing starts afresh


@dataclasses.dataclass(slots=True)
class _Asked:
    last: float  # for when the last reading was asked, on the monotonic clock
    count: int = 1


class VerifyBackoff:
    """How often each node has had others read without being right.

    A claim costs its node nothing, and each time the other node that reports the GPU is read. So that a hostile node
    cannot keep others busy, claims that came to nothing count. A foreign cluster is one claimant to each node, as it
    may make up any number of nodes; within a cluster each node is one. Times are of the process's monotonic clock.
    """

    def __init__(self) -> None:
        # By the node that is read and its claimants' cluster; within a cluster by the claimant and the node read.
        self._asked: dict[Place, dict[str | Place, _Asked]] = {}

    def delay(self, claimant: Place, place: Place, now: float | None) -> float:
        """Return in how many seconds a node is to be read because of a claimant, and count that.

        What is asked for before that is answered by the same reading. Without a time it is at once.
        """
        if now is None or now == float("-inf"):
            return 0.0
        holder, key = self._key(claimant, place)
        known = self._asked.setdefault(holder, {})
        if holder == claimant and key not in known and len(known) >= _MAX_PLACES_OF_A_CLAIMANT:
            key = claimant  # which stands for all the others
        asked = known.get(key)
        if asked is None or now - asked.last > _FORGET_SECONDS:
            known[key] = _Asked(now)
            return 0.0
        if now > asked.last:
            wait = 0.0
            if asked.count >= _FREE:
                exponent = min(asked.count - _FREE, _MAX_EXPONENT)
                wait = min(MAX_DELAY_SECONDS, _FIRST_DELAY_SECONDS * _FACTOR**exponent)
            asked.last, asked.count = max(now, asked.last + wait), asked.count + 1
        return asked.last - now

    def reset(self, claimant: Place, place: Place) -> None:
        """Start afresh with a claimant of a node: it was right, and the node no longer has a GPU of both."""
        holder, key = self._key(claimant, place)
        if (known := self._asked.get(holder)) is not None:
            known.pop(key, None)
            if not known:
                del self._asked[holder]

    def forget(self, place: Place) -> None:
        """Forget a node that is gone."""
        self._asked.pop(place, None)

    @staticmethod
    def _key(claimant: Place, place: Place) -> tuple[Place, str | Place]:
        return (claimant, place) if claimant.cluster == place.cluster else (place, claimant.cluster)
