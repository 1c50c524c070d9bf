"""Stores of every version: updated without a loss, and taken back to what that version had."""

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from sqlalchemy import Connection, MetaData, inspect, select, text

from collector.config.store import SqliteLocation, locate
from collector.store import Store, StoreError, StoreSettings, schema
from collector.store import downgrade as downgrades
from collector.store.database import Database, OpenMode
from collector.store.downgrade import backup, downgrade, undone_by
from collector.store.files import SIDE_FILES, claim
from collector.store.migrate import version_of
from tests.support.old_store import VERSIONS, old_rows, write_old_store

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def nobody_stands_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin every downgrade at once."""
    monkeypatch.setattr(downgrades, "WATCH_SECONDS", 0.0)


UPGRADING = (Path(__file__).parents[2] / "docs" / "upgrading.md").read_text()
PASSING = ("gpuid_leases", "gpuid_facts")  # tables whose rows belong to the collectors that run


def tables_of(connection: Connection) -> dict[str, Any]:
    """Return the columns and indexes of every table of ours."""
    found = inspect(connection)
    return {
        name: (
            {(one["name"], str(one["type"]), one["nullable"]) for one in found.get_columns(name)},
            {(one["name"], tuple(one["column_names"]), bool(one["unique"])) for one in found.get_indexes(name)},
            found.get_pk_constraint(name)["constrained_columns"],
        )
        for name in found.get_table_names()
        if name.startswith("gpuid_")
    }


def rows_of(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every table, as `old_rows` has them."""
    metadata = MetaData()
    metadata.reflect(connection)
    found: dict[str, list[dict[str, Any]]] = {}
    for name, table in metadata.tables.items():
        rows = [
            {key: {"hex": bytes(value).hex()} if isinstance(value, bytes) else value for key, value in row.items()}
            for row in connection.execute(select(table)).mappings()
        ]
        if rows and name not in (*PASSING, schema.VERSION_TABLE):
            found[name] = sorted(rows, key=str)
    return found


async def described(settings: StoreSettings, describe: Any) -> Any:
    async with Database.open(settings, OpenMode.TRIAL) as database, database.read() as connection:
        return await connection.run_sync(describe)


async def test_every_sqlite_version_is_updated_and_downgraded(tmp_path: Path) -> None:
    async with Store.open(StoreSettings(url=f"sqlite://{tmp_path}/new.db")):
        pass
    tables = await described(StoreSettings(url=f"sqlite://{tmp_path}/new.db"), tables_of)
    for version in VERSIONS:
        settings = StoreSettings(url=f"sqlite://{tmp_path}/{version}.db")
        await check_there_and_back(settings, version, tables)
        await check_used(settings, version)


@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
async def test_postgresql_versions_are_updated_and_downgraded(postgres_server: Any, version: str) -> None:
    settings = StoreSettings(url=postgres_server.new_database())
    async with Store.open(settings):
        pass
    await check_there_and_back(settings, version, await described(settings, tables_of))
    await check_used(settings, version)


async def check_there_and_back(settings: StoreSettings, version: str, new: dict[str, Any]) -> None:
    """Check that an old store gets the tables of a new one, and then has again what the old version wrote."""
    await write_old_store(settings, version)
    before = await described(settings, tables_of), await described(settings, rows_of)
    async with Store.open(settings):
        pass
    assert await described(settings, tables_of) == new
    await downgrade(settings, version)
    assert (await described(settings, tables_of), await described(settings, rows_of)) == before
    async with Database.open(settings, OpenMode.TRIAL) as database, database.read() as connection:
        assert await connection.scalar(text("SELECT version_num FROM gpuid_schema")) == version


async def check_used(settings: StoreSettings, version: str) -> None:
    """Check that all that an old version wrote is found."""
    old = old_rows(version)
    async with Store.open(settings) as store:
        # The inventory, with every GPU where it was, and those that are gone.
        remembered = await store.load()
        here = {(row["uuid"], row["cluster"], row["node"]) for row in old["gpuid_placements"] if row["until"] is None}
        assert {(gpu.uuid, *node.place) for node in remembered.nodes for gpu in node.gpus} == here
        assert set(remembered.absent) == {row["uuid"] for row in old["gpuid_ghosts"]}

        # The history.
        changes = await store.history.latest_changes(limit=1000)
        assert Counter(change.event for change in changes) == Counter(row["event"] for row in old["gpuid_changes"])
        (moved,) = (row for row in old["gpuid_changes"] if row["event"] == "moved")
        places = [(one.cluster, one.node) for one in await store.history.where(moved["uuid"])]
        assert sorted(places) == sorted(
            (row["cluster"], row["node"]) for row in old["gpuid_placements"] if row["uuid"] == moved["uuid"]
        )
        _, marks = await store.marks.in_force()
        assert [mark.ticket for mark in marks] == [row["ticket"] for row in old.get("gpuid_marks", ())]

        # What the sinks have not got, from where their cursors are.
        sinks = {one.sink: one for one in await store.outbox.sinks()}
        cursors = {row["name"]: row["cursor"] for row in old["gpuid_sinks"]}
        for name in ("lake", "late"):
            assert sinks[name].records == sum(row["id"] > cursors[name] for row in old["gpuid_changes"])
        batch, readings = [await store.outbox.next_batch(name, 1000) for name in ("late", "raw")]
        assert batch is not None
        assert readings is not None
        uuids = [row["uuid"] for row in old["gpuid_changes"]]
        assert [record.uuid for record in batch.records] == uuids[: len(batch.records)]
        assert readings.records[0].uuid in uuids
        letters = await store.outbox.dead_letters("lake")
        assert [letter.id for letter in letters] == [row["id"] for row in old["gpuid_dead_letters"]]
        letter = await store.outbox.show(letters[0].id)
        assert letter is not None
        assert letter.records


def test_every_schema_has_rows_written_by_a_collector() -> None:
    assert [f"{number:04}" for number in range(1, int(schema.HEAD) + 1)] == VERSIONS, "python -m tests.store.record"


async def test_what_a_downgrade_deletes_is_known_beforehand() -> None:
    undone = {one.schema: one.lost for one in undone_by("0001")}
    assert next(iter(undone)) == schema.HEAD
    assert undone["0006"] == "marks"
    assert undone["0009"] == ""
    assert undone_by(schema.HEAD) == []
    with pytest.raises(StoreError, match=rf"^no schema 0815: this gpuid knows 0001 to {schema.HEAD}$"):
        undone_by("0815")


async def test_the_documentation_lists_what_a_downgrade_deletes() -> None:
    table = "<!-- schemas -->\n| from schema | to | what is deleted |\n|---|---|---|\n"
    for one in undone_by("0001"):
        if one.lost:
            table += f"| {one.schema} | {int(one.schema) - 1:04} | {one.lost} |\n"
    assert f"{table}\n" in UPGRADING


async def test_a_store_in_use_is_not_downgraded(settings: StoreSettings) -> None:
    async with Store.open(settings) as store:
        await store.leadership.ask()
        with pytest.raises(StoreError, match=r"in use by another gpuid|stop all collectors first"):
            await downgrade(settings, "0008")
    for _ in range(2):  # the second time, nothing is left to do
        await downgrade(settings, "0008")
    with pytest.raises(StoreError, match="has schema 0008; a collector updates it when it starts"):
        await downgrade(settings, "0009")
    async with Store.open(settings):
        pass


async def test_a_standby_that_takes_the_lead_prevents_a_downgrade(
    postgres_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after only the leader was stopped, nobody holds the lease."""
    settings = StoreSettings(url=postgres_server.new_database())
    looks = 0

    async def wait(_seconds: float) -> None:
        nonlocal looks
        looks += 1
        await standby.leadership.ask()

    async with contextlib.AsyncExitStack() as stack:
        async with Store.open(settings) as leader:
            await leader.leadership.ask()
            standby = await stack.enter_async_context(Store.open(settings))
        monkeypatch.setattr(downgrades, "WATCH_SECONDS", 60.0)
        monkeypatch.setattr("collector.store.downgrade.anyio.sleep", wait)
        with pytest.raises(StoreError, match="uses it; stop all collectors first"):
            await downgrade(settings, "0008")
    assert looks == 1
    assert await described(settings, version_of) == schema.HEAD


async def test_an_older_store_is_downgraded_without_updating_first(settings: StoreSettings) -> None:
    await write_old_store(settings, "0009")
    before = await described(settings, tables_of), await described(settings, rows_of)
    async with used_by_an_older_collector(settings):
        with pytest.raises(StoreError, match=r"in use by another gpuid|gpuid-0 uses it; stop all collectors first"):
            await downgrade(settings, "0008")
        assert (await described(settings, tables_of), await described(settings, rows_of)) == before
    await downgrade(settings, "0008")
    assert await described(settings, version_of) == "0008"


async def test_a_lease_from_before_the_clock_was_set_back_uses_no_store(postgres_server: Any) -> None:
    settings = StoreSettings(url=postgres_server.new_database())
    await write_old_store(settings, "0009")
    async with used_by_an_older_collector(settings, seconds=3600):
        await downgrade(settings, "0008")
        assert await described(settings, version_of) == "0008"


@contextlib.asynccontextmanager
async def used_by_an_older_collector(settings: StoreSettings, seconds: float = 25.0) -> AsyncIterator[None]:
    """Hold the lock of an SQLite file, or for this time the lease in PostgreSQL, which is valid for at most 30 s."""
    location = locate(settings.url)
    if isinstance(location, SqliteLocation):
        descriptor = claim(location.path)
        yield
        os.close(descriptor)
        return
    lease = (
        "INSERT INTO gpuid_leases (name, holder, token, expires, recording)"
        " VALUES ('leader', 'gpuid-0', '1', :expires, true)"
    )
    async with Database.open(settings, OpenMode.TRIAL) as database:
        async with database.write() as connection:
            await connection.execute(text(lease), {"expires": time.time() + seconds})
        yield
        async with database.write() as connection:
            await connection.execute(text("DELETE FROM gpuid_leases"))


async def test_a_backup_that_is_interrupted_leaves_nothing(
    sqlite_settings: StoreSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_old_store(sqlite_settings, VERSIONS[-1])
    began, end = threading.Event(), threading.Event()

    def copy(*_: Any) -> None:
        began.set()
        end.wait(60)

    monkeypatch.setattr("collector.store.downgrade._copy", copy)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(backup, sqlite_settings, tmp_path / "copy.db")
            await anyio.to_thread.run_sync(began.wait, 60)
            assert [file.name for file in tmp_path.glob("*copy.db*")]  # noqa: ASYNC240
            group.cancel_scope.cancel()
        assert not end.is_set()
        assert not [file.name for file in tmp_path.glob("*copy.db*")]  # noqa: ASYNC240
    finally:
        end.set()


async def test_a_backup_of_a_store_in_use_is_a_store(sqlite_settings: StoreSettings, tmp_path: Path) -> None:
    await write_old_store(sqlite_settings, VERSIONS[-1])
    target = tmp_path / "copy.db"
    async with Store.open(sqlite_settings):
        assert await backup(sqlite_settings, target) == target.stat().st_size
    assert target.stat().st_mode & 0o777 == 0o600
    assert not [side for side in SIDE_FILES if target.with_name(f"copy.db{side}").exists()]
    with pytest.raises(StoreError, match=r"copy\.db: already exists; choose another file"):
        await backup(sqlite_settings, target)
    async with Store.open(StoreSettings(url=f"sqlite://{target}")) as store:
        assert len((await store.load()).nodes) == 5


async def test_postgresql_backups_are_left_to_pg_dump() -> None:
    with pytest.raises(StoreError, match="use pg_dump to back up PostgreSQL"):
        await backup(StoreSettings(url="postgresql://db/gpuid"), None)  # type: ignore[arg-type]
