"""File operations: read content and secrets, detect changes, and replace atomically."""

import errno
import os
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from collector.model import GpuidError
from collector.text import describe_os_error

__all__ = ["MAX_FILE_BYTES", "UnreadableFileError", "file_stamp", "in_time", "read_file", "read_secret", "replace_file"]

MAX_FILE_BYTES = 16 << 20  # of files written by people or their tools: kubeconfigs, certificates, tokens
FILE_TIMEOUT_SECONDS = 10.0  # after which a file system is considered hanging

_T = TypeVar("_T")
_hanging: dict[str, threading.Thread] = {}  # by file: threads still waiting for its file system


class UnreadableFileError(GpuidError):
    """A file has no usable secret; the text is only the reason, without path or content."""


def read_file(file: Path | str) -> bytes:
    """Return the content of a regular file of limited size; raises OSError, and ValueError for an invalid path."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for a writer
    with os.fdopen(descriptor, "rb", buffering=0) as opened:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode) and not stat.S_ISCHR(mode):  # many use /dev/null as an empty file
            raise OSError(errno.EINVAL, "not a regular file")
        content = bytearray()
        while chunk := opened.read(1 << 20):
            content += chunk
            if len(content) > MAX_FILE_BYTES:
                raise OSError(errno.EFBIG, f"more than {MAX_FILE_BYTES >> 20} MiB")
    return bytes(content)


def in_time(file: Path | str, work: Callable[[], _T], *, timeout: float = FILE_TIMEOUT_SECONDS) -> _T:
    """Run `work`, which accesses a file, and return its result; raises its errors.

    Raises OSError if that takes more than `timeout` seconds, as on a network file system whose server is gone, and
    immediately while an earlier call still waits for the same file. Such a thread cannot be stopped, but does not keep
    the process alive.
    """
    key = str(file)
    hangs = OSError(errno.ETIMEDOUT, "its file system does not respond")
    if (earlier := _hanging.get(key)) is not None:
        if earlier.is_alive():
            raise hangs
        _hanging.pop(key, None)
    outcome: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:  # for the waiter
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="gpuid file", daemon=True)
    thread.start()
    thread.join(timeout)
    if not outcome:
        _hanging[key] = thread
        raise hangs
    value, error = outcome[0]
    if error is not None:
        raise error
    returned: _T = value
    return returned


def file_stamp(file: Path | str) -> tuple[int, int, int] | None:
    """Return a value that changes when the file is written or replaced; None if there is no file."""
    try:
        status = Path(file).stat()
    except (OSError, ValueError):  # ValueError: an invalid path, such as one with a null byte
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def read_secret(file: Path | str) -> str:
    """Return a file's text without surrounding white space, possibly empty; raises UnreadableFileError."""
    try:
        return read_file(file).decode("utf-8").strip()
    except (OSError, ValueError) as error:
        raise UnreadableFileError(describe_os_error(error, "expected UTF-8 text")) from None


def replace_file(file: Path, content: bytes, mode: int) -> None:
    """Write a file atomically and to disk; raises OSError. A link itself is replaced."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name[:50]}.")  # not readable by others
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        partial.replace(file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
