"""The network between gpuid and something it needs: a TCP proxy that forwards, or does what networks do."""

import asyncio
import contextlib
import enum
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from anyio.from_thread import start_blocking_portal

from tests.support.processes import free_ports

__all__ = ["Link", "State", "linked"]

SLOW_SECONDS = 0.1  # that each part takes which arrives at once
HALF_BYTES = 20  # of an answer, which are less than any whole one has
PART_BYTES = 1 << 16


class State(enum.StrEnum):
    """What happens to connections."""

    FORWARDING = "forwarding"
    FROZEN = "frozen"  # they stay open, and nothing arrives
    SLOW = "slow"
    REFUSING = "refusing"  # nobody listens, and what was open has ended
    RESETTING = "resetting"  # each ends as soon as something is sent
    HALF = "half"  # each ends in the middle of the first answer


_ENDING = (State.REFUSING, State.RESETTING)


class Link:
    """One port, and what happens to the connections to it."""

    def __init__(self, url: str, call: Callable[..., Any]) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._target = parts.hostname, parts.port
        (self.port,) = free_ports(1)
        self.url = url.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{self.port}")
        self.state = State.FORWARDING
        self._call = call  # runs a function in the loop of the proxy
        self._changed = asyncio.Event()
        self._listener: socket.socket | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._open: set[asyncio.StreamWriter] = set()

    def become(self, state: State) -> None:
        """Do this to every connection from now on."""
        self._call(self._become, state)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._become(State.REFUSING)
        if self._serving:
            await asyncio.wait(self._serving)

    async def open(self) -> None:
        """Listen."""
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._listener.setblocking(False)
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    async def _become(self, state: State) -> None:
        self.state = state
        self._changed.set()
        self._changed = asyncio.Event()
        if state in _ENDING:
            for writer in list(self._open):
                _reset(writer)
        if state is State.REFUSING:
            if self._listener is not None:
                asyncio.get_running_loop().remove_reader(self._listener)
                self._listener.close()
            self._listener = None
        else:
            await self.open()

    def _accept(self, listener: socket.socket) -> None:
        """Take a connection; a task that waits for one could be cancelled when it has it."""
        try:
            one, _ = listener.accept()
        except OSError:  # it has ended already
            return
        one.setblocking(False)
        serving = asyncio.create_task(self._serve(one))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        both = [writer]
        self._open.add(writer)
        try:
            with contextlib.suppress(OSError):
                await self._pass()
                far_reader, far = await asyncio.open_connection(*self._target)
                both.append(far)
                self._open.add(far)
                async with asyncio.TaskGroup() as tasks:
                    pumps = [
                        tasks.create_task(self._pump(reader, far)),
                        tasks.create_task(self._pump(far_reader, writer, answer=True)),
                    ]
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                    for pump in pumps:
                        pump.cancel()
        finally:
            for one in both:
                self._open.discard(one)
                _reset(one) if self.state in _ENDING else one.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answer: bool = False) -> None:
        with contextlib.suppress(OSError):
            while part := await reader.read(PART_BYTES):
                await self._pass()
                if self.state in _ENDING:
                    return
                half = answer and self.state is State.HALF
                writer.write(part[:HALF_BYTES] if half else part)
                await writer.drain()
                if half:
                    return

    async def _pass(self) -> None:
        """Take the time that something takes to arrive."""
        if self.state is State.REFUSING:
            raise ConnectionRefusedError  # one that was taken just before
        if self.state is State.SLOW:
            await asyncio.sleep(SLOW_SECONDS)
        while self.state is State.FROZEN:
            await self._changed.wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    one = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.contextmanager
def linked(urls: Mapping[str, str]) -> Iterator[dict[str, Link]]:
    """Serve a link to each of these URLs, by name."""
    with start_blocking_portal("asyncio") as portal:
        links = {name: portal.call(Link, url, portal.call) for name, url in urls.items()}
        for link in links.values():
            portal.call(link.open)
        try:
            yield links
        finally:
            for link in links.values():
                portal.call(link.aclose)
