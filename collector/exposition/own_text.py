"""Keeps the text about gpuid itself ready: prometheus-client writes a family again only after it may have changed.

Nothing may change a family of a cluster while `ClusterOwnText.look` collects it, so both are done by the event loop;
writing and compressing are done in threads.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import Any, Protocol

from prometheus_client import Counter, Gauge, Histogram, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from collector.exposition.families import Family, gpu_lines, header
from collector.exposition.gpu_counts import Counts
from collector.exposition.shards import DeflatedText, compressed

__all__ = [
    "END",
    "Callbacks",
    "ClusterOwnText",
    "GpuLines",
    "JoinedText",
    "NotedCounter",
    "NotedGauge",
    "NotedHistogram",
    "ProcessText",
]

END = b"# EOF\n"  # of an answer in OpenMetrics

_NOTHING = compressed(b"")
_revisions = count(1)  # of the lines of all clusters


class Source(Protocol):
    """One family of a cluster."""

    def changed(self) -> Metric | bytes | None:
        """Return the family, or its lines, if it may have changed since the last call."""


class _Noted(Collector):
    """A metric with labels that notes when it may have changed: every change begins with one of these calls."""

    _changed = True

    def labels(self, *values: object, **named: object) -> Any:
        self._changed = True
        return super().labels(*values, **named)  # type: ignore[misc]

    def remove(self, *values: object) -> None:
        self._changed = True
        super().remove(*values)  # type: ignore[misc]

    def clear(self) -> None:
        self._changed = True
        super().clear()  # type: ignore[misc]

    def changed(self) -> Metric | None:
        if not self._changed:
            return None
        self._changed = False
        (metric,) = self.collect()
        return metric


class NotedCounter(_Noted, Counter):
    """A counter that notes changes."""


class NotedGauge(_Noted, Gauge):
    """A gauge that notes changes."""


class NotedHistogram(_Noted, Histogram):
    """A histogram that notes changes."""


class Callbacks:
    """A gauge whose values are called for."""

    def __init__(
        self, family: Family, labels: Sequence[str], values: Mapping[tuple[str, ...], Callable[[], int]]
    ) -> None:
        self._family, self._labels = family, labels
        self._values = values  # by the values of the labels
        self._last: list[int] = []

    def changed(self) -> Metric | None:
        """Return the family if a value differs."""
        if (now := [value() for value in self._values.values()]) == self._last:
            return None
        self._last = now
        metric = GaugeMetricFamily(self._family.name, self._family.help, labels=self._labels)
        for labels, value in zip(self._values, now, strict=True):
            metric.add_metric(labels, value)
        return metric


class GpuLines:
    """The counts of a cluster's GPUs."""

    def __init__(self, cluster: str, cluster_label: str, counts: Callable[[], Counts]) -> None:
        self._cluster, self._cluster_label = cluster, cluster_label
        self._counts = counts
        self._last: Counts = {}

    def changed(self) -> bytes | None:
        """Return the lines if a count differs."""
        if (now := self._counts()) == self._last:
            return None
        self._last = now
        return gpu_lines(self._cluster, now, self._cluster_label)


class ClusterOwnText:
    """The lines of one cluster's families."""

    def __init__(self, sources: Mapping[Family, Source]) -> None:
        self.families = tuple(sources)
        self._sources = tuple(sources.values())
        self._waiting: dict[int, Metric | bytes] = {}  # families to write, by index
        self.lines = [b""] * len(sources)
        self.revision = next(_revisions)  # of the lines, over all clusters

    def look(self) -> None:
        """Collect the families that may have changed."""
        for index, source in enumerate(self._sources):
            if (found := source.changed()) is not None:
                self._waiting[index] = found

    def write(self) -> None:
        """Bring the lines up to what was last collected."""
        while self._waiting:
            index, found = self._waiting.popitem()
            lines = found if isinstance(found, bytes) else _lines(found)
            if lines != self.lines[index]:
                self.lines[index] = lines
                self.revision = next(_revisions)


class JoinedText:
    """The compressed text of some clusters in one format; only families that have changed are compressed again."""

    def __init__(self, *, openmetrics: bool) -> None:
        self._openmetrics = openmetrics
        self._revisions: list[int] = []
        self._texts: dict[Family, tuple[tuple[bytes, ...], DeflatedText]] = {}  # with the lines of each cluster
        self._joined = DeflatedText.concat(())

    def text(self, clusters: Sequence[ClusterOwnText]) -> DeflatedText:
        """Return the families of these clusters that have samples."""
        for cluster in clusters:
            cluster.write()
        if self._revisions == (revisions := [cluster.revision for cluster in clusters]):
            return self._joined
        texts = {}
        for index, family in enumerate(clusters[0].families if clusters else ()):
            if not any(lines := tuple(cluster.lines[index] for cluster in clusters)):
                continue
            before, text = self._texts.get(family, ((), _NOTHING))
            if lines != before:
                text = compressed(header(family, openmetrics=self._openmetrics) + b"".join(lines))
            texts[family] = lines, text
        self._revisions, self._texts = revisions, texts
        self._joined = DeflatedText.concat([text for _, text in texts.values()])
        return self._joined


class ProcessText:
    """The text of the series that belong to no cluster; a family is written again only if its samples differ."""

    def __init__(self, registry: Collector) -> None:
        self._registry = registry
        self._families: dict[tuple[str, bool], tuple[Metric, bytes]] = {}  # by name and format
        self._lock = threading.Lock()

    def text(self, *, openmetrics: bool) -> bytes:
        """Return the families that have samples."""
        with self._lock:
            return b"".join(
                self._written(metric, openmetrics=openmetrics) for metric in self._registry.collect() if metric.samples
            )

    def _written(self, metric: Metric, *, openmetrics: bool) -> bytes:
        key = metric.name, openmetrics
        last, text = self._families.get(key, (None, b""))
        if metric != last:
            text = _written(metric, openmetrics=openmetrics)
            self._families[key] = metric, text
        return text


class _Only(Collector):
    """A registry of one family."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


def _written(metric: Metric, *, openmetrics: bool) -> bytes:
    if openmetrics:
        text: bytes = generate_openmetrics(_Only(metric))  # type: ignore[no-untyped-call]
        return text.removesuffix(END)
    return generate_latest(_Only(metric))


def _lines(metric: Metric) -> bytes:
    """Return the samples of a family, which are written alike in both formats: none has an exemplar or a time."""
    return generate_latest(_Only(metric)).split(b"\n", 2)[2]  # without # HELP and # TYPE
