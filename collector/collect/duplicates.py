"""Finds configured clusters that are one and the same, such as two contexts of one API server."""

from collections.abc import Collection, Iterable, Sequence

import msgspec

from collector.model import NodeInfo, Place

__all__ = ["Duplicate", "DuplicateDetector"]


class Duplicate(msgspec.Struct, frozen=True):
    """A cluster that is not to be read, because one before it in the configuration is the same."""

    cluster: str
    node: Place  # of the cluster that is read instead; the duplicate has it too
    uid: str

    def __str__(self) -> str:
        """Say so to whoever wrote the configuration."""
        return (
            f'it is the cluster "{self.node.cluster}" once more: node {self.node.node} is in both, with the uid'
            f" {self.uid}; remove one of the two from the configuration"
        )


class DuplicateDetector:
    """Which cluster each node belongs to.

    Every API server gives a Node a uid that no other one gives, and to list nodes is a right that reading needs anyway.
    Where two clusters have one node, the later in the configuration is a duplicate for as long as both have that node.
    """

    def __init__(self) -> None:
        self.duplicates: dict[str, Duplicate] = {}  # by the cluster that is not read
        self._order: dict[str, int] = {}
        self._owners: dict[str, Place] = {}  # by uid

    def follow(self, clusters: Sequence[str]) -> Collection[str]:
        """Take the configuration's clusters in their order; returns the duplicates that are none any more."""
        self._order = {name: order for order, name in enumerate(clusters)}
        for name in {place.cluster for place in self._owners.values()} | self.duplicates.keys():
            if name not in self._order:
                self.forget(name)
        return self._end(one for one in self.duplicates.values() if not self._before(one.node.cluster, one.cluster))

    def recall(self, cluster: str, node: NodeInfo) -> None:
        """Note that a cluster had a node when it was last read."""
        if node.uid:
            self._owners.setdefault(node.uid, Place(cluster, node.name))

    def claim(self, cluster: str, node: NodeInfo) -> Duplicate | None:
        """Note that a cluster has a node; returns the duplicate that this reveals, this cluster or the other one.

        A cluster that has left the configuration, and is only about to stop, claims nothing.
        """
        if not node.uid or cluster not in self._order:
            return None
        place = Place(cluster, node.name)
        owner = self._owners.get(node.uid)
        if owner is None or owner.cluster == cluster:
            self._owners[node.uid] = place
            return None
        if self._before(owner.cluster, cluster):
            found = Duplicate(cluster, owner, node.uid)
        else:
            found = Duplicate(owner.cluster, place, node.uid)
            self.forget(owner.cluster)
            self._owners[node.uid] = place
        self.duplicates[found.cluster] = found
        return found

    def release(self, cluster: str, node: NodeInfo) -> Collection[str]:
        """Note that a cluster has a node no more; returns the duplicates that are none any more."""
        owner = self._owners.get(node.uid)
        if owner is None or owner.cluster != cluster:
            return ()
        del self._owners[node.uid]
        return self._end(one for one in self.duplicates.values() if one.uid == node.uid)

    def forget(self, cluster: str) -> None:
        """Note that nothing is known of a cluster any more."""
        self.duplicates.pop(cluster, None)
        self._owners = {uid: place for uid, place in self._owners.items() if place.cluster != cluster}

    def _before(self, one: str, other: str) -> bool:
        return one in self._order and self._order[one] < self._order[other]

    def _end(self, duplicates: Iterable[Duplicate]) -> Collection[str]:
        names = [one.cluster for one in duplicates]
        for name in names:
            del self.duplicates[name]
        return names
