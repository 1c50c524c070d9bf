import pytest

from collector.sinks.errors import Reason, RejectedError, UnavailableError, from_status, redact


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (302, Reason.MISCONFIGURED),
        (401, Reason.UNAUTHORIZED),
        (403, Reason.UNAUTHORIZED),
        (404, Reason.MISSING),
        (405, Reason.MISSING),
        (407, Reason.UNAUTHORIZED),
        (408, Reason.TIMEOUT),
        (409, Reason.SERVER_ERROR),
        (410, Reason.MISSING),
        (415, Reason.MISCONFIGURED),
        (421, Reason.MISCONFIGURED),
        (423, Reason.SERVER_ERROR),
        (425, Reason.SERVER_ERROR),
        (429, Reason.THROTTLED),
        (500, Reason.SERVER_ERROR),
        (503, Reason.SERVER_ERROR),
    ],
)
def test_a_status_that_may_change_is_retried(status: int, reason: Reason) -> None:
    error = from_status(status, "text", 7.0)
    assert isinstance(error, UnavailableError)
    assert (error.reason, error.retry_after) == (reason, 7.0)


@pytest.mark.parametrize("status", [400, 402, 413, 414, 422, 431])
def test_a_status_that_rejects_the_records_is_final(status: int) -> None:
    error = from_status(status, "text")
    assert isinstance(error, RejectedError)
    assert error.reason is Reason.REJECTED


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\x1b[31m\x00", "two lines[31m"),
        ("the key s3cr3t is wrong", "the key *** is wrong"),
        ("https://me:pw@host/path", "https://***@host/path"),
        ("é" * 300, "é" * 199 + "…"),
    ],
)
def test_foreign_text_becomes_one_short_line_without_secrets(text: str, shown: str) -> None:
    assert redact(text, ["s3cr3t", ""]) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sent Bearer abc.def", "sent Bearer ***"),
        ("sent basic dXNlcjpwYXNz", "sent basic ***"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic ***"),
        ("authorization=abc", "authorization=***"),
        ('{"token": "abc", "x": 1}', '{"token": "***", "x": 1}'),
        ("access_token=abc; next", "access_token=***; next"),
        ("password=abc&user=me", "password=***&user=me"),
        ("passwd: 'abc'", "passwd: '***'"),
        ("client_secret = abc, more", "client_secret = ***, more"),
        ("Signature=abc", "Signature=***"),
        ("X-Amz-Credential=abc/region", "X-Amz-Credential=***"),
        ("api-key: abc", "api-key: ***"),
        ("api_key=abc", "api_key=***"),
        ("apikey=abc", "apikey=***"),
        ("the token was wrong", "the token was wrong"),
    ],
)
def test_what_looks_like_a_credential_is_redacted(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_a_secret_that_begins_with_another_one_is_redacted_whole() -> None:
    assert redact("sent abc and abcdef", ["abc", "abcdef"]) == "sent *** and ***"


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
