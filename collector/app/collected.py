"""The collected clusters, each with its state in one object."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from collector.app.look_alikes import LookAlikes
from collector.collect.duplicates import DuplicateDetector, Verdict
from collector.collect.supervisor import ClusterSupervisor
from collector.config import ClusterSettings
from collector.kube.identity import Proof
from collector.model import ClusterStatus, NodeInfo, SliceStatus, Survey

__all__ = ["CollectedCluster", "CollectedClusters"]


@dataclass(slots=True)
class CollectedCluster:
    """The current state of one configured cluster."""

    settings: ClusterSettings
    supervisor: ClusterSupervisor
    status: ClusterStatus
    synced: float | None = None  # Unix seconds of the last proof that its view is current
    survey: Survey | None = None  # its size; None before it has been listed completely
    slices: SliceStatus | None = None  # whether its ResourceSlices are visible; None before the first attempt


class CollectedClusters(Mapping[str, CollectedCluster]):
    """The clusters by name, and which of them duplicate an earlier one in the configuration."""

    def __init__(self) -> None:
        self.look_alikes = LookAlikes(self.__contains__)  # of clusters read by other shards
        self._clusters: dict[str, CollectedCluster] = {}
        self._duplicates = DuplicateDetector()

    def __getitem__(self, name: str) -> CollectedCluster:
        """Return one cluster; raises KeyError."""
        return self._clusters[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._clusters)

    def __len__(self) -> int:
        """Return the number of clusters."""
        return len(self._clusters)

    @property
    def statuses(self) -> Mapping[str, ClusterStatus]:
        """The status of each cluster by name; the view is live."""
        return _Statuses(self._clusters)

    def add(self, cluster: CollectedCluster) -> None:
        """Add a cluster, or replace the one with its name; whether it is a duplicate is not known yet."""
        settings = cluster.settings
        self._duplicates.add(settings.name, settings.scope)
        self._clusters[settings.name] = cluster

    def pop(self, name: str) -> CollectedCluster:
        """Remove a cluster; raises KeyError."""
        return self._clusters.pop(name)

    def is_duplicate(self, name: str) -> bool:
        """Return whether a cluster is skipped as a duplicate of an earlier one in the configuration."""
        return name in self._duplicates.duplicates

    def order(self, names: Collection[str]) -> Collection[str]:
        """Adopt the configuration's order; returns the clusters that are no longer duplicates, for `resume`."""
        return self._duplicates.set_order(list(names))

    def resume(self, names: Collection[str]) -> None:
        """Resume collecting clusters that were skipped."""
        for name in names:
            self._clusters[name].supervisor.resume()

    def resemblances(self, name: str) -> list[str]:
        """Return the clusters that show the same nodes as this one, sorted; it is not proven that they are the same."""
        return sorted({*self._duplicates.resemblances(name), *self.look_alikes.of(name)})

    def new_session(self, cluster: str) -> None:
        """Forget a cluster's identity: it has a new session, possibly with another server."""
        self._duplicates.new_session(cluster)

    def prove(self, cluster: str, proofs: frozenset[Proof]) -> Verdict:
        """Note everything proven about a cluster's server; returns the resulting findings."""
        return self._duplicates.prove(cluster, proofs)

    def claim(self, cluster: str, node: NodeInfo) -> Verdict:
        """Note that a cluster has a node; returns the resulting findings."""
        return self._duplicates.claim(cluster, node)

    def complete(self, cluster: str) -> Verdict:
        """Note that a cluster has been listed completely; returns the resulting findings."""
        return self._duplicates.complete(cluster)

    def release(self, cluster: str, node: NodeInfo) -> None:
        """Note that a cluster no longer has a node; a cluster that is no longer a duplicate is collected again."""
        self.resume(self._duplicates.release(cluster, node))


class _Statuses(Mapping[str, ClusterStatus]):
    def __init__(self, clusters: Mapping[str, CollectedCluster]) -> None:
        self._clusters = clusters

    def __getitem__(self, name: str) -> ClusterStatus:
        return self._clusters[name].status

    def __iter__(self) -> Iterator[str]:
        return iter(self._clusters)

    def __len__(self) -> int:
        return len(self._clusters)
