"""Serves execs over WebSocket and SPDY: opens the channels, waits for the command, sends its outcome."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import WSMsgType, web

from collector.simulator import errors, execution
from collector.simulator.execution import ERROR, STDERR, STDOUT, Command, Outcome
from collector.simulator.faults import ExecFault, ExecFaultKind
from collector.simulator.images import Image
from collector.simulator.objects import PODS
from collector.simulator.requests import RequestInfo
from collector.simulator.smi import Printed
from collector.simulator.spdy import SpdySession
from collector.simulator.state import State

__all__ = ["PROTOCOLS", "ExecSessions"]

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")

_SPDY_PROTOCOL = "v4.channel.k8s.io"
_MESSAGE_BYTES = 32 * 1024  # of output in one message, as container runtimes send it


class ExecSessions:
    """The execs of one cluster."""

    def __init__(
        self,
        state: State,
        run_smi: Callable[[str, Sequence[str]], Printed],
        image: Callable[[str, str], Image],
        latency: float,
    ) -> None:
        self.latency = latency  # seconds that a command takes
        self._storage, self._faults, self._counters, self._connections = state
        self._run_smi = run_smi
        self._image = image  # of a container, by the name of its pod and its own
        self._killed: dict[str, set[asyncio.Event]] = {}  # of the running commands, by pod

    async def serve(self, request: web.BaseRequest, info: RequestInfo) -> web.StreamResponse:
        """Serve an exec request; raises ApiError before the upgrade."""
        entry = self._storage.get(PODS, f"{info.namespace}/{info.name}")
        if entry is None:
            raise errors.not_found("pods", info.name)
        command = execution.command(entry, request.query, request.query.getall("command", []))
        upgrade = request.headers.get("Upgrade", "").lower()
        if upgrade == "websocket":
            return await self._websocket(request, command)
        if upgrade == "spdy/3.1":
            return await self._spdy(request, command)
        raise errors.bad_request("Upgrade request required")

    def kill(self, pod: str) -> None:
        """Kill the commands in a pod, as when its container stops."""
        for killed in self._killed.get(pod, ()):
            killed.set()

    async def _websocket(self, request: web.BaseRequest, command: Command) -> web.StreamResponse:
        offered = request.headers.get("Sec-WebSocket-Protocol", "").replace(" ", "").split(",")
        if not set(PROTOCOLS) & set(offered):
            raise errors.bad_request(f"unable to upgrade: offer one of the protocols {', '.join(PROTOCOLS)}")
        # Pings are answered here and not by aiohttp, so that a frozen connection leaves them unanswered.
        socket = web.WebSocketResponse(protocols=PROTOCOLS, compress=False, autoping=False, max_msg_size=0)
        await self._connections.wait_until_thawed(request)
        await socket.prepare(request)

        async def send(channel: int, data: bytes) -> None:
            await self._connections.wait_until_thawed(request)
            await socket.send_bytes(bytes((channel,)) + data)

        async def listen() -> None:
            async for message in socket:
                if message.type is WSMsgType.PING:
                    await self._connections.wait_until_thawed(request)
                    await socket.pong(message.data)

        # As the real API server does: an empty message on the lowest channel that it writes to.
        with contextlib.suppress(ConnectionError):
            await send(command.first_channel, b"")
            if not await self._run(command, _Channels(send), listen()) and request.transport is not None:
                request.transport.abort()
            await self._connections.wait_until_thawed(request)
            await socket.close()
        return socket

    async def _spdy(self, request: web.BaseRequest, command: Command) -> web.StreamResponse:
        if _SPDY_PROTOCOL not in request.headers.getall("X-Stream-Protocol-Version", []):
            raise errors.bad_request(f"unable to upgrade: offer the protocol {_SPDY_PROTOCOL}")
        await self._connections.wait_until_thawed(request)
        transport, session = self._connections.take_over(request, SpdySession)
        transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
            b"X-Stream-Protocol-Version: " + _SPDY_PROTOCOL.encode() + b"\r\n\r\n"
        )
        names = {STDOUT: "stdout", STDERR: "stderr", ERROR: "error"}
        wanted = {names[ERROR]} | ({"stdout"} if command.stdout else set()) | ({"stderr"} if command.stderr else set())
        await session.streams(wanted)

        async def send(channel: int, data: bytes) -> None:
            await self._connections.wait_until_thawed(request)
            session.write(names[channel], data)
            if channel == ERROR:
                for name in wanted:
                    session.finish(name)

        if not session.closed.is_set():
            if await self._run(command, _Channels(send), session.closed.wait()):
                session.close()
            else:
                transport.abort()
        await session.closed.wait()
        # The HTTP server knows of the end of the connection and cancels this handler; there is no response to send.
        await asyncio.sleep(0)
        return web.Response()

    async def _run(self, command: Command, channels: "_Channels", gone: Awaitable[object]) -> bool:
        """Run a command until it ends, its pod ends or the client is gone; return False to break the connection."""
        killed = asyncio.Event()
        self._killed.setdefault(command.pod, set()).add(killed)
        self._counters.exec_opened(command.node)
        client = asyncio.ensure_future(gone)
        work = asyncio.ensure_future(self._work(command, channels, killed))
        try:
            await asyncio.wait({client, work}, return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else True
        finally:
            self._counters.exec_closed(command.node)
            self._killed[command.pod].discard(killed)
            if not self._killed[command.pod]:
                del self._killed[command.pod]
            client.cancel()
            work.cancel()
            await asyncio.gather(client, work, return_exceptions=True)

    async def _work(self, command: Command, channels: "_Channels", killed: asyncio.Event) -> bool:
        fault = self._faults.exec_fault(command.node)
        hangs = fault is not None and fault.how is ExecFaultKind.HANG
        if fault is not None and fault.how in (ExecFaultKind.FLOOD, ExecFaultKind.EMPTY_FRAMES):
            await channels.flood(b" " * _MESSAGE_BYTES if fault.how is ExecFaultKind.FLOOD else b"")
        try:
            async with asyncio.timeout(None if hangs else self.latency + self._faults.delay(command.node)):
                await killed.wait()
        except TimeoutError:
            if fault is not None and fault.how is ExecFaultKind.DROPPED:
                await channels.send_part(self._outcome(command, None))
                return False
            await channels.send_all(self._outcome(command, fault))
        else:
            await channels.send_all(execution.killed(command))
        return True

    def _outcome(self, command: Command, fault: ExecFault | None) -> Outcome:
        image = self._image(command.pod.partition("/")[2], command.container)
        return execution.outcome(command, fault, image, lambda: self._run_smi(command.node, command.argv))


class _Channels:
    """Sends outcomes in messages, as a container runtime does."""

    def __init__(self, send: Callable[[int, bytes], Awaitable[None]]) -> None:
        self._send = send

    async def send_all(self, outcome: Outcome) -> None:
        """Send everything, the status last."""
        for channel, data in ((STDERR, outcome.stderr), (STDOUT, outcome.stdout)):
            for start in range(0, len(data), _MESSAGE_BYTES):
                await self._send(channel, data[start : start + _MESSAGE_BYTES])
        await self._send(ERROR, outcome.status)

    async def flood(self, data: bytes) -> None:
        """Send a message again and again, until the client leaves."""
        while True:
            await self._send(STDOUT, data)
            await asyncio.sleep(0)

    async def send_part(self, outcome: Outcome) -> None:
        """Send the first message of the output."""
        await self._send(STDOUT, outcome.stdout[:_MESSAGE_BYTES])
