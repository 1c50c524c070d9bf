"""What the s3 sink makes of answers: only S3's own word is a delivery, only size and key refuse a batch for good."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from aiohttp import web

from collector.config import Duration
from collector.model import SinkRecord
from collector.sinks import Reason, RejectedError, TooLargeError, UnavailableError
from tests.support.s3 import Exchange, answering, lake

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("aws_environment")]
MakeRecord = Callable[..., SinkRecord]

LOGIN = (
    "<!DOCTYPE html><html><head><title>Sign in</title><style>b {}</style></head>"
    "<body>Wi-Fi of <b>Hotel</b></body></html>"
)
XHTML = "<?xml version='1.0'?><html><head><title>Sign in</title></head></html>"
NGINX = (
    "<html>\r\n<head><title>400 The plain HTTP request was sent to HTTPS port</title></head>\r\n<body>\r\n"
    "<center><h1>400 Bad Request</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)


async def failure_of(sink: Any, records: list[SinkRecord]) -> tuple[Reason, str]:
    with pytest.raises(UnavailableError) as caught:
        await sink.send(records, key="k")
    return caught.value.reason, str(caught.value).removeprefix("sinks.lake: s3://gpu-serials: ")


class TestADelivery:
    """A batch counts only when S3 itself said so."""

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_a_redirect_is_not_followed_and_delivers_nothing(self, record: MakeRecord, status: int) -> None:
        async with (
            answering(200) as (elsewhere, there),
            answering(status, "TemporaryRedirect", Location=f"{elsewhere}/s3?token=hunter2") as (url, seen),
            lake(url) as sink,
        ):
            reason, text = await failure_of(sink, [record()])
            with pytest.raises(UnavailableError, match="redirects"):
                await sink.check()
        assert ({one.method for one in seen}, there) == ({"PUT"}, [])
        assert reason is Reason.MISCONFIGURED
        host = elsewhere.removeprefix("http://")
        assert text == f"PutObject redirects ({status}) to {host}; set endpoint_url and region to the final address"

    @pytest.mark.parametrize("status", [301, 302, 307])
    async def test_a_redirect_without_a_location_is_requested_once(self, record: MakeRecord, status: int) -> None:
        async with answering(lambda _: web.Response(status=status)) as (url, seen), lake(url) as sink:
            reason, text = await failure_of(sink, [record()])
        assert len(seen) == 1
        assert reason is Reason.MISCONFIGURED
        assert re.fullmatch(rf"PutObject answered {status} [\w ]+; check endpoint_url and region", text)

    async def test_a_bucket_in_another_region_is_found_there(self, record: MakeRecord) -> None:
        def answer(exchange: Exchange) -> web.StreamResponse:
            if "/eu-west-1/s3/" in exchange.headers["Authorization"]:
                return stored(exchange)
            text = "<Error><Code>PermanentRedirect</Code><Message>elsewhere</Message></Error>"
            return web.Response(status=301, text=text, headers={"x-amz-bucket-region": "eu-west-1"})

        async with answering(answer) as (url, seen), lake(url) as sink:
            await sink.send([record()], key="k")
            await sink.send([record()], key="k")
        assert len(seen) == 3

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            ({"status": 200}, "answered 200 without an ETag, so nothing is stored; check endpoint_url$"),
            ({"status": 204}, "answered 204 which is not a response of S3, so nothing is stored"),
            ({"status": 204, "headers": {"ETag": '"5d41"'}}, "answered 204 which is not a response of S3"),
            ({"status": 201, "headers": {"ETag": '"5d41"'}, "text": "Created"}, "answered 201 with a page.*: Created$"),
            ({"status": 202, "text": "queued"}, "answered 202 with a page.*: queued$"),
            ({"status": 200, "headers": {"ETag": '""'}}, "without an ETag"),
            ({"status": 200, "headers": {"ETag": 'W/"5d41"'}}, "which is not a response of S3"),
            ({"status": 200, "text": LOGIN, "content_type": "text/html"}, "with a page.*: Sign in; Wi-Fi of; Hotel$"),
            ({"status": 200, "text": LOGIN, "headers": {"ETag": '"5d41"'}}, "with a page.*: Sign in; Wi-Fi of; Hotel$"),
            (
                {"status": 200, "text": XHTML, "headers": {"ETag": '"5d41"'}},
                "which is not a response of S3.*: Sign in$",
            ),
            ({"status": 200, "text": "OK", "headers": {"ETag": 'W/"2-nOO9QiTI"'}}, "with a page.*: OK$"),
            ({"status": 200, "text": '{"ok": true}', "headers": {"ETag": '"5d41"'}}, r'with a page.*: {"ok": true}$'),
            ({"status": 200, "text": "<html>Sign in<![foo[x"}, "with a page.*: Sign in$"),
            ({"status": 200, "text": "not <XML"}, "with a page instead of S3's response, so nothing is stored"),
        ],
    )
    async def test_nothing_is_delivered_without_confirmation_by_s3(
        self, record: MakeRecord, answer: dict[str, Any], said: str
    ) -> None:
        async with answering(lambda _: web.Response(**answer)) as (url, _), lake(url) as sink:
            reason, text = await failure_of(sink, [record()])
            with pytest.raises(UnavailableError, match=said):
                await sink.check()
        assert reason is Reason.MISCONFIGURED
        assert re.search(said, text)

    async def test_an_error_inside_a_200_is_an_error(self, record: MakeRecord) -> None:
        body = "<?xml version='1.0'?><Error><Code>InternalError</Code><Message>try again</Message></Error>"
        async with answering(lambda _: web.Response(text=body)) as (url, _), lake(url) as sink:
            reason, text = await failure_of(sink, [record()])
        assert reason is Reason.SERVER_ERROR
        assert "InternalError: try again" in text

    async def test_an_endless_answer_is_cut(self, record: MakeRecord) -> None:
        def endless(_: Exchange) -> web.StreamResponse:
            return web.Response(body=b"x" * (3 << 20), headers={"ETag": '"5d41"'})

        async with answering(endless) as (url, _), lake(url) as sink:
            assert await failure_of(sink, [record()]) == (
                Reason.MISCONFIGURED,
                "PutObject answered 200 with more than 1 MiB; check endpoint_url",
            )


@asynccontextmanager
async def answering_at_once() -> AsyncIterator[str]:
    """Serve an S3 that answers before it has read the object, and then stops reading."""

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive(1000)
            await stream.send(b'HTTP/1.1 200 OK\r\nETag: "5d41"\r\nContent-Length: 0\r\n\r\n')
            await anyio.sleep_forever()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        for one in listener.listeners:  # or the kernel takes the whole object
            one.extra(anyio.abc.SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        tasks.start_soon(listener.serve, handle)
        yield f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def reading_bodies_at_once() -> AsyncIterator[tuple[str, list[bytes]]]:
    """Serve an S3 that knows no 100: it waits for the body, then answers. It keeps the heads of the requests."""
    heads: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            heads.append(head.lower())
            length = next((int(line[15:]) for line in heads[-1].splitlines() if line.startswith(b"content-length:")), 0)
            await reader.readexactly(length)
            writer.write(b'HTTP/1.1 200 OK\r\nETag: "5d41"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads


class TestARequest:
    async def test_an_answer_before_the_object_was_read_delivers_nothing(self, record: MakeRecord) -> None:
        async with answering_at_once() as url, lake(url) as sink:
            reason, text = await failure_of(sink, [record(number) for number in range(100_000)])
        assert (reason, text) == (Reason.MISCONFIGURED, "PutObject responded with 200 before reading the whole object")

    async def test_nothing_waits_for_a_100_that_never_comes(self, record: MakeRecord) -> None:
        async with reading_bodies_at_once() as (url, heads), lake(url) as sink:
            await sink.send([record(number) for number in range(2000)], key="k")
            assert await sink.check() == "s3://gpu-serials is writable"
        assert len(heads) == 3
        assert not [head for head in heads if b"\r\nexpect:" in head]

    async def test_check_sends_what_a_delivery_sends(self, record: MakeRecord) -> None:
        settings = {"prefix": "p", "gzip": True, "sse": "aws:kms", "kms_key_id": "alias/lake"}
        async with answering(stored) as (url, seen), lake(url, **settings) as sink:
            await sink.send([record()], key="k")
            assert await sink.check() == "s3://gpu-serials is writable"
        delivery, trial, removal = seen
        assert (trial.method, trial.path) == ("PUT", "/gpu-serials/p/gpuid-check.csv.gz")
        assert (removal.method, removal.path) == ("DELETE", trial.path)
        assert {name.lower() for name in trial.headers} == {name.lower() for name in delivery.headers}
        assert trial.headers["Content-Type"] == delivery.headers["Content-Type"] == "application/gzip"
        assert trial.body

    async def test_a_web_page_does_not_count_as_deletion(self) -> None:
        def answer(exchange: Exchange) -> web.StreamResponse:
            return stored(exchange) if exchange.method == "PUT" else web.Response(text=LOGIN)

        async with answering(answer) as (url, _), lake(url, prefix="p") as sink:
            assert "the test object p/gpuid-check.csv remains: DeleteObject answered 200" in await sink.check()

    async def test_a_missing_delete_right_is_only_reported(self) -> None:
        def answer(exchange: Exchange) -> web.StreamResponse:
            if exchange.method == "PUT":
                return stored(exchange)
            text = "<Error><Code>AccessDenied</Code><Message>no s3:DeleteObject</Message></Error>"
            return web.Response(status=403, text=text)

        async with answering(answer) as (url, _), lake(url, prefix="p") as sink:
            assert await sink.check() == (
                "s3://gpu-serials is writable; the test object p/gpuid-check.csv remains:"
                " DeleteObject answered 403 AccessDenied: no s3:DeleteObject"
            )


def stored(_: Exchange) -> web.StreamResponse:
    return web.Response(headers={"ETag": '"5d41402abc4b2a76b9719d911017c592"'})


def locked(exchange: Exchange) -> web.StreamResponse:
    """Answer as S3 does for a bucket with default retention."""
    if exchange.method == "DELETE" or exchange.headers.keys() & {"Content-MD5", "x-amz-checksum-crc32"}:
        return stored(exchange)
    text = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters"
    return web.Response(status=400, text=f"<Error><Code>InvalidRequest</Code><Message>{text}</Message></Error>")


def without_flexible_checksums(exchange: Exchange) -> web.StreamResponse:
    """Answer as Backblaze B2 and Cloudflare R2 did: none of AWS's newer checksums, and no chunks of AWS's."""
    found = [
        name for name in exchange.headers if name.lower().startswith(("x-amz-checksum", "x-amz-sdk", "x-amz-trailer"))
    ]
    if not found and "aws-chunked" not in exchange.headers.get("Content-Encoding", ""):
        return stored(exchange)
    text = f"Unsupported header '{found}' received for this API call."
    return web.Response(status=400, text=f"<Error><Code>InvalidArgument</Code><Message>{text}</Message></Error>")


class TestChecksums:
    """One default for all services, wherever the endpoint is named."""

    @pytest.mark.parametrize("service", [locked, without_flexible_checksums])
    @pytest.mark.parametrize("named", ["endpoint_url", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "config", "services"])
    async def test_every_service_accepts_the_default(
        self,
        record: MakeRecord,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        service: Callable[[Exchange], web.StreamResponse],
        named: str,
    ) -> None:
        async with answering(service) as (url, seen):
            if named == "config":
                (tmp_path / "config").write_text(f"[default]\nendpoint_url = {url}\n")
            elif named == "services":
                (tmp_path / "config").write_text(
                    f"[default]\nservices = s\n[services s]\ns3 =\n  endpoint_url = {url}\n"
                )
            elif named != "endpoint_url":
                monkeypatch.setenv(named, url)
            async with lake(url if named == "endpoint_url" else None) as sink:
                await sink.send([record()], key="k")
                assert await sink.check() == "s3://gpu-serials is writable"
        assert {one.method for one in seen} == {"PUT", "DELETE"}

    async def test_the_checksum_is_configurable(self, record: MakeRecord) -> None:
        names = {"content-md5", "x-amz-checksum-crc32"}
        sent = {}
        async with answering(stored) as (url, seen):
            for checksum in ("md5", "crc32", "none"):
                async with lake(url, checksum=checksum) as sink:
                    await sink.send([record()], key="k")
                sent[checksum] = names & {name.lower() for name in seen[-1].headers}
        assert sent == {"md5": {"content-md5"}, "crc32": {"x-amz-checksum-crc32"}, "none": set()}

    @pytest.mark.parametrize("named", ["environment", "config"])
    async def test_the_aws_setting_selects_crc32(
        self, record: MakeRecord, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, named: str
    ) -> None:
        if named == "config":
            (tmp_path / "config").write_text("[default]\nrequest_checksum_calculation = when_supported\n")
        else:
            monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "WHEN_SUPPORTED")
        async with answering(stored) as (url, seen), lake(url) as sink:
            await sink.send([record()], key="k")
        assert "x-amz-checksum-crc32" in seen[0].headers
        assert "Content-MD5" not in seen[0].headers

    @pytest.mark.parametrize("bucket", ["gpus--use1-az4--x-s3", "lake--use1-az4--xa-s3"])
    async def test_directory_buckets_get_crc32(self, record: MakeRecord, bucket: str) -> None:
        session = "".join(
            f"<{name}>{value}</{name}>"
            for name, value in {
                "SessionToken": "token",
                "SecretAccessKey": "secret",
                "AccessKeyId": "ASIA",
                "Expiration": "2099-01-01T00:00:00Z",
            }.items()
        )

        def answer(exchange: Exchange) -> web.StreamResponse:
            if exchange.method == "GET":
                text = f"<CreateSessionResult><Credentials>{session}</Credentials></CreateSessionResult>"
                return web.Response(text=text)
            return stored(exchange)

        async with answering(answer) as (url, seen), lake(url, bucket=bucket) as sink:
            await sink.send([record()], key="k")
        assert "x-amz-checksum-crc32" in seen[-1].headers
        assert "Content-MD5" not in seen[-1].headers


@pytest.mark.parametrize(
    ("status", "code", "headers", "reason"),
    [
        (403, "AccessDenied", {}, Reason.UNAUTHORIZED),
        (400, "ExpiredToken", {}, Reason.UNAUTHORIZED),
        (400, "KMS.DisabledException", {}, Reason.MISCONFIGURED),
        (503, "SlowDown", {"Retry-After": "9"}, Reason.THROTTLED),
        (500, "InternalError", {}, Reason.SERVER_ERROR),
        (501, "NotImplemented", {}, Reason.MISCONFIGURED),
        (507, "XMinioStorageFull", {}, Reason.SERVER_ERROR),
        (400, "InvalidRegionName", {}, Reason.MISCONFIGURED),
        (400, "XAmzContentSHA256Mismatch", {}, Reason.CONNECTION),
        (400, "IncompleteBody", {}, Reason.CONNECTION),
        (400, "MissingSecurityHeader", {}, Reason.MISCONFIGURED),
        (411, "MissingContentLength", {}, Reason.MISCONFIGURED),
        (412, "PreconditionFailed", {}, Reason.MISCONFIGURED),
        (403, "QuotaExceeded", {}, Reason.MISCONFIGURED),
        (403, "RequestTimeTooSkewed", {}, Reason.MISCONFIGURED),
        (413, "TooBigForThisProxy", {}, Reason.MISCONFIGURED),
        (418, "Odd", {}, Reason.MISCONFIGURED),
        (422, "Odd", {}, Reason.MISCONFIGURED),
        (409, "OperationAborted", {}, Reason.SERVER_ERROR),
    ],
)
async def test_errors_not_about_the_batch_block_the_sink(
    record: MakeRecord, status: int, code: str, headers: dict[str, Any], reason: Reason
) -> None:
    async with answering(status, code, "because", **headers) as (url, seen), lake(url) as sink:
        with pytest.raises(UnavailableError) as caught:
            await sink.send([record()], key="k")
    assert [one.method for one in seen] == ["PUT"]
    assert caught.value.reason is reason
    assert str(caught.value) == f"sinks.lake: s3://gpu-serials: PutObject answered {status} {code}: because"
    assert caught.value.retry_after == (9.0 if headers else None)


@pytest.mark.parametrize("code", ["EntityTooLarge", "KeyTooLong", "KeyTooLongError", "MetadataTooLarge"])
async def test_errors_about_the_batch_reject_it(record: MakeRecord, code: str) -> None:
    async with answering(400, code, "because") as (url, _), lake(url) as sink:
        with pytest.raises(RejectedError, match=f"PutObject answered 400 {code}: because"):
            await sink.send([record()], key="k")


async def test_a_batch_too_large_is_retried_in_halves(record: MakeRecord) -> None:
    async with answering(400, "EntityTooLarge", "because") as (url, _), lake(url) as sink:
        with pytest.raises(TooLargeError):
            await sink.send([record()], key="k")


@pytest.mark.parametrize(
    ("status", "body", "reason", "said"),
    [
        (400, "", Reason.MISCONFIGURED, "400 Bad Request with an empty body"),
        (403, "", Reason.UNAUTHORIZED, "403 Forbidden with an empty body"),
        (599, "", Reason.SERVER_ERROR, "599 with an empty body"),
        (
            400,
            NGINX,
            Reason.MISCONFIGURED,
            "400: 400 The plain HTTP request was sent to HTTPS port; ",
        ),
        (403, LOGIN, Reason.UNAUTHORIZED, "403: Sign in; Wi-Fi of; Hotel"),
        (403, "<html><body><p>Blocked by policy</p></body></html>", Reason.UNAUTHORIZED, "403: Blocked by policy"),
        (
            413,
            "<html><title>413 Request Entity Too Large</title></html>",
            Reason.MISCONFIGURED,
            "413: 413 Request Entity Too Large",
        ),
        (411, "length required", Reason.MISCONFIGURED, "411: length required"),
        (502, '{"error": "no upstream"}', Reason.SERVER_ERROR, '502: {"error": "no upstream"}'),
        (502, "<html>Bad<![foo[x", Reason.SERVER_ERROR, "502: Bad"),
        (400, "<html>" + "x " * 5000, Reason.MISCONFIGURED, "400: " + "x " * 20),
        (403, '{"token": "hunter2-secret"}', Reason.UNAUTHORIZED, '403: {"token": "***"}'),
        (404, "<!doctype html><title>Not\x1b[31m found</title>", Reason.MISSING, "404: Not[31m found"),
    ],
)
async def test_the_error_quotes_the_receiver(
    record: MakeRecord, status: int, body: str, reason: Reason, said: str
) -> None:
    async with answering(lambda _: web.Response(status=status, text=body)) as (url, _), lake(url) as sink:
        found, text = await failure_of(sink, [record()])
    assert found is reason
    assert text.startswith(f"PutObject answered {said}")
    assert len(text) < 300


@pytest.mark.parametrize("setting", ["read_timeout", "timeout"])
async def test_a_service_that_never_answers_times_out(setting: str, record: MakeRecord) -> None:
    async with answering(0) as (url, _), lake(url, **{setting: Duration(0.5)}) as sink:
        reason, _ = await failure_of(sink, [record()])
    assert reason is Reason.TIMEOUT
