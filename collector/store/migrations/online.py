"""Migration steps that do not block reading and recording: PostgreSQL runs each separately, without a lock.

They are committed one by one. So an interrupted migration starts over, and skips completed steps.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic import context, op

__all__ = ["add_column", "committed_one_by_one", "create_index", "drop_index"]


@contextmanager
def committed_one_by_one(table: str) -> Iterator[bool]:
    """Commit each statement of the block separately if a table is shared and not empty; yields whether that is so.

    No other process uses a collector's own file, and a small change of an empty table blocks no one.
    """
    if not context.config.attributes["in_steps"] or not _has_rows(table):
        yield False
        return
    with op.get_context().autocommit_block():
        # Without a transaction they can only be set for the session. After a failure they last until its end, soon.
        op.execute("SET statement_timeout = 0")
        op.execute("SET lock_timeout = 0")
        yield True
        op.execute("RESET lock_timeout")
        op.execute("RESET statement_timeout")


def add_column(table: str, column: sa.Column[Any]) -> None:
    """Add a column if it is missing; with a constant or no default this is fast for any number of rows."""
    # Not with IF NOT EXISTS, which waits for all users of the table before it checks.
    if not (_repeats() and column.name in {one["name"] for one in sa.inspect(op.get_bind()).get_columns(table)}):
        op.add_column(table, column)


def create_index(name: str, table: str, columns: list[str], where: sa.TextClause | None = None) -> None:
    """Create an index if it is missing."""
    with committed_one_by_one(table) as concurrently:
        # An index left behind by an interrupted attempt is never used or completed.
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
    """Drop an index if it exists."""
    with committed_one_by_one(table) as concurrently:
        op.drop_index(name, table, postgresql_concurrently=concurrently, if_exists=_repeats())


def _repeats() -> bool | None:
    """Return whether an interrupted attempt may have left something; in a file it cannot."""
    return True if op.get_bind().dialect.name == "postgresql" else None


def _has_rows(table: str) -> bool:
    return op.get_bind().execute(sa.text(f"SELECT 1 FROM {table} LIMIT 1")).first() is not None  # noqa: S608


_BROKEN = sa.text("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid")
