"""The store's errors: each is one line that says what to do."""

import errno
import os
import sqlite3
from collections.abc import Iterator

from sqlalchemy.exc import SQLAlchemyError

from collector.config.store import PostgresLocation, SqliteLocation
from collector.model import GpuidError
from collector.postgres import error_text
from collector.redaction import Secrets
from collector.shortage import why_short

__all__ = [
    "FOREIGN",
    "GRANT_CREATE",
    "GRANT_OWNER",
    "GRANT_WRITE",
    "MOVE_AWAY",
    "DamagedStoreError",
    "LostLeadershipError",
    "StoreError",
    "UnavailableStoreError",
    "explain",
    "is_odd",
]


class StoreError(GpuidError):
    """The store cannot be used, permanently or temporarily; the text names it, without a password."""


class LostLeadershipError(StoreError):
    """Another collector leads now."""


class DamagedStoreError(StoreError):
    """The content of an SQLite file was not written by gpuid."""


class UnavailableStoreError(StoreError):
    """The disk is full, or the disk of an SQLite file fails or is read-only; the data may be intact."""


MAX_TEXT_LENGTH = 200  # characters of an engine's message
# All exceptions of the engines, mapped by `explain`; Python's SQLite cannot decode a message with a damaged name.
FOREIGN = (SQLAlchemyError, sqlite3.Error, OSError, TimeoutError, UnicodeDecodeError)


def explain(error: BaseException, location: SqliteLocation | PostgresLocation) -> StoreError:
    """Return our error for a foreign one."""
    if (why := why_short(error)) is not None:
        return StoreError(f"store {location}: {why}")
    if isinstance(location, PostgresLocation):
        full = any(getattr(cause, "sqlstate", None) == DISK_FULL for cause in _causes(error))
        kind = UnavailableStoreError if full else StoreError
        return kind(f"store {location}: {_postgres_text(error, location.password)}")
    for cause in _causes(error):
        if (found := _explain_file(cause, location)) is not None:
            return found
    return StoreError(f"store {location}: {_redact(str(error)) or type(error).__name__}")


def _explain_file(error: BaseException, location: SqliteLocation) -> StoreError | None:
    """Return our error for one of SQLite's or the file's; None for any other."""
    match error:
        case TimeoutError():
            return StoreError(f"store {location}: timed out reading the file; check the disk, and {_WHO_LOCKS}")
        case sqlite3.Error():
            return _explain_sqlite(error, location)
        case UnicodeDecodeError():
            return DamagedStoreError(f"store {location}: the file is damaged{MOVE_AWAY}")
        case OSError() if error.errno in _UNAVAILABLE_OS:
            return UnavailableStoreError(f"store {location}: {_UNAVAILABLE_OS[error.errno]}")
        case OSError() if error.strerror:
            return StoreError(
                f"store {location}: {error.strerror}; give this user write permission there, "
                "or choose another store.url"
            )
    return None


def _explain_sqlite(error: sqlite3.Error, location: SqliteLocation) -> StoreError:
    name = getattr(error, "sqlite_errorname", "") or ""
    text = next((text for start, text in _SQLITE if name.startswith(start)), str(error))
    if name.startswith(_DAMAGED):
        return DamagedStoreError(f"store {location}: {text}")
    if name.startswith(_READ_ONLY) and _is_read_only(location):
        return UnavailableStoreError(f"store {location}: {READ_ONLY_DISK}")
    kind = UnavailableStoreError if name.startswith(_UNAVAILABLE) else StoreError
    return kind(f"store {location}: {text}")


def is_odd(error: BaseException) -> bool:
    """Return whether an SQLite error is one that an intact store does not cause and that does not name damage."""
    names = (getattr(cause, "sqlite_errorname", "") or "" for cause in _causes(error))
    return any(name.startswith(_ODD) for name in names)


def _is_read_only(location: SqliteLocation) -> bool:
    try:
        return bool(os.statvfs(location.path.parent).f_flag & os.ST_RDONLY)
    except OSError:
        return False


_WHO_LOCKS = "find out which other process has it open"
MOVE_AWAY = "; move it away (with its -wal and -shm) to start afresh, or choose another store.url"
FULL_DISK = "disk full; free some space (gpuid retries automatically)"
FAILING_DISK = "I/O error; check the disk and its free space"
READ_ONLY_DISK = "its file system is read-only; check the disk and mount it for writing (gpuid retries automatically)"
_SQLITE = (
    ("SQLITE_NOTADB", f"not a database{MOVE_AWAY}"),
    ("SQLITE_CORRUPT", f"the file is damaged{MOVE_AWAY}"),
    ("SQLITE_FULL", FULL_DISK),
    ("SQLITE_BUSY", f"locked by another process for too long; {_WHO_LOCKS}"),
    ("SQLITE_READONLY", "not writable; give this user write permission for the file and its folder"),
    ("SQLITE_PERM", "permission denied; give this user write permission for the file and its folder"),
    ("SQLITE_CANTOPEN", "cannot be opened; check that its folder exists and that this user may access it"),
    ("SQLITE_IOERR", FAILING_DISK),
)
_DAMAGED = ("SQLITE_NOTADB", "SQLITE_CORRUPT")
_ODD = ("SQLITE_ERROR", "SQLITE_CONSTRAINT", "SQLITE_MISMATCH", "SQLITE_READONLY", "SQLITE_TOOBIG")
_UNAVAILABLE = ("SQLITE_FULL", "SQLITE_IOERR")
_READ_ONLY = ("SQLITE_READONLY", "SQLITE_CANTOPEN")  # caused by a read-only file system
_UNAVAILABLE_OS = {
    errno.EROFS: READ_ONLY_DISK,
    errno.EIO: FAILING_DISK,
    errno.ENOSPC: FULL_DISK,
    errno.EDQUOT: FULL_DISK,
}


def _postgres_text(error: BaseException, password: str) -> str:
    for cause in _causes(error):
        if isinstance(cause, TimeoutError):
            return "the server did not respond in time"
        state = getattr(cause, "sqlstate", None)
        if isinstance(state, str):
            text = error_text(cause)
            text = text.partition(": ")[2] if text.startswith("<class") else text
            denied = "42501 schema" if state == "42501" and "schema" in text else f"{state} {text}"
            advice = next((f"; {advice}" for start, advice in _POSTGRES if denied.startswith(start)), "")
            return _redact(text, password) + advice
        if isinstance(cause, ConnectionError) and "rejected SSL upgrade" in str(cause):  # asyncpg's wording
            return "the server does not support TLS; enable it there, or change sslmode in store.url"
        if isinstance(cause, OSError):
            return f"cannot reach the server ({_redact(cause.strerror or str(cause), password)})"
    foreign = getattr(error, "orig", None) or error  # without the statement quoted by SQLAlchemy
    return _redact(error_text(foreign).rpartition(">: ")[2], password) or type(error).__name__


DISK_FULL = "53100"  # PostgreSQL's SQLSTATE
GRANT_CREATE = "grant the user CREATE on the schema"
GRANT_OWNER = "grant the user the role that owns them"
GRANT_WRITE = "grant the user SELECT, INSERT, UPDATE and DELETE on the tables and USAGE on their sequences"
_POSTGRES = (
    ("08P01 transaction blocks", "the pooler is in statement mode; use session or transaction mode"),
    ("28", "check the user, and PGPASSWORD, the passfile or store.password_file"),
    ("25006", "use the primary"),
    ("3D", "create the database"),
    ("42501 schema", GRANT_CREATE),
    ("42501 must be owner", GRANT_OWNER),
    ("42501", GRANT_WRITE),
    (DISK_FULL, "free some space on the server's disk (gpuid retries automatically)"),
)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Return the chain of causes, innermost first: that one is the most specific."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = getattr(current, "orig", None) or current.__cause__ or current.__context__
    return reversed(chain)


def _redact(text: str, secret: str = "") -> str:
    return Secrets(secret, os.environ.get("PGPASSWORD")).redact(text, MAX_TEXT_LENGTH)
