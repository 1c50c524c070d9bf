"""One round through all clusters: tracks what is still to be read."""

import time
from collections import Counter
from collections.abc import Callable

from collector.app.collected import CollectedCluster, CollectedClusters
from collector.inventory import Inventory
from collector.model import Change, ClusterState, NodeState, Place

__all__ = ["PATIENCE_SECONDS", "Round"]

PATIENCE_SECONDS = 30.0  # during which failures are retried
_LABELS_SECONDS = 1.0  # during which the label writers must be idle


class Round:
    """Tracks the nodes read since it began; failures are retried until they have lasted for `patience` seconds.

    `clock` returns Unix seconds.
    """

    def __init__(self, *, patience: float = PATIENCE_SECONDS, clock: Callable[[], float] = time.time) -> None:
        self.patience = patience
        self.began = clock()
        self.changes: Counter[str] = Counter()
        self._clock = clock
        self._read: set[Place] = set()
        self._failing_since: dict[str, float] = {}  # by cluster, while it is down: since when nothing was read there
        self._all_read_since: float | None = None  # while only claims or labels are open

    def note_read(self, place: Place) -> None:
        """Note that a node was read."""
        self._read.add(place)
        if place.cluster in self._failing_since:
            self._failing_since[place.cluster] = self._clock()

    def note_change(self, change: Change) -> None:
        """Count a change."""
        self.changes[change.event.value] += 1

    def has_read(self, place: Place) -> bool:
        """Return whether a node was read."""
        return place in self._read

    def is_over(self, clusters: CollectedClusters, inventory: Inventory) -> bool:
        """Return whether nothing is left to wait for; to be called repeatedly."""
        now = self._clock()
        waits = [self._waits_for(name, clusters[name], inventory, now) for name in clusters]  # each call notes failures
        if any(waits):
            self._all_read_since = None
            return False
        if self._all_read_since is None:
            self._all_read_since = now
        if now - self._all_read_since >= self.patience:
            return True
        return not any(
            inventory.claims(name) or not clusters[name].supervisor.labels_idle_for(_LABELS_SECONDS)
            for name in clusters
            if clusters[name].status.up
        )

    def _waits_for(self, name: str, cluster: CollectedCluster, inventory: Inventory, now: float) -> bool:
        state = cluster.status.state
        if state is ClusterState.DUPLICATE:
            return False
        if state not in (ClusterState.UP, ClusterState.STARTING):
            return now - self._failing_since.setdefault(name, now) < self.patience
        self._failing_since.pop(name, None)
        if state is ClusterState.STARTING or cluster.survey is None:
            return True
        return any(self._is_due(node, now) for node in inventory.nodes(name).values())

    def _is_due(self, node: NodeState, now: float) -> bool:
        """Return whether a node may still be read."""
        if node.uncovered is not None:
            return False
        if node.failing is None:
            return node.place not in self._read
        since, next_try = node.failing.since, node.failing.next_try
        gives_up = since + self.patience
        return next_try is not None and next_try < gives_up and now < gives_up
