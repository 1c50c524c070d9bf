"""A damaged SQLite file, at the start or while running: set aside, and a new one filled with all that is known."""

import contextlib
import errno
import gc
import logging
import os
import re
import shutil
import sqlite3
from pathlib import Path

import anyio
import msgspec
import pytest
from sqlalchemy import text

from collector.config.store import SqliteLocation
from collector.store import Batch, OpenMode, Store, StoreError, StoreSettings, Subscription
from collector.store.damaged import set_aside
from collector.store.downgrade import backup, downgrade
from collector.store.files import prepare_file
from collector.store.leadership import LeadStatus
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

SET_ASIDE = re.compile(r"gpuid\.db\.damaged-\d{8}T\d{6}Z(\.\d+)?")


def overwrite(path: Path, start: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)


def remove_log(path: Path) -> None:
    for side in ("-wal", "-shm"):
        path.with_name(path.name + side).unlink(missing_ok=True)


def foreign_log(path: Path) -> None:
    """Leave the log of another database next to it, as after copying a backup over it."""
    other = path.with_name("other.db")
    with contextlib.closing(sqlite3.connect(other, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE music (title TEXT)")
        connection.executemany("INSERT INTO music VALUES (?)", [("x" * 1000,)] * 100)
        shutil.copy(f"{other}-wal", f"{path}-wal")
    for file in path.parent.glob("other.db*"):
        file.unlink()


def altered(statement: str):
    def alter(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(statement)

    return alter


def emptied(path: Path) -> None:
    log = path.with_name(path.name + "-wal")
    path.write_bytes(b"")
    log.write_bytes(b"x" * 5000)


DAMAGE = {
    "emptied": emptied,
    "cut within the header": lambda path: os.truncate(path, 60),
    "cut after half a page": lambda path: os.truncate(path, 2048),
    "cut in the middle": lambda path: os.truncate(path, path.stat().st_size // 2 // 4096 * 4096),
    "cut amid a page": lambda path: os.truncate(path, path.stat().st_size - 1000),
    "header zeroed": lambda path: overwrite(path, 0, bytes(100)),
    "header without its magic": lambda path: overwrite(path, 16, bytes(84)),
    "first page flipped": lambda path: overwrite(path, 100, b"\xff" * 3996),
    "another page flipped": lambda path: overwrite(path, 3 * 4096, b"\xff" * 4096),
    "last page flipped": lambda path: overwrite(path, path.stat().st_size - 4096, b"\xa5" * 4096),
    "schema format of the future": lambda path: overwrite(path, 47, b"\x09"),
    "texts in another encoding": lambda path: overwrite(path, 59, b"\x02"),
    "to be written by later versions alone": lambda path: overwrite(path, 18, b"\x09"),
    "all zero": lambda path: overwrite(path, 0, bytes(path.stat().st_size)),
    "text": lambda path: path.write_text("hello, I am a text file\n" * 100),
    "mark of another program": lambda path: overwrite(path, 68, b"abcd"),
    "table missing": altered("DROP TABLE gpuid_sinks"),
    "column missing": altered("ALTER TABLE gpuid_nodes DROP COLUMN read_at"),
    "version missing": altered("DROP TABLE gpuid_schema"),
    "version unreadable": altered("UPDATE gpuid_schema SET version_num = x'ff00'"),
}


@pytest.fixture
async def path(sqlite_settings, collecting, tmp_path):
    """The file of a store with one GPU, closed."""
    async with collecting(sqlite_settings) as one:
        one.read("a", 10.0, "1")
        assert await one.store.history_writer.flushed(10)
    return tmp_path / "gpuid.db"


def found_aside(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if SET_ASIDE.fullmatch(file.name))


@pytest.mark.parametrize("kind", DAMAGE)
class TestCommands:
    """Neither command of `gpuid store` takes it for a good one, and both leave it as it is."""

    async def test_a_damaged_store_is_not_downgraded(self, kind, path, sqlite_settings):
        DAMAGE[kind](path)
        before = path.read_bytes()
        with pytest.raises(StoreError):
            await downgrade(sqlite_settings, "0005")
        assert path.read_bytes() == before
        assert not found_aside(path.parent)

    async def test_a_damaged_store_is_not_backed_up(self, kind, path, sqlite_settings):
        DAMAGE[kind](path)
        before = path.read_bytes()
        with pytest.raises(StoreError):
            await backup(sqlite_settings, path.with_name("copy.db"))
        assert path.read_bytes() == before
        assert not [file.name for file in path.parent.iterdir() if "copy" in file.name]


@pytest.mark.parametrize("kind", ["another page flipped", "table missing"])
async def test_commands_say_what_to_do_about_damage(kind, path, sqlite_settings):
    DAMAGE[kind](path)
    advice = "restore an earlier backup, or use the sqlite3 tool's .recover"
    with pytest.raises(StoreError, match=f"the file is damaged.*; nothing was changed; {advice}$"):
        await downgrade(sqlite_settings, "0005")
    with pytest.raises(StoreError, match=f"the file is damaged.*; there is no backup of it; {advice}$"):
        await backup(sqlite_settings, path.with_name("copy.db"))


class TestAtTheStart:
    @pytest.mark.parametrize("kind", DAMAGE)
    async def test_it_is_set_aside_and_a_new_one_started(self, kind, path, sqlite_settings, collecting, caplog):
        DAMAGE[kind](path)
        before = path.read_bytes()
        async with collecting(sqlite_settings) as one:
            (aside,) = found_aside(path.parent)
            assert one.store.health.status.up
            one.read("a", 20.0, "1")
            assert await one.store.history_writer.flushed(10)
            assert [place.since for place in await one.store.history.where("GPU-1")] == [20.0]
            assert one.store.health.status.set_aside.files == 1
            assert one.store.health.status.set_aside.newest == str(aside)
        assert aside.read_bytes() == before
        (told,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
        assert told.message.startswith(f"store damaged; set the file aside to begin a new history: store {path}: ")
        assert (told.file, told.set_aside) == (str(path), str(aside))
        assert told.lost
        assert {f"{file.stat().st_mode & 0o777:o}" for file in path.parent.glob("gpuid*")} == {"600"}
        async with collecting(sqlite_settings) as one:  # and again, from the new one
            assert len(await one.store.history.where("GPU-1")) == 1
        assert found_aside(path.parent) == [aside]

    @pytest.mark.parametrize("kind", DAMAGE)
    async def test_a_strict_store_is_left_unchanged(self, kind, path, sqlite_settings):
        DAMAGE[kind](path)
        before = path.read_bytes()
        strict = msgspec.structs.replace(sqlite_settings, strict=True)
        with pytest.raises(StoreError, match=r"; move it away \(with its -wal and -shm\) to start afresh, or choose"):
            async with Store.open(strict):
                pass
        assert path.read_bytes() == before
        assert found_aside(path.parent) == []

    @pytest.mark.parametrize("mode", [OpenMode.READER, OpenMode.OPERATOR, OpenMode.TRIAL])
    async def test_only_a_collector_sets_it_aside(self, mode, path, sqlite_settings):
        DAMAGE["header zeroed"](path)
        with pytest.raises(StoreError, match="not a database; move it away"):
            async with Store.open(sqlite_settings, mode):
                pass
        assert found_aside(path.parent) == []

    async def test_it_is_not_set_aside_while_another_collector_uses_it(self, path, sqlite_settings):
        async with Store.open(sqlite_settings):
            DAMAGE["first page flipped"](path)
            with pytest.raises(StoreError, match="in use by another gpuid"):
                async with Store.open(sqlite_settings):
                    pass
            assert found_aside(path.parent) == []

    @pytest.mark.parametrize("damaged", [False, True])
    async def test_another_programs_database_is_left_unchanged(self, damaged, sqlite_settings, tmp_path):
        path = tmp_path / "gpuid.db"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE music (title TEXT)")
            connection.executemany("INSERT INTO music VALUES (?)", [("x" * 1000,)] * 100)
            connection.commit()
        if damaged:
            overwrite(path, 100, b"\xff" * 3996)
        before = path.read_bytes()
        for _ in range(2):
            with pytest.raises(StoreError, match="it is another program's database; choose another store"):
                async with Store.open(sqlite_settings):
                    pass
        assert path.read_bytes() == before

    async def test_a_store_of_a_newer_version_is_left_unchanged(self, path, sqlite_settings):
        altered("UPDATE gpuid_schema SET version_num = '9999'")(path)
        with pytest.raises(StoreError, match="created by a newer gpuid"):
            async with Store.open(sqlite_settings):
                pass
        assert found_aside(path.parent) == []

    async def test_the_target_of_a_symbolic_link_is_set_aside(self, path, tmp_path, collecting):
        (tmp_path / "links").mkdir()
        link = tmp_path / "links" / "store.db"
        link.symlink_to(path)
        DAMAGE["header zeroed"](path)
        async with collecting(StoreSettings(url=f"sqlite://{link}")) as one:
            assert one.store.health.status.set_aside.files == 1
        assert link.is_symlink()
        assert path.exists()
        assert len(found_aside(tmp_path)) == 1

    async def test_its_write_ahead_log_is_set_aside_too(self, path, sqlite_settings):
        remove_log(path)
        DAMAGE["header zeroed"](path)
        path.with_name("gpuid.db-wal").write_bytes(b"a log")
        async with Store.open(sqlite_settings):
            (aside,) = found_aside(path.parent)
            assert aside.with_name(aside.name + "-wal").read_bytes() == b"a log"

    def test_earlier_damaged_stores_are_not_overwritten(self, tmp_path):
        for content in ("one", "two", "three"):
            (tmp_path / "gpuid.db").write_text(content)
            set_aside(tmp_path / "gpuid.db", 1764123825.0)
        assert sorted(file.read_text() for file in found_aside(tmp_path)) == ["one", "three", "two"]

    @pytest.mark.parametrize("kind", ["of another database", "damaged"])
    async def test_a_foreign_write_ahead_log_is_set_aside_alone(self, kind, path, sqlite_settings, collecting, caplog):
        if kind == "damaged":
            path.with_name("gpuid.db-wal").write_bytes(b"x" * 20_000)
        else:
            foreign_log(path)
        before, files = path.with_name("gpuid.db-wal").read_bytes(), path.read_bytes()
        strict = msgspec.structs.replace(sqlite_settings, strict=True)
        with pytest.raises(
            StoreError, match=r"its write-ahead log is damaged or another database's; move the log away"
        ):
            async with Store.open(strict):
                pass
        assert path.read_bytes() == files
        async with collecting(sqlite_settings) as one:
            assert [place.node for place in await one.store.history.where("GPU-1")] == ["a"]
            assert one.store.health.status.set_aside.files == 1
            assert Path(one.store.health.status.set_aside.newest).read_bytes() == before  # noqa: ASYNC240
        assert "set its write-ahead log aside, and with it the last changes" in caplog.text

    async def test_a_new_store_is_recognised_without_its_log(self, sqlite_settings, tmp_path):
        async with Store.open(sqlite_settings):
            assert (tmp_path / "gpuid.db").read_bytes()[68:72] == b"gpui"

    async def test_the_loss_is_reported(self, path, sqlite_settings, collecting, caplog):
        async with collecting(sqlite_settings) as one:
            await one.store.reconcile({"lake": Subscription("changes", backfill=True)})
        altered("ALTER TABLE gpuid_nodes DROP COLUMN read_at")(path)
        async with Store.open(sqlite_settings):
            pass
        (told,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
        assert told.lost == "1 change of the history; 1 undelivered record of the sink lake"


class TestThatCannotBeSetAside:
    async def test_the_collector_continues_and_recovers(self, path, sqlite_settings, collecting, monkeypatch):
        monkeypatch.setattr("collector.store.database.RETRY_SECONDS", 0.05)
        DAMAGE["header zeroed"](path)
        allowed = False

        def rename(*arguments):
            if not allowed:
                raise OSError(errno.EACCES, "Permission denied")
            return set_aside(*arguments)

        monkeypatch.setattr("collector.store.database.set_aside", rename)
        async with Store.open(sqlite_settings) as store:
            assert not store.health.status.up
            assert store.leadership.status == LeadStatus(leads=False, has_leader=False)
            assert store.health.status.message == (
                f"store {path}: not a database; it cannot be renamed (Permission denied), and nothing is recorded;"
                " move it away"
            )
        async with recovering(sqlite_settings, collecting) as one:
            one.read("a", 20.0, "1")
            assert not await one.store.history_writer.flushed(0.2) or not one.store.leadership.recording
            with pytest.raises(StoreError, match="it cannot be renamed"):
                await one.store.history.where("GPU-1")
            allowed = True
            await eventually(lambda: one.store.health.status.up)
            assert await one.store.history_writer.flushed(10)
            assert [place.since for place in await one.store.history.where("GPU-1")] == [20.0]

    async def test_a_failing_disk_is_not_damage(self, path, sqlite_settings, collecting, monkeypatch):
        monkeypatch.setattr("collector.store.database.RETRY_SECONDS", 0.05)
        failing = True

        def check(path):
            if failing:
                raise OSError(errno.EIO, "Input/output error")
            prepare_file(path)

        monkeypatch.setattr("collector.store.database.prepare_file", check)
        async with recovering(sqlite_settings, collecting) as one:
            assert one.store.health.status.message == f"store {path}: I/O error; check the disk and its free space"
            one.read("b", 20.0, "2")
            failing = False
            await eventually(lambda: one.store.health.status.up)
            assert await one.store.history_writer.flushed(10)
            assert [place.node for place in await one.store.history.where("GPU-1")] == ["a"]
            assert [place.node for place in await one.store.history.where("GPU-2")] == ["b"]
            assert one.inventory.find(uuid="GPU-1")  # taken over from the file
        assert found_aside(path.parent) == []


@contextlib.asynccontextmanager
async def recovering(settings, collecting):
    """What `collecting` does, with a store that cannot be read at first."""
    from collector.app.take_over import TakeOver
    from tests.support.recorded_fleet import RecordedFleet

    async with Store.open(settings) as store:
        one = RecordedFleet(store)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.run)
            tasks.start_soon(TakeOver(store, one.inventory, one.adopt).run)
            yield one
            tasks.cancel_scope.cancel()


class TestWhileRunning:
    async def break_it(self, store: Store, *, reading: bool = False) -> None:
        """Flip all pages but the first under a running collector, whose connections have read them already."""
        assert isinstance(store.database.location, SqliteLocation)
        path = store.database.location.path
        async with store.database.write() as connection:
            await connection.exec_driver_sql("PRAGMA user_version")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        overwrite(path, 4096, b"\xa5" * (path.stat().st_size - 4096))
        for engine in (store.database._writer,) if reading else (store.database._reader, store.database._writer):
            assert engine is not None
            await engine.dispose()  # with what its connections hold in memory

    @pytest.mark.parametrize("found_by", ["write", "read", "answer"])
    async def test_a_new_store_gets_everything_known(self, found_by, sqlite_settings, collecting, tmp_path, caplog):
        async with collecting(sqlite_settings) as one:
            store = one.store
            await store.reconcile({"lake": Subscription("changes", backfill=False)})
            one.read("a", 10.0, "1", "2")
            one.read("b", 11.0, "3")
            assert await store.history_writer.flushed(10)
            first = store.database.id
            await self.break_it(store)
            if found_by == "write":
                one.read("c", 12.0, "4")
            else:
                with pytest.raises(StoreError, match="damaged"):
                    await (store.history if found_by == "read" else store.history.within(60)).changes()
            await eventually(lambda: store.database.id not in ("", first))
            await eventually(lambda: not store.database.renewed)
            await eventually(lambda: store.health.status.up)
            one.read("d", 13.0, "5")
            assert await store.history_writer.flushed(60)
            known = {"1": "a", "2": "a", "3": "b", "5": "d"} | ({"4": "c"} if found_by == "write" else {})
            for uuid, node in known.items():
                assert [place.node for place in await store.history.where(f"GPU-{uuid}")] == [node], uuid
                assert [place.node for place in await store.history.within(60).where(f"GPU-{uuid}")] == [node], uuid
            batch = await store.outbox.next_batch("lake", 100)
            assert batch is not None
            assert sorted(record.uuid for record in batch.records) == sorted(f"GPU-{uuid}" for uuid in known)
            assert store.health.status.set_aside.files == 1
            assert len(found_aside(tmp_path)) == 1
        assert sum("store damaged; set the file aside" in record.message for record in caplog.records) == 1
        async with collecting(sqlite_settings) as one:
            for uuid, node in known.items():
                assert [found.place.node for found in one.inventory.find(uuid=f"GPU-{uuid}")] == [node]

    async def test_an_answer_in_progress_is_abandoned(self, sqlite_settings, collecting):
        endless = text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")
        refusals = []

        async def count_for_ever(store: Store) -> None:
            deadline = anyio.current_time() + 600

            async def ask() -> None:
                async with store.database.answer(deadline) as connection:
                    await connection.execute(endless)

            with pytest.raises(StoreError) as refused:
                await store.database.within(deadline, ask())
            refusals.append(str(refused.value))

        async with collecting(sqlite_settings) as one, anyio.create_task_group() as tasks:
            one.read("a", 10.0, "1")
            assert await one.store.history_writer.flushed(10)
            first = one.store.database.id
            tasks.start_soon(count_for_ever, one.store)
            await eventually(lambda: one.store.database._asked)
            await self.break_it(one.store, reading=True)
            one.read("b", 11.0, "2")
            await eventually(lambda: one.store.database.id not in ("", first))
            await eventually(lambda: not one.store.database.renewed)  # or what is known is still to be recorded
            await eventually(lambda: one.store.health.status.up)
            assert await one.store.history_writer.flushed(60)
            assert [place.node for place in await one.store.history.within(60).where("GPU-1")] == ["a"]
        assert "the file is damaged" in refusals[0]

    async def test_a_read_in_progress_ends_with_the_old_store(self, sqlite_settings, collecting):
        """A connection that nobody closed would be reported when it is collected, as an error of the test."""
        async with collecting(sqlite_settings) as one:
            one.read("a", 10.0, "1")
            assert await one.store.history_writer.flushed(10)
            first = one.store.database.id
            async with one.store.database.read() as connection:
                await connection.execute(text("SELECT 1"))
                await self.break_it(one.store, reading=True)
                one.read("b", 11.0, "2")
                await eventually(lambda: one.store.database.id not in ("", first))
                await eventually(lambda: one.store.health.status.up)
            del connection
            gc.collect()
            assert await one.store.history_writer.flushed(60)

    async def test_a_missing_table_is_damage(self, sqlite_settings, collecting, tmp_path):
        async with collecting(sqlite_settings) as one:
            one.read("a", 10.0, "1")
            assert await one.store.history_writer.flushed(10)
            altered("DROP TABLE gpuid_change_rows")(tmp_path / "gpuid.db")
            one.read("b", 11.0, "2")
            await eventually(lambda: one.store.health.status.set_aside.files == 1)
            await eventually(lambda: one.store.health.status.up)
            assert await one.store.history_writer.flushed(60)
            assert [change.uuid for change in await one.store.history.changes()] == ["GPU-2", "GPU-1"]

    async def test_a_strict_store_is_reported_and_left_unchanged(self, sqlite_settings, collecting, tmp_path):
        strict = msgspec.structs.replace(sqlite_settings, strict=True)
        async with collecting(strict) as one:
            one.read("a", 10.0, "1")
            assert await one.store.history_writer.flushed(10)
            await self.break_it(one.store)
            one.read("b", 11.0, "2")
            await eventually(lambda: not one.store.health.status.up)
            assert "the file is damaged; move it away" in one.store.health.status.message
        assert found_aside(tmp_path) == []

    async def test_a_batch_of_the_old_one_does_not_count_in_the_new(self, sqlite_settings, collecting):
        async with collecting(sqlite_settings) as one:
            store = one.store
            await store.reconcile({"lake": Subscription("changes", backfill=True)})
            one.read("a", 10.0, "1")
            assert await store.history_writer.flushed(10)
            batch = await store.outbox.next_batch("lake", 100)
            assert isinstance(batch, Batch)
            old = msgspec.structs.replace(batch, store="another", last=10**6)
            assert await store.outbox.halve(old, "too large") is None
            await store.outbox.confirm(old)
            assert (await store.outbox.backlog("lake")).records == 1
            await store.outbox.dead_letter(old, "too large")
            assert (await store.outbox.backlog("lake"))[::2] == (1, 1)
            await store.outbox.confirm(batch)
            assert (await store.outbox.backlog("lake")).records == 0

    async def test_postgres_without_a_table_is_refused(self, postgres_server):
        settings = StoreSettings(url=postgres_server.new_database())
        async with Store.open(settings) as store, store.database.write() as connection:
            await connection.execute(text("DROP TABLE gpuid_sinks"))
        with pytest.raises(StoreError, match=r"incomplete, missing table gpuid_sinks; restore it from a backup, or"):
            async with Store.open(settings):
                pass
