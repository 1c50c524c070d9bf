"""API servers that misbehave, each in its own way: `python -m tests.support.hostile PORT`.

Each kind answers below a path of its own, so one process is all of them: the server of the kind `endless_pages` is
http://127.0.0.1:PORT/endless_pages. They send as fast as they are read, without TLS. What a kind does not do itself is
what `calm` does: a few nodes, a ready pod on each, watches with bookmarks, and readings that succeed.
"""

import asyncio
import base64
import contextlib
import hashlib
import itertools
import json
import os
import sys
import urllib.parse
import uuid
import zlib
from collections.abc import Iterator
from typing import Any, ClassVar

__all__ = ["KINDS", "Calm"]

BLOCK = 64 << 10  # bytes that are sent at once
SUCCESS = json.dumps({"metadata": {}, "status": "Success"}).encode()
HEAD = b'{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":['
CONTINUATION, TEXT, BINARY, PING, FINAL = 0x0, 0x1, 0x2, 0x9, 0x80


class Request:
    """What a client asks for, and how to answer it."""

    def __init__(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, _, rest = head.decode("latin-1").partition("\r\n")
        url = urllib.parse.urlsplit(line.split(" ")[1])
        self.kind, _, path = url.path.lstrip("/").partition("/")
        self.path = f"/{path}"
        self.query = dict(urllib.parse.parse_qsl(url.query))
        pairs = (pair.partition(":") for pair in rest.split("\r\n") if pair)
        self.headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self.reader = reader
        self._writer = writer

    @property
    def resource(self) -> str:
        return self.path.rpartition("/")[2]

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def begin(self, *headers: str, status: str = "200 OK") -> None:
        lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", *headers]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n")

    async def answer(self, body: bytes, *headers: str, status: str = "200 OK") -> None:
        await self.begin(f"Content-Length: {len(body)}", *headers, status=status)
        for start in range(0, len(body), BLOCK):
            await self.send(body[start : start + BLOCK])

    async def stream(self, *headers: str, status: str = "200 OK") -> None:
        """Begin a body in chunks."""
        await self.begin("Transfer-Encoding: chunked", *headers, status=status)

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def frame(self, data: bytes = b"", kind: int = BINARY | FINAL, count: int = 1) -> None:
        """Send `count` frames of a WebSocket at once."""
        size = bytes([len(data)]) if len(data) < 126 else b"\x7f" + len(data).to_bytes(8, "big")
        await self.send((bytes([kind]) + size + data) * count)


def node(name: str, version: int = 1, **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version), "labels": {}}
    amounts = {"nvidia.com/gpu": "1"}
    status = {"capacity": amounts, "allocatable": amounts, "nodeInfo": {"bootID": "1"}}
    return {"metadata": metadata | more, "spec": {"providerID": f"sim://{name}"}, "status": status}


def pod(name: str, version: int = 1, containers: int = 1) -> dict[str, Any]:
    metadata = {"name": f"plugin-{name}", "namespace": "gpu-operator", "uid": f"pod-{name}"}
    status = {"name": "nvidia-device-plugin", "ready": True, "restartCount": 0, "containerID": "containerd://1"}
    return {
        "metadata": metadata | {"resourceVersion": str(version), "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": name},
        "status": {"phase": "Running", "containerStatuses": [status] * containers},
    }


def event(kind: str, thing: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": thing}).encode() + b"\n"


def bookmark(version: int = 1) -> bytes:
    return event("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


def reading(gpus: int) -> bytes:
    """Return the output of nvidia-smi with GPUs never seen before."""
    one = "<gpu id='{0}'><product_name>H100</product_name><uuid>GPU-{1}</uuid><serial>{0}</serial></gpu>"
    body = "".join(one.format(uuid.uuid4().int >> 68, uuid.uuid4()) for _ in range(gpus))
    head = "<nvidia_smi_log><driver_version>570.1</driver_version><cuda_version>12.8</cuda_version>"
    return f"<?xml version='1.0' ?>{head}<attached_gpus>{gpus}</attached_gpus>{body}</nvidia_smi_log>".encode()


class Calm:
    """Does nothing wrong."""

    nodes: ClassVar[int] = 4
    outcome: ClassVar[str] = "up"  # the state of a cluster of this kind within seconds; empty where that takes longer

    async def handle(self, request: Request) -> None:
        if request.path.endswith("/exec"):
            await self.accept(request)
            await self.exec(request)
        elif request.query.get("watch") == "true":
            await self.watch(request)
        elif request.resource in ("nodes", "pods"):
            await self.list(request)
        else:
            await request.answer(b"{}", status="404 Not Found")

    async def list(self, request: Request) -> None:
        await request.answer(self.page(request, self.names()))

    async def watch(self, request: Request) -> None:
        await request.stream()
        for version in itertools.count(2):
            await request.chunk(bookmark(version))
            await asyncio.sleep(1)

    async def exec(self, request: Request) -> None:
        await request.frame(b"\x01" + reading(1))
        await self.succeed(request)

    async def succeed(self, request: Request) -> None:
        await request.frame(b"\x03" + SUCCESS)
        await request.frame(b"\x03\xe8", kind=0x8 | FINAL)
        await request.reader.read(1000)

    async def accept(self, request: Request) -> None:
        key = request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        digest = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        lines = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {digest}")
        await request.begin(*lines, "Sec-WebSocket-Protocol: v5.channel.k8s.io", status="101 Switching Protocols")

    def names(self) -> Iterator[str]:
        return (f"node-{number}" for number in range(self.nodes))

    def thing(self, request: Request, name: str, version: int = 1) -> dict[str, Any]:
        name = f"{request.kind}-{name}".replace("_", "-")  # or two kinds would be taken for one cluster
        return node(name, version) if request.resource == "nodes" else pod(name, version)

    def page(self, request: Request, names: Iterator[str], token: str = "") -> bytes:
        items = [self.thing(request, name) for name in names]
        return json.dumps({"metadata": {"resourceVersion": "1", "continue": token}, "items": items}).encode()


class ManyNodes(Calm):
    """Has enough nodes that some are always being read."""

    nodes = 2000


# Lists


class GzipBomb(Calm):
    """A page of a few megabytes that inflates to gigabytes."""

    outcome = "limit_exceeded"

    async def list(self, request: Request) -> None:
        await request.stream("Content-Encoding: gzip")
        squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
        await request.chunk(squeeze.compress(HEAD) + squeeze.flush(zlib.Z_FULL_FLUSH))
        blank = squeeze.compress(b" " * (1 << 20)) + squeeze.flush(zlib.Z_FULL_FLUSH)
        for _ in range(3000):
            await request.chunk(blank)


class HugePage(Calm):
    """A page without end, not compressed."""

    outcome = "limit_exceeded"

    async def list(self, request: Request) -> None:
        await request.stream()
        await request.chunk(HEAD)
        while True:
            await request.chunk(b'{"metadata":{"name":"' + b"x" * BLOCK + b'"}},')


class ManyItems(Calm):
    """A page of tiny items, which take thirty times as much once they are decoded."""

    outcome = "limit_exceeded"
    body = HEAD + b"1," * (15 << 20) + b"1]}"

    async def list(self, request: Request) -> None:
        await request.answer(self.body)


class ManyContainers(Calm):
    """Pods of hundreds of thousands of containers each."""

    outcome = "limit_exceeded"

    async def list(self, request: Request) -> None:
        containers = b",".join([b'{"name":"c%d"}' % number for number in range(200_000)])
        names = list(self.names()) if request.resource == "nodes" else [f"wide-{n}" for n in range(100)]
        if request.resource == "nodes":
            await request.answer(self.page(request, iter(names)))
            return
        await request.stream()
        await request.chunk(HEAD)
        for number, name in enumerate(names[:8]):
            one = (
                json.dumps(pod(name))
                .encode()
                .replace(b'"containerStatuses": [', b'"containerStatuses": [' + containers + b",")
            )
            await request.chunk((b"," if number else b"") + one)
        await request.chunk(b"]}")
        await request.chunk(b"")


class EndlessPages(Calm):
    """A list whose pages bring a hundred more objects each, without end."""

    outcome = "limit_exceeded"

    async def list(self, request: Request) -> None:
        number = int(request.query.get("continue", "0"))
        names = (f"page-{number}-{index}" for index in range(100))
        await request.answer(self.page(request, names, token=str(number + 1)))


class EmptyPages(Calm):
    """A list whose pages bring nothing, without end."""

    outcome = "limit_exceeded"

    async def list(self, request: Request) -> None:
        number = int(request.query.get("continue", "0"))
        await request.answer(self.page(request, iter(()), token=str(number + 1)))


class LoopingPages(Calm):
    """A list that goes back to its beginning."""

    outcome = "limit_exceeded"

    async def list(self, request: Request) -> None:
        await request.answer(self.page(request, self.names(), token="again"))


class HugeToken(Calm):
    """A continue token of megabytes."""

    outcome = "server_error"

    async def list(self, request: Request) -> None:
        await request.answer(self.page(request, self.names(), token="x" * (4 << 20)))


class DeepJson(Calm):
    """JSON of a million levels."""

    outcome = "server_error"

    async def list(self, request: Request) -> None:
        await request.answer(HEAD + b"[" * (1 << 20))


class TinyChunks(Calm):
    """A body in chunks of one byte."""

    outcome = ""  # unreachable after the timeout of a page

    async def list(self, request: Request) -> None:
        await request.stream()
        while True:
            await request.send(b"1\r\n \r\n" * (BLOCK // 6))


class HugeErrors(Calm):
    """Errors with bodies without end."""

    outcome = "server_error"

    async def list(self, request: Request) -> None:
        await request.stream(status="500 Internal Server Error")
        while True:
            await request.chunk(b"x" * BLOCK)


class Garbage(Calm):
    """Random bytes instead of HTTP, and instead of JSON."""

    outcome = ""  # unreachable or server_error, as it comes

    async def handle(self, request: Request) -> None:
        if os.urandom(1)[0] < 128:
            await request.send(os.urandom(1000))
        else:
            await request.answer(os.urandom(1000))


class HugeHeaders(Calm):
    """Headers without end."""

    outcome = "unreachable"

    async def handle(self, request: Request) -> None:
        await request.send(b"HTTP/1.1 200 OK\r\n")
        for number in itertools.count():
            await request.send(b"X-%d: %b\r\n" % (number, b"x" * 1000))


class InterimAnswers(Calm):
    """Interim answers without end, and never the final one."""

    outcome = ""  # unreachable after the timeout of a page

    async def handle(self, request: Request) -> None:
        while True:
            await request.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 2000)


class SlowBytes(Calm):
    """A byte every tenth of a second."""

    outcome = ""  # unreachable after the timeout of a page

    async def handle(self, request: Request) -> None:
        await request.stream()
        for byte in itertools.cycle(HEAD):
            await request.chunk(bytes([byte]))
            await asyncio.sleep(0.1)


class Silent(Calm):
    """No response at all."""

    outcome = ""  # unreachable after the timeout of a page

    async def handle(self, request: Request) -> None:
        await asyncio.sleep(3600)


# Watches


class ShortWatches(Calm):
    """Watches that end as soon as they are open."""

    outcome = "unreachable"

    async def watch(self, request: Request) -> None:
        await request.stream()
        await request.chunk(b"")


class MuteWatches(Calm):
    """Watches that stay open and never send anything."""

    outcome = ""  # unreachable once that is silence

    async def watch(self, request: Request) -> None:
        await request.stream()
        await asyncio.sleep(3600)


class HotWatches(Calm):
    """Watches that end after a bookmark."""

    async def watch(self, request: Request) -> None:
        await request.stream()
        await request.chunk(bookmark())
        await request.chunk(b"")


class WatchFlood(Calm):
    """Nodes that change as fast as they are read."""

    async def watch(self, request: Request) -> None:
        await request.stream()
        for version in itertools.count(2):
            things = (self.thing(request, name, version) for name in self.names())
            if request.resource == "nodes":
                things = (one | {"spec": {"providerID": f"sim://{version}"}} for one in things)
            await request.chunk(b"".join(event("MODIFIED", one) for one in things) * 10)


class NewNodes(Calm):
    """New nodes with new pods, without end."""

    outcome = "limit_exceeded"

    async def watch(self, request: Request) -> None:
        await request.stream()
        for version in itertools.count(2):
            things = (self.thing(request, f"new-{version}-{index}", version) for index in range(50))
            await request.chunk(b"".join(event("ADDED", one) for one in things))


class ComingAndGoing(Calm):
    """Nodes that come and go, without end."""

    async def watch(self, request: Request) -> None:
        await request.stream()
        for version in itertools.count(2):
            things = [self.thing(request, f"new-{version}-{index}", version) for index in range(50)]
            await request.chunk(b"".join(event(kind, one) for kind in ("ADDED", "DELETED") for one in things))


class HugeEvent(Calm):
    """An event without end."""

    outcome = "limit_exceeded"

    async def watch(self, request: Request) -> None:
        await request.stream()
        await request.chunk(b'{"type":"ADDED","object":{"metadata":{"name":"')
        while True:
            await request.chunk(b"x" * BLOCK)


class BlankLines(Calm):
    """Lines without anything, as fast as they are read."""

    outcome = ""  # unreachable once that is silence

    async def watch(self, request: Request) -> None:
        await request.stream()
        while True:
            await request.chunk(b"\n" * BLOCK)


class Bookmarks(Calm):
    """Bookmarks as fast as they are read."""

    async def watch(self, request: Request) -> None:
        await request.stream()
        while True:
            await request.chunk(bookmark() * 1000)


# Execs


class StatusFlood(ManyNodes):
    """An exit status without end."""

    async def exec(self, request: Request) -> None:
        while True:
            await request.frame(b"\x03" + b" " * 1000, count=60)


class OutputFlood(ManyNodes):
    """Output without end."""

    async def exec(self, request: Request) -> None:
        while True:
            await request.frame(b"\x01" + b" " * BLOCK)


class OneHugeFrame(ManyNodes):
    """A frame that announces gigabytes."""

    async def exec(self, request: Request) -> None:
        await request.send(bytes([BINARY | FINAL, 127]) + (3 << 30).to_bytes(8, "big") + b"\x01")
        while True:
            await request.send(b" " * BLOCK)


class UnknownChannel(ManyNodes):
    """Bytes on a channel that does not exist."""

    async def exec(self, request: Request) -> None:
        while True:
            await request.frame(b"\x09" + b" " * BLOCK)


class PingFlood(ManyNodes):
    """Pings as fast as they are answered."""

    async def exec(self, request: Request) -> None:
        async def drain() -> None:
            while await request.reader.read(BLOCK):
                pass

        draining = asyncio.create_task(drain())
        try:
            while True:
                await request.frame(kind=PING | FINAL, count=2000)
        finally:
            draining.cancel()


class UnreadPongs(ManyNodes):
    """Pings whose answers are never read."""

    async def exec(self, request: Request) -> None:
        while True:
            await request.frame(b"x" * 100, kind=PING | FINAL, count=500)


class EmptyFrames(ManyNodes):
    """Frames without content."""

    async def exec(self, request: Request) -> None:
        while True:
            await request.frame(count=BLOCK // 2)


class EmptyFragments(ManyNodes):
    """One frame in fragments without content, and without an end."""

    async def exec(self, request: Request) -> None:
        await request.frame(kind=BINARY)
        while True:
            await request.frame(kind=CONTINUATION, count=BLOCK // 2)


class HangingExecs(ManyNodes):
    """Commands that never end."""

    async def exec(self, request: Request) -> None:
        await request.frame(b"\x01<nvidia_smi_log>")
        await asyncio.sleep(3600)


class ManyGpus(ManyNodes):
    """Readings of as many GPUs as one may have, new ones each time, on new nodes without end."""

    async def exec(self, request: Request) -> None:
        await request.frame(b"\x01" + reading(256))
        await self.succeed(request)


class LargeReadings(ManyNodes):
    """Readings of megabytes that are well-formed and empty."""

    body = b"<nvidia_smi_log>" + b"<a></a>" * (1 << 20) + b"</nvidia_smi_log>"

    async def exec(self, request: Request) -> None:
        for start in range(0, len(self.body), BLOCK):
            await request.frame(b"\x01" + self.body[start : start + BLOCK])
        await self.succeed(request)


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


KINDS: dict[str, type[Calm]] = {
    _snake(one.__name__): one
    for one in list(globals().values())
    if isinstance(one, type) and issubclass(one, Calm) and one is not ManyNodes
}


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        while True:
            request = Request(await reader.readuntil(b"\r\n\r\n"), reader, writer)
            await KINDS[request.kind]().handle(request)
            if request.query.get("watch") or request.path.endswith("/exec"):
                break
    writer.close()


async def main(port: int) -> None:
    """Serve every kind until cancelled."""
    server = await asyncio.start_server(_serve, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
