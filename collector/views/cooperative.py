"""Lets handlers iterate over a whole fleet without blocking the event loop."""

import heapq
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

import anyio.lowlevel

__all__ = ["sorted_window", "yielding"]

YIELD_INTERVAL_SECONDS = 0.005  # of iterating between two turns of the event loop
SORT_CHUNK_SIZE = 2000  # items, which takes about a millisecond

_T = TypeVar("_T")


async def yielding(items: Iterable[_T]) -> AsyncIterator[_T]:
    """Yield the items, letting other tasks run; the items must not change while they do."""
    await anyio.lowlevel.checkpoint()  # many short iterations in a row add up
    deadline = time.perf_counter() + YIELD_INTERVAL_SECONDS
    for item in items:
        yield item
        if time.perf_counter() > deadline:
            await anyio.lowlevel.checkpoint()
            deadline = time.perf_counter() + YIELD_INTERVAL_SECONDS


async def sorted_window(
    items: list[_T], key: Callable[[_T], Any], offset: int, limit: int, *, reverse: bool = False
) -> list[_T]:
    """Return `limit` items from `offset`, sorted by `key`, letting other tasks run."""
    runs = []
    for start in range(0, len(items), SORT_CHUNK_SIZE):
        runs.append(sorted(items[start : start + SORT_CHUNK_SIZE], key=key, reverse=reverse))
        await anyio.lowlevel.checkpoint()
    window: list[_T] = []
    merged = itertools.islice(heapq.merge(*runs, key=key, reverse=reverse), offset + limit)
    async for index, item in yielding(enumerate(merged)):
        if index >= offset:
            window.append(item)
    return window
