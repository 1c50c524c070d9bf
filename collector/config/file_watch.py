"""Watches the configuration file for new content."""

import errno
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.to_thread
import watchfiles

from collector.files import file_stamp, read_file
from collector.shortage import check_threads

__all__ = ["file_contents", "read_content"]

log = logging.getLogger(__name__)

_REPLACE_SECONDS = 1.0  # for which the file may be missing while an editor or a deployment replaces it
_POLL_MILLISECONDS = 100  # between two checks of the system's reports
_TIMEOUT_MILLISECONDS = 500  # until an empty report
_LOOK_SECONDS = 2.0  # between two checks of the file while its directory cannot be watched
_RETRY_LOOKS = 30  # after this many, watching the directory is tried again


async def file_contents(path: Path) -> AsyncIterator[bytes | OSError]:
    """Yield the file's content, or why it cannot be read: immediately, and on every change in its directory.

    The file itself is also checked periodically: its directory may have been replaced, or the file may be a link to
    one elsewhere.
    """
    stamp, failure = None, ""
    async for changed in _directory_changes(path):
        before, stamp = stamp, await anyio.to_thread.run_sync(file_stamp, path, abandon_on_cancel=True)
        same = not changed and stamp == before
        if same and not failure:
            continue
        content = await anyio.to_thread.run_sync(read_content, path, abandon_on_cancel=True)
        if isinstance(content, OSError):
            await anyio.sleep(_REPLACE_SECONDS)
            content = await anyio.to_thread.run_sync(read_content, path, abandon_on_cancel=True)
        # What could not be read is tried again: the reason may be the system's.
        known, failure = failure, str(content) if isinstance(content, OSError) else ""
        if not same or failure != known:
            yield content


def read_content(path: Path) -> bytes | OSError:
    """Return the content of the file, or why it cannot be read."""
    try:
        return read_file(path)
    except OSError as error:
        return error
    except ValueError as error:  # an invalid path, such as one with a null byte
        return OSError(errno.EINVAL, str(error))


async def _directory_changes(path: Path) -> AsyncIterator[bool]:
    """Yield True whenever something changes in a file's directory, since the file may have been replaced.

    Yields True as soon as the directory is watched, because the file may have changed before, and False
    periodically while nothing changes or the directory cannot be watched. Never ends.
    """
    warned = False
    while True:
        async for changed in _watched_changes(path, quiet=warned):
            yield changed
        warned = True
        yield True
        for _ in range(_RETRY_LOOKS):
            await anyio.sleep(_LOOK_SECONDS)
            yield False


async def _watched_changes(path: Path, *, quiet: bool) -> AsyncIterator[bool]:
    """Yield as `_directory_changes` does, until the directory cannot be watched."""
    for polling in (False, True):
        first = True
        try:
            check_threads()  # the library aborts the process without it
            async for found in watchfiles.awatch(
                path.parent,
                recursive=False,
                step=_POLL_MILLISECONDS,
                rust_timeout=_TIMEOUT_MILLISECONDS,
                yield_on_timeout=True,
                force_polling=polling,
            ):
                yield bool(found) or first
                first = False
        except (OSError, RuntimeError) as error:  # such as the limit of inotify watches
            if not quiet:
                retry = "falling back to polling" if polling else "polling it"
                log.warning("cannot watch the configuration directory: %s; %s", error, retry)
