"""Sets aside a damaged SQLite file with its companion files, and reports the loss."""

import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from collector.store.files import DAMAGED_TEXT, SIDE_FILES
from collector.text import counted

__all__ = ["SetAside", "describe_loss", "set_aside", "set_aside_files", "set_aside_log"]

log = logging.getLogger(__name__)

MARK = ".damaged-"  # between the file's name and the time at which it was set aside


class SetAside(NamedTuple):
    """The damaged files in the folder of a store; gpuid never deletes them."""

    files: int = 0
    bytes: int = 0
    newest: str = ""  # its path


def set_aside(path: Path, now: float) -> Path:
    """Rename a file and its companions, so that a new one can be created; return its new path. Raises OSError.

    Only for the collector that holds its lock. A link is kept, and its target renamed. `now` is in Unix seconds.
    """
    file = path.resolve()
    to = _free_name(file, now)
    # The database first: a connection still open elsewhere then sees that its file has moved, and leaves the log alone,
    # which would be the next database's. If this is interrupted, the log without its file counts as damage too.
    with suppress(FileNotFoundError):  # an earlier attempt may have got this far
        file.rename(to)
    for side in SIDE_FILES:
        with suppress(FileNotFoundError):
            file.with_name(file.name + side).rename(f"{to}{side}")
    return to


def set_aside_log(path: Path, now: float) -> Path:
    """Rename only the write-ahead log of a file; returns its new path. Raises OSError."""
    file = path.resolve()
    to = Path(f"{_free_name(file, now)}-wal")
    file.with_name(file.name + "-wal").rename(to)
    file.with_name(file.name + "-shm").unlink(missing_ok=True)  # it only indexes the log
    return to


def set_aside_files(path: Path) -> SetAside:
    """Return the damaged files of a store in its folder."""
    file = path.resolve()
    found: list[tuple[float, str]] = []
    size = 0
    try:
        with os.scandir(file.parent) as entries:
            for entry in entries:
                if not entry.name.startswith(file.name + MARK):
                    continue
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    size += status.st_size
                    if not entry.name.endswith(SIDE_FILES) or not Path(entry.path.rpartition("-")[0]).exists():
                        found.append((status.st_ctime, entry.path))
    except OSError as error:
        log.debug("cannot list the folder of the store: %s", error)
        return SetAside()
    return SetAside(len(found), size, max(found)[1]) if found else SetAside()


def describe_loss(path: Path) -> str:
    """Return what the new store lacks of a damaged file's content, as far as the file is still readable."""
    lost = []
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            connection.text_factory = DAMAGED_TEXT
            lost = [text for table, ask in _QUESTIONS for text in _answers(connection, table, ask)]
    except (sqlite3.Error, UnicodeDecodeError) as error:
        log.debug("cannot open the damaged file: %s", error)
    return "; ".join(lost) or "it is unreadable"


def _free_name(file: Path, now: float) -> Path:
    name = f"{file.name}{MARK}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"
    to = file.with_name(name)
    number = 1
    while any(os.path.lexists(f"{to}{side}") for side in ("", *SIDE_FILES)):
        number += 1
        to = file.with_name(f"{name}.{number}")
    return to


def _answers(connection: sqlite3.Connection, what: str, ask: Callable[[sqlite3.Connection], list[str]]) -> list[str]:
    try:
        return ask(connection)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        log.debug("cannot read the %s from the damaged file: %s", what, error)
        return [f"an unknown number of {what}"]


def _table_of_changes(connection: sqlite3.Connection) -> str:
    """Return the table with the rows of changes; in a file of an older version, it has the view's name."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return "gpuid_changes" if "gpuid_changes" in tables else "gpuid_change_rows"


def _changes(connection: sqlite3.Connection) -> list[str]:
    (count,) = connection.execute(f"SELECT count(*) FROM {_table_of_changes(connection)}").fetchone()  # noqa: S608
    return [f"{counted(count, 'change')} of the history"]


def _backlogs(connection: sqlite3.Connection) -> list[str]:
    found = []
    for name, emit, cursor in connection.execute("SELECT name, emit, cursor FROM gpuid_sinks ORDER BY name"):
        query = (
            "SELECT sum(count) FROM gpuid_readings WHERE id > ?"
            if emit == "readings"
            else f"SELECT count(*) FROM {_table_of_changes(connection)} WHERE id > ?"  # noqa: S608
        )
        (records,) = connection.execute(query, (cursor,)).fetchone()
        if records:
            found.append(f"{counted(records, 'undelivered record')} of the sink {name}")
    return found


def _letters(connection: sqlite3.Connection) -> list[str]:
    (count,) = connection.execute("SELECT count(*) FROM gpuid_dead_letters").fetchone()
    return [counted(count, "dead letter")] if count else []


_QUESTIONS: tuple[tuple[str, Callable[[sqlite3.Connection], list[str]]], ...] = (
    ("changes", _changes),
    ("undelivered records", _backlogs),
    ("dead letters", _letters),
)
