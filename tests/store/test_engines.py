"""Statements that go to SQLite's driver without a transaction of SQLAlchemy."""

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import select, update

from collector.store import Store, StoreSettings, schema
from collector.store.engines import execute_alone, fetch_alone

pytestmark = pytest.mark.anyio


async def test_a_connection_that_was_closed_is_reported_as_an_error_of_the_database(tmp_path: Path) -> None:
    async with (
        Store.open(StoreSettings(url=f"sqlite://{tmp_path}/gpuid.db")) as store,
        store.database.read() as connection,
    ):
        await (await connection.get_raw_connection()).driver_connection.close()  # type: ignore[union-attr]
        with pytest.raises(sqlite3.OperationalError):
            await execute_alone(connection, update(schema.sinks).values(cursor=1), {})
        with pytest.raises(sqlite3.OperationalError):
            await fetch_alone(connection, select(schema.sinks.c.name), {})
