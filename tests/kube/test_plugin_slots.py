"""Who may start a credential plugin when."""

import functools

import anyio
import pytest

from collector.kube.plugin_slots import PluginSlots, Rank
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


class Runs:
    """Plugins that hold a slot until they are released."""

    def __init__(self, slots, tasks):
        self.started = []
        self.ended = []
        self._slots = slots
        self._tasks = tasks
        self._end = {}

    def start(self, name, rank):
        self._end[name] = anyio.Event()
        self._tasks.start_soon(self._run, name, rank)

    def end(self, name):
        self._end[name].set()

    async def _run(self, name, rank):
        async with self._slots.hold(rank):
            self.started.append(name)
            await self._end[name].wait()
        self.ended.append(name)


@pytest.fixture
async def make():
    async with anyio.create_task_group() as tasks:
        yield lambda **settings: Runs(PluginSlots(**settings), tasks)
        tasks.cancel_scope.cancel()


async def test_a_limited_number_run_at_once_others_queue(make):
    runs = make(slots=2, reserved=0)
    for name in "abc":
        runs.start(name, Rank.NEW)
    await anyio.wait_all_tasks_blocked()
    assert runs.started == ["a", "b"]
    runs.end("b")
    await eventually(lambda: runs.started == ["a", "b", "c"])


async def test_recently_successful_plugins_have_their_own_slots(make):
    runs = make(slots=3, reserved=1)
    for name in ("new 1", "new 2", "new 3"):
        runs.start(name, Rank.NEW)
    runs.start("proven", Rank.PROVEN)
    await anyio.wait_all_tasks_blocked()
    assert runs.started == ["new 1", "new 2", "proven"]


async def test_waiting_plugins_are_admitted_by_their_history(make):
    runs = make(slots=1, reserved=0)
    runs.start("first", Rank.NEW)
    await eventually(lambda: runs.started)
    for name, rank in (("failing", Rank.FAILING), ("new", Rank.NEW), ("proven", Rank.PROVEN)):
        runs.start(name, rank)
        await anyio.wait_all_tasks_blocked()
    for name in ("first", "proven", "new", "failing"):
        await eventually(functools.partial(runs.started.__contains__, name))
        runs.end(name)
    await eventually(lambda: len(runs.ended) == 4)
    assert runs.started == ["first", "proven", "new", "failing"]


async def test_a_long_running_plugin_gives_up_its_slot(make):
    runs = make(slots=1, reserved=0, max_hold=0.5)
    for name in "abc":
        runs.start(name, Rank.NEW)
    await eventually(lambda: runs.started == ["a", "b", "c"])
    assert runs.ended == []
    for name in "abc":
        runs.end(name)
    await eventually(lambda: len(runs.ended) == 3)
    runs.start("d", Rank.NEW)
    runs.start("e", Rank.NEW)
    await anyio.wait_all_tasks_blocked()
    assert runs.started[3:] == ["d"]  # no slot has been given back twice


async def test_a_cancelled_plugin_leaves_the_queue_or_its_slot():
    slots = PluginSlots(slots=1, reserved=0)

    async def run():
        async with slots.hold(Rank.NEW):
            await anyio.sleep_forever()

    for _ in range(3):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            tasks.start_soon(run)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    with anyio.fail_after(5):
        async with slots.hold(Rank.NEW):
            pass


async def test_an_error_inside_is_raised_unchanged():
    with pytest.raises(KeyError):
        async with PluginSlots().hold(Rank.NEW):
            raise KeyError
