"""Whether a collector could use a store, found out without writing to it."""

import contextlib
import shutil
import sqlite3

import asyncpg
import pytest
from sqlalchemy import text

from collector.store import Store, StoreError, StoreSettings, Subscription, check
from collector.store.schema import HEAD

pytestmark = pytest.mark.anyio


async def test_a_missing_database_will_be_created(settings, sqlite_settings, tmp_path):
    assert await check(settings) in (
        "created by the collector at its first start",
        "tables created by the collector at its first start",
    )
    assert list(tmp_path.iterdir()) == []


async def test_a_store_in_use_by_a_collector_passes(settings, collecting):
    async with collecting(settings):
        assert await check(settings) == "tables are up to date"


async def test_a_store_of_a_newer_version_is_refused(settings, collecting):
    async with collecting(settings) as one, one.store.database.write() as connection:
        await connection.exec_driver_sql("UPDATE gpuid_schema SET version_num = '9999'")
    with pytest.raises(StoreError, match=rf"created by a newer gpuid \(schema 9999, this one knows {HEAD}\)"):
        await check(settings)


async def test_another_programs_database_is_refused(sqlite_settings, tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "gpuid.db")) as connection:
        connection.execute("CREATE TABLE other (x)")
    with pytest.raises(StoreError, match="it is another program's database"):
        await check(sqlite_settings)


async def test_damaged_rows_do_not_fail_the_check(settings, collecting, caplog):
    async with collecting(settings) as one:
        one.read("a", 10.0, "1")
        assert await one.store.history_writer.flushed(10)
        async with one.store.database.write() as connection:
            await connection.execute(text("UPDATE gpuid_nodes SET snapshot = :bytes"), {"bytes": b"no node"})
    assert await check(settings) == "tables are up to date"
    assert "damaged row in the store" in caplog.text


async def test_a_full_disk_is_reported(sqlite_settings, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 10**9 - 4096, 4096))
    with pytest.raises(StoreError, match="disk full; free some space"):
        await check(sqlite_settings)


async def test_a_file_that_is_not_a_database_is_refused(sqlite_settings, tmp_path):
    (tmp_path / "gpuid.db").write_text("not a database at all" * 100)
    with pytest.raises(StoreError, match="not a database; move it away"):
        await check(sqlite_settings)


async def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"nowhere does not exist; create it or fix store\.url"):
        await check(StoreSettings(url=f"sqlite://{tmp_path}/nowhere/gpuid.db"))


async def test_a_path_that_is_not_a_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file is not a directory; choose another store\.url"):
        await check(StoreSettings(url=f"sqlite://{tmp_path}/file/gpuid.db"))


@pytest.fixture
async def as_user(postgres_server):
    """Run statements as the owner of an empty database, and give a user's settings for it."""
    url = postgres_server.new_database()

    async def as_user(name, *statements, tables):
        async with contextlib.AsyncExitStack() as stack:
            if tables:
                await stack.enter_async_context(Store.open(StoreSettings(url=url)))
            connection = await asyncpg.connect(url)
            try:
                for statement in (f"DROP ROLE IF EXISTS {name}", f"CREATE ROLE {name} LOGIN", *statements):
                    await connection.execute(statement)
            finally:
                await connection.close()
        return StoreSettings(url=url.replace("gpuid@", f"{name}@"))

    return as_user


async def test_missing_postgres_rights_to_create_tables_are_reported(as_user):
    settings = await as_user("maker", "REVOKE CREATE ON SCHEMA public FROM PUBLIC", tables=False)
    with pytest.raises(StoreError, match="grant the user CREATE on the schema"):
        await check(settings)
    with pytest.raises(StoreError, match="grant the user CREATE on the schema"):
        async with Store.open(settings):
            pass


async def test_existing_postgres_tables_need_no_right_to_create_tables(as_user):
    settings = await as_user(
        "worker",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO worker",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO worker",
        tables=True,
    )
    assert await check(settings) == "tables are up to date"
    async with Store.open(settings) as store:
        assert store.leadership.leads
        await store.reconcile({"lake": Subscription("changes", False)})


async def test_missing_postgres_rights_to_write_are_reported(as_user):
    settings = await as_user(
        "looker",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO looker",
        "GRANT CREATE ON SCHEMA public TO looker",
        tables=True,
    )
    told = "grant the user SELECT, INSERT, UPDATE and DELETE on the tables and USAGE on their sequences"
    with pytest.raises(StoreError, match=told):
        await check(settings)
    with pytest.raises(StoreError, match=told):
        async with Store.open(settings):
            pass


async def test_missing_postgres_rights_on_sequences_are_reported(as_user):
    settings = await as_user(
        "counter", "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO counter", tables=True
    )
    with pytest.raises(StoreError, match="USAGE on their sequences"):
        await check(settings)


@pytest.mark.parametrize("tables", [False, True])
async def test_a_check_leaves_nothing_behind(as_user, tables):
    settings = await as_user("gpuid_checker", "GRANT gpuid TO gpuid_checker", tables=tables)
    for _ in range(2):
        await check(settings)
    connection = await asyncpg.connect(settings.url)
    try:
        assert bool(await connection.fetchval("SELECT to_regclass('gpuid_leases')")) == tables
        if tables:
            assert await connection.fetchval("SELECT count(*) FROM gpuid_leases WHERE name <> 'leader'") == 0
    finally:
        await connection.close()


async def test_a_read_only_postgres_is_refused_by_check_and_run_alike(as_user):
    settings = await as_user("guest", "ALTER ROLE guest SET default_transaction_read_only = on", tables=True)
    for refused in (check(settings), run(settings)):
        with pytest.raises(StoreError, match="the server is read-only or a replica; use the primary"):
            await refused


async def run(settings):
    async with Store.open(settings):
        pass


async def test_an_unreachable_postgres_is_reported():
    with pytest.raises(StoreError, match="cannot reach the server"):
        await check(StoreSettings(url="postgresql://gpuid@127.0.0.1:1/gpuid"))
