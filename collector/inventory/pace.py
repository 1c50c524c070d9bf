"""How soon a node is read because others claim its GPUs: at once at first, then ever more rarely."""

import dataclasses

from collector.model import Place

__all__ = ["MAX_DELAY_SECONDS", "Pace"]

MAX_DELAY_SECONDS = 3600.0  # between two readings of a node for the same claimant

_FREE = 2  # readings at once: the claim may be opened while the node is being read, which is no answer
_FIRST_DELAY_SECONDS = 20.0  # after these
_FACTOR = 4.0  # by which each delay is longer than the one before
_FORGET_SECONDS = 24 * 3600.0  # after which a claimant without a claim starts afresh


@dataclasses.dataclass(slots=True)
class _Asked:
    last: float  # for when the last reading was asked, on the monotonic clock
    count: int = 1


class Pace:
    """How often each claimant has had nodes read without getting a GPU.

    A claim costs its claimant nothing, and each one has another node read. So that a hostile node cannot keep others
    busy, what comes to nothing counts. Another cluster is one claimant to each node, as it may make up any number of
    nodes; within a cluster each node is one. Times are of the process's monotonic clock.
    """

    def __init__(self) -> None:
        self._across: dict[Place, dict[str, _Asked]] = {}  # by the node that is read and the claimants' cluster
        self._within: dict[Place, _Asked] = {}  # by the claimant

    def delay(self, claimant: Place, home: Place, now: float | None) -> float:
        """Return in how many seconds a node is to be read because of a claim, and count that.

        What is asked for before that is answered by the same reading. Without a time it is at once.
        """
        if now is None or now == float("-inf"):
            return 0.0
        asked = self._find(claimant, home)
        if asked is None or now - asked.last > _FORGET_SECONDS:
            self._note(claimant, home, _Asked(now))
            return 0.0
        if now > asked.last:
            wait = 0.0
            if asked.count >= _FREE:
                exponent = min(asked.count - _FREE, 10)
                wait = min(MAX_DELAY_SECONDS, _FIRST_DELAY_SECONDS * _FACTOR**exponent)
            asked.last, asked.count = max(now, asked.last + wait), asked.count + 1
        return asked.last - now

    def trust(self, claimant: Place, home: Place) -> None:
        """Start afresh with a claimant: it has got a GPU of the node."""
        if claimant.cluster == home.cluster:
            self._within.pop(claimant, None)
        elif home in self._across:
            self._across[home].pop(claimant.cluster, None)

    def forget(self, place: Place) -> None:
        """Forget a node that is gone."""
        self._within.pop(place, None)
        self._across.pop(place, None)

    def _find(self, claimant: Place, home: Place) -> _Asked | None:
        if claimant.cluster == home.cluster:
            return self._within.get(claimant)
        return self._across.get(home, {}).get(claimant.cluster)

    def _note(self, claimant: Place, home: Place, asked: _Asked) -> None:
        if claimant.cluster == home.cluster:
            self._within[claimant] = asked
        else:
            self._across.setdefault(home, {})[claimant.cluster] = asked
