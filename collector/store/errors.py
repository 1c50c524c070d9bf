"""The errors of the store: each one line that names the remedy."""

import os
import sqlite3
from collections.abc import Iterator

from sqlalchemy.exc import SQLAlchemyError

from collector.config.store import PostgresLocation, SqliteLocation
from collector.model import GpuidError
from collector.redaction import Secrets
from collector.shortage import why_short

__all__ = ["FOREIGN", "GRANT_CREATE", "GRANT_WRITE", "LostLeadershipError", "StoreError", "explain"]


class StoreError(GpuidError):
    """The store cannot be used, for good or at present; the text names it, without a password."""


class LostLeadershipError(StoreError):
    """Another collector leads now."""


MAX_TEXT_LENGTH = 200  # characters of what an engine says
FOREIGN = (SQLAlchemyError, sqlite3.Error, OSError, TimeoutError)  # all that the engines raise, mapped by `explain`


def explain(error: BaseException, location: SqliteLocation | PostgresLocation) -> StoreError:
    """Return our error for a foreign one."""
    if (why := why_short(error)) is not None:
        return StoreError(f"store {location}: {why}")
    if isinstance(location, PostgresLocation):
        return StoreError(f"store {location}: {_postgres_text(error, location.password)}")
    for cause in _causes(error):
        if isinstance(cause, TimeoutError):
            return StoreError(f"store {location}: the file was not read in time; check the disk, and {_WHO_LOCKS}")
        if isinstance(cause, sqlite3.Error):
            name = getattr(cause, "sqlite_errorname", "") or ""
            text = next((text for start, text in _SQLITE if name.startswith(start)), str(cause))
            return StoreError(f"store {location}: {text}")
        if isinstance(cause, OSError) and cause.strerror:
            return StoreError(
                f"store {location}: {cause.strerror}; give this user write permission there, "
                "or choose another store.url"
            )
    return StoreError(f"store {location}: {_redact(str(error)) or type(error).__name__}")


_WHO_LOCKS = "find out which other process has it open"
_SQLITE = (
    ("SQLITE_NOTADB", "not a database; move it away to start afresh, or choose another store.url"),
    ("SQLITE_CORRUPT", "the file is damaged; move it away (with its -wal and -shm) to start afresh"),
    ("SQLITE_FULL", "disk full; free some space (gpuid retries automatically)"),
    ("SQLITE_BUSY", f"locked by another process for too long; {_WHO_LOCKS}"),
    ("SQLITE_READONLY", "not writable; give this user write permission for the file and its folder"),
    ("SQLITE_PERM", "permission denied; give this user write permission for the file and its folder"),
    ("SQLITE_CANTOPEN", "cannot be opened; check that its folder exists and that this user may access it"),
    ("SQLITE_IOERR", "I/O error; check the disk and its free space"),
)


def _postgres_text(error: BaseException, password: str) -> str:
    for cause in _causes(error):
        if isinstance(cause, TimeoutError):
            return "the server did not answer in time"
        state = getattr(cause, "sqlstate", None)
        if isinstance(state, str):
            text = str(cause).partition(": ")[2] if str(cause).startswith("<class") else str(cause)
            denied = "42501 schema" if state == "42501" and "schema" in text else f"{state} {text}"
            advice = next((f"; {advice}" for start, advice in _POSTGRES if denied.startswith(start)), "")
            return _redact(text, password) + advice
        if isinstance(cause, ConnectionError) and "rejected SSL upgrade" in str(cause):  # as asyncpg says it
            return "the server offers no TLS; turn it on there, or change sslmode in store.url"
        if isinstance(cause, OSError):
            return f"the server cannot be reached ({_redact(cause.strerror or str(cause), password)})"
    foreign = getattr(error, "orig", None) or error  # without the statement that SQLAlchemy quotes
    return _redact(str(foreign).rpartition(">: ")[2], password) or type(error).__name__


GRANT_CREATE = "grant the user CREATE on the schema"
GRANT_WRITE = "grant the user SELECT, INSERT, UPDATE and DELETE on the tables and USAGE on their sequences"
_POSTGRES = (
    ("08P01 transaction blocks", "the pooler is in statement mode; use session or transaction mode"),
    ("28", "check the user, and PGPASSWORD, the passfile or store.password_file"),
    ("25006", "use the primary"),
    ("3D", "create the database"),
    ("42501 schema", GRANT_CREATE),
    ("42501", GRANT_WRITE),
    ("53100", "free some space on the server's disk (gpuid retries automatically)"),
)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Return the chain of causes, the innermost first: it says most."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = getattr(current, "orig", None) or current.__cause__ or current.__context__
    return reversed(chain)


def _redact(text: str, secret: str = "") -> str:
    return Secrets(secret, os.environ.get("PGPASSWORD")).redact(text, MAX_TEXT_LENGTH)
