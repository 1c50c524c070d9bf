"""Garbage collections stay short while a fleet is known, and all garbage is eventually collected."""

import gc
import subprocess
import sys
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
def thawed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the real garbage collector, which tests/conftest.py replaces for all other tests, and nothing frozen."""
    monkeypatch.setattr(gc_freeze, "gc", gc)
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.freeze()


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


async def test_frozen_garbage_is_freed_when_memory_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile server can make it grow within minutes, long before a day is over."""
    memory, checks = 100 << 20, 0

    def measured() -> int:
        nonlocal checks
        checks += 1
        return memory

    async def checked_again() -> None:
        seen = checks
        await eventually(lambda: checks >= seen + 2)  # and has done what follows from the first

    monkeypatch.setattr(gc_freeze, "_memory", measured)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: gc_freeze.run(check=0.01, growth=32 << 20))
        await anyio.wait_all_tasks_blocked()
        kept = Cycle()
        gone = weakref.ref(kept)
        gc.collect()
        del kept
        memory += 31 << 20
        await checked_again()
        gc.collect()
        assert gone() is not None
        memory += 1 << 20
        await checked_again()
        assert gone() is None
        tasks.cancel_scope.cancel()


def test_its_measure_of_memory_is_that_of_the_process() -> None:
    program = "from collector.gc_freeze import _memory; a = _memory(); b = bytearray(64 << 20); print(_memory() - a)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 60 << 20 < int(done.stdout) < 80 << 20
