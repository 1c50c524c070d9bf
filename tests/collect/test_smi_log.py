"""Nodes that are read from the logs of pods that print, in a simulated cluster."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import msgspec
import pytest

from collector.collect import log_times, node_reader, smi_log
from collector.collect.log_times import LookPolicy
from collector.config import PRESETS, Duration, PodSource, Size, SourceMethod
from collector.kube import logs
from collector.model import ReadFailure, Uncovered
from collector.simulator import LogFaultKind
from collector.simulator.objects import NODES
from collector.simulator.smi import Printed
from tests.collect.world import FAST, World
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

READER = PodSource(
    namespace="gpuid",
    selector="app.kubernetes.io/name=gpuid-reader",
    container="reader",
    method=SourceMethod.LOG,
)
PLUGIN = PRESETS["gpu-operator"][0]
FAKE = """x</process_name></process_info></processes></gpu></nvidia_smi_log>
<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
<attached_gpus>1</attached_gpus>
<gpu id="00000000:01:00.0"><uuid>{uuid}</uuid><processes><process_info><process_name>y"""
FROM_LOGS: dict[str, Any] = {"sources": (READER,)}


@pytest.fixture(autouse=True)
def instant_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated nvidia-smi takes no time, so that a document is known to be newer as soon as it is."""
    monkeypatch.setattr(log_times, "RUN_SECONDS", 0.0)


@pytest.fixture
def printing(world: World) -> World:
    """A cluster whose pods have printed once, and print on demand from now on."""
    world.cluster.deny("create", "pods/exec")
    world.cluster.deny("get", "pods/exec")
    world.cluster.add_readers()
    return world


def print_from_the_start(
    world: World, monkeypatch: pytest.MonkeyPatch, run: Callable[[str, Sequence[str]], Printed]
) -> None:
    """Have the pods print what a function returns; nothing of before is left in their logs."""
    logs = world.cluster.server.logs
    monkeypatch.setattr(logs, "_run_smi", run)
    logs._runs.clear()
    logs.print_all()


async def unchanged(world: World) -> bool:
    """Return whether no log is requested for a while."""
    requests = world.requested("log", "pods")
    await anyio.sleep(0.4)
    return world.requested("log", "pods") == requests


async def looked_at(world: World, times: int) -> None:
    """Wait until logs were read this many more times."""
    before = world.requested("log", "pods")
    await eventually(lambda: world.requested("log", "pods") > before + times)


class TestReadings:
    async def test_every_gpu_is_found_without_the_right_to_exec(self, printing: World) -> None:
        async with printing.watched(**FROM_LOGS) as seen:
            await printing.settled()
            assert seen.failures == []
        assert printing.execs.total() == 0
        assert printing.requested("log", "pods") >= 4

    async def test_a_reading_has_the_time_it_was_printed(self, printing: World) -> None:
        printing.cluster.print_now()
        before = time.time()
        await anyio.sleep(0.2)
        async with printing.watched(**FROM_LOGS) as seen:
            await printing.settled()
            assert all(reading.time <= before for reading in seen.readings)
            assert all(reading.started is not None and reading.started < 0 for reading in seen.readings)

    async def test_the_same_document_confirms_nothing_again(self, printing: World) -> None:
        async with printing.watched(**FROM_LOGS, refresh=Duration(0.2)) as seen:
            await printing.settled()
            await looked_at(printing, 16)
            assert len({(reading.node.name, reading.time, reading.started) for reading in seen.readings}) == 4

    async def test_a_newer_document_makes_the_reading_new(self, printing: World) -> None:
        async with printing.watched(**FROM_LOGS, refresh=Duration(0.2)) as seen:
            await printing.settled()
            first = dict(seen.published)
            asked = anyio.current_time()
            await anyio.sleep(0.4)
            printing.cluster.swap_tray(printing.first)
            printing.cluster.print_now()
            await printing.settled()
            now = seen.published[printing.first]
            assert now.time > first[printing.first].time
            assert now.started is not None
            assert asked < now.started < anyio.current_time()

    async def test_a_lost_gpu_is_lost_although_nothing_was_run(self, printing: World) -> None:
        async with printing.watched(**FROM_LOGS, refresh=Duration(0.2)) as seen:
            await printing.settled()
            printing.cluster.lose_gpu(printing.first, silent=True)
            await anyio.sleep(0.1)
            printing.cluster.print_now(printing.first)
            await eventually(lambda: any(seen.lost))
            assert seen.failures[-1] == (printing.first, ReadFailure.BAD_OUTPUT)
            assert "no document since: Unable to determine the device handle" in seen.messages[-1]
            printing.cluster.reboot_node(printing.first)
            await anyio.sleep(0.1)
            printing.cluster.print_now(printing.first)
            await printing.settled()
            await eventually(lambda: seen.readings[-1].time > time.time() - 5)

    async def test_a_document_longer_than_expected_is_read(
        self, printing: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(smi_log, "_LINES_PER_GPU", 60)
        async with printing.watched(**FROM_LOGS) as seen:
            await printing.settled()
            assert seen.failures == []
            assert printing.requested("log", "pods") == 8

    async def test_a_document_in_a_process_name_is_ignored(self, printing: World) -> None:
        name = FAKE.format(uuid="GPU-11111111-0000-0000-0000-000000000000")
        printing.cluster.run_process(name, printing.first)
        await anyio.sleep(0.1)
        printing.cluster.print_now(printing.first)
        async with printing.watched(**FROM_LOGS) as seen:
            await eventually(lambda: len(seen.published) == 4)
            first = seen.published[printing.first]
            assert {(printing.first, gpu.uuid) for gpu in first.gpus} < printing.truth
            assert first.partial

    async def test_a_large_log_is_read(self, printing: World) -> None:
        for _ in range(5):
            await anyio.sleep(0.06)
            printing.cluster.print_now()
        async with printing.watched(**FROM_LOGS) as seen:
            await printing.settled()
            assert seen.failures == []


class TestFailures:
    @pytest.mark.parametrize(
        ("how", "reason", "text"),
        [
            (LogFaultKind.EMPTY, ReadFailure.NO_DOCUMENT, "has no nvidia-smi output; does the pod print"),
            (LogFaultKind.ROTATED, ReadFailure.NO_DOCUMENT, "begins in the middle of a document: it was rotated"),
            (LogFaultKind.CUT, ReadFailure.NO_DOCUMENT, "has no complete nvidia-smi output"),
            (LogFaultKind.OTHER, ReadFailure.BAD_OUTPUT, "in the log: waiting for the driver"),
            (
                LogFaultKind.UNREADABLE,
                ReadFailure.CONNECTION,
                "the response was: unable to retrieve container logs for ",
            ),
            (LogFaultKind.GARBAGE, ReadFailure.BAD_OUTPUT, "no nvidia-smi output in the log"),
        ],
    )
    async def test_a_log_without_a_document_is_a_failure_until_it_has_one(
        self, printing: World, how: LogFaultKind, reason: ReadFailure, text: str
    ) -> None:
        printing.cluster.fail_log(how, printing.first)
        async with printing.watched(**FROM_LOGS) as seen:
            await eventually(lambda: len(seen.failures) > 1)
            assert set(seen.failures) == {(printing.first, reason)}
            assert text in seen.messages[0]
            printing.cluster.heal_log()
            await printing.settled()

    async def test_a_pod_that_just_started_gets_time(self, printing: World) -> None:
        printing.cluster.fail_log(LogFaultKind.EMPTY)
        patient = msgspec.structs.replace(FAST, retry=msgspec.structs.replace(FAST.retry, first_document=600.0))
        async with printing.watched(**FROM_LOGS, intervals=patient) as seen:
            await eventually(lambda: printing.requested("log", "pods") > 12)
            assert (seen.failures, seen.readings, seen.uncovered) == ([], [], {})
            printing.cluster.heal_log()
            await printing.settled()
            assert seen.failures == []

    async def test_an_old_document_is_used_and_reported(
        self, printing: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        printing.cluster.add_readers(age=86400.0)
        printing.cluster.fail_log(LogFaultKind.OLD, printing.first, seconds=47 * 60)
        async with printing.watched(**FROM_LOGS, refresh=Duration(600)) as seen:
            await eventually(lambda: seen.gpus == printing.truth and len(seen.failures) > 3)
            assert set(seen.failures) == {(printing.first, ReadFailure.STALE)}
            assert "printed 47 min ago, at 20" in seen.messages[0]
            assert len([one for one in seen.readings if one.node.name == printing.first]) == 1
            assert seen.published[printing.first].time < time.time() - 46 * 60
            printing.cluster.heal_log()
            printing.cluster.print_now()
            await eventually(lambda: seen.published[printing.first].time > time.time() - 60)
            failures = len(seen.failures)
            await printing.stays(lambda: len(seen.failures) == failures)
        warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 1

    async def test_a_wrong_clock_never_gives_a_future_time(
        self, printing: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        printing.cluster.fail_log(LogFaultKind.CLOCK, printing.first, seconds=1800)
        async with printing.watched(**FROM_LOGS, refresh=Duration(0.2)) as seen:
            await printing.settled()
            await looked_at(printing, 16)
            times = {reading.time for reading in seen.readings if reading.node.name == printing.first}
            assert len(times) == 1
            assert max(times) <= time.time()
        warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert warnings == ["the node's clock is 30 min ahead of ours; its log is dated by ours"]

    async def test_a_fast_clock_makes_nothing_look_new_after_restart(self, printing: World) -> None:
        printing.cluster.fail_log(LogFaultKind.CLOCK, printing.first, seconds=7200)
        async with printing.watched(**FROM_LOGS) as seen:
            await printing.settled()
            known = seen.known()
        await anyio.sleep(0.3)
        often = msgspec.structs.replace(FAST.retry, looks=LookPolicy(period=0.2, pause=0.1))
        fast = msgspec.structs.replace(FAST, retry=often)
        async with printing.watched(**FROM_LOGS, known=known, intervals=fast) as seen:
            await eventually(lambda: len(seen.published) == 4)
            assert {name: reading.time for name, reading in seen.published.items()} == {
                name: one.time for name, one in known.items()
            }
            printing.cluster.print_now()
            await eventually(lambda: seen.published[printing.first].time > known[printing.first].time)

    async def test_a_missing_right_names_the_right(self, printing: World) -> None:
        printing.cluster.deny("get", "pods/log")
        async with printing.watched(**FROM_LOGS) as seen:
            await eventually(lambda: len(seen.failures) >= 4)
            assert {reason for _, reason in seen.failures} == {ReadFailure.FORBIDDEN}
            assert "pods/log needs the verb get" in seen.messages[0]

    async def test_each_missing_right_is_logged(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        world.cluster.add_readers(world.first)
        world.cluster.remove_pod(world.first)
        for resource in ("pods/exec", "pods/log"):
            world.cluster.deny("get", resource)
            world.cluster.deny("create", resource)
        async with world.watched(sources=(PLUGIN, READER)) as seen:
            await eventually(lambda: {node for node, _ in seen.failures} == set(world.cluster.nodes))
        warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 2
        assert any("pods/exec" in text for text in warnings)
        assert any("pods/log" in text for text in warnings)

    async def test_a_log_larger_than_the_budget_is_a_failure(self, printing: World) -> None:
        async with printing.watched(**FROM_LOGS, max_log_size=Size(4096)) as seen:
            await eventually(lambda: len(seen.failures) >= 4)
            assert {reason for _, reason in seen.failures} == {ReadFailure.BAD_OUTPUT}
            assert "are larger than 4KiB (max_log_size)" in seen.messages[0]

    @pytest.mark.parametrize(
        ("lines", "reason"),
        [
            (["gpuid-reader: nvidia-smi printed no document and ended with exit status 9"], ReadFailure.EXIT_STATUS),
            (
                ["not found", "gpuid-reader: nvidia-smi printed no document and ended with exit status 127"],
                ReadFailure.NO_BINARY,
            ),
            (
                [
                    "gpuid-reader: nvidia-smi has not ended after 60 s; ending it",
                    "gpuid-reader: nvidia-smi printed no document and ended with exit status 143",
                ],
                ReadFailure.TIMEOUT,
            ),
            (["gpuid-reader: nvidia-smi cannot be killed after 300 s: it hangs in the driver"], ReadFailure.TIMEOUT),
            (["NVIDIA-SMI has failed"], ReadFailure.BAD_OUTPUT),
        ],
    )
    async def test_the_message_of_the_reader_is_the_reason(
        self, printing: World, monkeypatch: pytest.MonkeyPatch, lines: list[str], reason: ReadFailure
    ) -> None:
        said = Printed("\n".join(lines).encode(), 9)
        print_from_the_start(printing, monkeypatch, lambda _node, _argv: said)
        async with printing.watched(**FROM_LOGS) as seen:
            await eventually(lambda: len(seen.failures) >= 8)
            assert {reason for _, reason in seen.failures} == {reason}

    @pytest.mark.parametrize(("status", "partial"), [(14, False), (15, True)])
    async def test_an_exit_status_named_by_the_reader_is_used(
        self, printing: World, monkeypatch: pytest.MonkeyPatch, status: int, partial: bool
    ) -> None:
        line = f"gpuid-reader: nvidia-smi printed its document, but ended with exit status {status}\n".encode()
        run = printing.cluster.server.logs._run_smi
        print_from_the_start(printing, monkeypatch, lambda node, argv: Printed(line + run(node, argv).stdout))
        async with printing.watched(**FROM_LOGS) as seen:
            await printing.settled()
            assert {reading.partial for reading in seen.readings} == {partial}

    async def test_our_secrets_are_not_repeated(self, printing: World, monkeypatch: pytest.MonkeyPatch) -> None:
        said = Printed(f"error: {printing.cluster.token}\n".encode(), 9)
        async with printing.watched(**FROM_LOGS, refresh=Duration(0.2)) as seen:
            await printing.settled()
            monkeypatch.setattr(printing.cluster.server.logs, "_run_smi", lambda _node, _argv: said)
            printing.cluster.print_now()
            await eventually(lambda: len(seen.messages) >= 4)
            assert not any(printing.cluster.token in message for message in seen.messages)
            assert "no document since: error: " in seen.messages[0]


class TestClaims:
    async def test_only_a_document_printed_after_the_question_answers_it(self, printing: World) -> None:
        async with printing.watched_by(**FROM_LOGS) as (watcher, seen):
            await printing.settled()
            asked, reads = anyio.current_time(), printing.requested("log", "pods")
            assert watcher.verify(printing.first)
            await eventually(lambda: printing.requested("log", "pods") > reads + 3)
            assert all(reading.started is not None and reading.started < asked for reading in seen.readings)
            printing.cluster.print_now()
            await eventually(lambda: (seen.published[printing.first].started or 0) >= asked)
            reads = printing.requested("log", "pods")
            await printing.stays(lambda: printing.requested("log", "pods") == reads)

    async def test_a_newer_document_is_not_waited_for_without_an_end(self, printing: World) -> None:
        impatient = msgspec.structs.replace(FAST, retry=msgspec.structs.replace(FAST.retry, newer_patience=0.3))
        async with printing.watched_by(**FROM_LOGS, intervals=impatient) as (watcher, _seen):
            await printing.settled()
            assert watcher.verify(printing.first)
            await anyio.sleep(1.0)
            reads = printing.requested("log", "pods")
            await printing.stays(lambda: printing.requested("log", "pods") == reads)


class TestWhatWasAnswered:
    @pytest.mark.parametrize("answer", [b"unable to retrieve container logs", b"<html>\n<body>Sign in</body>\n"])
    async def test_the_answer_is_reported_unchanged(
        self, printing: World, monkeypatch: pytest.MonkeyPatch, answer: bytes
    ) -> None:
        async def read_tail(*_args: Any, **_options: Any) -> bytes:
            return answer

        monkeypatch.setattr(logs, "read_tail", read_tail)
        async with printing.watched(**FROM_LOGS) as seen:
            await eventually(lambda: len(seen.failures) >= 4)
            assert {reason for _, reason in seen.failures} == {ReadFailure.CONNECTION}
            assert " ".join(answer.decode().split()) in seen.messages[0]


class TestWhenToLook:
    async def test_new_output_is_seen_long_before_the_refresh(self, printing: World) -> None:
        often = msgspec.structs.replace(FAST.retry, looks=LookPolicy(period=0.5, pause=0.1))
        async with printing.watched(**FROM_LOGS, intervals=msgspec.structs.replace(FAST, retry=often)) as seen:
            await printing.settled()
            printing.cluster.swap_tray(printing.first)
            printing.cluster.print_now()
            await printing.settled()
            assert seen.failures == []

    async def test_an_unchanged_log_is_not_transferred(self, printing: World, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[int] = []
        read_tail = logs.read_tail

        async def read_and_count(*args: Any, lines: int, timeout: float) -> bytes:
            asked.append(lines)
            return await read_tail(*args, lines=lines, timeout=timeout)

        monkeypatch.setattr(logs, "read_tail", read_and_count)
        often = msgspec.structs.replace(FAST.retry, looks=LookPolicy(period=0.2, pause=0.1))
        async with printing.watched(**FROM_LOGS, intervals=msgspec.structs.replace(FAST, retry=often)) as seen:
            await printing.settled()
            await eventually(lambda: asked.count(1) > 16)
            assert len(asked) - asked.count(1) <= 8  # when they were read first, and when they were to have printed
            assert seen.failures == []

    async def test_a_node_change_needs_output_printed_after_it(self, printing: World) -> None:
        async with printing.watched(**FROM_LOGS) as seen:
            await printing.settled()
            reads = printing.requested("log", "pods")
            printing.cluster.lose_gpu(printing.first)
            await eventually(lambda: printing.requested("log", "pods") > reads + 3)
            assert len([reading for reading in seen.readings if reading.node.name == printing.first]) == 1
            printing.cluster.print_now(printing.first)
            await printing.settled()
            reads = printing.requested("log", "pods")
            await printing.stays(lambda: printing.requested("log", "pods") == reads)

    async def test_the_first_output_of_a_replaced_pod_is_enough(self, printing: World) -> None:
        async with printing.watched(**FROM_LOGS) as seen:
            await printing.settled()
            printing.cluster.swap_tray(printing.first)
            printing.cluster.add_readers(printing.first)
            await printing.settled()
            await eventually(lambda: unchanged(printing))
            assert seen.failures == []

    async def test_an_earlier_run_leads_to_another_look(self, printing: World) -> None:
        async with printing.watched(**FROM_LOGS) as seen:
            await printing.settled()
            known = seen.known()
        printing.cluster.swap_tray(printing.first)
        printing.cluster.print_now()
        often = msgspec.structs.replace(FAST.retry, looks=LookPolicy(period=0.5, pause=0.1))
        fast = msgspec.structs.replace(FAST, retry=often)
        async with printing.watched(**FROM_LOGS, known=known, intervals=fast):
            await printing.settled()

    async def test_a_rotated_log_is_tolerated_while_readings_are_fresh(self, printing: World) -> None:
        often = msgspec.structs.replace(FAST.retry, looks=LookPolicy(period=0.2, pause=0.1), first_document=0.0)
        fast = msgspec.structs.replace(FAST, retry=often)
        async with printing.watched(**FROM_LOGS, intervals=fast) as seen:
            await printing.settled()
            for how in (LogFaultKind.EMPTY, LogFaultKind.ROTATED, LogFaultKind.CUT):
                printing.cluster.fail_log(how)
                await looked_at(printing, 12)
            assert seen.failures == []
            known = seen.known()
        async with printing.watched(**FROM_LOGS, known=known, intervals=fast) as seen:
            await looked_at(printing, 12)
            assert seen.failures == []
            printing.cluster.heal_log()
            printing.cluster.swap_tray(printing.first)
            printing.cluster.print_now()
            await eventually(lambda: printing.truth >= seen.gpus and len(seen.published) == 4)
            assert seen.failures == []

    async def test_a_log_that_stays_without_a_document_is_stale(
        self, printing: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(node_reader, "STALE_SECONDS", 1.0)
        async with printing.watched(**FROM_LOGS, refresh=Duration(0.2)) as seen:
            await printing.settled()
            printing.cluster.fail_log(LogFaultKind.EMPTY)
            await eventually(lambda: len(set(seen.failures)) == 4)
            assert {reason for _, reason in seen.failures} == {ReadFailure.STALE}


class TestBothMethods:
    async def test_a_node_is_read_by_the_first_source_that_covers_it(self, world: World) -> None:
        world.cluster.add_readers(world.first)
        world.cluster.add_readers(world.second)
        world.cluster.remove_pod(world.first)
        async with world.watched(sources=(PLUGIN, READER)) as seen:
            await world.settled()
            assert world.execs.keys() == set(world.cluster.nodes) - {world.first}
            assert seen.published[world.first].source.startswith("gpuid/gpuid-reader-")
            world.cluster.restore_pod(world.first)
            await eventually(lambda: seen.published[world.first].source.startswith("gpu-operator/"))
            await world.settled()

    async def test_an_older_document_does_not_undo_the_last_reading(self, world: World) -> None:
        world.cluster.add_readers()
        await anyio.sleep(1.2)
        async with world.watched(sources=(PLUGIN, READER)) as seen:
            await world.settled()
            world.cluster.swap_tray(world.first)
            world.cluster.restart_container(world.first)
            await world.settled()
            world.cluster.remove_pod(world.first)
            await eventually(lambda: world.requested("log", "pods") > 2)
            assert seen.gpus == world.truth
            world.cluster.print_now(world.first)
            await eventually(lambda: seen.published[world.first].source.startswith("gpuid/"))
            await world.settled()
            assert seen.failures == []

    async def test_a_node_without_any_pod_says_so(self, world: World) -> None:
        async with world.watched(**FROM_LOGS, grace=Duration(0)) as seen:
            await eventually(lambda: set(seen.uncovered.values()) == {Uncovered.NO_POD})
            assert world.cluster.server.storage.get(NODES, world.first) is not None
