"""Keeps full garbage collections of a large fleet from blocking the event loop.

A full collection visits every object that could be part of a cycle: a quarter of a second for 100,000 nodes, during
which nothing else runs. Survivors are therefore excluded from further collections until once a day, or until memory
has grown: only a full collection finds excluded objects that have become garbage, such as a failed request with its
received data.
"""

import ctypes
import gc
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

__all__ = ["GROWTH_BYTES", "frozen_after", "paused", "run"]

DAY_SECONDS = 86400.0
CHECK_SECONDS = 10.0  # between two checks of memory
GROWTH_BYTES, GROWTH_PART = 48 << 20, 8  # of memory since the last full collection: at least this much, and an eighth


async def run(*, every: float = DAY_SECONDS, check: float = CHECK_SECONDS, growth: int = GROWTH_BYTES) -> None:
    """Keep collections short until cancelled.

    A full collection runs after `every` seconds, or if memory, checked every `check` seconds, has grown since the last
    one by an eighth and at least `growth` bytes.
    """
    gc.callbacks.append(_leave_out)
    gc.freeze()  # imported modules, among which a collection would take 50 ms and find next to nothing
    due, least = anyio.current_time() + every, _memory()
    try:
        while True:
            await anyio.sleep(min(check, every))
            least = min(least, memory := _memory())
            if anyio.current_time() < due and memory - least < max(growth, least // GROWTH_PART):
                continue
            gc.unfreeze()
            gc.collect()
            _return_memory()
            due, least = anyio.current_time() + every, _memory()
    finally:
        gc.callbacks.remove(_leave_out)
        gc.unfreeze()


@contextmanager
def paused() -> Iterator[None]:
    """Disable collection within the block: passes over a growing heap would double the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def frozen_after() -> Iterator[None]:
    """Disable collection within the block, and exclude what it leaves until the next full collection.

    Collecting at its end would take half a second with 100,000 nodes and find next to nothing.
    """
    with paused():
        yield
    gc.freeze()


def _leave_out(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()


def _memory() -> int:
    """Return the memory of this process in bytes; 0 if the kernel does not report it."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def _return_memory() -> None:
    """Return free memory to the system if the C library supports it; it keeps large blocks for later use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
