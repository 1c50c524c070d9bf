"""What gpuid counts about its own work, kept by prometheus-client."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

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
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from collector import __version__
from collector.exposition.families import FAMILIES
from collector.model import ClusterState, ReadFailure, WatchRestart

__all__ = ["Metrics"]


class Metrics:
    """The counters and gauges of one collector.

    Each cluster has a registry of its own, so that its share of a scrape costs only its own series.
    """

    def __init__(self, *, cluster_label: str = "cluster") -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()  # of what belongs to no cluster
        self._cluster_label = cluster_label
        self._clusters: dict[str, _ClusterMetrics] = {}
        self._sinks: set[str] = set()
        self._export_backlog = _gauge("gpuid_export_backlog_records", self.registry)
        self._export_oldest = _gauge("gpuid_export_oldest_timestamp_seconds", self.registry)
        self._dead_letters = _gauge("gpuid_export_dead_letters", self.registry)
        self._scrape_bytes = _histogram(
            "gpuid_scrape_body_bytes", self.registry, buckets=(1e4, 1e5, 1e6, 4e6, 16e6, 2**25, 64e6, 256e6)
        )
        self._scrape_duration = _histogram(
            "gpuid_scrape_duration_seconds", self.registry, buckets=(0.001, 0.01, 0.05, 0.1, 0.5, 1, 5)
        )
        _gauge("gpuid_build_info", self.registry).labels(version=__version__).set(1)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def add_cluster(self, cluster: str, *, conflicts: Callable[[], int] = lambda: 0) -> None:
        """Let a cluster's series exist from the start, so that rates see the first increase.

        `conflicts` tells at each scrape how many of its GPUs are confirmed in two places.
        """
        self._clusters[cluster] = _ClusterMetrics(cluster, self._cluster_label, conflicts)

    def remove_cluster(self, cluster: str) -> None:
        """End all series of a cluster; what is told of it later is not counted."""
        self._clusters.pop(cluster, None)

    def cluster_state(self, cluster: str, state: ClusterState) -> None:
        """Set how a cluster is, and with it whether its list and watch are healthy."""
        if metrics := self._clusters.get(cluster):
            metrics.up.labels(cluster).set(state is ClusterState.UP)
            metrics.state.labels(cluster, state).set(1)
            if metrics.state_before not in (None, state):  # last, so that no scrape finds a cluster without a state
                metrics.state.remove(cluster, metrics.state_before)
            metrics.state_before = state
            if state is ClusterState.DUPLICATE:  # it is not followed, so nothing will prove its view again
                metrics.synced.clear()

    def synced(self, cluster: str, time: float) -> None:
        """Set when (Unix seconds) a cluster's view was last proved current."""
        if metrics := self._clusters.get(cluster):
            metrics.synced.labels(cluster).set(time)

    def moved(self, cluster: str) -> None:
        """Count a GPU that arrived in a cluster from another node."""
        if metrics := self._clusters.get(cluster):
            metrics.moves.labels(cluster).inc()

    def read_succeeded(self, cluster: str, seconds: float) -> None:
        """Count a reading."""
        if metrics := self._clusters.get(cluster):
            metrics.read_success.labels(cluster).inc()
            metrics.read_duration.labels(cluster).observe(seconds)

    def read_failed(self, cluster: str, reason: ReadFailure) -> None:
        """Count a reading that failed."""
        if metrics := self._clusters.get(cluster):
            metrics.read_failure.labels(cluster, reason).inc()

    def failing(self, cluster: str, before: ReadFailure | None, now: ReadFailure | None) -> None:
        """Count a node whose last reading failed by how it did, where it failed `before` and fails `now`."""
        if metrics := self._clusters.get(cluster):
            if before is not None:
                metrics.read_failing.labels(cluster, before).dec()
            if now is not None:
                metrics.read_failing.labels(cluster, now).inc()

    def watch_restarted(self, cluster: str, resource: str, reason: WatchRestart) -> None:
        """Count a watch that had to start over."""
        if metrics := self._clusters.get(cluster):
            metrics.watch_restarts.labels(cluster, resource, reason).inc()

    def exported(self, sink: str, records: Mapping[str, int]) -> None:
        """Count the records of each cluster that a sink took."""
        for cluster, count in records.items():
            if metrics := self._clusters.get(cluster):
                metrics.export_success.labels(cluster, sink).inc(count)

    def export_failed(self, sink: str, records: Mapping[str, int], reason: str) -> None:
        """Count the records of each cluster that a try to deliver had, and that failed."""
        for cluster, count in records.items():
            if metrics := self._clusters.get(cluster):
                metrics.export_failure.labels(cluster, sink, reason).inc(count)

    def backlog(self, sink: str, records: int, oldest: float | None, dead_letters: int) -> None:
        """Set how many records a sink is owed, from when (Unix seconds) the oldest is, and the batches it refused."""
        self._sinks.add(sink)
        self._export_backlog.labels(sink).set(records)
        self._export_oldest.labels(sink).set(oldest or 0)
        self._dead_letters.labels(sink).set(dead_letters)

    def keep_sinks(self, sinks: Collection[str]) -> None:
        """End what is told of sinks that are not among these, for nobody works at it any more."""
        for gauge in (self._export_backlog, self._export_oldest, self._dead_letters):
            for sink in self._sinks.difference(sinks):
                gauge.remove(sink)
        self._sinks.intersection_update(sinks)

    def watch_store(
        self, *, up: Callable[[], bool], pending: Callable[[], int], lost: Callable[[], int], leader: Callable[[], bool]
    ) -> None:
        """Publish whether the store takes what happens, what waits for it, what was lost, and who records into it."""
        _gauge("gpuid_store_up", self.registry).set_function(up)
        _gauge("gpuid_store_pending_records", self.registry).set_function(pending)
        self.registry.register(_Asked("gpuid_store_lost_records_total", lost))
        _gauge("gpuid_store_leader", self.registry).set_function(leader)

    def scraped(self, encoding: str, length: int, seconds: float) -> None:
        """Note an answer's size on the wire, and how long it took to make ready."""
        self._scrape_bytes.labels(encoding).observe(length)
        self._scrape_duration.observe(seconds)

    def render(self, *, clusters: Collection[str] | None, of_process: bool, openmetrics: bool) -> bytes:
        """Write the text of these clusters' series (None: all), and with `of_process` of those that have no cluster."""
        names = list(self._clusters) if clusters is None else clusters
        registries = [metrics.registry for name in names if (metrics := self._clusters.get(name))]
        if of_process:
            registries.append(self.registry)
        generate = generate_openmetrics if openmetrics else generate_latest
        text: bytes = generate(_Union(registries))
        return text


class _ClusterMetrics:
    """What is counted of one cluster."""

    def __init__(self, cluster: str, label: str, conflicts: Callable[[], int]) -> None:
        self.registry = own = CollectorRegistry()
        self.up = _gauge("gpuid_cluster_up", own, label)
        self.state = _gauge("gpuid_cluster_state", own, label)
        self.state_before: ClusterState | None = None
        self.synced = _gauge("gpuid_cluster_synced_timestamp_seconds", own, label)
        self.moves = _counter("gpuid_gpu_moves_total", own, label)
        self.read_success = _counter("gpuid_read_success_total", own, label)
        self.read_failure = _counter("gpuid_read_failure_total", own, label)
        self.read_failing = _gauge("gpuid_read_failing_nodes", own, label)
        self.read_duration = _histogram(
            "gpuid_read_duration_seconds", own, label, buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30)
        )
        self.watch_restarts = _counter("gpuid_watch_restarts_total", own, label)
        self.export_success = _counter("gpuid_export_success_total", own, label)
        self.export_failure = _counter("gpuid_export_failure_total", own, label)
        _gauge("gpuid_gpu_conflicts", own, label).labels(cluster).set_function(conflicts)
        for metric in (self.up, self.moves, self.read_success, self.read_duration):
            metric.labels(cluster)
        for reason in ReadFailure:
            self.read_failure.labels(cluster, reason)
            self.read_failing.labels(cluster, reason)


class _Asked(Collector):
    """A counter that is kept elsewhere."""

    def __init__(self, name: str, value: Callable[[], int]) -> None:
        self._name, self._value = name, value

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(self._name, _HELP[self._name], value=self._value())


class _Union(Collector):
    """Several registries as one: each family once, with the samples of all of them."""

    def __init__(self, registries: Sequence[CollectorRegistry]) -> None:
        self._registries = registries

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for registry in self._registries:
            for metric in registry.collect():
                if metric.samples:
                    family = families.setdefault(
                        metric.name, Metric(metric.name, metric.documentation, metric.type, metric.unit)
                    )
                    family.samples.extend(metric.samples)
        return families.values()


def _gauge(name: str, registry: CollectorRegistry, cluster_label: str = "") -> Gauge:
    return Gauge(name, _HELP[name], _labels(name, cluster_label), registry=registry)


def _counter(name: str, registry: CollectorRegistry, cluster_label: str = "") -> Counter:
    return Counter(name, _HELP[name], _labels(name, cluster_label), registry=registry)


def _histogram(
    name: str, registry: CollectorRegistry, cluster_label: str = "", *, buckets: tuple[float, ...]
) -> Histogram:
    return Histogram(name, _HELP[name], _labels(name, cluster_label), registry=registry, buckets=buckets)


def _labels(name: str, cluster_label: str) -> list[str]:
    return [cluster_label if label == "cluster" else label for label in _LABELS[name]]


_HELP = {family.name: family.help for family in FAMILIES}
_LABELS = {family.name: family.labels for family in FAMILIES}
