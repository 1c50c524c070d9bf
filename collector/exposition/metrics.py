"""The counters and gauges of gpuid's own work, kept by prometheus-client."""

import contextlib
import functools
import math
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
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from collector import __version__
from collector.exposition.families import FAMILIES, render_gpus
from collector.exposition.gpu_counts import Counts
from collector.marks import MarkedGpu
from collector.model import UNREAD_REASONS, ClusterState, LabelFailure, ReadFailure, UnreadReason, WatchRestart
from collector.sharding import Shard
from collector.tls import Validity

__all__ = ["Metrics"]

CountGpus = Callable[..., Counts]  # of a cluster, `up` or not

_HELP = {family.name: family.help for family in FAMILIES}
_LABELS = {family.name: family.labels for family in FAMILIES}

_SCRAPE_BYTES_BUCKETS = (1e4, 1e5, 1e6, 4e6, 16e6, 2**25, 64e6, 256e6)
_SCRAPE_SECONDS_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.5, 1, 5)
_READ_SECONDS_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30)


class Metrics:
    """The metrics of one collector.

    Each cluster has its own registry, so that a scrape of one cluster costs only the series of that cluster.
    """

    def __init__(self, *, cluster_label: str = "cluster") -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()  # series that belong to no cluster
        self._cluster_label = cluster_label
        self._clusters: dict[str, _ClusterMetrics] = {}
        self._count_gpus: CountGpus = lambda _cluster, *, up: {}  # noqa: ARG005
        self._sinks: set[str] = set()
        self._marks = _MarkedGpus()
        self._marked: Callable[[], Iterable[MarkedGpu]] = tuple
        self._server_expiry: tuple[Gauge, Gauge] | None = None
        self._export_backlog = _gauge("gpuid_export_backlog_records", self.registry)
        self._export_oldest = _gauge("gpuid_export_oldest_timestamp_seconds", self.registry)
        self._dead_letters = _gauge("gpuid_export_dead_letters", self.registry)
        self._scrape_bytes = _histogram("gpuid_scrape_body_bytes", self.registry, buckets=_SCRAPE_BYTES_BUCKETS)
        self._scrape_duration = _histogram(
            "gpuid_scrape_duration_seconds", self.registry, buckets=_SCRAPE_SECONDS_BUCKETS
        )
        self._sink_expiry = _gauge("gpuid_sink_credential_expiry_timestamp_seconds", self.registry)
        self._sink_lifetime = _gauge("gpuid_sink_credential_lifetime_seconds", self.registry)
        self._exposition_age = _gauge("gpuid_exposition_age_seconds", self.registry)
        _gauge("gpuid_build_info", self.registry).labels(version=__version__).set(1)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def add_cluster(
        self,
        cluster: str,
        *,
        conflicts: Callable[[], int] = lambda: 0,
        claims: Callable[[], int] = lambda: 0,
        failing: Callable[[ReadFailure], int] = lambda _reason: 0,
        unread: Callable[[UnreadReason], int] = lambda _reason: 0,
        nodes: Callable[[], int] = lambda: 0,
        resemblances: Callable[[], int] = lambda: 0,
    ) -> None:
        """Create the series of a cluster, so that rates see the first increase.

        At each scrape `conflicts` returns how many of its GPUs are confirmed in two places, `claims` how many are in an
        open claim, `failing` on how many of its nodes the last reading failed for a reason, `unread` how many are
        unread for a reason, `nodes` how many there are, and `resemblances` how many other clusters show the same nodes.
        """
        self._clusters[cluster] = _ClusterMetrics(
            cluster, self._cluster_label, conflicts, claims, failing, unread, nodes, resemblances
        )

    def count_gpus(self, count: CountGpus) -> None:
        """Ask `count` at each scrape for the GPUs of a cluster that is up or not, by model and state."""
        self._count_gpus = count

    def remove_cluster(self, cluster: str) -> None:
        """Remove all series of a cluster; later calls about it are ignored."""
        self._clusters.pop(cluster, None)

    def cluster_state(self, cluster: str, state: ClusterState) -> None:
        """Set the state of a cluster, and with it whether its list and watch are healthy."""
        if metrics := self._clusters.get(cluster):
            metrics.up.labels(cluster).set(state is ClusterState.UP)
            metrics.state.labels(cluster, state).set(1)
            if metrics.last_state not in (None, state):  # removed last, so that every scrape finds a state
                metrics.state.remove(cluster, metrics.last_state)
            metrics.last_state = state
            if state is ClusterState.DUPLICATE:  # it is not watched, so its view will not be confirmed again
                metrics.synced.clear()
                metrics.source_pods.clear()
                metrics.slices.clear()
                metrics.credential_expiry.clear()
                metrics.credential_lifetime.clear()

    def synced(self, cluster: str, time: float) -> None:
        """Set when (Unix seconds) the view of a cluster was last confirmed as current."""
        if metrics := self._clusters.get(cluster):
            metrics.synced.labels(cluster).set(time)

    def source_pods(self, cluster: str, pods: Mapping[str, int]) -> None:
        """Set how many pods each source of a cluster selects."""
        if metrics := self._clusters.get(cluster):
            metrics.source_pods.clear()
            for source, count in pods.items():
                metrics.source_pods.labels(cluster, source).set(count)

    def slices(self, cluster: str, watched: bool | None) -> None:
        """Set whether the ResourceSlices of a cluster are watched; None if its API server has none."""
        if metrics := self._clusters.get(cluster):
            if watched is None:
                metrics.slices.clear()
            else:
                metrics.slices.labels(cluster).set(watched)

    def credential_expiry(self, cluster: str, expiry: Validity | None) -> None:
        """Set when a cluster's credentials are good; None if they do not end."""
        if metrics := self._clusters.get(cluster):
            _set_expiry(metrics.credential_expiry, metrics.credential_lifetime, (cluster,), expiry)

    def sink_credential_expiry(self, sink: str, expiry: Validity | None) -> None:
        """Set when the credentials of a sink are good; None if they do not end, or there is no such sink any more."""
        _set_expiry(self._sink_expiry, self._sink_lifetime, (sink,), expiry)

    def server_certificate(self, expiry: Validity | None) -> None:
        """Set when the certificate that the collector serves is good; None without one."""
        if expiry is None:
            return
        if self._server_expiry is None:  # without HTTPS there are no such series
            names = ("gpuid_server_certificate_expiry_timestamp_seconds", "gpuid_server_certificate_lifetime_seconds")
            self._server_expiry = (_gauge(names[0], self.registry), _gauge(names[1], self.registry))
        ends, lifetime = self._server_expiry
        ends.set(expiry.ends)
        lifetime.set(expiry.ends - expiry.begins)

    def moved(self, cluster: str) -> None:
        """Count a GPU that arrived in a cluster from another node."""
        if metrics := self._clusters.get(cluster):
            metrics.moves.labels(cluster).inc()

    def read_succeeded(self, cluster: str, seconds: float) -> None:
        """Count a successful reading that took some seconds."""
        if metrics := self._clusters.get(cluster):
            metrics.read_success.labels(cluster).inc()
            metrics.read_duration.labels(cluster).observe(seconds)

    def read_failed(self, cluster: str, reason: ReadFailure) -> None:
        """Count a failed reading."""
        if metrics := self._clusters.get(cluster):
            metrics.read_failure.labels(cluster, reason).inc()

    def watch_restarted(self, cluster: str, resource: str, reason: WatchRestart) -> None:
        """Count a watch that was restarted."""
        if metrics := self._clusters.get(cluster):
            metrics.watch_restarts.labels(cluster, resource, reason).inc()

    def keep_label_series(self, cluster: str, *, keep: bool) -> None:
        """Create the series of a cluster whose nodes gpuid labels, or remove them for one that it does not."""
        if metrics := self._clusters.get(cluster):
            if keep:
                metrics.label_writes.labels(cluster)
                for reason in LabelFailure:
                    metrics.label_failures.labels(cluster, reason)
            else:
                metrics.label_writes.clear()
                metrics.label_failures.clear()

    def labels_written(self, cluster: str) -> None:
        """Count a write of a node's labels."""
        if metrics := self._clusters.get(cluster):
            metrics.label_writes.labels(cluster).inc()

    def label_failed(self, cluster: str, reason: LabelFailure) -> None:
        """Count a write of a node's labels that failed, or a change of them by another client."""
        if metrics := self._clusters.get(cluster):
            metrics.label_failures.labels(cluster, reason).inc()

    def exported(self, sink: str, records: Mapping[str, int]) -> None:
        """Count the records delivered to a sink, by cluster."""
        for cluster, count in records.items():
            if metrics := self._clusters.get(cluster):
                metrics.export_success.labels(cluster, sink).inc(count)

    def export_failed(self, sink: str, records: Mapping[str, int], reason: str) -> None:
        """Count the records of a failed delivery attempt, by cluster."""
        for cluster, count in records.items():
            if metrics := self._clusters.get(cluster):
                metrics.export_failure.labels(cluster, sink, reason).inc(count)

    def backlog(self, sink: str, records: int, oldest: float | None, dead_letters: int) -> None:
        """Set the backlog of a sink: records, the time of the oldest (Unix seconds) and dead letters (batches)."""
        self._sinks.add(sink)
        self._export_backlog.labels(sink).set(records)
        self._export_oldest.labels(sink).set(oldest or 0)
        self._dead_letters.labels(sink).set(dead_letters)

    def keep_sinks(self, sinks: Collection[str]) -> None:
        """Remove the series of all other sinks, which are no longer delivered to."""
        for gauge in (self._export_backlog, self._export_oldest, self._dead_letters):
            for sink in self._sinks.difference(sinks):
                gauge.remove(sink)
        self._sinks.intersection_update(sinks)

    def register_store(
        self,
        *,
        up: Callable[[], bool],
        pending: Callable[[], int],
        lost: Callable[[], int],
        leader: Callable[[], bool],
        has_leader: Callable[[], bool],
        set_aside: Callable[[], int],
    ) -> None:
        """Create the series of the store, whose values are asked for at each scrape."""
        _gauge("gpuid_store_up", self.registry).set_function(up)
        _gauge("gpuid_store_pending_records", self.registry).set_function(pending)
        self.registry.register(_CallbackCounter("gpuid_store_lost_records_total", lost))
        _gauge("gpuid_store_leader", self.registry).set_function(leader)
        _gauge("gpuid_store_has_leader", self.registry).set_function(has_leader)
        _gauge("gpuid_store_damaged_files", self.registry).set_function(set_aside)

    def register_shard(self, shard: Shard, unowned: Callable[[], Iterable[str]]) -> None:
        """Create the series of one shard of several; `unowned` returns the clusters that none reads, at each scrape."""
        _gauge("gpuid_shard_ordinal", self.registry).set(shard.index)
        _gauge("gpuid_total_shards", self.registry).set(shard.total)
        self.registry.register(_UnownedClusters(self._cluster_label, unowned))

    def register_config(
        self, *, successful: Callable[[], bool], loaded: Callable[[], float], restart_required: Callable[[], bool]
    ) -> None:
        """Create the series of the configuration, whose values are asked for at each scrape."""
        _gauge("gpuid_config_last_reload_successful", self.registry).set_function(successful)
        _gauge("gpuid_config_last_reload_success_timestamp_seconds", self.registry).set_function(loaded)
        _gauge("gpuid_config_restart_required", self.registry).set_function(restart_required)

    def register_marks(self, marked: Callable[[], Iterable[MarkedGpu]]) -> None:
        """Create the series of the marked GPUs, which `look_at_marks` asks for."""
        self._marked = marked
        self.registry.register(self._marks)

    def look_at_marks(self) -> None:
        """Set the series of the marked GPUs to those of now; on the event loop, where the inventory is."""
        self._marks.samples = [(one.serial, one.uuid, one.mark.kind, one.mark.ticket) for one in self._marked()]

    def scraped(self, encoding: str, length: int, seconds: float) -> None:
        """Count a scrape: the bytes of its response as sent, and the seconds that it took to prepare."""
        self._scrape_bytes.labels(encoding).observe(length)
        self._scrape_duration.observe(seconds)

    def exposition_age(self, seconds: float) -> None:
        """Set how long the oldest change waits that the text of the nodes does not show."""
        self._exposition_age.set(seconds)

    def render(self, *, clusters: Collection[str] | None, with_process: bool, openmetrics: bool) -> bytes:
        """Return the series of some clusters (None: all) as text, `with_process` also those that belong to none."""
        names = list(self._clusters) if clusters is None else clusters
        chosen = {name: metrics for name in names if (metrics := self._clusters.get(name))}
        gpus = {
            name: self._count_gpus(name, up=metrics.last_state is ClusterState.UP) for name, metrics in chosen.items()
        }
        registries = [metrics.registry for metrics in chosen.values()]
        if with_process:
            registries.append(self.registry)
        generate = generate_openmetrics if openmetrics else generate_latest
        text: bytes = generate(_MergedRegistries(registries))
        return render_gpus(gpus, self._cluster_label) + text


class _ClusterMetrics:
    """The metrics of one cluster."""

    def __init__(
        self,
        cluster: str,
        label: str,
        conflicts: Callable[[], int],
        claims: Callable[[], int],
        failing: Callable[[ReadFailure], int],
        unread: Callable[[UnreadReason], int],
        nodes: Callable[[], int],
        resemblances: Callable[[], int],
    ) -> None:
        self.registry = own = CollectorRegistry()
        self.up = _gauge("gpuid_cluster_up", own, label)
        self.state = _gauge("gpuid_cluster_state", own, label)
        self.last_state: ClusterState | None = None
        self.synced = _gauge("gpuid_cluster_synced_timestamp_seconds", own, label)
        self.credential_expiry = _gauge("gpuid_credential_expiry_timestamp_seconds", own, label)
        self.credential_lifetime = _gauge("gpuid_credential_lifetime_seconds", own, label)
        self.moves = _counter("gpuid_gpu_moves_total", own, label)
        self.read_success = _counter("gpuid_read_success_total", own, label)
        self.read_failure = _counter("gpuid_read_failure_total", own, label)
        read_failing = _gauge("gpuid_read_failing_nodes", own, label)
        _gauge("gpuid_gpu_nodes", own, label).labels(cluster).set_function(nodes)
        unread_nodes = _gauge("gpuid_unread_nodes", own, label)
        self.source_pods = _gauge("gpuid_source_pods", own, label)
        self.slices = _gauge("gpuid_resource_slices_watched", own, label)
        self.read_duration = _histogram("gpuid_read_duration_seconds", own, label, buckets=_READ_SECONDS_BUCKETS)
        self.watch_restarts = _counter("gpuid_watch_restarts_total", own, label)
        self.label_writes = _counter("gpuid_node_label_writes_total", own, label)
        self.label_failures = _counter("gpuid_node_label_failures_total", own, label)
        self.export_success = _counter("gpuid_export_success_total", own, label)
        self.export_failure = _counter("gpuid_export_failure_total", own, label)
        _gauge("gpuid_cluster_resemblances", own, label).labels(cluster).set_function(resemblances)
        _gauge("gpuid_gpu_conflicts", own, label).labels(cluster).set_function(conflicts)
        _gauge("gpuid_gpu_claims", own, label).labels(cluster).set_function(claims)
        for metric in (self.up, self.moves, self.read_success, self.read_duration):
            metric.labels(cluster)
        for reason in ReadFailure:
            self.read_failure.labels(cluster, reason)
            read_failing.labels(cluster, reason).set_function(functools.partial(failing, reason))
        for unread_reason in UNREAD_REASONS:
            unread_nodes.labels(cluster, unread_reason).set_function(functools.partial(unread, unread_reason))


class _CallbackCounter(Collector):
    """A counter whose value a callback returns."""

    def __init__(self, name: str, value: Callable[[], int]) -> None:
        self._name, self._value = name, value

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(self._name, _HELP[self._name], value=self._value())


class _MarkedGpus(Collector):
    """One series for each marked GPU."""

    def __init__(self) -> None:
        self.samples: Sequence[tuple[str, str, str, str]] = ()  # the values of the labels

    def collect(self) -> Iterable[Metric]:
        name = "gpuid_gpu_mark_info"
        family = GaugeMetricFamily(name, _HELP[name], labels=_LABELS[name])
        for labels in self.samples:
            family.add_metric(labels, 1)
        yield family


class _UnownedClusters(Collector):
    """One series for each cluster that no shard reads."""

    def __init__(self, cluster_label: str, unowned: Callable[[], Iterable[str]]) -> None:
        self._cluster_label, self._unowned = cluster_label, unowned

    def collect(self) -> Iterable[Metric]:
        name = "gpuid_cluster_unowned"
        family = GaugeMetricFamily(name, _HELP[name], labels=[self._cluster_label])
        for cluster in self._unowned():
            family.add_metric([cluster], 1)
        yield family


class _MergedRegistries(Collector):
    """Several registries as one: each family occurs once, with the samples of all registries."""

    def __init__(self, registries: Sequence[CollectorRegistry]) -> None:
        self._registries = registries

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for registry in self._registries:
            for metric in registry.collect():
                if not metric.samples:
                    continue
                if (family := families.get(metric.name)) is None:
                    family = Metric(metric.name, metric.documentation, metric.type, metric.unit)
                    families[metric.name] = family
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


def _set_expiry(expiry: Gauge, lifetime: Gauge, labels: tuple[str, ...], found: Validity | None) -> None:
    """Set when something is good, and for how long in all where its beginning is known."""
    for gauge, value in (
        (expiry, found.ends if found else None),
        (lifetime, found.ends - found.begins if found and math.isfinite(found.begins) else None),
    ):
        if value is not None:
            gauge.labels(*labels).set(value)
        else:
            with contextlib.suppress(KeyError):
                gauge.remove(*labels)


def _labels(name: str, cluster_label: str) -> list[str]:
    return [cluster_label if label == "cluster" else label for label in _LABELS[name]]
