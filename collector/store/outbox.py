"""The backlog of each sink: its cursor, batches that survive a crash unchanged, and dead letters.

A sink gets every record at least once, and a repeated batch has the same records and key: the batch's end is committed
before it is handed out, and the cursor moves only after the sink has accepted it. The halving of a batch is committed,
too.
"""

import itertools
import logging
import math
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import RowMapping, bindparam, delete, exists, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.model import SinkRecord
from collector.store import schema
from collector.store.codec import encode_records
from collector.store.database import Database
from collector.store.leadership import Leadership
from collector.store.outbox_records import (
    TABLES,
    counted,
    decoded,
    end_of_batch,
    full_batches,
    records_between,
    replayed,
)
from collector.store.sound import moment, sound_count, text

__all__ = ["Batch", "BatchState", "DeadLetter", "Outbox", "SinkBacklog", "SinkState", "Subscription"]


log = logging.getLogger(__name__)


class Subscription(NamedTuple):
    """The records that a sink gets."""

    emit: str  # changes or readings
    backfill: bool  # if it is new: from the beginning of the history instead of from now


class SinkBacklog(NamedTuple):
    """The backlog of a sink, including dead letters queued for redelivery."""

    records: int
    oldest: float | None  # Unix seconds; None if there is no backlog
    dead_letters: int = 0  # batches that it rejected, awaiting manual action


class SinkState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of delivery to one sink."""

    sink: str
    emit: str
    records: int  # including those of dead letters queued for redelivery
    oldest: float | None  # Unix seconds; None if there is no backlog
    next: str | None  # the key of the batch that is handed out and not yet confirmed
    configured: bool = True  # otherwise its backlog is kept for some days


class BatchState(NamedTuple):
    """The content of a sink's next batch."""

    records: int  # counted up to a limit
    oldest: float | None
    closed: bool  # nothing can be added: it was begun earlier, or is a replayed dead letter


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Records for one sink: the same in all attempts, under the same key."""

    sink: str
    key: str  # a UUID
    records: list[SinkRecord]
    store: str = ""  # the id of its store
    emit: str = ""  # the kind of records; empty for a dead letter
    last: int = 0  # the cursor's position after delivery
    dead_letter: int | None = None  # the id of its row among the dead letters, if it is a replayed one
    rejected: bool = False  # its sink has already rejected it, under this key


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that its sink rejected."""

    id: int
    sink: str
    key: str
    time: float
    reason: str
    count: int
    replay: bool  # queued for redelivery
    records: list[SinkRecord] | None = None  # only if a single letter is requested


class Outbox:
    """The cursors of the sinks over changes and readings; all methods raise StoreError."""

    def __init__(self, database: Database, leadership: Leadership, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._leadership = leadership
        self._clock = clock

    async def reconcile(self, sinks: Mapping[str, Subscription], *, from_start: bool = False) -> None:
        """Set the sinks that get records from now on; the backlogs of others are kept for some days.

        A known sink continues at its position. One that is new, or whose kind of records changed, starts at the current
        end; with `backfill`, or if `from_start` is set for all, at the beginning.
        """
        async with self._leadership.write() as connection:
            known = {row["name"]: row for row in (await connection.execute(select(schema.sinks))).mappings().all()}
            for name in [name for name, state in known.items() if not _is_sound(state)]:
                log.error("damaged row in the store: treating the sink as a new one", extra={"sink": text(name)})
                await connection.execute(delete(schema.sinks).where(_sinks.name == name))
                del known[name]
            for name, state in known.items():
                here = update(schema.sinks).where(_sinks.name == name)
                if name not in sinks:
                    if state["gone"] is None:
                        await connection.execute(here.values(gone=self._clock()))
                        await _warn(connection, state, "sink removed from the configuration; keeping its backlog")
                elif sinks[name].emit != state["emit"]:
                    await _warn(connection, state, "sink's `emit` changed; dropping its backlog")
                    await _drop(connection, name)
                elif state["gone"] is not None:
                    await connection.execute(here.values(gone=None))
            for name, wanted in sinks.items():
                if name in known and known[name]["emit"] == wanted.emit:
                    continue
                end = None
                if not wanted.backfill and not from_start:
                    end = await connection.scalar(select(func.max(TABLES[wanted.emit].c.id)))
                row = {"name": name, "emit": wanted.emit, "cursor": end or 0, "first_seen": self._clock()}
                await connection.execute(insert(schema.sinks).values(row))

    async def give_up(self, before: float) -> None:
        """Delete the sinks that were last configured before this time (Unix seconds), with their backlogs."""
        over = select(schema.sinks).where(_sinks.gone < before)
        async with self._database.read() as connection:
            if (await connection.execute(over)).first() is None:
                return
        async with self._leadership.write() as connection:
            for state in (await connection.execute(over)).mappings().all():
                await _warn(connection, state, "sink missing from the configuration for days; dropping its backlog")
                await _drop(connection, state["name"])
                await connection.execute(
                    update(schema.dead_letters).where(_letters.sink == state["name"]).values(replay=False)
                )

    async def next_batch_state(self, sink: str, limit: int) -> BatchState:
        """Return the content of the sink's next batch, counting up to `limit` records."""
        async with self._database.read() as connection:
            if await connection.scalar(select(replayed(sink))):
                return BatchState(0, None, closed=True)
            state = await _state(connection, sink)
            if state is None:
                return BatchState(0, None, closed=False)
            ahead = counted(state["emit"], state["cursor"]).limit(limit).subquery()
            totals = select(func.sum(ahead.c.count), func.count(ahead.c.id), func.min(ahead.c.time))
            count, rows, oldest = (await connection.execute(totals)).one()
            return BatchState(
                max(int(count or 0), rows),  # a damaged row has lost its number
                None if oldest is None else moment(oldest),
                closed=state["upto"] is not None,
            )

    async def next_batch(self, sink: str, limit: int) -> Batch | None:
        """Return the sink's next batch; None if it has no backlog.

        A batch's end is committed before it is handed out: until it is confirmed, even after a crash, the same one is
        returned. Replayed dead letters come first, but not before a batch in flight.
        """
        while (batch := await self._next_batch(sink, limit)) is not None and not batch.records:  # all are damaged
            if batch.dead_letter is None:
                await self.confirm(batch)
            else:
                await self.dead_letter(batch, "its records are damaged")
        return batch

    async def _next_batch(self, sink: str, limit: int) -> Batch | None:
        async with self._database.read() as connection:
            store = self._database.id
            state = await _state(connection, sink)
            if state is None or state["upto"] is None:
                letter = (
                    (
                        await connection.execute(
                            select(schema.dead_letters)
                            .where(_letters.sink == sink, _letters.replay)
                            .order_by(_letters.time, _letters.id)  # halves are dated to stay in order
                        )
                    )
                    .mappings()
                    .first()
                )
                if letter is not None:
                    return Batch(
                        sink=sink,
                        key=text(letter["key"]),
                        records=decoded(letter["records"], "dead letter", letter["id"]),
                        store=store,
                        dead_letter=letter["id"],
                        rejected=not letter["half"],
                    )
            if state is None:
                return None
            upto = state["upto"]
            if upto is None:
                upto = await end_of_batch(connection, state["emit"], state["cursor"], limit)
                if upto is None:
                    return None
        if state["upto"] is None:
            async with self._leadership.write() as connection:
                if self._database.id != store:  # the file was damaged in the meantime, and this is a new one
                    return None
                same = (_sinks[name] == state[name] for name in ("name", "emit", "cursor"))
                begun = update(schema.sinks).where(*same, _sinks.upto.is_(None)).values(upto=upto)
                if _count(await connection.execute(begun)) == 0:  # the sink's kind of records has changed
                    return None
        async with self._database.read() as connection:
            if self._database.id != store:
                return None
            records = await records_between(connection, state["emit"], state["cursor"], upto)
        return Batch(sink=sink, key=self._key(state, upto), records=records, store=store, emit=state["emit"], last=upto)

    async def following(self, batch: Batch, limit: int) -> list[Batch]:
        """Return the full batches after the one in flight, a few at once; none is begun, see `confirm_and_begin`.

        Empty if other records come first, such as those of replayed dead letters.
        """
        if batch.dead_letter is not None:
            return []
        async with self._database.read() as connection:
            if self._database.id != batch.store:
                return []
            found = await full_batches(connection, batch.sink, batch.emit, batch.last, limit)
        batches, cursor = [], batch.last
        for upto, records in found:
            key = self._key({"name": batch.sink, "emit": batch.emit, "cursor": cursor}, upto)
            batches.append(
                Batch(sink=batch.sink, key=key, records=records, store=batch.store, emit=batch.emit, last=upto)
            )
            cursor = upto
        return batches

    async def confirm_and_begin(self, batch: Batch, following: Batch) -> bool:
        """Note that a batch was delivered and that the one after it is handed out, in one transaction.

        Returns False if nothing was noted, because the batch is no longer in flight or another one comes next.
        """
        state = {"name": batch.sink, "emit": batch.emit, "cursor": batch.last}
        if following.key != self._key(state, following.last):
            return False
        values = {"b_sink": batch.sink, "b_emit": batch.emit, "b_last": batch.last, "b_upto": following.last}
        return await self._leadership.execute(_CONFIRM_AND_BEGIN, values | {"b_store": batch.store}) > 0

    async def halve(self, batch: Batch, reason: str) -> Batch | None:
        """Split a batch of at least two records and return the first half; None if it is no longer the next batch.

        A cursor cannot separate records that were read together: their halves are kept with the dead letters, with
        `reason`, until they are delivered.
        """
        async with self._leadership.write() as connection:
            if batch.store != self._database.id:  # the batch's store was damaged: this one has other batches
                return None
            if batch.dead_letter is not None:
                letter = _letters.id == batch.dead_letter
                row = (await connection.execute(select(schema.dead_letters).where(letter))).mappings().first()
                if row is None:
                    return None
                return await _insert_halves(connection, batch, moment(row["time"]), text(row["reason"]))
            state = await _state(connection, batch.sink)
            if state is None or state["upto"] != batch.last or state["emit"] != batch.emit:
                return None
            ahead = counted(state["emit"], state["cursor"]).where(TABLES[batch.emit].c.id <= batch.last)
            found = (await connection.execute(ahead)).all()
            rows = [(row[0], sound_count(row[2])) for row in found]
            if len(rows) < 2:
                await _advance(connection, batch)
                return await _insert_halves(connection, batch, moment(found[0][1]) if found else self._clock(), reason)
            totals = itertools.accumulate(count for _, count in rows)
            half = sum(count for _, count in rows) / 2
            upto = [
                id_ for (id_, _), total in zip(rows[:-1], totals, strict=False) if total <= half or id_ == rows[0][0]
            ][-1]
            await connection.execute(update(schema.sinks).where(_sinks.name == batch.sink).values(upto=upto))
            records = await records_between(connection, batch.emit, state["cursor"], upto)
            if not records:  # all are damaged, so the next batch skips them
                return None
            key = self._key(state, upto)
            return Batch(sink=batch.sink, key=key, records=records, store=self._database.id, emit=batch.emit, last=upto)

    async def confirm(self, batch: Batch) -> None:
        """Note that the batch was delivered."""
        async with self._database.write() as connection:
            if batch.store != self._database.id:  # the batch's store was damaged: nothing from this one was delivered
                return
            if batch.dead_letter is not None:
                await connection.execute(delete(schema.dead_letters).where(_letters.id == batch.dead_letter))
            else:
                await _advance(connection, batch)

    async def dead_letter(self, batch: Batch, reason: str) -> None:
        """Move the batch to the dead letters, because its sink will never accept it, and continue after it."""
        async with self._database.write() as connection:
            known = batch.store == self._database.id  # else that store was damaged: keep the batch in this one
            if known and batch.dead_letter is not None:
                row = {"reason": reason, "time": self._clock(), "replay": False, "half": False}
                await connection.execute(
                    update(schema.dead_letters).where(_letters.id == batch.dead_letter).values(row)
                )
            elif not known or await _advance(connection, batch):
                await connection.execute(
                    insert(schema.dead_letters).values(
                        sink=batch.sink,
                        key=batch.key,
                        time=self._clock(),
                        reason=reason,
                        count=len(batch.records),
                        records=encode_records(batch.records),
                        replay=False,
                    )
                )

    async def backlog(self, sink: str) -> SinkBacklog:
        """Return the sink's backlog and number of dead letters."""
        async with self._database.read() as connection:
            return await _backlog(connection, sink, await _state(connection, sink))

    async def sinks(self) -> list[SinkState]:
        """Return the state of delivery to each sink."""
        found = []
        async with self._database.read() as connection:
            states = (await connection.execute(select(schema.sinks).order_by(_sinks.name))).mappings().all()
            for state in states:
                records, oldest, _ = await _backlog(connection, state["name"], state)
                key = None if state["upto"] is None else self._key(state, state["upto"])
                found.append(
                    SinkState(
                        sink=state["name"],
                        emit=state["emit"],
                        records=records,
                        oldest=oldest,
                        next=key,
                        configured=state["gone"] is None,
                    )
                )
        return found

    async def dead_letters(self, sink: str | None = None) -> list[DeadLetter]:
        """Return the dead letters, oldest first, without their records."""
        columns = [column for column in schema.dead_letters.c if column.name != "records"]
        query = select(*columns).where(~_letters.half).order_by(_letters.id)
        if sink is not None:
            query = query.where(_letters.sink == sink)
        async with self._database.read() as connection:
            return [_letter(row) for row in (await connection.execute(query)).mappings()]

    async def show(self, id: int) -> DeadLetter | None:  # noqa: A002
        """Return one dead letter with its records; None if there is none with this id."""
        async with self._database.read() as connection:
            query = select(schema.dead_letters).where(_letters.id == id, ~_letters.half)
            row = (await connection.execute(query)).mappings().first()
        if row is None:
            return None
        return _letter(row, decoded(row["records"], "dead letter", id))

    async def replay(self, ids: Collection[int]) -> int:
        """Queue dead letters for redelivery by the delivering process; returns how many of these ids exist."""
        async with self._database.write() as connection:
            return _count(
                await connection.execute(update(schema.dead_letters).where(_letters.id.in_(ids)).values(replay=True))
            )

    async def drop(self, ids: Collection[int]) -> int:
        """Delete dead letters; returns how many of these ids existed."""
        async with self._database.write() as connection:
            chosen = delete(schema.dead_letters).where(_letters.id.in_(ids), ~_letters.half)
            return _count(await connection.execute(chosen))

    def _key(self, state: Mapping[Any, Any], upto: int) -> str:
        """Return the key of a sink's batch, which is unique to the store and sink."""
        batch = f"{state['name']}/{state['emit']}/{state['cursor'] + 1}-{upto}"
        return str(uuid.uuid5(uuid.UUID(self._database.id or "0" * 32), batch))


_sinks, _letters = schema.sinks.c, schema.dead_letters.c
_CONFIRM_AND_BEGIN = (
    update(schema.sinks)
    .where(
        _sinks.name == bindparam("b_sink"),
        _sinks.emit == bindparam("b_emit"),
        _sinks.upto == bindparam("b_last"),
        ~replayed(bindparam("b_sink")),  # they come first
        exists().where(schema.meta.c.name == "id", schema.meta.c.value == bindparam("b_store")),  # it is not a new file
    )
    .values(cursor=bindparam("b_last"), upto=bindparam("b_upto"))
)


def _is_sound(state: RowMapping) -> bool:
    """Return whether a sink's row is intact."""
    whole = isinstance(state["name"], str) and state["emit"] in TABLES and isinstance(state["cursor"], int)
    return whole and isinstance(state["upto"], int | None) and isinstance(state["gone"], float | None)


def _letter(row: RowMapping, records: list[SinkRecord] | None = None) -> DeadLetter:
    return DeadLetter(
        id=row["id"],
        sink=text(row["sink"]),
        key=text(row["key"]),
        time=moment(row["time"]),
        reason=text(row["reason"]),
        count=sound_count(row["count"]),
        replay=row["replay"],
        records=records,
    )


async def _state(connection: AsyncConnection, sink: str) -> RowMapping | None:
    return (await connection.execute(select(schema.sinks).where(_sinks.name == sink))).mappings().first()


async def _backlog(connection: AsyncConnection, sink: str, state: RowMapping | None) -> SinkBacklog:
    kept = select(
        func.count(_letters.id).filter(~_letters.replay),
        func.count(_letters.id).filter(_letters.replay),
        func.sum(_letters.count).filter(_letters.replay),
        func.min(_letters.time).filter(_letters.replay),
    )
    dead, again, count, oldest = (await connection.execute(kept.where(_letters.sink == sink))).one()
    waiting, times = max(int(count or 0), again), [] if oldest is None else [moment(oldest)]
    if state is None:
        return SinkBacklog(waiting, min(times, default=None), dead)
    ahead = counted(state["emit"], state["cursor"]).subquery()
    first = counted(state["emit"], state["cursor"]).limit(1).subquery()
    count, rows = (await connection.execute(select(func.sum(ahead.c.count), func.count(ahead.c.id)))).one()
    waiting += max(int(count or 0), rows)
    if (oldest := await connection.scalar(select(first.c.time))) is not None:
        times.append(moment(oldest))
    return SinkBacklog(waiting, min(times, default=None), dead)


async def _drop(connection: AsyncConnection, sink: str) -> None:
    """Delete a sink's backlog."""
    await connection.execute(delete(schema.dead_letters).where(_letters.sink == sink, _letters.half))
    await connection.execute(delete(schema.sinks).where(_sinks.name == sink))


async def _warn(connection: AsyncConnection, state: RowMapping, message: str) -> None:
    """Log what happens to a sink's backlog, unless it is empty."""
    if records := (await _backlog(connection, state["name"], state)).records:
        log.warning(message, extra={"sink": state["name"], "emit": state["emit"], "records": records})


async def _insert_halves(connection: AsyncConnection, batch: Batch, time: float, reason: str) -> Batch:
    """Store the halves of a batch, which may be a dead letter, to be sent next; return the first.

    The second is dated between the first and the next one, to keep the order however often they are halved.
    """
    later = select(func.min(_letters.time)).where(_letters.sink == batch.sink, _letters.time > time)
    following = min(moment(await connection.scalar(later)) or math.inf, time + 1.0)
    middle = len(batch.records) // 2
    halves = []
    for name, date, records in (
        ("first", time, batch.records[:middle]),
        ("second", (time + following) / 2, batch.records[middle:]),
    ):
        key = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{batch.key}/{name}"))  # a damaged one is not a UUID
        row = {
            "sink": batch.sink,
            "key": key,
            "time": date,
            "reason": reason,
            "count": len(records),
            "records": encode_records(records),
            "replay": True,
            "half": True,
        }
        id_ = batch.dead_letter if name == "first" else None
        if id_ is None:
            added = insert(schema.dead_letters).values(row).returning(_letters.id)
            id_ = (await connection.execute(added)).scalar_one()
        else:
            await connection.execute(update(schema.dead_letters).where(_letters.id == id_).values(row))
        halves.append(Batch(sink=batch.sink, key=key, records=records, store=batch.store, dead_letter=id_))
    return halves[0]


async def _advance(connection: AsyncConnection, batch: Batch) -> bool:
    """Move a sink's cursor past a batch; False if it is already there."""
    behind = update(schema.sinks).where(
        _sinks.name == batch.sink, _sinks.emit == batch.emit, _sinks.cursor < batch.last
    )
    return _count(await connection.execute(behind.values(cursor=batch.last, upto=None))) > 0


def _count(result: Any) -> int:
    return int(result.rowcount)
