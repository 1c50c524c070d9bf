"""Stops long-running commands on SIGINT (Ctrl-C) or SIGTERM."""

import asyncio
import contextlib
import functools
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import anyio

from collector.model import GpuidError
from collector.shortage import check_threads
from collector.stop import ProcessStop, process_stop

__all__ = ["run_until_stopped", "stop_signals"]

log = logging.getLogger(__name__)


def run_until_stopped(
    serve: Callable[..., Awaitable[None]], *arguments: object, process: ProcessStop = process_stop
) -> None:
    """Run `serve` on an event loop until it ends; after a signal, errors caused by the interruption are ignored.

    A thread that still hangs then does not keep the process alive.
    """
    try:
        anyio.run(_serve, serve, *arguments, backend_options={"use_uvloop": True})
    except* GpuidError as group:
        if process.received is None:
            raise
        log.warning("interrupted by shutdown: %s", _first(group))
    finally:
        process.report_once()
    process.leave()


async def _serve(serve: Callable[..., Awaitable[None]], *arguments: object) -> None:
    check_threads()
    # libuv starts its threads when it first resolves a name, and aborts silently if it cannot. Do that now, while the
    # memory just tested is available, with an invalid address that is never looked up.
    with contextlib.suppress(OSError):
        await asyncio.get_running_loop().getaddrinfo("-", 0, flags=socket.AI_NUMERICHOST)
    await serve(*arguments)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@contextmanager
def stop_signals(
    *, on_hangup: Callable[[], None] | None = None, process: ProcessStop = process_stop
) -> Iterator[Callable[[], Awaitable[signal.Signals]]]:
    """Yield a function that waits for SIGINT or SIGTERM and returns it; earlier signals count.

    SIGHUP calls `on_hangup`, if given. Signals are still handled after the block: a second one ends the process.
    """
    loop = asyncio.get_running_loop()  # uvloop's too; a signal handler needs a way onto it
    stopped = anyio.Event()

    async def wait() -> signal.Signals:
        await stopped.wait()
        assert process.received is not None  # noqa: S101
        return process.received

    hang_up = None if on_hangup is None else functools.partial(loop.call_soon_threadsafe, on_hangup)
    process.listen(functools.partial(loop.call_soon_threadsafe, stopped.set), hang_up)
    try:
        yield wait
    finally:
        process.ignore()
