"""Reads the records that sinks get: those of changes and of readings after a cursor, which may be damaged."""

import bisect
import functools
import itertools
import logging
import operator
import sqlite3
from typing import Annotated, Any

import msgspec
from sqlalchemy import Integer, Text, bindparam, case, cast, exists, func, literal, select, type_coerce
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.model import SinkRecord, changes_object, last_known_object
from collector.store import schema
from collector.store.codec import decode_records
from collector.store.engines import fetch_alone
from collector.store.identifiers import uuid_of_hex
from collector.store.sound import moment, optional_text, sound_changes, sound_count, sound_last_known, text
from collector.timestamps import MAX_TIME, rfc3339

__all__ = ["TABLES", "counted", "decoded", "end_of_batch", "full_batches", "records_between", "replayed"]

TABLES = {"changes": schema.changes, "readings": schema.readings}
RECORDS_AHEAD = 2000  # read at once, or a single batch
READINGS_AHEAD = 16  # batches of readings, each of which is a query of its own

_ALMOST_WHOLE = 0.999999  # of a second: more is rounded to the next one where a time is written
_LAST_ID = (1 << 63) - 1

log = logging.getLogger(__name__)


def counted(emit: str, cursor: int) -> Any:
    """Select the rows after a cursor: id, time, and the number of records in each."""
    table = TABLES[emit]
    count = table.c.count if table is schema.readings else literal(1).label("count")
    return select(table.c.id, table.c.time, count).where(table.c.id > cursor).order_by(table.c.id)


async def end_of_batch(connection: AsyncConnection, emit: str, cursor: int, limit: int) -> int | None:
    """Return the last row of a batch after a cursor; None if there is no row.

    A batch has at least one row, which is never split.
    """
    ahead = await _rows_ahead(connection, emit, cursor, limit)
    return ahead[_rows_of_batch([count for _, count in ahead], limit) - 1][0] if ahead else None


def replayed(sink: Any) -> Any:
    """Return the condition that dead letters of a sink are queued for redelivery."""
    letters = schema.dead_letters.c
    return exists().where(letters.sink == sink, letters.replay)


async def full_batches(
    connection: AsyncConnection, sink: str, emit: str, cursor: int, limit: int
) -> list[tuple[int, list[SinkRecord]]]:
    """Return the batches after a cursor that are full, each with its last row; a few of them.

    Empty while replayed dead letters come first.
    """
    batches = max(1, RECORDS_AHEAD // limit)
    if emit == "changes" and connection.dialect.name == "sqlite":
        values = {
            "b_sink": sink,
            "b_cursor": cursor,
            "b_upto": _LAST_ID,
            "b_limit": batches * limit,
            "b_before": limit - 1,
        }
        try:
            ((written,),) = await fetch_alone(connection, _FULL_AS_JSON, values)
            return [] if written is None else _split(*_from_json(written), limit)
        except (sqlite3.Error, msgspec.MsgspecError):  # something is damaged
            pass
    if await connection.scalar(select(replayed(sink))):
        return []
    if emit == "changes":
        some = select(_columns.id).where(_columns.id > cursor).order_by(_columns.id).limit(batches * limit).subquery()
        count = await connection.scalar(select(func.count()).select_from(some)) or 0
        if count < limit:
            return []
        ids, records = await _changes(connection, cursor, _LAST_ID, count - count % limit)
        return _split(ids, records, limit)
    ahead = await _rows_ahead(connection, emit, cursor, min(batches, READINGS_AHEAD) * limit)
    full: list[tuple[int, list[SinkRecord]]] = []
    read = 0
    while len(full) < READINGS_AHEAD and read < RECORDS_AHEAD and sum(count for _, count in ahead) >= limit:
        rows = _rows_of_batch([count for _, count in ahead], limit)
        upto = ahead[rows - 1][0]
        records = await records_between(connection, emit, cursor, upto)
        if not records:  # all are damaged
            break
        full.append((upto, records))
        read += len(records)
        cursor, ahead = upto, ahead[rows:]
    return full


def _split(ids: list[int], records: list[SinkRecord], limit: int) -> list[tuple[int, list[SinkRecord]]]:
    """Return changes in full batches, each with its last row."""
    return [(ids[end - 1], records[end - limit : end]) for end in range(limit, len(ids) + 1, limit)]


async def records_between(connection: AsyncConnection, emit: str, cursor: int, upto: int) -> list[SinkRecord]:
    """Return the records after a cursor, up to and including those of the row `upto`."""
    if emit == "changes":
        return (await _changes(connection, cursor, upto, max(0, upto - cursor)))[1]
    table = schema.readings
    query = select(table).where(table.c.id > cursor, table.c.id <= upto).order_by(table.c.id)
    rows = (await connection.execute(query)).mappings()
    return [record for row in rows for record in decoded(row["records"], "reading", row["id"])]


def decoded(records: bytes, what: str, row: int) -> list[SinkRecord]:
    """Return the records of a row; empty if it is damaged."""
    try:
        return decode_records(records)
    except (msgspec.MsgspecError, TypeError, ValueError):
        log.error("damaged row in the store: records of a %s lost", what, extra={"row": row})  # noqa: TRY400
        return []


async def _rows_ahead(connection: AsyncConnection, emit: str, cursor: int, limit: int) -> list[tuple[int, int]]:
    """Return the rows after a cursor, at most `limit`: the id of each and its number of records."""
    found = await connection.execute(counted(emit, cursor).limit(limit))
    return [(row[0], sound_count(row[2])) for row in found]


def _rows_of_batch(counts: list[int], limit: int) -> int:
    """Return how many of these rows, by their numbers of records, fit into a batch; at least one does."""
    return max(1, bisect.bisect_right(list(itertools.accumulate(counts)), limit))


async def _changes(
    connection: AsyncConnection, cursor: int, upto: int, limit: int
) -> tuple[list[int], list[SinkRecord]]:
    """Return the ids and records of changes after a cursor, up to and including `upto`, and at most `limit`."""
    values = {"b_cursor": cursor, "b_upto": upto, "b_limit": limit}
    if connection.dialect.name == "sqlite":
        try:
            return _from_json((await connection.execute(_CHANGES_AS_JSON, values)).scalar_one())
        except (DBAPIError, msgspec.MsgspecError):  # something is damaged
            pass
    rows = (await connection.execute(_CHANGES, values)).all()
    return [row[0] for row in rows], [_record(*row[1:]) for row in rows]


_columns = schema.changes.c
_SOME = (_columns.id > bindparam("b_cursor"), _columns.id <= bindparam("b_upto"))
# The columns of a change in the order of _record's parameters, after the id.
_CHANGES = (
    select(
        *(_columns[name] for name in ("id", "time", "cluster", "node", "machine", "source", "chassis", "serial")),
        *(_columns[name] for name in ("uuid", "model", "event", "changes", "last_known", "mark")),
    )
    .where(*_SOME)
    .order_by(_columns.id)
    .limit(bindparam("b_limit"))
)
# Python's SQLite takes the interpreter's lock for each row, and calls a function for each text. So SQLite itself makes
# one text of all rows, in its thread and while Python does other work. It writes 15 digits of a number, which are not
# all of a time: whole seconds are enough, unless it is so close to the next one that the rest decides.
_rows = _CHANGES.subquery().c
_is_packed = func.typeof(_rows.uuid) == "blob"  # JSON has no bytes
_fraction = _rows.time - cast(_rows.time, Integer)
_is_usual = (func.typeof(_rows.time) == "real") & _rows.time.between(0, MAX_TIME) & (_fraction < _ALMOST_WHOLE)
_CHANGES_AS_JSON = select(
    func.json_group_array(
        func.json_array(
            _rows.id,
            case((_is_usual, cast(_rows.time, Integer)), else_=_rows.time),
            case((~_is_usual, _fraction)),
            case((_is_packed, func.lower(func.hex(_rows.uuid)))),
            case((~_is_packed, type_coerce(_rows.uuid, Text))),
            *(column for column in list(_rows)[2:] if column is not _rows.uuid),
        )
    )
)
# A call of the driver goes to its thread and back, so one statement also looks for what comes first, and whether a
# batch is full.
_is_full = (
    select(_columns.id)
    .where(_columns.id > bindparam("b_cursor"))
    .order_by(_columns.id)
    .limit(1)
    .offset(bindparam("b_before"))
    .exists()
)
_FULL_AS_JSON = select(case((_is_full & ~replayed(bindparam("b_sink")), _CHANGES_AS_JSON.scalar_subquery())))
_Row = tuple[
    int,  # id
    int | float,  # whole seconds of the time, or all of it, almost
    float | None,  # and its fraction
    Annotated[str, msgspec.Meta(min_length=32, max_length=32)] | None,  # the 32 digits of the uuid
    str | None,  # or the uuid in another form
    str,  # cluster
    str,  # node
    str,  # machine
    str,  # source
    str | None,  # chassis
    str | None,  # serial
    str | None,  # model
    str,  # event
    str | None,  # changes
    str | None,  # last_known
    str | None,  # mark
]
_decode_rows = msgspec.json.Decoder(list[_Row]).decode


def _from_json(written: str) -> tuple[list[int], list[SinkRecord]]:
    """Return the ids and records of changes that SQLite wrote as JSON; raises MsgspecError if one is damaged."""
    rows = _decode_rows(written)
    rows.sort(key=operator.itemgetter(0))  # they are in this order, but SQLite does not promise it
    return [row[0] for row in rows], [
        SinkRecord(
            cluster=cluster,
            node=node,
            machine=machine,
            source=source,
            chassis=chassis or "",
            gpu=serial or "",
            time=_stamp_of(time, fraction),
            uuid=(uuid or "") if digits is None else uuid_of_hex(digits),
            model=model or "",
            event=event,
            changes=None if changes is None else changes_object(sound_changes(changes)),
            last_known=None if last_known is None else last_known_object(sound_last_known(last_known)),
            mark=mark,
        )
        for (
            _,
            time,
            fraction,
            digits,
            uuid,
            cluster,
            node,
            machine,
            source,
            chassis,
            serial,
            model,
            event,
            changes,
            last_known,
            mark,
        ) in rows
    ]


def _record(
    time: object,
    cluster: object,
    node: object,
    machine: object,
    source: object,
    chassis: object,
    serial: object,
    uuid: object,
    model: object,
    event: object,
    changes: object,
    last_known: object,
    mark: object,
) -> SinkRecord:
    """Return the record of a change, whose values may be damaged."""
    return SinkRecord(
        cluster=text(cluster),
        node=text(node),
        machine=text(machine),
        source=text(source),
        chassis=text(chassis),
        gpu=text(serial),
        time=_stamp(moment(time)),
        uuid=text(uuid),
        model=text(model),
        event=text(event),
        changes=None if changes is None else changes_object(sound_changes(changes)),
        last_known=None if last_known is None else last_known_object(sound_last_known(last_known)),
        mark=optional_text(mark),
    )


@functools.lru_cache(maxsize=64)  # the changes of one reading have the same time
def _stamp(time: float) -> str:
    return rfc3339(time, "seconds")


@functools.lru_cache(maxsize=64)
def _stamp_of(time: float, fraction: float | None) -> str:
    if fraction is None:
        return _stamp(moment(time))
    whole = float(round(time - fraction))
    return _stamp(moment(whole if fraction < _ALMOST_WHOLE else whole + fraction))
