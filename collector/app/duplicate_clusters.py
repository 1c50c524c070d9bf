"""Skips clusters that are configured twice, and warns about those that only seem to be."""

import logging
from collections.abc import Callable

from collector.app.collected import CollectedClusters
from collector.app.publisher import Publisher
from collector.collect.duplicates import REMEDY, Duplicate, Verdict
from collector.exposition import Metrics
from collector.inventory import Inventory
from collector.model import ClusterState, ClusterStatus

__all__ = ["DuplicateClusters"]

log = logging.getLogger(__name__)


class DuplicateClusters:
    """Acts on what is found out about which clusters are the same."""

    def __init__(
        self,
        clusters: CollectedClusters,
        inventory: Inventory,
        publisher: Publisher,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._clusters = clusters
        self._inventory = inventory
        self._publisher = publisher
        self._metrics = metrics
        self._clock = clock

    def act_on(self, verdict: Verdict) -> None:
        """Skip duplicate clusters, resume those that no longer are, and warn about look-alikes."""
        for duplicate in verdict.duplicates:
            self._skip(duplicate)
        self._clusters.resume(verdict.freed)
        for one in verdict.resemblances:
            fields = {"cluster": one.cluster, "other": one.node.cluster, "node": one.node.node}
            log.warning("cluster resembles another one: %s; %s", one, REMEDY, extra=fields)

    def _skip(self, duplicate: Duplicate) -> None:
        """Stop collecting a cluster that duplicates another one, which publishes its GPUs."""
        name, cluster = duplicate.cluster, self._clusters[duplicate.cluster]
        cluster.supervisor.pause()
        cluster.synced = cluster.survey = cluster.slices = None
        self._publisher.publish(self._inventory.remove_cluster(name, self._clock()))
        fields = {"cluster": name, "state": ClusterState.DUPLICATE.value}
        message, other = str(duplicate), self._clusters.get(duplicate.node.cluster)
        if cluster.settings.labels and other is not None and not other.settings.labels:
            message += f'; its `labels = true` has no effect, set it for "{duplicate.node.cluster}"'
        log.warning("skipping cluster: %s", message, extra=fields)
        status = ClusterStatus(cluster=name, state=ClusterState.DUPLICATE, message=message, since=self._clock())
        cluster.status = status
        self._metrics.cluster_state(name, status.state)
