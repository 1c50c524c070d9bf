"""Checks whether a collector could use a store, without leaving a trace in it."""

import os
import secrets
import shutil
from pathlib import Path

from sqlalchemy import select, text, update

from collector.config.store import PostgresLocation, SqliteLocation, StoreSettings, locate
from collector.store.database import Database, OpenMode
from collector.store.errors import GRANT_CREATE, GRANT_OWNER, GRANT_WRITE, StoreError
from collector.store.files import check_folder
from collector.store.migrate import TO_BE_CREATED, UP_TO_DATE, migrate, stage
from collector.store.schema import APPLICATION_ID, METADATA, meta
from collector.store.store import Store

__all__ = ["check"]

MIN_FREE_BYTES = 16 << 20  # below this, a store cannot grow at all


async def check(settings: StoreSettings) -> str:
    """Check that the store is reachable and writable, without changing it; raises StoreError.

    Returns a short summary for users.
    """
    location = locate(settings.url)
    if isinstance(location, PostgresLocation):
        found = await _check_postgres(settings, location)
    else:
        _check_rights(location.path)
        if not location.path.exists():
            return "created by the collector at its first start"
        found = await _check_sqlite(settings, location)
    if found == UP_TO_DATE:
        async with Store.open(settings, OpenMode.READER) as store:
            await store.load()  # as a collector does when it starts
    return found


async def _check_sqlite(settings: StoreSettings, location: SqliteLocation) -> str:
    async with Database.open(settings, OpenMode.TRIAL) as database, database.read() as connection:
        mark = await connection.scalar(text("PRAGMA application_id"))
        tables = await connection.scalar(text("SELECT count(*) FROM sqlite_master"))
        if tables and mark != APPLICATION_ID:
            raise StoreError(f"store {location}: it is another program's database; choose another store.url")
        return await connection.run_sync(stage, location)


async def _check_postgres(settings: StoreSettings, location: PostgresLocation) -> str:
    async with Database.open(settings, OpenMode.TRIAL) as database:
        async with database.read() as connection:
            found = await connection.run_sync(stage, location)
            if found != UP_TO_DATE:
                if not await connection.scalar(_MAY_CREATE):
                    raise StoreError(f"store {location}: no privilege to create or alter tables; {GRANT_CREATE}")
                if not await connection.scalar(_MAY_ALTER):
                    raise StoreError(f"store {location}: no privilege to alter its tables; {GRANT_OWNER}")
            elif not (await connection.scalar(_MAY_WRITE) and await connection.scalar(_MAY_COUNT)):
                raise StoreError(f"store {location}: no privilege to write to its tables; {GRANT_WRITE}")
        # Two concurrent transactions and one after both: behind a pooler each may use a different connection.
        async with database.read() as connection:
            await connection.scalar(_BACKEND)
            await _try_out(database, create=found == TO_BE_CREATED)
        async with database.read() as connection:
            await connection.scalar(_BACKEND)
        return found


async def _try_out(database: Database, *, create: bool) -> None:
    """Do what a collector does, up to the commit: create the tables, write and change a row; raises StoreError.

    Tables of an older version are not updated: for a big store that takes a while, during which all others would wait.
    """
    async with database.write() as connection:
        backend = await connection.scalar(_BACKEND)
        if create:
            await connection.run_sync(migrate, database.location)
        name = f"check {secrets.token_hex(8)}"
        here = meta.c.name == name  # a table that all versions have
        await connection.execute(database.insert(meta).values(name=name, value="0"))
        changed = await connection.execute(update(meta).where(here).values(value="1"))
        kept = await connection.scalar(select(meta.c.value).where(here))
        if (changed.rowcount, kept) != (1, "1") or await connection.scalar(_BACKEND) != backend:
            raise StoreError(
                f"store {database.location}: the statements of one transaction do not see each other's rows; "
                "connect to the primary, or through a pooler in session or transaction mode"
            )
        await connection.rollback()


_BACKEND = text("SELECT pg_backend_pid()")
# Without a schema on the search path, nothing can be created.
_MAY_CREATE = text("SELECT coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)")
_MAY_ALTER = text(
    "SELECT coalesce(bool_and(pg_has_role(relowner, 'USAGE')), true) FROM pg_class"
    " WHERE oid = ANY (SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) AS name)"
).bindparams(tables=[table.name for table in METADATA.sorted_tables])
_MAY_WRITE = text(
    "SELECT bool_and(has_table_privilege(oid, needed))"
    " FROM pg_class CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS needed"
    " WHERE oid = ANY (SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) AS name)"
).bindparams(tables=[table.name for table in METADATA.sorted_tables])
_MAY_COUNT = text(
    "SELECT coalesce(bool_and(has_sequence_privilege(pg_get_serial_sequence(name, 'id'), 'USAGE')), true)"
    " FROM unnest(CAST(:tables AS text[])) AS name"
).bindparams(tables=[table.name for table in METADATA.sorted_tables if "id" in table.c])


def _check_rights(path: Path) -> None:
    """Check the file, or else the nearest existing folder above it; raises StoreError."""
    check_folder(path)
    place = next(place for place in (path, *path.parents) if place.exists())
    if place != path and not place.is_dir():
        raise StoreError(f"store {path}: {place} is not a directory; choose another store.url")
    folder = path.parent if place == path else place
    for one in (place, folder):
        if not os.access(one, os.W_OK):
            raise StoreError(
                f"store {path}: {one} is not writable; give this user write permission, or choose another store.url"
            )
    if shutil.disk_usage(folder).free < MIN_FREE_BYTES:
        raise StoreError(f"store {path}: disk full; free some space")
