"""Follows the configuration's file: tells when it says something else, and when it is away."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.to_thread
import watchfiles

from collector.config.loading import ConfigError, load
from collector.config.settings import Config

__all__ = ["changes"]

log = logging.getLogger(__name__)

_REPLACED = 1.0  # seconds that a file may be away while another one takes its place


async def changes(path: Path, config: Config) -> AsyncIterator[None]:
    """Yield whenever the file has another content than before, at first than `config`, which was read from it.

    That it is away is logged, once.
    """
    fields = {"config": str(path)}
    before: bytes | None = None  # until the first look
    missing = False
    async for _ in _changes_beside(path):
        after = await anyio.to_thread.run_sync(_content, path)
        if after is None:
            await anyio.sleep(_REPLACED)
            after = await anyio.to_thread.run_sync(_content, path)
        if after is None:
            if not missing:
                log.warning("the configuration cannot be read any more, what it said stays in force", extra=fields)
            missing = True
            continue
        changed = after != before if before is not None else await anyio.to_thread.run_sync(_differs, path, config)
        if missing and not changed:
            log.info("the configuration is back, unchanged", extra=fields)
        before, missing = after, False
        if changed:
            yield


async def _changes_beside(path: Path) -> AsyncIterator[object]:
    """Yield whenever something changes in a file's folder, because a new file may take the old one's place.

    The first time is once the folder is watched: what has changed before would else be missed.
    """
    for polling in (False, True):
        first = True
        try:
            async for found in watchfiles.awatch(
                path.parent, recursive=False, step=100, rust_timeout=500, yield_on_timeout=True, force_polling=polling
            ):
                if found or first:
                    yield found
                first = False
        except OSError as error:  # such as too many watches on this machine
            log.warning("the configuration's folder cannot be watched: %s", error, extra={"polling": not polling})


def _differs(path: Path, config: Config) -> bool:
    try:
        return load(path) != config
    except ConfigError:
        return True


def _content(path: Path) -> bytes | None:
    """Read the file; None while it cannot be."""
    try:
        return path.read_bytes()
    except OSError:
        return None
