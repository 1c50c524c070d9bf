"""Lets handlers walk a whole fleet without keeping the event loop from its other work."""

import heapq
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

import anyio.lowlevel

__all__ = ["in_slices", "sorted_window"]

_SLICE = 0.005  # seconds of walking between two turns of the event loop
_SORTED_AT_ONCE = 2000  # items, which takes about a millisecond

_T = TypeVar("_T")


async def in_slices(items: Iterable[_T]) -> AsyncIterator[_T]:
    """Walk the items, giving other tasks their turn; what is walked must not change when they do."""
    await anyio.lowlevel.checkpoint()  # many short walks in a row are a long one
    deadline = time.perf_counter() + _SLICE
    for item in items:
        yield item
        if time.perf_counter() > deadline:
            await anyio.lowlevel.checkpoint()
            deadline = time.perf_counter() + _SLICE


async def sorted_window(
    items: list[_T], key: Callable[[_T], Any], offset: int, limit: int, *, reverse: bool = False
) -> list[_T]:
    """Give `limit` of the items from `offset` on in the order of `key`, giving other tasks their turn."""
    runs = []
    for start in range(0, len(items), _SORTED_AT_ONCE):
        runs.append(sorted(items[start : start + _SORTED_AT_ONCE], key=key, reverse=reverse))
        await anyio.lowlevel.checkpoint()
    window: list[_T] = []
    merged = itertools.islice(heapq.merge(*runs, key=key, reverse=reverse), offset + limit)
    async for index, item in in_slices(enumerate(merged)):
        if index >= offset:
            window.append(item)
    return window
