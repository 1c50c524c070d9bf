"""Parses what a node has printed: small outputs at once, large ones in a thread, all at the cluster's cost."""

import time
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from collector.kube.limits import LoopShare

__all__ = ["parse_charged"]

_FREE_SECONDS = 0.005  # that processing an output may take before it counts towards the cluster's share of the loop

_INLINE_BYTES = 1 << 18  # a larger output is parsed in a thread, for it would hold up the event loop noticeably

T = TypeVar("T")


async def parse_charged(
    parse: Callable[[], T], size: int, share: LoopShare, limiter: anyio.CapacityLimiter | None = None
) -> T:
    """Return what `parse` returns for an output of `size` bytes; the processor time is charged in a thread, too.

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
