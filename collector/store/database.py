"""The connections to SQLite or PostgreSQL: opened, migrated, read and written, every failure mapped to ours."""

import asyncio
import logging
import os
import re
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any, Self, TypeVar

import anyio
import anyio.to_thread
import asyncpg
from sqlalchemy import Table, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from collector.config.store import PostgresLocation, SqliteLocation, StoreSettings, locate
from collector.end_deadline import EndDeadline, Stage
from collector.store import schema
from collector.store.damaged import SetAside, describe_loss, set_aside, set_aside_files, set_aside_log
from collector.store.engines import STATEMENT_TIMEOUT_SECONDS, postgres_engine, read_password, sqlite_engine
from collector.store.errors import FOREIGN, DamagedStoreError, StoreError, UnavailableStoreError, explain, is_odd
from collector.store.files import (
    TO_BE_SHRUNK,
    check_readable,
    claim,
    foreign_log,
    mark,
    prepare_file,
    shrink,
    verify,
)
from collector.store.migrate import check_complete, check_version, is_current, migrate, migrate_shared, stage

__all__ = ["Database", "OpenMode"]

log = logging.getLogger(__name__)

_T = TypeVar("_T")

CLOSE_TIMEOUT_SECONDS = 3.0  # that the connections have to end in order
ANSWER_CONNECTIONS = 4  # for what is read with a deadline
GIVE_UP_SECONDS = 0.5  # after the deadline of an answer, when the engine itself should have ended the query
GIVE_UP_AGAIN_SECONDS = 0.05  # until the next attempt: SQLite ends what runs just then, not the next statement
IDLE_TRANSACTION_SECONDS = 10  # that a writing client may say nothing; less than a lease lasts
VERIFY_SECONDS = 60.0  # between two searches for the cause of errors that a sound store does not lead to
RETRY_SECONDS = 5.0  # between two attempts to open what could not be opened


class OpenMode(Enum):
    """What a store is opened for."""

    COLLECTOR = "collector"  # everything; the one process that records into an SQLite file
    OPERATOR = "operator"  # reading, and repairing the outbox while a collector runs
    READER = "reader"  # reading only
    TRIAL = "trial"  # what a collector does, undone: nothing is committed, and the tables need not be there yet
    DOWNGRADE = "downgrade"  # writing the tables of an older version as they are, while no collector runs


class Database:
    """One open store; made by `Database.open`.

    Reads and writes run shielded from cancellation, because they are short and a connection that is left in the middle
    of one cannot be used again; once the process is about to end (`end`), they have a deadline. A write is one
    transaction, and there is one at a time.

    A collector's SQLite file may turn out to be damaged, or its disk to fail. Unless `strict` is set, `trouble` then
    says so, reads and writes raise it, and `recover` sets a damaged file aside and begins a new one.
    """

    def __init__(
        self,
        location: SqliteLocation | PostgresLocation,
        settings: StoreSettings,
        mode: OpenMode,
        end: EndDeadline | None = None,
    ) -> None:
        self.location = location
        self.end = end or EndDeadline()
        self.id = ""  # random, and permanent for the store
        self.trouble: StoreError | None = None  # why it is not open at present
        self.renewed = False  # whether it replaces a damaged one, and nobody has acted on that yet
        self._settings = settings
        self._mode = mode
        self._reader: AsyncEngine | None = None
        self._writer: AsyncEngine | None = None
        self._answerer: AsyncEngine | None = None  # for what is read with a deadline
        self._lease: AsyncEngine | None = None  # one connection for the lead alone, which must not wait for readers
        self._answers: set[asyncio.Task[Any]] = set()  # what runs for somebody who may have gone
        self._asked: set[Any] = set()  # the engine's own connections that they use
        self._claimed: int | None = None  # the descriptor of the lock of a collector's SQLite
        self._file: tuple[int, int] | None = None  # of a collector's SQLite: its device and inode
        self._lock = anyio.Lock(fast_acquire=True)
        self._retry_at = self._verify_at = 0.0
        self._deadline = float("inf")
        self._scopes: set[anyio.CancelScope] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: StoreSettings, mode: OpenMode, end: EndDeadline | None = None) -> AsyncIterator[Self]:
        """Open a store, as a collector creating and migrating it; raises StoreError.

        A collector's damaged or unavailable SQLite file raises nothing, unless the settings are strict: see `trouble`.
        """
        location = locate(settings.url)
        if isinstance(location, PostgresLocation) and settings.password_file is not None:
            with suppress(StoreError):  # which connecting reports
                password = await read_password(settings.password_file)
                location = location._replace(password=password)  # errors must not repeat it
        database = cls(location, settings, mode, end)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(database._close)
            stack.enter_context(database.end.calling(database._limit))
            try:
                await database._connect()
            except (DamagedStoreError, UnavailableStoreError) as error:
                if not database.recovers:
                    raise
                database.trouble = error
                if isinstance(error, DamagedStoreError):
                    with suppress(StoreError):  # which is its trouble from now on
                        await database.recover()
            yield database

    async def recover(self) -> None:
        """Open the store again if it is not open, setting a damaged file aside; raises StoreError while it cannot be.

        For the collector, from one task.
        """
        if self.trouble is None:
            return
        if anyio.current_time() < self._retry_at:
            raise _again(self.trouble)
        with self.shielded():
            async with self._lock:  # after a transaction that is under way
                try:
                    if isinstance(self.trouble, DamagedStoreError):
                        await self._set_aside(self.trouble)
                    await self._dispose()
                    await self._connect()
                except StoreError as error:
                    self._retry_at = anyio.current_time() + RETRY_SECONDS
                    self.trouble = error
                    raise
                self._retry_at = 0.0
                self.trouble = None

    def set_aside(self) -> SetAside:
        """Return which damaged files of this store are in its folder."""
        return set_aside_files(self.location.path) if isinstance(self.location, SqliteLocation) else SetAside()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection that sees one state of the store; raises StoreError."""
        if self.trouble is not None:
            raise _again(self.trouble)
        async with self._reading() as connection:
            yield connection

    @asynccontextmanager
    async def write(self, *, begin: bool = True) -> AsyncIterator[AsyncConnection]:
        """Lend a connection in a transaction, which is committed at the end of the block; raises StoreError.

        Without `begin`, no transaction is begun: for a single statement on SQLite, which is one by itself.
        """
        self.check_file()
        with self.shielded():
            async with self._lock:
                if self.trouble is not None:
                    raise _again(self.trouble)
                async with self._writing(begin=begin) as connection:
                    yield connection

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        engine = self._reader
        assert engine is not None  # noqa: S101
        with self.shielded():
            try:
                async with engine.connect() as connection:
                    try:
                        yield connection
                    finally:
                        await self._end_if_replaced(connection, engine)
            except FOREIGN as error:
                raise await self._explained(error, engine) from error

    async def within(self, deadline: float, query: Coroutine[Any, Any, _T]) -> _T:
        """Return what a query that uses `answer` returns, on the event loop's clock; raises StoreError.

        A query that is not done by then is left to end by itself: aiosqlite breaks when it is cancelled, and nothing
        can cancel what waits for a file system. The connections limit how many there can be.
        """
        task = asyncio.ensure_future(query)
        self._answers.add(task)
        task.add_done_callback(self._answered)
        await asyncio.wait({task}, timeout=max(0.0, deadline + 2 * GIVE_UP_SECONDS - anyio.current_time()))
        if not task.done():
            raise explain(TimeoutError(), self.location)
        return task.result()

    def _answered(self, task: asyncio.Task[Any]) -> None:
        self._answers.discard(task)
        if not task.cancelled():
            task.exception()  # the caller may be gone

    @asynccontextmanager
    async def answer(self, deadline: float) -> AsyncIterator[AsyncConnection]:
        """Do what `read` does, but end what the connection does at the deadline, on the event loop's clock."""
        if self.trouble is not None:
            raise _again(self.trouble)
        engine = self._answerer
        assert engine is not None  # noqa: S101
        with self.shielded():
            try:
                async with AsyncExitStack() as stack:
                    yield await self._limited(engine, stack, deadline)
            except FOREIGN as error:
                if self.trouble is not None:  # for which it was given up
                    raise _again(self.trouble) from error
                late = anyio.current_time() > deadline - 0.05  # the server's clock is another one
                found = explain(error, self.location)
                if late and not isinstance(found, DamagedStoreError):
                    raise explain(TimeoutError(), self.location) from error
                raise await self._explained(error, engine) from error

    async def _end_if_replaced(self, connection: AsyncConnection, engine: AsyncEngine) -> None:
        """Close a connection whose engine has been given up meanwhile, instead of leaving it to that one's pool."""
        if engine not in (self._reader, self._answerer):
            await connection.invalidate()

    async def _end_answers(self) -> None:
        """Give up what still runs for others, so that the connections can be closed."""
        with anyio.move_on_after(min(CLOSE_TIMEOUT_SECONDS, self.end.left(Stage.CLOSE)), shield=True):
            while self._answers:
                for driver in self._asked:
                    self._give_up(driver)
                await asyncio.wait(self._answers, timeout=GIVE_UP_AGAIN_SECONDS)

    async def _limited(self, engine: AsyncEngine, stack: AsyncExitStack, deadline: float) -> AsyncConnection:
        """Connect; what the connection does ends at the deadline.

        PostgreSQL ends it, and we end that of a server that hangs soon after.
        """
        for is_last in (False, True):
            connection = await stack.enter_async_context(engine.connect())
            stack.push_async_callback(self._end_if_replaced, connection, engine)
            if anyio.current_time() >= deadline or engine is not self._answerer:  # it waited for a connection till now
                raise TimeoutError
            await self._end_at(connection, stack, deadline + (0.0 if self.single_process else GIVE_UP_SECONDS))
            if self.single_process:
                return connection
            milliseconds = max(1, int((deadline - anyio.current_time()) * 1000))
            try:
                await connection.execute(text(f"SET LOCAL statement_timeout = {milliseconds}"))
            except DBAPIError as error:
                # The server ends those that nobody uses when it restarts; none in the pool is used again.
                if is_last or not error.connection_invalidated:
                    raise
            else:
                return connection
        raise AssertionError("the last attempt returns or raises")

    async def _end_at(self, connection: AsyncConnection, stack: AsyncExitStack, deadline: float) -> None:
        """Give up what a connection does from the deadline on, until the stack ends."""
        driver = (await connection.get_raw_connection()).driver_connection
        loop = asyncio.get_running_loop()

        timer: asyncio.TimerHandle

        def give_up() -> None:
            nonlocal timer
            self._give_up(driver)
            timer = loop.call_later(GIVE_UP_AGAIN_SECONDS, give_up)

        timer = loop.call_at(deadline, give_up)
        stack.callback(lambda: timer.cancel())
        self._asked.add(driver)
        stack.callback(self._asked.discard, driver)

    def _give_up(self, driver: Any) -> None:
        """End what a connection does, without waiting for it; SQLite may do something else after it."""
        if isinstance(driver, asyncpg.Connection):
            driver.terminate()  # a server that hangs hears no request to cancel either
            return
        with suppress(ValueError, sqlite3.Error):  # it is closed
            driver._conn.interrupt()  # noqa: SLF001  the public method is a coroutine that does only this

    @asynccontextmanager
    async def _writing(self, *, begin: bool = True) -> AsyncIterator[AsyncConnection]:
        if self._writer is None:
            raise StoreError(f"store {self.location}: opened read-only")
        engine = self._writer
        try:
            async with engine.begin() if begin else engine.connect() as connection:
                if not self.single_process:
                    # One writer at a time among replicas too: ids must be committed in their order, or a
                    # cursor passes over one that was taken early and committed late.
                    await connection.execute(_TAKE_TURN)
                yield connection
        except FOREIGN as error:
            raise await self._explained(error, engine) from error

    @asynccontextmanager
    async def lease(self, seconds: float, *, last: bool = False) -> AsyncIterator[AsyncConnection]:
        """Lend the lead's own connection in a transaction, for at most `seconds`; raises StoreError.

        The `last` time, to give the lead back, may be after the time for all else is over.
        """
        if self._lease is None:
            raise StoreError(f"store {self.location}: not opened by a collector")
        with self.shielded(seconds, last=last):
            try:
                async with self._lease.begin() as connection:
                    await connection.execute(_LIMIT_IDLENESS)
                    yield connection
            except FOREIGN as error:
                raise explain(error, self.location) from error

    @contextmanager
    def shielded(self, seconds: float = float("inf"), *, last: bool = False) -> Iterator[None]:
        """Let no cancellation from outside into the block, which may take `seconds`; raises StoreError after that."""
        deadline = anyio.current_time() + seconds
        if not last:
            deadline = min(self._deadline, deadline)
        with anyio.CancelScope(shield=True, deadline=deadline) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)
        if scope.cancelled_caught:
            raise explain(TimeoutError(), self.location)

    def check_file(self) -> None:
        """Make sure that the file is still the one that was opened; raises StoreError."""
        if self._file is not None and self._file != self._identity():
            raise StoreError(
                f"store {self.location}: the file was removed or replaced while in use, and nothing can be recorded; "
                "restart the collector"
            )

    def _identity(self) -> tuple[int, int] | None:
        if not isinstance(self.location, SqliteLocation):
            return None
        try:
            status = self.location.path.stat()
        except OSError:
            return (0, 0)
        return (status.st_dev, status.st_ino)

    def _limit(self) -> None:
        """Let nothing that runs now or later take longer than the end of the process leaves to it."""
        self._deadline = anyio.current_time() + self.end.left(Stage.STORE)
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, self._deadline)

    def insert(self, table: Table) -> Any:
        """Begin an INSERT that can say what to do on conflict, which each engine says in its own way."""
        return (postgresql if isinstance(self.location, PostgresLocation) else sqlite).insert(table)

    @property
    def single_process(self) -> bool:
        """Whether no other process can record into it."""
        return isinstance(self.location, SqliteLocation)

    @property
    def recovers(self) -> bool:
        """Whether it is kept going although its file is damaged or its disk fails."""
        return self._mode is OpenMode.COLLECTOR and self.single_process and not self._settings.strict

    async def _connect(self) -> None:
        """Claim and check the file, make the engines and the tables; raises StoreError."""
        location, mode = self.location, self._mode
        # HTTP requests use an engine of their own, so that they cannot starve recording and delivery of connections.
        try:
            if isinstance(location, PostgresLocation):
                password_file = self._settings.password_file
                self._reader = postgres_engine(location, password_file)
                self._writer = None if mode is OpenMode.READER else self._reader
                if mode is OpenMode.COLLECTOR:
                    self._lease = postgres_engine(location, password_file, connections=1)
                self._answerer = postgres_engine(location, password_file, connections=ANSWER_CONNECTIONS, ping=False)
            else:
                if mode in _CLAIMING:
                    if self._claimed is None:
                        # In a thread: nothing would end a process whose main thread hangs in a file system.
                        self._claimed = await anyio.to_thread.run_sync(claim, location.path, abandon_on_cancel=True)
                        await anyio.to_thread.run_sync(self._check_log, location.path, abandon_on_cancel=True)
                    await anyio.to_thread.run_sync(prepare_file, location.path, abandon_on_cancel=True)
                else:
                    await anyio.to_thread.run_sync(check_readable, location.path, abandon_on_cancel=True)
                read_only = mode in _READING
                self._reader = sqlite_engine(
                    location.path, read_only=read_only, begin="BEGIN", connections=4, cache=4096
                )
                self._answerer = sqlite_engine(
                    location.path, read_only=read_only, begin="BEGIN", connections=ANSWER_CONNECTIONS, cache=4096
                )
                if mode not in _READING:
                    self._writer = sqlite_engine(
                        location.path, read_only=False, begin="BEGIN IMMEDIATE", connections=1, cache=32768
                    )
            await self._prepare()
            if mode is OpenMode.COLLECTOR:
                await self._shrink()
                self._file = self._identity()
        except FOREIGN as error:
            raise explain(error, location) from error

    async def _prepare(self) -> None:
        """Make sure that the tables are there; one that is up to date is not written to, for its disk may be full."""
        async with self._reading() as connection:
            if self._mode in _RECORDING and not self.single_process and await connection.scalar(_IS_READ_ONLY):
                raise StoreError(f"store {self.location}: the server is read-only or a replica; use the primary")
            if self._mode in (OpenMode.TRIAL, OpenMode.DOWNGRADE):
                await connection.run_sync(stage, self.location)
                if self._mode is OpenMode.DOWNGRADE and await connection.run_sync(is_current):
                    await connection.run_sync(check_complete, self.location)
                return
            if self._mode is not OpenMode.COLLECTOR or await connection.run_sync(is_current):
                await connection.run_sync(check_version, self.location)
                if self._mode is OpenMode.COLLECTOR:
                    await connection.run_sync(check_complete, self.location)
                self.id = _id(await connection.scalar(_OWN_ID))
                if self.id or self._mode is not OpenMode.COLLECTOR:
                    return
                log.error("damaged row in the store: assigning a new id; sinks may receive their next batch twice")
        if isinstance(self.location, PostgresLocation):
            engine = postgres_engine(self.location, self._settings.password_file, connections=2, seconds=None)
            try:
                await migrate_shared(engine, self.location)
            finally:
                await _dispose(engine, self.end)
        async with self._writing() as connection:
            await connection.run_sync(migrate, self.location)
            self.id = _id(await connection.scalar(_OWN_ID)) or secrets.token_hex(16)
            own = self.insert(schema.meta).values(name="id", value=self.id)
            await connection.execute(
                own.on_conflict_do_update(index_elements=["name"], set_={"value": own.excluded.value})
            )
        if isinstance(self.location, SqliteLocation):
            await anyio.to_thread.run_sync(mark, self.location.path)

    async def _shrink(self) -> None:
        """Rewrite an SQLite file that an update has left with the room of its old tables."""
        if isinstance(self.location, SqliteLocation):
            async with self._reading() as connection:
                is_due = await connection.scalar(_TO_BE_SHRUNK) is not None
            if is_due:
                await anyio.to_thread.run_sync(shrink, self.location.path)

    async def _explained(self, error: BaseException, engine: AsyncEngine) -> StoreError:
        """Return our error for a foreign one; damage is remembered, so that the file is set aside.

        Not what an engine still met in a file that was set aside meanwhile.
        """
        found = explain(error, self.location)
        if engine not in (self._reader, self._writer, self._answerer):
            return found
        if self.recovers and self.trouble is None and self._file is not None:
            if is_odd(error) and anyio.current_time() >= self._verify_at:
                self._verify_at = anyio.current_time() + VERIFY_SECONDS
                found = await self._verified(found)
            if isinstance(found, DamagedStoreError) and engine in (self._reader, self._writer, self._answerer):
                self.trouble = found
        return found

    async def _verified(self, found: StoreError) -> StoreError:
        """Return the damage that an odd error comes from; the error itself if there is none."""
        assert isinstance(self.location, SqliteLocation)  # noqa: S101
        try:
            await anyio.to_thread.run_sync(verify, self.location.path)
            async with self._reading() as connection:
                await connection.run_sync(check_complete, self.location)
        except DamagedStoreError as damage:
            return damage
        except FOREIGN as error:
            other = explain(error, self.location)
            return other if isinstance(other, DamagedStoreError) else found
        except StoreError:
            pass
        return found

    async def _set_aside(self, reason: StoreError) -> None:
        """Rename the damaged file, of which this collector has the lock; raises StoreError."""
        assert isinstance(self.location, SqliteLocation)  # noqa: S101
        path = self.location.path
        self._file = None
        what = str(reason).partition("; ")[0]
        try:
            to = await anyio.to_thread.run_sync(set_aside, path, time.time())
        except OSError as error:
            raise DamagedStoreError(
                f"{what}; it cannot be renamed ({error.strerror}), and nothing is recorded; move it away"
            ) from error
        self.renewed = True
        lost = await anyio.to_thread.run_sync(describe_loss, to)
        log.error(
            "store damaged; set the file aside to begin a new history: %s",
            what,
            extra={
                "file": str(path),
                "set_aside": str(to),
                "lost": lost,
                "advice": "recover it with the sqlite3 tool's .recover, or delete it; gpuid never does",
            },
        )

    def _check_log(self, path: Path) -> None:
        """Set a write-ahead log aside that is not this file's; raises DamagedStoreError where that must not be."""
        if not path.is_file() or not foreign_log(path):
            return
        what = "its write-ahead log is damaged or another database's"
        if not self.recovers:
            raise DamagedStoreError(f"store {path}: {what}; move the log away (the -wal and -shm) to start without it")
        to = set_aside_log(path, time.time())
        log.error(
            "store damaged; set its write-ahead log aside, and with it the last changes: %s",
            what,
            extra={"file": str(path), "set_aside": str(to)},
        )

    async def _dispose(self) -> None:
        engines = {self._reader, self._writer, self._answerer, self._lease}
        self._reader = self._writer = self._answerer = self._lease = None
        await self._end_answers()
        for engine in filter(None, engines):
            await _dispose(engine, self.end)

    async def _close(self) -> None:
        await self._dispose()
        if self._claimed is not None:
            os.close(self._claimed)


def _id(value: object) -> str:
    """Return the id of a store; empty if there is none, or it is damaged."""
    return value if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32}", value, re.ASCII) else ""


def _again(error: StoreError) -> StoreError:
    """Return the same error for another raise, without the traceback of the first."""
    return type(error)(str(error))


_READING = (OpenMode.READER, OpenMode.TRIAL)
_RECORDING = (OpenMode.COLLECTOR, OpenMode.TRIAL, OpenMode.DOWNGRADE)
_CLAIMING = (OpenMode.COLLECTOR, OpenMode.DOWNGRADE)  # the one process that may write an SQLite file
_TO_BE_SHRUNK = select(schema.meta.c.value).where(schema.meta.c.name == TO_BE_SHRUNK)
_OWN_ID = select(schema.meta.c.value).where(schema.meta.c.name == "id")
_IS_READ_ONLY = text("SELECT current_setting('transaction_read_only')::bool OR pg_is_in_recovery()")
# A collector that stops in the middle of a transaction keeps its locks from all others: the server ends it. Nothing is
# set for longer than the transaction, because behind a pooler the next one may have another connection.
_LIMITS = (
    f"set_config('idle_in_transaction_session_timeout', '{IDLE_TRANSACTION_SECONDS}s', true),"
    f" set_config('statement_timeout', '{STATEMENT_TIMEOUT_SECONDS}s', true)"
)
_LIMIT_IDLENESS = text(f"SELECT {_LIMITS}")
_TAKE_TURN = text(f"SELECT {_LIMITS}, pg_advisory_xact_lock({schema.APPLICATION_ID})")


async def _dispose(engine: AsyncEngine, end: EndDeadline) -> None:
    seconds = min(CLOSE_TIMEOUT_SECONDS, end.left(Stage.CLOSE))
    with anyio.move_on_after(seconds, shield=True):  # a server that hangs does not hear it
        await engine.dispose()
