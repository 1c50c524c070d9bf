"""Spares the event loop the garbage collector's walks through all that is known of a fleet.

A full collection visits every object that could be part of a cycle: a quarter of a second for 100,000 nodes, in which
nothing else happens. What has survived one is therefore left out of the next ones, until once a day.
"""

import gc

import anyio

__all__ = ["run"]

_DAY = 86400.0


async def run(*, every: float = _DAY) -> None:
    """Keep collections short until cancelled; all that lives is looked through again `every` so many seconds."""
    gc.callbacks.append(_leave_out)
    try:
        while True:
            await anyio.sleep(every)
            gc.unfreeze()
            gc.collect()
    finally:
        gc.callbacks.remove(_leave_out)
        gc.unfreeze()


def _leave_out(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()
