"""Steps of migrations that keep nobody from reading and recording: PostgreSQL does each on its own, without a lock.

They are committed one by one. So a migration that was interrupted begins again, and skips what it finds done.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic import context, op

__all__ = ["add_column", "committed_one_by_one", "create_index", "drop_index"]


@contextmanager
def committed_one_by_one(table: str) -> Iterator[bool]:
    """Commit each statement of the block by itself if a table is in use and not empty; yields whether that is so.

    Nobody else uses a collector's own file, and a small change of an empty table keeps nobody waiting.
    """
    if not context.config.attributes["in_steps"] or not _has_rows(table):
        yield False
        return
    with op.get_context().autocommit_block():
        # Without a transaction they can only be set for the session. A failure leaves them to its end, which is near.
        op.execute("SET statement_timeout = 0")
        op.execute("SET lock_timeout = 0")
        yield True
        op.execute("RESET lock_timeout")
        op.execute("RESET statement_timeout")


def add_column(table: str, column: sa.Column[Any]) -> None:
    """Add a column, unless it is there; with a constant or no default that takes a moment, for any number of rows."""
    # Not by IF NOT EXISTS, which waits for all who use the table before it looks.
    if not (_repeats() and column.name in {one["name"] for one in sa.inspect(op.get_bind()).get_columns(table)}):
        op.add_column(table, column)


def create_index(name: str, table: str, columns: list[str], where: sa.TextClause | None = None) -> None:
    """Create an index, unless it is there."""
    with committed_one_by_one(table) as concurrently:
        # What an interrupted attempt leaves behind is never used, and never completed.
        if _repeats() and op.get_bind().scalar(_BROKEN, {"name": name}) is not None:
            op.drop_index(name, table, postgresql_concurrently=concurrently)
        op.create_index(
            name,
            table,
            columns,
            sqlite_where=where,
            postgresql_where=where,
            postgresql_concurrently=concurrently,
            if_not_exists=_repeats(),
        )


def drop_index(name: str, table: str) -> None:
    """Drop an index, unless it is gone."""
    with committed_one_by_one(table) as concurrently:
        op.drop_index(name, table, postgresql_concurrently=concurrently, if_exists=_repeats())


def _repeats() -> bool | None:
    """Return whether an interrupted attempt may have left something; one in a file leaves nothing."""
    return True if op.get_bind().dialect.name == "postgresql" else None


def _has_rows(table: str) -> bool:
    return op.get_bind().execute(sa.text(f"SELECT 1 FROM {table} LIMIT 1")).first() is not None  # noqa: S608


_BROKEN = sa.text("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid")
