"""Maps botocore's errors, and responses that are not from S3, to a reason and a one-line text."""

import ssl
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from aiohttp import ClientError as TransportError
from aiohttp import ClientHttpProxyError
from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  botocore's own
    ConnectTimeoutError,
    CredentialRetrievalError,
    HTTPClientError,
    MetadataRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    RefreshWithMFAUnsupportedError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

from collector.backoff import parse_retry_after
from collector.http_errors import reason
from collector.proxies import ProxyUrlError
from collector.sinks.errors import Reason, from_status
from collector.sinks.markup import without_markup
from collector.sinks.s3_client import ANSWER, CredentialsError
from collector.sinks.s3_http import UnusableAnswerError
from collector.sinks.s3_proxy import PROXY
from collector.socks import SocksTimeoutError
from collector.text import one_line

__all__ = ["Failure", "describe_failure", "not_stored"]

_S3_OPERATIONS = frozenset({"PutObject", "DeleteObject", "CreateSession", "HeadBucket"})
# Codes about the batch itself are REJECTED; others are more specific than their status, which is mostly 400.
_REASON_BY_CODE = {
    "AuthorizationHeaderMalformed": Reason.MISCONFIGURED,
    "BadDigest": Reason.CONNECTION,
    "BandwidthLimitExceeded": Reason.THROTTLED,
    "EntityTooLarge": Reason.REJECTED,
    "ExpiredToken": Reason.UNAUTHORIZED,
    "ExpiredTokenException": Reason.UNAUTHORIZED,
    "IncompleteBody": Reason.CONNECTION,
    "InvalidAccessKeyId": Reason.UNAUTHORIZED,
    "InvalidClientTokenId": Reason.UNAUTHORIZED,
    "InvalidSecurity": Reason.UNAUTHORIZED,
    "InvalidToken": Reason.UNAUTHORIZED,
    "KeyTooLong": Reason.REJECTED,
    "KeyTooLongError": Reason.REJECTED,
    "MetadataTooLarge": Reason.REJECTED,
    "MethodNotAllowed": Reason.MISCONFIGURED,
    "NoSuchBucket": Reason.MISSING,
    "NotImplemented": Reason.MISCONFIGURED,
    "PermanentRedirect": Reason.MISCONFIGURED,
    "QuotaExceeded": Reason.MISCONFIGURED,
    "RequestLimitExceeded": Reason.THROTTLED,
    "RequestTimeout": Reason.TIMEOUT,
    "RequestTimeTooSkewed": Reason.MISCONFIGURED,
    "ServiceQuotaExceeded": Reason.MISCONFIGURED,
    "SignatureDoesNotMatch": Reason.UNAUTHORIZED,
    "SlowDown": Reason.THROTTLED,
    "SlowDownWrite": Reason.THROTTLED,
    "StorageQuotaExceeded": Reason.MISCONFIGURED,
    "TemporaryRedirect": Reason.SERVER_ERROR,
    "Throttling": Reason.THROTTLED,
    "ThrottlingException": Reason.THROTTLED,
    "TokenRefreshRequired": Reason.UNAUTHORIZED,
    "TooManyRequests": Reason.THROTTLED,
    "Unauthorized": Reason.UNAUTHORIZED,
    "XAmzContentChecksumMismatch": Reason.CONNECTION,
    "XAmzContentSHA256Mismatch": Reason.CONNECTION,
    "XMinioAdminBucketQuotaExceeded": Reason.MISCONFIGURED,
}
_UNAUTHORIZED_ERRORS = (
    CredentialsError,
    CredentialRetrievalError,
    MetadataRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    RefreshWithMFAUnsupportedError,
    SSOError,
    TokenRetrievalError,
)


class Failure(NamedTuple):
    """Why a call failed; REJECTED means that no later call can succeed."""

    text: str
    reason: Reason
    retry_after: float | None = None  # seconds, if the service named a time
    too_large: bool = False  # halves of the batch may be accepted


def describe_failure(error: BaseException, operation: str, foreign: Callable[[str], str]) -> Failure | None:
    """Return the meaning of a call's error; None for errors from neither botocore nor the network.

    `foreign` turns foreign text into one short line without secrets.
    """
    match error:
        case ClientError():
            return _answered(error, foreign)
        case TimeoutError():
            return Failure(foreign(str(error)), Reason.TIMEOUT)
        case _ if isinstance(error, _UNAUTHORIZED_ERRORS):
            return Failure(foreign(str(error)), Reason.UNAUTHORIZED)
        case HTTPClientError() | ConnectionError():
            return _not_answered(error, operation, foreign)
        case TransportError() | ResponseParserError():
            return Failure(foreign(str(error)), Reason.CONNECTION)
        case BotoCoreError() | OSError() | ValueError():
            return Failure(foreign(str(error)), Reason.MISCONFIGURED)
    return None


def _not_answered(error: Any, operation: str, foreign: Callable[[str], str]) -> Failure:
    """Return why a request got no usable response."""
    match error.kwargs.get("error"):
        case _ if isinstance(error, ConnectTimeoutError):
            return Failure(_with_places(error, "timed out connecting"), Reason.TIMEOUT)
        case _ if isinstance(error, ReadTimeoutError):
            return Failure(_with_places(error, "timed out"), Reason.TIMEOUT)
        case UnusableAnswerError() as cause:
            return Failure(f"{operation} {foreign(str(cause))}", Reason.MISCONFIGURED)
        case ProxyUrlError() as cause:
            return Failure(foreign(str(cause)), Reason.MISCONFIGURED)
        case cause if _is_local(cause):
            return Failure(foreign(str(cause)), Reason.MISCONFIGURED)
        case ClientHttpProxyError(status=HTTPStatus.PROXY_AUTHENTICATION_REQUIRED) as cause:
            return Failure(_with_places(error, reason(cause)), Reason.UNAUTHORIZED)
        case SocksTimeoutError() as cause:
            return Failure(_with_places(error, foreign(reason(cause))), Reason.TIMEOUT)
        case Exception() as cause:
            return Failure(_with_places(error, foreign(reason(cause))), Reason.CONNECTION)
    return Failure(foreign(str(error)), Reason.CONNECTION)


def _with_places(error: Any, words: str) -> str:
    """Return an error with the server concerned and the proxy on the way."""
    server = one_line(urlsplit(error.kwargs.get("endpoint_url") or "").netloc.rpartition("@")[2])
    proxy = error.kwargs.get(PROXY, "")
    return f"{f'{server}: ' if server else ''}{words}{f'; through {proxy}' if proxy and proxy not in words else ''}"


def not_stored(answer: dict[str, Any], foreign: Callable[[str], str]) -> str | None:
    """Return the problem with a successful response to PutObject; None if it is S3's.

    S3 responds with 200 and the object's ETag. Weak ETags come from web servers for pages.
    """
    status, etag = answer["ResponseMetadata"]["HTTPStatusCode"], str(answer.get("ETag") or "")
    body = answer.get(ANSWER) or b""
    if status == HTTPStatus.OK and etag.strip('" ') and not etag.startswith("W/") and b"<html" not in body.lower():
        return None
    problem = "without an ETag" if status == HTTPStatus.OK and not etag.strip('" ') else "which is not a response of S3"
    words = foreign(without_markup(body.decode(errors="replace")))
    return (
        f"PutObject answered {status} {problem}, so nothing is stored; check endpoint_url{': ' if words else ''}{words}"
    )


def _is_local(error: object) -> bool:
    """Return whether a sending error is about a local file: the CA bundle."""
    files = (FileNotFoundError, IsADirectoryError, PermissionError, ssl.SSLError)
    return isinstance(error, files) and not isinstance(error, TransportError)


def _answered(error: Any, foreign: Callable[[str], str]) -> Failure:
    """Return the meaning of a service's response; one from a service other than S3 is about our credentials."""
    answer = error.response.get("Error", {})
    meta = error.response.get("ResponseMetadata", {})
    code, status = str(answer.get("Code") or ""), int(meta.get("HTTPStatusCode", 500))
    if code and not code.isdigit():
        message = foreign(str(answer.get("Message") or ""))
        said = f" {foreign(code)}{': ' if message else ''}{message}"
    else:  # not from S3: botocore derived code and message from the status
        code, body = "", error.response.get(ANSWER) or b""
        words = foreign(without_markup(body.decode(errors="replace")))
        said = f": {words}" if words else f"{_phrase(status)} with an empty body"
    text = f"{error.operation_name} answered {status}{said}"
    retry_after = parse_retry_after(meta.get("HTTPHeaders", {}).get("retry-after"), time.time())
    return Failure(text, _reason(error.operation_name, code, status), retry_after, code == "EntityTooLarge")


def _reason(operation: str, code: str, status: int) -> Reason:
    if operation not in _S3_OPERATIONS and status < 500 and status != HTTPStatus.TOO_MANY_REQUESTS:
        return Reason.UNAUTHORIZED
    if code.startswith("KMS."):
        return Reason.MISCONFIGURED
    if (known := _REASON_BY_CODE.get(code)) is not None:
        return known
    if status in {HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.REQUEST_ENTITY_TOO_LARGE}:
        return Reason.MISCONFIGURED
    return from_status(status, "").reason


def _phrase(status: int) -> str:
    try:
        return f" {HTTPStatus(status).phrase}"
    except ValueError:
        return ""
