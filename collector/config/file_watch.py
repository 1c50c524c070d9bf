"""Watches the configuration file for new content."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.to_thread
import watchfiles

from collector.config.loading import ConfigError, load
from collector.config.settings import Config

__all__ = ["config_changes"]

log = logging.getLogger(__name__)

_REPLACE_SECONDS = 1.0  # that the file may be missing while an editor or a deployment replaces it
_POLL_MILLISECONDS = 100  # between two looks at what the system reports
_TIMEOUT_MILLISECONDS = 500  # until an empty report


async def config_changes(path: Path, config: Config) -> AsyncIterator[None]:
    """Yield whenever the content of the file changes; first compared with `config`, which was read from it.

    A missing file is logged, once.
    """
    fields = {"config": str(path)}
    before: bytes | None = None  # before the first look
    missing = False
    async for _ in _directory_changes(path):
        after = await anyio.to_thread.run_sync(_content, path, abandon_on_cancel=True)
        if after is None:
            await anyio.sleep(_REPLACE_SECONDS)
            after = await anyio.to_thread.run_sync(_content, path, abandon_on_cancel=True)
        if after is None:
            if not missing:
                log.warning("configuration file is missing; keeping the current configuration", extra=fields)
            missing = True
            continue
        changed = after != before
        if before is None:
            changed = await anyio.to_thread.run_sync(_differs, path, config, abandon_on_cancel=True)
        if missing and not changed:
            log.info("configuration file is back, unchanged", extra=fields)
        before, missing = after, False
        if changed:
            yield


async def _directory_changes(path: Path) -> AsyncIterator[object]:
    """Yield whenever something changes in the directory of a file, because the file may be replaced by another one.

    Yields once as soon as the directory is watched, because the file may have changed before.
    """
    for polling in (False, True):
        first = True
        try:
            async for found in watchfiles.awatch(
                path.parent,
                recursive=False,
                step=_POLL_MILLISECONDS,
                rust_timeout=_TIMEOUT_MILLISECONDS,
                yield_on_timeout=True,
                force_polling=polling,
            ):
                if found or first:
                    yield found
                first = False
        except OSError as error:  # such as the limit of inotify watches
            log.warning("cannot watch the configuration directory: %s", error, extra={"polling": not polling})


def _differs(path: Path, config: Config) -> bool:
    try:
        return load(path, warn=False) != config
    except ConfigError:
        return True


def _content(path: Path) -> bytes | None:
    """Return the content of the file; None while it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None
