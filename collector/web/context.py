"""What every HTTP handler may look at."""

import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field

import anyio.lowlevel
from aiohttp import web

from collector.exposition import Exposition
from collector.inventory import Inventory
from collector.model import ClusterState, ClusterStatus, NodeState
from collector.store import History, StoreStatus
from collector.views.recent_changes import RecentChanges
from collector.views.sink_status import SinkStatuses

__all__ = ["CONTEXT", "CollectorView"]

_SLACK = 60.0  # seconds for which a reading that is due may be under way


@dataclass(frozen=True, kw_only=True)
class CollectorView:
    """The collector as HTTP sees it; all of it is live."""

    inventory: Inventory
    exposition: Exposition
    statuses: Mapping[str, ClusterStatus]
    clusters: Callable[[], Collection[str]]  # the names of the clusters that are configured
    synced: Callable[[str], float | None]  # Unix seconds of the last proof that a cluster's view is current
    refresh: Callable[[str], float] = lambda _cluster: math.inf  # seconds after which a cluster's readings are renewed
    cluster_label: str = "cluster"
    history: History | None = None  # None without a store
    durable: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint  # waits until what is published is committed
    recording: Callable[[], StoreStatus] = StoreStatus  # whether the store takes what happens
    latest: RecentChanges = field(default_factory=RecentChanges)
    sinks: SinkStatuses = field(default_factory=SinkStatuses)
    clock: Callable[[], float] = time.time  # Unix seconds; what the page's "3 minutes ago" counts from

    @property
    def starting(self) -> list[str]:
        """The clusters that have not had a first answer, good or bad."""
        return [
            name
            for name in self.clusters()
            if (status := self.statuses.get(name)) is None or status.state is ClusterState.STARTING
        ]

    def overdue(self, entry: NodeState) -> bool:
        """Tell whether a node should have been read again long ago, though its cluster is up and no attempt failed."""
        status = self.statuses.get(entry.place.cluster)
        if status is None or not status.up or entry.time is None or entry.failing is not None:
            return False
        return self.clock() - entry.time > 2 * self.refresh(entry.place.cluster) + _SLACK


CONTEXT = web.AppKey("context", CollectorView)
