"""Takes a store's tables back to the first version, as an older collector left them."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_STATEMENTS = (
    "DROP TABLE gpuid_leases",
    "DROP TABLE gpuid_marks",
    "DROP TABLE gpuid_checkpoints",
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
