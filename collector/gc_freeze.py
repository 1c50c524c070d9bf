"""Keeps the garbage collector's passes over a whole fleet away from the event loop.

A full collection visits every object that could be part of a cycle: a quarter of a second for 100,000 nodes, in which
nothing else happens. What has survived one is therefore left out of the next ones, until once a day.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

__all__ = ["frozen_after", "paused", "run"]

DAY_SECONDS = 86400.0


async def run(*, every: float = DAY_SECONDS) -> None:
    """Keep collections short until cancelled; every `every` seconds one visits all that lives."""
    gc.callbacks.append(_leave_out)
    gc.collect()  # what was imported takes 50 ms: better now than among the first requests
    try:
        while True:
            await anyio.sleep(every)
            gc.unfreeze()
            gc.collect()
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
