"""The connections to SQLite or PostgreSQL: opened, migrated, read and written, with every failure mapped to ours."""

import fcntl
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from enum import Enum
from pathlib import Path
from typing import Any, Self

import anyio
import asyncpg
from sqlalchemy import Table, event, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from collector.store import schema
from collector.store.errors import FOREIGN, StoreError, explain
from collector.store.migrate import is_current, migrate
from collector.store.settings import PostgresLocation, SqliteLocation, StoreSettings, locate

__all__ = ["Access", "Database"]


class Access(Enum):
    """What a store is opened for."""

    COLLECTOR = "collector"  # everything; the one process that records into an SQLite file
    OPERATOR = "operator"  # reading, and mending the outbox beside a running collector
    READER = "reader"  # reading only


class Database:
    """One open store; made by `Database.open`.

    Reads and writes run shielded from cancellation, because they are short and a connection that is left half-way is
    good for nobody. A write is one transaction, and there is one at a time.
    """

    def __init__(self, location: SqliteLocation | PostgresLocation, engine: AsyncEngine, writable: bool) -> None:
        self.location = location
        self.id = ""  # random, and the store's for ever
        self._engine = engine
        self._writable = writable
        self._lock = anyio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: StoreSettings, access: Access) -> AsyncIterator[Self]:
        """Open a store, as a collector creating and migrating it; raises StoreError."""
        location = locate(settings.url)
        async with AsyncExitStack() as stack:
            try:
                if isinstance(location, SqliteLocation):
                    if access is Access.COLLECTOR:
                        stack.callback(os.close, _claim(location.path))
                    engine = _sqlite(location.path, access)
                else:
                    engine = _postgres(location, settings.password_file, access)
                stack.push_async_callback(_dispose, engine)
                database = cls(location, engine, access is not Access.READER)
                await database._prepare(access)
            except FOREIGN as error:
                raise explain(error, location) from error
            yield database

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection that sees one state of the store; raises StoreError."""
        with anyio.CancelScope(shield=True):
            try:
                async with self._engine.connect() as connection:
                    yield connection
            except FOREIGN as error:
                raise explain(error, self.location) from error

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection in a transaction, which is committed at the end of the block; raises StoreError."""
        if not self._writable:
            raise StoreError(f"store {self.location}: it was opened for reading only")
        with anyio.CancelScope(shield=True):
            async with self._lock:
                try:
                    async with self._engine.begin() as connection:
                        await self._begin_write(connection)
                        yield connection
                except FOREIGN as error:
                    raise explain(error, self.location) from error

    def insert(self, table: Table) -> Any:
        """Begin an INSERT that can say what to do on conflict, which each engine says in its own way."""
        return (postgresql if self._engine.dialect.name == "postgresql" else sqlite).insert(table)

    async def _begin_write(self, connection: AsyncConnection) -> None:
        if isinstance(self.location, PostgresLocation):
            # One writer at a time among replicas too: ids must be committed in their order, or a cursor passes over
            # those that were taken early and committed late.
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": schema.APPLICATION_ID})
        elif not connection.info.get("claimed"):
            await connection.exec_driver_sql("ROLLBACK")
            await connection.exec_driver_sql("BEGIN IMMEDIATE")

    async def _prepare(self, access: Access) -> None:
        if access is Access.COLLECTOR:
            async with self.write() as connection:
                await connection.run_sync(migrate, self.location)
                await connection.execute(
                    self.insert(schema.facts)
                    .values(name="id", value=secrets.token_hex(16))
                    .on_conflict_do_nothing(index_elements=["name"])
                )
        async with self.read() as connection:
            if access is not Access.COLLECTOR:
                await connection.run_sync(is_current, self.location)
            found = await connection.scalar(select(schema.facts.c.value).where(schema.facts.c.name == "id"))
            self.id = str(found)


def _claim(path: Path) -> int:
    """Make sure that no other collector writes the file; the lock goes when its file descriptor does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(path.name + ".lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
        os.close(descriptor)
        which = f" (process {holder})" if holder else ""
        raise StoreError(
            f"store {path}: another gpuid{which} records into it; stop that one, or choose another store.url"
        ) from None
    except OSError:
        os.close(descriptor)
        raise
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor
