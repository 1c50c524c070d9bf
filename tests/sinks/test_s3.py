import csv
import gzip
import io
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import boto3
import pyarrow.parquet
import pytest
from aiohttp import web
from moto.server import ThreadedMotoServer

from collector.config import Duration
from collector.config.sinks import S3Settings
from collector.model import SinkRecord
from collector.sinks import Reason, RejectedError, SinkError, UnavailableError, open_sink
from collector.sinks.s3 import object_key

pytestmark = pytest.mark.anyio
MakeRecord = Callable[..., SinkRecord]


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws(moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a client of an S3 with one empty bucket, `gpu-serials`; nothing of this machine's own settings counts."""
    for key, value in {
        "AWS_ACCESS_KEY_ID": "AKIAHUNTER2",
        "AWS_SECRET_ACCESS_KEY": "hunter2-secret",
        "AWS_SESSION_TOKEN": "hunter2-session",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(key, value)
    client = boto3.client("s3", endpoint_url=moto)
    client.create_bucket(Bucket="gpu-serials")
    yield client
    for entry in client.list_objects_v2(Bucket="gpu-serials").get("Contents", []):
        client.delete_object(Bucket="gpu-serials", Key=entry["Key"])
    client.delete_bucket(Bucket="gpu-serials")
    client.close()


@asynccontextmanager
async def lake(endpoint: str | None, **settings: Any) -> AsyncIterator[Any]:
    given = {"bucket": "gpu-serials", "endpoint_url": endpoint, "path_style": True} | settings
    sink = open_sink("lake", S3Settings(**given))
    try:
        yield sink
    finally:
        await sink.aclose()


def objects(aws: Any) -> dict[str, bytes]:
    listed = aws.list_objects_v2(Bucket="gpu-serials").get("Contents", [])
    return {entry["Key"]: aws.get_object(Bucket="gpu-serials", Key=entry["Key"])["Body"].read() for entry in listed}


async def test_a_batch_is_a_csv_object_in_its_hours_partition(moto: str, aws: Any, record: MakeRecord) -> None:
    batch = [record(), record(1, time="2026-06-07T11:00:00.250Z")]
    async with lake(moto, prefix="serial-numbers") as sink:
        await sink.send(batch, key="batch 7")
        await sink.send([], key="batch 8")
    ((key, body),) = objects(aws).items()
    assert key.startswith("serial-numbers/year=2026/month=06/day=07/hour=10/20260607-103045.000-")
    assert key.endswith(".csv")
    assert [row[5] for row in csv.reader(io.StringIO(body.decode()))] == ["1761025346025", "1761025346026"]
    head = aws.head_object(Bucket="gpu-serials", Key=key)
    assert head["ContentType"] == "text/csv"
    assert head["Metadata"] == {
        "source": "gpuid",
        "record_count": "2",
        "timestamp": "2026-06-07T10:30:45Z",
        "format": "csv",
        "columns": "cluster,node,machine,source,chassis,gpu,time,uuid,model,event",
        "first_time": "2026-06-07T10:30:45Z",
        "last_time": "2026-06-07T11:00:00.250Z",
        "idempotency_key": "batch%207",
    }


async def test_the_peers_columns_are_exactly_its_own(moto: str, aws: Any, record: MakeRecord) -> None:
    async with lake(moto, columns="peer", header=True) as sink:
        await sink.send([record()], key="k")
    ((key, body),) = objects(aws).items()
    assert body == (
        b"cluster,node,machine,source,chassis,gpu,time\n"
        b"prod,gpu-node-01,i-0abc,gpu-operator/nvidia-device-plugin-abc12,1821325191344,1761025346025,"
        b"2026-06-07T10:30:45Z\n"
    )
    assert aws.head_object(Bucket="gpu-serials", Key=key)["Metadata"]["columns"] == (
        "cluster,node,machine,source,chassis,gpu,time"
    )


async def test_json_lines_compressed(moto: str, aws: Any, record: MakeRecord) -> None:
    async with lake(moto, format="jsonl", gzip=True) as sink:
        await sink.send([record(), record(1)], key="k")
    ((key, body),) = objects(aws).items()
    assert key.endswith(".jsonl.gz")
    assert [json.loads(line)["uuid"] for line in gzip.decompress(body).splitlines()] == ["GPU-00000000", "GPU-00000001"]


async def test_parquet_is_read_back(moto: str, aws: Any, record: MakeRecord) -> None:
    async with lake(moto, format="parquet") as sink:
        await sink.send([record(), record(1)], key="k")
    ((key, body),) = objects(aws).items()
    assert key.endswith(".parquet")
    assert pyarrow.parquet.read_table(io.BytesIO(body)).column("gpu").to_pylist() == ["1761025346025", "1761025346026"]


async def test_a_batch_sent_again_meets_its_own_object(moto: str, aws: Any, record: MakeRecord) -> None:
    async with lake(moto, gzip=True) as sink:
        await sink.send([record()], key="k")
        before = objects(aws)
        await sink.send([record()], key="k")
    assert objects(aws) == before
    assert len(before) == 1


async def test_many_writers_in_one_millisecond_never_overwrite(moto: str, aws: Any, record: MakeRecord) -> None:
    async with lake(moto) as one, lake(moto) as other, anyio.create_task_group() as tasks:
        for number in range(20):
            # Even one key for different batches, and one batch under different keys, are kept apart.
            tasks.start_soon(lambda sink, batch, key: sink.send(batch, key=key), one, [record(number)], "same")
            tasks.start_soon(lambda sink, batch, key: sink.send(batch, key=key), other, [record()], f"key-{number}")
    assert len(objects(aws)) == 40


@pytest.mark.parametrize(
    ("settings", "ending"),
    [({"gzip": True}, "csv.gz"), ({"format": "jsonl"}, "jsonl"), ({"format": "parquet"}, "parquet")],
)
async def test_a_batch_has_the_same_key_in_every_release(
    moto: str, aws: Any, record: MakeRecord, settings: dict[str, Any], ending: str
) -> None:
    async with lake(moto, **settings) as sink:
        await sink.send([record(), record(1)], key="batch 7")
    name = "20260607-103045.000-921055e877b48b11e0370ecc0e523a66"
    assert list(objects(aws)) == [f"year=2026/month=06/day=07/hour=10/{name}.{ending}"]


def test_the_hour_is_utc_whatever_the_record_says() -> None:
    key = object_key(S3Settings(bucket="abc"), "2026-01-01T00:30:00.987654+02:00", "k", b"")
    assert key.startswith("year=2025/month=12/day=31/hour=22/20251231-223000.987-")


async def test_kms_encryption_is_asked_for(moto: str, aws: Any, record: MakeRecord) -> None:
    async with lake(moto, sse="aws:kms", kms_key_id="alias/gpuid") as sink:
        await sink.send([record()], key="k")
        assert await sink.check() == "s3://gpu-serials is writable"
    (key,) = objects(aws)
    head = aws.head_object(Bucket="gpu-serials", Key=key)
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "alias/gpuid")


async def test_a_missing_bucket_keeps_the_data(moto: str, aws: Any, record: MakeRecord) -> None:
    async with lake(moto, bucket="no-such-bucket") as sink:
        with pytest.raises(
            UnavailableError, match="s3://no-such-bucket: PutObject answered 404 NoSuchBucket"
        ) as caught:
            await sink.send([record()], key="k")
        assert caught.value.reason is Reason.MISSING
        with pytest.raises(UnavailableError, match="NoSuchBucket"):
            await sink.check()


async def test_check_leaves_nothing_behind(moto: str, aws: Any) -> None:
    async with lake(moto, prefix="p") as sink:
        assert await sink.check() == "s3://gpu-serials is writable"
    assert objects(aws) == {}
    assert "Uploads" not in aws.list_multipart_uploads(Bucket="gpu-serials")


async def test_no_credentials_are_unauthorized(
    moto: str, aws: Any, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    async with lake(moto) as sink:
        with pytest.raises(UnavailableError, match=r"(?i)credentials") as caught:
            await sink.send([record()], key="k")
    assert caught.value.reason is Reason.UNAUTHORIZED
    async with lake(moto, profile="absent") as sink:
        with pytest.raises(UnavailableError, match="profile"):
            await sink.send([record()], key="k")


async def test_a_web_identity_is_exchanged_for_credentials(
    moto: str, aws: Any, record: MakeRecord, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/gpuid")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto)
    async with lake(moto, region="us-east-1") as sink:
        with pytest.raises(UnavailableError):
            await sink.send([record()], key="k")
        (tmp_path / "token").write_text("web-identity-token")
        await sink.send([record()], key="k")
    assert len(objects(aws)) == 1


async def test_a_profile_with_its_own_endpoint_is_used(moto: str, aws: Any, record: MakeRecord, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(f"[profile lake]\nregion = eu-west-1\nendpoint_url = {moto}\n")
    (tmp_path / "credentials").write_text("[lake]\naws_access_key_id = AKIA\naws_secret_access_key = secret\n")
    async with lake(None, profile="lake") as sink:
        await sink.send([record()], key="k")
    assert len(objects(aws)) == 1


@asynccontextmanager
async def answering(status: int, code: str, message: str = "", **headers: str) -> AsyncIterator[tuple[str, list[str]]]:
    """Serve an S3 that has one answer for everything."""
    seen: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        await request.read()
        seen.append(request.method)
        if status == 0:
            await anyio.sleep(30)
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        return web.Response(status=status, text=body, content_type="application/xml", headers=headers)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", seen
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "code", "headers", "kind", "reason"),
    [
        (403, "AccessDenied", {}, UnavailableError, Reason.UNAUTHORIZED),
        (400, "ExpiredToken", {}, UnavailableError, Reason.UNAUTHORIZED),
        (400, "KMS.DisabledException", {}, UnavailableError, Reason.MISCONFIGURED),
        (503, "SlowDown", {"Retry-After": "9"}, UnavailableError, Reason.THROTTLED),
        (500, "InternalError", {}, UnavailableError, Reason.SERVER_ERROR),
        (400, "EntityTooLarge", {}, RejectedError, Reason.REJECTED),
        (422, "Odd", {}, UnavailableError, Reason.MISCONFIGURED),
    ],
)
async def test_answers_are_classified_and_not_retried(
    aws: Any,
    record: MakeRecord,
    status: int,
    code: str,
    headers: dict[str, str],
    kind: type[SinkError],
    reason: Reason,
) -> None:
    async with answering(status, code, "because", **headers) as (url, seen), lake(url) as sink:
        with pytest.raises(kind) as caught:
            await sink.send([record()], key="k")
    assert seen == ["PUT"]
    assert caught.value.reason is reason
    assert str(caught.value) == f"sinks.lake: s3://gpu-serials: PutObject answered {status} {code}: because"
    if isinstance(caught.value, UnavailableError):
        assert caught.value.retry_after == (9.0 if headers else None)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_delivers_nothing(aws: Any, record: MakeRecord, status: int) -> None:
    async with (
        answering(200, "") as (elsewhere, there),
        answering(status, "TemporaryRedirect", Location=f"{elsewhere}/s3?token=hunter2") as (url, seen),
        lake(url) as sink,
    ):
        with pytest.raises(UnavailableError) as caught:
            await sink.send([record()], key="k")
        with pytest.raises(UnavailableError):
            await sink.check()
    assert (seen[0], there) == ("PUT", [])
    assert caught.value.reason is Reason.MISCONFIGURED
    host = elsewhere.removeprefix("http://")
    assert str(caught.value) == (
        f"sinks.lake: s3://gpu-serials: PutObject redirects ({status}) to {host};"
        " set endpoint_url and region to the final address"
    )


@pytest.mark.parametrize("setting", ["read_timeout", "timeout"])
async def test_a_service_that_never_answers_runs_into_the_timeout(setting: str, aws: Any, record: MakeRecord) -> None:
    async with answering(0, "") as (url, _), lake(url, **{setting: Duration(0.5)}) as sink:
        with pytest.raises(UnavailableError) as caught:
            await sink.send([record()], key="k")
    assert caught.value.reason is Reason.TIMEOUT


async def test_a_service_that_is_down_is_unavailable(moto: str, aws: Any, record: MakeRecord, unused_port: int) -> None:
    async with lake(f"http://127.0.0.1:{unused_port}") as sink:
        with pytest.raises(UnavailableError) as caught:
            await sink.send([record()], key="k")
    assert caught.value.reason is Reason.CONNECTION


async def test_a_closed_sink_opens_again(moto: str, aws: Any, record: MakeRecord) -> None:
    async with lake(moto) as sink:
        await sink.send([record()], key="k")
        await sink.aclose()
        await sink.send([record(1)], key="k")
    assert len(objects(aws)) == 2


async def test_no_secret_reaches_a_log_or_an_error(
    moto: str, aws: Any, record: MakeRecord, caplog: pytest.LogCaptureFixture
) -> None:
    aws.close()
    caplog.set_level(logging.DEBUG)
    said = []
    async with lake(moto, bucket="no-such-bucket") as sink:
        with pytest.raises(UnavailableError) as caught:
            await sink.send([record()], key="k")
        said.append(f"{caught.value!r}")
    async with answering(403, "SignatureDoesNotMatch", "no") as (url, _), lake(url) as sink:
        with pytest.raises(UnavailableError) as caught:
            await sink.send([record()], key="k")
        said.append(f"{caught.value!r}")
    assert "hunter2" not in " ".join(said) + caplog.text
