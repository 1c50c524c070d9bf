"""Numbers that a store keeps about itself."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.store import schema
from collector.store.database import Database
from collector.store.sound import moment

__all__ = ["fact", "note_latest"]


async def fact(connection: AsyncConnection, name: str) -> float | None:
    """Return a number that the store keeps about itself; None if it is missing."""
    found = await connection.scalar(select(schema.meta.c.value).where(schema.meta.c.name == name))
    try:
        return None if found is None else moment(float(found))
    except (TypeError, ValueError):
        return None


async def note_latest(connection: AsyncConnection, database: Database, name: str, time: float) -> None:
    """Store a time (Unix seconds), unless a later one is already stored."""
    known = await fact(connection, name)
    row = database.insert(schema.meta).values(name=name, value=repr(time if known is None else max(time, known)))
    await connection.execute(row.on_conflict_do_update(index_elements=["name"], set_={"value": row.excluded.value}))
