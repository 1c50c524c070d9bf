import asyncio
import base64
import gzip
import hashlib
import hmac
import json
import logging
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from yarl import URL

from collector.config import Duration
from collector.config.sinks import WebhookSettings
from collector.model import SinkRecord
from collector.sinks import KnownKeyError, Reason, RejectedError, SinkError, TooLargeError, UnavailableError, open_sink
from collector.sinks.credentials import choose_proxy
from tests.support.receiver import receiving

pytestmark = pytest.mark.anyio
MakeRecord = Callable[..., SinkRecord]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def server_tls(certificates: Any, *, client_certificates: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates.ca)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as Go verifies
    context.load_cert_chain(certificates.server_cert, certificates.server_key)
    context.verify_mode = ssl.CERT_REQUIRED if client_certificates else ssl.CERT_NONE
    return context


@asynccontextmanager
async def listening(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Serve raw TCP, or what TLS carries."""

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(closing, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def webhook(url: str, **settings: Any) -> AsyncIterator[Any]:
    sink = open_sink("hook", WebhookSettings(url=url, **settings))
    try:
        yield sink
    finally:
        await sink.aclose()


async def test_a_batch_is_one_post_with_the_documented_headers(tmp_path: Path, record: MakeRecord) -> None:
    (tmp_path / "token").write_text("t0ken\n")
    with receiving() as receiver:
        async with webhook(f"{receiver.url}gpus?x=1", token_file=tmp_path / "token") as sink:
            await sink.send([record(), record(1)], key="batch-7")
            await sink.send([record(2)], key="batch-8")
            await sink.send([], key="batch-9")
    first, second = receiver.requests
    assert json.loads(first.body)[1] == {
        "cluster": "prod",
        "node": "gpu-node-01",
        "machine": "i-0abc",
        "source": "gpu-operator/nvidia-device-plugin-abc12",
        "chassis": "1821325191344",
        "gpu": "1761025346026",
        "time": "2026-06-07T10:30:45Z",
        "uuid": "GPU-00000001",
        "model": "NVIDIA GB200",
        "event": "appeared",
        "changes": None,
        "last_known": None,
        "mark": None,
    }
    assert first.headers["Content-Type"] == "application/json"
    assert first.headers["Authorization"] == "Bearer t0ken"
    assert first.headers["X-Records-Count"] == "2"
    assert first.headers["X-Timestamp"].endswith("Z")
    assert first.headers["Idempotency-Key"] == "batch-7"
    assert first.headers["User-Agent"].startswith("gpuid/")
    assert "X-Signature" not in first.headers
    assert second.headers["Idempotency-Key"] == "batch-8"
    assert first.peer == second.peer  # one connection for both


async def test_a_signature_covers_the_timestamp_and_the_bytes_sent(
    record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_HMAC", "sign-me")
    with receiving() as receiver:
        async with webhook(receiver.url, hmac_secret_env="HOOK_HMAC", gzip=True) as sink:
            await sink.send([record()], key="k")
    (request,) = receiver.requests
    signed = request.headers["X-Timestamp"].encode() + b"." + request.body
    assert request.headers["X-Signature"] == "sha256=" + hmac.new(b"sign-me", signed, hashlib.sha256).hexdigest()
    assert request.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(request.body))[0]["gpu"] == "1761025346025"


async def test_a_rotated_token_is_used_and_a_missing_one_reported(tmp_path: Path, record: MakeRecord) -> None:
    token = tmp_path / "token"
    with receiving() as receiver:
        async with webhook(receiver.url, token_file=token) as sink:
            with pytest.raises(UnavailableError, match=r"sinks\.hook\.token_file: .*token: no such file") as caught:
                await sink.send([record()], key="k")
            assert caught.value.reason is Reason.MISCONFIGURED
            for content in ("one", "two"):
                token.write_text(content)
                await sink.send([record()], key="k")
            token.write_text("two\nlines")
            with pytest.raises(UnavailableError, match=r"token_file: expected one line of ASCII"):
                await sink.send([record()], key="k")
        async with webhook(receiver.url, token_env="NO_SUCH_TOKEN") as sink:
            with pytest.raises(UnavailableError, match=r"sinks\.hook\.token_env: NO_SUCH_TOKEN: expected a secret"):
                await sink.send([record()], key="k")
    assert [request.headers["Authorization"] for request in receiver.requests] == ["Bearer one", "Bearer two"]


async def test_a_private_ca_and_a_client_certificate_are_used(
    tmp_path: Path, certificates: Any, record: MakeRecord
) -> None:
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    with receiving(server_tls(certificates, client_certificates=True)) as receiver:
        url = receiver.url
        async with webhook(url, ca_file=certificates.ca, cert_file=cert, key_file=key) as sink:
            with pytest.raises(UnavailableError, match=r"sinks\.hook\.cert_file: .*tls.crt: no such file"):
                await sink.send([record()], key="k")
            shutil.copy(certificates.server_cert, cert)
            shutil.copy(certificates.server_key, key)
            await sink.send([record()], key="k")
            shutil.copy(certificates.client_cert, cert)
            shutil.copy(certificates.client_key, key)
            await sink.send([record()], key="k")
        async with webhook(url, ca_file=certificates.ca) as sink:
            with pytest.raises(UnavailableError) as caught:
                await sink.send([record()], key="k")
            assert caught.value.reason is Reason.CONNECTION
        async with webhook(url) as sink:
            with pytest.raises(UnavailableError, match="certificate verify failed"):
                await sink.send([record()], key="k")
    subjects = [request.certificate["subject"][0][0][1] for request in receiver.requests if request.certificate]
    assert subjects == ["server", "client"]


async def test_a_slow_200_is_a_delivery(record: MakeRecord) -> None:
    with receiving() as receiver:
        receiver.respond(200, delay=0.2)
        async with webhook(receiver.url) as sink:
            await sink.send([record()], key="k")


async def test_a_200_with_a_truncated_body_is_a_delivery(record: MakeRecord) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()

    async with listening(handle) as port, webhook(f"http://127.0.0.1:{port}/") as sink:
        await sink.send([record()], key="k")


@pytest.mark.parametrize(
    ("status", "headers", "reason", "retry_after"),
    [
        (429, {"Retry-After": "17"}, Reason.THROTTLED, 17.0),
        (503, {"Retry-After": "Sun, 07 Jun 2020 10:30:45 GMT"}, Reason.SERVER_ERROR, 0.0),
        (500, {}, Reason.SERVER_ERROR, None),
        (401, {}, Reason.UNAUTHORIZED, None),
        (404, {}, Reason.MISSING, None),
    ],
)
async def test_temporary_error_statuses_are_unavailable(
    status: int, headers: dict[str, str], reason: Reason, retry_after: float | None, record: MakeRecord
) -> None:
    with receiving() as receiver:
        receiver.respond(status, "because", headers=headers)
        async with webhook(receiver.url) as sink:
            with pytest.raises(UnavailableError) as caught:
                await sink.send([record()], key="k")
    assert (caught.value.reason, caught.value.retry_after) == (reason, retry_after)
    assert str(caught.value) == f"sinks.hook: {receiver.host}: answered {status}: because"


async def test_a_400_is_refused_and_its_body_is_cut(record: MakeRecord) -> None:
    with receiving() as receiver:
        receiver.respond(400, "no\n" + "x" * 100_000)
        async with webhook(receiver.url) as sink:
            with pytest.raises(RejectedError, match=r"answered 400: no x+…$") as caught:
                await sink.send([record()], key="k")
    assert len(str(caught.value)) < 300


async def test_a_redirect_is_not_followed(record: MakeRecord) -> None:
    with receiving() as receiver:
        receiver.respond(
            307, headers={"Location": f"{receiver.url.replace('//', '//u:hunter2@')}elsewhere?token=hunter2"}
        )
        async with webhook(receiver.url) as sink:
            with pytest.raises(UnavailableError, match=r"redirects \(307\) to 127\.0\.0\.1:\d+; set url") as caught:
                await sink.send([record()], key="k")
    assert len(receiver.requests) == 1
    assert caught.value.reason is Reason.MISCONFIGURED
    assert "hunter2" not in str(caught.value)


async def test_a_cookie_is_not_kept(record: MakeRecord) -> None:
    with receiving() as receiver:
        receiver.respond(200, headers={"Set-Cookie": "session=1"})
        async with webhook(receiver.url) as sink:
            await sink.send([record()], key="k")
            await sink.send([record()], key="l")
    assert "Cookie" not in receiver.requests[1].headers


async def test_a_reset_connection_is_unavailable_and_replaced(record: MakeRecord) -> None:
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        if connections == 1:
            writer.transport.abort()
            return
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        await writer.drain()

    async with listening(handle) as port, webhook(f"http://127.0.0.1:{port}/") as sink:
        with pytest.raises(UnavailableError) as caught:
            await sink.send([record()], key="k")
        assert caught.value.reason is Reason.CONNECTION
        await sink.send([record()], key="k")


async def test_a_refused_connection_is_unavailable(record: MakeRecord, unused_port: int) -> None:
    async with webhook(f"http://127.0.0.1:{unused_port}/") as sink:
        with pytest.raises(UnavailableError, match=r"sinks\.hook: http://127\.0\.0\.1:\d+: ") as caught:
            await sink.send([record()], key="k")
    assert caught.value.reason is Reason.CONNECTION


@pytest.mark.parametrize("setting", ["read_timeout", "timeout"])
async def test_a_receiver_that_never_answers_times_out(setting: str, record: MakeRecord) -> None:
    done = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()

    async with listening(handle) as port:
        async with webhook(f"http://127.0.0.1:{port}/", **{setting: Duration(0.2)}) as sink:
            with pytest.raises(UnavailableError, match="no answer") as caught:
                await sink.send([record()], key="k")
        done.set()
    assert caught.value.reason is Reason.TIMEOUT


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_requests_go_through_a_proxy_that_tunnels(scheme: str, certificates: Any, record: MakeRecord) -> None:
    tunnels: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        tunnels.append(head.split(b"\r\n")[0])
        host, port = head.split()[1].decode().split(":")
        inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                target.write(data)
            target.close()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pump(reader, inner_writer))
            tasks.create_task(pump(inner_reader, writer))

    with receiving(server_tls(certificates)) as receiver:
        async with (
            listening(handle, server_tls(certificates) if scheme == "https" else None) as port,
            webhook(receiver.url, ca_file=certificates.ca, proxy=f"{scheme}://localhost:{port}") as sink,
        ):
            await sink.send([record()], key="k")
    assert tunnels == [f"CONNECT {receiver.host.removeprefix('https://')} HTTP/1.1".encode()]
    assert len(receiver.requests) == 1


async def test_a_proxy_that_requires_a_password_is_unauthorized(record: MakeRecord) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with (
        listening(handle) as port,
        webhook("https://nowhere.invalid/", proxy=f"http://127.0.0.1:{port}") as sink,
    ):
        with pytest.raises(UnavailableError, match="407") as caught:
            await sink.send([record()], key="k")
    assert caught.value.reason is Reason.UNAUTHORIZED


@pytest.mark.parametrize(
    ("status", "text"),
    [(200, "accepted an empty batch"), (422, "is reachable (rejects empty batches with 422)")],
)
async def test_check_posts_an_empty_array(status: int, text: str) -> None:
    with receiving() as receiver:
        receiver.respond(status)
        async with webhook(receiver.url) as sink:
            assert await sink.check() == f"{receiver.host} {text}"
    assert receiver.requests[0].body == b"[]"
    assert receiver.requests[0].headers["X-Records-Count"] == "0"


async def test_check_fails_where_a_batch_would(record: MakeRecord) -> None:
    with receiving() as receiver:
        receiver.respond(403)
        async with webhook(receiver.url) as sink:
            with pytest.raises(UnavailableError, match="answered 403"):
                await sink.check()


async def test_no_secret_reaches_a_log_or_an_error(
    tmp_path: Path, record: MakeRecord, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "token").write_text("hunter2-token")
    (tmp_path / "hmac").write_text("hunter2-hmac")
    said = []
    with receiving() as receiver:
        for status in (200, 400, 403, 500):
            receiver.respond(status, "you sent hunter2-token, signed with hunter2-hmac")
            async with webhook(
                f"{receiver.url}services/hunter2-path?key=hunter2-query",
                token_file=tmp_path / "token",
                hmac_secret_file=tmp_path / "hmac",
            ) as sink:
                try:
                    await sink.send([record()], key="k")
                except SinkError as error:
                    said.append(f"{error!r} {error} {error.__cause__}")
                    logging.getLogger("test").exception("failed")
    assert len(said) == 3
    assert "you sent ***, signed with ***" in said[0]
    assert "hunter2" not in " ".join(said) + caplog.text


ECHOED = {
    "URL": lambda request: f"no hook at {request.url}",
    "path": lambda request: f"no hook at {request.path}",
    "web page": lambda request: f"<html><title>No hook</title><p>at &quot;{request.path}&quot;</p></html>",
    "path, percent-encoded": lambda request: f"no hook at {quote(request.path, safe='')}",
    "last part of the path": lambda request: f"no hook {request.path.partition('?')[0].rpartition('/')[2]}",
    "query": lambda request: f"wrong {request.path.partition('?')[2]}",
    "header": lambda request: f"you sent {request.authorization}",
    "token in base64": lambda request: base64.b64encode(f"x{request.authorization}".encode()).decode(),
    "token in JSON": lambda request: json.dumps({"headers": {"authorization": [request.authorization]}}),
    "token, cut": lambda request: "x" * 180 + request.authorization.partition(" ")[2],
    "secret of the signature": lambda _request: "expected hmac-hunter2-hmac",
    "control characters": lambda request: f"\x1b[31m\x9b\u202e{request.authorization}",
}


class Asked(NamedTuple):
    url: str
    path: str
    authorization: str


@pytest.mark.parametrize("status", [400, 401, 500])
@pytest.mark.parametrize("echo", ECHOED)
async def test_secrets_echoed_by_a_receiver_are_removed(
    echo: str, status: int, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "hunter2-token-hunter2")
    monkeypatch.setenv("HOOK_HMAC", "hmac-hunter2-hmac")

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ")[1]
        (authorization,) = (line[15:] for line in head.split("\r\n") if line.startswith("Authorization: "))
        text = ECHOED[echo](Asked(f"http://127.0.0.1:{port}{path}", path, authorization)).encode()
        writer.write(f"HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
        await writer.drain()

    async with listening(handle) as port:
        url = f"http://127.0.0.1:{port}/services/T0001/Xhunter2Y?key=hunter2-query"
        async with webhook(url, token_env="HOOK_TOKEN", hmac_secret_env="HOOK_HMAC") as sink:
            with pytest.raises(SinkError) as caught:
                await sink.send([record()], key="k")
            if status != 400:
                with pytest.raises(SinkError) as checked:
                    await sink.check()
                assert str(checked.value) == str(caught.value)
    said = str(caught.value)
    assert said.startswith(f"sinks.hook: http://127.0.0.1:{port}: answered {status}")
    assert "hunter2" not in said
    assert base64.b64encode(b"hunter2").decode()[:6] not in said
    assert said.isprintable()


@pytest.mark.parametrize("location", ["http://[", "//\u2028x", "/x", "mailto:x"])
async def test_a_redirect_to_an_invalid_url_is_a_redirect(location: str, record: MakeRecord) -> None:
    with receiving() as receiver:
        receiver.respond(302, headers={"Location": location.encode().decode("latin-1")})
        async with webhook(receiver.url) as sink:
            with pytest.raises(UnavailableError, match=r"redirects \(302\).*; set url to the final address") as caught:
                await sink.send([record()], key="k")
    assert caught.value.reason is Reason.MISCONFIGURED
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("status", [300, 402, 406, 411, 412, 414, 417, 418, 424, 426, 428, 431, 451, 499])
async def test_errors_not_about_the_records_block_the_sink(status: int, record: MakeRecord) -> None:
    with receiving() as receiver:
        receiver.respond(status, "account suspended")
        async with webhook(receiver.url) as sink:
            with pytest.raises(UnavailableError, match=f"answered {status}: account suspended$"):
                await sink.send([record()], key="k")
            with pytest.raises(UnavailableError, match="account suspended"):
                await sink.check()


async def test_a_400_from_a_proxy_blocks_the_sink(record: MakeRecord) -> None:
    with receiving() as receiver:
        receiver.respond(400, "Invalid Request", headers={"X-Squid-Error": "ERR_INVALID_REQ 0"})
        async with webhook(receiver.url) as sink:
            with pytest.raises(UnavailableError, match="answered 400: Invalid Request"):
                await sink.send([record()], key="k")


def answering(requests: list[bytes], *answers: bytes) -> Callable[..., Awaitable[None]]:
    """Answer each request as given, the last way from then on, and keep the connection open."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
                requests.append(head)
                writer.write(answers[min(len(requests), len(answers)) - 1])
                await writer.drain()

    return handle


async def test_a_204_with_a_body_delivers(record: MakeRecord) -> None:
    requests: list[bytes] = []
    handle = answering(requests, b"HTTP/1.1 204 X\r\nContent-Length: 20\r\n\r\n" + b"x" * 20)
    async with listening(handle) as port, webhook(f"http://127.0.0.1:{port}/") as sink:
        for number in range(4):
            await sink.send([record()], key=f"k{number}")
    assert len(requests) == 4


async def test_a_surplus_response_does_not_confirm_the_next_batch(record: MakeRecord) -> None:
    requests: list[bytes] = []
    accepted, refused = (b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % status for status in (b"200 OK", b"503 X"))
    handle = answering(requests, accepted * 2, refused)
    async with listening(handle) as port, webhook(f"http://127.0.0.1:{port}/") as sink:
        await sink.send([record()], key="k0")
        with pytest.raises(UnavailableError, match="answered 503"):
            await sink.send([record()], key="k1")
    assert len(requests) == 2


async def test_a_known_key_is_distinguished_from_other_answers(record: MakeRecord) -> None:
    with receiving() as receiver:
        receiver.respond(409, "duplicate", headers={"Retry-After": "3"})
        async with webhook(receiver.url) as sink:
            with pytest.raises(KnownKeyError, match=r": duplicate \(it is processing the batch\)$") as caught:
                await sink.send([record()], key="k")
    assert (caught.value.reason, caught.value.retry_after) == (Reason.SERVER_ERROR, 3.0)


PAGE = """<html>\r\n<head><title>{0}</title><style>b {{}}</style></head>\r\n<body>\r\n<center><h1>{0}</h1></center>
<hr><center>nginx &amp; co</center><script>var a = 1;</script></body></html>"""


@pytest.mark.parametrize(
    ("status", "kind", "page", "said"),
    [
        (502, UnavailableError, PAGE.format("502 Bad Gateway"), "502 Bad Gateway; nginx & co"),
        (413, TooLargeError, PAGE.format("413 Request Entity Too Large"), "413 Request Entity Too Large; nginx & co"),
        (
            400,
            UnavailableError,
            PAGE.format("400 The plain HTTP request was sent to HTTPS port"),
            "400 The plain HTTP request was sent to HTTPS port; nginx & co",
        ),
        (400, RejectedError, PAGE.format("Bad Request"), "Bad Request; nginx & co"),
        (503, UnavailableError, "<!DOCTYPE html><title>down</title><![odd[ ]]>", "down"),
        (400, RejectedError, '{"error": "gpu: <title> is unknown"}', '{"error": "gpu: <title> is unknown"}'),
    ],
)
async def test_the_text_of_a_web_page_is_quoted(
    status: int, kind: type[SinkError], page: str, said: str, record: MakeRecord
) -> None:
    with receiving() as receiver:
        receiver.respond(status, page)
        async with webhook(receiver.url) as sink:
            with pytest.raises(kind) as caught:
                await sink.send([record()], key="k")
    assert str(caught.value) == f"sinks.hook: {receiver.host}: answered {status}: {said}"


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("length", ["Content-Length: 9\r\n", "Connection: close\r\n"])
async def test_a_413_before_the_end_of_the_body_is_read(
    tls: bool, length: str, certificates: Any, record: MakeRecord
) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 413 Too Large\r\n{length}\r\ntoo large".encode())
        await writer.drain()  # and the connection is closed, which resets it while the client is writing

    records = [record(number) for number in range(20_000)]
    server = await asyncio.start_server(
        _closing(handle), "127.0.0.1", 0, limit=1 << 16, ssl=server_tls(certificates) if tls else None
    )
    async with server:
        port = server.sockets[0].getsockname()[1]
        url = f"https://localhost:{port}/" if tls else f"http://127.0.0.1:{port}/"
        async with webhook(url, ca_file=certificates.ca if tls else None) as sink:
            for _ in range(5):
                with pytest.raises(TooLargeError, match="answered 413"):
                    await sink.send(records, key="k")


def _closing(handle: Handler) -> Handler:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        finally:
            writer.close()

    return closing


async def test_a_200_before_the_whole_body_is_read_delivers_nothing(record: MakeRecord) -> None:
    done = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await done.wait()

    async with listening(handle) as port:
        async with webhook(f"http://127.0.0.1:{port}/") as sink:
            with pytest.raises(UnavailableError, match="responded with 200 before reading the whole batch"):
                await sink.send([record(number) for number in range(50_000)], key="k")
        done.set()


async def test_a_receiver_that_stops_reading_times_out(record: MakeRecord) -> None:
    done = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()

    async with listening(handle) as port:
        async with webhook(f"http://127.0.0.1:{port}/", write_timeout=Duration(0.2)) as sink:
            with pytest.raises(UnavailableError, match=r"did not read any of the request within 0\.2 s") as caught:
                await sink.send([record(number) for number in range(50_000)], key="k")
        done.set()
    assert caught.value.reason is Reason.TIMEOUT


async def test_a_large_batch_arrives_whole(record: MakeRecord) -> None:
    records = [record(number) for number in range(5000)]
    with receiving() as receiver:
        async with webhook(receiver.url) as sink:
            await sink.send(records, key="k")
            await sink.send(records[:1], key="l")
    assert [len(request.records) for request in receiver.requests] == [5000, 1]
    assert receiver.requests[0].peer == receiver.requests[1].peer


class TestProxies:
    @pytest.fixture(autouse=True)
    def clean(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)

    @asynccontextmanager
    async def proxy(self) -> AsyncIterator[tuple[int, list[str]]]:
        """Run an HTTP proxy that accepts everything itself, and SOCKS5 that leads nowhere."""
        seen: list[str] = []

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            start = await reader.readexactly(1)
            if start == b"\x05":
                await reader.readexactly((await reader.readexactly(1))[0])
                writer.write(b"\x05\x00")
                kind = (await reader.readexactly(4))[3]
                name = await reader.readexactly((await reader.readexactly(1))[0] if kind == 3 else 4)
                await reader.readexactly(2)
                seen.append(f"socks {name.decode(errors='replace')}")
                writer.write(b"\x05\x00\x00\x01" + bytes(6))
                start = await reader.readexactly(1)
            head = (start + await reader.readuntil(b"\r\n\r\n")).decode()
            seen.append(head.partition("\r\n")[0])
            seen.extend(line for line in head.split("\r\n") if line.startswith("Proxy-Authorization"))
            writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()

        async with listening(handle) as port:
            yield port, seen

    async def test_the_environment_s_is_used_with_its_password(
        self, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with self.proxy() as (port, seen):
            monkeypatch.setenv("HTTP_PROXY", f"http://me:s3cr3t@127.0.0.1:{port}")
            async with webhook("http://hook.test/in") as sink:
                await sink.send([record()], key="k")
        assert seen[0] == "POST http://hook.test/in HTTP/1.1"
        assert seen[1] == "Proxy-Authorization: Basic " + base64.b64encode(b"me:s3cr3t").decode()

    @pytest.mark.parametrize(
        ("url", "asked"),
        [("http://[fd00::1]:81/in", "POST http://[fd00::1]:81/in"), ("https://[fd00::1]/in", "CONNECT [fd00::1]:443")],
    )
    async def test_ipv6_addresses_keep_their_brackets(self, url: str, asked: str, record: MakeRecord) -> None:
        async with self.proxy() as (port, seen), webhook(url, proxy=f"http://127.0.0.1:{port}") as sink:
            with suppress(UnavailableError):  # of TLS
                await sink.send([record()], key="k")
        assert seen[0] == f"{asked} HTTP/1.1"

    async def test_socks5_from_the_environment_leaves_names_to_the_proxy(
        self, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with self.proxy() as (port, seen):
            monkeypatch.setenv("HTTP_PROXY", f"socks5://127.0.0.1:{port}")
            async with webhook("http://hook.test/in") as sink:
                await sink.send([record()], key="k")
            async with webhook("http://other.test/in", proxy=f"socks5h://127.0.0.1:{port}") as sink:
                await sink.send([record()], key="k")
        assert [line for line in seen if line.startswith("socks")] == ["socks hook.test", "socks other.test"]

    @pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/", "http://localhost:{port}/"])
    @pytest.mark.parametrize(
        "no_proxy", ["fd00::/8", "fd00:10:96::/112", "[::1]", "127.0.0.0/8", "localhost,127.0.0.1", ".svc,::1/128", "*"]
    )
    async def test_no_proxy_in_kubernetes_form_is_accepted(
        self, url: str, no_proxy: str, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("NO_PROXY", no_proxy)
        with receiving() as receiver:
            port = receiver.host.rpartition(":")[2]
            async with webhook(url.format(port=port)) as sink:
                await sink.send([record()], key="k")
        assert len(receiver.requests) == 1

    @pytest.mark.parametrize(
        ("host", "no_proxy"),
        [("10.1.2.3", "10.0.0.0/8"), ("[fd00::1]", "fd00::/8"), ("hook.svc", ".svc"), ("a.hook.test", "hook.test")],
    )
    async def test_hosts_in_no_proxy_are_reached_directly(
        self, host: str, no_proxy: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://corp:3128")
        assert choose_proxy(None, f"http://{host}/") == URL("http://corp:3128")
        monkeypatch.setenv("NO_PROXY", no_proxy)
        assert choose_proxy(None, f"http://{host}/") is None

    async def test_an_empty_key_means_none(self, record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://corp:3128")
        assert choose_proxy("", "http://hook.test/") is None
        async with webhook("http://hook.invalid/", proxy="") as sink:
            with pytest.raises(UnavailableError, match=r"cannot resolve hook\.invalid$"):
                await sink.send([record()], key="k")

    @pytest.mark.parametrize(
        ("proxy", "text"),
        [
            ("http://me:s3cr3t@127.0.0.1:{port}", "proxy 127.0.0.1:{port}: connection refused"),
            ("socks5://me:s3cr3t@127.0.0.1:{port}", "proxy 127.0.0.1:{port}: connection refused"),
        ],
    )
    async def test_a_proxy_that_fails_is_named_without_its_password(
        self, proxy: str, text: str, record: MakeRecord, monkeypatch: pytest.MonkeyPatch, unused_port: int
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", proxy.format(port=unused_port))
        async with webhook("http://hook.test/") as sink:
            with pytest.raises(UnavailableError) as caught:
                await sink.send([record()], key="k")
        assert str(caught.value) == f"sinks.hook: http://hook.test: {text.format(port=unused_port)}"
        assert caught.value.reason is Reason.CONNECTION

    @pytest.mark.parametrize("proxy", ["http://me:s3cr3t@proxy:port", "ftp://me:s3cr3t@proxy", "http://"])
    async def test_a_proxy_that_is_not_a_url_is_misconfigured(
        self, proxy: str, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        async with webhook("http://hook.test/") as sink:
            with pytest.raises(UnavailableError, match=r"^sinks\.hook: HTTP_PROXY: ") as caught:
                await sink.send([record()], key="k")
        assert caught.value.reason is Reason.MISCONFIGURED
        assert "s3cr3t" not in str(caught.value)
        assert "hook.test" not in str(caught.value)
