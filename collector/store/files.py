"""The files of an SQLite store: readable by their owner alone, claimed by one collector, checked before use."""

import errno
import fcntl
import functools
import logging
import os
import shutil
import sqlite3
import stat
import struct
import time
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from collector.store.errors import MOVE_AWAY, DamagedStoreError, StoreError
from collector.store.schema import APPLICATION_ID, VERSION_TABLE

__all__ = [
    "BUSY_TIMEOUT_SECONDS",
    "DAMAGED_TEXT",
    "SIDE_FILES",
    "TO_BE_SHRUNK",
    "check_end",
    "check_folder",
    "check_readable",
    "claim",
    "mark",
    "prepare_file",
    "prepare_folder",
    "shrink",
    "verify",
]

log = logging.getLogger(__name__)

OWN_FOLDER = Path("/var/lib/gpuid")  # of the default URL, created if missing; any other folder must exist
SIDE_FILES = ("-wal", "-shm", "-journal")  # suffixes of the files that SQLite keeps next to a database
PRIVATE_MODE = 0o600  # of every file: they contain names of clusters, nodes and serials, and undelivered records
MAX_CHECKED_BYTES = 192 << 20  # size up to which all pages are checked at each start; larger ones take seconds
BUSY_TIMEOUT_SECONDS = 10  # timeout for another process's write
# Damaged text is read with replacement characters instead of failing.
DAMAGED_TEXT = functools.partial(str, encoding="utf-8", errors="replace")

TO_BE_SHRUNK = "to_be_shrunk"  # the fact that the file still has the room of the tables before migration 0011
_SPARE_BYTES = 16 << 20  # left to others while a file is rewritten

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
MIN_PAGE_BYTES = 512
MAX_SCHEMA_FORMAT, UTF_8 = 4, 1  # SQLite's; both are 0 in an empty database
_PASSING = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR", "SQLITE_FULL", "SQLITE_CANTOPEN", "SQLITE_PERM")
_LOG_MAGICS = (0x377F0682, 0x377F0683)
_LOG_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24  # before each page of the log
_HEAD_BYTES = 1 << 20  # of a file: these contain the statements that created its tables
_OWN_TEXT = b"CREATE TABLE gpuid_"


def check_folder(path: Path, *, own: Path = OWN_FOLDER) -> None:
    """Check that the folder of a file exists, or is the one that a collector creates; raises StoreError."""
    folders = [path.parent]
    if path.is_symlink():
        try:
            path.stat()
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise StoreError(f"store {path}: it is a symbolic link to itself; fix store.url") from None
        folders.append(path.resolve().parent)
    for folder in folders:
        if folder != own and not folder.exists():
            # Do not create a new history because of a typo.
            raise StoreError(f"store {path}: the directory {folder} does not exist; create it or fix store.url")


def prepare_folder(path: Path, *, own: Path = OWN_FOLDER) -> None:
    """Create the folder of a file if it is the default one; raises StoreError if another one is missing."""
    check_folder(path, own=own)
    if path.parent == own:
        path.parent.mkdir(parents=True, exist_ok=True)


def claim(path: Path) -> int:
    """Ensure that no other collector writes the file; the lock ends with its file descriptor."""
    prepare_folder(path)
    if path.exists() and not path.is_file():
        raise _no_file(path)
    lock = _beside(path, ".lock")  # of the file itself, or a link to it would bypass the lock
    if lock.exists() and not lock.is_file():
        raise StoreError(f"store {path}: {lock} is not a regular file and cannot be the lock file; move it away")
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
    with suppress(OSError):  # the pid is informational; a full disk may have no room for it
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def check_readable(path: Path) -> None:
    """Check that there is a readable file; raises StoreError."""
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
    """Create the file, or check an existing one before anything is written to it; for a collector that has its lock.

    Raises DamagedStoreError, StoreError if it is not gpuid's, OSError and sqlite3.Error.
    """
    if path.exists() and not path.is_file():
        raise _no_file(path)
    # SQLite gives its other files the database's mode, whatever the umask, so set that first.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE))
    head = _read(path, _HEAD_BYTES)
    ours = _mark(head) == APPLICATION_ID or _OWN_TEXT in head
    if ours or not head:  # another program's file is not touched
        _make_all_private(path)
    log_bytes = _size(_beside(path, "-wal"))
    if not head and log_bytes:
        raise _damaged(path, "it is empty, but its write-ahead log is not")
    if head and not head.startswith(_MAGIC):
        raise DamagedStoreError(f"store {path}: not a database{MOVE_AWAY}")
    if head and len(head) < MIN_PAGE_BYTES:
        raise _damaged(path, "its header is truncated")
    if ours:
        _check_header(path, head)
    try:
        _check_content(path, ours=ours)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if head and not ours and not _error_name(error).startswith(_PASSING):
            raise _foreign(path) from error
        raise
    _make_all_private(path)
    if ours:
        check_end(path)
    with closing(_connection(path, "rw")) as connection:
        # With a write-ahead log, readers and the writer never wait for each other. The file keeps this mode.
        connection.execute("PRAGMA journal_mode = WAL")


def mark(path: Path) -> None:
    """Copy new tables from the log into the file, so that it is recognised as ours without its log."""
    with suppress(sqlite3.Error), closing(_connection(path, "rw")) as connection:  # a full disk: retried later
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def shrink(path: Path) -> None:
    """Give the room of the tables that an update has replaced back to the system; if that fails, a later start does.

    The file is rewritten, for which there must be room. Until then, SQLite uses what is free in it for new rows.
    """
    began = time.monotonic()
    try:
        with closing(_connection(path, "rw")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # an update that was killed has left all of it there
            size, rest = _size(path), _used_bytes(connection)
            # The rest of the file is written to a temporary one, and from there to the log.
            if (free := shutil.disk_usage(path.parent).free) < (needed := 2 * rest + _SPARE_BYTES):
                log.warning(
                    "no room to shrink the store's file after the update; free some space and restart to try again",
                    extra={"file": str(path), "bytes": size, "free_bytes": free, "needed_bytes": needed},
                )
                return
            connection.execute("VACUUM")
            connection.execute("DELETE FROM gpuid_facts WHERE name = ?", [TO_BE_SHRUNK])
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except (OSError, sqlite3.Error) as error:
        log.warning(
            "cannot shrink the store's file after the update; the next start tries again: %s",
            error,
            extra={"file": str(path)},
        )
        return
    seconds = round(time.monotonic() - began, 1)
    log.info("shrank the store's file", extra={"from_bytes": size, "to_bytes": _size(path), "seconds": seconds})


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def check_end(path: Path) -> None:
    """Make sure that a store of ours has all its pages, the missing parts of which SQLite reads as zeros.

    With a log, the copying of its pages may have been interrupted. Raises DamagedStoreError and OSError.
    """
    head = _read(path, _HEADER_BYTES)
    if not _size(_beside(path, "-wal")) and _size(path) < _pages(head) * _page_bytes(head):
        raise _damaged(path, "its end is missing")


def verify(path: Path) -> None:
    """Check one of our stores for damage, even while in use; raises DamagedStoreError, sqlite3.Error and OSError."""
    _check_header(path, _read(path, _HEADER_BYTES))
    _check_content(path, ours=True, check="integrity_check")


def foreign_log(path: Path) -> bool:
    """Return whether our store's write-ahead log is another database's or not a log; raises OSError.

    SQLite would apply another database's log to the file, and silently ignores an unreadable one.
    """
    head = _read(path, _HEADER_BYTES)
    page_bytes = _page_bytes(head)
    frame_bytes = _FRAME_HEADER_BYTES + page_bytes
    log_file = _beside(path, "-wal")
    if (
        not head.startswith(_MAGIC)
        or _mark(head) != APPLICATION_ID
        or _size(log_file) < _LOG_HEADER_BYTES + frame_bytes
    ):
        return False
    with log_file.open("rb") as file:
        magic, _, its_page_bytes, _, *salts = struct.unpack(">6I", file.read(24))
        if magic not in _LOG_MAGICS or its_page_bytes != page_bytes:
            return True
        for start in range(_LOG_HEADER_BYTES, _size(log_file) - frame_bytes + 1, frame_bytes):
            file.seek(start)
            page, _, *its_salts = struct.unpack(">4I", file.read(16))
            if its_salts != salts:
                break
            if page == 1:
                file.seek(start + _FRAME_HEADER_BYTES)
                if _mark(file.read(_HEADER_BYTES)) != APPLICATION_ID:
                    return True
    return False


def _check_header(path: Path, head: bytes) -> None:
    """Check for damage that SQLite mistakes for a different kind of file."""
    head = head.ljust(_HEADER_BYTES, b"\0")
    (schema_format,), (encoding,) = struct.unpack_from(">I", head, 44), struct.unpack_from(">I", head, 56)
    versions = set(head[18:20])  # for writing and reading: 1 with a journal, 2 with a log
    if not versions <= {1, 2} or schema_format > MAX_SCHEMA_FORMAT or encoding > UTF_8:
        raise _damaged(path, "its header was not written by gpuid")


def _check_content(path: Path, *, ours: bool, check: str = "quick_check") -> None:
    try:
        # Read-only, to leave a damaged file and its log unchanged; but an old transaction may have to be rolled back.
        with closing(_connection(path, "rw" if _beside(path, "-journal").exists() else "ro")) as connection:
            (mark,) = connection.execute("PRAGMA application_id").fetchone()
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
            if tables and mark != APPLICATION_ID:
                if not ours and VERSION_TABLE not in tables:
                    raise _foreign(path)
                raise _damaged(path, "its application id is no longer gpuid's")
            if _size(path) <= MAX_CHECKED_BYTES:
                (found,) = connection.execute(f"PRAGMA {check}(1)").fetchone()
                if found != "ok":
                    raise _damaged(path, " ".join(found.split()))
    except sqlite3.OperationalError as error:
        if ours and _error_name(error).startswith("SQLITE_ERROR"):  # the statements are correct
            raise _damaged(path, str(error)) from error
        raise


def _error_name(error: Exception) -> str:
    return getattr(error, "sqlite_errorname", "") or ""


def _connection(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote(str(path))}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)
    connection.text_factory = DAMAGED_TEXT
    return connection


def _beside(path: Path, side: str) -> Path:
    file = path.resolve()
    return file.with_name(file.name + side)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _pages(head: bytes) -> int:
    return int(struct.unpack_from(">I", head.ljust(_HEADER_BYTES, b"\0"), 28)[0])


def _page_bytes(head: bytes) -> int:
    size = int(struct.unpack_from(">H", head.ljust(_HEADER_BYTES, b"\0"), 16)[0])
    return 65536 if size == 1 else size


def _damaged(path: Path, what: str) -> DamagedStoreError:
    return DamagedStoreError(f"store {path}: the file is damaged ({what}){MOVE_AWAY}")


def _foreign(path: Path) -> StoreError:
    return StoreError(f"store {path}: it is another program's database; choose another store.url")


def _no_file(path: Path) -> StoreError:
    kind = "a directory" if path.is_dir() else "not a regular file"
    return StoreError(f"store {path}: is {kind}; choose another store.url")


def _make_all_private(path: Path) -> None:
    for side in ("", *SIDE_FILES):
        _make_private(_beside(path, side))


def _make_private(file: Path) -> None:
    """Remove a file's permissions for everyone but its owner, if it exists."""
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & 0o077:
            file.chmod(PRIVATE_MODE)
            log.info("restricted the permissions of a store file", extra={"file": str(file), "from": f"{mode:04o}"})
    except FileNotFoundError:
        pass
    except OSError as error:  # it may be another user's
        log.warning(
            "cannot make a store file private: %s",
            error.strerror,
            extra={"file": str(file), "mode": f"{mode:04o}"},
        )


def _read(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _mark(header: bytes) -> int:
    return int(struct.unpack_from(">I", header.ljust(_HEADER_BYTES, b"\0"), 68)[0])
