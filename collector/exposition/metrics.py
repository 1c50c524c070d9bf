"""The counters and gauges about gpuid itself, kept by prometheus-client."""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from collector import __version__
from collector.exposition.cluster_metrics import FAMILY, ClusterMetrics, set_expiry
from collector.exposition.gpu_counts import Counts
from collector.exposition.own_text import END, JoinedText, ProcessText
from collector.exposition.shards import DeflatedText, compressed
from collector.model import ClusterState, LabelFailure, ReadFailure, UnreadReason, WatchRestart
from collector.sharding import Shard
from collector.tls import Validity

__all__ = ["Metrics"]

CountGpus = Callable[..., Counts]  # of a cluster, `up` or not

_SCRAPE_BYTES_BUCKETS = (1e4, 1e5, 1e6, 4e6, 16e6, 2**25, 64e6, 256e6)
_SCRAPE_SECONDS_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.5, 1, 5)


class Metrics:
    """The metrics of one collector.

    Each cluster has its own series and their text, so that a scrape of one cluster costs only what has changed in it.
    """

    def __init__(self, *, cluster_label: str = "cluster") -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()  # series that belong to no cluster
        self._cluster_label = cluster_label
        self._clusters: dict[str, ClusterMetrics] = {}
        self._joined: dict[tuple[str | None, bool], JoinedText] = {}  # by cluster (None: all of them) and format
        self._process_text = ProcessText(self.registry)
        self._writing = threading.Lock()  # of clusters' texts
        self._count_gpus: CountGpus = lambda _cluster, *, up: {}  # noqa: ARG005
        self._sinks: set[str] = set()
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
        """Create the series of a cluster, so that rates include the first increase.

        At each scrape `conflicts` returns how many of its GPUs are confirmed in two places, `claims` how many are in an
        open claim, `failing` on how many of its nodes the last reading failed for a reason, `unread` how many are
        unread for a reason, `nodes` how many there are, and `resemblances` how many other clusters show the same nodes.
        """
        self._clusters[cluster] = ClusterMetrics(
            cluster,
            self._cluster_label,
            count_gpus=lambda up: self._count_gpus(cluster, up=up),
            conflicts=conflicts,
            claims=claims,
            failing=failing,
            unread=unread,
            nodes=nodes,
            resemblances=resemblances,
        )

    def count_gpus(self, count: CountGpus) -> None:
        """Call `count` at each scrape for the GPUs of a cluster, given whether it is up, by model and state."""
        self._count_gpus = count

    def remove_cluster(self, cluster: str) -> None:
        """Remove all series of a cluster; later calls about it are ignored."""
        self._clusters.pop(cluster, None)
        for openmetrics in (False, True):
            self._joined.pop((cluster, openmetrics), None)

    def cluster_state(self, cluster: str, state: ClusterState) -> None:
        """Set the state of a cluster, and with it whether its list and watch are healthy."""
        if metrics := self._clusters.get(cluster):
            metrics.up.labels(cluster).set(state is ClusterState.UP)
            metrics.state.labels(cluster, state).set(1)
            if metrics.last_state not in (None, state):  # removed last, so that every scrape finds a state
                metrics.state.remove(cluster, metrics.last_state)
            metrics.last_state = state
            if state is ClusterState.DUPLICATE:  # it is not watched, so its view is no longer confirmed
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
        """Set the validity of a cluster's credentials; None if they do not expire."""
        if metrics := self._clusters.get(cluster):
            set_expiry(metrics.credential_expiry, metrics.credential_lifetime, (cluster,), expiry)

    def sink_credential_expiry(self, sink: str, expiry: Validity | None) -> None:
        """Set the validity of a sink's credentials; None if they do not expire or the sink no longer exists."""
        set_expiry(self._sink_expiry, self._sink_lifetime, (sink,), expiry)

    def server_certificate(self, expiry: Validity | None) -> None:
        """Set the validity of the collector's server certificate; None without one."""
        if expiry is None:
            return
        if self._server_expiry is None:  # no such series without HTTPS
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
        """Count a successful reading and its duration in seconds."""
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
        """Create the label series of a cluster whose nodes gpuid labels, or remove them otherwise."""
        if metrics := self._clusters.get(cluster):
            if keep:
                metrics.label_writes.labels(cluster)
                for reason in LabelFailure:
                    metrics.label_failures.labels(cluster, reason)
            else:
                metrics.label_writes.clear()
                metrics.label_failures.clear()

    def health_change_dropped(self, cluster: str) -> None:
        """Count a change of a GPU's health that is not recorded."""
        if metrics := self._clusters.get(cluster):
            metrics.health_dropped.labels(cluster).inc()

    def labels_written(self, cluster: str) -> None:
        """Count a write of a node's labels."""
        if metrics := self._clusters.get(cluster):
            metrics.label_writes.labels(cluster).inc()

    def label_failed(self, cluster: str, reason: LabelFailure) -> None:
        """Count a failed write of a node's labels, or a change to them by another client."""
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
        """Create the store's series, whose values are read at each scrape."""
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
        """Create the configuration's series, whose values are read at each scrape."""
        _gauge("gpuid_config_last_reload_successful", self.registry).set_function(successful)
        _gauge("gpuid_config_last_reload_success_timestamp_seconds", self.registry).set_function(loaded)
        _gauge("gpuid_config_restart_required", self.registry).set_function(restart_required)

    def scraped(self, encoding: str, length: int, seconds: float) -> None:
        """Count a scrape: the bytes of its response as sent, and the seconds taken to prepare it."""
        self._scrape_bytes.labels(encoding).observe(length)
        self._scrape_duration.observe(seconds)

    def exposition_age(self, seconds: float) -> None:
        """Set the age of the oldest change not yet in the text."""
        self._exposition_age.set(seconds)

    def clusters(self) -> list[str]:
        """Return the clusters that have series."""
        return list(self._clusters)

    def look_at(self, cluster: str) -> None:
        """Collect what may have changed in the series of a cluster; on the event loop, which changes them."""
        if metrics := self._clusters.get(cluster):
            metrics.text.look()

    def text(self, *, clusters: Collection[str] | None, with_process: bool, openmetrics: bool) -> DeflatedText:
        """Return the end of an answer, in any thread: some clusters' series (None: all) as `look_at` found them.

        `with_process` adds those of no cluster.
        """
        names = list(self._clusters) if clusters is None else clusters
        chosen = {name: metrics.text for name in names if (metrics := self._clusters.get(name))}
        with self._writing:
            text = self._text_kept(clusters, chosen, openmetrics=openmetrics).text(list(chosen.values()))
        rest = self._process_text.text(openmetrics=openmetrics) if with_process else b""
        return DeflatedText.concat([text, compressed(rest + END if openmetrics else rest)])

    def _text_kept(self, clusters: Collection[str] | None, chosen: Collection[str], *, openmetrics: bool) -> JoinedText:
        """Return what keeps the text of all clusters, or of one; that of any others is not kept."""
        if clusters is None or len(chosen) == 1:
            key = None if clusters is None else next(iter(chosen)), openmetrics
            if key not in self._joined:
                self._joined[key] = JoinedText(openmetrics=openmetrics)
            return self._joined[key]
        return JoinedText(openmetrics=openmetrics)


class _CallbackCounter(Collector):
    """A counter whose value a callback returns."""

    def __init__(self, name: str, value: Callable[[], int]) -> None:
        self._name, self._value = name, value

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(self._name, FAMILY[self._name].help, value=self._value())


class _UnownedClusters(Collector):
    """One series for each cluster that no shard reads."""

    def __init__(self, cluster_label: str, unowned: Callable[[], Iterable[str]]) -> None:
        self._cluster_label, self._unowned = cluster_label, unowned

    def collect(self) -> Iterable[Metric]:
        name = "gpuid_cluster_unowned"
        family = GaugeMetricFamily(name, FAMILY[name].help, labels=[self._cluster_label])
        for cluster in self._unowned():
            family.add_metric([cluster], 1)
        yield family


def _gauge(name: str, registry: CollectorRegistry) -> Gauge:
    return Gauge(name, FAMILY[name].help, FAMILY[name].labels, registry=registry)


def _histogram(name: str, registry: CollectorRegistry, *, buckets: tuple[float, ...]) -> Histogram:
    return Histogram(name, FAMILY[name].help, FAMILY[name].labels, registry=registry, buckets=buckets)
