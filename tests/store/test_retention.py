"""What retention deletes, and what it never deletes; on both engines."""

import anyio
import pytest

from collector.config import Duration
from collector.model import Place
from collector.store import OpenMode, Store, StoreError, StoreSettings, Subscription
from collector.store.retention import prune
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
async def collector(settings, collecting):
    async with collecting(settings) as one:
        one.read("a", 10.0, "1", "2")
        one.read("b", 20.0, "1")
        one.read("c", 30.0, "1")
        assert await one.store.history_writer.flushed(10)
        yield one


async def times(collector):
    return [change.time for change in await collector.store.history.changes()]


async def test_changes_and_ended_placements_are_forgotten_and_present_ones_stay(collector):
    assert await prune(collector.store.database, before=25.0) == 3 + 1
    assert await times(collector) == [30.0]
    assert [(p.node, p.until) for p in await collector.store.history.where("GPU-1")] == [("c", None), ("b", 30.0)]
    assert [(p.node, p.since) for p in await collector.store.history.where("GPU-2")] == [("a", 10.0)]


async def test_an_absent_gpu_is_forgotten_with_its_last_placement(collector):
    collector.read("a", 40.0)
    collector.read("c", 50.0)
    assert await collector.store.history_writer.flushed(10)
    assert (await collector.store.load()).absent == {"GPU-1": Place("prod", "c"), "GPU-2": Place("prod", "a")}
    await prune(collector.store.database, before=45.0)
    assert (await collector.store.load()).absent == {"GPU-1": Place("prod", "c")}


async def test_without_a_limit_nothing_is_forgotten(collector):
    assert await prune(collector.store.database, before=None) == 0
    assert await times(collector) == [10.0, 10.0, 20.0, 30.0]


async def test_changes_in_a_backlog_are_kept_at_any_age(collector):
    await collector.store.reconcile({"slow": Subscription("changes", True), "quick": Subscription("changes", False)})
    await collector.store.outbox.confirm(await collector.store.outbox.next_batch("slow", 1))
    await prune(collector.store.database, before=1000.0)
    assert await times(collector) == [10.0, 20.0, 30.0]


async def test_readings_are_forgotten_as_soon_as_every_sink_has_them(collector):
    follow = {"slow": Subscription("readings", False), "quick": Subscription("readings", False)}
    await collector.store.reconcile(follow)
    for time in (40.0, 50.0):
        collector.read("c", time, "1")
    assert await collector.store.history_writer.flushed(10)
    while (batch := await collector.store.outbox.next_batch("quick", 1)) is not None:
        await collector.store.outbox.confirm(batch)
    assert await prune(collector.store.database, before=None) == 0
    await collector.store.outbox.confirm(await collector.store.outbox.next_batch("slow", 1))
    assert await prune(collector.store.database, before=None) == 1
    await collector.store.reconcile({})
    assert await prune(collector.store.database, before=None) == 0
    await collector.store.outbox.give_up(before=float("inf"))
    assert await prune(collector.store.database, before=None) == 1


async def test_ids_continue_after_everything_is_forgotten(collector):
    before = await collector.store.history.changes()
    await prune(collector.store.database, before=1000.0)
    collector.read("d", 2000.0, "1")
    assert await collector.store.history_writer.flushed(10)
    (change,) = await collector.store.history.changes()
    assert change.id > before[-1].id


async def test_the_retention_of_the_settings_counts_from_now(sqlite_settings, collecting):
    settings = StoreSettings(url=sqlite_settings.url, retention=Duration(100))
    async with collecting(settings) as one:
        one.read("a", 10.0, "1")
        one.read("b", 60.0, "1")
    async with Store.open(settings, clock=lambda: 150.0) as store:
        assert await store.prune() == 1
        assert [change.time for change in await store.history.changes()] == [60.0]


async def test_an_old_dead_letter_is_dropped_with_a_log_line(collector, caplog):
    await collector.store.reconcile({"lake": Subscription("changes", True)})
    await collector.store.outbox.dead_letter(await collector.store.outbox.next_batch("lake", 1), "answered 400")
    (letter,) = await collector.store.outbox.dead_letters()
    await prune(collector.store.database, before=letter.time)
    assert [one.id for one in await collector.store.outbox.dead_letters()] == [letter.id]
    await prune(collector.store.database, before=letter.time + 1)
    assert await collector.store.outbox.dead_letters() == []
    assert [record.getMessage() for record in caplog.records] == ["deleted dead letters older than store.retention"]


async def test_a_retention_that_fails_is_part_of_the_stores_health(sqlite_settings, monkeypatch):
    monkeypatch.setattr("collector.store.store.FIRST_PRUNE_SECONDS", 0.0)
    monkeypatch.setattr("collector.store.store.PRUNE_SECONDS", 0.01)
    broken = [StoreError("disk I/O error")]

    async def prune() -> int:
        for error in broken:
            raise error
        return 0

    async with Store.open(sqlite_settings, OpenMode.COLLECTOR) as store, anyio.create_task_group() as tasks:
        monkeypatch.setattr(store, "prune", prune)
        tasks.start_soon(store.run)
        await eventually(lambda: store.health.status.message == "disk I/O error")
        assert not store.health.status.up
        broken.clear()
        await eventually(lambda: store.health.status.up)
        tasks.cancel_scope.cancel()
