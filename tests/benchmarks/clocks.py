"""How long things take: the best of several runs, and the longest time that an event loop was held up."""

import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import anyio
import anyio.lowlevel
import uvloop

__all__ = ["Beat", "best", "best_async", "heartbeat", "idle_loop"]

_PERIOD = 0.002  # seconds between two beats


def best(work: Callable[[], object], *, runs: int) -> float:
    """Seconds of the fastest run: other load on the machine can only add."""
    return min(_timed(work) for _ in range(runs))


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


async def best_async(work: Callable[[], Awaitable[object]], *, runs: int) -> float:
    """Seconds of the fastest run."""
    found = []
    for _ in range(runs):
        started = time.perf_counter()
        await work()
        found.append(time.perf_counter() - started)
    return min(found)


class Beat:
    """The longest times between two turns of a loop, in seconds."""

    def __init__(self) -> None:
        self.late = 0.0  # on the clock on the wall, beyond the beat's period
        self.busy = 0.0  # on the processor, in the loop's own thread: what others do to the machine is not in it


async def heartbeat(beat: Beat) -> None:
    """Beat until cancelled."""
    while True:
        wall, busy = time.perf_counter(), time.thread_time()
        await anyio.sleep(_PERIOD)
        beat.late = max(beat.late, time.perf_counter() - wall - _PERIOD)
        beat.busy = max(beat.busy, time.thread_time() - busy)


@contextmanager
def idle_loop() -> Iterator[Beat]:
    """Run a loop in a process of its own that does nothing but beat: what this machine does to every loop."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_beat_alone, args=(theirs,), daemon=True)
    process.start()
    ours.recv()
    beat = Beat()
    try:
        yield beat
    finally:
        ours.send(None)
        beat.late, beat.busy = ours.recv()
        process.join()


def _beat_alone(pipe: object) -> None:
    beat, over = Beat(), threading.Event()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(heartbeat, beat)
            while not over.is_set():  # noqa: ASYNC110  it is set by a thread
                await anyio.sleep(0.05)
            tasks.cancel_scope.cancel()

    def listen() -> None:
        pipe.recv()  # type: ignore[attr-defined]
        over.set()

    pipe.send(None)  # type: ignore[attr-defined]
    threading.Thread(target=listen, daemon=True).start()
    uvloop.run(main())
    pipe.send((beat.late, beat.busy))  # type: ignore[attr-defined]
