"""Statements that go to SQLite's driver without a transaction of SQLAlchemy."""

import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.store import Store, StoreSettings, schema
from collector.store.engines import execute_alone, fetch_alone, sqlite_engine

pytestmark = pytest.mark.anyio

MOVE = update(schema.sinks).values(cursor=1)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with Store.open(StoreSettings(url=f"sqlite://{tmp_path}/gpuid.db")) as store:
        yield store


async def driver_of(connection: AsyncConnection) -> Any:
    return (await connection.get_raw_connection()).driver_connection


async def test_a_connection_that_was_closed_is_reported_as_an_error_of_the_database(store: Store) -> None:
    async with store.database.read() as connection:
        await (await driver_of(connection)).close()
        with pytest.raises(sqlite3.OperationalError):
            await execute_alone(connection, MOVE, {})
        with pytest.raises(sqlite3.OperationalError):
            await fetch_alone(connection, select(schema.sinks.c.name), {})


async def test_a_statement_alone_goes_to_the_driver_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    execute = aiosqlite.Connection._execute

    async def counting(self: aiosqlite.Connection, function: Any, *arguments: Any, **named: Any) -> Any:
        calls.append(function.__name__)
        return await execute(self, function, *arguments, **named)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counting)
    async with store.database.write(begin=False) as connection:
        await execute_alone(connection, MOVE, {})
    assert calls == ["_execute_fetchall"]


async def test_a_transaction_that_was_left_open_is_rolled_back(store: Store) -> None:
    async with store.database.write(begin=False) as connection:
        driver = await driver_of(connection)
        await driver.execute("BEGIN IMMEDIATE")
        await driver.execute("INSERT INTO gpuid_facts (name, value) VALUES ('left', 'open')")
    assert not driver.in_transaction
    async with store.database.read() as connection:
        assert (await connection.execute(select(schema.meta).where(schema.meta.c.name == "left"))).all() == []


async def test_a_connection_is_not_lent_again_while_it_runs_a_statement_that_was_given_up(tmp_path: Path) -> None:
    engine = sqlite_engine(tmp_path / "some.db", read_only=False, begin="BEGIN", connections=1, cache=100)
    begun, ended, returned = threading.Event(), threading.Event(), anyio.Event()

    def hang() -> None:
        begun.set()
        ended.wait(60)

    async def borrow(scope: anyio.CancelScope) -> None:
        async with engine.connect() as connection:
            await (await driver_of(connection)).create_function("hang", 0, hang)
            with scope:
                await fetch_alone(connection, select(func.hang()), {})
        returned.set()

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(borrow, scope := anyio.CancelScope())
            assert await anyio.to_thread.run_sync(begun.wait, 60)
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert not returned.is_set()
            ended.set()
    finally:
        ended.set()
        await engine.dispose()
    assert returned.is_set()
