"""A cluster watched from end to end, against a simulated API server over real HTTPS and WebSockets."""

import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from collector.config import PRESETS, Duration, PodSource
from collector.model import ClusterState, ReadFailure, WatchRestart
from collector.simulator import read_verbs
from collector.simulator.objects import NODES
from tests.collect.world import FAST, World
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


class TestFirstReading:
    async def test_each_node_is_read_by_exactly_one_exec(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            assert world.execs == Counter(dict.fromkeys(world.cluster.nodes, 1))
            assert (world.requested("list"), world.requested("watch"), world.requested("get")) == (2, 2, 1)
            assert seen.states == [ClusterState.STARTING, ClusterState.UP]
            assert (seen.failures, seen.restarts, seen.gone) == ([], [], [])

    async def test_a_reading_is_complete(self, world: World) -> None:
        async with world.watched(labels=("topology.kubernetes.io/region", "absent")) as seen:
            await world.settled()
            reading = seen.published[world.first]
            assert (reading.cluster, reading.source) == ("sim-0", world.cluster.pod(world.first))
            assert reading.node == seen.nodes[world.first]
            assert reading.node.labels == (("topology.kubernetes.io/region", "us-east-1"),)
            assert (reading.node.capacity, reading.node.allocatable, len(reading.gpus)) == (2, 2, 2)
            assert reading.fingerprint.boot_id == reading.node.boot_id != ""
            assert (reading.fingerprint.capacity, reading.fingerprint.restarts) == (2, 0)
            assert reading.driver_version

    async def test_nodes_without_a_gpu_pod_are_not_reported(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            assert seen.nodes.keys() == set(world.cluster.nodes)

    async def test_execs_are_limited_per_cluster_and_one_per_node(self, world: World) -> None:
        world.cluster.slow_exec(0.1)
        async with world.watched(exec_concurrency=2):
            await world.settled()
            assert world.cluster.counters.peak_execs == 2
            assert world.cluster.counters.peak_execs_per_node == 1

    async def test_a_node_selector_limits_what_is_read(self, world: World) -> None:
        async with world.watched(node_selector=f"kubernetes.io/hostname={world.first}") as seen:
            await eventually(lambda: seen.published)
            await world.stays(lambda: seen.published.keys() == {world.first} and world.execs.total() == 1)

    async def test_proof_that_the_view_is_current_is_repeated(self, world: World) -> None:
        async with world.watched() as seen:
            await eventually(lambda: len(seen.synced) >= 4)
            assert seen.synced == sorted(seen.synced)


class TestWarmStart:
    async def test_unchanged_nodes_are_not_read_again(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            known = seen.known()
        async with world.watched(known=known) as seen:
            await eventually(lambda: seen.state is ClusterState.UP and seen.nodes.keys() == set(world.cluster.nodes))
            await world.stays(lambda: world.execs.total() == 4 and not seen.gone)

    async def test_changed_nodes_are_read_and_deleted_ones_dropped(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            known = seen.known()
        world.cluster.restart_container(world.first)
        world.cluster.delete_node(world.second)
        async with world.watched(known=known) as seen:
            await eventually(lambda: seen.published.keys() == {world.first} and seen.gone == [world.second])
            await world.stays(lambda: world.execs.total() == 5)

    async def test_readings_older_than_refresh_are_renewed(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            known = seen.known()
        known[world.first] = known[world.first]._replace(time=known[world.first].time - 4000)
        async with world.watched(known=known) as seen:
            await eventually(lambda: seen.published)
            await world.stays(lambda: seen.published.keys() == {world.first} and world.execs.total() == 5)


class TestReadingAgain:
    @pytest.mark.parametrize(
        "act", ["restart_container", "restart_pod", "replace_pod", "reboot_node", "swap_tray", "migrate_node"]
    )
    async def test_a_node_is_read_again_after_each_event(self, world: World, act: str) -> None:
        async with world.watched() as seen:
            await world.settled()
            getattr(world.cluster, act)(node=world.first)
            await eventually(lambda: world.execs[world.first] >= 2)
            await world.settled()
            assert seen.published[world.first].source == world.cluster.pod(world.first)
            assert all(world.execs[node] == 1 for node in world.cluster.nodes if node != world.first)

    async def test_a_new_boot_id_causes_one_reading(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            change(world, world.first, lambda status: status["nodeInfo"].update(bootID="another"))
            await eventually(lambda: seen.published[world.first].fingerprint.boot_id == "another")
            await world.stays(lambda: world.execs[world.first] == 2)

    async def test_a_gpu_marked_unhealthy_causes_one_reading(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            world.cluster.lose_gpu(world.first)
            await eventually(lambda: len(seen.published[world.first].gpus) == 1)
            assert (seen.nodes[world.first].capacity, seen.nodes[world.first].allocatable) == (2, 1)
            await world.stays(lambda: world.execs[world.first] == 2)

    async def test_a_new_capacity_causes_one_reading(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            change(world, world.first, lambda status: status["capacity"].update({"nvidia.com/gpu": "1"}))
            await eventually(lambda: seen.published[world.first].fingerprint.capacity == 1)
            await world.stays(lambda: world.execs[world.first] == 2)

    async def test_new_mig_counts_cause_one_reading_and_no_capacity(self, world: World) -> None:
        world.cluster.set_mig(world.first)
        async with world.watched() as seen:
            await world.settled()
            assert (seen.nodes[world.first].capacity, seen.nodes[world.first].allocatable) == (None, None)
            assert seen.published[world.first].fingerprint.capacity == 14
            change(world, world.first, lambda status: status["allocatable"].update({"nvidia.com/gpu": "7"}))
            await eventually(lambda: seen.published[world.first].fingerprint.allocatable == 7)
            await world.stays(lambda: world.execs[world.first] == 2)

    async def test_a_change_during_a_reading_causes_another_one_after_it(self, world: World) -> None:
        world.cluster.slow_exec(2.0, world.first)
        async with world.watched() as seen:
            await eventually(lambda: world.cluster.counters.open_execs[world.first])
            change(world, world.first, lambda status: status["nodeInfo"].update(bootID="another"))
            await eventually(lambda: seen.nodes[world.first].boot_id == "another")
            await eventually(
                lambda: world.first in seen.published and seen.published[world.first].fingerprint.boot_id == "another"
            )
            await world.stays(lambda: world.execs[world.first] == 2)
            assert world.cluster.counters.peak_execs_per_node == 1

    async def test_every_node_is_read_again_at_each_refresh(self, world: World) -> None:
        async with world.watched(refresh=Duration(0.4)) as seen:
            await world.settled()
            world.cluster.swap_tray(world.first, reboot=False)  # Kubernetes reports no change
            await world.settled()
            await eventually(lambda: min(world.execs[node] for node in world.cluster.nodes) >= 3)
            assert seen.failures == []

    async def test_a_node_is_read_once_its_pod_is_ready(self, world: World) -> None:
        world.cluster.set_ready(world.first, ready=False)
        async with world.watched() as seen:
            await eventually(lambda: len(seen.published) == 3)
            await world.stays(lambda: world.execs[world.first] == 0)
            world.cluster.set_ready(world.first)
            await world.settled()

    async def test_a_new_node_is_read(self, world: World) -> None:
        async with world.watched():
            await world.settled()
            world.cluster.add_node("gpu-new")
            await world.settled()
            assert world.execs["gpu-new"] == 1


class TestNodesThatGo:
    async def test_a_deleted_node_is_gone_immediately(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            world.cluster.delete_node(world.first)
            await world.settled()
            assert seen.gone == [world.first]

    async def test_a_node_recreated_under_its_name_is_read_again(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            world.cluster.delete_node(world.first)
            world.cluster.add_node(world.first)
            await eventually(lambda: world.execs[world.first] == 2)
            await world.settled()
            assert seen.failures == []

    async def test_a_node_without_a_pod_is_gone_after_its_grace(self, world: World) -> None:
        async with world.watched(grace=Duration(0.5)) as seen:
            await world.settled()
            world.cluster.objects.delete_pod(world.first)
            await eventually(lambda: seen.gone == [world.first])
            await world.stays(lambda: len(seen.published) == 3 and seen.gone == [world.first])

    async def test_a_node_with_an_unready_pod_is_kept(self, world: World) -> None:
        async with world.watched(grace=Duration(0.2)) as seen:
            await world.settled()
            world.cluster.set_ready(world.first, ready=False)
            await world.stays(lambda: not seen.gone and len(seen.published) == 4, seconds=0.6)

    async def test_a_known_node_without_a_pod_is_gone_after_start(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            known = seen.known()
        world.cluster.objects.delete_pod(world.first)
        async with world.watched(known=known, grace=Duration(0.2)) as seen:
            await eventually(lambda: seen.gone == [world.first])


class TestTwoSources:
    EXPORTER = PodSource(
        namespace="gpu-operator", selector="app=nvidia-dcgm-exporter", container="nvidia-dcgm-exporter"
    )

    async def test_each_node_is_read_once_through_the_first_source(self, world: World) -> None:
        async with world.watched(sources=(*PRESETS["gpu-operator"], self.EXPORTER)):
            await world.settled()
            assert world.execs == Counter(dict.fromkeys(world.cluster.nodes, 1))
            assert world.requested("list", "pods") == 2

    async def test_a_source_without_a_ready_pod_is_replaced_by_another(self, world: World) -> None:
        world.cluster.set_ready(world.first, ready=False)
        async with world.watched(sources=(*PRESETS["gpu-operator"], self.EXPORTER)) as seen:
            await world.settled()
            assert seen.published[world.first].source.startswith("gpu-operator/nvidia-dcgm-exporter-")
            world.cluster.set_ready(world.first)
            await eventually(lambda: world.execs[world.first] == 2)
            await world.settled()
            assert seen.published[world.first].source == world.cluster.pod(world.first)


class TestMisbehavingApiServer:
    @pytest.mark.parametrize("form", ["event", "status"])
    async def test_an_expired_version_causes_a_new_list(self, world: World, form: Any) -> None:
        async with world.watched() as seen:
            await world.settled()
            world.cluster.server.connections.freeze(new=False)
            world.cluster.delete_node(world.first)
            world.cluster.add_node("gpu-new")
            world.cluster.expire_versions(form)
            world.cluster.drop_connections()
            world.cluster.thaw()
            await world.settled()
            assert seen.gone == [world.first]
            assert ("nodes", WatchRestart.EXPIRED) in seen.restarts
            assert world.execs["gpu-new"] == 1
            assert all(world.execs[node] == 1 for node in world.cluster.nodes)

    async def test_dropped_connections_are_reopened(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            world.cluster.drop_connections()
            await eventually(lambda: len(seen.restarts) == 2)
            world.cluster.add_node("gpu-new")
            await world.settled()
            assert set(seen.restarts) == {("nodes", WatchRestart.CONNECTION), ("pods", WatchRestart.CONNECTION)}
            assert seen.states == [ClusterState.STARTING, ClusterState.UP]

    async def test_silent_watches_are_restarted(self, world: World) -> None:
        intervals = msgspec.structs.replace(
            FAST, watch=msgspec.structs.replace(FAST.watch, watch=(1.0, 1.0), slack=0.3)
        )
        async with world.watched(intervals=intervals) as seen:
            await world.settled()
            world.cluster.freeze_connections()
            world.cluster.add_node("gpu-new")
            await eventually(lambda: len(seen.restarts) == 2)
            await world.settled()
            assert set(seen.restarts) == {("nodes", WatchRestart.SILENT), ("pods", WatchRestart.SILENT)}

    async def test_silent_watches_make_it_unreachable_while_reading_continues(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Such as behind a proxy that holds back what is streamed: lists keep the view current."""
        intervals = msgspec.structs.replace(FAST, watch=msgspec.structs.replace(FAST.watch, silence=1.0, slack=5.0))
        monkeypatch.setattr(read_verbs, "_send_events", lambda *_: anyio.sleep(60))
        async with world.watched(intervals=intervals) as seen:
            await eventually(lambda: seen.state is ClusterState.UNREACHABLE)
            assert "no event, bookmark or other proof that the watch of" in seen.statuses[-1].message
            world.cluster.add_node("gpu-new")
            await eventually(lambda: "gpu-new" in seen.published)
            assert seen.states == [ClusterState.STARTING, ClusterState.UP, ClusterState.UNREACHABLE]

    async def test_a_server_that_never_answers_is_unreachable(self, world: World) -> None:
        world.cluster.freeze_connections(new=True)
        intervals = msgspec.structs.replace(FAST, watch=msgspec.structs.replace(FAST.watch, slack=0.3))
        async with world.watched(intervals=intervals) as seen:
            await eventually(lambda: seen.state is ClusterState.UNREACHABLE)
            assert seen.statuses[-1].message.endswith(": timed out")
            world.cluster.thaw()
            await world.settled()

    async def test_an_exec_on_a_silent_connection_times_out(self, world: World) -> None:
        world.cluster.slow_exec(2.0, node=world.first)
        async with world.watched(exec_timeout=Duration(4)) as seen:
            await eventually(lambda: world.cluster.counters.open_execs[world.first])
            world.cluster.freeze_connections()
            await eventually(lambda: (world.first, ReadFailure.TIMEOUT) in seen.failures)
            await world.settled()

    async def test_a_server_that_accepts_no_new_connection_is_unreachable(self, world: World) -> None:
        intervals = msgspec.structs.replace(FAST, watch=msgspec.structs.replace(FAST.watch, slack=0.3))
        async with world.watched(intervals=intervals) as seen:
            await world.settled()
            world.cluster.freeze_connections(new=True)
            world.cluster.drop_connections()
            await eventually(lambda: seen.state is ClusterState.UNREACHABLE)
            world.cluster.thaw()
            await world.settled()

    async def test_a_throttled_cluster_is_read_completely(self, world: World) -> None:
        world.cluster.throttle(requests=2, retry_after=1)
        async with world.watched():
            await world.settled()

    async def test_watches_that_end_on_time_are_not_restarts(self, world: World) -> None:
        intervals = msgspec.structs.replace(FAST, watch=msgspec.structs.replace(FAST.watch, watch=(1.0, 1.0)))
        async with world.watched(intervals=intervals) as seen:
            await eventually(lambda: world.requested("watch") >= 6)
            await world.settled()
            assert (seen.restarts, seen.states) == ([], [ClusterState.STARTING, ClusterState.UP])
            assert (world.requested("list"), world.execs.total()) == (2, 4)

    async def test_a_service_accounts_token_is_renewed_during_the_watch(self, world: World) -> None:
        world.cluster.bind_token(3600, age=3000)
        async with world.watched() as seen:
            await world.settled()
            await eventually(lambda: world.requested("create", "serviceaccounts"), 1)
            await world.stays(lambda: world.requested("create", "serviceaccounts") == 1)
            assert seen.states == [ClusterState.STARTING, ClusterState.UP]
            assert seen.expiries[-1] is not None, "the token is inline: after a restart, the old one counts"

    async def test_readings_are_kept_while_the_token_is_refused(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with world.watched() as seen:
            await world.settled()
            world.cluster.refuse_tokens()
            world.cluster.drop_connections()
            await eventually(lambda: seen.state is ClusterState.UNAUTHORIZED)
            await world.stays(lambda: seen.gpus == world.truth)
            world.cluster.accept_tokens()
            await world.settled()
            assert seen.states == [
                ClusterState.STARTING,
                ClusterState.UP,
                ClusterState.UNAUTHORIZED,
                ClusterState.UP,
            ]
            assert world.cluster.token not in caplog.text
        downs = [r for r in caplog.records if r.levelno == logging.WARNING and "down" in r.message]
        assert len(downs) == 1

    async def test_nodes_deleted_during_an_outage_are_gone_after_it(self, world: World) -> None:
        async with world.watched(refresh=Duration(0.3)) as seen:
            await world.settled()
            await world.cluster.stop()
            await eventually(lambda: seen.state is ClusterState.UNREACHABLE)
            await anyio.sleep(0.2)
            failures = len(seen.failures)
            await world.stays(lambda: len(seen.published) == 4 and len(seen.failures) == failures)
            world.cluster.delete_node(world.first)
            await world.cluster.start()
            await world.settled()
            assert seen.gone == [world.first]

    async def test_a_forbidden_list_is_named_in_the_status(self, world: World) -> None:
        world.cluster.deny("list", "nodes")
        async with world.watched() as seen:
            await eventually(lambda: seen.state is ClusterState.FORBIDDEN)
            assert "nodes" in seen.statuses[-1].message
            await world.stays(lambda: not seen.published)
            world.cluster.allow()
            await world.settled()

    async def test_a_server_that_starts_late_is_read(self, world: World) -> None:
        await world.cluster.stop()
        async with world.watched() as seen:
            await eventually(lambda: seen.state is ClusterState.UNREACHABLE)
            await world.cluster.start()
            await world.settled()


class TestBadContext:
    async def test_a_repaired_kubeconfig_takes_effect(self, world: World, tmp_path: Path) -> None:
        path = tmp_path / "repaired"
        path.write_text(json.dumps({"contexts": []}))
        async with world.watched(kubeconfig=str(path)) as seen:
            await eventually(lambda: seen.state is ClusterState.BAD_CONTEXT)
            assert "sim-0" in seen.statuses[-1].message
            path.write_text(world.simulator.kubeconfig.read_text())
            await world.settled()
            assert seen.states == [ClusterState.STARTING, ClusterState.BAD_CONTEXT, ClusterState.UP]


class TestStopping:
    async def test_stopping_closes_everything(self, world: World) -> None:
        world.cluster.hang_exec()
        async with world.watched(exec_concurrency=2):
            await eventually(lambda: world.cluster.counters.open_execs.total() == 2)
        await eventually(lambda: not world.cluster.counters.open_execs and not world.cluster.counters.open_watches)


def change(world: World, node: str, act: Callable[[dict[str, Any]], None]) -> None:
    """Change a node's status behind the simulation's back."""
    world.cluster.objects.edit(NODES, node, lambda document: act(document["status"]))
