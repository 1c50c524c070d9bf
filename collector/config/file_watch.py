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

_REPLACE_SECONDS = 1.0  # that the file may be missing while an editor or a deployment replaces it
_POLL_MILLISECONDS = 100  # between two looks at what the system reports
_TIMEOUT_MILLISECONDS = 500  # until an empty report
_LOOK_SECONDS = 2.0  # between two looks at the file while its directory cannot be watched
_RETRY_LOOKS = 30  # after so many, watching the directory is tried again


async def file_contents(path: Path) -> AsyncIterator[bytes | OSError]:
    """Yield what the file holds, or why it cannot be read: at once, and whenever something happens in its directory.

    The file itself is looked at now and then, too: its directory may have been replaced by another one, or the file may
    be a link to one elsewhere.
    """
    stamp = None
    async for changed in _directory_changes(path):
        before, stamp = stamp, await anyio.to_thread.run_sync(file_stamp, path, abandon_on_cancel=True)
        if not changed and stamp == before:
            continue
        content = await anyio.to_thread.run_sync(read_content, path, abandon_on_cancel=True)
        if isinstance(content, OSError):
            await anyio.sleep(_REPLACE_SECONDS)
            content = await anyio.to_thread.run_sync(read_content, path, abandon_on_cancel=True)
        yield content


def read_content(path: Path) -> bytes | OSError:
    """Return the content of the file, or why it cannot be read."""
    try:
        return read_file(path)
    except OSError as error:
        return error
    except ValueError as error:  # no path at all, such as one with a null byte
        return OSError(errno.EINVAL, str(error))


async def _directory_changes(path: Path) -> AsyncIterator[bool]:
    """Yield True whenever something changes in the directory of a file, because another one may take the file's place.

    Yields True once as soon as the directory is watched, because the file may have changed before, and False now and
    then while nothing changes, or while the directory cannot be watched. Never ends.
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
    """Yield what `_directory_changes` does until the directory cannot be watched."""
    for polling in (False, True):
        first = True
        try:
            check_threads()  # the library's own, which it aborts the process without
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
                retry = "looking at the file now and then" if polling else "polling it"
                log.warning("cannot watch the configuration directory: %s; %s", error, retry)
