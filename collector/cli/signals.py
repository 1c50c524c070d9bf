"""How a command that keeps running is stopped: by SIGINT (Ctrl-C) or SIGTERM."""

import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import anyio

__all__ = ["stop_signals"]


@contextmanager
def stop_signals(*, on_hangup: Callable[[], None] | None = None) -> Iterator[Callable[[], Awaitable[signal.Signals]]]:
    """Catch SIGINT and SIGTERM inside of the block, and yield a function that waits for one of them and returns it.

    With `on_hangup`, SIGHUP is caught too, and calls it while that function waits.
    """
    hangup = () if on_hangup is None else (signal.SIGHUP,)
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, *hangup) as received:

        async def wait() -> signal.Signals:
            async for number in received:
                if number is not signal.SIGHUP:
                    return number
                if on_hangup is not None:
                    on_hangup()
            raise RuntimeError("the signal receiver ended")

        yield wait
