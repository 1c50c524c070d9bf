"""When a node is handed out and when it is removed, by a clock that the tests set."""

import random
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import msgspec
import pytest

from collector.collect.node_queue import NodeQueue
from collector.collect.objects import Container, NodeObject, PodObject
from collector.collect.schedule import RetryPolicy
from collector.collect.tracked_node import Target
from collector.config import ClusterSettings, Duration
from collector.model import Known, NodeInfo, ReadFailure
from tests.collect.world import Observed
from tests.support.waiting import LIMIT_SECONDS, eventually

GRACE = 600.0
NODE = NodeObject(version="1", facts=NodeInfo(name="n", uid="1"))
POD = PodObject(key="gpu-operator/p", uid="u", version="1", node="n")
READY = msgspec.structs.replace(
    POD, running=True, containers=(Container(name="nvidia-device-plugin", id="1", ready=True),)
)


class World:
    """The queue of a cluster that has one node, with a pod that is not ready, so that nothing is due."""

    def __init__(
        self,
        known: Mapping[str, Known] = {},
        seed: int = 0,
        *,
        grace: float = GRACE,
        clock: Callable[[], float] | None = None,
        **settings: Any,
    ) -> None:
        self.now = 0.0
        self.seen = Observed()
        self._cluster = ClusterSettings(context="c", grace=Duration(grace), **settings)
        self.queue = NodeQueue(
            self._cluster,
            self.seen,
            known=known,
            retry=RetryPolicy(),
            rng=random.Random(seed),
            clock=clock or (lambda: self.now),
        )
        self.queue.set_node(None, NODE)
        self.set_pod(None, POD)

    def set_pod(self, before: PodObject | None, after: PodObject | None) -> None:
        self.queue.set_pod(0, self._cluster.active_sources[0], before, after)

    def succeeded(self, target: Target, *, found: int = 0) -> NodeInfo:
        return self.queue.succeeded(target, found=found, mig=False, like_a_failure=False)

    def gone_at(self, now: float) -> list[str]:
        """Set the clock, and return which nodes have been removed by then."""
        self.now = now
        assert self.queue.pop_due() is None
        return self.seen.gone


@pytest.fixture
def world() -> World:
    made = World()
    made.queue.resume()
    return made


class TestGrace:
    def test_a_node_without_a_pod_is_gone_after_its_grace(self, world: World) -> None:
        assert world.gone_at(10_000) == []
        world.set_pod(POD, None)
        assert world.gone_at(10_599) == []
        assert world.gone_at(10_600) == ["n"]

    def test_a_node_whose_pod_comes_back_in_time_stays(self, world: World) -> None:
        world.set_pod(POD, None)
        world.now = 500
        world.set_pod(None, POD)
        assert world.gone_at(10_000) == []

    def test_each_absence_of_the_pod_has_its_own_grace(self, world: World) -> None:
        world.set_pod(POD, None)
        world.now = 500
        world.set_pod(None, POD)
        world.now = 550
        world.set_pod(POD, None)
        assert world.gone_at(1_149) == []
        assert world.gone_at(1_150) == ["n"]

    def test_no_node_is_removed_while_paused(self, world: World) -> None:
        world.set_pod(POD, None)
        world.queue.pause()
        assert world.gone_at(10_000) == []
        world.queue.resume()
        assert world.gone_at(10_000) == ["n"]


class TestHandingOut:
    def test_nothing_is_reported_or_handed_out_before_the_first_resume(self) -> None:
        world = World()
        world.set_pod(POD, READY)
        assert (world.queue.pop_due(), world.seen.nodes) == (None, {})
        world.queue.resume()
        assert world.queue.pop_due() is not None
        assert world.seen.nodes == {"n": NODE.facts}

    def test_a_node_is_handed_to_one_reader_at_a_time(self, world: World) -> None:
        world.set_pod(POD, READY)
        node = world.queue.pop_due()
        assert node is not None
        replaced = msgspec.structs.replace(READY, uid="v")
        world.set_pod(READY, replaced)
        assert world.queue.pop_due() is None
        world.queue.done(node)
        assert world.queue.pop_due() is node

    def test_nothing_is_handed_out_while_paused(self, world: World) -> None:
        world.queue.pause()
        world.set_pod(POD, READY)
        assert world.queue.pop_due() is None
        world.queue.resume()
        assert world.queue.pop_due() is not None

    def test_a_node_that_comes_back_is_read_through_the_pod_that_stayed(self, world: World) -> None:
        world.set_pod(POD, READY)
        world.queue.set_node(NODE, None)
        assert (world.queue.pop_due(), world.seen.gone) == (None, ["n"])
        world.queue.set_node(None, NODE)
        assert world.queue.pop_due() is not None

    def test_a_node_that_was_read_is_due_at_its_refresh(self, world: World) -> None:
        world.set_pod(POD, READY)
        node = world.queue.pop_due()
        assert node is not None
        target = world.queue.select(node)
        assert target is not None
        world.succeeded(target)
        world.queue.done(node)
        assert node.attempt is not None
        world.now = node.attempt.next - 1
        assert world.queue.pop_due() is None
        world.now = node.attempt.next
        assert world.queue.pop_due() is node

    def test_a_node_that_failed_is_due_after_its_backoff(self, world: World) -> None:
        world.set_pod(POD, READY)
        node = world.queue.pop_due()
        assert node is not None
        target = world.queue.select(node)
        assert target is not None
        world.queue.failed(target, ReadFailure.CONNECTION)
        world.queue.done(node)
        world.now = 0.7
        assert world.queue.pop_due() is None
        world.now = 1.2
        assert world.queue.pop_due() is node

    def read(self, world: World, at: float) -> None:
        """Read the node, which is due."""
        world.now = at
        node = world.queue.pop_due()
        assert node is not None
        target = world.queue.select(node)
        assert target is not None
        world.succeeded(target)
        world.queue.done(node)

    def test_a_node_to_verify_is_due_a_few_seconds_after_its_last_reading(self, world: World) -> None:
        world.set_pod(POD, READY)
        self.read(world, 0.0)
        world.now = 1.0
        assert world.queue.verify("n")
        assert world.queue.pop_due() is None
        self.read(world, 5.0)

    def test_a_node_to_verify_later_waits_for_the_given_time(self, world: World) -> None:
        world.set_pod(POD, READY)
        self.read(world, 0.0)
        assert world.queue.verify("n", 300.0)
        assert world.queue.verify("n", 400.0)
        world.now = 299.0
        assert world.queue.pop_due() is None
        self.read(world, 300.0)
        world.now = 500.0
        assert world.queue.pop_due() is None

    def test_a_reading_for_another_reason_verifies_as_well(self, world: World) -> None:
        world.set_pod(POD, READY)
        self.read(world, 0.0)
        assert world.queue.verify("n", 300.0)
        world.set_pod(READY, msgspec.structs.replace(READY, uid="v"))
        self.read(world, 100.0)
        world.now = 500.0
        assert world.queue.pop_due() is None

    def test_an_early_verification_is_not_postponed_by_a_later_one(self, world: World) -> None:
        world.set_pod(POD, READY)
        self.read(world, 0.0)
        assert world.queue.verify("n", 300.0)
        assert world.queue.verify("n")
        self.read(world, 5.0)


class TestTargets:
    def test_a_node_whose_pod_is_not_ready_has_no_target(self, world: World) -> None:
        world.set_pod(POD, READY)
        node = world.queue.pop_due()
        assert node is not None
        world.set_pod(READY, POD)
        assert world.queue.select(node) is None

    @pytest.mark.parametrize("after", [None, msgspec.structs.replace(READY, uid="v")])
    def test_a_deleted_or_replaced_pod_is_ignored(self, world: World, after: PodObject | None) -> None:
        world.set_pod(POD, READY)
        node = world.queue.pop_due()
        assert node is not None
        target = world.queue.select(node)
        assert target is not None
        assert world.queue.current_info(target) == NODE.facts
        world.set_pod(READY, after)
        assert world.queue.current_info(target) is None

    def test_a_deleted_node_is_ignored(self, world: World) -> None:
        world.set_pod(POD, READY)
        node = world.queue.pop_due()
        assert node is not None
        target = world.queue.select(node)
        assert target is not None
        world.queue.set_node(NODE, None)
        assert world.queue.current_info(target) is None


@pytest.mark.anyio
async def test_get_waits_until_a_node_is_due(world: World) -> None:
    handed_out: list[str] = []

    async def get() -> None:
        handed_out.append((await world.queue.get()).name)

    async with anyio.create_task_group() as tasks:
        world.queue.pause()
        tasks.start_soon(get)
        await anyio.wait_all_tasks_blocked()
        world.set_pod(POD, READY)
        await anyio.wait_all_tasks_blocked()
        assert handed_out == []
        world.queue.resume()
        await anyio.wait_all_tasks_blocked()
        assert handed_out == ["n"]


@pytest.mark.anyio
async def test_get_is_woken_by_a_node_that_is_due_sooner(world: World) -> None:
    world.now = anyio.current_time()
    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as tasks:
            world.set_pod(POD, None)  # due to be given up after its grace
            tasks.start_soon(world.queue.get)
            await anyio.wait_all_tasks_blocked()
            world.set_pod(None, READY)


@pytest.mark.anyio
async def test_a_grace_ends_while_get_waits() -> None:
    times: list[float] = []

    def clock() -> float:
        times.append(anyio.current_time())
        return times[-1]

    world = World(grace=0.01, clock=clock)
    world.queue.resume()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.queue.get)
        await anyio.wait_all_tasks_blocked()
        world.set_pod(POD, None)
        await eventually(lambda: world.seen.gone == ["n"])
        tasks.cancel_scope.cancel()
    assert len(times) < 50  # so it has not asked all the time
