"""Checks whether the collector could deliver to a sink."""

import anyio

from collector.checks.check import Check
from collector.checks.finding import Finding, Subject
from collector.config.sinks import SinkSettings
from collector.sinks import open_sink
from collector.text import one_line

__all__ = ["SinkCheck"]

_CLOSE_TIMEOUT_SECONDS = 2.0


class SinkCheck(Check):
    """Checks that a sink is reachable and writable, without sending a record."""

    def __init__(self, name: str, settings: SinkSettings) -> None:
        super().__init__(Finding(subject=Subject.SINK, name=name, type=str(settings.__struct_config__.tag)))
        self._settings = settings

    async def run(self) -> None:
        """Record the sink's summary; raises SinkError."""
        sink = open_sink(self.finding.name, self._settings)
        try:
            self.finding.summary = one_line(await sink.check())
        finally:
            with anyio.move_on_after(_CLOSE_TIMEOUT_SECONDS, shield=True):
                await sink.aclose()
