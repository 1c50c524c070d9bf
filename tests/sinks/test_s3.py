"""The s3 sink and what it leaves at two S3 servers that know nothing of each other."""

import csv
import gzip
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pyarrow.parquet
import pytest

from collector.config.sinks import S3Settings
from collector.model import SinkRecord
from collector.sinks import Reason, UnavailableError
from collector.sinks.s3 import object_key
from tests.support.s3 import ACCESS_KEY, BUCKET, SECRET_KEY, SERVERS, answering, client, lake, objects

pytestmark = pytest.mark.anyio
MakeRecord = Callable[..., SinkRecord]


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    with SERVERS[request.param]() as url:
        yield url


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with SERVERS["moto"]() as url:
        yield url


@pytest.fixture(scope="module")
def owner(server: str) -> Iterator[Any]:
    owner = client(server)
    yield owner
    owner.close()


@pytest.fixture
def aws(owner: Any, aws_environment: None) -> Iterator[Any]:
    """Return a client of an S3 with one empty bucket."""
    yield from _with_bucket(owner)


@pytest.fixture
def moto_aws(moto: str, aws_environment: None) -> Iterator[Any]:
    owner = client(moto)
    yield from _with_bucket(owner)
    owner.close()


def _with_bucket(owner: Any) -> Iterator[Any]:
    owner.create_bucket(Bucket=BUCKET)
    yield owner
    for entry in owner.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        owner.delete_object(Bucket=BUCKET, Key=entry["Key"])
    owner.delete_bucket(Bucket=BUCKET)


async def test_a_batch_is_a_csv_object_in_an_hourly_partition(server: str, aws: Any, record: MakeRecord) -> None:
    batch = [record(), record(1, time="2026-06-07T11:00:00.250Z")]
    async with lake(server, prefix="serial-numbers") as sink:
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


async def test_the_peers_columns_are_exactly_its_own(server: str, aws: Any, record: MakeRecord) -> None:
    async with lake(server, columns="peer", header=True) as sink:
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


async def test_json_lines_can_be_compressed(server: str, aws: Any, record: MakeRecord) -> None:
    async with lake(server, format="jsonl", gzip=True) as sink:
        await sink.send([record(), record(1)], key="k")
    ((key, body),) = objects(aws).items()
    assert key.endswith(".jsonl.gz")
    assert [json.loads(line)["uuid"] for line in gzip.decompress(body).splitlines()] == ["GPU-00000000", "GPU-00000001"]


async def test_parquet_is_read_back(server: str, aws: Any, record: MakeRecord) -> None:
    async with lake(server, format="parquet") as sink:
        await sink.send([record(), record(1)], key="k")
    ((key, body),) = objects(aws).items()
    assert key.endswith(".parquet")
    assert pyarrow.parquet.read_table(io.BytesIO(body)).column("gpu").to_pylist() == ["1761025346025", "1761025346026"]


async def test_a_batch_sent_again_finds_its_own_object(server: str, aws: Any, record: MakeRecord) -> None:
    async with lake(server, gzip=True) as sink:
        await sink.send([record()], key="k")
        before = objects(aws)
        await sink.send([record()], key="k")
    assert objects(aws) == before
    assert len(before) == 1


async def test_many_writers_in_one_millisecond_never_overwrite(server: str, aws: Any, record: MakeRecord) -> None:
    async with lake(server) as one, lake(server) as other, anyio.create_task_group() as tasks:
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
    server: str, aws: Any, record: MakeRecord, settings: dict[str, Any], ending: str
) -> None:
    async with lake(server, **settings) as sink:
        await sink.send([record(), record(1)], key="batch 7")
    name = "20260607-103045.000-921055e877b48b11e0370ecc0e523a66"
    assert list(objects(aws)) == [f"year=2026/month=06/day=07/hour=10/{name}.{ending}"]


def test_the_hour_is_always_utc() -> None:
    key = object_key(S3Settings(bucket="abc"), "2026-01-01T00:30:00.987654+02:00", "k", b"")
    assert key.startswith("year=2025/month=12/day=31/hour=22/20251231-223000.987-")


async def test_kms_encryption_is_requested(moto: str, moto_aws: Any, record: MakeRecord) -> None:
    async with lake(moto, sse="aws:kms", kms_key_id="alias/gpuid") as sink:
        await sink.send([record()], key="k")
        assert await sink.check() == "s3://gpu-serials is writable"
    (key,) = objects(moto_aws)
    head = moto_aws.head_object(Bucket="gpu-serials", Key=key)
    assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", "alias/gpuid")


async def test_a_missing_bucket_keeps_the_data(server: str, aws: Any, record: MakeRecord) -> None:
    async with lake(server, bucket="no-such-bucket") as sink:
        with pytest.raises(
            UnavailableError, match="s3://no-such-bucket: PutObject answered 404 NoSuchBucket"
        ) as caught:
            await sink.send([record()], key="k")
        assert caught.value.reason is Reason.MISSING
        with pytest.raises(UnavailableError, match="NoSuchBucket"):
            await sink.check()


@pytest.mark.parametrize("prefix", ["é + %41 & = ? # ~ ü", "a b/c'd/(e)!*", "日本/gpus"])
async def test_a_prefix_may_contain_any_characters(server: str, aws: Any, record: MakeRecord, prefix: str) -> None:
    async with lake(server, prefix=prefix) as sink:
        await sink.send([record()], key="k")
        assert await sink.check() == "s3://gpu-serials is writable"
    (key,) = objects(aws)
    assert key.startswith(f"{prefix}/year=2026/")


@pytest.mark.parametrize("checksum", ["auto", "md5", "crc32", "none"])
async def test_every_checksum_is_sent(server: str, aws: Any, record: MakeRecord, checksum: str) -> None:
    async with lake(server, checksum=checksum) as sink:
        await sink.send([record()], key="k")
        assert await sink.check() == "s3://gpu-serials is writable"
    assert len(objects(aws)) == 1


async def test_a_bucket_with_default_retention_accepts_batches(server: str, aws: Any, record: MakeRecord) -> None:
    aws.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    retention = {"Mode": "GOVERNANCE", "Days": 1}
    configuration = {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": retention}}
    aws.put_object_lock_configuration(Bucket="locked", ObjectLockConfiguration=configuration)
    async with lake(server, bucket="locked") as sink:
        await sink.send([record()], key="k")
        said = await sink.check()
    assert said.startswith(
        "s3://locked is writable; the test object gpuid-check.csv was deleted, but its version remains: "
    )
    assert "AccessDenied" in said
    assert len(objects(aws, "locked")) == 1


async def test_check_leaves_no_version_behind(server: str, aws: Any) -> None:
    aws.create_bucket(Bucket="versioned")
    aws.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    async with lake(server, bucket="versioned") as sink:
        assert await sink.check() == "s3://versioned is writable"
    listed = aws.list_object_versions(Bucket="versioned")
    assert not listed.get("Versions")
    assert not listed.get("DeleteMarkers")


@pytest.mark.parametrize("server", ["versitygw"], indirect=True)  # moto takes any key
async def test_a_wrong_key_is_unauthorized_until_corrected(
    server: str, aws: Any, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    async with lake(server) as sink:
        with pytest.raises(UnavailableError, match="403 SignatureDoesNotMatch") as caught:
            await sink.send([record()], key="k")
        with pytest.raises(UnavailableError, match="SignatureDoesNotMatch"):
            await sink.check()
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        await sink.send([record()], key="k")
    assert caught.value.reason is Reason.UNAUTHORIZED
    assert len(objects(aws)) == 1


async def test_check_leaves_nothing_behind(server: str, aws: Any) -> None:
    async with lake(server, prefix="p") as sink:
        assert await sink.check() == "s3://gpu-serials is writable"
    assert objects(aws) == {}
    assert "Uploads" not in aws.list_multipart_uploads(Bucket="gpu-serials")


async def test_no_credentials_are_unauthorized(
    server: str, aws: Any, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    async with lake(server) as sink:
        with pytest.raises(UnavailableError, match=r"(?i)credentials") as caught:
            await sink.send([record()], key="k")
    assert caught.value.reason is Reason.UNAUTHORIZED
    async with lake(server, profile="absent") as sink:
        with pytest.raises(UnavailableError, match="profile"):
            await sink.send([record()], key="k")


async def test_a_web_identity_is_exchanged_for_credentials(
    moto: str, moto_aws: Any, record: MakeRecord, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/gpuid")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto)
    async with lake(moto, region="us-east-1") as sink:
        with pytest.raises(UnavailableError):
            await sink.send([record()], key="k")
        (tmp_path / "token").write_text("web-identity-token")
        await sink.send([record()], key="k")
    assert len(objects(moto_aws)) == 1


async def test_a_profile_with_its_own_endpoint_is_used(
    server: str, aws: Any, record: MakeRecord, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(f"[profile lake]\nregion = eu-west-1\nendpoint_url = {server}\n")
    (tmp_path / "credentials").write_text(
        f"[lake]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    async with lake(None, profile="lake") as sink:
        await sink.send([record()], key="k")
    assert len(objects(aws)) == 1


async def test_a_service_that_is_down_is_unavailable(
    server: str, aws: Any, record: MakeRecord, unused_port: int
) -> None:
    async with lake(f"http://127.0.0.1:{unused_port}") as sink:
        with pytest.raises(UnavailableError) as caught:
            await sink.send([record()], key="k")
    assert caught.value.reason is Reason.CONNECTION


async def test_a_closed_sink_opens_again(server: str, aws: Any, record: MakeRecord) -> None:
    async with lake(server) as sink:
        await sink.send([record()], key="k")
        await sink.aclose()
        await sink.send([record(1)], key="k")
    assert len(objects(aws)) == 2


async def test_no_secret_reaches_a_log_or_an_error(
    server: str, aws: Any, record: MakeRecord, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    said = []
    async with lake(server, bucket="no-such-bucket") as sink:
        with pytest.raises(UnavailableError) as caught:
            await sink.send([record()], key="k")
        said.append(f"{caught.value!r}")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "hunter2-session")
    async with answering(403, "SignatureDoesNotMatch", "no") as (url, _), lake(url) as sink:
        with pytest.raises(UnavailableError) as caught:
            await sink.send([record()], key="k")
        said.append(f"{caught.value!r}")
    assert "hunter2" not in " ".join(said) + caplog.text
