"""The pace of requests to one API server."""

import anyio
import pytest

from collector.kube.limits import RateLimiter, TokenBucket


def drain(bucket, now):
    """Take tokens until there are none; returns how many there were."""
    taken = 0
    while bucket.take(now) == 0:
        taken += 1
    return taken


def test_a_burst_goes_out_at_once_then_the_rate_holds():
    bucket = TokenBucket(rate=10, burst=5, now=0)
    assert drain(bucket, 0) == 5
    assert bucket.take(0) == pytest.approx(0.1)
    assert drain(bucket, 0.3) == 3


def test_waiting_as_long_as_told_is_enough():
    bucket = TokenBucket(rate=3, burst=1, now=0)
    now = 0.0
    for _ in range(1000):
        now += bucket.take(now)
        delay = bucket.take(now)
        assert delay == 0 or delay > 0.3


def test_a_pause_saves_up_no_more_than_the_burst():
    bucket = TokenBucket(rate=10, burst=5, now=0)
    assert drain(bucket, 1000) == 5


def test_a_refusal_halves_the_rate_and_pauses_as_asked():
    bucket = TokenBucket(rate=100, burst=200, now=0)
    bucket.throttled(5, now=0)
    assert bucket.rate == 50
    assert bucket.take(1) == 4
    assert drain(bucket, 5) <= 200


def test_refusals_that_come_together_count_once():
    bucket = TokenBucket(rate=100, burst=200, now=0)
    for _ in range(16):
        bucket.throttled(None, now=0.1)
    assert bucket.rate == 50
    bucket.throttled(None, now=1.2)
    assert bucket.rate == 25


def test_refusals_within_a_second_of_the_first_count_once():
    bucket = TokenBucket(rate=100, burst=200, now=0)
    for now in (10.0, 10.3, 10.6):
        bucket.throttled(None, now)
    assert bucket.rate == 50


def test_after_a_refusal_one_request_goes_out_and_no_burst():
    bucket = TokenBucket(rate=100, burst=5, now=0)
    assert drain(bucket, 0) == 5
    bucket.throttled(None, now=10)
    assert drain(bucket, 10) == 1


def test_a_request_waits_for_the_rest_of_a_token():
    bucket = TokenBucket(rate=10, burst=1, now=0)
    assert drain(bucket, 0) == 1
    assert bucket.take(0.05) == pytest.approx(0.05)
    assert bucket.take(0.1) == 0


def test_the_rate_never_falls_below_one_a_second():
    bucket = TokenBucket(rate=100, burst=10, now=0)
    for second in range(0, 200, 2):
        bucket.throttled(None, now=second)
    assert bucket.rate == 1


def test_a_rate_configured_below_the_floor_is_kept():
    bucket = TokenBucket(rate=0.5, burst=1, now=0)
    bucket.throttled(None, now=0)
    assert bucket.rate == 0.5


def test_successes_restore_the_rate_in_equal_steps():
    bucket = TokenBucket(rate=100, burst=10, now=0)
    bucket.throttled(None, now=0)
    bucket.succeeded()
    assert bucket.rate == 52
    for _ in range(100):
        bucket.succeeded()
    assert bucket.rate == 100


@pytest.mark.anyio
async def test_waiters_go_out_in_the_order_in_which_they_came():
    limiter = RateLimiter(rate=200, burst=1)
    order = []

    async def ask(number):
        await limiter.acquire()
        order.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(ask, number)
    assert order == [0, 1, 2, 3, 4]


@pytest.mark.anyio
async def test_a_refusal_holds_back_waiting_requests():
    now = 0.0
    limiter = RateLimiter(rate=1000, burst=1, clock=lambda: now)
    await limiter.acquire()
    limiter.throttled(1000)
    with anyio.move_on_after(0.05) as scope:
        await limiter.acquire()
    assert scope.cancelled_caught
    assert limiter.rate == 500


def test_a_limiter_s_rate_recovers_with_successes():
    limiter = RateLimiter(rate=100, burst=1, clock=lambda: 0.0)
    limiter.throttled(None)
    assert limiter.rate == 50
    limiter.succeeded()
    assert limiter.rate == 52
