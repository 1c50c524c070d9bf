"""What can go wrong with the store, as one line that names the way out."""

import sqlite3
from collections.abc import Iterator

from sqlalchemy.exc import SQLAlchemyError

from collector.config.store import PostgresLocation, SqliteLocation
from collector.model import GpuidError
from collector.text import one_line

__all__ = ["FOREIGN", "GRANT_CREATE", "GRANT_WRITE", "LostLeadershipError", "StoreError", "explain"]


class StoreError(GpuidError):
    """The store cannot be used, or not now; the text names it, without a password."""


class LostLeadershipError(StoreError):
    """Another collector leads by now."""


FOREIGN = (SQLAlchemyError, sqlite3.Error, OSError, TimeoutError)  # all that the engines raise, mapped by `explain`


def explain(error: BaseException, location: SqliteLocation | PostgresLocation) -> StoreError:
    """Map a foreign failure to ours."""
    if isinstance(location, PostgresLocation):
        return StoreError(f"store {location}: {_postgres_text(error, location.password)}")
    for cause in _causes(error):
        if isinstance(cause, sqlite3.Error):
            name = getattr(cause, "sqlite_errorname", "") or ""
            text = next((text for start, text in _SQLITE if name.startswith(start)), str(cause))
            return StoreError(f"store {location}: {text}")
        if isinstance(cause, OSError) and cause.strerror:
            return StoreError(
                f"store {location}: {cause.strerror}; give this user the right to write there, "
                "or choose another store.url"
            )
    return StoreError(f"store {location}: {_tidy(str(error)) or type(error).__name__}")


_SQLITE = (
    ("SQLITE_NOTADB", "not a database; move it away to start afresh, or choose another store.url"),
    ("SQLITE_CORRUPT", "the file is damaged; move it away (with its -wal and -shm) to start afresh"),
    ("SQLITE_FULL", "no room left; make room on its disk, and it goes on by itself"),
    ("SQLITE_BUSY", "locked by another process for too long; see who else has it open"),
    ("SQLITE_READONLY", "it may not be written to; give this user the right to write the file and its folder"),
    ("SQLITE_PERM", "no right to open it; give this user the right to write the file and its folder"),
    ("SQLITE_CANTOPEN", "it cannot be opened; check that its folder exists and that this user may use it"),
    ("SQLITE_IOERR", "the disk failed; check the disk and its free room"),
)


def _postgres_text(error: BaseException, password: str) -> str:
    for cause in _causes(error):
        if isinstance(cause, TimeoutError):
            return "no answer from the server in time"
        state = getattr(cause, "sqlstate", None)
        if isinstance(state, str):
            text = str(cause).partition(": ")[2] if str(cause).startswith("<class") else str(cause)
            denied = "42501 schema" if state == "42501" and "schema" in text else state
            advice = next((f"; {advice}" for start, advice in _POSTGRES if denied.startswith(start)), "")
            return _tidy(text, password) + advice
        if isinstance(cause, OSError):
            return f"the server cannot be reached ({_tidy(cause.strerror or str(cause), password)})"
    return _tidy(str(error), password) or type(error).__name__


GRANT_CREATE = "grant the user CREATE on the schema"
GRANT_WRITE = "grant the user SELECT, INSERT, UPDATE and DELETE on the tables and USAGE on their sequences"
_POSTGRES = (
    ("28", "check the user, and PGPASSWORD, the passfile or store.password_file"),
    ("3D", "create the database"),
    ("42501 schema", GRANT_CREATE),
    ("42501", GRANT_WRITE),
    ("53100", "make room on the server's disk, and it goes on by itself"),
)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Walk from the innermost cause outwards: it is the one that says most."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = getattr(current, "orig", None) or current.__cause__ or current.__context__
    return reversed(chain)


def _tidy(text: str, secret: str = "") -> str:
    return one_line(text.replace(secret, "***") if secret else text, 200)
