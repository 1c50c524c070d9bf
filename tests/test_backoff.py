"""Delays between attempts."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.backoff import Backoff, parse_retry_after


def test_delays_double_up_to_the_maximum():
    backoff = Backoff(initial=1, maximum=10, jitter=0)
    assert [backoff.delay(attempt) for attempt in range(6)] == [1, 2, 4, 8, 10, 10]


@given(attempt=st.integers(0, 10**9), seed=st.integers())
def test_a_delay_stays_within_the_jitter_after_any_attempts(attempt, seed):
    backoff = Backoff(initial=0.5, maximum=60, factor=3, jitter=0.25)
    steady = min(60, 0.5 * 3 ** min(attempt, 10))
    assert 0.75 * steady <= backoff.delay(attempt, random.Random(seed)) <= 1.25 * steady


def test_delays_vary_by_a_fifth_unless_said_otherwise():
    rng = random.Random(7)
    delays = [Backoff(initial=1, maximum=10).delay(0, rng) for _ in range(1000)]
    assert 0.8 <= min(delays) < 0.82
    assert 1.18 < max(delays) <= 1.2


def test_two_clients_that_failed_together_come_back_apart():
    backoff = Backoff(initial=1, maximum=60)
    assert backoff.delay(3, random.Random(1)) != backoff.delay(3, random.Random(2))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("120", 120.0),
        (" 1.5 ", 1.5),
        ("99999999", 3600.0),
        ("Sun, 07 Jun 2026 10:31:15 GMT", 30.0),
        ("Sun, 07 Jun 2026 10:31:15 -0000", 30.0),
        ("Sun, 07 Jun 2026 12:31:15 +0200", 30.0),
        ("Sun, 07 Jun 2020 10:30:45 GMT", 0.0),
        ("Sun, 99 Jun 2026 10:30:45 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_and_as_a_date(value, seconds):
    assert parse_retry_after(value, 1780828245.0) == seconds  # 2026-06-07T10:30:45Z


@pytest.mark.parametrize("date", ["Sun, 07 Jun 2026 10:31:15 -0000", "Sun, 07 Jun 2026 12:31:15 +0200"])
def test_a_date_does_not_depend_on_the_local_time_zone(date, local_time):
    assert parse_retry_after(date, 1780828245.0) == 30.0


@pytest.fixture
def local_time(monkeypatch):
    """Let this machine be five hours behind Greenwich."""
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("value", ["86400", "9" * 400, "Thu, 01 Jan 2099 00:00:00 GMT"])
def test_no_server_makes_us_wait_longer_than_an_hour(value):
    assert parse_retry_after(value, 1780828245.0) == 3600.0


@given(st.text())
def test_any_header_is_understood_or_ignored(value):
    assert 0 <= (parse_retry_after(value, 1780828245.0) or 0) <= 3600
