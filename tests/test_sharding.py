"""Which shard reads which cluster."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.sharding import MAX_SHARDS, UNSHARDED, Shard, pod_ordinal, shard_of

names = st.text()
totals = st.integers(1, 40)


@given(name=names, total=totals)
def test_exactly_one_shard_reads_a_cluster(name, total):
    assert [index for index in range(total) if Shard(index, total).reads(name)] == [shard_of(name, total)]


@given(name=names, total=totals)
def test_an_added_shard_only_takes_clusters_for_itself(name, total):
    before, after = shard_of(name, total), shard_of(name, total + 1)
    assert after in (before, total)


@given(name=names, fewer=totals, more=totals)
def test_clusters_never_move_between_remaining_shards(name, fewer, more):
    fewer, more = sorted((fewer, more))
    if shard_of(name, more) < fewer:
        assert shard_of(name, fewer) == shard_of(name, more)


@pytest.mark.parametrize("total", [2, 3, 10, 30])
def test_clusters_are_spread_evenly_and_few_move(total):
    clusters = [f"prod-eu-west-{number:04}" for number in range(4000)]
    counts = [0] * total
    for cluster in clusters:
        counts[shard_of(cluster, total)] += 1
    fair = len(clusters) / total
    spread = 5 * fair**0.5  # five standard deviations
    assert all(fair - spread < count < fair + spread for count in counts)
    moved = sum(shard_of(cluster, total) != shard_of(cluster, total + 1) for cluster in clusters)
    share = len(clusters) / (total + 1)
    assert share - 5 * share**0.5 < moved < share + 5 * share**0.5


def test_the_shard_of_a_name_never_changes_between_versions():
    # Shards of two versions run side by side during an update.
    clusters = [
        "prod",
        "staging",
        "sim-0",
        "sim-1",
        "arn:aws:eks:eu-west-1:1:cluster/a",
        "gke_p_europe-west4_c",
        "ü",
    ]
    assert [shard_of(cluster, 3) for cluster in clusters] == [2, 2, 0, 1, 1, 1, 2]
    assert [shard_of(cluster, 100) for cluster in clusters] == [65, 35, 26, 85, 33, 31, 38]


def test_the_hash_seed_of_python_does_not_matter():
    program = "from collector.sharding import shard_of; print([shard_of(f'c{n}', 7) for n in range(50)])"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{[shard_of(f'c{number}', 7) for number in range(50)]}\n"}


@pytest.mark.parametrize(
    ("host_name", "ordinal"),
    [
        ("gpuid-0", 0),
        ("gpuid-12", 12),
        ("release-1-gpuid-7", 7),
        ("gpuid-3.gpuid.monitoring.svc.cluster.local", 3),
        ("10-gpuid-999", 999),
    ],
)
def test_the_ordinal_comes_from_the_host_name(host_name, ordinal):
    assert pod_ordinal(host_name) == ordinal


@pytest.mark.parametrize(
    "host_name", ["", "gpuid", "gpuid-", "gpuid-01", "gpuid-٣", "gpuid-7d9c5b-x2k9j", "0", "gpuid-12345", "gpuid-1\n"]
)
def test_a_host_name_without_an_ordinal_is_refused(host_name):
    with pytest.raises(ValueError, match="expected a host name that ends in an ordinal") as refused:
        pod_ordinal(host_name)
    assert str(refused.value).isprintable()


@given(name=st.from_regex(r"[a-z]([-a-z0-9]{0,40}[a-z0-9])?", fullmatch=True), ordinal=st.integers(0, MAX_SHARDS - 1))
def test_the_ordinal_is_read_back_from_any_name_of_a_stateful_set(name, ordinal):
    assert pod_ordinal(f"{name}-{ordinal}") == ordinal


@pytest.mark.parametrize(
    ("index", "total", "message"),
    [
        (1, 1, "expected shard 0, the only one, got 1"),
        (0, 0, "expected 1 to 1000 shards, got 0"),
        (0, 1001, "expected 1 to 1000 shards, got 1001"),
        (3, 3, "expected one of shards 0 to 2, got 3"),
        (-1, 3, "expected one of shards 0 to 2, got -1"),
    ],
)
def test_an_invalid_shard_is_refused(index, total, message):
    with pytest.raises(ValueError) as raised:  # noqa: PT011  the text is compared whole
        Shard(index, total)
    assert str(raised.value) == message


def test_the_only_shard_reads_every_cluster_and_is_not_sharded():
    assert UNSHARDED.reads("any")
    assert not UNSHARDED.sharded
    assert Shard(0, 2).sharded
    assert str(Shard(1, 3)) == "shard 1 of 3"
