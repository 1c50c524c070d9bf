"""The s3 sink: one object per batch, under a key that nothing else ever has."""

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import aioboto3  # type: ignore[import-untyped]
import anyio
import anyio.to_thread
from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped]
from aiohttp import ClientError as TransportError
from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  botocore's own
    ConnectTimeoutError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

from collector.backoff import parse_retry_after
from collector.config.sinks import S3Settings
from collector.model import SinkRecord
from collector.proxies import ProxyUrlError
from collector.redaction import Secrets
from collector.sinks import formats
from collector.sinks.errors import TEXT_LIMIT, Reason, RejectedError, SinkError, UnavailableError, from_status
from collector.sinks.s3_proxy import with_proxy
from collector.text import describe_redirect

__all__ = ["S3Sink", "object_key"]

_DIGEST_LETTERS = 32  # of the SHA-256 in an object's key
_CONTENT_TYPES = {
    "csv": "text/csv",
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}
_S3_OPERATIONS = frozenset({"PutObject", "CreateMultipartUpload", "AbortMultipartUpload"})
# Codes that say more than their status, which mostly is 400.
_REASON_BY_CODE = {
    "AuthorizationHeaderMalformed": Reason.MISCONFIGURED,
    "BadDigest": Reason.CONNECTION,
    "EntityTooLarge": Reason.REJECTED,
    "ExpiredToken": Reason.UNAUTHORIZED,
    "ExpiredTokenException": Reason.UNAUTHORIZED,
    "IllegalLocationConstraintException": Reason.MISCONFIGURED,
    "InvalidAccessKeyId": Reason.UNAUTHORIZED,
    "InvalidArgument": Reason.MISCONFIGURED,
    "InvalidBucketName": Reason.MISCONFIGURED,
    "InvalidRequest": Reason.MISCONFIGURED,
    "InvalidToken": Reason.UNAUTHORIZED,
    "KeyTooLongError": Reason.MISCONFIGURED,
    "NoSuchBucket": Reason.MISSING,
    "PermanentRedirect": Reason.MISCONFIGURED,
    "RequestTimeout": Reason.TIMEOUT,
    "RequestTimeTooSkewed": Reason.MISCONFIGURED,
    "SignatureDoesNotMatch": Reason.UNAUTHORIZED,
    "SlowDown": Reason.THROTTLED,
    "TemporaryRedirect": Reason.SERVER_ERROR,
    "Throttling": Reason.THROTTLED,
    "ThrottlingException": Reason.THROTTLED,
    "TokenRefreshRequired": Reason.UNAUTHORIZED,
}

# At level debug these log whole requests, session tokens included.
for _library in ("boto3", "botocore", "aioboto3", "aiobotocore"):
    logging.getLogger(_library).setLevel(logging.INFO)


def object_key(settings: S3Settings, time: str, key: str, lines: bytes) -> str:
    """Return the key of a batch's object: the hour of its first record's `time`, and a digest of batch key and content.

    `lines` are the records as JSON Lines, whatever the object's format. A batch that is sent again overwrites its own
    object; different batches never share one.
    """
    first = formats.parse_time(time)
    digest = hashlib.sha256(f"{len(key)}:{key}".encode() + lines).hexdigest()[:_DIGEST_LETTERS]
    name = f"{first:%Y%m%d-%H%M%S}.{first.microsecond // 1000:03}-{digest}.{settings.format}"
    partition = f"year={first:%Y}/month={first:%m}/day={first:%d}/hour={first:%H}"
    return "/".join(filter(None, (settings.prefix, partition, name + (".gz" if settings.gzip else ""))))


class S3Sink:
    """Keeps one client open; retrying is up to the caller, the libraries' own retries are off."""

    def __init__(self, name: str, settings: S3Settings) -> None:
        self.secrets = Secrets()
        self.secrets.add_proxies(os.environ)
        self._name = name
        self._settings = settings
        self._lock = anyio.Lock()
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._credentials: Any = None  # AWS's, of the client

    async def send(self, records: Sequence[SinkRecord], *, key: str) -> None:
        """Put the batch's object."""
        if not records:
            return
        arguments = await anyio.to_thread.run_sync(self._put_arguments, records, key)
        await self._call("put_object", **arguments, **self._encryption())

    async def check(self) -> str:
        """Start and abort a multipart upload, which needs the rights and keys of a put and leaves no object."""
        where = f"s3://{self._settings.bucket}"
        trial = "/".join(filter(None, (self._settings.prefix, "gpuid-check")))
        upload = await self._call("create_multipart_upload", Key=trial, **self._encryption())
        try:
            await self._call("abort_multipart_upload", Key=trial, UploadId=upload["UploadId"])
        except SinkError:
            return f"{where} is writable; the empty upload {trial} could not be aborted"
        return f"{where} is writable"

    async def aclose(self) -> None:
        """Close the client and its connections."""
        async with self._lock:
            stack, self._stack, self._client = self._stack, AsyncExitStack(), None
            await stack.aclose()

    def _put_arguments(self, records: Sequence[SinkRecord], key: str) -> dict[str, Any]:
        """Return a batch's object and what describes it; to be called in a thread, for a large batch takes a while."""
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
        return formats.GO_GPUID_COLUMNS if self._settings.columns == "go-gpuid" else formats.COLUMNS

    def _encryption(self) -> dict[str, str]:
        settings = self._settings
        named = {"ServerSideEncryption": settings.sse, "SSEKMSKeyId": settings.kms_key_id}
        return {key: value for key, value in named.items() if value is not None}

    async def _call(self, operation: str, **parameters: Any) -> Any:
        try:
            with anyio.fail_after(self._settings.timeout):
                client = await self._open()
                return await getattr(client, operation)(Bucket=self._settings.bucket, **parameters)
        except ClientError as error:
            raise self._map_error(error) from None
        except (TimeoutError, ConnectTimeoutError, ReadTimeoutError) as error:
            raise self._unavailable(error, Reason.TIMEOUT) from None
        except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError) as error:
            raise self._unavailable(error, Reason.UNAUTHORIZED) from None
        except HTTPClientError as error:
            cause = error.kwargs.get("error")
            if isinstance(cause, _RedirectedError):
                text = f"{operation.title().replace('_', '')} {cause}"
                raise UnavailableError(self._text(text), Reason.MISCONFIGURED) from None
            if isinstance(cause, ProxyUrlError):
                raise UnavailableError(f"sinks.{self._name}: {cause}", Reason.MISCONFIGURED) from None
            raise self._unavailable(error, Reason.CONNECTION) from None
        except (ConnectionError, TransportError, ResponseParserError) as error:
            raise self._unavailable(error, Reason.CONNECTION) from None
        except (BotoCoreError, OSError, ValueError) as error:
            raise self._unavailable(error, Reason.MISCONFIGURED) from None

    async def _open(self) -> Any:
        async with self._lock:
            if self._client is None:
                settings = self._settings
                session = aioboto3.Session(profile_name=settings.profile, region_name=settings.region)
                opening = session.client(
                    "s3",
                    endpoint_url=settings.endpoint_url,
                    verify=str(settings.ca_file) if settings.ca_file else None,
                    config=self._client_config(),
                )
                self._credentials = await session.get_credentials()
                # Entered outside of the stack: a cancelled opening must leave nothing to close.
                self._client = await opening.__aenter__()
                self._stack.push_async_exit(opening)
            return self._client

    def _client_config(self) -> Any:
        settings = self._settings
        options: dict[str, Any] = {
            "connect_timeout": settings.connect_timeout,
            "read_timeout": settings.read_timeout,
            "retries": {"mode": "standard", "total_max_attempts": 1},
            "http_session_cls": with_proxy(_HttpSession, settings.proxy),
            "s3": {"addressing_style": "path" if settings.path_style else "auto"},
        }
        if settings.endpoint_url is not None:
            # Not every S3 API understands the checksum trailers that AWS's libraries add by default.
            options |= {
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            }
        return AioConfig(**options)

    def _map_error(self, error: Any) -> SinkError:
        """Return our error for a service's response; one from another service than S3 concerns our credentials."""
        answer = error.response.get("Error", {})
        meta = error.response.get("ResponseMetadata", {})
        code, status = str(answer.get("Code", "")), int(meta.get("HTTPStatusCode", 500))
        message = self._foreign(str(answer.get("Message", "")))
        text = f"{error.operation_name} answered {status} {self._foreign(code)}{': ' if message else ''}{message}"
        retry_after = parse_retry_after(meta.get("HTTPHeaders", {}).get("retry-after"), time.time())
        reason = _REASON_BY_CODE.get(code)
        if error.operation_name not in _S3_OPERATIONS and status < 500 and status != 429:
            reason = Reason.UNAUTHORIZED
        elif code.startswith("KMS."):
            reason = Reason.MISCONFIGURED
        if reason is Reason.REJECTED:
            return RejectedError(self._text(text))
        if reason is not None:
            return UnavailableError(self._text(text), reason, retry_after=retry_after)
        return from_status(status, self._text(text), retry_after)

    def _foreign(self, text: str) -> str:
        # Credentials that expire are renewed behind the client, and their token goes out with each request.
        values = vars(self._credentials) if self._credentials is not None else {}
        self.secrets.add_renewed(*(values.get(name) for name in ("secret_key", "_secret_key", "token", "_token")))
        return self.secrets.redact(text, TEXT_LIMIT)

    def _text(self, text: str) -> str:
        return f"sinks.{self._name}: s3://{self._settings.bucket}: {text}"

    def _unavailable(self, error: BaseException, reason: Reason) -> UnavailableError:
        text = self._foreign(str(error)) or f"no answer within {self._settings.timeout:g} s"
        return UnavailableError(self._text(text), reason)


class _RedirectedError(Exception):
    """An answer redirects; the text says where to, without anything secret."""


class _HttpSession(AIOHTTPSession):  # type: ignore[misc]
    """botocore's way to HTTP, which follows no redirect: one would take the records and a session token anywhere."""

    async def _get_session(self, proxy_url: str | None) -> "_Requests":
        return _Requests(await super()._get_session(proxy_url))


class _Requests:
    """The requests of a session of aiohttp; raises _RedirectedError.

    An answer of AWS that names another region has no Location, and botocore asks there.
    """

    def __init__(self, session: Any) -> None:
        self._session = session

    async def request(self, *arguments: Any, **options: Any) -> Any:
        response = await self._session.request(*arguments, allow_redirects=False, **options)
        if response.status // 100 == 3 and (location := response.headers.get("Location")):
            response.close()
            raise _RedirectedError(describe_redirect(response.status, location, "endpoint_url and region"))
        return response
