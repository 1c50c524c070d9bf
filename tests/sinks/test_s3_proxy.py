"""The way of the s3 sink to its service: gpuid's one rule for proxies, with the certificate checked."""

import asyncio
import base64
import functools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from collector.config import Duration
from collector.model import SinkRecord
from collector.sinks import Reason, UnavailableError
from tests.sinks.test_webhook import listening, server_tls
from tests.support.s3 import lake as lake_of

pytestmark = pytest.mark.anyio
MakeRecord = Callable[..., SinkRecord]
STORED = b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'


@pytest.fixture(autouse=True)
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for key, value in {
        "AWS_ACCESS_KEY_ID": "AKIAHUNTER2",
        "AWS_SECRET_ACCESS_KEY": "hunter2-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(key, value)


lake = functools.partial(lake_of, bucket="gpus")


async def put(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """Answer one PUT as S3 does; return its head."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:"))
    if "100-continue" in head:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    await reader.readexactly(length)
    writer.write(STORED)
    await writer.drain()
    return head


@asynccontextmanager
async def service(seen: list[str], tls: Any = None) -> AsyncIterator[int]:
    """Serve an S3 that stores everything."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            seen.append(await put(reader, writer))
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def proxy(seen: list[str]) -> AsyncIterator[int]:
    """Run an HTTP proxy that tunnels, or answers as S3 what it is to forward; and SOCKS5."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start = await reader.readexactly(1)
        if start == b"\x05":
            await reader.readexactly((await reader.readexactly(1))[0])
            writer.write(b"\x05\x00")
            await reader.readexactly(4)
            name = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
            port = int.from_bytes(await reader.readexactly(2), "big")
            seen.append(f"socks {name}")
            writer.write(b"\x05\x00\x00\x01" + bytes(6))
            await tunnel(reader, writer, port)
            return
        head = start.decode() + (await reader.readline()).decode().strip()
        seen.append(head)
        if head.startswith("CONNECT"):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await tunnel(reader, writer, int(head.split()[1].rpartition(":")[2]))
        else:
            seen.append(await put(reader, writer))

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    target.write(data)
            except ConnectionError:
                pass
            target.close()

        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    async with listening(handle) as port:
        yield port


async def test_the_environment_s_is_used_with_its_password(record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    async with proxy(seen) as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:s3cr%2Ft@127.0.0.1:{port}")
        async with lake("http://s3.test") as sink:
            await sink.send([record()], key="k")
    assert seen[0].startswith("PUT http://s3.test/gpus/")
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'me:s3cr/t').decode()}" in seen[1]


@pytest.mark.parametrize("no_proxy", ["10.0.0.0/8,127.0.0.0/8", "fd00::/8", ".svc,::1/128", ""])
async def test_no_proxy_is_interpreted_as_elsewhere(
    no_proxy: str, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    seen: list[str] = []
    async with service(seen) as port, lake(f"http://127.0.0.1:{port}") as sink:
        await sink.send([record()], key="k")
    assert len(seen) == 1


async def test_an_empty_key_means_none(record: MakeRecord, monkeypatch: pytest.MonkeyPatch, certificates: Any) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with lake("http://s3.invalid", proxy="") as sink:
        with pytest.raises(UnavailableError) as caught:
            await sink.send([record()], key="k")
    assert "proxy" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_service_behind_a_proxy_must_present_its_certificate(
    scheme: str, record: MakeRecord, certificates: Any
) -> None:
    seen: list[str] = []
    stored: list[str] = []
    async with service(stored, server_tls(certificates)) as s3, proxy(seen) as port:
        way = f"{scheme}://127.0.0.1:{port}"
        async with lake(f"https://localhost:{s3}", proxy=way, ca_file=certificates.ca) as sink:
            await sink.send([record()], key="k")
        async with lake(f"https://localhost:{s3}", proxy=way) as sink:
            text = rf": localhost:{s3}: certificate verify failed: .*certificate.*; through .*127\.0\.0\.1:{port}$"
            with pytest.raises(UnavailableError, match=text):
                await sink.send([record()], key="k")
    assert len(stored) == 1
    assert seen == [f"CONNECT localhost:{s3} HTTP/1.1" if scheme == "http" else "socks localhost"] * 2


@pytest.mark.parametrize(("status", "reason"), [(407, Reason.UNAUTHORIZED), (403, Reason.CONNECTION)])
async def test_the_answer_of_a_proxy_is_quoted(
    status: int, reason: Reason, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:s3cr3t@127.0.0.1:{port}")
        async with lake("https://s3.test") as sink:
            with pytest.raises(
                UnavailableError, match=f"the proxy responded with HTTP status {status}.*127.0.0.1:{port}$"
            ) as caught:
                await sink.send([record()], key="k")
    assert caught.value.reason is reason
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxy_that_cannot_be_resolved_is_named(
    scheme: str, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"{scheme}://nowhere.invalid:3128")
    async with lake("http://s3.test") as sink:
        with pytest.raises(UnavailableError, match=r"nowhere\.invalid") as caught:
            await sink.send([record()], key="k")
    assert caught.value.reason is Reason.CONNECTION
    assert "unhandled" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxy_that_fails_is_named_without_its_password(
    scheme: str, record: MakeRecord, monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"{scheme}://me:s3cr3t@127.0.0.1:{unused_port}")
    async with lake("http://s3.test") as sink:
        with pytest.raises(UnavailableError, match=f"127.0.0.1:{unused_port}") as caught:
            await sink.send([record()], key="k")
    assert caught.value.reason is Reason.CONNECTION
    assert "proxy" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


async def test_a_proxy_that_is_not_a_url_is_misconfigured(record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "ftp://me:s3cr3t@proxy")
    async with lake("http://s3.test") as sink:
        with pytest.raises(
            UnavailableError, match=r"^sinks\.lake: s3://gpus: HTTP_PROXY: ftp proxies are not supported"
        ) as caught:
            await sink.send([record()], key="k")
    assert caught.value.reason is Reason.MISCONFIGURED


async def test_a_socks_proxy_that_does_not_answer_is_a_timeout(record: MakeRecord) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and never answers
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        async with lake("http://s3.test", proxy=f"socks5://{place}", connect_timeout=Duration(0.5)) as sink:
            with pytest.raises(UnavailableError, match=f"proxy {place}: timed out") as caught:
                await sink.send([record()], key="k")
    assert caught.value.reason is Reason.TIMEOUT
    assert "unhandled" not in str(caught.value)


@pytest.mark.parametrize("trusting", [False, True])
async def test_the_reason_for_a_tls_failure_comes_first(trusting: bool, record: MakeRecord, certificates: Any) -> None:
    settings = {"ca_file": certificates.client_cert} if trusting else {}
    async with service([], server_tls(certificates)) as port, lake(f"https://localhost:{port}", **settings) as sink:
        with pytest.raises(UnavailableError) as caught:
            await sink.send([record()], key="k")
    said = str(caught.value).removeprefix(f"sinks.lake: s3://gpus: localhost:{port}: certificate verify failed: ")
    assert said.endswith(("certificate", "certificate in certificate chain"))
    assert len(said) < 60


@pytest.mark.parametrize(
    ("scheme", "answer", "said"),
    [
        ("https", b"HTTP/1.1 400 Bad Request\r\n\r\n", "TLS failure: "),
        ("http", b"", "the server closed the connection"),
        ("http", b"SSH-2.0-OpenSSH\r\n", "the response is not valid HTTP"),
    ],
)
async def test_a_server_other_than_s3_is_named_without_the_object(
    scheme: str, answer: bytes, said: str, record: MakeRecord
) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with listening(handle) as port, lake(f"{scheme}://127.0.0.1:{port}") as sink:
        with pytest.raises(UnavailableError) as caught:
            await sink.send([record()], key="k")
    assert str(caught.value).startswith(f"sinks.lake: s3://gpus: 127.0.0.1:{port}: {said}")
    assert "year" not in str(caught.value)
    assert caught.value.reason is Reason.CONNECTION
