"""Provides the data for node labels, and has nodes checked whose labels may have to change."""

from collections.abc import Callable

from collector.app.collected import CollectedClusters
from collector.exposition import Metrics
from collector.inventory import Inventory
from collector.model import LabelFailure, NodeState, Place, Step

__all__ = ["NodeLabels"]


class NodeLabels:
    """The label writers' source of data and target of reports (collector.collect.label_writer.LabelSource)."""

    def __init__(self, clusters: CollectedClusters, inventory: Inventory, metrics: Metrics) -> None:
        self._clusters = clusters
        self._inventory = inventory
        self._metrics = metrics
        self._leads: Callable[[], bool] = lambda: True

    def write_while(self, leads: Callable[[], bool]) -> None:
        """Write labels only while `leads` returns True."""
        self._leads = leads

    def on_step(self, step: Step) -> None:
        """Have the nodes affected by a step checked, in the clusters whose nodes gpuid labels."""
        for place in step.nodes:
            collected = self._clusters.get(place.cluster)
            if collected is not None and collected.settings.labels:
                collected.supervisor.relabel(place.node)

    def may_write(self) -> bool:
        """Return whether this collector writes labels now; a standby does not."""
        return self._leads()

    def settled(self, cluster: str, node: str) -> NodeState | None:
        """Return a node whose last reading is valid and complete; None for any other, whose labels are kept."""
        state = self._inventory.node(Place(cluster, node))
        if state is None or state.unread is not None or state.partial:
            return None
        return None if state.silent or not all(one.lost for one in state.unseen) else state

    def in_claim(self, state: NodeState) -> bool:
        """Return whether a GPU of a node is in an open claim: its place will be settled soon."""
        claimed = self._inventory.claimed(state.place.cluster)
        return bool(claimed) and any(gpu.uuid in claimed for gpu in state.gpus)

    def on_labels_written(self, cluster: str) -> None:
        """Count a node whose labels were written."""
        self._metrics.labels_written(cluster)

    def on_label_failure(self, cluster: str, reason: LabelFailure) -> None:
        """Count a node whose labels could not be written, or were changed by another client."""
        self._metrics.label_failed(cluster, reason)
