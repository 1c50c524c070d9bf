"""Parses a node's output: small ones directly, large ones in a thread, all charged to the cluster."""

import time
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from collector.kube.limits import LoopShare

__all__ = ["parse_charged"]

_FREE_SECONDS = 0.005  # free processing time of an output, not charged to the cluster's share of the loop

_INLINE_BYTES = 1 << 18  # larger outputs are parsed in a thread, as they would block the event loop noticeably

T = TypeVar("T")


async def parse_charged(
    parse: Callable[[], T], size: int, share: LoopShare, limiter: anyio.CapacityLimiter | None = None
) -> T:
    """Return the result of `parse` for an output of `size` bytes; CPU time is charged in a thread as well.

    `limiter` is for threads. Raises what `parse` raises.
    """
    spent = 0.0

    def timed() -> T:
        nonlocal spent
        began = time.thread_time()
        try:
            return parse()
        finally:
            spent = time.thread_time() - began

    try:
        if size <= _INLINE_BYTES:
            return timed()
        return await anyio.to_thread.run_sync(timed, limiter=limiter)
    finally:
        share.spend(max(0.0, spent - _FREE_SECONDS))
