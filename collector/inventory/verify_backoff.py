"""How soon a node is read because another one reports its GPUs: immediately, then with backoff up to an hour."""

import dataclasses

from collector.model import Place

__all__ = ["MAX_DELAY_SECONDS", "VerifyBackoff"]

MAX_DELAY_SECONDS = 3600.0  # between two readings of a node for the same claimant

_FREE = 2  # immediate readings: a claim may be opened while the node is being read, and that reading does not count
_FIRST_DELAY_SECONDS = 20.0  # the delay after these
_FACTOR = 4.0  # backoff factor
_MAX_EXPONENT = 10
_MAX_PLACES_OF_A_CLAIMANT = 16  # counted separately, in its own cluster: bounds the memory
_FORGET_SECONDS = 24 * 3600.0  # after which the count of an idle claimant is reset


@dataclasses.dataclass(slots=True)
class _Asked:
    last: float  # the requested monotonic time of the last reading
    count: int = 1


class VerifyBackoff:
    """Counts how often each node had others read with a refuted claim.

    A claim costs its node nothing, but each one makes gpuid read the other node that reports the GPU. So refuted claims
    are counted, to keep a hostile node from keeping others busy. A foreign cluster counts as one claimant, because it
    can make up any number of nodes; within a cluster, each node counts. Times are monotonic.
    """

    def __init__(self) -> None:
        # By the node read and its claimants' cluster; within a cluster, by claimant and node read.
        self._asked: dict[Place, dict[str | Place, _Asked]] = {}

    def delay(self, claimant: Place, place: Place, now: float | None) -> float:
        """Return the delay in seconds before a node is read because of a claimant, and count it.

        Requests before then share that reading. Without a time, the delay is 0.
        """
        if now is None or now == float("-inf"):
            return 0.0
        holder, key = self._key(claimant, place)
        known = self._asked.setdefault(holder, {})
        if holder == claimant and key not in known and len(known) >= _MAX_PLACES_OF_A_CLAIMANT:
            key = claimant  # which represents all others
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
        """Reset the count of a claimant: it was right, and the node no longer has the GPU."""
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
