"""The thread with an event loop of its own, where the process has no more descriptors."""

import gc
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from collector.sinks.loop_thread import LoopThread

pytestmark = pytest.mark.anyio


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Let the process open only a few more descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (_highest_descriptor() + 1, hard))
    try:
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                break
        for _ in range(min(count, len(taken))):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in taken:
            os.close(one)


def _highest_descriptor() -> int:
    return max(int(one.name) for one in Path("/proc/self/fd").iterdir())


async def answer() -> int:
    return 42


@pytest.mark.parametrize("left", [0, 1, 2])
async def test_a_thread_that_cannot_start_is_an_error_and_nothing_else(
    left: int, capfd: pytest.CaptureFixture[str]
) -> None:
    thread = LoopThread("sink")
    with descriptors_left(left), pytest.raises(OSError, match="Too many open files"):
        await thread.run(answer, timeout=10)
    gc.collect()  # what is unraisable or was never awaited fails the test
    assert capfd.readouterr().err == ""
    assert await thread.run(answer, timeout=10) == 42
    await thread.close(_nothing)


async def _nothing() -> None:
    pass
