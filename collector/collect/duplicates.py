"""Finds out which configured clusters are the same cluster, such as two contexts of one API server."""

from collections.abc import Collection, Iterable, Sequence

import msgspec

from collector.model import NodeInfo, Place

__all__ = ["Duplicate", "DuplicateDetector"]


class Duplicate(msgspec.Struct, frozen=True):
    """A cluster that is skipped, because it is the same as one before it in the configuration."""

    cluster: str
    node: Place  # in the cluster that is read; the duplicate has the same node
    uid: str

    def __str__(self) -> str:
        """Return what is wrong and what to do, for the author of the configuration."""
        return (
            f'it is the same cluster as "{self.node.cluster}" (node {self.node.node} has the same uid in both);'
            " remove one of the two from the configuration"
        )


class DuplicateDetector:
    """Keeps track of which cluster each node belongs to.

    Every API server gives a node a uid that no other server gives, and listing nodes is a right that gpuid needs
    anyway. Of two clusters that have the same node, the later one in the configuration is a duplicate for as long as
    both have that node.
    """

    def __init__(self) -> None:
        self.duplicates: dict[str, Duplicate] = {}  # by the cluster that is skipped
        self._order: dict[str, int] = {}  # of the clusters in the configuration
        self._owners: dict[str, Place] = {}  # by uid

    def set_order(self, clusters: Sequence[str]) -> Collection[str]:
        """Set the clusters of the configuration, in their order; return those that are no longer duplicates."""
        self._order = {name: order for order, name in enumerate(clusters)}
        for name in {place.cluster for place in self._owners.values()} | self.duplicates.keys():
            if name not in self._order:
                self.forget(name)
        return self._remove(
            duplicate
            for duplicate in self.duplicates.values()
            if not self._precedes(duplicate.node.cluster, duplicate.cluster)
        )

    def recall(self, cluster: str, node: NodeInfo) -> None:
        """Note that a cluster had a node in an earlier run."""
        if node.uid:
            self._owners.setdefault(node.uid, Place(cluster, node.name))

    def claim(self, cluster: str, node: NodeInfo) -> Duplicate | None:
        """Note that a cluster has a node; return the duplicate that this reveals: this cluster or the other one.

        A cluster that has left the configuration, and is about to stop, claims nothing.
        """
        if not node.uid or cluster not in self._order:
            return None
        place = Place(cluster, node.name)
        owner = self._owners.get(node.uid)
        if owner is None or owner.cluster == cluster:
            self._owners[node.uid] = place
            return None
        if self._precedes(owner.cluster, cluster):
            duplicate = Duplicate(cluster, owner, node.uid)
        else:
            duplicate = Duplicate(owner.cluster, place, node.uid)
            self.forget(owner.cluster)
            self._owners[node.uid] = place
        self.duplicates[duplicate.cluster] = duplicate
        return duplicate

    def release(self, cluster: str, node: NodeInfo) -> Collection[str]:
        """Note that a cluster no longer has a node; return the clusters that are no longer duplicates."""
        owner = self._owners.get(node.uid)
        if owner is None or owner.cluster != cluster:
            return ()
        del self._owners[node.uid]
        return self._remove(duplicate for duplicate in self.duplicates.values() if duplicate.uid == node.uid)

    def unmark(self, cluster: str) -> None:
        """Note that it is not known any more whether a cluster is a duplicate."""
        self.duplicates.pop(cluster, None)

    def forget(self, cluster: str) -> None:
        """Forget all that was noted of a cluster."""
        self.duplicates.pop(cluster, None)
        self._owners = {uid: place for uid, place in self._owners.items() if place.cluster != cluster}

    def _precedes(self, cluster: str, other: str) -> bool:
        return cluster in self._order and self._order[cluster] < self._order[other]

    def _remove(self, duplicates: Iterable[Duplicate]) -> Collection[str]:
        names = [duplicate.cluster for duplicate in duplicates]
        for name in names:
            del self.duplicates[name]
        return names
