import pytest

from collector.sinks.errors import Reason, RejectedError, UnavailableError, from_status, tidy


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (302, Reason.MISCONFIGURED),
        (401, Reason.UNAUTHORIZED),
        (403, Reason.UNAUTHORIZED),
        (404, Reason.MISSING),
        (408, Reason.TIMEOUT),
        (409, Reason.SERVER_ERROR),
        (415, Reason.MISCONFIGURED),
        (425, Reason.SERVER_ERROR),
        (429, Reason.THROTTLED),
        (500, Reason.SERVER_ERROR),
        (503, Reason.SERVER_ERROR),
    ],
)
def test_what_time_or_a_person_mends_is_tried_again(status: int, reason: Reason) -> None:
    error = from_status(status, "text", 7.0)
    assert isinstance(error, UnavailableError)
    assert (error.reason, error.retry_after) == (reason, 7.0)


@pytest.mark.parametrize("status", [400, 402, 413, 414, 422, 431])
def test_a_refusal_of_the_records_themselves_is_final(status: int) -> None:
    error = from_status(status, "text")
    assert isinstance(error, RejectedError)
    assert error.reason is Reason.REJECTED


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\x1b[31m\x00", "two lines[31m"),
        ("the key s3cr3t is wrong", "the key *** is wrong"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ('{"token": "abc", "x": 1}', '{"token": "***", "x": 1}'),
        ("password=abc&user=me", "password=***&user=me"),
        ("https://me:pw@host/path", "https://***@host/path"),
        ("é" * 300, "é" * 199 + "…"),
    ],
)
def test_foreign_text_becomes_one_short_line_without_secrets(text: str, shown: str) -> None:
    assert tidy(text, ["s3cr3t", ""]) == shown
