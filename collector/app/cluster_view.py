"""What API and page see of the clusters, whether this shard reads them or another one reports on them."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

from collector.app.collected import CollectedClusters
from collector.app.shard_fleet import ShardFleet
from collector.config import ClusterSettings, PodSource
from collector.model import ClusterStatus, LabelTrouble, SliceStatus, Survey
from collector.store import ClusterOwner, ClusterReport, ShardLease

__all__ = ["ClusterView"]


class ClusterView:
    """A live view of the configured clusters; `fleet` is that of all shards, None without shards."""

    def __init__(self, clusters: CollectedClusters, fleet: ShardFleet | None) -> None:
        self._clusters = clusters
        self._fleet = fleet

    @property
    def statuses(self) -> Mapping[str, ClusterStatus]:
        """The status of each cluster, by name."""
        if self._fleet is None:
            return self._clusters.statuses
        return _FleetStatuses(self._clusters, self._fleet)

    def clusters(self) -> Collection[str]:
        """Return the names of the configured clusters, including those of other shards."""
        return self._clusters.keys() if self._fleet is None else self._fleet.configured.keys()

    def own_clusters(self) -> Collection[str]:
        """Return the names of the clusters that this collector reads."""
        return self._clusters.keys()

    def owner(self, cluster: str) -> ClusterOwner | None:
        """Return which shard reads a cluster; None without shards."""
        return None if self._fleet is None else self._fleet.owner(cluster)

    def shards(self) -> Sequence[ShardLease]:
        """Return the shards that hold or held a lease, in order; empty without shards."""
        return () if self._fleet is None else self._fleet.shards()

    def synced(self, cluster: str) -> float | None:
        """Return when (Unix seconds) a cluster's view was last proven current; None if never."""
        known = self._clusters.get(cluster) or self._report(cluster)
        return None if known is None else known.synced

    def survey(self, cluster: str) -> Survey | None:
        """Return the size of a cluster; None before it has been listed completely."""
        known = self._clusters.get(cluster) or self._report(cluster)
        return None if known is None else known.survey

    def slices(self, cluster: str) -> SliceStatus | None:
        """Return whether a cluster's ResourceSlices are visible; None before the first attempt."""
        known = self._clusters.get(cluster) or self._report(cluster)
        return None if known is None else known.slices

    def resembles(self, cluster: str) -> Collection[str]:
        """Return the clusters that show the same nodes as this one; it is not proven that they are the same."""
        if cluster in self._clusters or (report := self._report(cluster)) is None:
            return self._clusters.resemblances(cluster)
        return report.resembles

    def label_trouble(self, cluster: str) -> LabelTrouble | None:
        """Return why labels of some of a cluster's nodes cannot be written; None if they can, or none are needed."""
        if (collected := self._clusters.get(cluster)) is None:
            report = self._report(cluster)
            return None if report is None else report.label_trouble
        return collected.supervisor.label_trouble if collected.status.up else None

    def sources(self, cluster: str) -> Sequence[PodSource]:
        """Return a cluster's sources of GPU pods, in the order of the configuration."""
        settings = self._settings(cluster)
        return () if settings is None else settings.active_sources

    def node_selector(self, cluster: str) -> str:
        """Return the selector of the nodes that are watched in a cluster; empty for all."""
        settings = self._settings(cluster)
        return "" if settings is None else settings.node_selector

    def refresh(self, cluster: str) -> float:
        """Return the refresh interval of a cluster in seconds; infinity for an unknown cluster."""
        settings = self._settings(cluster)
        return math.inf if settings is None else settings.refresh

    def _report(self, cluster: str) -> ClusterReport | None:
        """Return another shard's report on a cluster that it reads."""
        return None if self._fleet is None else self._fleet.report(cluster)

    def _settings(self, cluster: str) -> ClusterSettings | None:
        if (collected := self._clusters.get(cluster)) is not None:
            return collected.settings
        return None if self._fleet is None else self._fleet.configured.get(cluster)


class _FleetStatuses(Mapping[str, ClusterStatus]):
    """The status of each cluster of all shards, by name, computed on access."""

    def __init__(self, own: CollectedClusters, fleet: ShardFleet) -> None:
        self._own, self._fleet = own, fleet

    def __getitem__(self, name: str) -> ClusterStatus:
        if (collected := self._own.get(name)) is not None:
            return collected.status
        if name not in self._fleet.configured:
            raise KeyError(name)
        return self._fleet.status(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._fleet.configured)

    def __len__(self) -> int:
        return len(self._fleet.configured)
