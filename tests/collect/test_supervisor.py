"""The task of one cluster runs until it is stopped."""

import logging
from collections.abc import AsyncIterator
from typing import cast

import anyio
import pytest

from collector.backoff import Backoff
from collector.collect.supervisor import ClusterSupervisor
from collector.collect.watcher import ClusterWatcher
from collector.config import ClusterSettings
from collector.model import ClusterState, ClusterStatus

pytestmark = pytest.mark.anyio


class World:
    """A supervisor of watchers that do nothing, or that crash."""

    def __init__(self) -> None:
        self.started = 0
        self.running = 0
        self.healthy = anyio.Event()  # a watcher that does not crash is running
        self.crashes = 0  # of the watchers to come
        self.error: Exception = ZeroDivisionError()  # that they crash with
        self.statuses: list[ClusterStatus] = []
        self.supervisor = ClusterSupervisor(
            ClusterSettings(context="c"),
            self._new_watcher,
            self.statuses.append,
            restart=Backoff(initial=0.0, maximum=0.0),
        )

    def _new_watcher(self, cluster: ClusterSettings) -> ClusterWatcher:
        assert cluster.name == "c"
        return cast("ClusterWatcher", self)

    async def run(self) -> None:
        self.started += 1
        if self.crashes:
            self.crashes -= 1
            raise ExceptionGroup("a task failed", [self.error])  # as the watcher's task group does
        self.running += 1
        self.healthy.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.running -= 1


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.supervisor.run)
        yield world
        await world.supervisor.stop()
        assert world.running == 0


async def test_a_crash_is_logged_and_another_watcher_starts(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.crashes = 2
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.supervisor.run)
        with anyio.fail_after(10):
            await world.healthy.wait()
        await world.supervisor.stop()
    assert world.started == 3
    assert [(status.state, status.message) for status in world.statuses] == [
        (ClusterState.SERVER_ERROR, "the cluster's task crashed with ZeroDivisionError and is restarting; see the log")
    ] * 2
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [(record.getMessage(), record.__dict__["cluster"]) for record in errors] == [
        ("cluster task crashed; restarting", "c")
    ] * 2


@pytest.mark.parametrize(
    ("error", "start"),
    [(MemoryError(), "out of memory"), (RuntimeError("can't start new thread"), "no more threads can be started")],
)
async def test_a_shortage_in_one_cluster_does_not_affect_others(error: Exception, start: str) -> None:
    world = World()
    world.crashes, world.error = 1, error
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.supervisor.run)
        with anyio.fail_after(10):
            await world.healthy.wait()
        await world.supervisor.stop()
    (status,) = world.statuses
    assert status.message.startswith(start)


async def test_a_paused_watcher_stops_until_resumed(world: World) -> None:
    await anyio.wait_all_tasks_blocked()
    world.supervisor.pause()
    await anyio.wait_all_tasks_blocked()
    assert (world.started, world.running) == (1, 0)
    world.supervisor.resume()
    await anyio.wait_all_tasks_blocked()
    assert (world.started, world.running) == (2, 1)


async def test_a_renewed_watcher_is_replaced(world: World) -> None:
    await anyio.wait_all_tasks_blocked()
    world.supervisor.renew()
    await anyio.wait_all_tasks_blocked()
    assert (world.started, world.running) == (2, 1)


async def test_renewing_starts_nothing_while_paused(world: World) -> None:
    await anyio.wait_all_tasks_blocked()
    world.supervisor.pause()
    world.supervisor.renew()
    await anyio.wait_all_tasks_blocked()
    assert (world.started, world.running) == (1, 0)


async def test_pausing_again_before_the_task_runs_starts_nothing(world: World) -> None:
    await anyio.wait_all_tasks_blocked()
    world.supervisor.pause()
    await anyio.wait_all_tasks_blocked()
    world.supervisor.resume()
    world.supervisor.pause()
    await anyio.wait_all_tasks_blocked()
    assert (world.started, world.running) == (1, 0)
