"""Writes a renewed token to the file that its kubeconfig names, unless that file is managed by something else."""

import contextlib
import functools
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from collector.files import MAX_FILE_BYTES, in_time
from collector.text import describe_os_error

__all__ = ["obstacle", "replace_token"]


def obstacle(file: Path) -> str:
    """Return why a token in this file cannot be replaced, such as `it is a symbolic link`; empty if it can be."""
    return _asked(file, functools.partial(_obstacle, file))


def replace_token(file: Path, old: str, new: str) -> str:
    """Replace the token in a file, atomically and with the same mode and owner.

    Returns why that was not possible; empty on success. The file is left unchanged unless it holds the `old` token.
    """
    return _asked(file, functools.partial(_replace, file, old, new))


class _ObstacleError(Exception):
    """The reason that a token cannot be written."""


def _asked(file: Path, work: Callable[[], None]) -> str:
    try:
        in_time(file, work)
    except _ObstacleError as error:
        return str(error)
    except (OSError, ValueError) as error:  # ValueError: not a valid path
        return describe_os_error(error, "not a path")
    return ""


def _obstacle(file: Path) -> None:
    with contextlib.ExitStack() as stack:
        _examine(file, _folder(file, stack))


def _replace(file: Path, old: str, new: str) -> None:
    # Everything uses the folder's descriptor: no part of the path can become a symbolic link in between.
    with contextlib.ExitStack() as stack:
        folder = _folder(file, stack)
        found = _examine(file, folder)
        content = _read(file, folder)
        if content.strip() != old.encode():
            raise _ObstacleError("it holds another token now")
        name = f".{file.name}.{secrets.token_hex(8)}"
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            with os.fdopen(descriptor, "wb") as fresh:
                fresh.write(content.replace(old.encode(), new.encode()))
                fresh.flush()
                made = os.fstat(descriptor)
                if (made.st_uid, made.st_gid) != (found.st_uid, found.st_gid):
                    os.fchown(descriptor, found.st_uid, found.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(found.st_mode))
                os.fsync(descriptor)
            os.replace(name, file.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
            raise
        os.fsync(folder)


def _folder(file: Path, stack: contextlib.ExitStack) -> int:
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, folder)
    return folder


def _examine(file: Path, folder: int) -> os.stat_result:
    """Return the status of the file; raises _ObstacleError or OSError if it must not or cannot be replaced."""
    found = os.stat(file.name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(found.st_mode):
        raise _ObstacleError("it is a symbolic link, as in the volume of a Secret")
    if not stat.S_ISREG(found.st_mode):
        raise _ObstacleError("it is not a regular file")
    # Kubernetes replaces such a folder (..data and its target) as a whole.
    parts = (*file.parent.parts, *Path(os.path.realpath(file.parent)).parts)
    if any(part.startswith("..") and part != ".." for part in parts):
        raise _ObstacleError("it is in the volume of a Secret")
    if not os.access(file.name, os.W_OK, dir_fd=folder) or not os.access(".", os.W_OK | os.X_OK, dir_fd=folder):
        raise _ObstacleError("the file or its folder is not writable")
    return found


def _read(file: Path, folder: int) -> bytes:
    descriptor = os.open(file.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as opened:
        return opened.read(MAX_FILE_BYTES)
