"""Reading a node whose nvidia-smi prints no document, because one of its GPUs does not respond."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from collector.collect.smi_command import MAX_SINGLE_READS, command_for_one
from collector.config import Duration
from collector.model import GpuRef, ReadFailure, canonical_bus_id
from collector.simulator import ExecFaultKind, Simulator
from collector.simulator.smi import Printed
from tests.collect.world import World
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


class TestTheCommandForOneGpu:
    @pytest.mark.parametrize(
        "command",
        [
            ["nvidia-smi", "-q", "-x"],
            ["/usr/local/nvidia/bin/nvidia-smi", "-q", "-x"],
            ["chroot", "/driver-root", "nvidia-smi", "--query", "--xml-format"],
            ["timeout", "-s", "KILL", "20", "nvidia-smi", "-x", "-q"],
        ],
    )
    async def test_is_the_configured_one_with_an_option(self, command: list[str]) -> None:
        assert command_for_one(command, "00000000:18:00.0") == [*command, "-i", "00000000:18:00.0"]

    @pytest.mark.parametrize(
        "command",
        [
            ["sh", "-c", "nvidia-smi -q -x"],
            ["cat", "/host/nvidia-smi.xml"],
            ["nvidia-smi", "-q", "-x", "-i", "0"],
            ["nvidia-smi", "-q", "-x", "--id=0"],
            ["nvidia-smi", "-q", "-x", "&&", "true"],
        ],
    )
    async def test_is_none_if_the_command_is_not_nvidia_smi(self, command: list[str]) -> None:
        assert command_for_one(command, "0") is None


class TestOneByOne:
    async def test_known_gpus_are_read_by_their_addresses(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            uuid, *_ = (card.uuid for card in world.simulator.fleet.cards("sim-0", world.first))
            world.cluster.lose_gpu(world.first, uuid, silent=True)
            await eventually(lambda: seen.published[world.first].lost)
            reading = seen.published[world.first]
            assert uuid not in {gpu.uuid for gpu in reading.gpus}
            assert (len(reading.gpus), reading.partial, reading.unread) == (1, True, ())
            assert reading.lost == (GpuRef(None, "00000000:19:00.0"),)
            assert world.cluster.counters.peak_execs_per_node == 1
            assert seen.failures == []

    @pytest.mark.parametrize("preset", ["gke", "dra"])
    async def test_the_command_of_a_preset_reads_one_by_one(self, preset: str, tmp_path: Path) -> None:
        async with Simulator(
            clusters=1, nodes=2, gpus=2, latency=0.0, directory=tmp_path, shapes=[preset]
        ) as simulator:
            world = World(simulator)
            world.cluster.lose_gpu(world.first, silent=True)
            async with world.watched(preset=preset) as seen:
                await eventually(lambda: world.first in seen.published)
                assert len(seen.published[world.first].gpus) == 1
                assert seen.failures == []

    async def test_unknown_gpus_are_read_by_index(self, world: World) -> None:
        uuid, *_ = (card.uuid for card in world.simulator.fleet.cards("sim-0", world.first))
        world.cluster.lose_gpu(world.first, uuid, silent=True)
        async with world.watched() as seen:
            await eventually(lambda: world.first in seen.published)
            assert len(seen.published[world.first].gpus) == 1
            assert world.execs[world.first] == 3  # the whole, and each of the two

    async def test_it_is_repeated_until_the_gpu_answers(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            world.cluster.lose_gpu(world.first, silent=True)
            await eventually(lambda: len([one for one in seen.readings if one.lost]) >= 3)
            world.simulator.fleet.reboot("sim-0", world.first)
            await eventually(lambda: not seen.published[world.first].lost)
            await eventually(lambda: len(seen.published[world.first].gpus) == 2)
            read = len(seen.readings)
            await world.stays(lambda: len(seen.readings) == read)

    async def test_a_second_silent_gpu_is_named_too(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            cards = world.simulator.fleet.cards("sim-0", world.first)
            for card in cards:
                world.cluster.lose_gpu(world.first, card.uuid, silent=True)
            await eventually(lambda: any(len(lost) == 2 for lost in seen.lost))
            assert {ref.pci_bus_id for ref in max(seen.lost, key=len)} == {
                canonical_bus_id(one.bus_id) for one in cards
            }
            assert (world.first, ReadFailure.EXIT_STATUS) in seen.failures
            assert "Unable to determine the device handle for GPU0: 0000:19:00.0: Unknown Error" in seen.messages[-1]

    @pytest.mark.parametrize(
        ("printed", "unread"),
        [
            (Printed(b"", 0), True),
            (Printed(b"<nvidia_smi_log>\n<gpu>", 137), True),
            (Printed(b"Failed to initialize NVML: Driver Not Loaded\n", 9), True),
            (Printed(b"No devices were found\n", 6), False),
        ],
    )
    async def test_a_gpu_whose_own_command_fails_is_not_read_rather_than_lost(
        self, printed: Printed, unread: bool, tmp_path: Path
    ) -> None:
        async with Simulator(clusters=1, nodes=2, gpus=3, latency=0.0, directory=tmp_path) as simulator:
            world = World(simulator)
            silent, failing, _ = simulator.fleet.cards("sim-0", world.first)
            execs = world.cluster.server.execs
            run_smi = execs._run_smi

            def fail_for_one(node: str, argv: Sequence[str]) -> Printed:
                return printed if failing.bus_id in argv else run_smi(node, argv)

            async with world.watched() as seen:
                await world.settled()
                execs._run_smi = fail_for_one
                world.cluster.lose_gpu(world.first, silent.uuid, silent=True)
                await eventually(lambda: seen.published[world.first].lost)
                reading = seen.published[world.first]
                assert reading.lost == (GpuRef(None, silent.bus_id),)
                assert [one.uuid for one in reading.unread] == [failing.uuid] * unread

    async def test_it_stops_at_the_first_command_that_hangs(self, world: World) -> None:
        async with world.watched(exec_timeout=Duration(0.5)) as seen:
            await world.settled()
            execs = world.cluster.server.execs
            run_smi = execs._run_smi
            uuid, *_ = (card.uuid for card in world.simulator.fleet.cards("sim-0", world.first))

            def hang_on_single_ones(node: str, argv: tuple[str, ...]) -> object:
                if "-i" not in argv:
                    world.cluster.hang_exec(world.first, times=1)
                return run_smi(node, argv)

            execs._run_smi = hang_on_single_ones  # type: ignore[assignment]
            world.cluster.lose_gpu(world.first, uuid, silent=True)
            await eventually(lambda: any(seen.lost))
            assert seen.lost[-1] == (GpuRef(None, "00000000:19:00.0"),)
            assert world.cluster.counters.peak_execs_per_node == 1

    async def test_a_document_that_ends_where_a_gpu_does_not_answer_names_it(self, world: World) -> None:
        execs = world.cluster.server.execs
        run_smi = execs._run_smi

        def stop_in_the_middle(node: str, argv: Sequence[str]) -> Printed:
            printed = run_smi(node, argv)
            if "-i" in argv or node != world.first:
                return printed
            words = b"\nUnable to determine the device handle for GPU1: 0000:5D:00.0: Unknown Error\n"
            return printed._replace(stdout=printed.stdout[: len(printed.stdout) // 2] + words, exit_status=255)

        async with world.watched() as seen:
            await world.settled()
            execs._run_smi = stop_in_the_middle
            world.cluster.restart_container(world.first)
            await eventually(lambda: seen.published[world.first].lost)
            assert seen.published[world.first].lost == (GpuRef(None, "00000000:5D:00.0"),)

    async def test_gpus_are_read_singly_if_a_name_may_imitate_some(self, world: World) -> None:
        imitation = "x\n\t<gpu>\n<uuid>GPU-deadbeef</uuid><serial>1652923034028</serial>\n<processes>"
        async with world.watched() as seen:
            await world.settled()
            uuids = {gpu.uuid for gpu in seen.published[world.first].gpus}
            world.cluster.run_process(imitation, world.first)
            read = world.execs[world.first]
            world.cluster.restart_container(world.first)
            await eventually(lambda: world.execs[world.first] >= read + 3)  # the whole, and each of the two
            await eventually(lambda: len(seen.readings) > len(world.cluster.nodes))
            reading = seen.published[world.first]
            assert {gpu.uuid for gpu in reading.gpus} == uuids
            assert (reading.partial, reading.lost, reading.unread) == (False, (), ())
            assert seen.failures == []

    async def test_other_failures_lead_to_no_single_readings(self, world: World) -> None:
        world.cluster.fail_exec(ExecFaultKind.EXIT_STATUS, world.first, stderr="No devices were found", times=3)
        async with world.watched() as seen:
            await world.settled()
            assert len(seen.failures) == 3
            assert world.execs[world.first] == 4

    async def test_the_number_of_single_readings_is_limited(self) -> None:
        async with Simulator(clusters=1, nodes=2, gpus=20, latency=0.0, bookmark_interval=0.2) as simulator:
            world = World(simulator)
            async with world.watched() as seen:
                await world.settled()
                world.cluster.lose_gpu(world.first, silent=True)
                await eventually(lambda: seen.published[world.first].lost)
                assert len(seen.published[world.first].unread) == 20 - 1 - MAX_SINGLE_READS
