"""Which clusters show the same nodes, by the UIDs of the nodes."""

from collections.abc import Set as AbstractSet

__all__ = ["CommonNodes"]

_NONE: frozenset[str] = frozenset()


class CommonNodes:
    """An index of the clusters that have a node, and of the nodes that a pair of clusters has in common."""

    def __init__(self) -> None:
        self._clusters: dict[str, tuple[str, ...]] = {}  # those that have a node, by its UID
        self._common: dict[frozenset[str], set[str]] = {}  # UIDs, by the pair of clusters

    def add(self, cluster: str, uid: str) -> list[frozenset[str]]:
        """Add a node of a cluster; return the pairs of clusters that have it in common from now on."""
        others = self._clusters.get(uid, ())
        if cluster in others:
            return []
        self._clusters[uid] = (*others, cluster)
        pairs = [frozenset((cluster, other)) for other in others]
        for pair in pairs:
            self._common.setdefault(pair, set()).add(uid)
        return pairs

    def remove(self, cluster: str, uid: str) -> None:
        """Remove a node of a cluster, if it has it."""
        having = self._clusters.get(uid, ())
        if cluster not in having:
            return
        others = tuple(name for name in having if name != cluster)
        if others:
            self._clusters[uid] = others
        else:
            del self._clusters[uid]
        for other in others:
            pair = frozenset((cluster, other))
            self._common[pair].discard(uid)
            if not self._common[pair]:
                del self._common[pair]

    def of(self, pair: frozenset[str]) -> AbstractSet[str]:
        """Return the UIDs of the nodes that two clusters have in common."""
        return self._common.get(pair, _NONE)

    def pairs(self, cluster: str) -> list[frozenset[str]]:
        """Return the pairs of this cluster and another one that have nodes in common; may be called in any thread."""
        return [pair for pair in list(self._common) if cluster in pair]
