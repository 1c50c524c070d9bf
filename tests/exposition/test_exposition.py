"""Given this inventory, this is the scrape."""

import json
import re
import shutil
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic

from collector.collect.objects import node_decoder
from collector.exposition import shards
from collector.exposition.shards import SHARD_NODES
from collector.model import ClusterState, Gpu, NodeInfo, Place
from tests.support.moves import let_go
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

H100 = Gpu(uuid="GPU-aaaa", serial="1652923034028", model="NVIDIA H100 80GB HBM3")
GB200 = [
    Gpu(uuid=f"GPU-gb{index}", serial="1761025346615", model="NVIDIA GB200", chassis="1821225190819")
    for index in range(2)
]


def families(text: str) -> dict[str, list[str]]:
    """The samples by family name, headers apart."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            found.setdefault(line.partition("{")[0].partition(" ")[0], []).append(line)
    return found


class TestOneNode:
    async def test_its_gpus_facts_counts_and_time_are_published(self, bench: Any) -> None:
        bench.read("prod", "n1", H100)
        text = await bench.text()
        assert text.startswith(
            "# HELP gpuid_gpu_info A GPU present in a node; always 1.\n"
            "# TYPE gpuid_gpu_info gauge\n"
            'gpuid_gpu_info{cluster="prod",node="n1",serial="1652923034028",uuid="GPU-aaaa",'
            'model="NVIDIA H100 80GB HBM3",chassis=""} 1\n'
            "# HELP gpuid_node_info A node whose GPUs have been read; always 1.\n"
            "# TYPE gpuid_node_info gauge\n"
            'gpuid_node_info{cluster="prod",node="n1",machine="i-n1",provider_id="aws:///us-east-1a/i-n1",chassis="",'
            'driver_version="570.148.08",cuda_version="12.8"} 1\n'
            "# HELP gpuid_node_gpus GPUs of a node by state: found by the last reading, lost (only if any do not "
            "respond), capacity, and allocatable (the last two are absent with MIG).\n"
            "# TYPE gpuid_node_gpus gauge\n"
            'gpuid_node_gpus{cluster="prod",node="n1",state="found"} 1\n'
            'gpuid_node_gpus{cluster="prod",node="n1",state="capacity"} 8\n'
            'gpuid_node_gpus{cluster="prod",node="n1",state="allocatable"} 7\n'
            "# HELP gpuid_node_read_timestamp_seconds When the node was last read successfully.\n"
            "# TYPE gpuid_node_read_timestamp_seconds gauge\n"
            'gpuid_node_read_timestamp_seconds{cluster="prod",node="n1"} 1764000000.500\n'
        )

    async def test_a_last_known_serial_stays_a_label_and_has_a_time(self, bench: Any) -> None:
        bench.read("prod", "n1", H100, GB200[0])
        before = families(await bench.text())["gpuid_gpu_info"]
        assert "gpuid_gpu_last_reported_timestamp_seconds" not in families(await bench.text())
        bench.read("prod", "n1", msgspec.structs.replace(H100, serial=None), GB200[0])
        text = families(await bench.text())
        assert text["gpuid_gpu_info"] == before
        assert text["gpuid_gpu_last_reported_timestamp_seconds"] == [
            'gpuid_gpu_last_reported_timestamp_seconds{cluster="prod",node="n1",serial="1652923034028",'
            'uuid="GPU-aaaa",field="serial"} 1764000000.500'
        ]

    async def test_before_its_first_reading_it_has_only_its_capacity(self, bench: Any) -> None:
        bench.publish(bench.inventory.set_node("prod", NodeInfo(name="n1", capacity=8)))
        text = families(await bench.text())
        assert text["gpuid_node_gpus"] == ['gpuid_node_gpus{cluster="prod",node="n1",state="capacity"} 8']
        assert not {"gpuid_gpu_info", "gpuid_node_info", "gpuid_node_read_timestamp_seconds"} & text.keys()

    @pytest.mark.parametrize(
        ("labels", "counted"),
        [
            (
                {"nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.sharing-strategy": "time-slicing"},
                [
                    'gpuid_node_gpus{cluster="prod",node="n1",state="capacity"} 2',
                    'gpuid_node_gpus{cluster="prod",node="n1",state="allocatable"} 1',
                ],
            ),
            ({"nvidia.com/mig.strategy": "single", "nvidia.com/gpu.slices.gi": "1"}, []),
        ],
        ids=["shared", "in MIG instances"],
    )
    async def test_its_gpus_are_counted_but_not_their_parts(
        self, bench: Any, labels: dict[str, str], counted: list[str]
    ) -> None:
        node = {
            "metadata": {"name": "n1", "labels": labels},
            "status": {"capacity": {"nvidia.com/gpu": "8"}, "allocatable": {"nvidia.com/gpu": "4"}},
        }
        bench.read("prod", "n1", *GB200)
        bench.publish(bench.inventory.set_node("prod", node_decoder()(msgspec.Raw(json.dumps(node).encode())).facts))
        text = families(await bench.text())
        assert text["gpuid_node_gpus"] == ['gpuid_node_gpus{cluster="prod",node="n1",state="found"} 2', *counted]

    async def test_gpus_with_one_serial_are_two_series(self, bench: Any) -> None:
        bench.read("prod", "n1", *GB200)
        text = families(await bench.text())
        assert text["gpuid_gpu_info"] == [
            'gpuid_gpu_info{cluster="prod",node="n1",serial="1761025346615",uuid="GPU-gb0",model="NVIDIA GB200",'
            'chassis="1821225190819"} 1',
            'gpuid_gpu_info{cluster="prod",node="n1",serial="1761025346615",uuid="GPU-gb1",model="NVIDIA GB200",'
            'chassis="1821225190819"} 1',
        ]
        assert 'chassis="1821225190819"' in text["gpuid_node_info"][0]

    async def test_a_card_without_a_serial_has_an_empty_one(self, bench: Any) -> None:
        bench.read("prod", "n1", Gpu(uuid="GPU-b"))
        assert families(await bench.text())["gpuid_gpu_info"] == [
            'gpuid_gpu_info{cluster="prod",node="n1",serial="",uuid="GPU-b",model="",chassis=""} 1'
        ]

    async def test_allowed_node_labels_are_added_and_clashes_numbered(self, make_bench: Callable[..., Any]) -> None:
        bench = make_bench(node_labels=("topology.kubernetes.io/zone", "a.b", "a/b"))
        bench.read("prod", "n1", H100, labels=(("a.b", "x"), ("topology.kubernetes.io/zone", "us-east-1a")))
        assert families(await bench.text())["gpuid_node_info"][0].endswith(
            'cuda_version="12.8",label_topology_kubernetes_io_zone="us-east-1a",label_a_b_conflict1="x",'
            'label_a_b_conflict2=""} 1'
        )

    async def test_the_cluster_label_can_have_another_name(self, make_bench: Callable[..., Any]) -> None:
        bench = make_bench(cluster_label="k8s_cluster")
        bench.metrics.add_cluster("prod")
        bench.read("prod", "n1", H100)
        text = await bench.text(clusters=["prod"])
        assert 'gpuid_gpu_info{k8s_cluster="prod",node="n1"' in text
        assert 'gpuid_read_success_total{k8s_cluster="prod"} 0.0' in text
        assert '{cluster="' not in text


class TestChange:
    async def test_a_gpu_is_in_two_places_until_it_has_moved(self, bench: Any) -> None:
        bench.read("prod", "n1", H100)
        bench.read("prod", "n2")
        await bench.text()
        claim = bench.read("other", "n3", H100, time=1764000001.0)
        text = families(await bench.text())
        assert [sorted(re.findall(r'(?:cluster|node)="([^"]*)"', line)) for line in text["gpuid_gpu_info"]] == [
            ["n1", "prod"],
            ["n3", "other"],
        ]
        assert 'gpuid_node_gpus{cluster="prod",node="n1",state="found"} 1' in text["gpuid_node_gpus"]
        for step in let_go(bench.inventory, claim):
            bench.publish(step)
        text = families(await bench.text())
        assert len(text["gpuid_gpu_info"]) == 1
        assert 'cluster="other",node="n3"' in text["gpuid_gpu_info"][0]
        assert 'gpuid_node_gpus{cluster="prod",node="n1",state="found"} 0' in text["gpuid_node_gpus"]

    async def test_a_node_that_is_removed_leaves_nothing(self, bench: Any) -> None:
        bench.read("prod", "n1", H100)
        bench.read("prod", "n2")
        await bench.text()
        bench.publish(bench.inventory.remove_node(Place("prod", "n1"), 2.0))
        text = await bench.text()
        assert 'node="n1"' not in text
        assert 'node="n2"' in text

    async def test_a_cluster_that_is_removed_leaves_nothing(self, bench: Any) -> None:
        for cluster in ("prod", "other"):
            bench.metrics.add_cluster(cluster)
            bench.metrics.watch_restarted(cluster, "pods", "expired")
            bench.read(cluster, "n1")
        await bench.text()
        bench.publish(bench.inventory.remove_cluster("prod", 2.0))
        bench.metrics.remove_cluster("prod")
        text = await bench.text()
        assert "prod" not in text
        assert 'gpuid_watch_restarts_total{cluster="other",reason="expired",resource="pods"} 1.0' in text

    async def test_only_the_changed_families_of_the_changed_shard_are_compressed(
        self, bench: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for index in range(3 * SHARD_NODES):
            bench.read("prod", f"n{index}", Gpu(uuid=f"GPU-{index}"))
        await bench.exposition.refresh()
        compressed: list[int] = []
        original = shards.PendingText.apply

        def apply(change: shards.PendingText) -> shards.DeflatedText:
            compressed.append(len(change.lengths))
            return original(change)

        monkeypatch.setattr(shards.PendingText, "apply", apply)
        bench.read("prod", "n7", Gpu(uuid="GPU-7"), time=1764000002.0)
        await bench.exposition.refresh()
        assert compressed == [SHARD_NODES]  # the time of the reading, for the nodes of one shard

    async def test_a_cancelled_scrape_loses_no_change(self, bench: Any) -> None:
        bench.read("prod", "n0", Gpu(uuid="GPU-first"))
        bench.read("prod", "n2", Gpu(uuid="GPU-last"))
        await bench.text()
        for turns in range(12):
            bench.read("prod", "n1", Gpu(uuid=f"GPU-{turns}"), time=1764000002.0 + turns)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(bench.exposition.refresh)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            text = families(await bench.text())
            uuids = {line.split('uuid="')[1].partition('"')[0] for line in text["gpuid_gpu_info"]}
            assert uuids == {"GPU-first", "GPU-last", f"GPU-{turns}"}

    async def test_a_cancelled_scrape_does_not_keep_what_is_withdrawn(self, bench: Any) -> None:
        for turns in range(12):
            bench.read("prod", "n1", Gpu(uuid="GPU-a"), time=1764000002.0 + turns)
            assert "GPU-a" in await bench.text()
            bench.exposition.withdraw("prod", ["n1"])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(bench.exposition.refresh)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            assert "GPU-a" not in await bench.text()

    async def test_shards_that_empty_are_filled_again(self, bench: Any) -> None:
        for index in range(2 * SHARD_NODES):
            bench.read("prod", f"n{index}")
        await bench.exposition.refresh()
        for index in range(SHARD_NODES):
            bench.publish(bench.inventory.remove_node(Place("prod", f"n{index}"), 2.0))
            bench.read("prod", f"m{index}")
            await bench.exposition.refresh()
        text = families(await bench.text())
        names = {line.split('node="')[1].partition('"')[0] for line in text["gpuid_node_info"]}
        assert names == {f"n{index}" for index in range(SHARD_NODES, 2 * SHARD_NODES)} | {
            f"m{index}" for index in range(SHARD_NODES)
        }
        assert len(text["gpuid_node_info"]) == 2 * SHARD_NODES


class TestCluster:
    async def test_only_the_state_that_it_is_in_has_a_series(self, bench: Any) -> None:
        bench.metrics.add_cluster("prod")
        for state in (ClusterState.STARTING, ClusterState.UP, ClusterState.UP):
            bench.metrics.cluster_state("prod", state)
        text = families(await bench.text())
        assert text["gpuid_cluster_up"] == ['gpuid_cluster_up{cluster="prod"} 1.0']
        assert text["gpuid_cluster_state"] == ['gpuid_cluster_state{cluster="prod",state="up"} 1.0']
        bench.metrics.cluster_state("prod", ClusterState.UNAUTHORIZED)
        text = families(await bench.text())
        assert text["gpuid_cluster_up"] == ['gpuid_cluster_up{cluster="prod"} 0.0']
        assert text["gpuid_cluster_state"] == ['gpuid_cluster_state{cluster="prod",state="unauthorized"} 1.0']

    async def test_a_duplicate_has_no_view_age(self, bench: Any) -> None:
        bench.metrics.add_cluster("prod")
        bench.metrics.synced("prod", 1764000000.0)
        bench.metrics.cluster_state("prod", ClusterState.DUPLICATE)
        text = families(await bench.text())
        assert "gpuid_cluster_synced_timestamp_seconds" not in text
        assert text["gpuid_cluster_state"] == ['gpuid_cluster_state{cluster="prod",state="duplicate"} 1.0']

    async def test_an_event_of_an_unknown_cluster_is_not_published(self, bench: Any) -> None:
        bench.metrics.cluster_state("prod", ClusterState.UP)
        assert "gpuid_cluster_" not in "\n".join(families(await bench.text()))


class TestSink:
    async def test_its_backlog_and_its_dead_letters_are_published(self, bench: Any) -> None:
        bench.metrics.backlog("lake", 3, 1764000000.0, 2)
        text = families(await bench.text())
        assert text["gpuid_export_backlog_records"] == ['gpuid_export_backlog_records{sink="lake"} 3.0']
        assert text["gpuid_export_oldest_timestamp_seconds"] == [
            'gpuid_export_oldest_timestamp_seconds{sink="lake"} 1.764e+09'
        ]
        assert text["gpuid_export_dead_letters"] == ['gpuid_export_dead_letters{sink="lake"} 2.0']

    async def test_a_removed_sink_has_no_series(self, bench: Any) -> None:
        for sink in ("lake", "hook"):
            bench.metrics.backlog(sink, 3, 1764000000.0, 2)
        bench.metrics.keep_sinks({"lake"})
        assert 'sink="lake"' in (text := await bench.text())
        assert "hook" not in text
        bench.metrics.keep_sinks({"lake"})


class TestTheStore:
    async def test_is_published_with_its_lost_records_as_a_counter(self, bench: Any) -> None:
        lost = 3
        bench.metrics.register_store(
            up=lambda: True,
            pending=lambda: 7,
            lost=lambda: lost,
            leader=lambda: False,
            has_leader=lambda: True,
            set_aside=lambda: 2,
        )
        assert "gpuid_store_up 1.0\n" in (text := await bench.text())
        assert "gpuid_store_pending_records 7.0\n" in text
        assert "gpuid_store_leader 0.0\n" in text
        assert "# TYPE gpuid_store_lost_records_total counter\ngpuid_store_lost_records_total 3.0\n" in text
        lost = 4
        text = await bench.text(openmetrics=True)
        assert "# TYPE gpuid_store_lost_records counter\ngpuid_store_lost_records_total 4.0\n" in text


class TestBackground:
    async def test_changes_are_rendered_before_a_scrape_asks_for_them(self, bench: Any) -> None:
        def rendered_nodes() -> int:
            texts = (cluster[0][0] for cluster in bench.exposition._snapshot.values())
            return sum(b"".join(shards.inflated(text)).count(b"\n") for text in texts)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bench.exposition.run)
            bench.read("prod", "n1", H100)
            await eventually(rendered_nodes, 1)
            await bench.text()
            bench.read("prod", "n2", Gpu(uuid="GPU-b"))
            await eventually(rendered_nodes, 2)
            tasks.cancel_scope.cancel()


class TestShare:
    async def test_a_cluster_s_share_holds_its_series_and_no_others(self, bench: Any) -> None:
        for cluster in ("a", "b", "c"):
            bench.metrics.add_cluster(cluster)
            bench.read(cluster, "n1", Gpu(uuid=f"GPU-{cluster}"))
        text = await bench.text(clusters=["a", "b"])
        samples = [line for line in text.splitlines() if not line.startswith("#")]
        assert samples
        assert all('cluster="a"' in line or 'cluster="b"' in line for line in samples)

    async def test_the_collector_s_share_holds_what_belongs_to_no_cluster(self, bench: Any) -> None:
        bench.metrics.add_cluster("a")
        bench.read("a", "n1")
        text = b"".join((await bench.exposition.scrape_collector()).chunks).decode()
        assert "gpuid_build_info" in text
        assert "cluster=" not in text
        assert "gpuid_node" not in text

    async def test_the_shares_together_are_the_whole(self, bench: Any) -> None:
        for cluster in ("a", "b"):
            bench.metrics.add_cluster(cluster)
            bench.read(cluster, "n1", Gpu(uuid=f"GPU-{cluster}"))
        own = b"".join((await bench.exposition.scrape_collector()).chunks).decode()
        shares = [await bench.text(clusters=[cluster]) for cluster in ("a", "b")]

        def names(*texts: str) -> list[str]:
            lines = (line for text in texts for line in text.splitlines() if not line.startswith("#"))
            return sorted(line.rpartition(" ")[0] for line in lines)

        await bench.text()  # the first full scrape adds the series of its own size
        own = b"".join((await bench.exposition.scrape_collector()).chunks).decode()
        assert names(await bench.text()) == names(own, *shares)


hostile = st.text(st.characters(codec=None), max_size=20)


class TestStrictParsers:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
    @given(serial=hostile, cluster=hostile, node=hostile, label=hostile)
    async def test_any_label_value_is_read_back(
        self, make_bench: Callable[..., Any], serial: str, cluster: str, node: str, label: str
    ) -> None:
        bench = make_bench(node_labels=("zone",))
        bench.read(cluster, node, Gpu(uuid="GPU-a", serial=serial), labels=(("zone", label),))
        for openmetrics, parse in ((False, parse_classic), (True, parse_openmetrics)):
            text = await bench.text(openmetrics=openmetrics)
            found = {family.name: family for family in parse(text)}
            (sample,) = found["gpuid_gpu_info"].samples
            assert sample.labels == {
                "cluster": shown(cluster),
                "node": shown(node),
                "serial": shown(serial),
                "uuid": "GPU-a",
                "model": "",
                "chassis": "",
            }
            assert found["gpuid_node_info"].samples[0].labels["label_zone"] == shown(label)

    async def test_every_family_has_the_same_type_for_both(self, bench: Any) -> None:
        bench.metrics.add_cluster("prod")
        bench.metrics.watch_restarted("prod", "nodes", "silent")
        bench.read("prod", "n1", H100)
        await bench.text()
        classic = {family.name: family.type for family in parse_classic(await bench.text())}
        strict = {family.name: family.type for family in parse_openmetrics(await bench.text(openmetrics=True))}
        assert classic == strict

    @pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
    async def test_promtool_reports_nothing(self, bench: Any) -> None:
        bench.metrics.add_cluster("prod")
        bench.metrics.watch_restarted("prod", "nodes", "silent")
        bench.read("prod", 'n1"\\\n\x00\ud800', H100)
        for text in (await bench.text(), await bench.text(openmetrics=False, clusters=["prod"])):
            run = await anyio.run_process(["promtool", "check", "metrics"], input=text.encode(), check=False)
            assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


def shown(value: str) -> str:
    """What of a hostile value reaches Prometheus: control characters and lone surrogates are replaced."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if character != "\n" and (character < " " or character == "\x7f")
        else "?"
        if "\ud800" <= character <= "\udfff"
        else character
        for character in value
    )
