"""Applies a changed configuration at runtime; an invalid one is rejected and nothing changes."""

import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.to_thread

from collector.config import Config, ConfigError, load
from collector.config.file_watch import file_contents, read_content
from collector.redaction import redact
from collector.text import describe_os_error
from collector.views.config_status import ConfigStatus

__all__ = ["Reloader"]

log = logging.getLogger(__name__)

FIXED_TABLES = ("server", "metrics", "store")  # sections that only take effect at the start
MAX_ERROR_CHARACTERS = 500  # characters of a published error


class Reloader:
    """Reloads the configuration on request and whenever its file changes; `apply` applies it.

    `clock` returns Unix seconds.
    """

    def __init__(
        self,
        started_with: Config,
        apply: Callable[[Config], Awaitable[None]],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.ready = anyio.Event()  # set once the first configuration has been applied
        self.status = ConfigStatus(loaded=clock())
        self._started_with = started_with
        self._apply = apply
        self._clock = clock
        self._lock = anyio.Lock()
        self._seen: bytes | None = None  # the content at the last check; None before the first

    async def reload(self, path: Path) -> None:
        """Apply the clusters and sinks of a file; an invalid file is rejected and the current ones are kept."""
        await self.ready.wait()
        async with self._lock:  # a signal and a changed file may coincide
            content = await anyio.to_thread.run_sync(read_content, path, abandon_on_cancel=True)
            if isinstance(content, OSError):
                self._cannot_read(path, content)
            else:
                await self._load(path, content)

    async def run(self, path: Path) -> None:
        """Reload whenever the file changes, until cancelled."""
        await self.ready.wait()
        async for content in file_contents(path):
            async with self._lock:
                if isinstance(content, OSError):
                    if self.status.readable:
                        self._cannot_read(path, content)
                    continue
                back = not self.status.readable
                if self._seen is None:  # it may have changed since the start
                    changed = await anyio.to_thread.run_sync(
                        _differs, path, content, self._started_with, abandon_on_cancel=True
                    )
                else:
                    changed = content != self._seen
                if back and not changed:
                    log.info("configuration file is back, unchanged", extra={"config": str(path)})
                self._seen = content
                if changed or back:
                    await self._load(path, content, quiet=not changed)

    async def _load(self, path: Path, content: bytes, *, quiet: bool = False) -> None:
        """Apply the content of a file; later content counts as another change."""
        self._seen = content
        try:
            config = await anyio.to_thread.run_sync(load, path, content, abandon_on_cancel=True)
        except ConfigError as error:
            self._failed(str(error), readable=True)
            if not quiet:
                log.error("rejected the new configuration; keeping the current one: %s", error)  # noqa: TRY400
            return
        restart = tuple(table for table in FIXED_TABLES if getattr(config, table) != getattr(self._started_with, table))
        await self._apply(config)
        waits_already = self.status.restart_since if restart == self.status.restart else None
        since = (waits_already or self._clock()) if restart else None
        self.status = ConfigStatus(loaded=self._clock(), restart=restart, restart_since=since)
        if quiet:
            return
        if restart:
            log.warning("changes of %s take effect at the next start", self.status.tables, extra={"config": str(path)})
        log.info("configuration reloaded", extra={"config": str(path)})

    def _cannot_read(self, path: Path, error: OSError) -> None:
        missing = isinstance(error, FileNotFoundError)
        why = describe_os_error(error, "cannot be read")
        text = "configuration file is missing" if missing else f"configuration file cannot be read ({why})"
        log.warning("%s; keeping the current configuration", text, extra={"config": str(path)})
        self._failed(f"{path}: {why}", readable=False)

    def _failed(self, error: str, *, readable: bool) -> None:
        same = not self.status.ok and self.status.readable == readable  # whatever the error of that kind
        since = self.status.failing_since if same else self._clock()
        error = redact(error, MAX_ERROR_CHARACTERS)
        self.status = dataclasses.replace(self.status, error=error, readable=readable, failing_since=since)


def _differs(path: Path, content: bytes, config: Config) -> bool:
    try:
        return load(path, content, warn=False) != config
    except ConfigError:
        return True
