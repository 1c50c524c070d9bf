"""`gpuid run` on a cluster whose GPUs a DRA driver manages: what it publishes of a GPU that the driver loses."""

import functools
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest

from collector.simulator import SimulatedCluster, Simulator
from tests.support import waiting
from tests.support.processes import CollectorProcess

pytestmark = pytest.mark.anyio

NODE = "gpu-0000"


class World:
    """A cluster of one node with four GPUs, and a collector of it with a store."""

    def __init__(self, folder: Path, simulator: Simulator) -> None:
        self.sim: SimulatedCluster = simulator.clusters["sim-0"]
        self.serials = {placed.uuid: placed.serial for placed in simulator.fleet.expected()}
        self.collector = CollectorProcess(folder)
        head = f'[defaults]\nkubeconfig = "{simulator.kubeconfig}"\npreset = "dra"\n'
        self.collector.configure(["sim-0"], before=head, after=f'[store]\nurl = "sqlite:///{folder / "gpuid.db"}"\n')

    def gpus(self) -> dict[str, float]:
        return {labels["state"]: value for labels, value in self.collector.samples("gpuid_node_gpus")}

    async def has(self, **gpus: float) -> None:
        await waiting.eventually(functools.partial(anyio.to_thread.run_sync, self.gpus), gpus)

    async def total(self, name: str, value: float, **labels: str) -> None:
        ask = functools.partial(self.collector.total, name, **labels)
        await waiting.eventually(functools.partial(anyio.to_thread.run_sync, ask), value)

    async def answer(self, path: str, *, html: bool = False) -> Any:
        def ask() -> Any:
            headers = {"Accept": "text/html"} if html else {}
            answer = httpx.get(f"{self.collector.url}{path}", headers=headers, timeout=30)
            return answer.text if html else answer.json()

        return await anyio.to_thread.run_sync(ask)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "sim").mkdir()
    async with Simulator(
        clusters=1, nodes=1, gpus=4, latency=0.001, directory=tmp_path / "sim", shapes=["dra"]
    ) as simulator:
        made = World(tmp_path, simulator)
        made.collector.start()
        yield made
        await anyio.to_thread.run_sync(made.collector.stop, signal.SIGKILL)


async def test_an_unlisted_gpu_is_lost_even_after_a_restart(world: World) -> None:
    await world.has(found=4, capacity=4, allocatable=4)
    world.sim.remove_pod(NODE)
    await world.total("gpuid_unread_nodes", 1, reason="no_pod")
    (lost,) = world.sim.lose_gpu(NODE).gpus
    await world.has(found=3, capacity=4, allocatable=3, lost=1)

    for _ in range(2):
        (node,) = (await world.answer("/api/v1/nodes"))["nodes"]
        assert [(one["uuid"], one["unlisted"]) for one in node["lost_gpus"]] == [(lost, True)]
        assert node["gpu_sign"]
        assert "no longer in its ResourceSlices" in await world.answer("/problems", html=True)
        assert "is no longer listed by its ResourceSlices" in await world.answer(
            f"/clusters/sim-0/nodes/{NODE}", html=True
        )
        await anyio.to_thread.run_sync(world.collector.stop, signal.SIGTERM)
        world.collector.start()
        await world.has(found=3, capacity=4, allocatable=3, lost=1)
        await world.total("gpuid_cluster_up", 1)
    assert world.sim.counters.execs.total() == 1


async def test_a_gpu_missing_from_a_reading_lowers_the_count(world: World) -> None:
    await world.has(found=4, capacity=4, allocatable=4)
    world.sim.lose_gpu(NODE)
    await world.has(found=3, capacity=4, allocatable=3)
    await anyio.to_thread.run_sync(world.collector.stop, signal.SIGTERM)
    world.collector.start()
    await world.has(found=3, capacity=4, allocatable=3)
    world.sim.reboot_node(NODE)
    await world.has(found=4, capacity=4, allocatable=4)


async def test_a_gpu_relisted_while_unwatched_is_found_again(world: World) -> None:
    await world.has(found=4, capacity=4, allocatable=4)
    world.sim.remove_pod(NODE)
    await world.total("gpuid_unread_nodes", 1, reason="no_pod")
    world.sim.lose_gpu(NODE)
    await world.has(found=3, capacity=4, allocatable=3, lost=1)
    await anyio.to_thread.run_sync(world.collector.stop, signal.SIGTERM)
    world.sim.reboot_node(NODE)
    world.collector.start()
    await world.has(found=4, capacity=4, allocatable=4)
    assert world.sim.counters.execs.total() == 1
