"""Downgrades a store to the schema of an older gpuid, and backs up an SQLite store while it is in use."""

import importlib
import logging
import os
import pkgutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import anyio
import anyio.to_thread
from sqlalchemy import Connection, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.config.store import SqliteLocation, StoreSettings, locate
from collector.store import schema
from collector.store.database import Database, OpenMode
from collector.store.errors import DamagedStoreError, StoreError, explain
from collector.store.files import check_end, verify
from collector.store.leadership import is_valid
from collector.store.migrate import check_complete, is_current, migrate_down, version_of
from collector.store.schema import HEAD

__all__ = ["WATCH_SECONDS", "Undone", "backup", "downgrade", "undone_by", "undone_in"]

WATCH_SECONDS = 6.0  # before a downgrade; standbys ask for the lead every second, and may wait 5 s for the server
_LOOK_SECONDS = 0.5

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


async def undone_in(settings: StoreSettings, to: str) -> list[Undone]:
    """Return what a downgrade of a store takes back, the newest first; raises StoreError."""
    known = undone_by(to)
    with _refusing_damage("nothing was changed"):
        async with Database.open(settings, OpenMode.TRIAL) as database, database.read() as connection:
            version = await connection.run_sync(version_of) or ""
    if version < to:
        has = f"has schema {version}" if version else "is empty"
        raise StoreError(f"store {database.location}: {has}; a collector updates it when it starts")
    return [one for one in known if one.schema <= version]


async def downgrade(settings: StoreSettings, to: str) -> None:
    """Downgrade a store to a schema, atomically; no collector may be using it. Raises StoreError.

    On PostgreSQL it first waits WATCH_SECONDS for a standby to take the lead.
    """
    if not await undone_in(settings, to):
        return
    with _refusing_damage("nothing was changed"):
        await _check_unused(settings)
        async with Database.open(settings, OpenMode.DOWNGRADE) as database, database.write() as connection:
            if not database.single_process:
                await connection.execute(_NO_TIMEOUT)
                await _check_leases(connection, database)
            await connection.run_sync(_downgrade, to)


async def backup(settings: StoreSettings, target: Path) -> int:
    """Copy an SQLite store to a new file, even while a collector uses it; return its size. Raises StoreError."""
    location = locate(settings.url)
    if not isinstance(location, SqliteLocation):
        raise StoreError(f"store {location}: use pg_dump to back up PostgreSQL")
    with _refusing_damage("there is no backup of it"):
        async with Database.open(settings, OpenMode.TRIAL) as database, database.read() as connection:
            if await connection.run_sync(version_of) is None:
                raise StoreError(f"store {location}: it is empty; the collector creates its tables at its first start")
            if await connection.run_sync(is_current):
                await connection.run_sync(check_complete, location)
        await anyio.to_thread.run_sync(check_end, location.path)
        with _created(target) as part:
            await anyio.to_thread.run_sync(_copy, location, part, target, abandon_on_cancel=True)
    return target.stat().st_size  # noqa: ASYNC240  it was just written


@contextmanager
def _refusing_damage(outcome: str) -> Iterator[None]:
    try:
        yield
    except DamagedStoreError as error:
        what = str(error).partition("; ")[0]
        raise StoreError(f"{what}; {outcome}; restore an earlier backup, or use the sqlite3 tool's .recover") from error


@contextmanager
def _created(target: Path) -> Iterator[Path]:
    """Lend a private file that becomes the target at the end, and is deleted where something fails before."""
    if os.path.lexists(target):
        raise StoreError(f"{target}: already exists; choose another file")
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(descriptor)
        part = Path(name)
        try:
            yield part
            part.rename(target)
        except BaseException:
            part.unlink()
            raise
    except OSError as error:
        raise StoreError(f"{target}: {error.strerror}") from None


def _copy(location: SqliteLocation, part: Path, target: Path) -> None:
    uri = f"file:{quote(str(location.path))}?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as source, closing(sqlite3.connect(part)) as copy:
            copy.execute("PRAGMA journal_mode = MEMORY")  # no journal is left where the process is killed
            source.backup(copy)  # of one state: in parts, each commit in between would begin it again
            copy.execute("PRAGMA journal_mode = DELETE")  # the copy is one file
        verify(part)  # page by page, damage is copied as well
    except DamagedStoreError as error:
        raise DamagedStoreError(f"store {location}: the file is damaged") from error
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith("SQLITE_FULL"):
            raise StoreError(f"{target}: disk full; free some space, or choose another file") from error
        if name.startswith(_WRITING):
            raise StoreError(f"{target}: I/O error; check the disk, or choose another file") from error
        raise explain(error, location) from error


def _downgrade(connection: Connection, to: str) -> None:
    began = time.monotonic()
    migrate_down(connection, to)
    log.info(
        "the store's tables are those of an older version",
        extra={"schema": to, "seconds": round(time.monotonic() - began, 1)},
    )


async def _check_unused(settings: StoreSettings) -> None:
    """Check that no collector uses a store: a standby takes the lead within a second or two of its becoming free."""
    async with Database.open(settings, OpenMode.TRIAL) as database:
        if database.single_process:  # the file's lock shows it
            return
        ends = time.monotonic() + WATCH_SECONDS
        while True:
            last = time.monotonic() >= ends
            async with database.read() as connection:
                await _check_leases(connection, database)
            if last:
                return
            await anyio.sleep(_LOOK_SECONDS)


async def _check_leases(connection: AsyncConnection, database: Database) -> None:
    holder = await connection.scalar(_HOLDER)
    if holder is not None:
        raise StoreError(f"store {database.location}: {holder} uses it; stop all collectors first")


_WRITING = ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC", "SQLITE_IOERR_TRUNCATE")
_NO_TIMEOUT = text("SELECT set_config('statement_timeout', '0', true)")
_HOLDER = select(schema.leases.c.holder).where(is_valid).order_by(schema.leases.c.name).limit(1)
