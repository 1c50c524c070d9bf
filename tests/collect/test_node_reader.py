"""The outcome of a reading, from the exec to the observer and the log, in a simulated cluster."""

import json
import logging
from collections import Counter
from typing import Any

import anyio
import msgspec
import pytest

from collector.cli.logs import JsonFormatter
from collector.collect import nvidia_smi
from collector.config import PRESETS, Duration
from collector.model import ClusterState, ReadFailure
from collector.simulator import ExecFaultKind
from collector.simulator.objects import NODES
from collector.simulator.smi import Printed
from tests.collect.world import FAST, World
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


class TestFailedReadings:
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
    async def test_a_failed_reading_is_retried_until_it_succeeds(
        self, world: World, how: ExecFaultKind, reason: ReadFailure
    ) -> None:
        world.cluster.fail_exec(how, world.first, times=2)
        timeout = 0.5 if how is ExecFaultKind.HANG else 60.0
        async with world.watched(exec_timeout=Duration(timeout)) as seen:
            await world.settled()
            assert seen.failures == [(world.first, reason)] * 2
            assert world.cluster.counters.peak_execs_per_node == 1

    async def test_a_node_whose_command_hangs_is_not_retried_soon(self, world: World) -> None:
        world.cluster.fail_exec(ExecFaultKind.HANG, world.first, times=1)
        intervals = msgspec.structs.replace(FAST, retry=msgspec.structs.replace(FAST.retry, timeout_delay=600.0))
        async with world.watched(exec_timeout=Duration(0.2), intervals=intervals) as seen:
            await eventually(lambda: seen.failures == [(world.first, ReadFailure.TIMEOUT)])
            await world.stays(lambda: world.execs[world.first] == 1)

    async def test_the_previous_reading_stands(self, world: World) -> None:
        async with world.watched(refresh=Duration(0.2)) as seen:
            await world.settled()
            world.cluster.fail_exec(ExecFaultKind.GARBAGE)
            await eventually(lambda: len(seen.failures) > 8)
            assert (seen.gpus, seen.gone) == (world.truth, [])

    async def test_a_missing_right_is_warned_of_once(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        world.cluster.deny("create", "pods/exec")
        async with world.watched() as seen:
            await eventually(lambda: len(seen.failures) >= 8)
            assert {reason for _, reason in seen.failures} == {ReadFailure.FORBIDDEN}
            assert seen.state is ClusterState.UP
            world.cluster.allow()
            await world.settled()
        warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1
        assert "get and create" in warnings[0]

    async def test_more_gpus_than_a_cluster_may_have_fail_the_reading(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with world.watched(max_gpus=5) as seen:
            await eventually(lambda: len(seen.published) == 2 and len(seen.failures) >= 2)
            assert {reason for _, reason in seen.failures} == {ReadFailure.BAD_OUTPUT}
            assert seen.published.keys().isdisjoint(node for node, _ in seen.failures)
            gone, *_ = seen.published
            world.cluster.delete_node(gone)
            await eventually(lambda: len(seen.published) == 2 and gone not in seen.published)
        assert "with its GPUs the cluster would have more than 5 (max_gpus)" in caplog.text

    async def test_a_pod_without_the_container_is_not_executed(self, world: World) -> None:
        source = msgspec.structs.replace(PRESETS["gpu-operator"][0], container="absent")
        async with world.watched(sources=(source,)) as seen:
            await eventually(lambda: seen.uncovered == dict.fromkeys(world.cluster.nodes, ReadFailure.NO_CONTAINER))
            await world.stays(lambda: not seen.failures and world.execs.total() == 0)

    async def test_a_pod_that_vanishes_is_not_retried(self, world: World) -> None:
        world.cluster.hang_exec(world.first)
        async with world.watched() as seen:
            await eventually(lambda: world.execs[world.first] == 1 and len(seen.published) == 3)
            pod = world.cluster.objects.delete_pod(world.first)
            await anyio.sleep(0.1)
            world.cluster.server.execs.kill(pod)
            await eventually(lambda: seen.failures == [(world.first, ReadFailure.NOT_FOUND)])
            await world.stays(lambda: len(seen.failures) == 1 and world.execs[world.first] == 1)

    async def test_a_node_deleted_during_its_reading_is_not_a_failure(self, world: World) -> None:
        world.cluster.slow_exec(3.0, world.first)
        async with world.watched() as seen:
            await eventually(lambda: world.execs[world.first] == 1 and len(seen.published) == 3)
            world.cluster.server.storage.delete(NODES, world.first)
            await eventually(lambda: not world.cluster.counters.open_execs[world.first])
            await world.stays(lambda: world.first not in seen.published)
            assert (seen.gone, seen.failures) == ([world.first], [])

    async def test_a_failure_is_warned_of_once(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        world.cluster.fail_exec(ExecFaultKind.EXIT_STATUS, world.first, times=4)
        async with world.watched():
            await world.settled()
        records = [record for record in caplog.records if getattr(record, "node", None) == world.first]
        assert [record.levelname for record in records] == ["WARNING", "DEBUG", "DEBUG", "DEBUG", "INFO"]
        assert {record.getMessage().partition(": ")[0] for record in records[:-1]} == {"reading failed"}
        assert records[-1].getMessage() == "node readable again"

    async def test_the_log_names_cluster_node_pod_and_reason(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        world.cluster.fail_exec(ExecFaultKind.EXIT_STATUS, world.first, times=1)
        async with world.watched():
            await world.settled()
        records = [record for record in caplog.records if record.name.startswith("collector.collect.")]
        events = [json.loads(JsonFormatter().format(record)) for record in records]
        fields = {event["message"].partition(":")[0]: list(event.items())[4:] for event in events}
        assert fields == {
            "cluster up": [("cluster", "sim-0"), ("state", "up")],
            "reading failed": [
                ("cluster", "sim-0"),
                ("node", world.first),
                ("pod", world.cluster.pod(world.first)),
                ("reason", "exit_status"),
            ],
            "node readable again": [
                ("cluster", "sim-0"),
                ("node", world.first),
                ("pod", world.cluster.pod(world.first)),
            ],
        }

    async def test_a_bug_in_one_reading_does_not_harm_the_others(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parse, broken = nvidia_smi.parse, [True]

        def parse_badly(*arguments: Any, **options: Any) -> nvidia_smi.Report:
            if broken:
                broken.pop()
                raise ZeroDivisionError
            return parse(*arguments, **options)

        monkeypatch.setattr(nvidia_smi, "parse", parse_badly)
        async with world.watched() as seen:
            await world.settled()
            assert [reason for _, reason in seen.failures] == [ReadFailure.BAD_OUTPUT]


class TestCommandOutput:
    async def test_a_large_output_is_parsed(self, world: World) -> None:
        execs = world.cluster.server.execs
        run_smi = execs._run_smi
        execs._run_smi = lambda node, argv: Printed(run_smi(node, argv).stdout + b" " * 2_000_000)
        async with world.watched():
            await world.settled()

    async def test_stderr_of_a_successful_command_is_warned_of_once(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        execs = world.cluster.server.execs
        outcome = execs._outcome
        execs._outcome = lambda command, fault: outcome(command, fault)._replace(stderr=b"infoROM is\ncorrupted")  # type: ignore[method-assign]
        async with world.watched(refresh=Duration(0.2)):
            await eventually(lambda: min(world.execs[node] for node in world.cluster.nodes) >= 3)
        said = Counter(record.levelname for record in caplog.records if "infoROM is corrupted" in record.message)
        assert said["WARNING"] == 4
        assert said["DEBUG"] >= 4

    async def test_bad_output_is_logged_with_stderr(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        world.cluster.fail_exec(ExecFaultKind.EMPTY, world.first, stderr="Failed to initialize NVML", times=1)
        async with world.watched():
            await world.settled()
        assert [r.message for r in caplog.records if r.message.endswith("; stderr: Failed to initialize NVML")]
