"""Downgrades a store to the schema of an older gpuid, and backs up an SQLite store while it is in use."""

import importlib
import logging
import os
import pkgutil
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import anyio.to_thread
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.config.store import SqliteLocation, StoreSettings, locate
from collector.end_deadline import EndDeadline
from collector.store.database import Database, OpenMode
from collector.store.errors import StoreError, explain
from collector.store.files import PRIVATE_MODE, check_readable
from collector.store.migrate import migrate_down, version_of
from collector.store.schema import HEAD

__all__ = ["Undone", "backup", "downgrade", "undone_by"]

log = logging.getLogger(__name__)


class Undone(NamedTuple):
    """One schema version that a downgrade reverts."""

    schema: str
    what: str  # it is about
    lost: str  # deleted data; empty if all of it can be derived again


def undone_by(to: str) -> list[Undone]:
    """Return the schemas that a downgrade reverts, newest first; raises StoreError for an unknown target."""
    from collector.store.migrations import versions  # on demand: they load Alembic

    names = sorted(name for _, name, _ in pkgutil.iter_modules(versions.__path__))
    known = [name[:4] for name in names]
    if to not in known:
        raise StoreError(f"no schema {to}: this gpuid knows {known[0]} to {HEAD}")
    undone = []
    for name in reversed(names[known.index(to) + 1 :]):
        module = importlib.import_module(f"{versions.__name__}.{name}")
        undone.append(Undone(name[:4], (module.__doc__ or "").strip().rstrip("."), module.LOST))
    return undone


async def downgrade(settings: StoreSettings, to: str) -> None:
    """Downgrade a store to a schema, atomically; no collector may be using it. Raises StoreError."""
    undone_by(to)
    async with Database.open(settings, OpenMode.TRIAL) as database, database.read() as connection:
        version = await connection.run_sync(version_of) or ""
        if version == to:
            return
        if version < to:
            has = f"has schema {version}" if version else "is empty"
            raise StoreError(f"store {database.location}: {has}; a collector updates it when it starts")
    async with Database.open(settings, OpenMode.COLLECTOR, EndDeadline()) as database:
        if database.trouble is not None:
            raise database.trouble
        async with database.write() as connection:
            if not database.single_process:
                await connection.execute(_NO_TIMEOUT)
                if holder := await _leader(connection):
                    raise StoreError(f"store {database.location}: {holder} uses it; stop all collectors first")
            await connection.run_sync(_downgrade, to)


async def backup(settings: StoreSettings, target: Path) -> int:
    """Copy an SQLite store to a new file, even while a collector uses it; return its size. Raises StoreError."""
    location = locate(settings.url)
    if not isinstance(location, SqliteLocation):
        raise StoreError(f"store {location}: use pg_dump to back up PostgreSQL")
    await anyio.to_thread.run_sync(check_readable, location.path)
    return await anyio.to_thread.run_sync(_copy, location, target)


def _copy(location: SqliteLocation, target: Path) -> int:
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, PRIVATE_MODE))
    except FileExistsError:
        raise StoreError(f"{target}: already exists; choose another file") from None
    except OSError as error:
        raise StoreError(f"{target}: {error.strerror}") from None
    uri = f"file:{quote(str(location.path))}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)  # in one step: otherwise each commit in between would restart the copy
            copy.execute("PRAGMA journal_mode = DELETE")  # the copy is one file
    except (sqlite3.Error, OSError) as error:
        target.unlink(missing_ok=True)
        raise explain(error, location) from error
    return target.stat().st_size


def _downgrade(connection: Connection, to: str) -> None:
    began = time.monotonic()
    migrate_down(connection, to)
    log.info(
        "the store's tables are those of an older version",
        extra={"schema": to, "seconds": round(time.monotonic() - began, 1)},
    )


async def _leader(connection: AsyncConnection) -> str:
    """Return the holder of a lease; empty if there is none."""
    found: Sequence[str] = [row[0] for row in await connection.execute(_HOLDERS)]
    return found[0] if found else ""


_NO_TIMEOUT = text("SELECT set_config('statement_timeout', '0', true)")
_HOLDERS = text("SELECT holder FROM gpuid_leases WHERE expires > extract(epoch from clock_timestamp()) ORDER BY name")
