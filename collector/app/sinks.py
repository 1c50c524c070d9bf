"""Publishes the state of delivery to the sinks."""

import time
from collections.abc import Callable, Collection, Mapping

from collector.exposition import Metrics
from collector.store import SinkBacklog
from collector.views.sink_status import SinkStatuses

__all__ = ["SinkObserver"]


class SinkObserver:
    """The target of delivery's reports (collector.delivery.observer.DeliveryObserver): metrics and the page's view."""

    def __init__(self, metrics: Metrics, statuses: SinkStatuses, *, clock: Callable[[], float] = time.time) -> None:
        self._metrics = metrics
        self._statuses = statuses
        self._clock = clock

    def on_exported(self, sink: str, records: Mapping[str, int]) -> None:
        """Count delivered records."""
        self._metrics.exported(sink, records)
        self._statuses.delivered(sink, sum(records.values()))

    def on_export_failure(self, sink: str, records: Mapping[str, int], reason: str, message: str = "") -> None:
        """Count the records of a failed delivery."""
        self._metrics.export_failed(sink, records, reason)
        self._statuses.failed(sink, reason, self._clock(), message)

    def on_backlog(self, sink: str, backlog: SinkBacklog) -> None:
        """Publish the backlog of a sink."""
        self._metrics.backlog(sink, backlog.records, backlog.oldest, backlog.dead_letters)
        self._statuses.set_backlog(sink, backlog)

    def keep(self, sinks: Collection[str]) -> None:
        """Forget all sinks except these."""
        self._metrics.keep_sinks(sinks)
        self._statuses.retain(sinks)
