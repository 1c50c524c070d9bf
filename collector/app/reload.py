"""Puts a changed configuration in force while everything runs; a bad one is rejected and nothing changes."""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.to_thread

from collector.config import Config, ConfigError, load
from collector.config.file_watch import config_changes

__all__ = ["Reloader"]

log = logging.getLogger(__name__)

FIXED_TABLES = ("server", "metrics", "store")  # what is settled when the service starts


class Reloader:
    """Loads the configuration again on request and whenever its file changes; `apply` puts it in force."""

    def __init__(self, started_with: Config, apply: Callable[[Config], Awaitable[None]]) -> None:
        self.ready = anyio.Event()  # once the first configuration is in force
        self._started_with = started_with
        self._apply = apply
        self._lock = anyio.Lock()

    async def reload(self, path: Path) -> None:
        """Put the clusters and sinks of a file in force; a bad file is rejected and the old ones stay."""
        await self.ready.wait()
        async with self._lock:  # a signal and a changed file may come at once
            try:
                config = await anyio.to_thread.run_sync(load, path, abandon_on_cancel=True)
            except ConfigError as error:
                log.error("rejected the new configuration; keeping the current one: %s", error)  # noqa: TRY400
                return
            if any(getattr(config, table) != getattr(self._started_with, table) for table in FIXED_TABLES):
                log.warning("changes of [server], [metrics] and [store] take effect at the next start")
            await self._apply(config)
            log.info("configuration reloaded", extra={"config": str(path)})

    async def run(self, path: Path) -> None:
        """Reload whenever the file changes, until cancelled."""
        async for _ in config_changes(path, self._started_with):
            await self.reload(path)
