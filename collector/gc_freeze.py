"""Keeps the garbage collector's passes over a whole fleet away from the event loop.

A full collection visits every object that could be part of a cycle: a quarter of a second for 100,000 nodes, in which
nothing else happens. What has survived one is therefore left out of the next ones, until once a day, or until memory
has grown: what was left out and has become garbage since, such as a failed request with all that it had received, is
found by nothing else.
"""

import ctypes
import gc
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

__all__ = ["frozen_after", "paused", "run"]

DAY_SECONDS = 86400.0
CHECK_SECONDS = 10.0  # between two looks at the memory
GROWTH_BYTES, GROWTH_PART = 48 << 20, 8  # of memory, since all was visited: at least so much, and an eighth


async def run(*, every: float = DAY_SECONDS, check: float = CHECK_SECONDS, growth: int = GROWTH_BYTES) -> None:
    """Keep collections short until cancelled.

    One visits all that lives after `every` seconds, or if the memory, looked at every `check` seconds, has grown since
    the last one: by an eighth, and `growth` bytes at least.
    """
    gc.callbacks.append(_leave_out)
    gc.collect()  # what was imported takes 50 ms: better now than among the first requests
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
    """Collect nothing within the block: passes over a heap that only grows would double the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def frozen_after() -> Iterator[None]:
    """Collect nothing within the block, collect once at its end, and leave out what survives from then on."""
    with paused():
        yield
    gc.collect()  # what was left over would else be kept for good
    gc.freeze()


def _leave_out(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()


def _memory() -> int:
    """Return the memory of this process in bytes; 0 where the kernel does not say."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def _return_memory() -> None:
    """Return what is free to the system, where the C library can: it keeps large blocks for those to come."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
