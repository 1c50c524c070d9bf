"""Publishes how the delivery to the sinks goes."""

import time
from collections.abc import Callable, Collection, Mapping

from collector.exposition import Metrics
from collector.store import SinkBacklog
from collector.views.sink_status import SinkStatuses

__all__ = ["SinkObserver"]


class SinkObserver:
    """What the delivery reports to (collector.delivery.observer.DeliveryObserver): metrics, and the page's view."""

    def __init__(self, metrics: Metrics, statuses: SinkStatuses, *, clock: Callable[[], float] = time.time) -> None:
        self._metrics = metrics
        self._statuses = statuses
        self._clock = clock

    def on_exported(self, sink: str, records: Mapping[str, int]) -> None:
        """Count the records that were delivered."""
        self._metrics.exported(sink, records)
        self._statuses.delivered(sink, sum(records.values()))

    def on_export_failure(self, sink: str, records: Mapping[str, int], reason: str, message: str = "") -> None:
        """Count the records of a delivery that failed."""
        self._metrics.export_failed(sink, records, reason)
        self._statuses.failed(sink, reason, self._clock(), message)

    def on_backlog(self, sink: str, backlog: SinkBacklog) -> None:
        """Publish what waits for a sink."""
        self._metrics.backlog(sink, backlog.records, backlog.oldest, backlog.dead_letters)
        self._statuses.set_backlog(sink, backlog)

    def keep(self, sinks: Collection[str]) -> None:
        """Forget the sinks that are not among these."""
        self._metrics.keep_sinks(sinks)
        self._statuses.retain(sinks)
