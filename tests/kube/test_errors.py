"""What the answers and failures of a server are called."""

import json
import ssl

import aiohttp
import pytest

from collector.kube import errors
from collector.kube.errors import from_answer, from_transport
from collector.model import ClusterState

HOST = "https://10.0.0.1:6443"


def kubernetes(message, reason="", **more):
    return json.dumps({"kind": "Status", "message": message, "reason": reason} | more).encode()


def server_error(status: int, body: bytes, retry_after: str | None = None) -> errors.ServerError:
    error = from_answer(HOST, status, body, retry_after)
    assert isinstance(error, errors.ServerError)
    return error


@pytest.mark.parametrize(
    ("status", "kind", "state", "text"),
    [
        (401, errors.UnauthorizedError, ClusterState.UNAUTHORIZED, "unauthorized"),
        (403, errors.ForbiddenError, ClusterState.FORBIDDEN, "forbidden"),
        (404, errors.NotFoundError, ClusterState.SERVER_ERROR, "not found"),
        (410, errors.GoneError, ClusterState.SERVER_ERROR, "gone"),
        (429, errors.ThrottledError, ClusterState.SERVER_ERROR, "too many requests"),
        (503, errors.ServerError, ClusterState.SERVER_ERROR, "HTTP status 503"),
    ],
)
def test_each_status_has_its_error_and_state(status, kind, state, text):
    error = from_answer(HOST, status, kubernetes("because"))
    assert type(error) is kind
    assert error.state is state
    assert str(error) == f"{HOST}: {text}: because"
    assert getattr(error, "status", status) == status


def test_an_expired_list_is_gone_with_any_status():
    assert type(from_answer(HOST, 400, kubernetes("too old", "Expired"))) is errors.GoneError


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        (None, None),
        ("soon", None),
        ("0", None),
        ("\N{SUPERSCRIPT TWO}", None),
        ("86400", 3600),
        ("9" * 400, 3600),
        ("Thu, 01 Jan 2099 00:00:00 GMT", 3600),
    ],
)
def test_retry_after_in_a_header_is_at_most_an_hour(header, seconds):
    assert server_error(429, b"", header).retry_after == seconds


def test_retry_after_can_come_from_the_status():
    assert server_error(503, kubernetes("later", details={"retryAfterSeconds": 3})).retry_after == 3


@pytest.mark.parametrize(("asked", "seconds"), [(86400, 3600), (1e300, 3600), (-5, None), (0, None)])
def test_retry_after_in_a_status_is_at_most_an_hour(asked, seconds):
    assert server_error(503, kubernetes("later", details={"retryAfterSeconds": asked})).retry_after == seconds


def test_a_long_message_is_cut_and_on_one_line():
    text = str(from_answer(HOST, 500, kubernetes("a\n\tb\x1b[31m " + "c" * 1000)))
    assert text.startswith(f"{HOST}: HTTP status 500: a b cc")
    assert text.endswith("c…")
    assert len(text) == len(f"{HOST}: HTTP status 500: ") + 300


def test_a_body_other_than_html_is_quoted():
    assert str(from_answer(HOST, 502, b"bad \xff gateway")) == f"{HOST}: HTTP status 502: bad \ufffd gateway"
    page = f"{HOST}: HTTP status 502: got a web page, not an API response; is there a proxy in between?"
    assert str(from_answer(HOST, 502, b" <html>nginx</html>")) == page
    assert str(from_answer(HOST, 502, b"")) == f"{HOST}: HTTP status 502"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TimeoutError(), "timed out"),
        (ConnectionResetError(104, "x"), "connection reset by peer"),
        (aiohttp.ServerDisconnectedError(), "the server closed the connection"),
        (aiohttp.ClientPayloadError("secret"), "the connection broke in the middle of the response"),
        (ssl.SSLError(1, "secret"), "TLS failure: connection closed"),
        (aiohttp.ClientError("secret"), "the request failed (ClientError)"),
        (OSError("secret"), "cannot connect"),
    ],
)
def test_a_connection_failure_is_unreachable_with_a_short_reason(error, text):
    mapped = from_transport(HOST, error)
    assert isinstance(mapped, errors.UnreachableError)
    assert str(mapped) == f"{HOST}: {text}"
