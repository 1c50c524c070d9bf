"""Collections stay short while a fleet is known, and nothing is left uncollected for good."""

import gc
import weakref
from collections.abc import Iterator

import anyio
import pytest

from collector import gc_freeze
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


class Cycle:
    """An object that only the garbage collector can free."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


async def test_survivors_of_a_full_collection_are_frozen() -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gc_freeze.run)
        await anyio.wait_all_tasks_blocked()
        kept = Cycle()
        gc.collect()
        assert gc.get_freeze_count() > 0
        assert all(one is not kept for one in gc.get_objects())
        tasks.cancel_scope.cancel()
    assert gc.get_freeze_count() == 0


async def test_later_garbage_is_still_freed() -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: gc_freeze.run(every=0.05))
        await anyio.wait_all_tasks_blocked()
        kept = Cycle()
        gone = weakref.ref(kept)
        gc.collect()
        del kept
        await eventually(lambda: gone() is None)
        tasks.cancel_scope.cancel()


async def test_frozen_garbage_is_freed_when_memory_has_grown() -> None:
    """A hostile server can make it grow within minutes, long before a day is over."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: gc_freeze.run(check=0.05, growth=32 << 20))
        await anyio.wait_all_tasks_blocked()
        kept = Cycle()
        gone = weakref.ref(kept)
        gc.collect()
        del kept
        await anyio.sleep(0.3)
        gc.collect()
        assert gone() is not None
        grown = b"x" * (gc_freeze._memory() // 4 + (64 << 20))
        await eventually(lambda: gone() is None)
        del grown
        tasks.cancel_scope.cancel()
