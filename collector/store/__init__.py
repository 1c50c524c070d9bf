"""History and outbox: where every GPU was, and what the sinks are owed, in SQLite or PostgreSQL."""

from collector.config.store import StoreSettings
from collector.store.check import check
from collector.store.database import Access
from collector.store.errors import StoreError
from collector.store.history import History, PastPlacement, Position, RecordedChange
from collector.store.outbox import Backlog, Batch, DeadLetter, Follow, Outbox, Owed, Waiting
from collector.store.recorder import StoreStatus
from collector.store.store import Remembered, Store

__all__ = [
    "Access",
    "Backlog",
    "Batch",
    "DeadLetter",
    "Follow",
    "History",
    "Outbox",
    "Owed",
    "PastPlacement",
    "Position",
    "RecordedChange",
    "Remembered",
    "Store",
    "StoreError",
    "StoreSettings",
    "StoreStatus",
    "Waiting",
    "check",
]
