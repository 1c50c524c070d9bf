"""A worker without a store: when a batch is due, and what ends it."""

import random
from collections.abc import Callable
from typing import Any, cast

import anyio
import pytest

from collector.config import Duration
from collector.config.sinks import StdoutSettings
from collector.delivery.worker import POLL_SECONDS, SinkWorker, closes_in, wait_for_any
from collector.end_deadline import EndDeadline
from collector.model import SinkRecord
from collector.sinks import KnownKeyError, Reason, RejectedError, TooLargeError, UnavailableError
from collector.store import Batch, BatchState, Outbox, StoreError
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

NOW = 1_780_000_000.0


def batch(number: int, *, records: int = 1, letter: int | None = None) -> Batch:
    names = ("node", "machine", "source", "chassis", "gpu", "time", "uuid", "model", "event")
    fields: dict[str, Any] = dict.fromkeys(names, "")
    one = SinkRecord(cluster="prod", **fields)
    return Batch(
        sink="lake", key=f"key-{number}", records=[one] * records, dead_letter=letter, rejected=letter is not None
    )


class World:
    """Everything a worker uses: outbox, store, sink, observer and a clock that only its waits advance."""

    def __init__(self, *batches: Batch, age: float = 0.0) -> None:
        self.batches = list(batches)
        self.recorded = NOW - age
        self.confirmed: list[str] = []
        self.dead: list[tuple[str, str]] = []
        self.sent: list[str] = []
        self.sent_at: list[float] = []
        self.closed = False
        self.exported = 0
        self.failures: list[str] = []
        self.answer: Callable[[int], Exception | None] = lambda _number: None
        self.outbox_error: StoreError | None = None
        self.limits: list[int] = []
        self.closed_batch = False
        self.full = False  # the batches after the first
        self.ahead = 1  # how many are read at once
        self.reading = anyio.Event()  # what is read ahead arrives once this is set
        self.reading.set()
        self.sending = anyio.Event()  # an attempt ends once this is set
        self.sending.set()
        self.looked_ahead: list[str] = []  # keys of batches during which the next one was read
        self.in_flight = True  # as far as the outbox knows
        self.begin_error: StoreError | None = None
        self.begun_together: list[str] = []  # keys of batches begun as the one before them was confirmed
        # The store.
        self.leads = True
        self.commit = anyio.Event()
        # Time.
        self.now = NOW
        self.waits: list[float] = []
        self.ending = anyio.Event()
        self.during_wait: Callable[[], None] = lambda: None
        self.worker = SinkWorker(
            "lake",
            StdoutSettings(batch_records=100, batch_age=Duration(3600)),
            self,
            outbox=cast("Outbox", self),
            store=self,
            observer=self,
            ending=self.ending,
            deadline=EndDeadline(),
            clock=lambda: self.now,
            wait=self.wait,
            rng=random.Random(1),
        )

    async def run(self, until: Callable[[], bool]) -> None:
        """Run the worker until its waits, or what it did between them, make this true."""
        before = self.during_wait

        def end_when_done() -> None:
            before()
            if until():
                self.ending.set()

        self.during_wait = end_when_done
        with anyio.fail_after(60):
            await self.worker.run()

    async def wait(self, seconds: float, *events: anyio.Event) -> None:
        await anyio.lowlevel.checkpoint()
        assert len(self.waits) < 10_000
        self.waits.append(seconds)
        if not any(event.is_set() for event in events):
            self.now += seconds
        self.during_wait()

    # The outbox

    async def next_batch_state(self, sink: str, limit: int) -> BatchState:
        if self.outbox_error is not None:
            raise self.outbox_error
        return BatchState(
            len(self.batches), self.recorded if self.batches else None, closed=self.closed_batch and bool(self.batches)
        )

    async def next_batch(self, sink: str, limit: int) -> Batch | None:
        self.limits.append(limit)
        return self.batches[0] if self.batches else None

    async def following(self, one: Batch, limit: int) -> list[Batch]:
        self.looked_ahead.append(one.key)
        if self.outbox_error is not None:
            raise self.outbox_error
        await self.reading.wait()
        keys = [each.key for each in self.batches]
        if not self.full or one.key not in keys:
            return []
        first = keys.index(one.key) + 1
        return self.batches[first : first + self.ahead]

    async def confirm_and_begin(self, one: Batch, following: Batch) -> bool:
        if self.begin_error is not None:
            raise self.begin_error
        if not self.in_flight:
            return False
        await self.confirm(one)
        self.begun_together.append(following.key)
        return True

    async def confirm(self, one: Batch) -> None:
        if self.outbox_error is not None:
            raise self.outbox_error
        self.batches.remove(one)
        self.confirmed.append(one.key)

    async def dead_letter(self, one: Batch, reason: str) -> None:
        self.batches.remove(one)
        self.dead.append((one.key, reason))

    async def halve(self, one: Batch, reason: str) -> Batch | None:
        middle = len(one.records) // 2
        self.batches[:1] = [
            Batch(sink="lake", key=f"{one.key}a", records=one.records[:middle]),
            Batch(sink="lake", key=f"{one.key}b", records=one.records[middle:]),
        ]
        return self.batches[0]

    # The store

    def next_commit(self) -> anyio.Event:
        return self.commit

    async def flushed(self, timeout: float) -> bool:
        return True

    # The sink

    async def send(self, records: Any, *, key: str) -> None:
        self.sent.append(key)
        self.sent_at.append(self.now)
        if not self.sending.is_set():
            await self.sending.wait()
        if (error := self.answer(len(self.sent))) is not None:
            raise error

    async def check(self) -> str:
        return ""

    async def aclose(self) -> None:
        self.closed = True

    # The observer

    def on_exported(self, sink: str, records: Any) -> None:
        assert sink == "lake"
        self.exported += sum(records.values())

    def on_export_failure(self, sink: str, records: Any, reason: str, message: str = "") -> None:
        self.failures.append(reason)

    def on_backlog(self, sink: str, backlog: Any) -> None:
        raise AssertionError("a worker reports no backlog")


class TestWhenABatchCloses:
    settings = StdoutSettings(batch_records=100, batch_age=Duration(5))

    @pytest.mark.parametrize(
        ("waiting", "seconds"),
        [
            (BatchState(0, None, closed=False), None),
            (BatchState(1, 100.0, closed=False), 5.0),
            (BatchState(99, 97.0, closed=False), 2.0),
            (BatchState(99, 95.0, closed=False), 0.0),
            (BatchState(99, 10.0, closed=False), 0.0),
            (BatchState(100, 100.0, closed=False), 0.0),
            (BatchState(1, 100.0, closed=True), 0.0),
            (BatchState(0, None, closed=True), 0.0),
            (BatchState(1, 9999.0, closed=False), 5.0),  # the clock was set back
        ],
    )
    def test_a_batch_closes_when_full_old_or_resumed(self, waiting, seconds):
        assert closes_in(waiting, self.settings, now=100.0) == seconds


async def test_a_young_batch_waits_for_its_age() -> None:
    world = World(batch(1), age=10)
    await world.run(until=lambda: bool(world.sent))
    assert world.sent_at == [NOW + 3590]
    assert world.confirmed == ["key-1"]


async def test_a_batch_from_the_future_waits_for_its_age() -> None:
    world = World(batch(1), age=-86_400)  # another collector's clock was a day ahead
    await world.run(until=lambda: bool(world.sent))
    assert world.sent_at == [NOW + 3600]
    assert world.confirmed == ["key-1"]


async def test_a_clock_that_is_set_back_delays_a_batch_by_its_age() -> None:
    world = World(batch(1))

    def set_back() -> None:
        if len(world.waits) == 3:
            world.now = NOW - 86_400

    world.during_wait = set_back
    await world.run(until=lambda: bool(world.sent))
    assert world.sent_at == [NOW - 86_400 + 3600]


async def test_a_standby_sends_nothing() -> None:
    world = World(batch(1), age=3600)
    world.leads = False
    await world.run(until=lambda: len(world.waits) == 5)
    assert world.sent == []
    assert world.waits == [POLL_SECONDS] * 5
    assert world.closed


async def test_a_batch_is_left_for_the_next_leader() -> None:
    world = World(batch(1), age=3600)
    world.answer = lambda _number: UnavailableError("gone", Reason.CONNECTION)

    def lose() -> None:
        world.leads = False

    world.during_wait = lose
    await world.run(until=lambda: len(world.waits) == 5)
    assert world.sent == ["key-1"]
    assert world.batches == [batch(1)]


async def test_a_lease_that_expires_before_the_first_attempt_sends_nothing() -> None:
    world = World(batch(1), age=3600)
    next_batch = world.next_batch

    async def lose(sink: str, limit: int) -> Batch | None:
        world.leads = False  # as when the process was stopped here for a while
        return await next_batch(sink, limit)

    world.next_batch = lose  # type: ignore[method-assign]
    await world.run(until=lambda: len(world.waits) == 5)
    assert world.sent == []
    assert world.batches == [batch(1)]


async def test_stopping_delivers_batches_that_are_not_due() -> None:
    world = World(batch(1), batch(2))
    world.ending.set()
    await world.run(until=lambda: True)
    assert world.confirmed == ["key-1", "key-2"]
    assert world.looked_ahead == []
    assert world.closed


async def test_stopping_does_not_wait_for_a_failing_sink() -> None:
    world = World(batch(1), batch(2), age=3600)
    world.answer = lambda _number: UnavailableError("gone", Reason.CONNECTION)
    await world.run(until=lambda: True)
    assert world.sent == ["key-1"]
    assert world.closed


async def test_full_batches_begin_as_the_one_before_is_confirmed() -> None:
    world = World(batch(1), batch(2), batch(3), age=3600)
    world.full = True
    await world.run(until=lambda: not world.batches)
    assert world.sent == world.confirmed == ["key-1", "key-2", "key-3"]
    assert world.begun_together == ["key-2", "key-3"]
    assert len(world.limits) == 2  # asked for the first, and when the worker ended
    assert world.exported == 3


async def test_several_batches_are_read_at_once() -> None:
    world = World(*(batch(number) for number in range(1, 40)), age=3600)
    world.full, world.ahead = True, 20
    await world.run(until=lambda: not world.batches)
    assert world.sent == world.confirmed == [f"key-{number}" for number in range(1, 40)]
    assert world.begun_together == world.sent[1:]
    assert len(world.looked_ahead) < 20


async def test_reading_goes_on_while_a_batch_is_sent() -> None:
    world = World(*(batch(number) for number in range(1, 5)), age=3600)
    world.full, world.ahead, world.sending = True, 2, anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.run, lambda: not world.batches)
        await anyio.wait_all_tasks_blocked()
        assert world.sent == ["key-1"]
        assert world.looked_ahead == ["key-1", "key-3", "key-4"]
        world.sending.set()
    assert world.begun_together == ["key-2", "key-3", "key-4"]


async def test_reading_stops_when_enough_records_are_known() -> None:
    world = World(*(batch(number, records=100) for number in range(1, 100)), age=3600)
    world.full, world.ahead, world.sending = True, 3, anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.run, lambda: not world.batches)
        await anyio.wait_all_tasks_blocked()
        assert world.sent == ["key-1"]
        assert len(world.looked_ahead) == 14, "4,200 records: 4,000 are enough, and one read brings 300"
        world.sending.set()
    assert world.sent == world.confirmed == [f"key-{number}" for number in range(1, 100)]


async def test_what_was_read_after_a_rejected_batch_is_not_sent_twice() -> None:
    world = World(batch(1), batch(2), batch(3), age=3600)
    world.full, world.reading = True, anyio.Event()

    def answer(number: int) -> Exception | None:
        if number == 2:
            world.reading.set()  # only now arrives what comes after the first
        return RejectedError("answered 400") if number == 1 else None

    world.answer = answer
    await world.run(until=lambda: not world.batches)
    assert world.sent == ["key-1", "key-2", "key-3"]
    assert world.confirmed == ["key-2", "key-3"]


async def test_a_batch_does_not_wait_for_what_is_read_after_a_rejected_one() -> None:
    world = World(batch(1), batch(2), age=3600)
    world.full, world.reading = True, anyio.Event()
    world.answer = lambda number: RejectedError("answered 400") if number == 1 else None
    waited = []

    async def read_later() -> None:
        with anyio.move_on_after(10):
            await eventually(lambda: bool(world.confirmed))
        waited.append(not world.confirmed)
        world.reading.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read_later)
        await world.run(until=lambda: not world.batches)
    assert world.confirmed == ["key-2"]
    assert waited == [False]


async def test_a_batch_waits_for_what_is_read_while_it_is_sent() -> None:
    world = World(batch(1), batch(2), age=3600)
    world.full, world.reading = True, anyio.Event()

    async def read_later() -> None:
        await eventually(lambda: bool(world.sent))
        world.reading.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read_later)
        await world.run(until=lambda: not world.batches)
    assert world.begun_together == ["key-2"]


@pytest.mark.parametrize("error", [None, StoreError("locked")])
async def test_a_batch_is_confirmed_if_the_next_cannot_begin(error: StoreError | None) -> None:
    world = World(batch(1), batch(2), age=3600)
    world.full, world.in_flight, world.begin_error = True, False, error
    await world.run(until=lambda: not world.batches)
    assert world.sent == world.confirmed == ["key-1", "key-2"]
    assert world.begun_together == []


async def test_no_batch_begins_after_the_lead_is_lost() -> None:
    world = World(batch(1), batch(2), age=3600)
    world.full = True

    def lose(_number: int) -> None:
        world.leads = False

    world.answer = lose
    await world.run(until=lambda: len(world.waits) == 2)
    assert world.confirmed == ["key-1"]
    assert world.begun_together == []


async def test_a_failing_batch_keeps_the_ones_after_it_waiting() -> None:
    world = World(batch(1), batch(2), age=3600)
    world.full = True
    world.answer = lambda number: UnavailableError("gone", Reason.CONNECTION) if number < 3 else None
    await world.run(until=lambda: not world.batches)
    assert world.sent == ["key-1", "key-1", "key-1", "key-2"]


async def test_a_rejected_batch_is_a_dead_letter_with_its_reason() -> None:
    world = World(batch(1), batch(2), age=3600)
    world.answer = lambda number: RejectedError("answered 400") if number == 1 else None
    await world.run(until=lambda: not world.batches)
    assert world.dead == [("key-1", "answered 400")]
    assert world.confirmed == ["key-2"]
    assert world.failures == ["rejected"]


def too_large_above(records: int, world: World) -> Callable[[int], Exception | None]:
    return lambda _number: TooLargeError("answered 413") if len(world.batches[0].records) > records else None


async def test_a_batch_that_is_too_large_is_sent_in_halves() -> None:
    world = World(batch(1, records=8), batch(2), age=3600)
    world.answer = too_large_above(2, world)
    await world.run(until=lambda: not world.batches)
    assert world.sent == [f"key-{key}" for key in ("1", "1a", "1aa", "1ab", "1b", "1ba", "1bb", "2")]
    assert world.confirmed == ["key-1aa", "key-1ab", "key-1ba", "key-1bb", "key-2"]
    assert (world.exported, world.dead) == (9, [])
    assert world.limits == [100, 2, 2, 2, 2, 2]  # no batch is read that is known to be too large


async def test_nothing_more_is_read_after_a_batch_that_is_halved() -> None:
    world = World(batch(1, records=4), *(batch(number) for number in range(2, 6)), age=3600)
    world.full, world.answer = True, too_large_above(2, world)
    await world.run(until=lambda: not world.batches)
    assert world.looked_ahead[:2] == ["key-1", "key-1a"]
    assert world.confirmed == [f"key-{key}" for key in ("1a", "1b", 2, 3, 4, 5)]


async def test_a_second_half_begins_as_the_first_is_confirmed() -> None:
    world = World(batch(1, records=4), age=3600)
    world.full, world.answer = True, too_large_above(2, world)
    await world.run(until=lambda: not world.batches)
    assert world.begun_together == ["key-1b"]
    assert world.confirmed == ["key-1a", "key-1b"]
    assert world.limits == [100, 2]  # asked for the whole one, and when the worker ended


async def test_a_record_that_is_too_large_by_itself_is_a_dead_letter() -> None:
    world = World(batch(1, records=2), batch(2), age=3600)
    world.answer = lambda number: TooLargeError("answered 413") if number < 3 else None
    await world.run(until=lambda: not world.batches)
    assert world.dead == [("key-1a", "answered 413")]
    assert world.confirmed == ["key-1b", "key-2"]


async def test_batches_grow_again_when_the_sink_accepts_them() -> None:
    world = World(batch(1, records=8), *(batch(number) for number in range(2, 350)), age=3600)
    world.answer = too_large_above(4, world)
    await world.run(until=lambda: not world.batches)
    assert (world.limits[1], world.limits[-1]) == (4, 32)


def lost() -> UnavailableError:
    return UnavailableError("no answer", Reason.TIMEOUT, outcome_unknown=True)


def known_key() -> KnownKeyError:
    return KnownKeyError("answered 409", Reason.SERVER_ERROR)


async def test_a_repeated_key_that_the_receiver_knows_is_delivered(caplog: pytest.LogCaptureFixture) -> None:
    world = World(batch(1), age=3600)
    world.answer = lambda number: lost() if number == 1 else known_key()
    await world.run(until=lambda: not world.batches)
    assert (world.sent, world.confirmed, world.failures) == (["key-1"] * 2, ["key-1"], ["timeout"])
    assert "receiver already has batch: answered 409" in caplog.text


async def test_a_new_key_that_the_receiver_knows_is_being_processed() -> None:
    world = World(batch(1), age=3600)
    world.answer = lambda _number: known_key()
    world.during_wait = lambda: world.ending.set() if world.sent else None
    await world.run(until=lambda: False)
    assert (world.sent, world.confirmed, world.failures) == (["key-1"], [], ["server_error"])


@pytest.mark.parametrize(
    "before",
    [
        known_key(),
        UnavailableError("connection refused", Reason.CONNECTION),
        UnavailableError("no connection", Reason.TIMEOUT),
        UnavailableError("answered 401", Reason.UNAUTHORIZED),
        UnavailableError("answered 429", Reason.THROTTLED),
        RuntimeError("bug"),
    ],
)
async def test_a_known_key_that_was_not_delivered_blocks_the_sink(before: Exception) -> None:
    world = World(batch(1), age=3600)
    world.answer = lambda number: before if number < 3 else known_key()
    world.during_wait = lambda: world.ending.set() if len(world.sent) == 6 else None
    await world.run(until=lambda: False)
    assert (world.sent, world.confirmed, world.dead) == (["key-1"] * 6, [], [])


async def test_a_known_key_with_an_uncertain_attempt_is_delivered() -> None:
    world = World(batch(1), age=3600)
    refused = UnavailableError("connection refused", Reason.CONNECTION)
    world.answer = lambda number: {1: lost(), 2: refused}.get(number, known_key())
    await world.run(until=lambda: not world.batches)
    assert (world.sent, world.confirmed) == (["key-1"] * 3, ["key-1"])


async def test_a_batch_begun_by_this_process_is_not_a_repetition() -> None:
    world = World(batch(1), batch(2), age=3600)
    world.closed_batch = True  # as a second half is
    world.answer = lambda number: known_key() if number > 1 else None
    world.during_wait = lambda: world.ending.set() if len(world.sent) == 4 else None
    await world.run(until=lambda: False)
    assert (world.sent, world.confirmed) == (["key-1", "key-2", "key-2", "key-2"], ["key-1"])


async def test_a_batch_another_process_may_have_sent_is_a_repetition() -> None:
    world = World(batch(1), batch(2), age=3600)
    world.answer = lambda number: known_key() if number > 1 else None

    def stand_by() -> None:
        world.leads = not world.waits or len(world.waits) > 3
        world.closed_batch = True

    confirm = world.confirm

    async def confirm_and_lose(one: Batch) -> None:
        await confirm(one)
        world.leads = not world.batches

    world.confirm = confirm_and_lose  # type: ignore[method-assign]
    world.during_wait = stand_by
    await world.run(until=lambda: not world.batches)
    assert (world.sent, world.confirmed) == (["key-1", "key-2"], ["key-1", "key-2"])


async def test_a_key_an_earlier_process_may_have_sent_is_repeated() -> None:
    world = World(batch(1), age=3600)
    world.closed_batch = True
    world.answer = lambda _number: known_key()
    await world.run(until=lambda: not world.batches)
    assert (world.sent, world.confirmed) == (["key-1"], ["key-1"])


async def test_a_half_is_not_a_repetition() -> None:
    world = World(batch(1, records=2), age=3600)
    world.closed_batch = True
    world.answer = lambda number: TooLargeError("answered 413") if number == 1 else known_key()
    world.during_wait = lambda: world.ending.set() if world.sent else None
    await world.run(until=lambda: False)
    assert (world.sent, world.confirmed) == (["key-1", "key-1a"], [])


@pytest.mark.parametrize(("answered", "delivered"), [(True, False), (False, True)])
async def test_the_key_of_a_dead_letter_may_be_known_as_rejected(answered: bool, delivered: bool) -> None:
    world = World(batch(1, letter=7), age=3600)
    world.closed_batch = True
    world.answer = lambda number: lost() if number == 1 and not answered else known_key()
    await world.run(until=lambda: not world.batches)
    assert bool(world.confirmed) is delivered
    assert [reason for _, reason in world.dead] == (
        [] if delivered else ["answered 409; it rejected a batch with this key before"]
    )


async def test_an_unexpected_error_is_retried_and_counted_as_internal() -> None:
    world = World(batch(1), age=3600)
    world.answer = lambda number: RuntimeError("bug") if number == 1 else None
    await world.run(until=lambda: not world.batches)
    assert world.sent == ["key-1", "key-1"]
    assert world.failures == ["internal"]


async def test_an_outbox_that_cannot_be_read_is_logged_and_retried(caplog: pytest.LogCaptureFixture) -> None:
    world = World(batch(1), age=3600)
    world.outbox_error = StoreError("disk full")

    def recover() -> None:
        world.outbox_error = None

    world.during_wait = recover
    await world.run(until=lambda: not world.batches)
    assert "cannot read the outbox: disk full" in caplog.text
    assert 3.2 <= world.waits[0] <= 4.8
    assert world.confirmed == ["key-1"]


async def test_a_lasting_error_is_logged_at_its_start_and_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    world = World(batch(1), age=3600)
    world.answer = lambda number: UnavailableError("gone", Reason.CONNECTION) if number < 4 else None
    await world.run(until=lambda: not world.batches)
    assert [record.getMessage() for record in caplog.records] == ["delivery failed: gone", "sink recovered"]


async def test_a_worker_stopped_before_running_closes_its_sink() -> None:
    world = World()
    await world.worker.stop()
    assert world.closed


async def test_waiting_ends_with_the_first_event_or_the_time() -> None:
    first, second = anyio.Event(), anyio.Event()
    second.set()
    with anyio.fail_after(60):
        await wait_for_any(3600, first, second)
        await wait_for_any(0.001, first)
        await wait_for_any(0.001)
