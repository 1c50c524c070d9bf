import pytest

from collector.sinks.errors import Reason, RejectedError, SinkError, TooLargeError, UnavailableError, from_status

OF_RECORDS = (400, 413, 422)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (302, Reason.MISCONFIGURED),
        (400, Reason.MISCONFIGURED),
        (401, Reason.UNAUTHORIZED),
        (402, Reason.MISCONFIGURED),
        (403, Reason.UNAUTHORIZED),
        (404, Reason.MISSING),
        (405, Reason.MISSING),
        (406, Reason.MISCONFIGURED),
        (407, Reason.UNAUTHORIZED),
        (408, Reason.TIMEOUT),
        (409, Reason.SERVER_ERROR),
        (410, Reason.MISSING),
        (411, Reason.MISCONFIGURED),
        (412, Reason.MISCONFIGURED),
        (414, Reason.MISCONFIGURED),
        (415, Reason.MISCONFIGURED),
        (418, Reason.MISCONFIGURED),
        (421, Reason.MISCONFIGURED),
        (422, Reason.MISCONFIGURED),
        (423, Reason.SERVER_ERROR),
        (424, Reason.SERVER_ERROR),
        (425, Reason.SERVER_ERROR),
        (426, Reason.MISCONFIGURED),
        (428, Reason.MISCONFIGURED),
        (429, Reason.THROTTLED),
        (431, Reason.MISCONFIGURED),
        (451, Reason.MISCONFIGURED),
        (499, Reason.MISCONFIGURED),
        (500, Reason.SERVER_ERROR),
        (503, Reason.SERVER_ERROR),
        (599, Reason.SERVER_ERROR),
    ],
)
def test_no_status_alone_is_a_permanent_rejection(status: int, reason: Reason) -> None:
    error = from_status(status, "text", 7.0)
    assert isinstance(error, UnavailableError)
    assert (error.reason, error.retry_after) == (reason, 7.0)


@pytest.mark.parametrize("status", [302, 404, 408, 413, 429, 499, 500, 502, 503, 504, 599])
def test_only_a_5xx_leaves_open_whether_the_receiver_has_the_batch(status: int) -> None:
    error = from_status(status, "text")
    assert isinstance(error, UnavailableError)
    assert error.outcome_unknown == (status >= 500)


@pytest.mark.parametrize(
    "error",
    [
        SinkError("text", Reason.REJECTED),
        UnavailableError("text", Reason.REJECTED),
        RejectedError("text"),
        TooLargeError("text"),
        from_status(400, "text", about_records=OF_RECORDS),
    ],
)
def test_an_error_is_its_text_and_a_reason(error: SinkError) -> None:
    assert (str(error), error.reason) == ("text", Reason.REJECTED)


def test_a_sink_that_says_nothing_else_is_asked_again_and_has_no_batch() -> None:
    error = UnavailableError("text", Reason.CONNECTION)
    assert (error.retry_after, error.outcome_unknown) == (None, False)


def test_only_errors_about_the_records_are_permanent() -> None:
    final = [s for s in range(300, 600) if isinstance(from_status(s, "text", about_records=OF_RECORDS), RejectedError)]
    assert final == list(OF_RECORDS)
    assert from_status(422, "text", about_records=OF_RECORDS).reason is Reason.REJECTED


def test_a_batch_too_large_differs_from_an_invalid_one() -> None:
    assert isinstance(from_status(413, "text", about_records=OF_RECORDS), TooLargeError)
    assert not isinstance(from_status(400, "text", about_records=OF_RECORDS), TooLargeError)
    # RFC 9110 has Retry-After for a limit that will not last.
    error = from_status(413, "text", 30.0, about_records=OF_RECORDS)
    assert isinstance(error, UnavailableError)
    assert (error.reason, error.retry_after) == (Reason.THROTTLED, 30.0)


@pytest.mark.parametrize(
    "said",
    [
        "400 The plain HTTP request was sent to HTTPS port; 400 Bad Request; nginx",
        "Client sent an HTTP request to an HTTPS server.",
        "Bad Request; You're speaking plain HTTP to an SSL-enabled server port. Instead use the HTTPS scheme",
        "Bad Request This combination of host and port requires TLS.",
        "400 No required SSL certificate was sent; nginx",
        "400 Request Header Or Cookie Too Large",
        "Bad Request; Bad Request - Invalid Hostname; HTTP Error 400. The request hostname is invalid.",
        "Bad Request; Bad Request - Request Too Long; HTTP Error 400. The size of the request headers is too long.",
        "Bad Request; Bad Request - Invalid Header; HTTP Error 400. The request has an invalid header name.",
        "400 Bad request; Your browser sent an invalid request.",
        "400 Bad Request; Bad Request; Your browser sent a request that this server could not understand.",
        "Invalid HTTP request received.",
        "Invalid host header",
        "Bad Request (400)",
        "400 Bad Request; Bad Request; Host 'gpus.example.com' is not trusted.",
    ],
)
def test_a_400_not_about_the_records_is_not_permanent(said: str) -> None:
    error = from_status(400, f"sinks.hook: http://x: answered 400: {said}", about_records=OF_RECORDS)
    assert isinstance(error, UnavailableError)
    assert error.reason is Reason.MISCONFIGURED


@pytest.mark.parametrize(
    "said",
    [
        "",
        "Bad Request",
        '{"detail": "chassis is not trusted."}',
        '{"error": "Bad Request (400)", "field": "gpu"}',
        "400 Bad Request; The browser (or proxy) sent a request that this server could not understand.",  # Flask's
    ],
)
def test_a_400_possibly_about_the_records_is_permanent(said: str) -> None:
    error = from_status(400, f"sinks.hook: http://x: answered 400: {said}", about_records=OF_RECORDS)
    assert isinstance(error, RejectedError)


def test_the_reason_label_is_a_closed_set() -> None:
    assert set(Reason) == {
        "timeout",
        "connection",
        "throttled",
        "server_error",
        "unauthorized",
        "missing",
        "misconfigured",
        "rejected",
    }
