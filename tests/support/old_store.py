"""The tables of a store as an older collector left them."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.store import OpenMode, StoreSettings, schema
from collector.store.database import Database

_STATEMENTS = (
    "DROP TABLE gpuid_leases",
    "DROP TABLE gpuid_marks",
    "DROP TABLE gpuid_checkpoints",
    "DROP TABLE gpuid_clusters",
    "DROP TABLE gpuid_verifications",
    "DROP INDEX gpuid_nodes_version",
    "ALTER TABLE gpuid_nodes DROP COLUMN version",
    "ALTER TABLE gpuid_nodes DROP COLUMN unread",
    *(f"DROP INDEX gpuid_placements_{name}" for name in ("place", "since", "until")),
    "ALTER TABLE gpuid_changes DROP COLUMN mark",
    "DROP TABLE gpuid_first_sights",
    *(f"DROP INDEX gpuid_changes_{name}" for name in ("other", "cluster", "across")),
    "DROP INDEX gpuid_changes_previous",
    "DROP INDEX gpuid_changes_node",
    "DROP INDEX gpuid_changes_uuid",
    "ALTER TABLE gpuid_changes DROP COLUMN first_sight",
    "ALTER TABLE gpuid_changes DROP COLUMN changes",
    "ALTER TABLE gpuid_changes DROP COLUMN last_known",
    "ALTER TABLE gpuid_placements DROP COLUMN last_known",
    *(f"ALTER TABLE gpuid_placements DROP COLUMN {name}" for name in ("tray", "slot", "module", "pci_bus_id")),
    "ALTER TABLE gpuid_ghosts DROP COLUMN facts",
    "ALTER TABLE gpuid_dead_letters DROP COLUMN half",
    "UPDATE gpuid_schema SET version_num = '0001'",
)


async def to_first_version(connection: AsyncConnection) -> None:
    for statement in _STATEMENTS:
        await connection.execute(text(statement))


async def create_tables(settings: StoreSettings, revision: str, *statements: str) -> None:
    """Create those of an older version in an empty store, and run statements there, such as to fill them."""
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    async with Database.open(settings, OpenMode.COLLECTOR) as database, database.write() as connection:
        for table in reversed(schema.METADATA.sorted_tables):
            await connection.execute(text(f"DROP TABLE {table.name}"))
        await connection.execute(text(f"DROP TABLE {schema.VERSION_TABLE}"))

        def upgrade(sync: Connection) -> None:
            config.attributes.update(connection=sync, in_steps=False)
            command.upgrade(config, revision)

        await connection.run_sync(upgrade)
        for statement in statements:
            await connection.execute(text(statement))
