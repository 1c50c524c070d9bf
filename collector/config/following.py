"""Follows the configuration's file: tells when it says something else, and when it is away."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import anyio.to_thread
import watchfiles

__all__ = ["changes"]

log = logging.getLogger(__name__)

_REPLACED = 1.0  # seconds that a file may be away while another one takes its place


async def changes(path: Path) -> AsyncIterator[None]:
    """Yield whenever the file has another content than before; that it is away is logged, once."""
    fields = {"config": str(path)}
    before, missing = await anyio.to_thread.run_sync(_content, path), False
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
        if missing and after == before:
            log.info("the configuration is back, unchanged", extra=fields)
        missing = False
        if after != before:
            before = after
            yield


async def _changes_beside(path: Path) -> AsyncIterator[object]:
    """Yield whenever something changes in a file's folder, because a new file may take the old one's place."""
    for polling in (False, True):
        try:
            async for found in watchfiles.awatch(
                path.parent, recursive=False, step=100, rust_timeout=500, force_polling=polling
            ):
                yield found
        except OSError as error:  # such as too many watches on this machine
            log.warning("the configuration's folder cannot be watched: %s", error, extra={"polling": not polling})


def _content(path: Path) -> bytes | None:
    """Read the file; None while it cannot be."""
    try:
        return path.read_bytes()
    except OSError:
        return None
