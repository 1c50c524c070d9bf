"""Brings a store's tables to the schema that this version of gpuid knows."""

import re
from pathlib import Path

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from collector.config.store import PostgresLocation, SqliteLocation
from collector.store.errors import MOVE_AWAY, DamagedStoreError, StoreError
from collector.store.schema import APPLICATION_ID, HEAD, METADATA, VERSION_TABLE

__all__ = ["UP_TO_DATE", "check_complete", "check_version", "is_current", "migrate", "stage"]

UP_TO_DATE = "tables are up to date"
MAX_NAMED = 3  # missing tables and columns that an error names
_FOLDER = Path(__file__).parent / "migrations"
_INCOMPLETE = ("no such table", "no such column", "has no column named", "already exists")


def migrate(connection: Connection, location: SqliteLocation | PostgresLocation) -> None:
    """Create or update the tables, in the transaction that the connection is in; raises StoreError."""
    version = _version(connection)
    if version == HEAD:
        return
    if version is not None:
        _refuse_newer(version, location)
    # Imported on demand: Alembic takes longer to load than a store that is up to date takes to open.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except SQLAlchemyError as error:
        if _is_incomplete(error) and isinstance(location, SqliteLocation):
            raise DamagedStoreError(f"store {location}: the file is damaged ({error.args[0]}){MOVE_AWAY}") from error
        raise
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")


def is_current(connection: Connection) -> bool:
    """Return whether there is nothing to migrate."""
    return _version(connection) == HEAD


def _is_incomplete(error: BaseException) -> bool:
    """Return whether an error of SQLite may come from tables or columns that are missing."""
    return any(text in str(error) for text in _INCOMPLETE)


def check_complete(connection: Connection, location: SqliteLocation | PostgresLocation) -> None:
    """Make sure that all tables and columns are there; raises StoreError, for a file DamagedStoreError."""
    found = inspect(connection)
    tables = set(found.get_table_names())
    missing = [f"table {name}" for name in METADATA.tables if name not in tables]
    for name, columns in found.get_multi_columns(
        filter_names=[name for name in METADATA.tables if name in tables]
    ).items():
        there = {column["name"] for column in columns}
        missing += [
            f"column {name[1]}.{column.name}" for column in METADATA.tables[name[1]].c if column.name not in there
        ]
    if missing:
        names = ", ".join(sorted(missing)[:MAX_NAMED]) + (", …" if len(missing) > MAX_NAMED else "")
        if isinstance(location, SqliteLocation):
            raise DamagedStoreError(f"store {location}: the file is damaged (it lacks {names}){MOVE_AWAY}")
        raise StoreError(
            f"store {location}: incomplete, it lacks {names}; restore it from a backup, or choose another store.url"
        )


def stage(connection: Connection, location: SqliteLocation | PostgresLocation) -> str:
    """Return in a few words what a collector's start would do to the tables; raises StoreError if it would refuse."""
    version = _version(connection)
    if version is None:
        return "tables created by the collector at its first start"
    if version != HEAD:
        _refuse_newer(version, location)
        return "tables updated by the collector at its next start"
    return UP_TO_DATE


def check_version(connection: Connection, location: SqliteLocation | PostgresLocation) -> None:
    """Make sure that the tables are those that this version reads; raises StoreError."""
    version = _version(connection)
    if version is None:
        raise StoreError(f"store {location}: it is empty; the collector creates its tables at its first start")
    if version != HEAD:
        _refuse_newer(version, location)
        raise StoreError(
            f"store {location}: created by an older gpuid; start this version's collector once to update it"
        )


def _version(connection: Connection) -> str | None:
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
            "run that version, or choose another store.url to start afresh"
        )
