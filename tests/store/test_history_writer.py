"""Recording while commits fail: nothing is lost, it is reported, and it recovers without help."""

import contextlib
import os
import signal

import anyio
import pytest
from sqlalchemy import text

from collector.model import Change, Event, Gpu, Place, Step
from collector.store import ChangeFilter, Store, StoreSettings
from collector.store.commit import Commit
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

APPEARED = Change(
    event=Event.APPEARED, time=1.0, gpu=Gpu(uuid="GPU-1"), place=Place("prod", "a"), machine="", source="x/y"
)


@contextlib.asynccontextmanager
async def full_disk(store):
    """Give the database no page more than it has, which is what SQLite calls a full disk."""
    async with store.database.write() as connection:
        pages = await connection.scalar(text("PRAGMA page_count"))
        await connection.execute(text(f"PRAGMA max_page_count = {pages}"))
    try:
        yield
    finally:
        async with store.database.write() as connection:
            await connection.execute(text("PRAGMA max_page_count = 1073741823"))


def named(node):
    """Return a name that needs room, as the nodes of a fleet do."""
    return f"n{node}".ljust(250, "-")


def fill(collector, first, count):
    """Read nodes with eight GPUs each."""
    for node in range(first, first + count):
        collector.read(named(node), 10.0, *(f"{node}-{gpu}" for gpu in range(8)))


class TestAFullDisk:
    async def test_changes_wait_in_memory_until_there_is_room(self, sqlite_settings, collecting):
        async with collecting(sqlite_settings) as one:
            writer, health = one.store.history_writer, one.store.health
            async with full_disk(one.store):
                fill(one, 0, 50)
                await eventually(lambda: not health.status.up)
                assert health.status.message.endswith(
                    "gpuid.db: disk full; free some space (gpuid retries automatically)"
                )
                assert writer.pending == 400
                fill(one, 50, 5)
                assert writer.pending == 440
                assert not await writer.flushed(10)  # at once: there is no use in waiting
                assert await one.store.history.where("GPU-1-1") == []
            await eventually(lambda: writer.pending == 0)
            assert health.status.up
            assert health.status.message == ""
            assert [c.uuid for c in await one.store.history.changes()] == [
                f"GPU-{node}-{gpu}" for node in range(55) for gpu in range(8)
            ]

    async def test_past_the_limit_only_the_outcome_is_recorded(self, sqlite_settings, collecting):
        async with collecting(sqlite_settings, max_pending=100) as one:
            one.read("a", 1.0, "1", "2", "3")
            assert await one.store.history_writer.flushed(10)
            writer, health = one.store.history_writer, one.store.health
            async with full_disk(one.store):
                fill(one, 0, 12)
                await eventually(lambda: not health.status.up)
                fill(one, 12, 30)
                one.read("b", 20.0, "1")
                one.read("c", 21.0, "1")
                one.read("a", 22.0, "3")
                one.remove(named(12), 23.0)
                assert writer.pending == 96
                assert health.status.lost == 30 * 8 + 3 + 8
                assert writer.unstored == (writer.pending + health.status.lost, 0)
            await eventually(lambda: writer.pending == 0)
            assert await writer.flushed(10)
            assert not any(writer.unstored)
            changes = await one.store.history.changes(ChangeFilter(since=15.0))
            assert [(c.event, c.uuid, c.node, c.previous) for c in changes] == [
                ("moved", "GPU-1", "c", Place("prod", "a")),
                ("vanished", "GPU-2", "a", None),
            ]
            history = {
                (p.uuid, p.node, p.since)
                for node in one.inventory.nodes("prod")
                for p in await one.store.history.node(node)
                if p.until is None
            }
            assert history == {
                (gpu.uuid, entry.place.node, since)
                for entry in one.inventory.nodes("prod").values()
                for gpu, since in zip(entry.gpus, entry.since, strict=True)
            }
            one.read("b", 30.0, "4")
            assert await writer.flushed(10)
            assert len(await one.store.history.where("GPU-4")) == 1


class TestANewLead:
    async def test_is_not_down_for_a_commit_that_failed_before_it(self, sqlite_settings, collecting):
        async with collecting(sqlite_settings) as collector, full_disk(collector.store):
            fill(collector, 0, 500)
            await eventually(lambda: not collector.store.health.status.up)
            collector.store.history_writer.begin({})
            await eventually(lambda: collector.store.health.status.up)
            assert collector.store.history_writer.pending == 0


class TestAFileThatIsTakenAway:
    @pytest.mark.parametrize("replaced", [False, True])
    async def test_is_detected_without_any_change(self, sqlite_settings, collecting, tmp_path, replaced):
        async with collecting(sqlite_settings) as one:
            one.read("a", 10.0, "1")
            assert await one.store.history_writer.flushed(10)
            (tmp_path / "gpuid.db").rename(tmp_path / "kept")
            if replaced:
                (tmp_path / "gpuid.db").touch()
            await eventually(lambda: not one.store.health.status.up)
            assert "gpuid.db: the file was removed or replaced while in use" in one.store.health.status.message
            one.read("a", 20.0, "1", "2")
            assert not await one.store.history_writer.flushed(10)
            (tmp_path / "kept").replace(tmp_path / "gpuid.db")
            await eventually(lambda: one.store.health.status.up)
            assert await one.store.history_writer.flushed(10)
            assert [c.uuid for c in await one.store.history.changes()] == ["GPU-1", "GPU-2"]


class TestPostgresThatGoesAway:
    async def test_changes_meanwhile_are_committed_when_it_returns(self, postgres_server, collecting):
        settings = StoreSettings(url=postgres_server.new_database())
        async with collecting(settings) as one:
            one.read("a", 10.0, "1")
            assert await one.store.history_writer.flushed(10)
            await anyio.to_thread.run_sync(postgres_server.stop)
            try:
                one.read("b", 20.0, "1")
                await eventually(lambda: "cannot reach the server" in one.store.health.status.message)
                assert not one.store.health.status.up
            finally:
                await anyio.to_thread.run_sync(postgres_server.start)
            await eventually(lambda: one.store.health.status.up)
            assert await one.store.history_writer.flushed(20)
            assert [c.event for c in await one.store.history.changes()] == ["appeared", "moved"]

    async def test_a_commit_whose_answer_was_lost_is_not_made_twice(self, settings, collecting):
        async with Store.open(settings) as store:
            for number, changes in ((7, 1), (7, 1), (8, 2)):
                batch = Commit(store.leadership.token, number=number)
                batch.changes = [APPEARED]
                await batch.prepare(store.database, 1.0)
                async with store.leadership.write(batch.token) as connection:
                    await batch.write(connection, store.database)
                assert len(await store.history.changes()) == changes

    async def test_stopping_does_not_wait_for_a_hanging_server(self, postgres_server, collecting):
        settings = StoreSettings(url=postgres_server.new_database())
        hung: list[int] = []
        try:
            with anyio.fail_after(30):  # half of the time that a command has otherwise
                async with collecting(settings) as one:
                    one.read("a", 10.0, "1")
                    assert await one.store.history_writer.flushed(10)
                    async with one.store.database.read() as connection:
                        hung += await connection.scalars(BACKENDS)
                    for process in hung:
                        os.kill(process, signal.SIGSTOP)
                    one.read("b", 20.0, "1")
        finally:
            for process in hung:
                os.kill(process, signal.SIGCONT)
        async with collecting(settings) as one:
            assert [c.event for c in await one.store.history.changes()] == ["appeared"]


BACKENDS = text(
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
)


class TestFlushed:
    async def test_it_gives_up_at_its_timeout(self, sqlite_settings):
        async with Store.open(sqlite_settings) as store:
            store.history_writer.append(Step())
            assert not await store.history_writer.flushed(0.01)  # nothing runs that would commit

    async def test_with_nothing_recorded_there_is_nothing_to_wait_for(self, sqlite_settings):
        async with Store.open(sqlite_settings) as store:
            assert await store.history_writer.flushed(0)
