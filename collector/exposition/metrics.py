"""What gpuid counts about its own work, kept by prometheus-client."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from collector import __version__
from collector.exposition.families import FAMILIES
from collector.model import ReadFailure, WatchRestart

__all__ = ["Metrics"]

_Kind = TypeVar("_Kind", Counter, Gauge, Histogram)


class Metrics:
    """The counters and gauges of one collector, in a registry of its own."""

    def __init__(self, *, cluster_label: str = "cluster") -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._cluster_label = cluster_label
        self._by_cluster: list[Counter | Gauge | Histogram] = []
        self._up = self._gauge("gpuid_cluster_up")
        self._synced = self._gauge("gpuid_cluster_synced_timestamp_seconds")
        self._conflicts = self._gauge("gpuid_gpu_conflicts")
        self._moves = self._counter("gpuid_gpu_moves_total")
        self._read_success = self._counter("gpuid_read_success_total")
        self._read_failure = self._counter("gpuid_read_failure_total")
        self._read_duration = self._histogram(
            "gpuid_read_duration_seconds", (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30)
        )
        self._watch_restarts = self._counter("gpuid_watch_restarts_total")
        self._export_success = self._counter("gpuid_export_success_total")
        self._export_failure = self._counter("gpuid_export_failure_total")
        self._export_backlog = self._gauge("gpuid_export_backlog_records")
        self._export_oldest = self._gauge("gpuid_export_oldest_timestamp_seconds")
        self._scrape_bytes = self._gauge("gpuid_scrape_body_bytes")
        self._scrape_duration = self._histogram("gpuid_scrape_duration_seconds", (0.001, 0.01, 0.05, 0.1, 0.5, 1, 5))
        self._gauge("gpuid_build_info").labels(version=__version__).set(1)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def add_cluster(self, cluster: str) -> None:
        """Let a cluster's series exist from the start, so that rates see the first increase."""
        for metric in (self._up, self._conflicts, self._moves, self._read_success, self._read_duration):
            metric.labels(cluster)
        for reason in ReadFailure:
            self._read_failure.labels(cluster, reason)

    def remove_cluster(self, cluster: str) -> None:
        """End all series of a cluster."""
        for metric in self._by_cluster:
            metric.remove_by_labels({self._cluster_label: cluster})

    def cluster_up(self, cluster: str, up: bool) -> None:
        """Set whether a cluster's list and watch are healthy."""
        self._up.labels(cluster).set(up)

    def synced(self, cluster: str, time: float) -> None:
        """Set when (Unix seconds) a cluster's view was last proved current."""
        self._synced.labels(cluster).set(time)

    def conflicts(self, cluster: str, count: int) -> None:
        """Set how many of a cluster's GPUs are confirmed in two places."""
        self._conflicts.labels(cluster).set(count)

    def moved(self, cluster: str) -> None:
        """Count a GPU that arrived in a cluster from another node."""
        self._moves.labels(cluster).inc()

    def read_succeeded(self, cluster: str, seconds: float) -> None:
        """Count a reading."""
        self._read_success.labels(cluster).inc()
        self._read_duration.labels(cluster).observe(seconds)

    def read_failed(self, cluster: str, reason: ReadFailure) -> None:
        """Count a reading that failed."""
        self._read_failure.labels(cluster, reason).inc()

    def watch_restarted(self, cluster: str, resource: str, reason: WatchRestart) -> None:
        """Count a watch that had to start over."""
        self._watch_restarts.labels(cluster, resource, reason).inc()

    def exported(self, sink: str, records: Mapping[str, int]) -> None:
        """Count the records of each cluster that a sink took."""
        for cluster, count in records.items():
            self._export_success.labels(cluster, sink).inc(count)

    def export_failed(self, sink: str, records: Mapping[str, int], reason: str) -> None:
        """Count the records of each cluster that a try to deliver had, and that failed."""
        for cluster, count in records.items():
            self._export_failure.labels(cluster, sink, reason).inc(count)

    def backlog(self, sink: str, records: int, oldest: float | None) -> None:
        """Set how many records a sink is owed, and from when (Unix seconds) the oldest is."""
        self._export_backlog.labels(sink).set(records)
        self._export_oldest.labels(sink).set(oldest or 0)

    def watch_store(self, up: Callable[[], bool], pending: Callable[[], int]) -> None:
        """Publish whether the store takes what happens, and how much waits for it; without a store there is neither."""
        self._gauge("gpuid_store_up").set_function(up)
        self._gauge("gpuid_store_pending_records").set_function(pending)

    def scraped(self, encoding: str, length: int, seconds: float) -> None:
        """Note a full answer's size on the wire and how long it took to make ready."""
        self._scrape_bytes.labels(encoding).set(length)
        self._scrape_duration.observe(seconds)

    def render(self, *, clusters: Collection[str] | None, of_process: bool, openmetrics: bool) -> bytes:
        """Write the text of these clusters' series (None: all), and with `of_process` of those that have no cluster."""

        def wanted(labels: Mapping[str, str]) -> bool:
            cluster = labels.get(self._cluster_label)
            return of_process if cluster is None else clusters is None or cluster in clusters

        generate = generate_openmetrics if openmetrics else generate_latest
        text: bytes = generate(_View(self.registry, wanted))
        return text

    def _gauge(self, name: str) -> Gauge:
        return self._keep(Gauge(name, _HELP[name], self._labels(name), registry=self.registry), name)

    def _counter(self, name: str) -> Counter:
        return self._keep(Counter(name, _HELP[name], self._labels(name), registry=self.registry), name)

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> Histogram:
        return self._keep(
            Histogram(name, _HELP[name], self._labels(name), registry=self.registry, buckets=buckets), name
        )

    def _labels(self, name: str) -> list[str]:
        return [self._cluster_label if label == "cluster" else label for label in _LABELS[name]]

    def _keep(self, metric: _Kind, name: str) -> _Kind:
        if "cluster" in _LABELS[name]:
            self._by_cluster.append(metric)
        return metric


class _Wanted(Protocol):
    def __call__(self, labels: Mapping[str, str]) -> bool: ...


class _View(Collector):
    """The part of a registry whose samples are wanted."""

    def __init__(self, registry: CollectorRegistry, wanted: _Wanted) -> None:
        self._registry = registry
        self._wanted = wanted

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            samples = [sample for sample in metric.samples if self._wanted(sample.labels)]
            if samples:
                part = Metric(metric.name, metric.documentation, metric.type, metric.unit)
                part.samples = samples
                yield part


_HELP = {family.name: family.help for family in FAMILIES}
_LABELS = {family.name: family.labels for family in FAMILIES}
