"""Runs coroutines of decoders that need an event loop, all in the same one."""

import asyncio
import functools
import socket
from collections.abc import Coroutine
from typing import Any, TypeVar

from tests.fuzz.target import RESOURCES

__all__ = ["finish", "peer_of"]

T = TypeVar("T")


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    RESOURCES.callback(_loop.cache_clear)
    RESOURCES.callback(loop.close)
    return loop


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine."""
    return _loop().run_until_complete(work)


def peer_of(answer: bytes) -> tuple[socket.socket, socket.socket]:
    """Return a connected socket, and its peer, which has sent an answer and will send nothing more."""
    ours, theirs = socket.socketpair()
    for one in (ours, theirs):
        one.setblocking(False)
    theirs.sendall(answer)
    theirs.shutdown(socket.SHUT_WR)
    return ours, theirs
