"""Deletes data older than the retention, and readings delivered to every sink, in many small transactions."""

import logging
import time
from typing import Any

from sqlalchemy import delete, exists, func, select

from collector.store import schema
from collector.store.checkpoints import forget
from collector.store.compact import GPUS, PLACES, UNUSED_GPU, UNUSED_PLACE, forget_seats, forget_texts
from collector.store.database import Database
from collector.store.facts import fact, note_latest
from collector.store.first_sights import recount_first_sights
from collector.store.past import note_beginning

__all__ = ["prune"]

log = logging.getLogger(__name__)

ROWS_PER_TRANSACTION = 20_000  # rows scanned by one transaction
KEYS_SWEPT = "keys_swept"  # the fact with the time (Unix seconds) at which unused keys were last looked for
KEYS_SWEPT_SECONDS = 86400.0


async def prune(database: Database, before: float | None) -> int:
    """Delete what ended before this time (None: nothing), and delivered readings; returns the number of rows.

    The backlogs of sinks are kept, however old: changes, and dead letters queued for redelivery.
    """
    forgotten = await _delivered_readings(database)
    if before is None:
        return forgotten
    kept_from = await _slowest_cursor(database, "changes")
    changes = schema.changes.c.time < before
    if kept_from is not None:
        changes &= schema.changes.c.id <= kept_from
    await _note_what_goes(database, before)
    if forgotten_changes := await _sweep(database, schema.changes, changes):
        async with database.write() as connection:
            await recount_first_sights(connection, before)
        forgotten += forgotten_changes
    forgotten += await _sweep(database, schema.placements, schema.placements.c.until < before)
    if forgotten and database.single_process:
        await _forget_unused(database)
    forgotten += await _absent(database)
    # An active one is kept, however old; an expired one is never removed by a user.
    ended = func.coalesce(schema.marks.c.removed_at, schema.marks.c.until)
    forgotten += await _sweep(database, schema.marks, ended < before)
    old = schema.dead_letters.c.time < before
    letters = await _sweep(database, schema.dead_letters, old & ~schema.dead_letters.c.replay)
    if letters:
        log.warning("deleted dead letters older than store.retention", extra={"dead_letters": letters})
    return forgotten + letters


async def _forget_unused(database: Database) -> None:
    """Delete the GPUs, nodes and texts of an SQLite file that nothing uses any more, at most once a day."""
    async with database.read() as connection:
        if abs(time.time() - (await fact(connection, KEYS_SWEPT) or 0.0)) < KEYS_SWEPT_SECONDS:
            return
    for table, unused in ((GPUS, UNUSED_GPU), (PLACES, UNUSED_PLACE)):
        await _sweep(database, table, unused)
    await forget_seats(database)
    await forget_texts(database)
    async with database.write() as connection:
        await note_latest(connection, database, KEYS_SWEPT, time.time())


async def _note_what_goes(database: Database, before: float) -> None:
    """Note that the history is complete only from a time (Unix seconds) on, if anything before it will be deleted."""
    async with database.read() as connection:
        old = (
            select(schema.changes.c.id).where(schema.changes.c.time < before),
            select(schema.placements.c.id).where(schema.placements.c.until < before),
        )
        if not [one for query in old if (one := await connection.scalar(query.limit(1))) is not None]:
            return
    await forget(database, before)
    await note_beginning(database, before)


async def _delivered_readings(database: Database) -> int:
    """Delete the readings delivered to every sink; all of them if no sink gets readings."""
    upto = await _slowest_cursor(database, "readings")
    condition = schema.readings.c.id > 0 if upto is None else schema.readings.c.id <= upto
    return await _sweep(database, schema.readings, condition)


async def _slowest_cursor(database: Database, emit: str) -> int | None:
    """Return the cursor of the slowest sink for a kind of records; None if there is none."""
    async with database.read() as connection:
        found = await connection.scalar(select(func.min(schema.sinks.c.cursor)).where(schema.sinks.c.emit == emit))
    if found is None:
        return None
    return found if isinstance(found, int) else 0  # a damaged row: nothing counts as delivered


async def _absent(database: Database) -> int:
    """Delete the absent GPUs whose placements have all been deleted."""
    forgotten = ~exists().where(schema.placements.c.uuid == schema.absent.c.uuid)
    async with database.read() as connection:
        if await connection.scalar(select(schema.absent.c.uuid).where(forgotten).limit(1)) is None:
            return 0
    async with database.write() as connection:
        return (await connection.execute(delete(schema.absent).where(forgotten))).rowcount


async def _sweep(database: Database, table: Any, condition: Any) -> int:
    """Delete the rows that meet a condition, in steps by id so that no transaction takes long."""
    # Not with min() and max(): on a view, SQLite would read every row for them.
    ends = (select(table.c.id).order_by(order).limit(1) for order in (table.c.id, table.c.id.desc()))
    async with database.read() as connection:
        first, last = [await connection.scalar(end) for end in ends]
    if first is None or last is None:
        return 0
    swept = 0
    for start in range(first, last + 1, ROWS_PER_TRANSACTION):
        ids = table.c.id.between(start, start + ROWS_PER_TRANSACTION - 1)
        async with database.read() as connection:
            if await connection.scalar(select(table.c.id).where(ids, condition).limit(1)) is None:
                continue
        async with database.write() as connection:
            # Counted first, because SQLite does not count what a view's trigger deletes.
            swept += await connection.scalar(select(func.count()).select_from(table).where(ids, condition)) or 0
            await connection.execute(delete(table).where(ids, condition))
    return swept
