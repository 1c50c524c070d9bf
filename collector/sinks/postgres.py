"""The postgres sink: COPY into the Go program's table, or into our own of its layout with three columns more."""

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Literal

import anyio
import asyncpg

from collector.config.sinks import PostgresSettings
from collector.model import SinkRecord
from collector.sinks import postgres_table
from collector.sinks.credentials import read_secret, tls_context
from collector.sinks.errors import Reason, RejectedError, SinkError, UnavailableError, tidy
from collector.sinks.formats import moment

__all__ = ["PostgresSink"]


class PostgresSink:
    """Keeps one connection, makes it anew after any failure, and writes each batch in one transaction."""

    def __init__(self, name: str, settings: PostgresSettings) -> None:
        self._name = name
        self._settings = settings
        self._lock = anyio.Lock()
        self._connection: asyncpg.Connection | None = None
        self._table: postgres_table.Table | None = None

    async def send(self, records: Sequence[SinkRecord], *, key: str) -> None:  # noqa: ARG002  the rows are their own key
        """Write the batch's rows; rows that the table's unique constraint knows already are left as they are."""
        if not records:
            return
        times = [moment(record.time) for record in records]
        async with self._connected() as connection:
            if self._table is None:
                async with self._transaction(connection):
                    self._table = await self._prepare(connection)
            columns = self._table.columns
            rows = [_row(record, time, columns) for record, time in zip(records, times, strict=True)]
            try:
                async with self._transaction(connection):
                    await connection.copy_records_to_table(
                        self._table.name, schema_name=self._table.schema, columns=columns, records=rows
                    )
            except asyncpg.UniqueViolationError:
                # An earlier try got through, or the Go program's table is asked to tell two GPUs of one serial apart.
                async with self._transaction(connection):
                    await connection.execute(self._table.insert, *map(list, zip(*rows, strict=True)))

    async def check(self) -> str:
        """Do all that a first batch does, in a transaction that is rolled back."""
        async with self._connected() as connection:
            trial = connection.transaction()
            await trial.start()
            await self._limit(connection)
            table = await self._prepare(connection)
            row = _row(_TRIAL, datetime.now(UTC), table.columns)
            await connection.execute(table.insert, *([value] for value in row))
            await trial.rollback()
        extra = [column for column in ("uuid", "model", "event") if column not in table.columns]
        without = f", without {', '.join(extra)} because it has no such columns" if extra else ""
        return f"table {self._settings.table} may be written to{without}"

    async def aclose(self) -> None:
        """Close the connection."""
        async with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None and not connection.is_closed():
                try:
                    await connection.close(timeout=5)
                except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                    connection.terminate()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend the connection; whatever goes wrong while it is lent ends it, so that none is left half-way."""
        async with self._lock:
            try:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._connect()
                    self._table = None
                yield self._connection
            except BaseException as error:
                if self._connection is not None:
                    self._connection.terminate()
                    self._connection = None
                if (judged := self._judge(error)) is not None:
                    raise judged from None
                raise

    async def _connect(self) -> asyncpg.Connection:
        settings = self._settings
        password = read_secret(self._name, "password", settings.password_file, settings.password_env)
        return await asyncpg.connect(
            settings.url,
            password=password,
            ssl=self._tls(),
            timeout=settings.connect_timeout,
            command_timeout=settings.statement_timeout + 5,  # the server's own limit comes first
            statement_cache_size=0,  # so that a pooler between us and the server does no harm
            server_settings={"application_name": "gpuid"},
        )

    async def _prepare(self, connection: asyncpg.Connection) -> postgres_table.Table:
        try:
            return await postgres_table.prepare(connection, self._settings.table, create=self._settings.create_table)
        except postgres_table.NoSuchTableError as error:
            raise UnavailableError(f"sinks.{self._name}: {error}", Reason.MISSING) from None

    def _tls(self) -> ssl.SSLContext | Literal["disable", "prefer"]:
        settings = self._settings
        if settings.sslmode == "disable" or settings.sslmode == "prefer":
            return settings.sslmode
        context = tls_context(self._name, settings.ca_file, settings.cert_file, settings.key_file)
        context.check_hostname = settings.sslmode == "verify-full"
        if settings.sslmode == "require" and settings.ca_file is None:
            context.verify_mode = ssl.CERT_NONE
        return context

    @asynccontextmanager
    async def _transaction(self, connection: asyncpg.Connection) -> AsyncIterator[None]:
        async with connection.transaction():
            await self._limit(connection)
            yield

    async def _limit(self, connection: asyncpg.Connection) -> None:
        # Set for the transaction, not the session: a pooler may hand the session to others.
        await connection.execute(f"SET LOCAL statement_timeout = {int(self._settings.statement_timeout * 1000)}")

    def _judge(self, error: BaseException) -> SinkError | None:
        """Map a failure to ours; None for what is no failure of the sink."""
        text = f"sinks.{self._name}: table {self._settings.table}: {tidy(str(error)) or type(error).__name__}"
        if isinstance(error, SinkError):
            return None
        if isinstance(error, asyncpg.PostgresError):
            return _from_state(error.sqlstate or "", text)
        if isinstance(error, TimeoutError):
            return UnavailableError(f"sinks.{self._name}: no answer from the server in time", Reason.TIMEOUT)
        if isinstance(error, asyncpg.DataError):
            return RejectedError(text)
        if isinstance(error, asyncpg.ClientConfigurationError):
            return UnavailableError(text, Reason.MISCONFIGURED)
        if isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError):
            return UnavailableError(text, Reason.CONNECTION)
        return None


def _from_state(state: str, text: str) -> SinkError:
    """Judge an SQLSTATE, its whole code before its class."""
    reason = _STATES.get(state) or _STATES.get(state[:2], Reason.SERVER_ERROR)
    return RejectedError(text) if reason is Reason.REJECTED else UnavailableError(text, reason)


def _row(record: SinkRecord, time: datetime, columns: Sequence[str]) -> tuple[object, ...]:
    # The Go program writes an absent chassis as "unknown" here, and here only.
    own = {"read_time": time, "chassis": record.chassis or "unknown"}
    return tuple(own.get(column) or getattr(record, column) for column in columns)


_TRIAL = SinkRecord(
    cluster="gpuid-check",
    node="gpuid-check",
    machine="",
    source="",
    chassis="",
    gpu="",
    time="",
    uuid="",
    model="",
    event="",
)
_STATES = {
    "08": Reason.CONNECTION,
    "0A": Reason.MISCONFIGURED,
    "22": Reason.REJECTED,  # a value does not fit its column
    "23": Reason.REJECTED,
    "23502": Reason.MISCONFIGURED,  # the table wants a column that no record has
    "25006": Reason.SERVER_ERROR,  # a replica: the primary is moving
    "28": Reason.UNAUTHORIZED,
    "3D": Reason.MISSING,
    "3F": Reason.MISSING,
    "42": Reason.MISCONFIGURED,
    "42501": Reason.UNAUTHORIZED,
    "42703": Reason.MISSING,
    "42P01": Reason.MISSING,
    "53300": Reason.THROTTLED,  # too many connections
    "57014": Reason.TIMEOUT,
}
