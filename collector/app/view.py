"""The running collector as seen by API and page."""

import time
from collections.abc import Callable

import anyio

from collector.app.cluster_view import ClusterView
from collector.app.collected import CollectedClusters
from collector.app.marks import MarkFollower
from collector.app.shard_fleet import ShardFleet
from collector.exposition import Exposition
from collector.inventory import Inventory
from collector.marks import Marks
from collector.sharding import Shard
from collector.store import (
    History,
    LeadStatus,
    MarkStore,
    Past,
    Store,
    StoreStatus,
)
from collector.views.config_status import ConfigStatus
from collector.views.recent_changes import RecentChanges
from collector.views.sink_status import SinkStatuses

__all__ = ["LiveCollector"]

HISTORY_SECONDS = 5.0  # for all queries of one response together
FLUSH_SECONDS = 1.0  # that a response waits for its data to be committed


class LiveCollector(ClusterView):
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
        super().__init__(clusters, fleet)
        self.shard = shard
        self.inventory = inventory
        self.marks = marks
        self.exposition = exposition
        self.recent_changes = recent_changes
        self.sink_statuses = sink_statuses
        self.cluster_label = cluster_label
        self._store = store
        self._mark_follower = mark_follower
        self._config_status = config_status

    @property
    def config_status(self) -> ConfigStatus:
        """How the running configuration compares with its file."""
        return self._config_status()

    @property
    def history(self) -> History | None:
        """The store's history for one response, with a time limit; None without a store."""
        return None if self._store is None else self._store.history.within(HISTORY_SECONDS)

    @property
    def past(self) -> Past | None:
        """The store's past states for one response, with a time limit; None without a store."""
        return None if self._store is None else self._store.past.within(HISTORY_SECONDS)

    @property
    def mark_store(self) -> MarkStore | None:
        """All marks in the store for one response, with a time limit; None without a store."""
        return None if self._store is None else self._store.marks.within(HISTORY_SECONDS)

    @property
    def store_status(self) -> StoreStatus:
        """Whether the store accepts writes; up without a store."""
        return StoreStatus() if self._store is None else self._store.health.status

    @property
    def lead_status(self) -> LeadStatus | None:
        """Which collector records and delivers; None without a store."""
        return None if self._store is None else self._store.leadership.status

    async def refresh_marks(self) -> None:
        """Update `marks` from the store now, if it responds in time; otherwise they follow soon."""
        if self._mark_follower is not None:
            with anyio.move_on_after(FLUSH_SECONDS):
                await self._mark_follower.try_refresh()

    async def wait_committed(self) -> None:
        """Wait until published data is committed, so that a restart does not lose it; but not for a failing store."""
        if self._store is not None:
            await self._store.history_writer.flushed(FLUSH_SECONDS)

    def now(self) -> float:
        """Return the current time in Unix seconds."""
        return time.time()
