"""Users' marks on GPUs in the store: setting, removing, active ones, and the full list of one GPU.

Any process may write: each write is one transaction that sees the active marks, so concurrent writes by two collectors
and a command leave one per GPU. No lease is needed.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, RowMapping, Select, and_, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.marks import Mark, MarkKind, NewMark
from collector.model import canonical_uuid
from collector.store import schema
from collector.store.bounded import Bounded, in_time
from collector.store.database import Database
from collector.store.mark_book import Book, KnownGpu, KnownGpus, Marked, Unmarked, parts
from collector.store.sound import moment, optional_text, text

__all__ = ["MarkStore", "marks_at"]


class MarkStore(Bounded):
    """The marks in the store; all methods raise StoreError, including when they exceed a deadline."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        super().__init__(database)
        self._clock = clock

    @in_time
    async def version(self) -> str:
        """Return a string that every write changes; empty before the first."""
        async with self._read() as connection:
            return text(await connection.scalar(_VERSION))

    @in_time
    async def in_force(self) -> tuple[str, list[Mark]]:
        """Return the version, and the active marks at that version, oldest first."""
        async with self._read() as connection:
            version = text(await connection.scalar(_VERSION))
            return version, await _in_force(connection, self._clock())

    @in_time
    async def page(
        self, *, ended: bool = False, gpu: str | None = None, before: int | None = None, limit: int = 1000
    ) -> list[Mark]:
        """Return marks, newest first: the active ones, and with `ended` also the others.

        `gpu` is a UUID (in either case) or a serial; `before` is the id of the last mark of the previous page.
        """
        query = select(schema.marks).order_by(_marks.id.desc()).limit(limit)
        if not ended:
            query = query.where(*_is_in_force(self._clock()))
        if gpu is not None:
            query = query.where(or_(_marks.uuid == canonical_uuid(gpu), _marks.serial == gpu))
        return await self._page(query, before)

    @in_time
    async def of_gpu(
        self, uuid: str, serial: str | None, *, before: int | None = None, limit: int = 1000
    ) -> list[Mark]:
        """Return all marks that one GPU ever had, newest first, including those of its serial before it was known."""
        mine = _marks.uuid == uuid
        if serial is not None:
            mine |= and_(_marks.uuid.is_(None), _marks.serial == serial)
        return await self._page(select(schema.marks).where(mine).order_by(_marks.id.desc()).limit(limit), before)

    @in_time
    async def set(self, names: Sequence[str], new: NewMark, *, by: str, known: Iterable[KnownGpu] = ()) -> list[Marked]:
        """Mark GPUs that are named by UUID (in either case) or serial, all or none; raises RefusedMarkError.

        A GPU's previous mark ends. `known` are GPUs that may not be in the history yet. An unknown GPU is marked by its
        given name.
        """
        async with self._database.write() as connection:
            book = await _book(connection, names, known, self._clock(), by)
            done = [book.mark(name, new) for name in names]
            book.check()
            written = await self._write(connection, book)
        return [one._replace(mark=written.get(id(one.mark), one.mark)) for one in done]

    @in_time
    async def remove(self, names: Sequence[str], *, by: str, known: Iterable[KnownGpu] = ()) -> list[Unmarked]:
        """Remove the marks of GPUs, named as for `set`, all or none; raises RefusedMarkError.

        A GPU without a mark is not an error.
        """
        async with self._database.write() as connection:
            book = await _book(connection, names, known, self._clock(), by)
            done = [book.unmark(name) for name in names]
            book.check()
            await self._write(connection, book)
        return done

    async def refill(self, marks: Iterable[Mark]) -> None:
        """Copy marks to a store that replaces a damaged one, except for GPUs that have been marked since."""
        async with self._database.write() as connection:
            there = await _not_removed(connection)
            marked = {mark.uuid for mark in there if mark.uuid} | {mark.serial for mark in there if not mark.uuid}
            rows = [_row(mark) for mark in marks if (mark.uuid or mark.serial) not in marked]
            if rows:
                await connection.execute(insert(schema.marks), rows)
                await self._change_version(connection)

    async def _write(self, connection: AsyncConnection, book: Book) -> dict[int, Mark]:
        """Write a book's decisions; returns its new marks with their ids, by the identity of those without."""
        for time, who, ids in book.endings():
            for part in parts(ids):
                ended = update(schema.marks).where(_marks.id.in_(part))
                await connection.execute(ended.values(removed_at=time, removed_by=who))
        written: dict[int, Mark] = {}
        if book.new:
            statement = insert(schema.marks).returning(_marks.id, sort_by_parameter_order=True)
            numbers = await connection.scalars(statement, [_row(mark) for mark in book.new.values()])
            for mark, number in zip(book.new.values(), numbers, strict=True):
                written[id(mark)] = msgspec.structs.replace(mark, id=number)
        if book.ended or book.new:
            await self._change_version(connection)
        return written

    async def _change_version(self, connection: AsyncConnection) -> None:
        row = self._database.insert(schema.meta).values(name=_VERSION_NAME, value=secrets.token_hex(8))
        await connection.execute(row.on_conflict_do_update(index_elements=["name"], set_={"value": row.excluded.value}))

    async def _page(self, query: Select[Any], before: int | None) -> list[Mark]:
        if before is not None:
            query = query.where(_marks.id < before)
        async with self._read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        return _sound(rows)


async def _book(
    connection: AsyncConnection, names: Sequence[str], gpus: Iterable[KnownGpu], now: float, by: str
) -> Book:
    known = KnownGpus()
    for gpu in gpus:
        known.add(*gpu)
    await known.load(connection, names)
    return Book(await _not_removed(connection), known, now, by)


async def _in_force(connection: AsyncConnection, now: float) -> list[Mark]:
    """Return the active marks, oldest first."""
    query = select(schema.marks).where(*_is_in_force(now)).order_by(_marks.id)
    return _sound((await connection.execute(query)).mappings().all())


async def marks_at(connection: AsyncConnection, time: float) -> list[Mark]:
    """Return the marks active at a time (Unix seconds), oldest first, as they were before their removal."""
    query = select(schema.marks).where(
        _marks.set_at <= time,
        or_(_marks.removed_at.is_(None), _marks.removed_at > time),
        or_(_marks.until.is_(None), _marks.until > time),
    )
    rows = (await connection.execute(query.order_by(_marks.id))).mappings().all()
    return [msgspec.structs.replace(mark, removed_at=None, removed_by=None) for mark in _sound(rows)]


def _is_in_force(now: float) -> tuple[ColumnElement[bool], ...]:
    return _marks.removed_at.is_(None), or_(_marks.until.is_(None), _marks.until > now)


async def _not_removed(connection: AsyncConnection) -> list[Mark]:
    """Return the marks that have not been removed, including expired ones, oldest first."""
    query = select(schema.marks).where(_marks.removed_at.is_(None)).order_by(_marks.id)
    return _sound((await connection.execute(query)).mappings().all())


def _sound(rows: Iterable[RowMapping]) -> list[Mark]:
    """Return the marks of rows; damaged values are replaced with neutral ones, so that the mark can be removed."""
    return [
        Mark(
            id=row["id"],
            uuid=optional_text(row["uuid"]),
            serial=optional_text(row["serial"]),
            kind=_kind(row["kind"]),
            note=text(row["note"]),
            ticket=text(row["ticket"]),
            set_at=moment(row["set_at"]),
            set_by=text(row["set_by"]),
            until=_expiry(row["until"]),
            removed_at=None if (removed_at := row["removed_at"]) is None else moment(removed_at),
            removed_by=optional_text(row["removed_by"]),
        )
        for row in rows
    ]


def _kind(value: object) -> MarkKind:
    try:
        return MarkKind(text(value))
    except ValueError:
        return MarkKind.WATCH


def _expiry(value: object) -> float | None:
    """Return when a mark expires; None, never, if that is damaged and the database takes it for a time to come."""
    past = isinstance(value, int | float) and value < 0
    return time if (time := moment(value)) == value or past else None


def _row(mark: Mark) -> dict[str, Any]:
    """Return the row of a mark, without its id."""
    return {name: value for name, value in msgspec.structs.asdict(mark).items() if name != "id"}


_VERSION_NAME = "marks"
_VERSION = select(schema.meta.c.value).where(schema.meta.c.name == _VERSION_NAME)
_marks = schema.marks.c
