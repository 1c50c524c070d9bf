"""History and outbox: where every GPU was, and what the sinks are owed, in SQLite or PostgreSQL."""

from collector.config.store import StoreSettings
from collector.store.check import check
from collector.store.database import OpenMode
from collector.store.errors import StoreError
from collector.store.history import HistoricChange, History, PastPlacement, Position
from collector.store.outbox import Backlog, Batch, DeadLetter, Outbox, Owed, Subscription, Waiting
from collector.store.recorder import StoreStatus
from collector.store.store import Remembered, Store

__all__ = [
    "Backlog",
    "Batch",
    "DeadLetter",
    "HistoricChange",
    "History",
    "OpenMode",
    "Outbox",
    "Owed",
    "PastPlacement",
    "Position",
    "Remembered",
    "Store",
    "StoreError",
    "StoreSettings",
    "StoreStatus",
    "Subscription",
    "Waiting",
    "check",
]
