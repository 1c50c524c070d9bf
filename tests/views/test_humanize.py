"""Times, durations, states and failures as text."""

import pytest

from collector.model import ClusterState, ClusterStatus, ReadFailure
from collector.views.humanize import ago, describe_failure, describe_status, duration, percent


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-14 * 86400, "in 14 days"),
        (-60, "in 60 seconds"),
        (-59, "just now"),
        (-5, "just now"),
        (0, "just now"),
        (1.4, "just now"),
        (2, "2 seconds ago"),
        (89, "89 seconds ago"),
        (90, "2 minutes ago"),
        (180, "3 minutes ago"),
        (5399, "90 minutes ago"),
        (5400, "2 hours ago"),
        (129599, "36 hours ago"),
        (129600, "2 days ago"),
        (400 * 86400, "400 days ago"),
    ],
)
def test_times_are_described_as_how_long_ago(seconds: float, words: str) -> None:
    assert ago(1764000000 - seconds, 1764000000) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 seconds"), (1, "1 second"), (60, "60 seconds"), (7200, "2 hours")]
)
def test_durations_are_described(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_every_state_has_a_description() -> None:
    for state in ClusterState:
        assert describe_status(ClusterStatus(cluster="a", state=state, since=0.0))
    assert describe_status(None) == "is starting (waiting for its first response)"


def test_every_failed_reading_has_a_description() -> None:
    assert all(describe_failure(reason) for reason in ReadFailure)


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(1.0, "100 %"), (0.0, "0 %"), (0.99999, "99.9 %"), (0.00001, "0.1 %"), (0.6563, "65.6 %")],
)
def test_a_share_below_all_is_never_shown_as_all(ratio: float, words: str) -> None:
    assert percent(ratio) == words
