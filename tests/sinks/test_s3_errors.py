"""What the s3 sink makes of each of botocore's errors: a reason, and one line that names the places concerned."""

import errno
import ssl
from http import HTTPStatus
from typing import Any
from unittest import mock

import pytest
from aiohttp import ClientConnectorError, ClientHttpProxyError, ClientPayloadError
from botocore.exceptions import (
    ClientError,
    ConnectionError,  # noqa: A004  botocore's own
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError

from collector.proxies import ProxyUrlError
from collector.sinks.errors import Reason
from collector.sinks.s3_client import ANSWER
from collector.sinks.s3_errors import Failure, describe_failure, not_stored
from collector.sinks.s3_http import UnusableAnswerError
from collector.sinks.s3_proxy import PROXY
from collector.socks import SocksTimeoutError

S3 = "https://user:hunter2@s3.example.com:9000/gpus"
PLACES = {"endpoint_url": S3, PROXY: "http://proxy:3128"}


def foreign(text: str) -> str:
    """Mark text that would be searched for secrets."""
    return f"[{text}]" if text else ""


def described(error: BaseException) -> Failure | None:
    return describe_failure(error, "PutObject", foreign)


def answer(status: int | None, code: str = "", message: str = "", body: bytes = b"", **changed: Any) -> ClientError:
    """Return botocore's error for an answer."""
    meta: dict[str, Any] = {} if status is None else {"HTTPStatusCode": status}
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": meta, ANSWER: body}
    return ClientError(response, changed.get("operation", "PutObject"))


class TestAnAnswer:
    @pytest.mark.parametrize(
        ("error", "text", "reason"),
        [
            (answer(403, "AccessDenied", "no"), "PutObject answered 403 [AccessDenied]: [no]", Reason.UNAUTHORIZED),
            (answer(404, "NoSuchBucket"), "PutObject answered 404 [NoSuchBucket]", Reason.MISSING),
            (
                answer(400, "KMS.DisabledException"),
                "PutObject answered 400 [KMS.DisabledException]",
                Reason.MISCONFIGURED,
            ),
            (answer(404, "404", "Not Found", b"gone"), "PutObject answered 404: [gone]", Reason.MISSING),
            (answer(404, "404", "Not Found"), "PutObject answered 404 Not Found with an empty body", Reason.MISSING),
            (answer(599), "PutObject answered 599 with an empty body", Reason.SERVER_ERROR),
            (answer(502, body=b"\xff"), "PutObject answered 502: [\N{REPLACEMENT CHARACTER}]", Reason.SERVER_ERROR),
            (answer(501), "PutObject answered 501 Not Implemented with an empty body", Reason.MISCONFIGURED),
            (answer(413), f"PutObject answered 413 {HTTPStatus(413).phrase} with an empty body", Reason.MISCONFIGURED),
            (answer(None), "PutObject answered 500 Internal Server Error with an empty body", Reason.SERVER_ERROR),
        ],
    )
    def test_is_quoted_with_its_status_and_code(self, error: ClientError, text: str, reason: Reason) -> None:
        assert described(error) == Failure(text, reason)

    def test_of_a_batch_too_large_says_so(self) -> None:
        failure = described(answer(400, "EntityTooLarge"))
        assert failure == Failure("PutObject answered 400 [EntityTooLarge]", Reason.REJECTED, too_large=True)

    def test_may_say_when_to_retry(self) -> None:
        error = answer(503, "SlowDown")
        error.response["ResponseMetadata"]["HTTPHeaders"] = {"retry-after": "9"}
        assert described(error) == Failure("PutObject answered 503 [SlowDown]", Reason.THROTTLED, retry_after=9.0)

    @pytest.mark.parametrize(
        ("status", "reason"),
        [
            (400, Reason.UNAUTHORIZED),
            (404, Reason.UNAUTHORIZED),
            (499, Reason.UNAUTHORIZED),
            (429, Reason.THROTTLED),
            (500, Reason.SERVER_ERROR),
            (501, Reason.MISCONFIGURED),
        ],
    )
    def test_of_another_service_than_s3_is_about_credentials(self, status: int, reason: Reason) -> None:
        failure = described(answer(status, "Odd", operation="AssumeRole"))
        assert failure == Failure(f"AssumeRole answered {status} [Odd]", reason)

    def test_is_recognised_by_s3_s_operations(self) -> None:
        for operation in ("PutObject", "DeleteObject", "CreateSession", "HeadBucket"):
            failure = described(answer(404, "NoSuchBucket", operation=operation))
            assert failure == Failure(f"{operation} answered 404 [NoSuchBucket]", Reason.MISSING)


CONNECTOR = ClientConnectorError(mock.Mock(), OSError(errno.ECONNREFUSED, "refused"))
LOGIN_REQUIRED, FORBIDDEN = (ClientHttpProxyError(mock.Mock(), (), status=status) for status in (407, 403))


class TestNoAnswer:
    @pytest.mark.parametrize(
        ("error", "text", "reason"),
        [
            (TimeoutError("60 s"), "[60 s]", Reason.TIMEOUT),
            (NoCredentialsError(), "[Unable to locate credentials]", Reason.UNAUTHORIZED),
            (ClientPayloadError("cut"), "[cut]", Reason.CONNECTION),
            (ResponseParserError("no XML"), "[no XML]", Reason.CONNECTION),
            (ParamValidationError(report="odd"), "[Parameter validation failed:\nodd]", Reason.MISCONFIGURED),
            (OSError("no file"), "[no file]", Reason.MISCONFIGURED),
            (ValueError("odd"), "[odd]", Reason.MISCONFIGURED),
        ],
    )
    def test_has_the_reason_of_its_error(self, error: Exception, text: str, reason: Reason) -> None:
        assert described(error) == Failure(text, reason)

    def test_by_an_error_of_neither_botocore_nor_the_network_has_no_meaning(self) -> None:
        assert described(ZeroDivisionError("x")) is None

    @pytest.mark.parametrize(
        ("error", "words", "reason"),
        [
            (ConnectTimeoutError(**PLACES), "timed out connecting", Reason.TIMEOUT),
            (ReadTimeoutError(**PLACES), "timed out", Reason.TIMEOUT),
            (EndpointConnectionError(error=CONNECTOR, **PLACES), "[connection refused]", Reason.CONNECTION),
            (HTTPClientError(error=SocksTimeoutError("no"), **PLACES), "[no]", Reason.TIMEOUT),
            (
                HTTPClientError(error=FORBIDDEN, **PLACES),
                "[the proxy responded with HTTP status 403]",
                Reason.CONNECTION,
            ),
        ],
    )
    def test_names_server_and_proxy(self, error: Exception, words: str, reason: Reason) -> None:
        assert described(error) == Failure(f"s3.example.com:9000: {words}; through http://proxy:3128", reason)

    def test_without_places_names_none(self) -> None:
        assert described(HTTPClientError(error=CONNECTOR)) == Failure("[connection refused]", Reason.CONNECTION)

    def test_names_a_proxy_once(self) -> None:
        error = SocksTimeoutError("http://proxy:3128 did not answer")
        failure = described(HTTPClientError(error=error, **PLACES))
        assert failure == Failure("s3.example.com:9000: [http://proxy:3128 did not answer]", Reason.TIMEOUT)

    def test_for_want_of_a_login_at_the_proxy_is_not_a_lost_connection(self) -> None:
        failure = described(HTTPClientError(error=LOGIN_REQUIRED, **PLACES))
        assert failure is not None
        assert failure.reason is Reason.UNAUTHORIZED
        assert "407: it requires a login" in failure.text

    @pytest.mark.parametrize(
        ("cause", "text"),
        [
            (UnusableAnswerError("redirects"), "PutObject [redirects]"),
            (ProxyUrlError("HTTPS_PROXY is odd"), "[HTTPS_PROXY is odd]"),
            (FileNotFoundError("ca.pem"), "[ca.pem]"),
            (ssl.SSLError("no certificate in ca.pem"), "[('no certificate in ca.pem',)]"),
        ],
    )
    def test_that_someone_must_fix_is_misconfigured(self, cause: Exception, text: str) -> None:
        assert described(HTTPClientError(error=cause, **PLACES)) == Failure(text, Reason.MISCONFIGURED)

    def test_with_an_unknown_cause_is_a_lost_connection(self) -> None:
        failure = described(ConnectionError(error="odd"))
        assert failure == Failure("[An HTTP Client failed to establish a connection: odd]", Reason.CONNECTION)


class TestASuccess:
    @pytest.mark.parametrize(
        ("status", "etag", "body", "problem"),
        [
            (200, '"5d41"', b"", None),
            (200, '"5d41"', None, None),
            (200, '"5d41"', b"<Result/>", None),
            (200, None, b"", "200 without an ETag, so nothing is stored; check endpoint_url"),
            (200, ' "" ', b"", "200 without an ETag, so nothing is stored; check endpoint_url"),
            (
                200,
                'W/"5d41"',
                b"",
                "200 which is not a response of S3, so nothing is stored; check endpoint_url",
            ),
            (
                200,
                '"5d41"',
                b"<HTML>Sign in",
                "200 which is not a response of S3, so nothing is stored; check endpoint_url: [Sign in]",
            ),
            (
                204,
                '"5d41"',
                b"\xff",
                "204 which is not a response of S3, so nothing is stored; check endpoint_url:"
                " [\N{REPLACEMENT CHARACTER}]",
            ),
            (204, "", b"", "204 which is not a response of S3, so nothing is stored; check endpoint_url"),
        ],
    )
    def test_is_s3_s_own_with_an_etag(
        self, status: int, etag: str | None, body: bytes | None, problem: str | None
    ) -> None:
        answered = {"ResponseMetadata": {"HTTPStatusCode": status}, "ETag": etag, ANSWER: body}
        assert not_stored(answered, foreign) == (problem and f"PutObject answered {problem}")
