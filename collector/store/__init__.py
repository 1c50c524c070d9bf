"""History and outbox: where every GPU was, and what waits for the sinks, in SQLite or PostgreSQL."""

from collector.config.store import StoreSettings
from collector.store.change_queries import ChangeFilter, ChangePosition
from collector.store.check import check
from collector.store.checkpoints import ClusterCount
from collector.store.cluster_report import ClusterOwner, ClusterReport, ShardLease
from collector.store.commit import Unstored
from collector.store.database import OpenMode
from collector.store.errors import LostLeadershipError, StoreError
from collector.store.first_sights import FirstSights
from collector.store.gone import GoneNode
from collector.store.health import StoreHealth, StoreStatus
from collector.store.history import Alteration, HistoricChange, History, PastPlacement, Position
from collector.store.history_writer import HistoryWriter
from collector.store.leadership import LeadStatus
from collector.store.mark_book import KnownGpu, Marked, RefusedMarkError, Unmarked
from collector.store.marks import MarkStore
from collector.store.outbox import Batch, BatchState, DeadLetter, Outbox, SinkBacklog, SinkState, Subscription
from collector.store.past import GpuPosition, Past, PastHealthChange, PastNode, Stay
from collector.store.plan import Departure
from collector.store.shards import ClusterRow, News, ShardStore, SharedLease
from collector.store.store import Remembered, Store

__all__ = [
    "Alteration",
    "Batch",
    "BatchState",
    "ChangeFilter",
    "ChangePosition",
    "ClusterCount",
    "ClusterOwner",
    "ClusterReport",
    "ClusterRow",
    "DeadLetter",
    "Departure",
    "FirstSights",
    "GoneNode",
    "GpuPosition",
    "HistoricChange",
    "History",
    "HistoryWriter",
    "KnownGpu",
    "LeadStatus",
    "LostLeadershipError",
    "MarkStore",
    "Marked",
    "News",
    "OpenMode",
    "Outbox",
    "Past",
    "PastHealthChange",
    "PastNode",
    "PastPlacement",
    "Position",
    "RefusedMarkError",
    "Remembered",
    "ShardLease",
    "ShardStore",
    "SharedLease",
    "SinkBacklog",
    "SinkState",
    "Stay",
    "Store",
    "StoreError",
    "StoreHealth",
    "StoreSettings",
    "StoreStatus",
    "Subscription",
    "Unmarked",
    "Unstored",
    "check",
]
