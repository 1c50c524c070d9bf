"""Nothing that leaves a sink repeats one of its secrets, whoever raised it and in whatever words."""

import base64
import traceback
from collections.abc import Sequence

import asyncpg
import pytest
from botocore.exceptions import ClientError

from collector.config.sinks import PostgresSettings, S3Settings
from collector.model import SinkRecord
from collector.redaction import Secrets
from collector.sinks.errors import Reason, UnavailableError
from collector.sinks.postgres import PostgresSink
from collector.sinks.s3 import S3Sink
from collector.sinks.sink import RedactingSink

pytestmark = pytest.mark.anyio

SECRET = "hunter2-Zx9_opaque.secret-hunter2"
ENCODED = base64.b64encode(f"x:{SECRET}".encode()).decode()


class Careless:
    """A sink that repeats everything."""

    def __init__(self, error: Exception) -> None:
        self.secrets = Secrets(SECRET)
        self._error = error

    async def send(self, records: Sequence[SinkRecord], *, key: str) -> None:
        try:
            raise ValueError(f"sent {ENCODED}")
        except ValueError as cause:
            raise self._error from cause

    async def check(self) -> str:
        return f"reached with {SECRET}"

    async def aclose(self) -> None:
        raise self._error


@pytest.mark.parametrize(
    "error", [UnavailableError(f"no {SECRET}", Reason.CONNECTION), RuntimeError(f"no {SECRET}"), KeyError(SECRET)]
)
async def test_secrets_are_removed_from_every_sink_error(error: Exception) -> None:
    sink = RedactingSink(Careless(error))
    for doomed in (sink.send([], key="k"), sink.aclose()):
        with pytest.raises(type(error)) as caught:
            await doomed
        said = "".join(traceback.format_exception(caught.value))
        assert "***" in str(caught.value)
        assert "hunter2" not in said
        assert ENCODED not in said


async def test_secrets_are_removed_from_check_results() -> None:
    assert await RedactingSink(Careless(RuntimeError())).check() == "reached with ***"


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
async def test_aws_credentials_are_removed(aws_environment: None, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, SECRET)
    sink = S3Sink("lake", S3Settings(bucket="lake-bucket"))
    await sink._client._open()
    await sink._client.close()
    said = f"you sent {SECRET} ({ENCODED})"
    answer = {"Error": {"Code": "Denied", "Message": said}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    error = sink._map_error(ClientError(answer, "PutObject"), "PutObject")
    assert str(error) == "sinks.lake: s3://lake-bucket: PutObject answered 403 Denied: you sent *** (***)"


def test_the_postgres_password_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", SECRET)
    sink = PostgresSink("db", PostgresSettings(url="postgresql://u@h/d"))
    error = sink._map_error(asyncpg.InvalidPasswordError(f"\x1b[31mno {SECRET}"))
    assert str(error) == "sinks.db: table serials: no ***"
