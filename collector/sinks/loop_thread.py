"""An event loop in its own thread, for a library that reads files on it: a hang there delays nothing else."""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

import anyio

from collector.model import GpuidError

__all__ = ["HangingError", "LoopThread"]

CLOSE_TIMEOUT_SECONDS = 2.0  # for the last work, and again for the thread to end

_T = TypeVar("_T")


class HangingError(GpuidError):
    """The thread hangs in a file system or a program."""


class _Running(NamedTuple):
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event
    ended: concurrent.futures.Future[None]


class _Loop(asyncio.SelectorEventLoop):
    """A loop that can also be discarded half made."""

    def __del__(self) -> None:
        # Without descriptors left, a loop fails to open its pair of sockets, and Python's own finalizer, which closes
        # them, then prints a traceback.
        if hasattr(self, "_ssock"):
            super().__del__()


class LoopThread:
    """Runs coroutines in its thread, which starts with the first one and does not keep the process alive."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: _Running | None = None
        self._answered: threading.Event | None = None  # set when a hanging thread returns

    async def run(self, work: Callable[[], Coroutine[Any, Any, _T]], *, timeout: float) -> _T:
        """Run `work` in the thread and return its result; cancelling this cancels it there.

        `work` must end in time by itself. Raises HangingError if the thread does not respond within `timeout` seconds,
        and immediately while it still hangs, so that nothing piles up; OSError if it cannot start.
        """
        if self._answered is not None and not self._answered.is_set():
            raise HangingError("still no answer")
        running = self._running = self._running or self._start()
        try:
            with anyio.fail_after(timeout):
                return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(), running.loop))
        except TimeoutError:
            self._answered = threading.Event()
            running.loop.call_soon_threadsafe(self._answered.set)
            raise HangingError(f"no answer within {timeout:g} s") from None

    async def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `last` in the thread and end it; a hanging thread is abandoned. A later `run` starts another."""
        running, self._running = self._running, None
        hanging, self._answered = self._answered, None
        if running is None:
            return
        if hanging is None or hanging.is_set():
            await _in_time(asyncio.wrap_future(asyncio.run_coroutine_threadsafe(last(), running.loop)))
        with contextlib.suppress(RuntimeError):  # the loop has ended
            running.loop.call_soon_threadsafe(running.stop.set)
        await _in_time(asyncio.wrap_future(running.ended))

    def _start(self) -> _Running:
        started: concurrent.futures.Future[_Running] = concurrent.futures.Future()
        ended: concurrent.futures.Future[None] = concurrent.futures.Future()

        async def serve() -> None:
            stop = asyncio.Event()
            started.set_result(_Running(asyncio.get_running_loop(), stop, ended))
            await stop.wait()
            # Cancelled work may need to clean up, such as ending a program.
            if rest := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(rest, timeout=CLOSE_TIMEOUT_SECONDS)

        def run() -> None:
            try:
                with asyncio.Runner(loop_factory=_Loop) as runner:
                    runner.run(serve())
            except BaseException as error:  # for the waiter
                if not started.done():
                    started.set_exception(error)
            finally:
                with contextlib.suppress(concurrent.futures.InvalidStateError):  # nobody is waiting any longer
                    ended.set_result(None)

        try:
            threading.Thread(target=run, name=self._name, daemon=True).start()
        except RuntimeError:  # a limit on processes or memory, which Python does not name
            raise OSError(f"no thread for {self._name}") from None
        return started.result()


async def _in_time(work: Awaitable[None]) -> None:
    with anyio.move_on_after(CLOSE_TIMEOUT_SECONDS):
        await work
