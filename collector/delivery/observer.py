"""The interface through which the delivery reports to the rest of the collector."""

from collections.abc import Mapping
from typing import Protocol

from collector.store import SinkBacklog

__all__ = ["DeliveryObserver"]


class DeliveryObserver(Protocol):
    """Receives the outcome of every delivery attempt and each sink's backlog; every method returns immediately."""

    def on_exported(self, sink: str, records: Mapping[str, int]) -> None:
        """Handle a delivered batch; `records` counts its records by cluster."""

    def on_export_failure(self, sink: str, records: Mapping[str, int], reason: str, message: str = "") -> None:
        """Handle a failed attempt; `records` counts its records by cluster, `reason` is one of a small closed set.

        `message` is the error, on one line without secrets.
        """

    def on_backlog(self, sink: str, backlog: SinkBacklog) -> None:
        """Handle a report of a sink's backlog."""
