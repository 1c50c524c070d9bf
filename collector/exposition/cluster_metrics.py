"""The series about gpuid's own work in one cluster."""

import contextlib
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from collector.exposition.families import FAMILIES, Family
from collector.exposition.gpu_counts import Counts
from collector.exposition.own_text import (
    Callbacks,
    ClusterOwnText,
    GpuLines,
    NotedCounter,
    NotedGauge,
    NotedHistogram,
    Source,
)
from collector.model import UNREAD_REASONS, ClusterState, ReadFailure, UnreadReason
from collector.tls import Validity

__all__ = ["FAMILY", "ClusterMetrics", "label_names_of", "set_expiry"]

FAMILY = {family.name: family for family in FAMILIES}

_READ_SECONDS_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30)

_Metric = TypeVar("_Metric", NotedCounter, NotedGauge, NotedHistogram)


class ClusterMetrics:
    """The metrics of one cluster, and their text."""

    def __init__(
        self,
        cluster: str,
        label: str,
        *,
        count_gpus: Callable[[bool], Counts],
        conflicts: Callable[[], int],
        claims: Callable[[], int],
        failing: Callable[[ReadFailure], int],
        unread: Callable[[UnreadReason], int],
        nodes: Callable[[], int],
        resemblances: Callable[[], int],
    ) -> None:
        self._cluster, self._label = cluster, label
        self._sources: dict[str, Source] = {}
        self.last_state: ClusterState | None = None
        self._sources["gpuid_gpus"] = GpuLines(cluster, label, lambda: count_gpus(self.last_state is ClusterState.UP))
        self.up = self._noted(NotedGauge, "gpuid_cluster_up")
        self.state = self._noted(NotedGauge, "gpuid_cluster_state")
        self.synced = self._noted(NotedGauge, "gpuid_cluster_synced_timestamp_seconds")
        self.credential_expiry = self._noted(NotedGauge, "gpuid_credential_expiry_timestamp_seconds")
        self.credential_lifetime = self._noted(NotedGauge, "gpuid_credential_lifetime_seconds")
        self.moves = self._noted(NotedCounter, "gpuid_gpu_moves_total")
        self.health_dropped = self._noted(NotedCounter, "gpuid_gpu_health_changes_dropped_total")
        self.read_success = self._noted(NotedCounter, "gpuid_read_success_total")
        self.read_failure = self._noted(NotedCounter, "gpuid_read_failure_total")
        self._called("gpuid_read_failing_nodes", {one: functools.partial(failing, one) for one in ReadFailure})
        self._called("gpuid_gpu_nodes", {None: nodes})
        self._called("gpuid_unread_nodes", {one: functools.partial(unread, one) for one in UNREAD_REASONS})
        self.source_pods = self._noted(NotedGauge, "gpuid_source_pods")
        self.slices = self._noted(NotedGauge, "gpuid_resource_slices_watched")
        self.read_duration = self._noted(NotedHistogram, "gpuid_read_duration_seconds", buckets=_READ_SECONDS_BUCKETS)
        self.watch_restarts = self._noted(NotedCounter, "gpuid_watch_restarts_total")
        self.label_writes = self._noted(NotedCounter, "gpuid_node_label_writes_total")
        self.label_failures = self._noted(NotedCounter, "gpuid_node_label_failures_total")
        self.export_success = self._noted(NotedCounter, "gpuid_export_success_total")
        self.export_failure = self._noted(NotedCounter, "gpuid_export_failure_total")
        self._called("gpuid_cluster_resemblances", {None: resemblances})
        self._called("gpuid_gpu_conflicts", {None: conflicts})
        self._called("gpuid_gpu_claims", {None: claims})
        for metric in (self.up, self.moves, self.read_success, self.read_duration):
            metric.labels(cluster)
        for reason in ReadFailure:
            self.read_failure.labels(cluster, reason)
        self.text = ClusterOwnText({FAMILY[name]: source for name, source in self._sources.items()})

    def _noted(self, kind: type[_Metric], name: str, **options: Any) -> _Metric:
        metric = kind(name, FAMILY[name].help, label_names_of(FAMILY[name], self._label), registry=None, **options)
        self._sources[name] = metric
        return metric

    def _called(self, name: str, values: Mapping[Any, Callable[[], int]]) -> None:
        """Create a gauge whose values are called for, by the value of its second label, if any."""
        by_labels: dict[tuple[str, ...], Callable[[], int]] = {
            (self._cluster,) if value is None else (self._cluster, str(value)): call for value, call in values.items()
        }
        self._sources[name] = Callbacks(FAMILY[name], label_names_of(FAMILY[name], self._label), by_labels)


def label_names_of(family: Family, cluster_label: str) -> list[str]:
    """Return the names of a family's labels as they are published."""
    return [cluster_label if label == "cluster" else label for label in family.labels]


def set_expiry(expiry: Any, lifetime: Any, labels: tuple[str, ...], found: Validity | None) -> None:
    """Set the gauges of when something expires, and of its total lifetime if its start is known."""
    for gauge, value in (
        (expiry, found.ends if found else None),
        (lifetime, found.ends - found.begins if found and math.isfinite(found.begins) else None),
    ):
        if value is not None:
            gauge.labels(*labels).set(value)
        else:
            with contextlib.suppress(KeyError):
                gauge.remove(*labels)
