"""What each call publishes about gpuid's own work, literally, and that a cluster that is not known has no series."""

from collections.abc import Callable
from typing import Any

import pytest

from collector import __version__
from collector.exposition import Metrics
from collector.exposition.gpu_counts import GpuState
from collector.model import UNREAD_REASONS, ClusterState, LabelFailure, ReadFailure, WatchRestart
from collector.sharding import Shard
from collector.tls import Validity
from tests.support.own_text import own_text

ENDLESS = Validity(float("-inf"), 30.0)


def samples(metrics: Metrics, name: str) -> list[str]:
    """The samples of the families whose names begin like this, without `gpuid_` and in order."""
    lines = own_text(metrics, clusters=None).splitlines()
    return sorted(line.removeprefix("gpuid_") for line in lines if line.startswith(f"gpuid_{name}"))


@pytest.fixture
def metrics() -> Metrics:
    """Those of a collector of one cluster."""
    metrics = Metrics()
    metrics.add_cluster("a")
    return metrics


CALLS: list[tuple[Callable[[Any], object], str, list[str]]] = [
    (lambda m: m.synced("a", 5.0), "cluster_synced", ['cluster_synced_timestamp_seconds{cluster="a"} 5.0']),
    (
        lambda m: [m.source_pods("a", pods) for pods in ({"old": 1}, {"x": 2, "y": 3})],
        "source_pods",
        ['source_pods{cluster="a",source="x"} 2.0', 'source_pods{cluster="a",source="y"} 3.0'],
    ),
    (lambda m: m.slices("a", False), "resource_slices", ['resource_slices_watched{cluster="a"} 0.0']),
    (lambda m: [m.slices("a", watched) for watched in (True, None)], "resource_slices", []),
    (
        lambda m: m.credential_expiry("a", Validity(10.0, 30.0)),
        "credential_",
        ['credential_expiry_timestamp_seconds{cluster="a"} 30.0', 'credential_lifetime_seconds{cluster="a"} 20.0'],
    ),
    (
        lambda m: [m.credential_expiry("a", found) for found in (Validity(1.0, 2.0), ENDLESS)],
        "credential_",
        ['credential_expiry_timestamp_seconds{cluster="a"} 30.0'],
    ),
    (lambda m: [m.credential_expiry("a", found) for found in (ENDLESS, None, None)], "credential_", []),
    (
        lambda m: m.sink_credential_expiry("lake", Validity(10.0, 30.0)),
        "sink_credential_",
        [
            'sink_credential_expiry_timestamp_seconds{sink="lake"} 30.0',
            'sink_credential_lifetime_seconds{sink="lake"} 20.0',
        ],
    ),
    (
        lambda m: [m.server_certificate(found) for found in (Validity(1.0, 2.0), Validity(10.0, 30.0), None)],
        "server_certificate",
        ["server_certificate_expiry_timestamp_seconds 30.0", "server_certificate_lifetime_seconds 20.0"],
    ),
    (lambda m: m.server_certificate(None), "server_certificate", []),
    (lambda m: [m.moved("a"), m.moved("a")], "gpu_moves", ['gpu_moves_total{cluster="a"} 2.0']),
    (
        lambda m: m.health_change_dropped("a"),
        "gpu_health_changes_dropped",
        ['gpu_health_changes_dropped_total{cluster="a"} 1.0'],
    ),
    (
        lambda m: [m.read_succeeded("a", seconds) for seconds in (0.3, 40.0)],
        "read_",
        [
            'read_duration_seconds_bucket{cluster="a",le="+Inf"} 2.0',
            'read_duration_seconds_bucket{cluster="a",le="0.05"} 0.0',
            'read_duration_seconds_bucket{cluster="a",le="0.1"} 0.0',
            'read_duration_seconds_bucket{cluster="a",le="0.25"} 0.0',
            'read_duration_seconds_bucket{cluster="a",le="0.5"} 1.0',
            'read_duration_seconds_bucket{cluster="a",le="1.0"} 1.0',
            'read_duration_seconds_bucket{cluster="a",le="10.0"} 1.0',
            'read_duration_seconds_bucket{cluster="a",le="2.5"} 1.0',
            'read_duration_seconds_bucket{cluster="a",le="20.0"} 1.0',
            'read_duration_seconds_bucket{cluster="a",le="30.0"} 1.0',
            'read_duration_seconds_bucket{cluster="a",le="5.0"} 1.0',
            'read_duration_seconds_count{cluster="a"} 2.0',
            'read_duration_seconds_sum{cluster="a"} 40.3',
            *sorted(f'read_failing_nodes{{cluster="a",reason="{reason}"}} 0.0' for reason in ReadFailure),
            *sorted(f'read_failure_total{{cluster="a",reason="{reason}"}} 0.0' for reason in ReadFailure),
            'read_success_total{cluster="a"} 2.0',
        ],
    ),
    (
        lambda m: m.read_failed("a", ReadFailure.TIMEOUT),
        "read_failure_total",
        sorted(
            f'read_failure_total{{cluster="a",reason="{reason}"}} {float(reason is ReadFailure.TIMEOUT)}'
            for reason in ReadFailure
        ),
    ),
    (
        lambda m: m.watch_restarted("a", "pods", WatchRestart.SILENT),
        "watch_restarts",
        ['watch_restarts_total{cluster="a",reason="silent",resource="pods"} 1.0'],
    ),
    (
        lambda m: m.keep_label_series("a", keep=True),
        "node_label_",
        [
            *sorted(f'node_label_failures_total{{cluster="a",reason="{reason}"}} 0.0' for reason in LabelFailure),
            'node_label_writes_total{cluster="a"} 0.0',
        ],
    ),
    (lambda m: [m.keep_label_series("a", keep=keep) for keep in (True, False)], "node_label_", []),
    (
        lambda m: [m.labels_written("a"), m.label_failed("a", LabelFailure.CONFLICT)],
        "node_label_",
        ['node_label_failures_total{cluster="a",reason="conflict"} 1.0', 'node_label_writes_total{cluster="a"} 1.0'],
    ),
    (
        lambda m: [m.exported("lake", {"a": 3}), m.export_failed("lake", {"a": 2}, "timeout")],
        "export_",
        [
            'export_failure_total{cluster="a",reason="timeout",sink="lake"} 2.0',
            'export_success_total{cluster="a",sink="lake"} 3.0',
        ],
    ),
    (
        lambda m: m.backlog("lake", 0, None, 0),
        "export_",
        [
            'export_backlog_records{sink="lake"} 0.0',
            'export_dead_letters{sink="lake"} 0.0',
            'export_oldest_timestamp_seconds{sink="lake"} 0.0',
        ],
    ),
    (
        lambda m: m.register_shard(Shard(1, 3), lambda: ["b", "c"]),
        "cluster_unowned",
        ['cluster_unowned{cluster="b"} 1.0', 'cluster_unowned{cluster="c"} 1.0'],
    ),
    (lambda m: m.register_shard(Shard(1, 3), list), "shard_", ["shard_ordinal 1.0"]),
    (lambda m: m.register_shard(Shard(1, 3), list), "total_", ["total_shards 3.0"]),
    (
        lambda m: m.register_config(successful=lambda: False, loaded=lambda: 9.0, restart_required=lambda: True),
        "config_",
        [
            "config_last_reload_success_timestamp_seconds 9.0",
            "config_last_reload_successful 0.0",
            "config_restart_required 1.0",
        ],
    ),
    (
        lambda m: m.register_store(
            up=lambda: True,
            pending=lambda: 7,
            lost=lambda: 3,
            leader=lambda: False,
            has_leader=lambda: True,
            set_aside=lambda: 2,
        ),
        "store_",
        [
            "store_damaged_files 2.0",
            "store_has_leader 1.0",
            "store_leader 0.0",
            "store_lost_records_total 3.0",
            "store_pending_records 7.0",
            "store_up 1.0",
        ],
    ),
    (lambda m: m.exposition_age(1.5), "exposition_age", ["exposition_age_seconds 1.5"]),
    (
        lambda m: m.scraped("gzip", 2000, 0.02),
        "scrape_",
        [
            'scrape_body_bytes_bucket{encoding="gzip",le="+Inf"} 1.0',
            'scrape_body_bytes_bucket{encoding="gzip",le="1.6e+07"} 1.0',
            'scrape_body_bytes_bucket{encoding="gzip",le="10000.0"} 1.0',
            'scrape_body_bytes_bucket{encoding="gzip",le="100000.0"} 1.0',
            'scrape_body_bytes_bucket{encoding="gzip",le="1e+06"} 1.0',
            'scrape_body_bytes_bucket{encoding="gzip",le="2.56e+08"} 1.0',
            'scrape_body_bytes_bucket{encoding="gzip",le="3.3554432e+07"} 1.0',
            'scrape_body_bytes_bucket{encoding="gzip",le="4e+06"} 1.0',
            'scrape_body_bytes_bucket{encoding="gzip",le="6.4e+07"} 1.0',
            'scrape_body_bytes_count{encoding="gzip"} 1.0',
            'scrape_body_bytes_sum{encoding="gzip"} 2000.0',
            'scrape_duration_seconds_bucket{le="+Inf"} 1.0',
            'scrape_duration_seconds_bucket{le="0.001"} 0.0',
            'scrape_duration_seconds_bucket{le="0.01"} 0.0',
            'scrape_duration_seconds_bucket{le="0.05"} 1.0',
            'scrape_duration_seconds_bucket{le="0.1"} 1.0',
            'scrape_duration_seconds_bucket{le="0.5"} 1.0',
            'scrape_duration_seconds_bucket{le="1.0"} 1.0',
            'scrape_duration_seconds_bucket{le="5.0"} 1.0',
            "scrape_duration_seconds_count 1.0",
            "scrape_duration_seconds_sum 0.02",
        ],
    ),
]


@pytest.mark.parametrize(
    ("call", "name", "expected"), CALLS, ids=[f"{name} {at}" for at, (_, name, _) in enumerate(CALLS)]
)
def test_a_call_publishes(call: Callable[[Any], object], name: str, expected: list[str], metrics: Metrics) -> None:
    call(metrics)
    assert samples(metrics, name) == expected


CLUSTER_CALLS: list[Callable[[Any], object]] = [
    lambda m: m.cluster_state("b", ClusterState.UP),
    lambda m: m.synced("b", 1.0),
    lambda m: m.source_pods("b", {"x": 1}),
    lambda m: m.slices("b", True),
    lambda m: m.credential_expiry("b", Validity(1.0, 2.0)),
    lambda m: m.moved("b"),
    lambda m: m.read_succeeded("b", 1.0),
    lambda m: m.read_failed("b", ReadFailure.TIMEOUT),
    lambda m: m.watch_restarted("b", "pods", WatchRestart.SILENT),
    lambda m: m.keep_label_series("b", keep=True),
    lambda m: m.health_change_dropped("b"),
    lambda m: m.labels_written("b"),
    lambda m: m.label_failed("b", LabelFailure.CONFLICT),
    lambda m: m.exported("lake", {"b": 1}),
    lambda m: m.export_failed("lake", {"b": 1}, "timeout"),
    lambda m: m.look_at("b"),
    lambda m: m.remove_cluster("b"),
]


@pytest.mark.parametrize("call", CLUSTER_CALLS)
def test_a_call_about_an_unknown_cluster_is_ignored(call: Callable[[Any], object], metrics: Metrics) -> None:
    before = own_text(metrics, clusters=None, with_process=False)
    call(metrics)
    assert metrics.clusters() == ["a"]
    assert own_text(metrics, clusters=None, with_process=False) == before


def test_a_new_cluster_has_the_series_that_rates_need(metrics: Metrics) -> None:
    lines = own_text(metrics, clusters=["a"], with_process=False).splitlines()
    found = [line for line in lines if not line.startswith("#")]
    assert all(line.endswith(" 0.0") for line in found)
    assert {line.partition("{")[0].removeprefix("gpuid_") for line in found} == {
        "cluster_resemblances",
        "cluster_up",
        "gpu_claims",
        "gpu_conflicts",
        "gpu_moves_total",
        "gpu_nodes",
        "read_duration_seconds_bucket",
        "read_duration_seconds_count",
        "read_duration_seconds_sum",
        "read_failing_nodes",
        "read_failure_total",
        "read_success_total",
        "unread_nodes",
    }


def test_what_a_cluster_has_is_asked_at_each_look() -> None:
    metrics, reasons = Metrics(), list(UNREAD_REASONS)
    metrics.add_cluster(
        "a",
        conflicts=lambda: 1,
        claims=lambda: 2,
        failing=lambda reason: int(reason is ReadFailure.TIMEOUT),
        unread=reasons.index,
        nodes=lambda: 4,
        resemblances=lambda: 5,
    )
    metrics.count_gpus(lambda cluster, *, up: {(f"{cluster} {up}", GpuState.HEALTHY): 6})
    assert samples(metrics, "gpu") == [
        'gpu_claims{cluster="a"} 2.0',
        'gpu_conflicts{cluster="a"} 1.0',
        'gpu_moves_total{cluster="a"} 0.0',
        'gpu_nodes{cluster="a"} 4.0',
        'gpus{cluster="a",model="a False",state="healthy"} 6',
    ]
    assert samples(metrics, "cluster_resemblances") == ['cluster_resemblances{cluster="a"} 5.0']
    assert 'read_failing_nodes{cluster="a",reason="timeout"} 1.0' in samples(metrics, "read_failing_nodes")
    assert sorted(line.rpartition(" ")[2] for line in samples(metrics, "unread_nodes")) == sorted(
        str(float(number)) for number in range(len(reasons))
    )
    metrics.cluster_state("a", ClusterState.UP)
    assert samples(metrics, "gpus") == ['gpus{cluster="a",model="a True",state="healthy"} 6']


def test_a_cluster_that_is_removed_leaves_nothing(metrics: Metrics) -> None:
    own_text(metrics, clusters=["a"], with_process=False, openmetrics=True)
    own_text(metrics, clusters=["a"], with_process=False)
    metrics.remove_cluster("a")
    metrics.synced("a", 5.0)
    assert own_text(metrics, clusters=["a"], with_process=False) == ""
    assert metrics.clusters() == []
    assert not metrics._joined


def test_the_text_of_all_clusters_and_of_each_is_kept(metrics: Metrics) -> None:
    metrics.add_cluster("b")
    for clusters in (None, ["b"], ["a", "b"], []):
        own_text(metrics, clusters=clusters, with_process=False)
    assert list(metrics._joined) == [(None, False), ("b", False)]


def test_a_duplicate_keeps_nothing_that_is_true_only_of_a_watched_cluster(metrics: Metrics) -> None:
    before = own_text(metrics, clusters=["a"], with_process=False)
    metrics.synced("a", 5.0)
    metrics.source_pods("a", {"x": 1})
    metrics.slices("a", True)
    metrics.credential_expiry("a", Validity(10.0, 30.0))
    metrics.cluster_state("a", ClusterState.DUPLICATE)
    assert samples(metrics, "cluster_state") == ['cluster_state{cluster="a",state="duplicate"} 1.0']
    after = own_text(metrics, clusters=["a"], with_process=False)
    assert [line for line in after.splitlines() if "gpuid_cluster_state" not in line] == before.splitlines()


def test_the_process_and_its_interpreter_have_series(metrics: Metrics) -> None:
    text = own_text(metrics)
    for name in ("process_cpu_seconds_total", "python_info", "python_gc_collections_total"):
        assert f"# TYPE {name} " in text
    assert samples(metrics, "build_info") == [f'build_info{{version="{__version__}"}} 1.0']
