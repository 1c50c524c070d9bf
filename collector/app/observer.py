"""Applies the clusters' reports to the inventory, and publishes the resulting changes."""

import time
from collections.abc import Callable, Sequence

from collector.app.collected import CollectedClusters
from collector.app.coverage_log import CoverageLog
from collector.app.duplicate_clusters import DuplicateClusters
from collector.app.lost_log import log_lost
from collector.app.publisher import Publisher
from collector.exposition import Metrics
from collector.inventory import Inventory
from collector.kube.identity import Proof
from collector.model import (
    ClusterState,
    ClusterStatus,
    Gpu,
    GpuRef,
    NodeInfo,
    NodeState,
    Place,
    ReadFailure,
    Reading,
    SliceState,
    SliceStatus,
    Survey,
    UnreadReason,
    WatchRestart,
)
from collector.tls import Validity

__all__ = ["CollectObserver"]


class CollectObserver:
    """The target of the clusters' reports (collector.collect.observer.Observer).

    `on_read` is called with each node that was read, after its reading has been published.
    """

    def __init__(
        self,
        clusters: CollectedClusters,
        inventory: Inventory,
        publisher: Publisher,
        metrics: Metrics,
        *,
        on_read: Callable[[Place], None] = lambda _place: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clusters = clusters
        self._inventory = inventory
        self._publisher = publisher
        self._metrics = metrics
        self._on_read = on_read
        self._clock = clock
        self._coverage = CoverageLog(clusters, inventory)
        self._duplicates = DuplicateClusters(clusters, inventory, publisher, metrics, clock)

    def on_reading(self, reading: Reading, seconds: float) -> None:
        """Apply a node's reading."""
        if self._clusters.is_duplicate(reading.cluster):  # it was in flight
            return
        self._metrics.read_succeeded(reading.cluster, seconds)
        place = Place(reading.cluster, reading.node.name)
        before = self._inventory.node(place)
        self._publisher.publish(self._inventory.apply(reading))
        log_lost(before, self._inventory.node(place))
        self._coverage.check(reading.cluster)
        self._on_read(place)

    def on_read_failure(
        self,
        cluster: str,
        node: str,
        reason: ReadFailure,
        message: str,
        lost: Sequence[GpuRef],
        wait: float | None = None,
    ) -> None:
        """Count a failed reading, and note the failure until the node's next one."""
        self._metrics.read_failed(cluster, reason)  # without the node: one label per node would not be bounded
        place = Place(cluster, node)
        before = self._inventory.node(place)
        now = self._clock()
        next_try = None if wait is None else now + wait
        step = self._inventory.read_failed(place, reason, now, message, lost, next_try)
        # The failure itself is not kept.
        self._publisher.publish(step, record=bool(step.changes or lost) or self._sees_others(before, place))
        log_lost(before, self._inventory.node(place))
        self._coverage.check(cluster)

    def known_gpus(self, cluster: str, node: str) -> Sequence[Gpu]:
        """Return the GPUs of a node according to the inventory."""
        state = self._inventory.node(Place(cluster, node))
        return () if state is None else state.gpus

    def on_node(self, cluster: str, node: NodeInfo, *, has_pod: bool = True) -> None:
        """Keep Kubernetes' data on a node, unless it shows that its cluster is configured twice.

        A node whose pods only another cluster's sources select proves nothing: parts of one cluster may be read
        separately.
        """
        if self._clusters.is_duplicate(cluster):
            return
        before = self._inventory.node(Place(cluster, node.name))
        if before is not None and before.node.uid != node.uid:
            self._clusters.release(cluster, before.node)
        if has_pod:
            self._duplicates.act_on(self._clusters.claim(cluster, node))
        if not self._clusters.is_duplicate(cluster):
            self._publisher.publish(self._inventory.set_node(cluster, node, self._clock()))
            if node.listed is not None:
                log_lost(before, self._inventory.node(Place(cluster, node.name)))
            self._coverage.check(cluster)

    def on_uncovered(self, cluster: str, node: str, reason: UnreadReason | None) -> None:
        """Note that no ready pod covers a node, or that one does again."""
        place = Place(cluster, node)
        before = self._inventory.node(place)
        step = self._inventory.set_uncovered(place, reason, self._clock())
        sees_others = self._sees_others(before, place)
        self._publisher.publish(step, record=bool(step.changes) or sees_others)
        if sees_others:
            log_lost(before, self._inventory.node(place))
        self._coverage.check(cluster)

    def on_node_gone(self, cluster: str, node: str, time: float) -> None:
        """Remove a node."""
        if (state := self._inventory.node(Place(cluster, node))) is not None:
            self._clusters.release(cluster, state.node)
        self._publisher.publish(self._inventory.remove_node(Place(cluster, node), time))
        self._coverage.check(cluster)

    def on_status(self, status: ClusterStatus) -> None:
        """Publish a cluster's status."""
        if (cluster := self._clusters.get(status.cluster)) is None:  # it is being removed
            return
        if self._clusters.is_duplicate(status.cluster) and status.state is not ClusterState.DUPLICATE:
            return
        cluster.status = status
        self._metrics.cluster_state(status.cluster, status.state)

    def on_slices(self, cluster: str, status: SliceStatus) -> None:
        """Publish whether a cluster's ResourceSlices are visible."""
        if (collected := self._clusters.get(cluster)) is None or self._clusters.is_duplicate(cluster):
            return
        before = collected.slices
        lost = status.unseen and before is not None and (before.state is SliceState.WATCHED or before.lost)
        collected.slices = status._replace(lost=lost)
        self._metrics.slices(cluster, None if status.state is SliceState.ABSENT else not status.unseen)

    def on_synced(self, cluster: str, time: float) -> None:
        """Publish the last proof that a cluster's view is current."""
        if cluster not in self._clusters or self._clusters.is_duplicate(cluster):
            return
        self._clusters[cluster].synced = time
        self._metrics.synced(cluster, time)

    def on_survey(self, cluster: str, survey: Survey) -> None:
        """Publish the size of a cluster."""
        if (collected := self._clusters.get(cluster)) is None or self._clusters.is_duplicate(cluster):
            return
        self._duplicates.act_on(self._clusters.complete(cluster))
        if self._clusters.is_duplicate(cluster):
            return
        collected.survey = survey
        names = [source.name for source in collected.settings.active_sources]
        self._metrics.source_pods(cluster, dict(zip(names, survey.pods, strict=True)))
        self._coverage.check(cluster)

    def on_credential_expiry(self, cluster: str, expiry: Validity | None) -> None:
        """Publish when a cluster's credentials expire."""
        self._metrics.credential_expiry(cluster, expiry)

    def on_session(self, cluster: str) -> None:
        """Forget what a cluster has revealed about its identity."""
        if cluster in self._clusters:
            self._clusters.new_session(cluster)

    def on_proof(self, cluster: str, proofs: frozenset[Proof]) -> None:
        """Process proof of the identity of a cluster's server."""
        if cluster in self._clusters:
            self._duplicates.act_on(self._clusters.prove(cluster, proofs))

    def on_watch_restart(self, cluster: str, resource: str, reason: WatchRestart) -> None:
        """Count a reflector that had to start over."""
        self._metrics.watch_restarted(cluster, resource, reason)

    def _sees_others(self, before: NodeState | None, place: Place) -> bool:
        """Return whether the set of a node's unseen GPUs has changed."""
        after = self._inventory.node(place)
        return before is not None and after is not None and before.unseen != after.unseen
