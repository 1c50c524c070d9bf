"""A GPU that moves between nodes that print: no document of before the move confirms where it is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from collector.collect import log_times
from collector.collect.watcher import ClusterWatcher
from collector.config import ClusterSettings, Duration
from collector.inventory import Inventory
from collector.model import Change, Event, NodeInfo, Place, Reading, Step
from tests.collect.test_smi_log import READER
from tests.collect.world import FAST, Observed, World
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


class Collected(Observed):
    """An observer with an inventory, whose questions go back to the watcher."""

    def __init__(self) -> None:
        super().__init__()
        self.inventory = Inventory()
        self.changes: list[Change] = []
        self.watcher: ClusterWatcher | None = None

    def on_node(self, cluster: str, node: NodeInfo, *, has_pod: bool = True) -> None:
        super().on_node(cluster, node, has_pod=has_pod)
        self._follow(self.inventory.set_node(cluster, node))

    def on_reading(self, reading: Reading, seconds: float) -> None:
        super().on_reading(reading, seconds)
        self._follow(self.inventory.apply(reading))

    def places(self, uuid: str) -> dict[str, bool]:
        """The nodes that have a GPU, each with whether that is a mere claim."""
        return {placement.place.node: placement.claim for placement in self.inventory.find(uuid=uuid)}

    def _follow(self, step: Step) -> None:
        self.changes += step.changes
        assert self.watcher is not None
        for place, delay in {**dict.fromkeys(step.verify, 0.0), **step.verify_later}.items():
            self.watcher.verify(place.node, delay)


@asynccontextmanager
async def collected(world: World) -> AsyncIterator[Collected]:
    seen = world.seen = Collected()
    settings = ClusterSettings(
        context="sim-0", kubeconfig=str(world.simulator.kubeconfig), sources=(READER,), refresh=Duration(0.2)
    )
    seen.watcher = ClusterWatcher(settings, seen, intervals=FAST)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(seen.watcher.run)
        yield seen
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("run_seconds", [0.0, 30.0])
async def test_a_move_is_settled_by_what_is_printed_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch, run_seconds: float
) -> None:
    monkeypatch.setattr(log_times, "RUN_SECONDS", run_seconds)
    world.cluster.add_readers()
    async with collected(world) as seen:
        await world.settled()
        (uuid,) = world.cluster.move_gpu(world.first, world.second, reboot=False).gpus
        await anyio.sleep(0.1)
        world.cluster.print_now(world.second)
        await eventually(lambda: seen.places(uuid), {world.first: False, world.second: True})
        # The old document of the first node is read again and again, and says that it still has the GPU.
        reads = world.requested("log", "pods")
        await eventually(lambda: world.requested("log", "pods") > reads + 8)
        assert seen.places(uuid) == {world.first: False, world.second: True}
        assert seen.inventory.conflicts("sim-0") == 0
        world.cluster.print_now(world.first)
        await eventually(lambda: seen.places(uuid), {world.second: False})
        (moved,) = [change for change in seen.changes if change.gpu.uuid == uuid and change.event is not Event.APPEARED]
        assert (moved.event, moved.previous) == (Event.MOVED, Place("sim-0", world.first))


async def test_a_gpu_that_both_nodes_print_is_a_conflict(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_times, "RUN_SECONDS", 0.0)
    world.cluster.add_readers()
    async with collected(world) as seen:
        await world.settled()
        (uuid,) = world.cluster.move_gpu(world.first, world.second, reboot=False).gpus
        await anyio.sleep(0.1)
        world.cluster.print_now(world.second)
        await eventually(lambda: seen.places(uuid), {world.first: False, world.second: True})
        world.cluster.move_gpu(world.second, world.first, uuid=uuid, reboot=False)
        await anyio.sleep(0.3)
        world.cluster.print_now(world.first)  # it has the GPU, and the other one is asked now
        await anyio.sleep(0.5)
        assert seen.inventory.conflicts("sim-0") == 0
        world.cluster.move_gpu(world.first, world.second, uuid=uuid, reboot=False)
        world.cluster.print_now(world.second)
        await eventually(lambda: seen.inventory.conflicts("sim-0"), 1)
