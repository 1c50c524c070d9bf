"""Claims: GPUs that a second node reports while the first one still has them.

Claims are settled by readings, never by comparing clocks:

1. The node that had the GPU (its home) is read again. If the GPU or the node is gone, the GPU has moved.
2. If the home still has it, the claimant is read again: it may have been read before the GPU moved on.
3. If both still have it, that is a conflict.

Only a reading that started after the question counts as an answer. If several nodes claim a GPU that has left its
home, one of them becomes the new home, and the others claim it from there.

A claim by a node that another shard reads is settled by that shard: here it is only noted until that shard reports
the outcome.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Set as AbstractSet

from collector.inventory.index import PlaceIndex
from collector.model import Place, Reading

__all__ = ["Claim", "Claims"]

_LONG_AGO = float("-inf")
_NOTHING: frozenset[str] = frozenset()


@dataclasses.dataclass(slots=True)
class Claim:
    """One node's claim to one GPU; times are of the process's monotonic clock."""

    opened: float  # when the claimant's reading was completed
    confirmed: float | None = None  # when the home's answer was completed: it still has the GPU
    repeated: bool = False  # a reading of the claimant that started after the claim also found the GPU

    def note_repeated(self, reading: Reading) -> None:
        """Note that a reading of the claimant found the GPU again, if that reading started after the claim."""
        if reading.started is None or reading.started >= self.opened:
            self.repeated = True

    def answered_by_home(self, reading: Reading) -> bool:
        """Return whether a reading of the home started after the claim."""
        return reading.started is None or reading.started >= self.opened

    def answered_by_claimant(self, reading: Reading) -> bool:
        """Return whether a reading of the claimant started after the home confirmed that it has the GPU."""
        return self.confirmed is not None and (reading.started is None or reading.started >= self.confirmed)


class Claims:
    """The open claims, by UUID and claimant."""

    def __init__(self, locations: PlaceIndex, is_mirrored: Callable[[str], bool] = lambda _cluster: False) -> None:
        self._is_mirrored = is_mirrored  # whether another shard reads a cluster
        self._locations = locations  # by UUID, including those of claimants
        self._claims: dict[str, dict[Place, Claim]] = {}
        self._count = 0
        self._clusters: dict[str, frozenset[str]] = {}  # those that have a claimed GPU, by its UUID
        self._uuids: dict[str, set[str]] = {}  # the reverse

    def __len__(self) -> int:
        """Return how many claims are open."""
        return self._count

    def open(self, uuid: str, claimant: Place, when: float | None) -> None:
        """Open a claim at a monotonic time; None: so long ago that every reading answers it."""
        self._claims.setdefault(uuid, {})[claimant] = Claim(_LONG_AGO if when is None else when)
        self._count += 1

    def close(self, uuid: str, claimant: Place) -> None:
        """Close a claim, whatever its outcome."""
        claimants = self._claims[uuid]
        del claimants[claimant]
        self._count -= 1
        if not claimants:
            del self._claims[uuid]

    def get(self, uuid: str, claimant: Place) -> Claim | None:
        """Return a node's claim to a GPU."""
        return self._claims.get(uuid, {}).get(claimant)

    def claimants(self, uuid: str) -> dict[Place, Claim]:
        """Return the claims to a GPU by claimant, oldest first; the view is live."""
        return self._claims.get(uuid, {})

    def to_settle(self, uuid: str) -> dict[Place, Claim]:
        """Return the claims to a GPU that this shard must settle, by claimant, oldest first."""
        claims = self._claims.get(uuid, {})
        if any(self._is_mirrored(claimant.cluster) for claimant in claims):
            return {place: claim for place, claim in claims.items() if not self._is_mirrored(place.cluster)}
        return claims

    def successor(self, uuid: str, home: Place) -> Place | None:
        """Return the claimant that most likely has a GPU that left its home; None if no node claims it.

        Claimants in the home's cluster take precedence over foreign ones, and among them those that reported it twice.
        """
        claimants = self.to_settle(uuid)

        def rank(claimant: Place) -> tuple[bool, bool]:
            return claimant.cluster != home.cluster, not claimants[claimant].repeated

        return min(claimants, key=rank, default=None)

    def homes(self, uuid: str) -> list[Place]:
        """Return the nodes that have a GPU, not counting claimants; more than one is a conflict."""
        claimants = self._claims.get(uuid, {})
        return [place for place in self._locations.places(uuid) if place not in claimants]

    def update(self, uuid: str) -> None:
        """Update in which clusters a GPU is; to be called whenever that or its claims have changed."""
        before = self._clusters.get(uuid, _NOTHING)
        claimed = uuid in self._claims
        after = frozenset(place.cluster for place in self._locations.places(uuid)) if claimed else _NOTHING
        if before == after:
            return
        for cluster in before - after:
            self._uuids[cluster].discard(uuid)
        for cluster in after - before:
            self._uuids.setdefault(cluster, set()).add(uuid)
        if after:
            self._clusters[uuid] = after
        else:
            del self._clusters[uuid]

    def uuids_in(self, cluster: str) -> AbstractSet[str]:
        """Return the claimed GPUs that a node of a cluster has, as home or as claimant; the view is live."""
        return self._uuids.get(cluster, _NOTHING)

    def nodes_in(self, cluster: str) -> set[str]:
        """Return the nodes of a cluster that have a claimed GPU."""
        places = (place for uuid in self.uuids_in(cluster) for place in self._locations.places(uuid))
        return {place.node for place in places if place.cluster == cluster}

    def is_claimed_within(self, uuid: str, cluster: str) -> bool:
        """Return whether a node of a cluster claims a GPU."""
        return any(claimant.cluster == cluster for claimant in self._claims.get(uuid, ()))
