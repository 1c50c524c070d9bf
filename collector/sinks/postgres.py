"""The postgres sink: writes to the Go program's table, or to one of its layout with more columns."""

import os
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Literal

import anyio
import asyncpg

from collector.config.libpq import connection_options
from collector.config.sinks import PostgresSettings
from collector.model import SinkRecord
from collector.postgres import Connector, error_text
from collector.redaction import Secrets
from collector.sinks import postgres_table
from collector.sinks.credentials import ask_files, read_secret, tls_context
from collector.sinks.errors import TEXT_LIMIT, Reason, RejectedError, SinkError, UnavailableError
from collector.sinks.formats import parse_time

__all__ = ["PostgresSink"]

_NO_TLS = "rejected SSL upgrade"  # asyncpg's text, which has no type for it
_CLOSE_SECONDS = 5.0
_SERVER_FIRST_SECONDS = 5.0  # by which the client waits longer than the server's statement timeout
# Inserted by `check` in a transaction that is rolled back.
_CHECK_RECORD = SinkRecord(
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
# By the full code, or else by its class (the first two characters).
_REASON_BY_SQLSTATE = {
    "08": Reason.CONNECTION,
    "0A": Reason.MISCONFIGURED,
    # Of these classes, only errors about a value are permanent.
    "22": Reason.MISCONFIGURED,
    "22000": Reason.REJECTED,
    "22001": Reason.REJECTED,  # too long for its column
    "22003": Reason.REJECTED,
    "22007": Reason.REJECTED,
    "22008": Reason.REJECTED,
    "22021": Reason.REJECTED,  # a character that the database's encoding does not have
    "22P02": Reason.REJECTED,
    "22P05": Reason.REJECTED,
    "23": Reason.MISCONFIGURED,
    "23502": Reason.MISCONFIGURED,  # the table requires a column that records do not have
    "23503": Reason.MISSING,  # the target of a foreign key
    "23505": Reason.REJECTED,
    "23514": Reason.REJECTED,
    "23P01": Reason.REJECTED,
    "25006": Reason.SERVER_ERROR,  # a replica: the primary is moving
    "28": Reason.UNAUTHORIZED,
    "3D": Reason.MISSING,
    "3F": Reason.MISSING,
    "42": Reason.MISCONFIGURED,
    "42501": Reason.UNAUTHORIZED,
    "42703": Reason.MISSING,
    "42P01": Reason.MISSING,
    "P0": Reason.MISCONFIGURED,  # raised by a trigger
    "53300": Reason.THROTTLED,  # too many connections
    "57014": Reason.TIMEOUT,
}


class PostgresSink:
    """Keeps one connection, replaces it after any failure, and writes each batch in one transaction."""

    def __init__(self, name: str, settings: PostgresSettings) -> None:
        self.secrets = Secrets(os.environ.get("PGPASSWORD"))
        self._name = name
        self._settings = settings
        self._connector = Connector(connection_options(settings.url), timeout=settings.connect_timeout)
        self._lock = anyio.Lock()
        self._connection: asyncpg.Connection | None = None
        self._table: postgres_table.Table | None = None

    async def send(self, records: Sequence[SinkRecord], *, key: str) -> None:  # noqa: ARG002  the rows are their own key
        """Write the batch's rows, except those already in the table according to its unique constraint."""
        if not records:
            return
        times = [parse_time(record.time) for record in records]
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
            except (AttributeError, TypeError, OverflowError) as error:  # as asyncpg encodes for other types
                text = f"sinks.{self._name}: table {self._settings.table}: a column has a type other than text"
                raise UnavailableError(f"{text} ({error})", Reason.MISCONFIGURED) from None
            except asyncpg.UniqueViolationError:
                # An earlier attempt succeeded, or two GPUs have one serial, which the Go program's table cannot hold.
                async with self._transaction(connection):
                    await connection.execute(self._table.insert, *map(list, zip(*rows, strict=True)))

    async def check(self) -> str:
        """Do everything that a first batch would, in a transaction that is rolled back."""
        async with self._connected() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await self._set_timeout(connection)
            table = await self._prepare(connection)
            row = _row(_CHECK_RECORD, datetime.now(UTC), table.columns)
            await connection.execute(table.insert, *([value] for value in row))
            await transaction.rollback()
        absent = [column for column in ("uuid", "model", "event") if column not in table.columns]
        without = f"; it lacks the columns {', '.join(absent)}, which are omitted" if absent else ""
        return f"table {self._settings.table} is writable{without}"

    async def aclose(self) -> None:
        """Close the connection."""
        async with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None and not connection.is_closed():
                try:
                    await connection.close(timeout=_CLOSE_SECONDS)
                except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                    connection.terminate()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection]:
        """Yield the connection; it is closed after any error, so that none is reused in an unknown state."""
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
                if (mapped := self._map_error(error)) is not None:
                    raise mapped from None
                raise

    async def _connect(self) -> asyncpg.Connection:
        settings = self._settings
        with anyio.fail_after(settings.connect_timeout):
            password, tls = await ask_files(self._name, lambda: (self._password(), self._tls()))
        return await self._connector.connect(
            password=password,
            ssl=tls,
            command_timeout=settings.statement_timeout + _SERVER_FIRST_SECONDS,
            statement_cache_size=0,  # works with a connection pooler
        )

    async def _prepare(self, connection: asyncpg.Connection) -> postgres_table.Table:
        try:
            return await postgres_table.prepare(connection, self._settings.table, create=self._settings.create_table)
        except postgres_table.NoSuchTableError as error:
            raise UnavailableError(f"sinks.{self._name}: {error}", Reason.MISSING) from None

    def _password(self) -> str | None:
        settings = self._settings
        return read_secret(self._name, "password", settings.password_file, settings.password_env, self.secrets)

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
            await self._set_timeout(connection)
            yield

    async def _set_timeout(self, connection: asyncpg.Connection) -> None:
        # For the transaction, not the session, which a pooler may share with other clients.
        await connection.execute(f"SET LOCAL statement_timeout = {int(self._settings.statement_timeout * 1000)}")

    def _map_error(self, error: BaseException) -> SinkError | None:
        """Return our error for a sink failure; None for anything else."""
        said = self.secrets.redact(error_text(error), TEXT_LIMIT) or type(error).__name__
        text = f"sinks.{self._name}: table {self._settings.table}: {said}"
        if isinstance(error, SinkError):
            return None
        if isinstance(error, asyncpg.PostgresError):
            if isinstance(error, asyncpg.CheckViolationError) and error.constraint_name is None:
                return UnavailableError(text, Reason.MISSING)  # no partition of the table accepts the row
            return _from_state(error.sqlstate or "", text)
        if isinstance(error, TimeoutError):
            return UnavailableError(f"sinks.{self._name}: the server timed out", Reason.TIMEOUT)
        if isinstance(error, asyncpg.DataError):
            return RejectedError(text)
        if isinstance(error, asyncpg.ClientConfigurationError):
            return UnavailableError(text, Reason.MISCONFIGURED)
        if isinstance(error, ConnectionError) and _NO_TLS in str(error):
            return UnavailableError(f"{text}; enable TLS on the server, or change sslmode", Reason.MISCONFIGURED)
        if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
            return UnavailableError(text, Reason.MISCONFIGURED)  # a column of the table has a different type
        if isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError):
            return UnavailableError(text, Reason.CONNECTION)
        return None


def _from_state(state: str, text: str) -> SinkError:
    """Return the error for an SQLSTATE."""
    reason = _REASON_BY_SQLSTATE.get(state) or _REASON_BY_SQLSTATE.get(state[:2], Reason.SERVER_ERROR)
    return RejectedError(text) if reason is Reason.REJECTED else UnavailableError(text, reason)


def _row(record: SinkRecord, time: datetime, columns: Sequence[str]) -> tuple[object, ...]:
    # The Go program writes an absent chassis as "unknown" only here.
    own = {"read_time": time, "chassis": record.chassis or "unknown"}
    return tuple(own.get(column) or getattr(record, column) or "" for column in columns)
