"""What the read models, the API and the page may look at: a running collector, read-only and live."""

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
    """A running collector; the application implements it. Every value is the present one, times are Unix seconds."""

    @property
    def inventory(self) -> Inventory:
        """The nodes and GPUs of all clusters."""

    @property
    def marks(self) -> Marks:
        """The marks of GPUs that are in force."""

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
        """How the configuration in force compares with its file."""

    @property
    def recent_changes(self) -> RecentChanges:
        """The latest changes of GPUs, also without a store."""

    @property
    def sink_statuses(self) -> SinkStatuses:
        """How the delivery to each sink stands."""

    @property
    def history(self) -> History | None:
        """The history of the store for one answer, which does not wait for long; None without a store."""

    @property
    def past(self) -> Past | None:
        """The past of the store for one answer, which does not wait for long; None without a store."""

    @property
    def mark_store(self) -> MarkStore | None:
        """All marks, in the store, for one answer, which does not wait for long; None without a store."""

    @property
    def store_status(self) -> StoreStatus:
        """Whether the store accepts writes; without a store it is up."""

    @property
    def lead_status(self) -> LeadStatus | None:
        """Who records and delivers; None without a store."""

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
        """Return when a cluster's view was last proved current; None if never."""

    def survey(self, cluster: str) -> Survey | None:
        """Return how much there is in a cluster, GPUs or not; None before it has been listed completely."""

    def slices(self, cluster: str) -> SliceStatus | None:
        """Return whether a cluster's ResourceSlices are seen; None before that was tried."""

    def resembles(self, cluster: str) -> Collection[str]:
        """Return the clusters that show the same nodes as a cluster, without proof that they are the same, sorted."""

    def label_trouble(self, cluster: str) -> LabelTrouble | None:
        """Return why the labels of some nodes of a cluster cannot be written; None where they can, or need not be."""

    def sources(self, cluster: str) -> Sequence[PodSource]:
        """Return where GPU pods are looked for in a cluster, in the order of the configuration."""

    def node_selector(self, cluster: str) -> str:
        """Return which nodes of a cluster are watched; empty for all of them."""

    def refresh(self, cluster: str) -> float:
        """Return after how many seconds a cluster's readings are renewed; infinity for an unknown cluster."""

    async def refresh_marks(self) -> None:
        """Let `marks` be those of the store at once, if it can be read."""

    async def wait_committed(self) -> None:
        """Wait until the store has committed what is published, but not for long; return at once without a store."""

    def now(self) -> float:
        """Return the present time, from which "3 minutes ago" is counted."""
