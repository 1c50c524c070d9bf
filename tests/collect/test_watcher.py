"""A cluster watched from end to end, against a simulated API server over real HTTPS and WebSockets."""

import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from collector.backoff import Backoff
from collector.collect import nvidia_smi
from collector.collect.readings import RetryPolicy
from collector.collect.watcher import ClusterWatcher, Intervals
from collector.config import PRESETS, ClusterSettings, Duration, PodSource
from collector.kube.reflector import WatchIntervals
from collector.model import ClusterState, ClusterStatus, Known, NodeInfo, ReadFailure, Reading, WatchRestart
from collector.simulator import ExecFaultKind, SimulatedCluster, Simulator
from collector.simulator.objects import NODES

pytestmark = pytest.mark.anyio

FAST = Intervals(
    watch=WatchIntervals(backoff=Backoff(initial=0.02, maximum=0.05, jitter=0.2)),
    pace=RetryPolicy(retry=Backoff(initial=0.05, maximum=0.1, jitter=0.2), hung=0.1, settle=0.2),
    session=Backoff(initial=0.02, maximum=0.05),
)


class Observed:
    """All that a watcher tells."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.failures: list[tuple[str, ReadFailure]] = []
        self.nodes: dict[str, NodeInfo] = {}
        self.gone: list[str] = []
        self.statuses: list[ClusterStatus] = []
        self.synced: list[float] = []
        self.restarts: list[tuple[str, WatchRestart]] = []
        self.published: dict[str, Reading] = {}

    def on_reading(self, reading: Reading, seconds: float) -> None:
        assert seconds > 0
        self.readings.append(reading)
        self.published[reading.node.name] = reading

    def on_read_failure(self, cluster: str, node: str, reason: ReadFailure) -> None:
        self.failures.append((node, reason))

    def on_node(self, cluster: str, node: NodeInfo) -> None:
        self.nodes[node.name] = node

    def on_node_gone(self, cluster: str, node: str, time: float) -> None:
        self.gone.append(node)
        self.nodes.pop(node, None)
        self.published.pop(node, None)

    def on_status(self, status: ClusterStatus) -> None:
        self.statuses.append(status)

    def on_synced(self, cluster: str, time: float) -> None:
        self.synced.append(time)

    def on_watch_restart(self, cluster: str, resource: str, reason: WatchRestart) -> None:
        self.restarts.append((resource, reason))

    @property
    def state(self) -> ClusterState | None:
        return self.statuses[-1].state if self.statuses else None

    @property
    def states(self) -> list[ClusterState]:
        return [status.state for status in self.statuses]

    @property
    def gpus(self) -> set[tuple[str, str | None]]:
        return {(node, gpu.uuid) for node, reading in self.published.items() for gpu in reading.gpus}

    def known(self) -> dict[str, Known]:
        return {node: Known(reading.fingerprint, reading.time) for node, reading in self.published.items()}


class World:
    """One simulated cluster, and what a watcher says of it."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.cluster: SimulatedCluster = simulator.clusters["sim-0"]
        self.first, self.second, *_ = self.cluster.nodes
        self.seen = Observed()

    @asynccontextmanager
    async def watched(
        self,
        *,
        known: dict[str, Known] | None = None,
        timing: Intervals = FAST,
        labels: tuple[str, ...] = (),
        **options: Any,
    ) -> AsyncIterator[Observed]:
        """Watch with a fresh observer while the context is open."""
        self.seen = Observed()
        settings = {"context": "sim-0", "kubeconfig": str(self.simulator.kubeconfig)} | options
        watcher = ClusterWatcher(
            ClusterSettings(**settings), self.seen, known=known or {}, node_labels=labels, timing=timing
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watcher.run)
            yield self.seen
            tasks.cancel_scope.cancel()

    @property
    def truth(self) -> set[tuple[str, str]]:
        return {(placed.node, placed.uuid) for placed in self.simulator.fleet.expected("sim-0")}

    @property
    def execs(self) -> Counter[str]:
        return self.cluster.counters.execs

    def requested(self, verb: str, resource: str = "") -> int:
        requests = self.cluster.counters.requests
        return sum(number for (one, of), number in requests.items() if one == verb and resource in ("", of))

    async def until(self, condition: Callable[[], object]) -> None:
        with anyio.fail_after(30):
            while not condition():  # noqa: ASYNC110
                await anyio.sleep(0.01)

    async def settled(self) -> None:
        """Wait until everything published is true and complete, then see that it stays so."""
        await self.until(lambda: self.seen.state is ClusterState.UP and self.seen.gpus == self.truth)
        await anyio.sleep(0.1)
        assert self.seen.gpus == self.truth

    async def stays(self, condition: Callable[[], object], seconds: float = 0.4) -> None:
        """See that something holds, and goes on to hold."""
        with anyio.move_on_after(seconds):
            while True:
                assert condition()
                await anyio.sleep(0.02)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with Simulator(clusters=2, nodes=4, gpus=2, latency=0.0, directory=tmp_path, bookmark_interval=0.2) as made:
        yield World(made)


class TestAFirstLook:
    async def test_reads_every_node_by_exactly_one_exec_and_nothing_else(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            assert world.execs == Counter(dict.fromkeys(world.cluster.nodes, 1))
            assert (world.requested("list"), world.requested("watch"), world.requested("get")) == (2, 2, 0)
            assert seen.states == [ClusterState.STARTING, ClusterState.UP]
            assert (seen.failures, seen.restarts, seen.gone) == ([], [], [])

    async def test_tells_all_of_a_reading(self, world: World) -> None:
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

    async def test_tells_of_no_node_without_a_gpu_pod(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            assert seen.nodes.keys() == set(world.cluster.nodes)

    async def test_runs_no_more_execs_at_once_than_allowed_and_never_two_in_one_node(self, world: World) -> None:
        world.cluster.slow_exec(0.1)
        async with world.watched(exec_concurrency=2):
            await world.settled()
            assert world.cluster.counters.peak_execs == 2
            assert world.cluster.counters.peak_execs_per_node == 1

    async def test_may_be_limited_to_some_nodes(self, world: World) -> None:
        async with world.watched(node_selector=f"kubernetes.io/hostname={world.first}") as seen:
            await world.until(lambda: seen.published)
            await world.stays(lambda: seen.published.keys() == {world.first} and world.execs.total() == 1)

    async def test_proves_again_and_again_that_it_is_current(self, world: World) -> None:
        async with world.watched() as seen:
            await world.until(lambda: len(seen.synced) >= 4)
            assert seen.synced == sorted(seen.synced)


class TestAWarmStart:
    async def test_costs_no_exec_where_nothing_has_changed(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            known = seen.known()
        async with world.watched(known=known) as seen:
            await world.until(lambda: seen.state is ClusterState.UP and seen.nodes.keys() == set(world.cluster.nodes))
            await world.stays(lambda: world.execs.total() == 4 and not seen.gone)

    async def test_reads_again_what_has_changed_and_drops_what_is_gone(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            known = seen.known()
        world.cluster.restart_container(world.first)
        world.cluster.delete_node(world.second)
        async with world.watched(known=known) as seen:
            await world.until(lambda: seen.published.keys() == {world.first} and seen.gone == [world.second])
            await world.stays(lambda: world.execs.total() == 5)

    async def test_reads_again_what_is_too_old(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            known = seen.known()
        known[world.first] = known[world.first]._replace(time=known[world.first].time - 4000)
        async with world.watched(known=known) as seen:
            await world.until(lambda: seen.published)
            await world.stays(lambda: seen.published.keys() == {world.first} and world.execs.total() == 5)


class TestANodeIsReadAgain:
    @pytest.mark.parametrize(
        "act", ["restart_container", "restart_pod", "replace_pod", "reboot_node", "swap_tray", "migrate_node"]
    )
    async def test_when_something_happens_to_it(self, world: World, act: str) -> None:
        async with world.watched() as seen:
            await world.settled()
            getattr(world.cluster, act)(node=world.first)
            await world.until(lambda: world.execs[world.first] >= 2)
            await world.settled()
            assert seen.published[world.first].source == world.cluster.pod(world.first)
            assert all(world.execs[node] == 1 for node in world.cluster.nodes if node != world.first)

    async def test_once_for_a_new_boot_id_alone(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            change(world, world.first, lambda status: status["nodeInfo"].update(bootID="another"))
            await world.until(lambda: seen.published[world.first].fingerprint.boot_id == "another")
            await world.stays(lambda: world.execs[world.first] == 2)

    async def test_once_for_a_gpu_that_the_device_plugin_takes_for_ill(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            world.cluster.lose_gpu(world.first)
            await world.until(lambda: len(seen.published[world.first].gpus) == 1)
            assert (seen.nodes[world.first].capacity, seen.nodes[world.first].allocatable) == (2, 1)
            await world.stays(lambda: world.execs[world.first] == 2)

    async def test_once_for_another_capacity(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            change(world, world.first, lambda status: status["capacity"].update({"nvidia.com/gpu": "1"}))
            await world.until(lambda: seen.published[world.first].fingerprint.capacity == 1)
            await world.stays(lambda: world.execs[world.first] == 2)

    async def test_once_for_other_counts_of_mig_instances_which_tell_no_number_of_gpus(self, world: World) -> None:
        world.cluster.set_mig(world.first)
        async with world.watched() as seen:
            await world.settled()
            assert (seen.nodes[world.first].capacity, seen.nodes[world.first].allocatable) == (None, None)
            assert seen.published[world.first].fingerprint.capacity == 14
            change(world, world.first, lambda status: status["allocatable"].update({"nvidia.com/gpu": "7"}))
            await world.until(lambda: seen.published[world.first].fingerprint.allocatable == 7)
            await world.stays(lambda: world.execs[world.first] == 2)

    async def test_after_the_reading_under_way_never_beside_it(self, world: World) -> None:
        world.cluster.slow_exec(0.4, world.first)
        async with world.watched() as seen:
            await world.until(lambda: world.cluster.counters.open_execs[world.first])
            change(world, world.first, lambda status: status["nodeInfo"].update(bootID="another"))
            await world.until(lambda: seen.nodes[world.first].boot_id == "another")
            await world.until(
                lambda: world.first in seen.published and seen.published[world.first].fingerprint.boot_id == "another"
            )
            await world.stays(lambda: world.execs[world.first] == 2)
            assert world.cluster.counters.peak_execs_per_node == 1

    async def test_at_every_refresh(self, world: World) -> None:
        async with world.watched(refresh=Duration(0.4)) as seen:
            await world.settled()
            world.cluster.swap_tray(world.first, reboot=False)  # nobody is told
            await world.settled()
            await world.until(lambda: min(world.execs[node] for node in world.cluster.nodes) >= 3)
            assert seen.failures == []

    async def test_as_soon_as_its_pod_is_ready(self, world: World) -> None:
        world.cluster.set_ready(world.first, ready=False)
        async with world.watched() as seen:
            await world.until(lambda: len(seen.published) == 3)
            await world.stays(lambda: world.execs[world.first] == 0)
            world.cluster.set_ready(world.first)
            await world.settled()

    async def test_when_it_is_new(self, world: World) -> None:
        async with world.watched():
            await world.settled()
            world.cluster.add_node("gpu-new")
            await world.settled()
            assert world.execs["gpu-new"] == 1


class TestANodeGoes:
    async def test_at_once_when_it_is_deleted(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            world.cluster.delete_node(world.first)
            await world.settled()
            assert seen.gone == [world.first]

    async def test_and_comes_back_under_its_name(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            world.cluster.delete_node(world.first)
            world.cluster.add_node(world.first)
            await world.until(lambda: world.execs[world.first] == 2)
            await world.settled()
            assert seen.failures == []

    async def test_after_its_grace_when_it_has_no_pod(self, world: World) -> None:
        async with world.watched(grace=Duration(0.5)) as seen:
            await world.settled()
            world.cluster.objects.delete_pod(world.first)
            await world.until(lambda: seen.gone == [world.first])
            await world.stays(lambda: len(seen.published) == 3 and seen.gone == [world.first])

    async def test_not_while_its_pod_is_merely_not_ready(self, world: World) -> None:
        async with world.watched(grace=Duration(0.2)) as seen:
            await world.settled()
            world.cluster.set_ready(world.first, ready=False)
            await world.stays(lambda: not seen.gone and len(seen.published) == 4, seconds=0.6)

    async def test_when_a_warm_start_finds_it_without_a_pod(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            known = seen.known()
        world.cluster.objects.delete_pod(world.first)
        async with world.watched(known=known, grace=Duration(0.2)) as seen:
            await world.until(lambda: seen.gone == [world.first])


class TestAReadingFails:
    @pytest.mark.parametrize(
        ("how", "reason"),
        [
            (ExecFaultKind.EXIT_STATUS, ReadFailure.EXIT_STATUS),
            (ExecFaultKind.ERROR_TEXT, ReadFailure.BAD_OUTPUT),
            (ExecFaultKind.GARBAGE, ReadFailure.BAD_OUTPUT),
            (ExecFaultKind.TRUNCATED, ReadFailure.BAD_OUTPUT),
            (ExecFaultKind.EMPTY, ReadFailure.BAD_OUTPUT),
            (ExecFaultKind.NO_BINARY, ReadFailure.NO_BINARY),
            (ExecFaultKind.INTERNAL_ERROR, ReadFailure.CONNECTION),
            (ExecFaultKind.DROPPED, ReadFailure.CONNECTION),
            (ExecFaultKind.HANG, ReadFailure.TIMEOUT),
        ],
    )
    async def test_for_a_reason_and_is_tried_again_until_it_succeeds(
        self, world: World, how: ExecFaultKind, reason: ReadFailure
    ) -> None:
        world.cluster.fail_exec(how, world.first, times=2)
        async with world.watched(exec_timeout=Duration(0.5)) as seen:
            await world.settled()
            assert seen.failures == [(world.first, reason)] * 2
            assert world.cluster.counters.peak_execs_per_node == 1

    async def test_by_hanging_and_is_left_in_peace_for_long(self, world: World) -> None:
        world.cluster.fail_exec(ExecFaultKind.HANG, world.first, times=1)
        timing = msgspec.structs.replace(FAST, pace=msgspec.structs.replace(FAST.pace, hung=600.0))
        async with world.watched(exec_timeout=Duration(0.2), timing=timing) as seen:
            await world.until(lambda: seen.failures == [(world.first, ReadFailure.TIMEOUT)])
            await world.stays(lambda: world.execs[world.first] == 1)

    def test_by_hanging_after_minutes_and_then_more_seldom_up_to_the_refresh(self) -> None:
        delays = RetryPolicy().backoff(ReadFailure.TIMEOUT, refresh=3600.0)
        assert [msgspec.structs.replace(delays, jitter=0.0).delay(n) for n in range(6)] == [
            300.0,
            600.0,
            1200.0,
            2400.0,
            3600.0,
            3600.0,
        ]
        assert RetryPolicy().backoff(ReadFailure.CONNECTION, refresh=3600.0) == RetryPolicy().retry

    async def test_and_the_one_before_it_stands(self, world: World) -> None:
        async with world.watched(refresh=Duration(0.2)) as seen:
            await world.settled()
            world.cluster.fail_exec(ExecFaultKind.GARBAGE)
            await world.until(lambda: len(seen.failures) > 8)
            assert (seen.gpus, seen.gone) == (world.truth, [])

    async def test_for_want_of_the_right(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        world.cluster.deny("create", "pods/exec")
        async with world.watched() as seen:
            await world.until(lambda: len(seen.failures) >= 8)
            assert {reason for _, reason in seen.failures} == {ReadFailure.FORBIDDEN}
            assert seen.state is ClusterState.UP
            world.cluster.allow()
            await world.settled()
        warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert "get and create" in warnings[0]

    async def test_without_an_exec_where_the_container_is_absent(self, world: World) -> None:
        source = msgspec.structs.replace(PRESETS["gpu-operator"], container="absent")
        async with world.watched(sources=(source,)) as seen:
            await world.until(lambda: len(seen.failures) >= 8)
            assert {reason for _, reason in seen.failures} == {ReadFailure.NO_CONTAINER}
            assert world.execs.total() == 0

    async def test_when_its_pod_vanishes_and_is_not_tried_again(self, world: World) -> None:
        world.cluster.hang_exec(world.first)
        async with world.watched() as seen:
            await world.until(lambda: world.execs[world.first] == 1 and len(seen.published) == 3)
            pod = world.cluster.objects.delete_pod(world.first)
            await anyio.sleep(0.1)
            world.cluster.server.execs.kill(pod)
            await world.until(lambda: seen.failures == [(world.first, ReadFailure.NOT_FOUND)])
            await world.stays(lambda: len(seen.failures) == 1 and world.execs[world.first] == 1)

    async def test_silently_when_its_node_is_gone_before_it_ends(self, world: World) -> None:
        world.cluster.slow_exec(0.3, world.first)
        async with world.watched() as seen:
            await world.until(lambda: world.execs[world.first] == 1 and len(seen.published) == 3)
            world.cluster._storage.delete(NODES, world.first)
            await world.stays(lambda: world.first not in seen.published, seconds=0.6)
            assert seen.gone == [world.first]

    async def test_once_in_the_log_for_each_change(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        world.cluster.fail_exec(ExecFaultKind.EXIT_STATUS, world.first, times=4)
        async with world.watched():
            await world.settled()
        told = [record for record in caplog.records if getattr(record, "node", None) == world.first]
        levels = Counter(record.levelname for record in told if "read" in record.message)
        assert levels == {"WARNING": 1, "DEBUG": 3, "INFO": 1}

    async def test_for_an_error_of_our_own_without_harm_to_the_others(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parse, broken = nvidia_smi.parse, [True]

        def parse_badly(output: bytes) -> nvidia_smi.Log:
            if broken:
                broken.pop()
                raise ZeroDivisionError
            return parse(output)

        monkeypatch.setattr(nvidia_smi, "parse", parse_badly)
        async with world.watched() as seen:
            await world.settled()
            assert [reason for _, reason in seen.failures] == [ReadFailure.BAD_OUTPUT]


class TestWhatACommandPrints:
    async def test_may_be_large(self, world: World) -> None:
        print_xml = world.cluster.server.execs._print_xml
        world.cluster.server.execs._print_xml = lambda node: print_xml(node) + b" " * 2_000_000
        async with world.watched():
            await world.settled()

    async def test_on_stderr_is_a_warning_once_when_it_succeeds(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        execs = world.cluster.server.execs
        outcome = execs._outcome
        execs._outcome = lambda command, fault: outcome(command, fault)._replace(stderr=b"infoROM is\ncorrupted")  # type: ignore[method-assign]
        async with world.watched(refresh=Duration(0.2)):
            await world.until(lambda: min(world.execs[node] for node in world.cluster.nodes) >= 3)
        said = Counter(record.levelname for record in caplog.records if "infoROM is corrupted" in record.message)
        assert said["WARNING"] == 4
        assert said["DEBUG"] >= 4

    async def test_on_stderr_explains_bad_output(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        world.cluster.fail_exec(ExecFaultKind.EMPTY, world.first, stderr="Failed to initialize NVML", times=1)
        async with world.watched():
            await world.settled()
        assert [r.message for r in caplog.records if r.message.endswith("; stderr: Failed to initialize NVML")]


class TestTwoSources:
    EXPORTER = PodSource(
        namespace="gpu-operator", selector="app=nvidia-dcgm-exporter", container="nvidia-dcgm-exporter"
    )

    async def test_read_each_node_once_through_the_first_that_has_a_pod_there(self, world: World) -> None:
        async with world.watched(sources=(PRESETS["gpu-operator"], self.EXPORTER)):
            await world.settled()
            assert world.execs == Counter(dict.fromkeys(world.cluster.nodes, 1))
            assert world.requested("list", "pods") == 2

    async def test_stand_in_for_one_another(self, world: World) -> None:
        world.cluster.set_ready(world.first, ready=False)
        async with world.watched(sources=(PRESETS["gpu-operator"], self.EXPORTER)) as seen:
            await world.settled()
            assert seen.published[world.first].source.startswith("gpu-operator/nvidia-dcgm-exporter-")
            world.cluster.set_ready(world.first)
            await world.until(lambda: world.execs[world.first] == 2)
            await world.settled()
            assert seen.published[world.first].source == world.cluster.pod(world.first)


class TestTheApiServerMisbehaves:
    @pytest.mark.parametrize("form", ["event", "status"])
    async def test_and_has_forgotten_our_version(self, world: World, form: Any) -> None:
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

    async def test_and_drops_every_connection(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            world.cluster.drop_connections()
            await world.until(lambda: len(seen.restarts) == 2)
            world.cluster.add_node("gpu-new")
            await world.settled()
            assert set(seen.restarts) == {("nodes", WatchRestart.CONNECTION), ("pods", WatchRestart.CONNECTION)}
            assert seen.states == [ClusterState.STARTING, ClusterState.UP]

    async def test_and_goes_silent(self, world: World) -> None:
        timing = msgspec.structs.replace(FAST, watch=msgspec.structs.replace(FAST.watch, watch=(1.0, 1.0), slack=0.3))
        async with world.watched(timing=timing) as seen:
            await world.settled()
            world.cluster.freeze_connections()
            world.cluster.add_node("gpu-new")
            await world.until(lambda: len(seen.restarts) == 2)
            await world.settled()
            assert set(seen.restarts) == {("nodes", WatchRestart.SILENT), ("pods", WatchRestart.SILENT)}

    async def test_and_is_silent_from_the_first(self, world: World) -> None:
        world.cluster.freeze_connections(new=True)
        timing = msgspec.structs.replace(FAST, watch=msgspec.structs.replace(FAST.watch, slack=0.3))
        async with world.watched(timing=timing) as seen:
            await world.until(lambda: seen.state is ClusterState.UNREACHABLE)
            assert seen.statuses[-1].message.endswith(": timed out")
            world.cluster.thaw()
            await world.settled()

    async def test_and_goes_silent_in_the_middle_of_an_exec(self, world: World) -> None:
        world.cluster.slow_exec(0.5, node=world.first)
        async with world.watched(exec_timeout=Duration(2)) as seen:
            await world.until(lambda: world.cluster.counters.open_execs[world.first])
            world.cluster.freeze_connections()
            await world.until(lambda: (world.first, ReadFailure.TIMEOUT) in seen.failures)
            await world.settled()

    async def test_and_answers_no_new_connection(self, world: World) -> None:
        timing = msgspec.structs.replace(FAST, watch=msgspec.structs.replace(FAST.watch, slack=0.3))
        async with world.watched(timing=timing) as seen:
            await world.settled()
            world.cluster.freeze_connections(new=True)
            world.cluster.drop_connections()
            await world.until(lambda: seen.state is ClusterState.UNREACHABLE)
            world.cluster.thaw()
            await world.settled()

    async def test_and_throttles_us(self, world: World) -> None:
        world.cluster.throttle(requests=2, retry_after=1)
        async with world.watched():
            await world.settled()

    async def test_and_ends_watches_in_time_which_counts_for_nothing(self, world: World) -> None:
        timing = msgspec.structs.replace(FAST, watch=msgspec.structs.replace(FAST.watch, watch=(1.0, 1.0)))
        async with world.watched(timing=timing) as seen:
            await world.until(lambda: world.requested("watch") >= 6)
            await world.settled()
            assert (seen.restarts, seen.states) == ([], [ClusterState.STARTING, ClusterState.UP])
            assert (world.requested("list"), world.execs.total()) == (2, 4)

    async def test_and_refuses_our_token_for_a_while(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        async with world.watched() as seen:
            await world.settled()
            world.cluster.refuse_tokens()
            world.cluster.drop_connections()
            await world.until(lambda: seen.state is ClusterState.UNAUTHORIZED)
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

    async def test_and_goes_away_and_comes_back_to_other_nodes(self, world: World) -> None:
        async with world.watched(refresh=Duration(0.3)) as seen:
            await world.settled()
            await world.cluster.stop()
            await world.until(lambda: seen.state is ClusterState.UNREACHABLE)
            await anyio.sleep(0.2)
            failures = len(seen.failures)
            await world.stays(lambda: len(seen.published) == 4 and len(seen.failures) == failures)
            world.cluster.delete_node(world.first)
            await world.cluster.start()
            await world.settled()
            assert seen.gone == [world.first]

    async def test_and_forbids_one_thing_which_says_what(self, world: World) -> None:
        world.cluster.deny("list", "nodes")
        async with world.watched() as seen:
            await world.until(lambda: seen.state is ClusterState.FORBIDDEN)
            assert "nodes" in seen.statuses[-1].message
            await world.stays(lambda: not seen.published)
            world.cluster.allow()
            await world.settled()

    async def test_and_is_not_there_at_first(self, world: World) -> None:
        await world.cluster.stop()
        async with world.watched() as seen:
            await world.until(lambda: seen.state is ClusterState.UNREACHABLE)
            await world.cluster.start()
            await world.settled()


class TestTheContextIsBad:
    async def test_until_the_kubeconfig_is_mended(self, world: World, tmp_path: Path) -> None:
        path = tmp_path / "mended"
        path.write_text(json.dumps({"contexts": []}))
        async with world.watched(kubeconfig=str(path)) as seen:
            await world.until(lambda: seen.state is ClusterState.BAD_CONTEXT)
            assert "sim-0" in seen.statuses[-1].message
            path.write_text(world.simulator.kubeconfig.read_text())
            await world.settled()
            assert seen.states == [ClusterState.STARTING, ClusterState.BAD_CONTEXT, ClusterState.UP]


class TestStopping:
    async def test_leaves_nothing_open(self, world: World) -> None:
        world.cluster.hang_exec()
        async with world.watched(exec_concurrency=2):
            await world.until(lambda: world.cluster.counters.open_execs.total() == 2)
        await world.until(lambda: not world.cluster.counters.open_execs and not world.cluster.counters.open_watches)


def change(world: World, node: str, act: Callable[[dict[str, Any]], None]) -> None:
    """Change a node's status behind the simulation's back."""
    world.cluster.objects.edit(NODES, node, lambda document: act(document["status"]))
