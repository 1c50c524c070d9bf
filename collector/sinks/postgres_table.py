"""The postgres sink's table: its columns, creation and migration."""

from typing import NamedTuple

import asyncpg

from collector.model import GpuidError

__all__ = ["NoSuchTableError", "Table", "prepare"]

_GO_GPUID_COLUMNS = ("cluster", "node", "machine", "source", "chassis", "gpu", "read_time")
_OWN_COLUMNS = ("uuid", "model", "event")
_LATER_COLUMNS = ("mark",)  # written if the table has them; a table that lacks only these is not altered
_UNIQUE = ("cluster", "node", "machine", "source", "chassis", "gpu", "uuid", "event", "read_time")
_INDEXED = ("cluster", "node", "gpu", "read_time", "created_at")
_TEXT_WIDTH = 255
_SOURCE_WIDTH = 320  # `namespace/pod`, which Kubernetes allows to be longer than 255
_OWN_DEFINITIONS = tuple(
    f"{column} varchar({_TEXT_WIDTH}) NOT NULL DEFAULT ''" for column in (*_OWN_COLUMNS, *_LATER_COLUMNS)
)


class NoSuchTableError(GpuidError):
    """There is no table of that name, or it is not a table of serials."""


class Table(NamedTuple):
    """A table to which records can be written."""

    schema: str
    name: str
    columns: tuple[str, ...]  # those to write: the Go program's in its order, then our own

    @property
    def insert(self) -> str:
        """The statement that takes one array per column and skips existing rows."""
        arrays = ", ".join(
            f"${place}::{'timestamptz' if column == 'read_time' else 'text'}[]"
            for place, column in enumerate(self.columns, 1)
        )
        # The names come from the catalogue and a closed set, never from a record.
        return (
            f"INSERT INTO {_quoted(self.schema, self.name)} ({', '.join(self.columns)}) "  # noqa: S608
            f"SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING"
        )


async def prepare(connection: asyncpg.Connection, table: str, *, create: bool) -> Table:
    """Return the table; with `create`, create it or add missing columns. Call this within a transaction.

    Raises NoSuchTableError.
    """
    schema, _, name = table.rpartition(".")
    found = await _find(connection, schema, name)
    if create and (found is None or not set(_OWN_COLUMNS) <= set(found.columns)):
        # Collectors that start at the same time take turns.
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext($1))", f"gpuid {table}")
        found = await _find(connection, schema, name)
        if found is None:
            await _create(connection, schema, name)
        elif not set(_OWN_COLUMNS) <= set(found.columns):
            await _migrate(connection, found)
        found = await _find(connection, schema, name)
    if found is None:
        raise NoSuchTableError(f"table {table} does not exist; create it, or set create_table = true")
    if missing := [column for column in _GO_GPUID_COLUMNS if column not in found.columns]:
        raise NoSuchTableError(f"table {table} has no column {', '.join(missing)}; it is not a table of serials")
    return found


async def _find(connection: asyncpg.Connection, schema: str, name: str) -> Table | None:
    rows = await connection.fetch(
        "SELECT n.nspname, a.attname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
        "WHERE c.oid = to_regclass($1)",
        _quoted(schema, name),
    )
    if not rows:
        return None
    present = {row["attname"] for row in rows}
    columns = tuple(column for column in (*_GO_GPUID_COLUMNS, *_OWN_COLUMNS, *_LATER_COLUMNS) if column in present)
    return Table(rows[0]["nspname"], name, columns)


async def _create(connection: asyncpg.Connection, schema: str, name: str) -> None:
    """Create the table in the Go program's layout, with our columns after its own."""
    table = _quoted(schema, name)
    widths = {"source": _SOURCE_WIDTH}
    texts = ", ".join(
        f"{column} varchar({widths.get(column, _TEXT_WIDTH)}) NOT NULL" for column in _GO_GPUID_COLUMNS[:-1]
    )
    await connection.execute(
        f"CREATE TABLE {table} (id bigserial PRIMARY KEY, {texts}, read_time timestamptz NOT NULL, "
        f"created_at timestamptz NOT NULL DEFAULT now(), {', '.join(_OWN_DEFINITIONS)}, UNIQUE ({', '.join(_UNIQUE)}))"
    )
    for column in _INDEXED:
        await connection.execute(f'CREATE INDEX IF NOT EXISTS "idx_{name[:44]}_{column}" ON {table} ({column})')


async def _migrate(connection: asyncpg.Connection, found: Table) -> None:
    """Add our columns to the table and its unique constraint, so that GPUs with the same serial both fit."""
    table = _quoted(found.schema, found.name)
    for column in _OWN_DEFINITIONS:
        await connection.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column}")
    narrow = await connection.fetch(
        "SELECT conname FROM pg_constraint c WHERE conrelid = $1::regclass AND contype = 'u' AND $2::text[] = "
        "(SELECT array_agg(attname::text ORDER BY attname::text) FROM pg_attribute a "
        "WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey))",
        table,
        sorted(_GO_GPUID_COLUMNS),
    )
    for row in narrow:
        await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {_quoted(row['conname'])}")
        await connection.execute(f"ALTER TABLE {table} ADD UNIQUE ({', '.join(_UNIQUE)})")


def _quoted(*names: str) -> str:
    """Return a name, after that of its schema if it is not empty, as SQL writes it: it may contain anything."""
    return ".".join('"{}"'.format(name.replace('"', '""')) for name in names if name)
