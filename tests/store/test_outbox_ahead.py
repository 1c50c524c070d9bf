"""Batches that are read before their turn, and the two ways in which SQLite's changes are read; on both engines."""

import pytest
from sqlalchemy import text

from collector.model import Gpu
from collector.store import Subscription
from collector.store.outbox_records import READINGS_AHEAD
from collector.timestamps import rfc3339

pytestmark = pytest.mark.anyio

CHANGES = Subscription("changes", False)


@pytest.fixture
async def outbox(settings, collecting, request):
    """The outbox of a sink for which three full batches of two records and a single one wait."""
    emit = getattr(request, "param", "changes")
    async with collecting(settings) as one:
        await one.store.reconcile({"lake": Subscription(emit, False)})
        for node, uuids in (("a", "12"), ("b", "34"), ("c", "56"), ("d", "7")):
            one.read(node, 10.0, *uuids)
        assert await one.store.history_writer.flushed(10)
        yield one.store.outbox


@pytest.mark.parametrize("outbox", ["changes", "readings"], indirect=True)
async def test_batches_that_are_read_together_are_those_handed_out_one_by_one(outbox):
    batch = await outbox.next_batch("lake", 2)
    ahead = await outbox.following(batch, 2)
    assert [[record.uuid for record in one.records] for one in ahead] == [["GPU-3", "GPU-4"], ["GPU-5", "GPU-6"]]
    for one in ahead:
        await outbox.confirm(batch)
        batch = await outbox.next_batch("lake", 2)
        assert batch == one
    assert await outbox.following(batch, 2) == []  # the rest is not full


async def test_what_is_read_ahead_of_large_readings_is_bounded(settings, collecting):
    async with collecting(settings) as one:
        await one.store.reconcile({"lake": Subscription("readings", False)})
        for number in range(40):
            one.read(f"n{number}", 10.0, *(f"{number}-{gpu}" for gpu in range(8)))
        assert await one.store.history_writer.flushed(10)
        first = await one.store.outbox.next_batch("lake", 1)
        ahead = await one.store.outbox.following(first, 1)
    assert [len(batch.records) for batch in ahead] == [8] * READINGS_AHEAD


async def test_only_the_very_next_batch_can_begin(outbox):
    first = await outbox.next_batch("lake", 2)
    second, third = await outbox.following(first, 2)
    assert not await outbox.confirm_and_begin(first, third)
    assert await outbox.next_batch("lake", 2) == first
    assert await outbox.confirm_and_begin(first, second)
    assert await outbox.confirm_and_begin(second, third)
    assert await outbox.next_batch("lake", 2) == third


async def test_a_dead_letter_replayed_meanwhile_comes_before_what_was_read(outbox):
    await outbox.dead_letter(await outbox.next_batch("lake", 2), "no")
    (letter,) = await outbox.dead_letters()
    batch = await outbox.next_batch("lake", 2)
    (following,) = await outbox.following(batch, 2)
    await outbox.replay([letter.id])
    assert await outbox.following(batch, 2) == []
    assert not await outbox.confirm_and_begin(batch, following)
    await outbox.confirm(batch)
    assert [record.uuid for record in (await outbox.next_batch("lake", 2)).records] == ["GPU-1", "GPU-2"]


async def test_a_damaged_row_is_read_ahead_too(sqlite_settings, collecting):
    async with collecting(sqlite_settings) as one:
        await one.store.reconcile({"lake": CHANGES})
        one.read("a", 10.0, "1", "2")
        assert await one.store.history_writer.flushed(10)
        async with one.store.database.write() as connection:
            await connection.execute(text("UPDATE gpuid_changes SET model = x'ff41' WHERE uuid = 'GPU-2'"))
        first = await one.store.outbox.next_batch("lake", 1)
        (second,) = await one.store.outbox.following(first, 1)
    assert [(record.uuid, record.model) for record in second.records] == [("GPU-2", "\ufffdA")]


async def test_a_damaged_row_changes_no_other_record(sqlite_settings, collecting):
    odd = 'quote " slash \\ line \n bell \x07 separator \u2028 snowman ☃ card 🂡'
    times = (0.0, 1.5, 1_780_000_000.999996, 1_780_000_000.9999995, 1_780_000_001.0, 253_402_300_799.0)
    async with collecting(sqlite_settings) as one:
        await one.store.reconcile({"lake": CHANGES})
        for number, time in enumerate(times):
            one.read(f"{odd} {number}", time, Gpu(uuid=f"GPU-{number}", serial=odd if number else None, model=odd))
        one.read("last", 253_402_300_799.0, "damaged")
        assert await one.store.history_writer.flushed(10)
        whole = await one.store.outbox.next_batch("lake", 100)
        async with one.store.database.write() as connection:
            await connection.execute(text("UPDATE gpuid_changes SET model = x'ff41' WHERE uuid = 'GPU-damaged'"))
        damaged = await one.store.outbox.next_batch("lake", 100)
    assert damaged.records[:-1] == whole.records[:-1]
    assert damaged.records[-1].model == "\ufffdA"
    assert [record.time for record in whole.records[:-1]] == [rfc3339(time, "seconds") for time in times]
    assert [record.gpu for record in whole.records[:-1]] == ["", *[odd] * (len(times) - 1)]
