"""What a cluster tells the rest of the program."""

from typing import Protocol

from collector.model import ClusterStatus, NodeInfo, ReadFailure, Reading, WatchRestart

__all__ = ["Observer"]


class Observer(Protocol):
    """Hears of a cluster; every method is called on the event loop and returns at once. Times are Unix seconds."""

    def on_reading(self, reading: Reading, seconds: float) -> None:
        """Take a node's reading, which took `seconds` from the start of the exec until it was parsed."""

    def on_read_failure(self, cluster: str, node: str, reason: ReadFailure) -> None:
        """Count a reading that failed; the one before it still stands."""

    def on_node(self, cluster: str, node: NodeInfo) -> None:
        """Take the facts of a node that has a GPU pod: when it is first seen, and whenever they change."""

    def on_node_gone(self, cluster: str, node: str, time: float) -> None:
        """Forget a node: it was deleted, or has had no GPU pod for too long."""

    def on_status(self, status: ClusterStatus) -> None:
        """Take the cluster's state; told whenever it or its message changes."""

    def on_synced(self, cluster: str, time: float) -> None:
        """Take the time up to which the whole view of the cluster is proven current."""

    def on_watch_restart(self, cluster: str, resource: str, reason: WatchRestart) -> None:
        """Count a list and watch that had to start over."""
