"""The text about gpuid itself is kept; a scraper must not be able to tell."""

import functools
import random
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from collector.exposition import Metrics, own_text
from collector.exposition.cluster_metrics import FAMILY
from collector.exposition.gpu_counts import Counts, GpuState
from collector.exposition.own_text import (
    Callbacks,
    ClusterOwnText,
    GpuLines,
    JoinedText,
    NotedGauge,
    ProcessText,
)
from collector.exposition.shards import compressed, inflated
from collector.model import ClusterState, LabelFailure, ReadFailure, WatchRestart
from collector.tls import Validity
from tests.support.own_text import own_text as scraped

CLUSTERS = ("a", "b", "c")


class Fleet:
    """Metrics of three clusters, and everything that can happen to them."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.called = dict.fromkeys(CLUSTERS, 0)  # what callbacks return
        for cluster in CLUSTERS:
            self.add(cluster)
        self.metrics.count_gpus(lambda cluster, *, up: {("H100", GpuState.HEALTHY): self.called[cluster] + up})

    def add(self, cluster: str) -> None:
        def value(*_reason: object) -> int:
            return self.called[cluster]

        self.metrics.add_cluster(
            cluster,
            conflicts=value,
            claims=value,
            failing=value,
            unread=value,
            nodes=value,
            resemblances=value,
        )

    def changes(self, seed: random.Random) -> list[Callable[[str], object]]:
        metrics, value = self.metrics, float(seed.randrange(1, 1_000_000))
        return [
            lambda cluster: metrics.cluster_state(cluster, seed.choice(list(ClusterState))),
            lambda cluster: metrics.synced(cluster, value),
            lambda cluster: metrics.source_pods(cluster, {seed.choice("xyz"): int(value)}),
            lambda cluster: metrics.slices(cluster, seed.choice((None, True, False))),
            lambda cluster: metrics.credential_expiry(cluster, seed.choice((None, Validity(value, value + 9)))),
            metrics.moved,
            lambda cluster: metrics.read_succeeded(cluster, value / 100_000),
            lambda cluster: metrics.read_failed(cluster, seed.choice(list(ReadFailure))),
            lambda cluster: metrics.watch_restarted(cluster, "pods", seed.choice(list(WatchRestart))),
            lambda cluster: metrics.keep_label_series(cluster, keep=seed.random() < 0.5),
            metrics.labels_written,
            lambda cluster: metrics.label_failed(cluster, seed.choice(list(LabelFailure))),
            lambda cluster: metrics.exported("sink", {cluster: int(value)}),
            lambda cluster: metrics.export_failed("sink", {cluster: int(value)}, "refused"),
            lambda cluster: self.called.update({cluster: int(value)}),
            metrics.remove_cluster,
            self.add,
        ]


@pytest.mark.parametrize("seed", range(10))
def test_what_was_scraped_before_makes_no_difference(seed: int) -> None:
    scraped_often, scraped_once = Fleet(), Fleet()
    for fleet in (scraped_often, scraped_once):
        chance = random.Random(seed)
        for _ in range(15):
            chance.choice(fleet.changes(chance))(chance.choice(CLUSTERS))
            if fleet is scraped_often:
                texts(fleet)
    assert texts(scraped_often) == texts(scraped_once)


def texts(fleet: Fleet) -> list[str]:
    chosen = (None, *((cluster,) for cluster in CLUSTERS), CLUSTERS[:2])
    return [
        scraped(fleet.metrics, clusters=clusters, with_process=False, openmetrics=openmetrics)
        for clusters in chosen
        for openmetrics in (False, True)
    ]


@pytest.mark.parametrize(("openmetrics", "parse"), [(False, text_string_to_metric_families), (True, parse_openmetrics)])
def test_both_formats_are_read_back_with_the_process_s_own_series(openmetrics: bool, parse: Any) -> None:
    fleet = Fleet()
    for backlog in (1, 2):
        fleet.metrics.backlog("sink", backlog, 5.0, 0)
        families = list(parse(scraped(fleet.metrics, clusters=None, openmetrics=openmetrics)))
        values = {sample.name: sample.value for family in families for sample in family.samples}
        assert values["gpuid_export_backlog_records"] == backlog
        assert len(families) == len({family.name for family in families})


def test_only_the_families_that_changed_are_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def write(metric: Metric) -> bytes:
        written.append(metric.name)
        return b""

    monkeypatch.setattr(own_text, "_lines", write)
    fleet = Fleet()
    scraped(fleet.metrics, clusters=None, with_process=False)
    written.clear()
    fleet.metrics.synced("b", 5.0)
    scraped(fleet.metrics, clusters=None, with_process=False)
    scraped(fleet.metrics, clusters=["b"], with_process=False)
    assert written == ["gpuid_cluster_synced_timestamp_seconds"]


def test_each_way_to_change_a_metric_is_noted_once() -> None:
    gauge = NotedGauge("metric", "A metric.", ["label"], registry=None)
    assert gauge.changed() is not None
    for change in (lambda: gauge.labels("a").set(1), lambda: gauge.remove("a"), gauge.clear):
        change()
        assert gauge.changed() is not None
        assert gauge.changed() is None


def test_a_gauge_whose_values_are_called_for_has_changed_only_if_one_differs() -> None:
    values: dict[tuple[str, ...], int] = {("prod", "a"): 1, ("prod", "b"): 2}
    called = {labels: functools.partial(values.__getitem__, labels) for labels in values}
    gauge = Callbacks(FAMILY["gpuid_unread_nodes"], ["cluster", "reason"], called)
    for value in (2, 3):
        values["prod", "b"] = value
        metric = gauge.changed()
        assert metric is not None
        assert [(tuple(one.labels.values()), one.value) for one in metric.samples] == list(values.items())
        assert gauge.changed() is None


def test_the_counts_of_gpus_have_changed_only_if_one_differs() -> None:
    counts: Counts = {("H100", GpuState.HEALTHY): 1}
    lines = GpuLines("prod", "cluster", lambda: counts)
    assert lines.changed() == b'gpuid_gpus{cluster="prod",model="H100",state="healthy"} 1\n'
    assert lines.changed() is None
    counts = {}
    assert lines.changed() == b""


@pytest.mark.parametrize("openmetrics", [False, True])
def test_only_families_with_samples_in_any_of_the_clusters_have_a_header(openmetrics: bool) -> None:
    up, moves = FAMILY["gpuid_cluster_up"], FAMILY["gpuid_gpu_moves_total"]
    clusters = [
        ClusterOwnText({up: Callbacks(up, ["cluster"], {}), moves: Lines(line)}) for line in (b"", b"moved 1\n")
    ]
    joined = JoinedText(openmetrics=openmetrics)
    assert joined.text(clusters) == compressed(b"")
    for cluster in clusters:
        cluster.look()
    lines = b"".join(inflated(joined.text(clusters))).splitlines()
    assert [line.split()[:2] for line in lines] == [[b"#", b"HELP"], [b"#", b"TYPE"], [b"moved", b"1"]]


class Lines:
    """A family whose lines never change."""

    def __init__(self, lines: bytes) -> None:
        self._lines = lines

    def changed(self) -> bytes:
        return self._lines


def test_only_the_process_s_families_that_changed_are_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    write = own_text._written

    def count(metric: Metric, *, openmetrics: bool) -> bytes:
        written.append(metric.name)
        return write(metric, openmetrics=openmetrics)

    monkeypatch.setattr(own_text, "_written", count)
    registry = CollectorRegistry()
    _, second = Gauge("first", "One.", registry=registry), Gauge("second", "Another.", registry=registry)
    process = ProcessText(registry)
    process.text(openmetrics=False)
    assert written == ["first", "second"]
    second.set(2)
    assert process.text(openmetrics=False).endswith(
        b"first 0.0\n# HELP second Another.\n# TYPE second gauge\nsecond 2.0\n"
    )
    assert written == ["first", "second", "second"]
