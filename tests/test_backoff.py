"""Delays between attempts."""

import random

from hypothesis import given
from hypothesis import strategies as st

from collector.backoff import Backoff


def test_delays_double_up_to_the_maximum():
    backoff = Backoff(initial=1, maximum=10, jitter=0)
    assert [backoff.delay(attempt) for attempt in range(6)] == [1, 2, 4, 8, 10, 10]


@given(attempt=st.integers(0, 10**9), seed=st.integers())
def test_a_delay_stays_within_the_jitter_however_many_attempts_there_were(attempt, seed):
    backoff = Backoff(initial=0.5, maximum=60, factor=3, jitter=0.25)
    steady = min(60, 0.5 * 3 ** min(attempt, 10))
    assert 0.75 * steady <= backoff.delay(attempt, random.Random(seed)) <= 1.25 * steady


def test_two_clients_that_failed_together_come_back_apart():
    backoff = Backoff(initial=1, maximum=60)
    assert backoff.delay(3, random.Random(1)) != backoff.delay(3, random.Random(2))
