"""A client that hangs up is never an error: on any path, with any method, at any moment."""

import contextlib
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest
from aiohttp import web

from collector.config import ServerSettings
from collector.model import Gpu
from collector.store import StoreError
from collector.web.application import ROUTES, application
from tests.web.conftest import Site, keeping
from tests.web.test_server import certificate, trusting

pytestmark = pytest.mark.anyio

METHODS = ("GET", "HEAD", "POST", "OPTIONS", "BREW")
NAMES = {"cluster": "prod-a", "node": "n2", "uuid": "GPU-a2", "id": "GPU-a2", "name": "page.js", "chassis": "C1"}
MOMENTS = ("nothing", "head", "body", "asked", "pipelined", "answer", "served")
RESET = struct.pack("ii", 1, 0)


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: Any) -> Any:
    """Both event loops: the tests' own, and the one that the collector runs on."""
    return ("asyncio", {"use_uvloop": request.param == "uvloop"})


@pytest.fixture
def large() -> Site:
    """A site whose answers are more than what the kernel takes at once."""
    site = Site()
    for cluster in ("prod-a", "prod-b"):
        site.cluster(cluster)
        for number in range(300):
            gpus = (Gpu(uuid=f"GPU-a{number}" if not n else f"GPU-{cluster}-{number}-{n}", model="H") for n in range(8))
            site.read(cluster, f"n{number}", *gpus)
    return site


def targets(site: Site) -> list[str]:
    """A path of every route that the application has."""
    routes = application(site.collector, ServerSettings()).router.routes()
    paths = {route.resource.canonical for route in routes if route.resource is not None}
    assert {"/metrics", "/changes/stream"} <= paths
    return [path.format(**NAMES) for path in sorted(paths)]


async def hang_up(port: int, method: str, path: str, moment: str, *, reset: bool) -> None:
    """Send a request and disconnect at some moment, cleanly or not."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        sock.connect(("127.0.0.1", port))
    await anyio.wait_writable(sock)
    body = "Content-Length: 100\r\n" if moment == "body" else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\nAccept-Encoding: gzip\r\n{body}\r\n".encode()
    if path == "/metrics":
        head = head.replace(b"Accept-Encoding: gzip\r\n", b"")
    sent = {"nothing": b"", "head": head[:-9], "pipelined": 5 * head + head[:9]}.get(moment, head)
    sock.send(sent)
    if moment in ("answer", "served"):
        with anyio.move_on_after(30):
            await anyio.wait_readable(sock)
        sock.recv(1 if moment == "answer" else 65536)
    elif moment == "pipelined":
        await anyio.sleep(0.005)
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


@contextlib.asynccontextmanager
async def quiet(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """Nothing may be logged that a user sees by default."""
    with caplog.at_level(logging.INFO):
        yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_no_hang_up_is_logged(
    large: Site, serving: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path, reset: bool
) -> None:
    async with keeping(large, tmp_path), quiet(caplog), serving(large) as client:
        for path in targets(large):
            for moment in MOMENTS:
                for method in METHODS if moment == "asked" else METHODS[:1]:
                    await hang_up(client.base_url.port, method, path, moment, reset=reset)
        assert (await client.get("/healthz")).status_code == 200


async def test_no_hang_up_in_tls_is_logged(
    large: Site, serving: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    cert, key = certificate(tmp_path, "server")
    trusted = trusting(cert)
    async with quiet(caplog), serving(large, cert_file=cert, key_file=key, verify=trusted) as client:
        port = client.base_url.port
        for bytes_sent in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"):
            with socket.create_connection(("127.0.0.1", port)) as sock:
                sock.sendall(bytes_sent)
        untrusting = ssl.create_default_context()
        async with httpx.AsyncClient(base_url=client.base_url, verify=untrusting) as other:
            with pytest.raises(httpx.ConnectError):
                await other.get("/")
        for path in targets(large):
            for standard in (False, True):  # with a closing alert or without
                with anyio.fail_after(60):
                    stream = await anyio.connect_tcp(
                        "127.0.0.1", port, ssl_context=trusted, tls_standard_compatible=standard
                    )
                    await stream.send(f"GET {path} HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n".encode())
                    await stream.receive(1)
                    await anyio.aclose_forcefully(stream) if standard else await stream.aclose()
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("turns", range(8))
async def test_no_request_is_logged_that_arrives_as_the_server_ends(
    site: Site, serving: Any, caplog: pytest.LogCaptureFixture, turns: int
) -> None:
    """Within some turns of the event loop, the connection is accepted, its request read and everything cancelled."""
    async with quiet(caplog):
        async with serving(site) as client:
            socks = [socket.create_connection(("127.0.0.1", client.base_url.port)) for _ in range(3)]
            for sock in socks:
                sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            socks.pop().close()
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
        for sock in socks:
            sock.settimeout(30)
            with contextlib.suppress(ConnectionError):
                assert sock.recv(100)[:15] in (b"", b"HTTP/1.1 200 OK")
            sock.close()


async def test_a_fault_of_a_handler_is_answered_and_logged_once(
    site: Any, serving: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(request: web.Request) -> web.Response:
        raise ConnectionResetError("of another connection than the client's")

    monkeypatch.setitem(ROUTES, "/sd", broken)
    async with serving(site) as client:
        answer = await client.get("/sd")
    assert answer.status_code == 500
    assert answer.headers["Server"] == "gpuid"
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "of another connection" in caplog.text


async def test_a_fault_under_api_is_a_problem_document(
    site: Any, serving: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(request: web.Request) -> web.Response:
        raise KeyError("secret")

    monkeypatch.setitem(ROUTES, "/api/v1/gpus", broken)
    async with serving(site) as client:
        answer = await client.get("/api/v1/gpus")
    assert (answer.status_code, answer.headers["Content-Type"]) == (500, "application/problem+json")
    assert answer.json()["code"] == "internal_error"
    assert "secret" not in answer.text
    assert answer.headers["Server"] == "gpuid"
    (record,) = caplog.records
    assert record.exc_info is not None


async def test_a_truncated_answer_does_not_look_complete(
    site: Any, serving: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"uuid\n")
        raise StoreError("the store is gone")

    monkeypatch.setitem(ROUTES, "/api/v1/gpus", broken)
    async with serving(site) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/api/v1/gpus")
    (record,) = caplog.records
    assert (record.getMessage(), record.exc_info) == ("response aborted", None)
    assert vars(record)["reason"] == "the store is gone"
