"""Backlogs of sinks: cursors, batches that stay the same, dead letters; on both engines."""

import time

import anyio
import pytest
from sqlalchemy import text

from collector.marks import Mark, MarkKind, Marks
from collector.model import Gpu, UnidentifiedGpu
from collector.store import Batch, OpenMode, SinkBacklog, SinkState, Store, Subscription
from collector.store.retention import prune
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

CHANGES, READINGS = Subscription("changes", False), Subscription("readings", False)


@pytest.fixture
async def collector(settings, collecting):
    async with collecting(settings) as one:
        yield one


async def backlog_of(collector, sink="lake", limit=100):
    """Take and confirm every batch."""
    found = []
    while (batch := await collector.store.outbox.next_batch(sink, limit)) is not None:
        found.append([(record.event, record.uuid) for record in batch.records])
        await collector.store.outbox.confirm(batch)
    return found


async def read(collector, node, time, *gpus):
    collector.read(node, time, *gpus)
    assert await collector.store.history_writer.flushed(10)


class TestWhereASinkBegins:
    async def test_a_new_sink_gets_changes_from_now_on(self, collector):
        await read(collector, "a", 10.0, "1")
        await collector.store.reconcile({"lake": CHANGES})
        await read(collector, "b", 20.0, "2")
        assert await backlog_of(collector) == [[("appeared", "GPU-2")]]

    async def test_with_backfill_it_gets_everything(self, collector):
        await read(collector, "a", 10.0, "1")
        await collector.store.reconcile({"lake": Subscription("changes", True)})
        await read(collector, "b", 20.0, "2")
        assert await backlog_of(collector) == [[("appeared", "GPU-1"), ("appeared", "GPU-2")]]

    async def test_a_known_sink_continues_where_it_was(self, settings, collecting):
        async with collecting(settings) as one:
            await one.store.reconcile({"lake": CHANGES})
            await read(one, "a", 10.0, "1", "2")
            await one.store.outbox.confirm(await one.store.outbox.next_batch("lake", 1))
        async with collecting(settings) as two:
            await two.store.reconcile({"lake": CHANGES})
            assert await backlog_of(two) == [[("appeared", "GPU-2")]]

    async def test_a_removed_sink_that_returns_continues_where_it_was(self, collector, caplog):
        await collector.store.reconcile({"lake": CHANGES, "idle": READINGS})
        await read(collector, "a", 10.0, "1", "2")
        await backlog_of(collector, "idle")
        await collector.store.reconcile({})
        await collector.store.reconcile({})
        assert [(r.message, r.sink, r.records) for r in caplog.records if r.levelname == "WARNING"] == [
            ("sink removed from the configuration; keeping its backlog", "lake", 2)
        ]
        assert [(one.sink, one.records, one.configured) for one in await collector.store.outbox.sinks()] == [
            ("idle", 0, False),
            ("lake", 2, False),
        ]
        await collector.store.prune()
        await collector.store.reconcile({"lake": CHANGES})
        await read(collector, "b", 20.0, "3")
        assert await backlog_of(collector) == [[("appeared", f"GPU-{number}") for number in "123"]]
        assert [one.configured for one in await collector.store.outbox.sinks()] == [False, True]

    async def test_a_sink_removed_for_a_week_is_forgotten(self, collector, caplog):
        await collector.store.reconcile({"lake": CHANGES})
        await read(collector, "a", 10.0, "1", "2")
        await collector.store.reconcile({})
        gone = time.time()
        await collector.store.outbox.give_up(before=gone - 60)
        assert [one.records for one in await collector.store.outbox.sinks()] == [2]
        caplog.clear()
        await collector.store.outbox.give_up(before=gone + 60)
        assert await collector.store.outbox.sinks() == []
        assert [(r.message, r.sink, r.records) for r in caplog.records if r.levelname == "WARNING"] == [
            ("sink missing from the configuration for days; dropping its backlog", "lake", 2)
        ]

    async def test_changing_the_kind_of_records_drops_the_backlog(self, collector, caplog):
        await collector.store.reconcile({"lake": CHANGES})
        await read(collector, "a", 10.0, "1")
        await collector.store.reconcile({"lake": READINGS})
        assert [(r.message, r.sink, r.records) for r in caplog.records if r.levelname == "WARNING"] == [
            ("sink's `emit` changed; dropping its backlog", "lake", 1)
        ]
        await read(collector, "a", 20.0, "1")
        assert await backlog_of(collector) == [[("confirmed", "GPU-1")]]


class TestRecords:
    async def test_a_change_becomes_a_record_like_the_go_program_s(self, collector):
        await collector.store.reconcile({"lake": CHANGES})
        await read(collector, "a", 1780828245.9, "1")
        batch = await collector.store.outbox.next_batch("lake", 10)
        (record,) = batch.records
        assert {field: getattr(record, field) for field in record.__struct_fields__} == {
            "cluster": "prod",
            "node": "a",
            "machine": "i-a",
            "source": "gpu-operator/plugin-a",
            "chassis": "chassis-1",
            "gpu": "serial-1",
            "time": "2026-06-07T10:30:45Z",
            "uuid": "GPU-1",
            "model": "NVIDIA H100",
            "event": "appeared",
            "changes": None,
            "last_known": None,
            "mark": None,
        }

    @pytest.mark.parametrize("subscription", [CHANGES, READINGS])
    async def test_a_record_keeps_the_mark_of_its_gpu(self, collector, subscription):
        await collector.store.reconcile({"lake": subscription})
        collector.store.history_writer.marks = Marks(
            [Mark(uuid="GPU-1", kind=MarkKind.RMA, set_at=1.0, set_by="ops", until=15.0)]
        )
        await read(collector, "a", 10.0, "1", "2")
        collector.store.history_writer.marks = Marks()
        batch = await collector.store.outbox.next_batch("lake", 10)
        assert [(record.uuid, record.mark) for record in batch.records] == [("GPU-1", "rma"), ("GPU-2", None)]
        assert [change.mark for change in await collector.store.history.changes()] == ["rma", None]

    @pytest.mark.parametrize("subscription", [CHANGES, READINGS])
    async def test_an_alteration_has_the_old_value(self, collector, subscription):
        await collector.store.reconcile({"lake": subscription})
        await read(collector, "a", 10.0, Gpu(uuid="GPU-1", serial="S-1", mig=False))
        await read(collector, "a", 20.0, Gpu(uuid="GPU-1", mig=True))
        batch = await collector.store.outbox.next_batch("lake", 10)
        appeared, altered = batch.records
        assert (appeared.changes, appeared.last_known) == (None, None)
        assert (altered.event, altered.gpu) == ("altered", "S-1")
        assert altered.changes == {
            "serial": {"before": "S-1", "after": None},
            "mig": {"before": False, "after": True},
        }
        assert altered.last_known == {"serial": "1970-01-01T00:00:10.000Z"}
        await collector.store.outbox.dead_letter(batch, "no")
        (letter,) = await collector.store.outbox.dead_letters()
        assert (await collector.store.outbox.show(letter.id)).records == batch.records

    async def test_a_confirmation_has_last_known_values(self, collector):
        await collector.store.reconcile({"lake": READINGS})
        for at, serial in ((10.0, "S-1"), (20.0, None), (30.0, None)):
            await read(collector, "a", at, Gpu(uuid="GPU-1", serial=serial))
        batch = await collector.store.outbox.next_batch("lake", 10)
        assert [(one.event, one.gpu, one.last_known and [*one.last_known]) for one in batch.records] == [
            ("appeared", "S-1", None),
            ("altered", "S-1", ["serial"]),
            ("confirmed", "S-1", ["serial"]),
        ]

    async def test_a_reading_is_a_record_of_every_gpu(self, collector):
        await collector.store.reconcile({"lake": READINGS})
        await read(collector, "a", 10.0, "1", "2")
        await read(collector, "a", 20.0, "2", "3", UnidentifiedGpu(serial="old"), UnidentifiedGpu())
        assert await backlog_of(collector, limit=3) == [
            [("appeared", "GPU-1"), ("appeared", "GPU-2")],
            [("confirmed", "GPU-2"), ("appeared", "GPU-3"), ("confirmed", "")],
        ]

    async def test_readings_are_not_kept_when_no_sink_wants_them(self, collector):
        await collector.store.reconcile({"lake": CHANGES})
        await read(collector, "a", 10.0, "1")
        await collector.store.reconcile({"lake": Subscription("readings", True)})
        assert await backlog_of(collector) == []


class TestBatches:
    async def test_they_keep_the_limit_and_the_order(self, collector):
        await collector.store.reconcile({"lake": CHANGES})
        await read(collector, "a", 10.0, *"12345")
        assert [[uuid for _, uuid in batch] for batch in await backlog_of(collector, limit=2)] == [
            ["GPU-1", "GPU-2"],
            ["GPU-3", "GPU-4"],
            ["GPU-5"],
        ]

    async def test_a_reading_above_the_limit_is_its_own_batch(self, collector):
        await collector.store.reconcile({"lake": READINGS})
        await read(collector, "a", 10.0, *"12345")
        await read(collector, "b", 11.0, "6")
        assert [len(batch) for batch in await backlog_of(collector, limit=3)] == [5, 1]

    @pytest.mark.parametrize("emit", ["changes", "readings"])
    async def test_a_full_batch_can_begin_as_the_one_before_is_confirmed(self, settings, collecting, emit):
        async with collecting(settings) as one:
            await one.store.reconcile({"lake": Subscription(emit, False)})
            for node, uuids in (("a", "12"), ("b", "34"), ("c", "5")):
                await read(one, node, 10.0, *uuids)
            outbox = one.store.outbox
            first = await outbox.next_batch("lake", 2)
            (second,) = await outbox.following(first, 2)
            assert [record.uuid for record in second.records] == ["GPU-3", "GPU-4"]
            assert await outbox.next_batch("lake", 2) == first  # the second has not begun
            assert await outbox.confirm_and_begin(first, second)
            assert not await outbox.confirm_and_begin(first, second)
            assert await outbox.following(second, 2) == []  # not full
        async with collecting(settings) as two:
            await two.store.reconcile({"lake": Subscription(emit, False)})
            assert await two.store.outbox.next_batch("lake", 100) == second
            await two.store.outbox.confirm(first)  # too late: changes nothing
            assert await two.store.outbox.next_batch("lake", 100) == second
            await two.store.outbox.confirm(second)
            assert [[uuid for _, uuid in batch] for batch in await backlog_of(two)] == [["GPU-5"]]

    async def test_replayed_dead_letters_come_before_the_following_batch(self, collector):
        await collector.store.reconcile({"lake": CHANGES})
        await read(collector, "a", 10.0, *"123456")
        outbox = collector.store.outbox
        await outbox.dead_letter(await outbox.next_batch("lake", 2), "no")
        (letter,) = await outbox.dead_letters()
        batch = await outbox.next_batch("lake", 2)
        await outbox.replay([letter.id])
        assert await outbox.following(batch, 2) == []
        await outbox.confirm(batch)
        again = await outbox.next_batch("lake", 2)
        assert [record.uuid for record in again.records] == ["GPU-1", "GPU-2"]
        assert await outbox.following(again, 2) == []  # a dead letter has no place in the order

    @pytest.mark.parametrize("emit", ["changes", "readings"])
    async def test_a_batch_in_flight_is_the_same_after_a_restart(self, settings, collecting, emit):
        async with collecting(settings) as one:
            await one.store.reconcile({"lake": Subscription(emit, False)})
            await read(one, "a", 10.0, "1", "2", "3")
            batch = await one.store.outbox.next_batch("lake", 3)
        async with collecting(settings) as two:
            await two.store.reconcile({"lake": Subscription(emit, False)})
            await read(two, "b", 20.0, "4")
            assert await two.store.outbox.next_batch("lake", 100) == batch
            assert await two.store.outbox.next_batch("lake", 1) == batch
            await two.store.outbox.confirm(batch)
            await two.store.outbox.confirm(batch)  # the answer to the first was lost
            following = await two.store.outbox.next_batch("lake", 100)
            assert [record.uuid for record in following.records] == ["GPU-4"]
            assert following.key != batch.key

    async def test_keys_are_unique_across_sinks_and_stores(self, collector, sqlite_settings, collecting, tmp_path):
        await collector.store.reconcile({"lake": CHANGES, "hook": CHANGES})
        await read(collector, "a", 10.0, "1")
        keys = {(await collector.store.outbox.next_batch(name, 9)).key for name in ("lake", "hook")}
        other = type(sqlite_settings)(url=f"sqlite://{tmp_path}/other.db")
        async with collecting(other) as another:
            await another.store.reconcile({"lake": CHANGES})
            await read(another, "a", 10.0, "1")
            keys.add((await another.store.outbox.next_batch("lake", 9)).key)
        assert len(keys) == 3

    async def test_a_sink_changed_during_batching_keeps_nothing_of_the_batch(self, collector):
        store = collector.store
        await store.reconcile({"lake": CHANGES})
        await read(collector, "a", 10.0, "1", "2")
        made = []

        async def make():
            made.append(await store.outbox.next_batch("lake", 9))

        async with anyio.create_task_group() as tasks, store.database.write() as connection:
            tasks.start_soon(make)
            await eventually(lambda: store.database._lock.statistics().tasks_waiting)
            await connection.execute(text("UPDATE gpuid_sinks SET emit = 'readings', cursor = 0"))
        assert made == [None]
        assert [one.next for one in await store.outbox.sinks()] == [None]

    async def test_one_sink_does_not_wait_for_another(self, collector):
        await collector.store.reconcile({"lake": CHANGES, "hook": CHANGES})
        await read(collector, "a", 10.0, "1")
        await collector.store.outbox.next_batch("lake", 9)
        assert await backlog_of(collector, "hook") == [[("appeared", "GPU-1")]]
        assert await collector.store.outbox.backlog("hook") == SinkBacklog(0, None)
        assert await collector.store.outbox.backlog("lake") == SinkBacklog(1, 10.0)


class TestHalves:
    @pytest.mark.parametrize("emit", ["changes", "readings"])
    async def test_halves_keep_their_own_keys_after_a_restart(self, settings, collecting, emit):
        async with collecting(settings) as one:
            await one.store.reconcile({"lake": Subscription(emit, False)})
            for number in "12345":
                await read(one, number, float(number), number)
            whole = await one.store.outbox.next_batch("lake", 100)
            half = await one.store.outbox.halve(whole, "answered 413")
            assert half.records == whole.records[:2]
            assert await one.store.outbox.halve(whole, "answered 413") is None  # it is no longer the next
        async with collecting(settings) as two:
            await two.store.reconcile({"lake": Subscription(emit, False)})
            assert (await two.store.outbox.next_batch_state("lake", 100)).closed
            assert await two.store.outbox.next_batch("lake", 100) == half
            await two.store.outbox.confirm(half)
            rest = await two.store.outbox.next_batch("lake", 100)
            assert rest.records == whole.records[2:]
            assert len({whole.key, half.key, rest.key}) == 3
            assert await two.store.outbox.dead_letters() == []

    async def test_one_reading_is_split_in_order(self, collector):
        await collector.store.reconcile({"lake": READINGS})
        await read(collector, "a", 10.0, *"12345")
        await read(collector, "b", 11.0, "6")
        whole = await collector.store.outbox.next_batch("lake", 3)
        half = await collector.store.outbox.halve(whole, "answered 413")
        assert half.records == whole.records[:2]
        assert await collector.store.outbox.next_batch("lake", 3) == half
        quarter = await collector.store.outbox.halve(half, "answered 413")
        assert [record.uuid for record in quarter.records] == ["GPU-1"]
        await collector.store.outbox.dead_letter(quarter, "answered 413")
        assert [[uuid for _, uuid in batch] for batch in await backlog_of(collector)] == [
            ["GPU-2"],
            ["GPU-3", "GPU-4", "GPU-5"],
            ["GPU-6"],
        ]
        (letter,) = await collector.store.outbox.dead_letters()
        assert (letter.count, letter.reason, letter.replay) == (1, "answered 413", False)
        assert await collector.store.outbox.backlog("lake") == SinkBacklog(0, None, dead_letters=1)

    async def test_halves_wait_and_are_not_dead_letters(self, collector):
        outbox = collector.store.outbox
        await collector.store.reconcile({"lake": READINGS})
        await read(collector, "a", 10.0, *"12345")
        await read(collector, "b", 11.0, "6")
        half = await outbox.halve(await outbox.next_batch("lake", 3), "answered 413")
        assert not half.rejected
        assert await outbox.backlog("lake") == SinkBacklog(6, 10.0)
        assert [(one.records, one.oldest) for one in await outbox.sinks()] == [(6, 10.0)]
        assert await outbox.dead_letters() == []
        assert await outbox.show(half.dead_letter) is None
        assert await outbox.drop([half.dead_letter]) == 0
        await prune(collector.store.database, time.time() + 3600)
        assert await outbox.next_batch("lake", 3) == half
        await outbox.dead_letter(half, "answered 422")
        assert await outbox.backlog("lake") == SinkBacklog(4, 10.5, dead_letters=1)
        await outbox.replay([half.dead_letter])
        assert [letter.id for letter in await outbox.dead_letters()] == [half.dead_letter]
        while (batch := await outbox.next_batch("lake", 3)).dead_letter != half.dead_letter:
            await outbox.confirm(batch)
        assert batch.rejected

    async def test_halves_of_an_abandoned_sink_are_dropped(self, collector):
        outbox = collector.store.outbox
        await collector.store.reconcile({"lake": READINGS})
        await read(collector, "a", 10.0, *"12345")
        half = await outbox.halve(await outbox.next_batch("lake", 3), "answered 413")
        await outbox.dead_letter(half, "answered 422")
        await outbox.replay([half.dead_letter])
        await collector.store.reconcile({})
        await outbox.give_up(time.time() + 60)
        assert await outbox.backlog("lake") == SinkBacklog(0, None, dead_letters=1)

    async def test_halves_of_a_replayed_letter_come_before_later_ones(self, collector):
        await collector.store.reconcile({"lake": CHANGES})
        await read(collector, "a", 10.0, *"123456")
        for _ in range(2):
            batch = await collector.store.outbox.next_batch("lake", 3)
            await collector.store.outbox.dead_letter(batch, "answered 413")
        letters = await collector.store.outbox.dead_letters()
        await collector.store.outbox.replay([letter.id for letter in letters])
        whole = await collector.store.outbox.next_batch("lake", 100)
        half = await collector.store.outbox.halve(whole, "answered 413")
        assert await collector.store.outbox.next_batch("lake", 100) == half
        assert [[uuid for _, uuid in batch] for batch in await backlog_of(collector)] == [
            ["GPU-1"],
            ["GPU-2", "GPU-3"],
            ["GPU-4", "GPU-5", "GPU-6"],
        ]
        assert await collector.store.outbox.halve(whole, "answered 413") is None  # it was dropped meanwhile


class TestBacklog:
    @pytest.mark.parametrize("follow", [CHANGES, READINGS])
    async def test_a_backlog_has_a_count_and_an_oldest_record(self, collector, follow):
        await collector.store.reconcile({"lake": follow})
        await read(collector, "a", 10.0, "1", "2")
        await read(collector, "b", 20.0, "3")
        assert await collector.store.outbox.backlog("lake") == SinkBacklog(3, 10.0)
        waiting = await collector.store.outbox.next_batch_state("lake", 2)
        assert (waiting.records >= 2, waiting.oldest, waiting.closed) == (True, 10.0, False)
        await collector.store.outbox.confirm(await collector.store.outbox.next_batch("lake", 2))
        assert await collector.store.outbox.backlog("lake") == SinkBacklog(1, 20.0)

    async def test_every_configured_sink_has_a_status(self, collector):
        await collector.store.reconcile({"lake": CHANGES, "hook": READINGS, "log": CHANGES})
        await read(collector, "a", 10.0, "1", "2")
        batch = await collector.store.outbox.next_batch("lake", 1)
        await backlog_of(collector, "log")
        assert await collector.store.outbox.sinks() == [
            SinkState(sink="hook", emit="readings", records=2, oldest=10.0, next=None),
            SinkState(sink="lake", emit="changes", records=2, oldest=10.0, next=batch.key),
            SinkState(sink="log", emit="changes", records=0, oldest=None, next=None),
        ]

    async def test_the_backlog_of_an_unknown_sink_is_empty(self, collector):
        assert await collector.store.outbox.backlog("nobody") == SinkBacklog(0, None)
        assert await collector.store.outbox.next_batch("nobody", 10) is None


class TestDeadLetters:
    async def refused(self, collector) -> Batch:
        await collector.store.reconcile({"lake": CHANGES})
        await read(collector, "a", 10.0, "1", "2")
        batch = await collector.store.outbox.next_batch("lake", 1)
        await collector.store.outbox.dead_letter(batch, "answered 400")
        await collector.store.outbox.dead_letter(batch, "answered 400")  # the answer to the first was lost
        return batch

    async def test_it_is_kept_with_its_reason_and_delivery_continues(self, collector):
        batch = await self.refused(collector)
        (letter,) = await collector.store.outbox.dead_letters()
        assert (letter.sink, letter.key, letter.reason, letter.count, letter.replay, letter.records) == (
            "lake",
            batch.key,
            "answered 400",
            1,
            False,
            None,
        )
        assert (await collector.store.outbox.show(letter.id)).records == batch.records
        assert await collector.store.outbox.backlog("lake") == SinkBacklog(1, 10.0, dead_letters=1)
        assert await backlog_of(collector) == [[("appeared", "GPU-2")]]

    async def test_another_process_may_replay_it_under_its_key(self, settings, collector):
        batch = await self.refused(collector)
        (letter,) = await collector.store.outbox.dead_letters("lake")
        async with Store.open(settings, OpenMode.OPERATOR) as operator:
            assert await operator.outbox.replay([letter.id, 999]) == 1
        assert (await collector.store.outbox.next_batch_state("lake", 10)).closed
        again = await collector.store.outbox.next_batch("lake", 10)
        assert (again.key, again.records, again.dead_letter) == (batch.key, batch.records, letter.id)
        await collector.store.outbox.confirm(again)
        assert await collector.store.outbox.dead_letters() == []
        assert await backlog_of(collector) == [[("appeared", "GPU-2")]]

    async def test_a_replay_that_is_rejected_is_a_dead_letter_again(self, collector):
        await self.refused(collector)
        (letter,) = await collector.store.outbox.dead_letters()
        await collector.store.outbox.replay([letter.id])
        await collector.store.outbox.dead_letter(await collector.store.outbox.next_batch("lake", 10), "answered 422")
        (again,) = await collector.store.outbox.dead_letters()
        assert (again.id, again.reason, again.replay) == (letter.id, "answered 422", False)

    async def test_a_replay_waits_for_the_batch_in_flight(self, collector):
        await self.refused(collector)
        (letter,) = await collector.store.outbox.dead_letters()
        under_way = await collector.store.outbox.next_batch("lake", 10)
        await collector.store.outbox.replay([letter.id])
        assert await collector.store.outbox.next_batch("lake", 10) == under_way

    async def test_it_can_be_dropped(self, collector):
        await self.refused(collector)
        (letter,) = await collector.store.outbox.dead_letters()
        assert await collector.store.outbox.drop([letter.id]) == 1
        assert await collector.store.outbox.dead_letters() == []
        assert await collector.store.outbox.show(letter.id) is None
