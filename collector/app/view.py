"""The running collector as API and page see it."""

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import anyio

from collector.app.collected import CollectedClusters
from collector.app.marks import MarkFollower
from collector.app.shard_fleet import ShardFleet
from collector.config import ClusterSettings, PodSource
from collector.exposition import Exposition
from collector.inventory import Inventory
from collector.marks import Marks
from collector.model import ClusterStatus, LabelTrouble, SliceStatus, Survey
from collector.sharding import Shard
from collector.store import (
    ClusterOwner,
    ClusterReport,
    History,
    LeadStatus,
    MarkStore,
    Past,
    ShardLease,
    Store,
    StoreStatus,
)
from collector.views.config_status import ConfigStatus
from collector.views.recent_changes import RecentChanges
from collector.views.sink_status import SinkStatuses

__all__ = ["LiveCollector"]

HISTORY_SECONDS = 5.0  # that all queries of one answer may take
FLUSH_SECONDS = 1.0  # that an answer waits for what it says to be committed


class LiveCollector:
    """A live view of one collector (collector.views.collector_view.CollectorView)."""

    def __init__(
        self,
        *,
        inventory: Inventory,
        marks: Marks,
        exposition: Exposition,
        clusters: CollectedClusters,
        recent_changes: RecentChanges,
        sink_statuses: SinkStatuses,
        store: Store | None,
        mark_follower: MarkFollower | None,
        cluster_label: str,
        config_status: Callable[[], ConfigStatus],
        shard: Shard,
        fleet: ShardFleet | None = None,
    ) -> None:
        self.shard = shard
        self.inventory = inventory
        self.marks = marks
        self.exposition = exposition
        self.recent_changes = recent_changes
        self.sink_statuses = sink_statuses
        self.cluster_label = cluster_label
        self._clusters = clusters
        self._fleet = fleet  # of all shards; None where there is no other
        self._store = store
        self._mark_follower = mark_follower
        self._config_status = config_status

    @property
    def statuses(self) -> Mapping[str, ClusterStatus]:
        """The status of each cluster, by name."""
        if self._fleet is None:
            return self._clusters.statuses
        return _FleetStatuses(self._clusters, self._fleet)

    @property
    def config_status(self) -> ConfigStatus:
        """How the configuration in force compares with its file."""
        return self._config_status()

    @property
    def history(self) -> History | None:
        """The history of the store for one answer, which does not wait for long; None without a store."""
        return None if self._store is None else self._store.history.within(HISTORY_SECONDS)

    @property
    def past(self) -> Past | None:
        """The past of the store for one answer, which does not wait for long; None without a store."""
        return None if self._store is None else self._store.past.within(HISTORY_SECONDS)

    @property
    def mark_store(self) -> MarkStore | None:
        """All marks, in the store, for one answer, which does not wait for long; None without a store."""
        return None if self._store is None else self._store.marks.within(HISTORY_SECONDS)

    @property
    def store_status(self) -> StoreStatus:
        """Whether the store accepts writes; without a store it is up."""
        return StoreStatus() if self._store is None else self._store.health.status

    @property
    def lead_status(self) -> LeadStatus | None:
        """Who records and delivers; None without a store."""
        return None if self._store is None else self._store.leadership.status

    def clusters(self) -> Collection[str]:
        """Return the names of the configured clusters, those that other shards read included."""
        return self._clusters.keys() if self._fleet is None else self._fleet.configured.keys()

    def own_clusters(self) -> Collection[str]:
        """Return the names of the clusters that this collector reads."""
        return self._clusters.keys()

    def owner(self, cluster: str) -> ClusterOwner | None:
        """Return which shard reads a cluster; None in an installation that is not sharded."""
        return None if self._fleet is None else self._fleet.owner(cluster)

    def shards(self) -> Sequence[ShardLease]:
        """Return the shards that hold a lease or held one, in their order; none where it is not sharded."""
        return () if self._fleet is None else self._fleet.shards()

    def synced(self, cluster: str) -> float | None:
        """Return when (Unix seconds) a cluster's view was last proved current; None if never."""
        known = self._clusters.get(cluster) or self._report(cluster)
        return None if known is None else known.synced

    def survey(self, cluster: str) -> Survey | None:
        """Return how much there is in a cluster; None before it has been listed completely."""
        known = self._clusters.get(cluster) or self._report(cluster)
        return None if known is None else known.survey

    def slices(self, cluster: str) -> SliceStatus | None:
        """Return whether a cluster's ResourceSlices are seen; None before that was tried."""
        known = self._clusters.get(cluster) or self._report(cluster)
        return None if known is None else known.slices

    def resembles(self, cluster: str) -> Collection[str]:
        """Return the clusters that show the same nodes as a cluster, without proof that they are the same."""
        if cluster in self._clusters or (report := self._report(cluster)) is None:
            return self._clusters.resemblances(cluster)
        return report.resembles

    def label_trouble(self, cluster: str) -> LabelTrouble | None:
        """Return why the labels of some nodes of a cluster cannot be written; None where they can, or need not be."""
        if (collected := self._clusters.get(cluster)) is None:
            report = self._report(cluster)
            return None if report is None else report.label_trouble
        return collected.supervisor.label_trouble if collected.status.up else None

    def sources(self, cluster: str) -> Sequence[PodSource]:
        """Return where GPU pods are looked for in a cluster, in the order of the configuration."""
        settings = self._settings(cluster)
        return () if settings is None else settings.active_sources

    def node_selector(self, cluster: str) -> str:
        """Return which nodes of a cluster are watched; empty for all of them."""
        settings = self._settings(cluster)
        return "" if settings is None else settings.node_selector

    def refresh(self, cluster: str) -> float:
        """Return after how many seconds a cluster's readings are renewed; infinity for an unknown cluster."""
        settings = self._settings(cluster)
        return math.inf if settings is None else settings.refresh

    def _report(self, cluster: str) -> ClusterReport | None:
        """Return what another shard says of a cluster that it reads."""
        return None if self._fleet is None else self._fleet.report(cluster)

    def _settings(self, cluster: str) -> ClusterSettings | None:
        if (collected := self._clusters.get(cluster)) is not None:
            return collected.settings
        return None if self._fleet is None else self._fleet.configured.get(cluster)

    async def refresh_marks(self) -> None:
        """Let `marks` be those of the store at once, if it can be read in time; else they follow soon."""
        if self._mark_follower is not None:
            with anyio.move_on_after(FLUSH_SECONDS):
                await self._mark_follower.try_refresh()

    async def wait_committed(self) -> None:
        """Wait until published data is committed, so that a restart does not lose it; but not for a failing store."""
        if self._store is not None:
            await self._store.history_writer.flushed(FLUSH_SECONDS)

    def now(self) -> float:
        """Return the present time in Unix seconds."""
        return time.time()


class _FleetStatuses(Mapping[str, ClusterStatus]):
    """The status of each cluster of all shards, by name; made when asked for."""

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
