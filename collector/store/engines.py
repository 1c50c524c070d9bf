"""SQLAlchemy engines for SQLite and PostgreSQL, with the settings of their connections."""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio.to_thread
from sqlalchemy import URL, AsyncAdaptedQueuePool, Compiled, Connection, Select, Update, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import PoolResetState

from collector.config.libpq import connection_options
from collector.config.store import PostgresLocation
from collector.files import UnreadableFileError, in_time, read_secret
from collector.postgres import Connector
from collector.store.errors import StoreError
from collector.store.files import BUSY_TIMEOUT_SECONDS, DAMAGED_TEXT
from collector.tls import client_context

__all__ = [
    "STATEMENT_TIMEOUT_SECONDS",
    "execute_alone",
    "fetch_alone",
    "postgres_engine",
    "read_password",
    "run_in_driver",
    "sqlite_engine",
]

CONNECT_TIMEOUT_SECONDS = 10.0  # to PostgreSQL, unless the URL says otherwise
STATEMENT_TIMEOUT_SECONDS = 60  # on PostgreSQL, for both ends
_UNFINISHED = "unfinished"  # set while a statement runs outside a transaction, and left so if nobody waits for its end


def sqlite_engine(path: Path, *, read_only: bool, begin: str, connections: int, cache: int) -> AsyncEngine:
    """Return an engine whose connections cache `cache` KiB of pages each; the system caches the others."""
    query = {"uri": "true"}
    if read_only:
        query["mode"] = "ro"
        if not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists():
            query["immutable"] = "1"  # no writer exists, and we may not create the files shared by readers
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database="file:" + quote(str(path)), query=query),
        connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT_SECONDS, "factory": _DriverConnection},
        poolclass=AsyncAdaptedQueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_reset_on_return=None,
    )

    @event.listens_for(engine.sync_engine, "reset")
    def reset(connection: Any, record: Any, state: PoolResetState) -> None:
        # SQLAlchemy itself always goes to the driver's thread and back for this.
        if not state.asyncio_safe:  # nobody returned it, so it is closed
            return
        if record.info.pop(_UNFINISHED, False) or _in_transaction(connection.driver_connection):
            connection.rollback()

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        connection.driver_connection.text_factory = DAMAGED_TEXT
        cursor = connection.cursor()
        # NORMAL keeps every commit if the process is killed, because it is in the system's memory by then. If the
        # whole machine loses power, the last commits may be missing, but the file remains intact.
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute(f"PRAGMA cache_size = -{cache}")
        cursor.execute("PRAGMA journal_size_limit = 67108864")  # size to which the log is truncated after a large write
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def start(connection: Connection) -> None:
        # Python's own BEGIN comes too late, at the first write, and a write that starts as a read can be rejected.
        connection.exec_driver_sql(begin)

    return engine


def postgres_engine(
    location: PostgresLocation,
    password_file: Path | None,
    *,
    connections: int = 5,
    ping: bool = True,
    seconds: float | None = STATEMENT_TIMEOUT_SECONDS,
) -> AsyncEngine:
    """Return an engine that tests connections before each use if `ping`, and reads the password at each connect.

    No statement takes longer than `seconds`, unless that is None.
    """
    options = connection_options(location.url)
    connector = Connector(options, timeout=options.connect_timeout or CONNECT_TIMEOUT_SECONDS)

    async def connect(*_args: object, **_kwargs: object) -> Any:
        return await connector.connect(
            ssl=client_context() if options.system_authorities else None,
            command_timeout=seconds,
            password=None if password_file is None else await read_password(password_file),
            statement_cache_size=0,
        )

    return create_async_engine(
        "postgresql+asyncpg://",
        # No statement outlives its transaction, so that a pooler may give the next one another connection.
        connect_args={
            "async_creator_fn": connect,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": str,  # the unnamed one
        },
        poolclass=AsyncAdaptedQueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_pre_ping=ping,
    )


async def execute_alone(connection: AsyncConnection, statement: Update, values: Mapping[str, Any]) -> int:
    """Run one statement on SQLite outside a transaction; returns how many rows it changed.

    The driver takes each call to a thread and back: this is one, and SQLAlchemy's transaction would be eight.
    """
    driver: Any = (await connection.get_raw_connection()).driver_connection
    with _reporting_closed():
        before = driver.total_changes
        await _fetched(connection, driver, statement, values)
        return int(driver.total_changes - before)


async def fetch_alone(
    connection: AsyncConnection, statement: Select[Any], values: Mapping[str, Any]
) -> Sequence[Sequence[Any]]:
    """Return the rows that one statement selects on SQLite outside a transaction, likewise."""
    driver = (await connection.get_raw_connection()).driver_connection
    with _reporting_closed():
        return await _fetched(connection, driver, statement, values)


async def run_in_driver(connection: AsyncConnection, work: Callable[..., object], *arguments: Any) -> None:
    """Call a function with SQLite's own connection and these arguments, in the driver's thread.

    Many statements then take one call of the driver instead of several each.
    """
    driver: Any = (await connection.get_raw_connection()).driver_connection
    with _reporting_closed():
        await driver.executemany(work, arguments)


class _DriverConnection(sqlite3.Connection):
    """SQLite's connection, whose `executemany` also takes a function: aiosqlite runs nothing else in its thread."""

    def executemany(self, sql: Any, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        if isinstance(sql, str):
            return super().executemany(sql, parameters)
        sql(self, *parameters)
        return self.cursor()


async def _fetched(
    connection: AsyncConnection, driver: Any, statement: Select[Any] | Update, values: Mapping[str, Any]
) -> Sequence[Sequence[Any]]:
    compiled = _compiled(statement)
    connection.info[_UNFINISHED] = True
    found: Sequence[Sequence[Any]] = await driver.execute_fetchall(str(compiled), compiled.construct_params(values))
    connection.info.pop(_UNFINISHED, None)
    return found


def _in_transaction(driver: Any) -> bool:
    try:
        return bool(driver.in_transaction)
    except (ValueError, sqlite3.Error):  # it is closed, which rolling back reports
        return True


@contextmanager
def _reporting_closed() -> Iterator[None]:
    """Raise sqlite3.OperationalError if the connection is closed, as SQLAlchemy's dialect does."""
    try:
        yield
    except ValueError as error:
        raise sqlite3.OperationalError(str(error)) from error


@cache
def _compiled(statement: Select[Any] | Update) -> Compiled:
    return statement.compile(dialect=sqlite.dialect(paramstyle="named"))


async def read_password(path: Path) -> str:
    """Return the password in a file; raises StoreError."""
    try:
        # In a thread: a hanging file system must not block anything else.
        asked = partial(in_time, path, partial(read_secret, path))
        return await anyio.to_thread.run_sync(asked, abandon_on_cancel=True)
    except (UnreadableFileError, OSError) as error:
        raise StoreError(f"store.password_file {path}: {error}") from None
