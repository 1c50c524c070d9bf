"""The files of an SQLite store: readable by their owner alone, claimed by one collector, checked before use."""

import fcntl
import logging
import os
import sqlite3
import stat
import struct
from contextlib import closing, suppress
from pathlib import Path

from collector.store.errors import MOVE_AWAY, DamagedStoreError, StoreError
from collector.store.schema import APPLICATION_ID, VERSION_TABLE

__all__ = ["SIDE_FILES", "check_folder", "check_readable", "claim", "prepare_file", "prepare_folder"]

log = logging.getLogger(__name__)

OWN_FOLDER = Path("/var/lib/gpuid")  # of the default URL, created when missing; every other one has to exist
SIDE_FILES = ("-wal", "-shm", "-journal")  # what SQLite keeps beside a database, by what it appends to its name
PRIVATE_MODE = 0o600  # of every file: names of clusters, nodes and serials, and what sinks have not got yet
MAX_CHECKED_BYTES = (
    512 << 20
)  # of a file all of whose pages are checked at each start; larger ones take a second or more
BUSY_TIMEOUT_SECONDS = 10  # that a connection waits for another process's write

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_HEAD_BYTES = 1 << 20  # of a file, in which the statements that made its tables are
_OWN_TEXT = b"CREATE TABLE gpuid_"


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


def claim(path: Path) -> int:
    """Make sure that no other collector writes the file; the lock goes when its file descriptor does."""
    prepare_folder(path)
    lock = path.resolve()  # or a link to the file would be a way past it
    lock = lock.with_name(lock.name + ".lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
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
    _make_private(lock)
    with suppress(OSError):  # the pid is for people; a disk that is full may have no room for it
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def check_readable(path: Path) -> None:
    """Make sure that there is a file to be read; raises StoreError."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise StoreError(f"store {path}: no such file; the collector creates it at its first start") from None
    except PermissionError:
        mode = 0
    if mode and not stat.S_ISREG(mode):
        raise _no_file(path)
    if not mode or not os.access(path, os.R_OK):
        raise StoreError(
            f"store {path}: only the collector's own user may read it; run this command as that user,"
            " or ask the running collector with --url"
        )


def prepare_file(path: Path) -> None:
    """Make the file, or check the one that is there before anything is written to it; a collector's, with its lock.

    Raises DamagedStoreError, StoreError for what is not a store of ours, OSError and sqlite3.Error.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        pass
    else:
        if not stat.S_ISREG(mode):
            raise _no_file(path)
    # SQLite gives the files beside it the mode of the database, whatever the umask; so that one must be right first.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE))
    for file in (path, *(path.with_name(path.name + side) for side in SIDE_FILES)):
        _make_private(file.resolve())
    head = _read(path, _HEAD_BYTES)
    is_sqlite = head.startswith(_MAGIC)
    ours = (is_sqlite and _mark(head) == APPLICATION_ID) or _OWN_TEXT in head
    wal = path.resolve()
    wal = wal.with_name(wal.name + "-wal")
    if not head and wal.exists() and wal.stat().st_size:
        raise DamagedStoreError(
            f"store {path}: the file is damaged (it is empty, but its write-ahead log is not){MOVE_AWAY}"
        )
    try:
        _check_content(path, ours=ours)
    except sqlite3.DatabaseError as error:
        if is_sqlite and not ours and (error.sqlite_errorname or "").startswith("SQLITE_CORRUPT"):
            raise _foreign(path) from error
        raise


def _check_content(path: Path, *, ours: bool) -> None:
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)) as connection:
        (mark,) = connection.execute("PRAGMA application_id").fetchone()
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
        if tables and mark != APPLICATION_ID:
            if not ours and VERSION_TABLE not in tables:
                raise _foreign(path)
            raise DamagedStoreError(f"store {path}: the file is damaged (it is no longer marked as gpuid's){MOVE_AWAY}")
        if path.stat().st_size <= MAX_CHECKED_BYTES:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise DamagedStoreError(f"store {path}: the file is damaged ({' '.join(found.split())}){MOVE_AWAY}")
        # With the write-ahead log, readers and the writer never wait for each other. The file keeps this mode.
        connection.execute("PRAGMA journal_mode = WAL")


def _foreign(path: Path) -> StoreError:
    return StoreError(f"store {path}: it is another program's database; choose another store.url")


def _no_file(path: Path) -> StoreError:
    kind = "a directory" if path.is_dir() else "not a regular file"
    return StoreError(f"store {path}: is {kind}; choose another store.url")


def _make_private(file: Path) -> None:
    """Take a file's permissions from all but its owner, if it is there."""
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & 0o077:
            file.chmod(PRIVATE_MODE)
            log.info("permissions of a store file tightened", extra={"file": str(file), "from": f"{mode:04o}"})
    except FileNotFoundError:
        pass
    except OSError as error:  # it may be another user's
        log.warning(
            "a store file stays readable by others: %s",
            error.strerror,
            extra={"file": str(file), "mode": f"{mode:04o}"},
        )


def _read(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _mark(header: bytes) -> int:
    return int(struct.unpack_from(">I", header.ljust(_HEADER_BYTES, b"\0"), 68)[0])
