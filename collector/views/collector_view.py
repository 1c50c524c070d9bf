"""The read-only live view of a running collector for read models, API and page."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from collector.config import PodSource
from collector.exposition import Exposition
from collector.inventory import Inventory
from collector.marks import Marks
from collector.model import ClusterStatus, LabelTrouble, SliceStatus, Survey
from collector.sharding import Shard
from collector.store import ClusterOwner, History, LeadStatus, MarkStore, Past, ShardLease, StoreStatus
from collector.views.config_status import ConfigStatus
from collector.views.recent_changes import RecentChanges
from collector.views.sink_status import SinkStatuses

__all__ = ["CollectorView"]


class CollectorView(Protocol):
    """A running collector, implemented by the application. All values are current; times are Unix seconds."""

    @property
    def inventory(self) -> Inventory:
        """The nodes and GPUs of all clusters."""

    @property
    def marks(self) -> Marks:
        """The current marks of GPUs."""

    @property
    def exposition(self) -> Exposition:
        """The series, ready to be scraped."""

    @property
    def cluster_label(self) -> str:
        """The name of the label that carries a series' cluster."""

    @property
    def statuses(self) -> Mapping[str, ClusterStatus]:
        """The status of each cluster, by name."""

    @property
    def config_status(self) -> ConfigStatus:
        """How the running configuration compares with its file."""

    @property
    def recent_changes(self) -> RecentChanges:
        """The latest changes of GPUs, available even without a store."""

    @property
    def sink_statuses(self) -> SinkStatuses:
        """The delivery status of each sink."""

    @property
    def history(self) -> History | None:
        """The store's history for one response, with a short deadline; None without a store."""

    @property
    def past(self) -> Past | None:
        """The store's past states for one response, with a short deadline; None without a store."""

    @property
    def mark_store(self) -> MarkStore | None:
        """All marks in the store for one response, with a short deadline; None without a store."""

    @property
    def store_status(self) -> StoreStatus:
        """Whether the store accepts writes; without a store it is up."""

    @property
    def lead_status(self) -> LeadStatus | None:
        """Which collector records and delivers; None without a store."""

    @property
    def shard(self) -> Shard:
        """Which shard of the installation this collector is."""

    def clusters(self) -> Collection[str]:
        """Return the names of the configured clusters, those that other shards read included."""

    def own_clusters(self) -> Collection[str]:
        """Return the names of the clusters that this collector reads."""

    def owner(self, cluster: str) -> ClusterOwner | None:
        """Return which shard reads a cluster; None in an installation that is not sharded."""

    def shards(self) -> Sequence[ShardLease]:
        """Return the shards that hold a lease or held one, in their order; none where it is not sharded."""

    def synced(self, cluster: str) -> float | None:
        """Return when a cluster's view was last confirmed current; None if never."""

    def survey(self, cluster: str) -> Survey | None:
        """Return the size of a cluster, with or without GPUs; None before it has been listed completely."""

    def slices(self, cluster: str) -> SliceStatus | None:
        """Return whether a cluster's ResourceSlices are visible; None before that was tried."""

    def resembles(self, cluster: str) -> Collection[str]:
        """Return the clusters that show the same nodes as a cluster without proof of being the same, sorted."""

    def label_trouble(self, cluster: str) -> LabelTrouble | None:
        """Return why labels of some nodes cannot be written; None if they can, or need not be."""

    def sources(self, cluster: str) -> Sequence[PodSource]:
        """Return the sources of GPU pods in a cluster, in the order of the configuration."""

    def node_selector(self, cluster: str) -> str:
        """Return the selector of a cluster's watched nodes; empty for all of them."""

    def refresh(self, cluster: str) -> float:
        """Return a cluster's refresh interval in seconds; infinity for an unknown cluster."""

    async def refresh_marks(self) -> None:
        """Update `marks` from the store immediately, if it can be read."""

    async def wait_committed(self) -> None:
        """Wait briefly until the store has committed what is published; return immediately without a store."""

    def now(self) -> float:
        """Return the current time, on which "3 minutes ago" is based."""
