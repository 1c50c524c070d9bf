"""The fleet as recorded in a store, viewed without a running collector."""

import time
from collections.abc import Collection, Mapping

from collector.inventory import Inventory
from collector.marks import Marks
from collector.model import ClusterStatus
from collector.store import History, Store
from collector.views.recent_changes import RecentChanges

__all__ = ["StoredFleet"]


class StoredFleet:
    """A `collector.views.lookup_view.LookupView` of the last recorded state; current cluster states are unknown."""

    def __init__(self, store: Store, inventory: Inventory, marks: Marks) -> None:
        self.inventory = inventory
        self.marks = marks
        self.statuses: Mapping[str, ClusterStatus] = {}
        self.recent_changes = RecentChanges()
        self.history: History | None = store.history

    @classmethod
    async def load(cls, store: Store) -> "StoredFleet":
        """Return the fleet in a store; raises StoreError."""
        remembered = await store.load()
        inventory = Inventory()
        inventory.restore(remembered.nodes, remembered.absent, remembered.left, remembered.facts, remembered.lost)
        return cls(store, inventory, Marks((await store.marks.in_force())[1]))

    def clusters(self) -> Collection[str]:
        """Return the names of clusters with any records."""
        return self.inventory.clusters()

    async def wait_committed(self) -> None:
        """Return immediately: all that is known is committed."""

    def now(self) -> float:
        """Return the current time (Unix seconds)."""
        return time.time()
