"""The tables of an SQLite file from which its views of placements and changes are made, and what nothing uses any more.

There, a row of a placement or change has the numbers of its GPU, its node and its texts.
"""

from collections.abc import Collection

from sqlalchemy import TableClause, and_, bindparam, column, delete, exists, select, table, union
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.store.database import Database

__all__ = ["GPUS", "PLACES", "STAYS", "UNUSED_GPU", "UNUSED_PLACE", "forget_seats", "forget_texts"]

ROWS_PER_TRANSACTION = 20_000
_PLACEMENT_TEXTS, _CHANGE_TEXTS, _GPU_TEXTS = (
    ("machine",),
    ("machine", "source", "cluster", "previous_cluster"),
    ("model",),
)


def _table(name: str, *columns: str) -> TableClause:
    return table(f"gpuid_{name}", column("id"), *map(column, columns))


GPUS = _table("gpus", *_GPU_TEXTS)
PLACES = _table("places")
_TEXTS = _table("texts")
_SEATS = _table("seats")
_PLACEMENTS = _table("placement_rows", "gpu", "place", "seat", *_PLACEMENT_TEXTS)
_CHANGES = _table("change_rows", "gpu", "place", "previous", *_CHANGE_TEXTS)
# The view of placements without their GPUs, to find which takes most of the time; it goes by the same name.
_stays, _places = _table("placement_rows", "place", "since", "until").c, _table("places", "cluster", "node").c
STAYS = (
    select(_stays.since, _stays.until, _stays.place, _places.cluster, _places.node)
    .where(_places.id == _stays.place)
    .subquery("gpuid_placements")
)
_USERS = ((_PLACEMENTS, _PLACEMENT_TEXTS), (_CHANGES, _CHANGE_TEXTS), (GPUS, _GPU_TEXTS))

UNUSED_GPU = and_(~exists().where(_PLACEMENTS.c.gpu == GPUS.c.id), ~exists().where(_CHANGES.c.gpu == GPUS.c.id))
UNUSED_PLACE = and_(
    ~exists().where(_PLACEMENTS.c.place == PLACES.c.id),
    ~exists().where(_CHANGES.c.place == PLACES.c.id),
    ~exists().where(_CHANGES.c.previous == PLACES.c.id),
)
_FORGET_TEXT = delete(_TEXTS).where(_TEXTS.c.id == bindparam("b_id"))


async def forget_seats(database: Database) -> None:
    """Delete the positions in machines in which no GPU has been; there are few, and finding them reads all rows."""
    unused = _SEATS.c.id.not_in(select(_PLACEMENTS.c.seat).where(_PLACEMENTS.c.seat.is_not(None)))
    async with database.read() as connection:
        if await connection.scalar(select(_SEATS.c.id).where(unused).limit(1)) is None:
            return
    async with database.write() as connection:
        await connection.execute(delete(_SEATS).where(unused))


async def forget_texts(database: Database) -> None:
    """Delete the texts that nothing uses, in many small transactions; the only task that deletes what uses them.

    No index finds what uses a text, so all rows are read, some at a time. Rows written meanwhile may use an old text
    again: these are read in the transaction that deletes.
    """
    async with database.read() as connection:
        ends = [await _last(connection, one) for one, _ in _USERS]
        last = await _last(connection, _TEXTS)
    used: set[int] = set()
    for (one, columns), end in zip(_USERS, ends, strict=True):
        for start in range(0, end + 1, ROWS_PER_TRANSACTION):
            async with database.read() as connection:
                used |= await _used(connection, one, columns, start, min(end, start + ROWS_PER_TRANSACTION - 1))
    for start in range(0, last + 1, ROWS_PER_TRANSACTION):
        some = _TEXTS.c.id.between(start, min(last, start + ROWS_PER_TRANSACTION - 1))
        async with database.read() as connection:
            unused = set(await connection.scalars(select(_TEXTS.c.id).where(some))) - used
        if unused:
            async with database.write() as connection:
                for (one, columns), end in zip(_USERS, ends, strict=True):
                    unused -= await _used(connection, one, columns, end + 1, await _last(connection, one))
                if unused:
                    await connection.execute(_FORGET_TEXT, [{"b_id": one} for one in sorted(unused)])


async def _last(connection: AsyncConnection, one: TableClause) -> int:
    return await connection.scalar(select(one.c.id).order_by(one.c.id.desc()).limit(1)) or 0


async def _used(
    connection: AsyncConnection, one: TableClause, columns: Collection[str], start: int, end: int
) -> set[int]:
    """Return the texts that some rows use."""
    some = one.c.id.between(start, end)
    query = union(*(select(one.c[name]).where(some, one.c[name].is_not(None)) for name in columns))
    return set(await connection.scalars(query))
