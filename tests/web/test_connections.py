"""How long a client may take, how many connections there may be, and who gives way."""

import contextlib
import functools
import resource
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import anyio
import httpx
import pytest

from collector.config.values import Duration, Size
from collector.model import Gpu
from collector.web.limits import HttpLimits
from tests.support.processes import CollectorProcess
from tests.support.waiting import eventually, until
from tests.web.conftest import Site
from tests.web.test_server import certificate, trusting

pytestmark = pytest.mark.anyio

HALF = b"GET / HTTP/1.1\r\nHost: a\r\nX-Half: "
HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
SHORT = Duration(0.3)
LONG = Duration(3600)
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # not used, and quick to make


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: Any) -> Any:
    """Both event loops: the tests' own, and the one that the collector runs on."""
    return ("asyncio", {"use_uvloop": request.param == "uvloop"})


@pytest.fixture
def serving(serving: Any) -> Any:
    """Look for slow clients so often that the tests need not wait."""
    return functools.partial(serving, limits=HttpLimits(sweep_interval=0.02, shutdown_timeout=1.0))


@pytest.fixture
def large() -> Site:
    """A site whose answers are more than the kernel takes at once."""
    site = Site()
    site.cluster("prod-a")
    for number in range(400):
        site.read("prod-a", f"n{number}", *(Gpu(uuid=f"GPU-{number}-{n}", model="H" * 200) for n in range(8)))
    return site


@pytest.fixture(params=["plain", "tls"])
def secured(request: Any, tmp_path: Path) -> dict[str, Any]:
    """The settings of a server without TLS and with it."""
    if request.param == "plain":
        return {}
    cert, key = certificate(tmp_path, "server")
    return {"cert_file": cert, "key_file": key, "verify": trusting(cert)}


class Client:
    """One scripted connection; closed at the end of the test."""

    opened: ClassVar[list["Client"]] = []

    def __init__(self, port: int, source: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self._raw = socket.socket()
        self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._raw.bind((source, 0))
        self._raw.setblocking(False)
        self._port, self._tls = port, tls
        self._sock = self._raw
        self.opened.append(self)

    def close(self) -> None:
        self._sock.close()

    async def open(self) -> "Client":
        with contextlib.suppress(BlockingIOError):
            self._raw.connect(("127.0.0.1", self._port))
        await anyio.wait_writable(self._raw)
        if self._tls is not None:
            self._raw.setblocking(True)
            self._sock = await anyio.to_thread.run_sync(
                lambda: self._tls.wrap_socket(self._raw, server_hostname="127.0.0.1")  # type: ignore[union-attr]
            )
            self._sock.setblocking(False)
        return self

    def send(self, data: bytes) -> None:
        self._sock.send(data)

    async def receive(self) -> bytes:
        """What comes next; nothing at the end, however it came."""
        with anyio.fail_after(30):
            while True:
                try:
                    return self._sock.recv(4096)
                except (BlockingIOError, ssl.SSLWantReadError):
                    await anyio.sleep(0.01)
                except OSError:
                    return b""

    def is_over(self) -> bool:
        """Whether the server has ended the connection, seen without reading anything."""
        with contextlib.suppress(FileNotFoundError):
            inode = f"{self._sock.getsockname()[1]:04X}"
            lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
            return not any(
                line.split()[1].endswith(f":{self._port:04X}")
                and line.split()[2].endswith(f":{inode}")
                and line.split()[3] in ("01", "04", "08")  # open, or with something left to send
                for line in lines
            )
        return False


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while Client.opened:
        Client.opened.pop().close()


class TestTime:
    async def test_an_incomplete_request_times_out(self, site: Any, serving: Any, secured: dict[str, Any]) -> None:
        async with serving(site, header_timeout=SHORT, idle_timeout=LONG, **secured) as client:
            for first in (b"", HALF, HEALTHZ + HALF):
                half = await Client(client.base_url.port, tls=secured.get("verify")).open()
                half.send(first)
                if first.startswith(HEALTHZ):
                    assert b" 200 " in await half.receive()
                await eventually(half.is_over)

    async def test_slowly_trickling_headers_time_out(self, site: Any, serving: Any) -> None:
        async with serving(site, header_timeout=SHORT) as client:
            half = await Client(client.base_url.port).open()
            half.send(HALF)

            def trickle() -> bool:
                with contextlib.suppress(OSError):
                    half.send(b"x")
                return half.is_over()

            await eventually(trickle)

    async def test_an_unfinished_handshake_times_out(self, site: Any, serving: Any, tmp_path: Path) -> None:
        cert, key = certificate(tmp_path, "server")
        settings = {"cert_file": cert, "key_file": key, "verify": trusting(cert), "header_timeout": SHORT}
        async with serving(site, **settings) as client:
            for said in (b"", b"\x16\x03\x01\x02\x00\x01", HALF):
                silent = await Client(client.base_url.port).open()
                silent.send(said)
                await eventually(silent.is_over)

    async def test_an_idle_connection_is_closed(self, site: Any, serving: Any, secured: dict[str, Any]) -> None:
        async with serving(site, idle_timeout=SHORT, **secured) as client:
            idle = await Client(client.base_url.port, tls=secured.get("verify")).open()
            idle.send(HEALTHZ)
            assert b" 200 " in await idle.receive()
            await eventually(idle.is_over)

    async def test_the_size_of_headers_is_limited(self, site: Any, serving: Any) -> None:
        async with serving(site, max_header_size=Size(1024)) as client:
            large = await Client(client.base_url.port).open()
            large.send(b"GET / HTTP/1.1\r\n" + b"X-Header: 34567890123456789012345678901234567890\r\n" * 30)
            answer = await large.receive()
            assert answer.startswith(b"HTTP/1.1 431 ")
            assert b"\r\nServer: gpuid\r\n" in answer
            assert await large.receive() == b""


class TestSlowReaders:
    @pytest.mark.parametrize("path", ["/metrics", "/api/v1/gpus?limit=10000", "/clusters/prod-a"])
    async def test_a_client_that_reads_nothing_is_disconnected(
        self, large: Site, serving: Any, secured: dict[str, Any], path: str
    ) -> None:
        async with serving(large, write_timeout=SHORT, idle_timeout=LONG, **secured) as client:
            reader = await Client(client.base_url.port, tls=secured.get("verify")).open()
            reader.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            await eventually(reader.is_over)

    async def test_pipelined_answers_do_not_pile_up(self, large: Site, serving: Any) -> None:
        async with serving(large, write_timeout=SHORT, idle_timeout=LONG) as client:
            reader = await Client(client.base_url.port).open()
            reader.send(b"GET /static/page.js HTTP/1.1\r\nHost: a\r\n\r\n" * 300)
            await eventually(reader.is_over)

    async def test_a_trickle_is_too_slow(self, large: Site, serving: Any) -> None:
        async with serving(large, write_timeout=Duration(1), idle_timeout=LONG) as client:
            reader = await Client(client.base_url.port).open()
            reader.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")

            async def trickle() -> bool:
                if await reader.receive() == b"":
                    return True
                await anyio.sleep(0.5)
                return reader.is_over()

            await eventually(trickle)

    @pytest.mark.parametrize("reads", [True, False])
    async def test_without_kernel_progress_data_no_reader_is_disconnected(
        self, large: Site, serving: Any, reads: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = socket.socket.getsockopt

        def short(self: socket.socket, level: int, name: int, size: int = 0) -> int | bytes:
            if (level, name) == (socket.IPPROTO_TCP, socket.TCP_INFO):
                return asked(self, level, name, 104)
            return asked(self, level, name, size) if size else asked(self, level, name)

        monkeypatch.setattr(socket.socket, "getsockopt", short)
        async with serving(large, write_timeout=Duration(0.5), idle_timeout=LONG) as client:
            reader = await Client(client.base_url.port).open()
            reader.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            if not reads:
                await eventually(reader.is_over)
                return
            received = bytearray()
            while data := await reader.receive():
                received += data
                await anyio.sleep(0.01)  # it needs several times the timeout for all
            assert received.count(b"gpuid_gpu_info{") == 3200

    async def test_a_client_that_reads_gets_everything(self, large: Site, serving: Any) -> None:
        async with serving(large, write_timeout=Duration(2)) as client:
            answer = await client.get("/metrics", timeout=60)
            assert answer.text.count("gpuid_gpu_info{") == 3200


class TestNumber:
    async def test_new_connections_take_the_place_of_old_ones(
        self, site: Any, serving: Any, secured: dict[str, Any]
    ) -> None:
        async with serving(site, max_connections=10, **secured) as client:
            halves = []
            for number in range(40):
                halves.append(await Client(client.base_url.port).open())
                halves[-1].send(b"\x16\x03\x01" if secured else HALF)  # a handshake that never finishes
                if number % 5 == 0:
                    verify = secured.get("verify", PLAIN)
                    for path in ("/healthz", "/readyz", "/metrics"):
                        async with httpx.AsyncClient(base_url=client.base_url, verify=verify) as other:
                            assert (await other.get(path, timeout=30)).status_code == 200
            await eventually(lambda: sum(not half.is_over() for half in halves) <= 10)

    async def test_the_client_with_most_connections_loses_one(self, site: Any, serving: Any) -> None:
        async with serving(site, max_connections=10) as client:
            port = client.base_url.port
            idle = await Client(port, "127.0.0.2").open()
            idle.send(HEALTHZ)
            assert b" 200 " in await idle.receive()
            flood = [await Client(port).open() for _ in range(60)]
            await eventually(lambda: sum(not one.is_over() for one in flood) < 10)
            idle.send(HEALTHZ)
            assert b" 200 " in await idle.receive()

    async def test_one_client_has_at_most_its_share(self, site: Any, serving: Any) -> None:
        async with serving(site, max_connections_per_client=5) as client:
            flood = [await Client(client.base_url.port).open() for _ in range(20)]
            await eventually(lambda: sum(not one.is_over() for one in flood) <= 5)
            assert not flood[-1].is_over()

    async def test_a_request_being_answered_is_kept_longest(self, site: Any, serving: Any) -> None:
        async with serving(site, max_connections=5) as client:
            busy = await Client(client.base_url.port).open()
            busy.send(b"GET /changes/stream HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b" 200 " in await busy.receive()
            flood = []
            for _ in range(20):
                flood.append(await Client(client.base_url.port).open())
                flood[-1].send(HALF)
            await eventually(lambda: sum(not one.is_over() for one in flood) <= 4)
            assert not busy.is_over()


@pytest.fixture
def poor(tmp_path: Path) -> Iterator[CollectorProcess]:
    """A collector that may open 256 files."""
    process = CollectorProcess(tmp_path)
    process.configure([], after='[[clusters]]\nin_cluster = true\nname = "none"\n')
    process.command = ["bash", "-c", 'ulimit -n 256; exec "$@"', "bash", *process.command]
    process.start()
    try:
        until(lambda: process.text("/healthz"), "ok\n")
        yield process
    finally:
        process.stop()


class TestFewFiles:
    def test_incomplete_requests_do_not_block_probes(self, poor: CollectorProcess) -> None:
        with contextlib.ExitStack() as stack:
            for spare in (None, 10):
                if spare is not None:  # so few that accepting fails before the limit is reached
                    pid = poor._popen.pid  # type: ignore[union-attr]
                    used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
                    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + spare, used + spare))
                for number in range(400):
                    half = stack.enter_context(socket.create_connection(("127.0.0.1", poor.port), timeout=30))
                    with contextlib.suppress(OSError):
                        half.send(HALF)
                    if number % 40 == 39:
                        assert poor.text("/healthz") == "ok\n"
        assert "Traceback" not in poor.tail()
