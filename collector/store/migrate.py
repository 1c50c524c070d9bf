"""Migrates a store's tables to the schema of this version of gpuid."""

import logging
import re
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from sqlalchemy import Connection, event, inspect, text
from sqlalchemy.engine.reflection import ObjectKind
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from collector.config.store import PostgresLocation, SqliteLocation
from collector.store.errors import MOVE_AWAY, DamagedStoreError, StoreError
from collector.store.schema import APPLICATION_ID, COMPACT_PARTS, HEAD, METADATA, VERSION_TABLE

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = [
    "TO_BE_CREATED",
    "UP_TO_DATE",
    "check_complete",
    "check_version",
    "is_current",
    "migrate",
    "migrate_down",
    "migrate_shared",
    "stage",
    "version_of",
]

log = logging.getLogger(__name__)

TO_BE_CREATED = "tables created by the collector at its first start"
UP_TO_DATE = "tables are up to date"
MAX_NAMED = 3  # missing tables and columns named in an error
TURN_SECONDS = 0.5  # between two checks whether another collector has updated the tables
SECOND_CONNECTION_SECONDS = 5.0  # after which we do without one
LOCK_SECONDS = 2  # how long a step waits for a lock, while all others queue behind it
_FOLDER = Path(__file__).parent / "migrations"
_INCOMPLETE = ("no such table", "no such column", "has no column named", "already exists")


async def migrate_shared(engine: AsyncEngine, location: PostgresLocation) -> None:
    """Create or update the tables of PostgreSQL while others use them; raises StoreError.

    `engine` has two connections, without a statement timeout. No lock is held for long, and the completed steps of an
    interrupted update are kept.
    """
    async with engine.connect() as other:
        # One collector at a time. None waits for it in a statement: an index is complete only after all statements that
        # were running when it was begun. The same is true of transactions with a snapshot, which this isolation avoids.
        turn = await other.execution_options(isolation_level="READ COMMITTED")
        await turn.execute(_STAY_IDLE)
        is_waiting = False
        while not await turn.scalar(_TRY_TURN):
            if not is_waiting:
                log.info("waiting for another collector to update the store's tables")
                is_waiting = True
            await turn.execute(_LET_GO)
            await anyio.sleep(TURN_SECONDS)
        await turn.execute(_LET_GO)
        async with AsyncExitStack() as stack:
            try:
                with anyio.fail_after(SECOND_CONNECTION_SECONDS):
                    connection = await stack.enter_async_context(engine.connect())
                    await connection.run_sync(is_current)
            except TimeoutError:
                # With a pooler that has a single connection, we would wait forever.
                log.warning("no second connection to update the store's tables; blocking others until it is done")
                await turn.run_sync(migrate, location)
                await turn.commit()
                return
        while not await _migrated(engine, location):
            log.warning("the store's tables are in use; retrying the update", extra={"seconds": LOCK_SECONDS})
            await anyio.sleep(LOCK_SECONDS)


async def _migrated(engine: AsyncEngine, location: PostgresLocation) -> bool:
    """Return whether the tables could be updated; False if others are using them."""
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_migrate_in_steps, location)
    except DBAPIError as error:
        if not _is_in_use(error):
            raise
        return False
    return True


def _is_in_use(error: DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    # A server that still builds an index, for a collector that is gone, unlocks the table before it has committed.
    # Dropping the index then fails with an internal error; PostgreSQL does not translate those.
    return state in _IN_USE or (state == _INTERNAL_ERROR and _CATALOG_CONFLICT in str(error.orig))


def _migrate_in_steps(connection: Connection, location: PostgresLocation) -> None:
    def limit(begun: Connection) -> None:
        begun.execute(_LIMIT_LOCKS)

    event.listen(connection, "begin", limit)
    if is_current(connection):
        return
    connection.rollback()
    migrate(connection, location)


def migrate(connection: Connection, location: SqliteLocation | PostgresLocation) -> None:
    """Create or update the tables, in the connection's transaction if it has one, else in many; raises StoreError."""
    is_shared = not connection.in_transaction()
    version = version_of(connection)
    if version == HEAD:
        return
    if version is not None:
        _refuse_newer(version, location)
        log.info("updating the store's tables", extra={"schema": version, "to": HEAD})
    if is_shared:
        connection.rollback()
    began = time.monotonic()
    # Imported on demand: loading Alembic takes longer than opening an up-to-date store.
    from alembic import command

    config = _alembic(connection, in_steps=is_shared)
    try:
        command.upgrade(config, "head")
    except SQLAlchemyError as error:
        if _is_incomplete(error) and isinstance(location, SqliteLocation):
            raise DamagedStoreError(f"store {location}: the file is damaged ({error.args[0]}){MOVE_AWAY}") from error
        raise
    if version is not None:
        log.info("updated the store's tables", extra={"schema": HEAD, "seconds": round(time.monotonic() - began, 1)})
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")


def migrate_down(connection: Connection, to: str) -> None:
    """Downgrade the tables to an older schema, in the connection's transaction."""
    from alembic import command

    command.downgrade(_alembic(connection, in_steps=False), to)


def is_current(connection: Connection) -> bool:
    """Return whether there is nothing to migrate."""
    return version_of(connection) == HEAD


def _alembic(connection: Connection, *, in_steps: bool) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(connection=connection, in_steps=in_steps)
    return config


def _is_incomplete(error: BaseException) -> bool:
    """Return whether an SQLite error may be caused by missing tables or columns."""
    return any(text in str(error) for text in _INCOMPLETE)


def check_complete(connection: Connection, location: SqliteLocation | PostgresLocation) -> None:
    """Check that all tables and columns exist; raises StoreError, or DamagedStoreError for a file."""
    found = inspect(connection)
    tables = set(found.get_table_names())
    missing: list[str] = []
    if isinstance(location, SqliteLocation):
        missing = _missing_parts(connection)
        if not missing:  # or the columns of a view cannot be found
            tables.update(found.get_view_names())
    names = [name for name in METADATA.tables if name in tables]
    missing += [f"table {name}" for name in METADATA.tables if name not in tables and not missing]
    for found_name, columns in found.get_multi_columns(filter_names=names, kind=ObjectKind.ANY).items():
        there = {column["name"] for column in columns}
        missing += [
            f"column {found_name[1]}.{column.name}"
            for column in METADATA.tables[str(found_name[1])].c
            if column.name not in there
        ]
    if missing:
        named = ", ".join(sorted(missing)[:MAX_NAMED]) + (", …" if len(missing) > MAX_NAMED else "")
        if isinstance(location, SqliteLocation):
            raise DamagedStoreError(f"store {location}: the file is damaged (missing {named}){MOVE_AWAY}")
        raise StoreError(
            f"store {location}: incomplete, missing {named}; restore it from a backup, or choose another store.url"
        )


def _missing_parts(connection: Connection) -> list[str]:
    """Return the missing tables, views and triggers of an SQLite file's placements and changes."""
    rows = connection.exec_driver_sql("SELECT type, name FROM sqlite_master WHERE type IN ('table', 'view', 'trigger')")
    there = {(str(kind), str(name)) for kind, name in rows}
    return [f"{kind} {name}" for kind, name in COMPACT_PARTS if (kind, name) not in there]


def stage(connection: Connection, location: SqliteLocation | PostgresLocation) -> str:
    """Return briefly what a collector's start would do to the tables; raises StoreError if it would fail."""
    version = version_of(connection)
    if version is None:
        return TO_BE_CREATED
    if version != HEAD:
        _refuse_newer(version, location)
        return "tables updated by the collector at its next start"
    return UP_TO_DATE


def check_version(connection: Connection, location: SqliteLocation | PostgresLocation) -> None:
    """Check that this version can read the tables; raises StoreError."""
    version = version_of(connection)
    if version is None:
        raise StoreError(f"store {location}: empty; the collector creates its tables at its first start")
    if version != HEAD:
        _refuse_newer(version, location)
        raise StoreError(
            f"store {location}: created by an older gpuid; start this version's collector once to update it"
        )


def version_of(connection: Connection) -> str | None:
    """Return the schema version of the tables; None if there are no tables."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608
    return None if found is None else str(found)


def _refuse_newer(version: str, location: SqliteLocation | PostgresLocation) -> None:
    if not re.fullmatch(r"\d{4}", version, re.ASCII) and isinstance(location, SqliteLocation):
        raise DamagedStoreError(f"store {location}: the file is damaged (its version cannot be read){MOVE_AWAY}")
    if not any((_FOLDER / "versions").glob(f"{version}_*.py")):
        raise StoreError(
            f"store {location}: created by a newer gpuid (schema {version}, this one knows {HEAD}); "
            f"run that version, let it run `gpuid store downgrade --to {HEAD}`, or choose another store.url"
        )


_IN_USE = ("55P03", "40P01")  # PostgreSQL's SQLSTATEs: lock timeout, and deadlock
_INTERNAL_ERROR = "XX000"
_CATALOG_CONFLICT = "tuple concurrently "  # updated, or deleted
# Overrides the server's limits on slow statements and idle transactions, and its slow detection of dead hosts.
_NO_LIMITS = (
    "SELECT set_config(name, '0', true) FROM pg_settings WHERE name IN"
    " ('statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout')"
)
_KEEPALIVES = (
    "SELECT set_config(name, value, true) FROM (VALUES ('tcp_keepalives_idle', '30'),"
    " ('tcp_keepalives_interval', '10'), ('tcp_keepalives_count', '3')) AS kept (name, value)"
)
_STAY_IDLE = text(f"{_NO_LIMITS} UNION ALL {_KEEPALIVES}")
_LIMIT_LOCKS = text(f"{_NO_LIMITS} UNION ALL SELECT set_config('lock_timeout', '{LOCK_SECONDS}s', true)")
_TRY_TURN = text(f"SELECT pg_try_advisory_xact_lock({APPLICATION_ID + 1})")
# The driver keeps the last query open, with its snapshot, until the next statement; this one needs no snapshot.
_LET_GO = text("SET LOCAL idle_in_transaction_session_timeout = 0")
