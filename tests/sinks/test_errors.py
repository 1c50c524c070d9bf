import pytest

from collector.sinks.errors import Reason, RejectedError, UnavailableError, from_status


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
