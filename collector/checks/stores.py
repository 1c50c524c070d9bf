"""Checks whether the collector could use the configured store."""

from collector import store
from collector.checks.check import Check
from collector.checks.finding import Finding, Subject
from collector.config.store import PostgresLocation, StoreSettings, locate
from collector.text import one_line

__all__ = ["StoreCheck"]


class StoreCheck(Check):
    """Checks that the store is reachable and writable, without writing to it."""

    def __init__(self, settings: StoreSettings) -> None:
        engine = "postgresql" if isinstance(locate(settings.url), PostgresLocation) else "sqlite"
        super().__init__(Finding(subject=Subject.STORE, name="store", type=engine))
        self._settings = settings

    async def run(self) -> None:
        """Record the store's summary; raises StoreError."""
        self.finding.summary = one_line(await store.check(self._settings))
