"""The connections to SQLite or PostgreSQL: opened, migrated, read and written, every failure mapped to ours."""

import asyncio
import fcntl
import os
import secrets
import sqlite3
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

import anyio
import anyio.to_thread
import asyncpg
from sqlalchemy import URL, AsyncAdaptedQueuePool, Connection, Table, event, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from collector.config.libpq import connection_options
from collector.config.store import PostgresLocation, SqliteLocation, StoreSettings, locate
from collector.end_deadline import EndDeadline, Stage
from collector.files import UnreadableFileError, read_secret
from collector.store import schema
from collector.store.errors import FOREIGN, StoreError, explain
from collector.store.migrate import check_version, is_current, migrate, stage
from collector.tls import client_context

__all__ = ["Database", "OpenMode", "check_folder", "prepare_folder"]

_T = TypeVar("_T")

OWN_FOLDER = Path("/var/lib/gpuid")  # of the default URL, created when missing; every other one has to exist
CLOSE_TIMEOUT_SECONDS = 3.0  # that the connections have to end in order
CONNECT_TIMEOUT_SECONDS = 10.0  # to PostgreSQL, unless the URL says otherwise
ANSWER_CONNECTIONS = 4  # for what is read with a deadline
GIVE_UP_SECONDS = 0.5  # after the deadline of an answer, when the engine itself should have ended the query
BUSY_TIMEOUT_SECONDS = 10  # that a connection waits for another process's write
STATEMENT_TIMEOUT_SECONDS = 60  # on PostgreSQL, for both ends
IDLE_TRANSACTION_SECONDS = 10  # that a writing client may say nothing; less than a lease lasts


class OpenMode(Enum):
    """What a store is opened for."""

    COLLECTOR = "collector"  # everything; the one process that records into an SQLite file
    OPERATOR = "operator"  # reading, and repairing the outbox while a collector runs
    READER = "reader"  # reading only
    TRIAL = "trial"  # what a collector does, undone: nothing is committed, and the tables need not be there yet


class Database:
    """One open store; made by `Database.open`.

    Reads and writes run shielded from cancellation, because they are short and a connection that is left in the middle
    of one cannot be used again; once the process is about to end (`end`), they have a deadline. A write is one
    transaction, and there is one at a time.
    """

    def __init__(
        self,
        location: SqliteLocation | PostgresLocation,
        reader: AsyncEngine,
        writer: AsyncEngine | None,
        answerer: AsyncEngine | None = None,
        lease: AsyncEngine | None = None,
        end: EndDeadline | None = None,
    ) -> None:
        self.location = location
        self.end = end or EndDeadline()
        self.id = ""  # random, and the store's for ever
        self._reader = reader
        self._writer = writer
        self._lease = lease  # one connection for the lead alone, which must not wait for readers
        self._answerer = answerer or reader
        self._answers: set[asyncio.Task[Any]] = set()  # what runs for somebody who may have gone
        self._asked: set[Any] = set()  # the engine's own connections that they use
        self._file: tuple[int, int] | None = None  # of a collector's SQLite: its device and inode
        self._lock = anyio.Lock()
        self._deadline = float("inf")
        self._scopes: set[anyio.CancelScope] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: StoreSettings, mode: OpenMode, end: EndDeadline | None = None) -> AsyncIterator[Self]:
        """Open a store, as a collector creating and migrating it; raises StoreError."""
        location, end = locate(settings.url), end or EndDeadline()
        if isinstance(location, PostgresLocation) and settings.password_file is not None:
            with suppress(UnreadableFileError):  # which connecting reports
                location = location._replace(password=read_secret(settings.password_file))  # errors must not repeat it
        async with AsyncExitStack() as stack:
            lease = None
            try:
                if isinstance(location, PostgresLocation):
                    reader = _postgres(location, settings.password_file)
                    writer = None if mode is OpenMode.READER else reader
                    if mode is OpenMode.COLLECTOR:
                        lease = _postgres(location, settings.password_file, connections=1)
                    # Whoever asks over HTTP must not keep recording and delivering from their connections.
                    answerer = _postgres(location, settings.password_file, connections=ANSWER_CONNECTIONS, ping=False)
                else:
                    if mode is OpenMode.COLLECTOR:
                        # In a thread: nothing would end a process whose main thread hangs in a file system.
                        claim = await anyio.to_thread.run_sync(_claim, location.path, abandon_on_cancel=True)
                        stack.callback(os.close, claim)
                    await anyio.to_thread.run_sync(_check_file, location.path, mode, abandon_on_cancel=True)
                    reader = answerer = _sqlite(
                        location.path, read_only=mode in _READING, begin="BEGIN", connections=4, cache=4096
                    )
                    writer = None
                    if mode not in _READING:
                        writer = _sqlite(
                            location.path, read_only=False, begin="BEGIN IMMEDIATE", connections=1, cache=32768
                        )
                for engine in filter(None, {reader, writer, answerer, lease}):
                    stack.push_async_callback(_dispose, engine, end)
                database = cls(location, reader, writer, answerer, lease, end)
                stack.enter_context(end.calling(database._limit))
                stack.push_async_callback(database._end_answers)
                await database._prepare(mode)
                if mode is OpenMode.COLLECTOR:
                    database._file = database._identity()
            except FOREIGN as error:
                raise explain(error, location) from error
            yield database

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection that sees one state of the store; raises StoreError."""
        with self.shielded():
            try:
                async with self._reader.connect() as connection:
                    yield connection
            except FOREIGN as error:
                raise explain(error, self.location) from error

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
            task.exception()  # whoever asked may have gone

    @asynccontextmanager
    async def answer(self, deadline: float) -> AsyncIterator[AsyncConnection]:
        """Do what `read` does, but end what the connection does at the deadline, on the event loop's clock."""
        with self.shielded():
            try:
                async with AsyncExitStack() as stack:
                    connection = await stack.enter_async_context(self._answerer.connect())
                    if not self.single_process:
                        connection = await self._limited(connection, stack, deadline)
                    else:
                        await self._end_at(connection, stack, deadline)
                    yield connection
            except FOREIGN as error:
                late = anyio.current_time() > deadline - 0.05  # the server's clock is another one
                raise explain(TimeoutError() if late else error, self.location) from error

    async def _end_answers(self) -> None:
        """Give up what still runs for others, so that the connections can be closed."""
        for driver in self._asked:
            self._give_up(driver)
        if self._answers:
            await asyncio.wait(self._answers, timeout=CLOSE_TIMEOUT_SECONDS)

    async def _limited(self, connection: AsyncConnection, stack: AsyncExitStack, deadline: float) -> AsyncConnection:
        """Have PostgreSQL end a query at the deadline, and ourselves one of a server that hangs soon after it."""
        for _ in range(2):
            await self._end_at(connection, stack, deadline + GIVE_UP_SECONDS)
            milliseconds = max(1, int((deadline - anyio.current_time()) * 1000))
            try:
                await connection.execute(text(f"SET LOCAL statement_timeout = {milliseconds}"))
                break
            except DBAPIError as error:
                if not error.connection_invalidated or anyio.current_time() > deadline:
                    raise
            # The server has ended it while nobody used it, for one that restarted. None in the pool is used again.
            connection = await stack.enter_async_context(self._answerer.connect())
        return connection

    async def _end_at(self, connection: AsyncConnection, stack: AsyncExitStack, deadline: float) -> None:
        """Give up what a connection does at the deadline, unless the stack has ended by then."""
        driver = (await connection.get_raw_connection()).driver_connection
        self._asked.add(driver)
        stack.callback(self._asked.discard, driver)
        stack.callback(asyncio.get_running_loop().call_at(deadline, self._give_up, driver).cancel)

    def _give_up(self, driver: Any) -> None:
        """End what a connection does, without waiting for it."""
        if isinstance(driver, asyncpg.Connection):
            driver.terminate()  # a server that hangs hears no request to cancel either
            return
        with suppress(ValueError, sqlite3.Error):  # it is closed
            driver._conn.interrupt()  # noqa: SLF001  the public method is a coroutine that does only this

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection in a transaction, which is committed at the end of the block; raises StoreError."""
        if self._writer is None:
            raise StoreError(f"store {self.location}: opened read-only")
        self.check_file()
        with self.shielded():
            async with self._lock:
                try:
                    async with self._writer.begin() as connection:
                        if not self.single_process:
                            # One writer at a time among replicas too: ids must be committed in their order, or a
                            # cursor passes over one that was taken early and committed late.
                            await connection.execute(_TAKE_TURN)
                        yield connection
                except FOREIGN as error:
                    raise explain(error, self.location) from error

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

    async def _prepare(self, mode: OpenMode) -> None:
        """Make sure that the tables are there; one that is up to date is not written to, for its disk may be full."""
        async with self.read() as connection:
            if mode in _RECORDING and not self.single_process and await connection.scalar(_IS_READ_ONLY):
                raise StoreError(f"store {self.location}: the server is read-only or a replica; use the primary")
            if mode is OpenMode.TRIAL:
                await connection.run_sync(stage, self.location)
                return
            if mode is not OpenMode.COLLECTOR or await connection.run_sync(is_current):
                await connection.run_sync(check_version, self.location)
                self.id = str(await connection.scalar(_OWN_ID))
                return
        async with self.write() as connection:
            await connection.run_sync(migrate, self.location)
            own = self.insert(schema.meta).values(name="id", value=secrets.token_hex(16))
            await connection.execute(own.on_conflict_do_nothing(index_elements=["name"]))
            self.id = str(await connection.scalar(_OWN_ID))


_READING = (OpenMode.READER, OpenMode.TRIAL)
_RECORDING = (OpenMode.COLLECTOR, OpenMode.TRIAL)
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


def check_folder(path: Path, *, own: Path = OWN_FOLDER) -> None:
    """Make sure that the folder of a file is there, or is the one that a collector makes; raises StoreError."""
    if path.parent != own and not path.parent.exists():
        # Rather than a new history where a typing error points to.
        raise StoreError(f"store {path}: the directory {path.parent} does not exist; create it or fix store.url")


def prepare_folder(path: Path, *, own: Path = OWN_FOLDER) -> None:
    """Create the folder of a file if it is the collector's own; raises StoreError if another one is missing."""
    check_folder(path, own=own)
    if path.parent == own:
        path.parent.mkdir(parents=True, exist_ok=True)


def _claim(path: Path) -> int:
    """Make sure that no other collector writes the file; the lock goes when its file descriptor does."""
    prepare_folder(path)
    lock = path.resolve()  # or a link to the file would be a way past it
    lock = lock.with_name(lock.name + ".lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 20).decode("ascii", "replace").strip()
        os.close(descriptor)
        which = f" (pid {holder})" if holder else ""
        raise StoreError(
            f"store {path}: in use by another gpuid{which}; stop that one, or choose another store.url"
        ) from None
    except OSError:
        os.close(descriptor)
        raise
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _check_file(path: Path, mode: OpenMode) -> None:
    """Refuse what is not a store of ours before anything is written to it; raises StoreError and sqlite3.Error."""
    if mode is not OpenMode.COLLECTOR:
        if not path.exists():
            raise StoreError(f"store {path}: no such file; the collector creates it at its first start")
        return
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)) as connection:
        (mark,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and mark != schema.APPLICATION_ID:
            raise StoreError(f"store {path}: it is another program's database; choose another store.url")
        # With the write-ahead log, readers and the writer never wait for each other. The file keeps this mode.
        connection.execute("PRAGMA journal_mode = WAL")


def _sqlite(path: Path, *, read_only: bool, begin: str, connections: int, cache: int) -> AsyncEngine:
    """Make an engine whose connections keep `cache` KiB of pages each; the system keeps the others."""
    query = {"uri": "true"}
    if read_only:
        query["mode"] = "ro"
        if not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists():
            query["immutable"] = "1"  # nobody writes to it, and we may not create what a reader otherwise shares
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database="file:" + quote(str(path)), query=query),
        connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT_SECONDS},
        poolclass=AsyncAdaptedQueuePool,
        pool_size=connections,
        max_overflow=0,
    )

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        # NORMAL keeps every commit when the process is killed, for it is in the system's memory by then. When the
        # whole machine loses power the last commits may be missing, but the file stays sound.
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute(f"PRAGMA cache_size = -{cache}")
        cursor.execute("PRAGMA journal_size_limit = 67108864")  # bytes that the log keeps after a great write
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def start(connection: Connection) -> None:
        # Python's own begin comes too late, at the first write; and a write that starts as a read can be refused.
        connection.exec_driver_sql(begin)

    return engine


def _postgres(
    location: PostgresLocation, password_file: Path | None, *, connections: int = 5, ping: bool = True
) -> AsyncEngine:
    options = connection_options(location.url)

    async def connect(*_args: object, **_kwargs: object) -> Any:
        return await asyncpg.connect(
            options.url,
            ssl=client_context() if options.system_authorities else None,
            timeout=options.connect_timeout or CONNECT_TIMEOUT_SECONDS,
            command_timeout=STATEMENT_TIMEOUT_SECONDS,
            server_settings=options.server_settings,
            password=None if password_file is None else _password(password_file),
            statement_cache_size=0,
        )

    return create_async_engine(
        "postgresql+asyncpg://",
        # No statement outlives its transaction, so that a pooler may give the next one another connection.
        connect_args={
            "async_creator_fn": connect,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": str,  # the unnamed one
        },
        poolclass=AsyncAdaptedQueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_pre_ping=ping,
    )


def _password(path: Path) -> str:
    try:
        return read_secret(path)
    except UnreadableFileError as error:
        raise StoreError(f"store.password_file {path}: {error}") from None


async def _dispose(engine: AsyncEngine, end: EndDeadline) -> None:
    seconds = min(CLOSE_TIMEOUT_SECONDS, end.left(Stage.CLOSE))
    with anyio.move_on_after(seconds, shield=True):  # a server that hangs does not hear it
        await engine.dispose()
