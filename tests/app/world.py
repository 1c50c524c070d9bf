"""A service in this process, and the file that configures it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from collector.app import Service

__all__ = ["ConfiguredService"]


class ConfiguredService:
    """The configuration file of a service, which is reloaded from it, and the URLs at which it has answered."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "gpuid.toml"
        self.urls: list[str] = []

    def replace_config(self, text: str) -> None:
        """Replace the configuration atomically."""
        partial = self.config.with_suffix(".new")
        partial.write_text(text)
        partial.replace(self.config)

    @asynccontextmanager
    async def running(self, service: Service) -> AsyncIterator[None]:
        """Run a service for the body of the `with`."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: service.run(ready=self.urls.append, reload_from=self.config))
            yield
            tasks.cancel_scope.cancel()
