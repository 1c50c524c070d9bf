"""The s3 sink: one object per batch, with a unique key."""

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import quote

import anyio
import anyio.to_thread

from collector.config.sinks import S3Settings
from collector.model import Place, SinkRecord
from collector.redaction import Secrets
from collector.sinks import formats
from collector.sinks.errors import TEXT_LIMIT, Reason, RejectedError, SinkError, TooLargeError, UnavailableError
from collector.sinks.loop_thread import HangingError, LoopThread
from collector.sinks.s3_client import S3Client
from collector.sinks.s3_errors import describe_failure, not_stored
from collector.text import describe_os_error
from collector.timestamps import rfc3339

__all__ = ["S3Sink", "object_key"]

HANGING_GRACE_SECONDS = 5.0  # after the settings' timeout, when a call ends by itself unless a file hangs

_DIGEST_LETTERS = 32  # of the SHA-256 in an object's key
_CONTENT_TYPES = {
    "csv": "text/csv",
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}
# The next attempt uses the state of AWS's files, variables and programs at that time.
_FORGOTTEN_AFTER = frozenset({Reason.UNAUTHORIZED, Reason.MISCONFIGURED})

# These log whole requests at debug, including session tokens, and the source of credentials at info. Their warnings
# about credentials have tracebacks, and if they matter, the sink reports the error itself.
for _library in ("boto3", "botocore", "aioboto3", "aiobotocore"):
    logging.getLogger(_library).setLevel(logging.WARNING)
    logging.getLogger(f"{_library}.credentials").setLevel(logging.ERROR)


def object_key(settings: S3Settings, time: str, key: str, lines: bytes) -> str:
    """Return the key of a batch's object: the hour of its first record's `time`, and a digest of batch key and content.

    `lines` are the records as JSON Lines, whatever the object's format. A batch that is sent again overwrites its own
    object; different batches never share one.
    """
    first = formats.parse_time(time)
    # Without fields that older releases lacked, so that a batch keeps its key across an upgrade.
    for field in (b"changes", b"last_known", b"mark"):
        lines = lines.replace(b',"' + field + b'":null', b"")
    digest = hashlib.sha256(f"{len(key)}:{key}".encode() + lines).hexdigest()[:_DIGEST_LETTERS]
    name = f"{first:%Y%m%d-%H%M%S}.{first.microsecond // 1000:03}-{digest}.{_ending(settings)}"
    partition = f"year={first:%Y}/month={first:%m}/day={first:%d}/hour={first:%H}"
    return "/".join(filter(None, (settings.prefix, partition, name)))


def _ending(settings: S3Settings) -> str:
    return settings.format + (".gz" if settings.gzip else "")


def _trial_record(time: str) -> SinkRecord:
    return SinkRecord.of(
        place=Place("gpuid-check", "gpuid-check"),
        machine="",
        source="",
        time=time,
        event="check",
        uuid="",
        serial=None,
        model=None,
        chassis=None,
    )


class S3Sink:
    """Keeps one client open; retries are up to the caller, the libraries' own retries are disabled."""

    def __init__(self, name: str, settings: S3Settings, *, grace: float = HANGING_GRACE_SECONDS) -> None:
        self.secrets = Secrets()
        self.secrets.add_proxies(os.environ)
        self._name = name
        self._settings = settings
        self._grace = grace
        self._lock = anyio.Lock()  # one call at a time
        self._thread = LoopThread(f"gpuid s3 {name}")
        self._client = S3Client(name, settings, self.secrets)  # lives in the thread

    async def send(self, records: Sequence[SinkRecord], *, key: str) -> None:
        """Put the batch's object."""
        if records:
            await self._put(await anyio.to_thread.run_sync(self._put_arguments, records, key))

    async def check(self) -> str:
        """Put a small object like a batch and delete it; deliveries do not need the right to delete."""
        settings = self._settings
        records = [_trial_record(rfc3339(time.time(), "seconds"))]
        arguments = await anyio.to_thread.run_sync(self._put_arguments, records, "gpuid-check")
        trial = "/".join(filter(None, (settings.prefix, f"gpuid-check.{_ending(settings)}")))
        version = await self._put(arguments | {"Key": trial})
        left = await self._remove(trial, version)
        return f"s3://{settings.bucket} is writable{'; ' if left else ''}{left}"

    async def aclose(self) -> None:
        """Close the client and its connections."""
        async with self._lock:
            await self._thread.close(self._client.close)

    async def _remove(self, key: str, version: str | None) -> str:
        """Delete an object with its version, or else without; return what is left and why."""
        try:
            await self._call(
                "DeleteObject", self._client.delete, Key=key, **({"VersionId": version} if version else {})
            )
        except SinkError as error:
            reason = str(error).removeprefix(self._text(""))
        else:
            return ""
        if version is not None:
            with contextlib.suppress(SinkError):
                await self._call("DeleteObject", self._client.delete, Key=key)
                return f"the test object {key} was deleted, but its version remains: {reason}"
        return f"the test object {key} remains: {reason}"

    def _put_arguments(self, records: Sequence[SinkRecord], key: str) -> dict[str, Any]:
        """Return a batch's object and its parameters; call this in a thread, as a large batch takes a while."""
        lines = formats.json_lines(records)
        return {
            "Body": self._body(records, lines),
            "Key": object_key(self._settings, records[0].time, key, lines),
            "ContentType": "application/gzip" if self._settings.gzip else _CONTENT_TYPES[self._settings.format],
            "Metadata": self._metadata(records, key),
        }

    def _body(self, records: Sequence[SinkRecord], lines: bytes) -> bytes:
        match self._settings.format:
            case "csv":
                body = formats.csv(records, columns=self._columns, header=self._settings.header)
            case "jsonl":
                body = lines
            case "parquet":
                body = formats.parquet(records)
        return formats.gzip(body) if self._settings.gzip else body

    def _metadata(self, records: Sequence[SinkRecord], key: str) -> dict[str, str]:
        """Return the object's metadata; the first five names are the Go program's."""
        times = sorted((formats.parse_time(record.time), record.time) for record in records)
        return {
            "source": "gpuid",
            "record_count": str(len(records)),
            "timestamp": records[0].time,
            "format": self._settings.format,
            "columns": ",".join(self._columns),
            "first_time": times[0][1],
            "last_time": times[-1][1],
            "idempotency_key": quote(key, safe=":/+="),
        }

    @property
    def _columns(self) -> Sequence[str]:
        if self._settings.columns == "go-gpuid":
            return formats.GO_GPUID_COLUMNS
        return formats.COLUMNS if self._settings.format == "csv" else formats.FIELDS

    def _encryption(self) -> dict[str, str]:
        settings = self._settings
        named = {"ServerSideEncryption": settings.sse, "SSEKMSKeyId": settings.kms_key_id}
        return {key: value for key, value in named.items() if value is not None}

    async def _put(self, arguments: dict[str, Any]) -> str | None:
        """Put an object; return its version in a versioned bucket. Only S3's own response counts as success."""
        answer = await self._call("PutObject", self._client.put, **arguments, **self._encryption())
        if problem := not_stored(answer, self._foreign):
            raise UnavailableError(self._text(problem), Reason.MISCONFIGURED)
        version = answer.get("VersionId")
        return None if version in (None, "", "null") else str(version)

    async def _call(self, operation: str, call: Callable[..., Awaitable[Any]], **parameters: Any) -> Any:
        async def exchange() -> Any:
            try:
                with anyio.fail_after(self._settings.timeout):
                    return await call(**parameters)
            except Exception as error:
                failure = self._map_error(error, operation)
                if failure is None:
                    raise
                if failure.reason in _FORGOTTEN_AFTER:
                    await self._client.close()
                raise failure from None

        async with self._lock:
            try:
                return await self._thread.run(exchange, timeout=self._settings.timeout + self._grace)
            except HangingError as error:
                text = f"{error}: AWS's configuration, or a file or program that it names, hangs"
                raise UnavailableError(self._text(text), Reason.TIMEOUT) from None
            except OSError as error:
                text = describe_os_error(error, "the sink's thread cannot start")
                raise UnavailableError(self._text(text), Reason.CONNECTION) from None

    def _map_error(self, error: Exception, operation: str) -> SinkError | None:
        if isinstance(error, SinkError):
            return error
        failure = describe_failure(error, operation, self._foreign)
        if failure is None:
            return None
        text = self._text(failure.text or f"no answer within {self._settings.timeout:g} s")
        if failure.reason is Reason.REJECTED:
            return TooLargeError(text) if failure.too_large else RejectedError(text)
        return UnavailableError(text, failure.reason, retry_after=failure.retry_after)

    def _foreign(self, text: str) -> str:
        return self.secrets.redact(text, TEXT_LIMIT)

    def _text(self, text: str) -> str:
        return f"sinks.{self._name}: s3://{self._settings.bucket}: {text}"
