"""Claims: GPUs that a second node reports while the first one has not let go of them.

A claim is settled by readings, never by the order of clocks:

1. The node that had the GPU (its home) is read again. Without the GPU, or gone, it has moved.
2. If the home still has it, the claimant is read again: it may have been read before the GPU moved on.
3. If both still have it, both report it: that is a conflict.

Only a reading that was started after the question was asked is an answer. Where several claim what their home has let
go of, one becomes the new home, and the others claim it from that one.

A claim of a node that another shard reads is that one's to settle: here it is merely noted, until the other one says
what has come of it.
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

    opened: float  # when the claimant's reading was complete
    confirmed: float | None = None  # when the home's answer was complete: it still has the GPU
    repeated: bool = False  # a reading of the claimant that was started after the claim found the GPU, too

    def note_repeated(self, reading: Reading) -> None:
        """Note that the claimant still has the GPU by a reading of it, if that was started after the claim."""
        if reading.started is None or reading.started >= self.opened:
            self.repeated = True

    def answered_by_home(self, reading: Reading) -> bool:
        """Return whether a reading of the home was started after the claim."""
        return reading.started is None or reading.started >= self.opened

    def answered_by_claimant(self, reading: Reading) -> bool:
        """Return whether a reading of the claimant was started after the home had confirmed that it has the GPU."""
        return self.confirmed is not None and (reading.started is None or reading.started >= self.confirmed)


class Claims:
    """The open claims, by UUID and claimant."""

    def __init__(self, locations: PlaceIndex, is_mirrored: Callable[[str], bool] = lambda _cluster: False) -> None:
        self._is_mirrored = is_mirrored  # whether another shard reads a cluster
        self._locations = locations  # by UUID, those of claimants too
        self._claims: dict[str, dict[Place, Claim]] = {}
        self._count = 0
        self._clusters: dict[str, frozenset[str]] = {}  # that have a claimed GPU, by its UUID
        self._uuids: dict[str, set[str]] = {}  # the other way round

    def __len__(self) -> int:
        """Return how many claims are open."""
        return self._count

    def open(self, uuid: str, claimant: Place, when: float | None) -> None:
        """Open a claim at a time of the monotonic clock; None: long ago, so that every reading answers it."""
        self._claims.setdefault(uuid, {})[claimant] = Claim(_LONG_AGO if when is None else when)
        self._count += 1

    def close(self, uuid: str, claimant: Place) -> None:
        """Close a claim, whatever came of it."""
        claimants = self._claims[uuid]
        del claimants[claimant]
        self._count -= 1
        if not claimants:
            del self._claims[uuid]

    def get(self, uuid: str, claimant: Place) -> Claim | None:
        """Return a node's claim to a GPU."""
        return self._claims.get(uuid, {}).get(claimant)

    def claimants(self, uuid: str) -> dict[Place, Claim]:
        """Return the claims to a GPU by claimant, the oldest first; the view is live."""
        return self._claims.get(uuid, {})

    def to_settle(self, uuid: str) -> dict[Place, Claim]:
        """Return the claims to a GPU that are to be settled here, by claimant, the oldest first."""
        claims = self._claims.get(uuid, {})
        if any(self._is_mirrored(claimant.cluster) for claimant in claims):
            return {place: claim for place, claim in claims.items() if not self._is_mirrored(place.cluster)}
        return claims

    def successor(self, uuid: str, home: Place) -> Place | None:
        """Return which claimant most likely has a GPU that is no longer in its home; None if nobody claims it.

        One of the home's cluster comes first, whatever a foreign one says, and of these one that has said so twice.
        """
        claimants = self.to_settle(uuid)

        def rank(claimant: Place) -> tuple[bool, bool]:
            return claimant.cluster != home.cluster, not claimants[claimant].repeated

        return min(claimants, key=rank, default=None)

    def homes(self, uuid: str) -> list[Place]:
        """Return the nodes that have a GPU and do not merely claim it; more than one is a conflict."""
        claimants = self._claims.get(uuid, {})
        return [place for place in self._locations.places(uuid) if place not in claimants]

    def update(self, uuid: str) -> None:
        """Note in which clusters a GPU is, whenever that or its claims have changed."""
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
