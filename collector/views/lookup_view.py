"""The view that a look-up needs: a running collector, or a store that no collector has open."""

from collections.abc import Collection, Mapping
from typing import Protocol

from collector.inventory import Inventory
from collector.marks import Marks
from collector.model import ClusterStatus
from collector.store import History
from collector.views.recent_changes import RecentChanges

__all__ = ["LookupView"]


class LookupView(Protocol):
    """The part of `collector.views.collector_view.CollectorView`, documented there, that a look-up needs."""

    @property
    def inventory(self) -> Inventory:
        """The nodes and GPUs of all clusters."""

    @property
    def marks(self) -> Marks:
        """The current marks of GPUs."""

    @property
    def statuses(self) -> Mapping[str, ClusterStatus]:
        """The status of each cluster, by name; without unknown ones."""

    @property
    def recent_changes(self) -> RecentChanges:
        """The latest changes of GPUs."""

    @property
    def history(self) -> History | None:
        """The history for one answer."""

    def clusters(self) -> Collection[str]:
        """Return the names of the clusters."""

    async def wait_committed(self) -> None:
        """Wait until the store has committed what is known."""

    def now(self) -> float:
        """Return the current time (Unix seconds)."""
