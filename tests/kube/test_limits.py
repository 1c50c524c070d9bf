"""The pace of requests to one API server."""

import re

import anyio
import anyio.lowlevel
import pytest

from collector.kube.limits import LoopShare, RateLimiter, SharedLimiter, TokenBucket


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


def test_waiting_for_the_returned_time_is_enough():
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


def test_simultaneous_refusals_count_once():
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


class Work:
    """Work that takes a given time, which is not measured; waiting is real."""

    def __init__(self):
        self.now = 0.0

    def clock(self):
        return self.now

    def last(self, seconds):
        """Let some work take the given time; returns when it started."""
        self.now += seconds
        return self.now - seconds


async def steps(share: LoopShare, work: Work, count: int, seconds: float) -> str:
    """Work this often, as long as said each time, and return the order of that and what others did meanwhile."""
    done: list[str] = []

    async def others() -> None:
        while True:
            done.append("other")
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        for _ in range(count):
            done.append("work")
            await share.pause(work.last(seconds))
        tasks.cancel_scope.cancel()
    return " ".join(done)


class TestTheShareOfTheLoop:
    def test_allows_turns_of_a_few_milliseconds(self):
        work = Work()
        share = LoopShare(0.1, turn=0.005, clock=work.clock)
        assert not share.over(work.last(0.004))
        assert share.over(work.last(0.006))
        assert LoopShare(0.1, turn=0.25, clock=work.clock).over(work.now - 0.25)

    def test_is_not_enforced_within_the_burst(self):
        work = Work()
        share = LoopShare(0.1, burst=1.0, turn=0.005, clock=work.clock)
        assert [share.charge(work.last(0.004)) for _ in range(200)] == [0.0] * 200

    def test_asks_to_stop_until_the_debt_is_paid(self):
        work = Work()
        share = LoopShare(0.1, burst=0.01, turn=1.0, clock=work.clock)
        assert share.charge(work.last(0.1)) == pytest.approx(0.9)

    def test_gives_back_its_share_of_the_time_since_the_charge(self):
        times = iter((0.0, 0.1, 0.1, 0.2))  # of the start, the end of the turn, its charge, and the answer
        share = LoopShare(0.1, burst=0.0, turn=1.0, clock=lambda: next(times))
        assert share.charge(0.0) == pytest.approx(0.9)

    def test_is_kept_on_average(self):
        work = Work()
        share = LoopShare(0.1, burst=0.0, clock=work.clock)
        for _ in range(100):
            work.now += share.charge(work.last(0.004))
        assert work.now == pytest.approx(0.4 / 0.1, rel=0.02)

    def test_asks_to_stop_after_a_long_turn_even_within_the_burst(self):
        work = Work()
        share = LoopShare(0.25, burst=10.0, turn=0.005, clock=work.clock)
        assert share.charge(work.last(0.02)) == pytest.approx(0.06)

    def test_asks_to_stop_after_exactly_one_turn(self):
        work = Work()
        share = LoopShare(0.25, burst=10.0, turn=0.25, clock=work.clock)
        assert share.charge(work.last(0.25)) == pytest.approx(0.75)

    def test_asks_to_stop_after_a_turn_of_another_length(self):
        work = Work()
        share = LoopShare(0.25, burst=10.0, turn=0.005, clock=work.clock)
        assert share.charge(work.last(0.002)) == 0.0
        assert share.charge(work.last(0.002), turn=0.001) == pytest.approx(0.006)

    def test_does_not_charge_for_a_suspended_machine(self):
        work = Work()
        share = LoopShare(0.1, burst=1.0, clock=work.clock)
        share.charge(work.last(3600.0))
        assert share.charge(work.last(0.001)) == 0.0

    def test_charges_the_full_time_of_a_thread(self):
        """Threads take the interpreter from the event loop, for however long."""
        work = Work()
        share = LoopShare(0.25, burst=1.0, turn=1.0, clock=work.clock)
        share.spend(3.0)
        assert share.charge(work.last(0.0)) == pytest.approx(8.0)

    def test_saves_a_burst_of_its_share(self):
        work = Work()
        share = LoopShare(0.25, turn=1.0, clock=work.clock)
        share.spend(2.0)
        assert share.charge(work.last(0.0)) == 0.0
        share.spend(0.1)
        assert share.charge(work.last(0.0)) == pytest.approx(0.4)

    def test_saves_no_more_than_the_burst(self):
        work = Work()
        share = LoopShare(0.1, burst=0.5, turn=1.0, clock=work.clock)
        work.now += 3600
        assert share.charge(work.last(0.2)) == share.charge(work.last(0.2)) == 0.0
        assert share.charge(work.last(0.2)) > 0

    @pytest.mark.anyio
    async def test_yields_after_each_turn(self):
        work = Work()
        share = LoopShare(0.5, burst=100.0, turn=0.005, clock=work.clock)
        assert "work work" not in await steps(share, work, 10, 0.006)

    @pytest.mark.anyio
    async def test_does_not_yield_within_a_turn(self):
        work = Work()
        share = LoopShare(0.5, burst=100.0, turn=0.25, clock=work.clock)
        assert re.sub("( other)+", ";", await steps(share, work, 6, 0.125)) == "work work; work work; work work;"

    @pytest.mark.anyio
    async def test_does_not_yield_when_its_share_is_just_used_up(self):
        work = Work()
        share = LoopShare(0.5, burst=0.125, turn=1.0, clock=work.clock)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await share.pause(work.last(0.125))
        assert not scope.cancelled_caught

    @pytest.mark.anyio
    async def test_begins_the_next_turn_when_the_pause_ends(self):
        work = Work()
        share = LoopShare(0.5, burst=1.0, turn=0.25, clock=work.clock)
        assert await share.pause(work.last(0.125)) == 0.125
        assert await share.pause(work.last(0.125)) == 0.25

    @pytest.mark.anyio
    async def test_waits_until_the_debt_is_paid(self):
        work = Work()
        share = LoopShare(0.1, burst=0.25, turn=1.0, clock=work.clock)
        with anyio.fail_after(5):
            await share.pause(work.last(0.125))
        with anyio.move_on_after(0.05) as scope:
            await share.pause(work.last(0.25))
        assert scope.cancelled_caught

    @pytest.mark.anyio
    async def test_gives_one_task_a_turn_at_a_time(self):
        """However many tasks of a cluster have work: others wait for one turn of it, not for one of each task."""
        work = Work()
        share = LoopShare(0.5, burst=100.0, turn=0.005, clock=work.clock)
        longest = 0.0

        async def busy():
            for _ in range(20):
                await share.pause(work.last(0.006))

        async with anyio.create_task_group() as tasks:
            for _ in range(16):
                tasks.start_soon(busy)
            for _ in range(16):  # until they have come to the turnstile
                await anyio.lowlevel.checkpoint()
            for _ in range(100):
                before = work.now
                await anyio.lowlevel.checkpoint()
                longest = max(longest, work.now - before)
        assert longest <= 0.013


@pytest.mark.anyio
async def test_a_shared_limiter_is_one_for_an_event_loop():
    shared = SharedLimiter("test", 3)
    assert shared.limiter.total_tokens == 3
    assert shared.limiter is shared.limiter
    async with shared.limiter:
        assert shared.limiter.available_tokens == 2
