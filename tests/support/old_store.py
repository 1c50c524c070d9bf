"""Stores as older collectors left them."""

import gzip
import json
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Boolean, Connection, LargeBinary, MetaData, Table, insert, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.store import OpenMode, StoreSettings, schema
from collector.store.database import Database
from collector.store.migrate import migrate_down

__all__ = ["VERSIONS", "create_tables", "old_rows", "to_first_version", "write_old_store"]

# What collectors of these versions wrote, one after the other watching two small clusters in which the same happened.
FOLDER = Path(__file__).parents[1] / "store" / "versions"
VERSIONS = sorted(file.name[:4] for file in FOLDER.glob("*.json.gz"))


async def to_first_version(connection: AsyncConnection) -> None:
    """Take the tables back to what the first version had."""
    await connection.run_sync(migrate_down, "0001")


def old_rows(version: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of every table that a collector of a version wrote; bytes are objects with `hex`."""
    rows: dict[str, list[dict[str, Any]]] = json.loads(gzip.decompress((FOLDER / f"{version}.json.gz").read_bytes()))
    return rows


async def write_old_store(settings: StoreSettings, version: str) -> None:
    """Write the store that a collector of a version left into an empty one."""
    await create_tables(settings, version, fill=version)


async def create_tables(settings: StoreSettings, revision: str, *statements: str, fill: str = "") -> None:
    """Create those of an older version in an empty store, and run statements there, such as to fill them."""
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    async with Database.open(settings, OpenMode.COLLECTOR) as database, database.write() as connection:
        for kind, name in await connection.run_sync(_all_of_ours):
            await connection.execute(text(f"DROP {kind} {name}"))
        await connection.execute(text(f"DROP TABLE {schema.VERSION_TABLE}"))

        def upgrade(sync: Connection) -> None:
            config.attributes.update(connection=sync, in_steps=False)
            command.upgrade(config, revision)

        await connection.run_sync(upgrade)
        for statement in statements:
            await connection.execute(text(statement))
        if fill:
            await connection.run_sync(_insert, old_rows(fill), fill)


def _all_of_ours(connection: Connection) -> list[tuple[str, str]]:
    found = inspect(connection)
    tables = [name for name in found.get_table_names() if name.startswith("gpuid_") and name != schema.VERSION_TABLE]
    return [("VIEW", name) for name in found.get_view_names()] + [("TABLE", name) for name in tables]


def _insert(connection: Connection, rows: dict[str, list[dict[str, Any]]], version: str) -> None:
    for name, found in rows.items():
        # Those of the newest have types that the engine's do not say.
        newest = schema.METADATA.tables.get(name) if version == schema.HEAD else None
        table = Table(name, MetaData(), autoload_with=connection) if newest is None else newest
        connection.execute(insert(table), [{key: _value(table, key, row[key]) for key in row} for row in found])
        if connection.dialect.name == "postgresql" and "id" in table.c:
            connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), max(id)) FROM {name}"))


def _value(table: Table, key: str, value: Any) -> Any:
    if isinstance(table.c[key].type, LargeBinary) and value is not None:
        return bytes.fromhex(value["hex"])
    return bool(value) if isinstance(table.c[key].type, Boolean) else value
