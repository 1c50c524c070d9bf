"""What a sink is, and the one that a table of the configuration describes."""

from collections.abc import Sequence
from typing import Protocol

from collector.config.sinks import CommonSinkSettings, PostgresSettings, S3Settings, StdoutSettings, WebhookSettings
from collector.model import SinkRecord

__all__ = ["Sink", "open_sink"]


class Sink(Protocol):
    """Takes batches of records, one after the other."""

    async def send(self, records: Sequence[SinkRecord], *, key: str) -> None:
        """Deliver one batch; raises Unavailable (send it again) or Refused (never again).

        `key` stays the same over all tries of a batch, so that a repeated delivery is recognised as far as the sink's
        form allows. An empty batch is delivered by doing nothing.
        """

    async def check(self) -> str:
        """Prove that the sink is reachable and may be written to, leaving nothing behind; raises SinkError.

        Returns a short text for a person.
        """

    async def aclose(self) -> None:
        """Let go of all connections; a later `send` opens them again."""


def open_sink(name: str, settings: CommonSinkSettings) -> Sink:
    """Make the sink that the settings of `[sinks.NAME]` describe; nothing is connected before the first use."""
    # Imported on demand: the AWS libraries alone take longer to load than all the rest.
    match settings:
        case StdoutSettings():
            from collector.sinks.stdout import StdoutSink

            return StdoutSink(name)
        case WebhookSettings():
            from collector.sinks.webhook import WebhookSink

            return WebhookSink(name, settings)
        case S3Settings():
            from collector.sinks.s3 import S3Sink

            return S3Sink(name, settings)
        case PostgresSettings():
            from collector.sinks.postgres import PostgresSink

            return PostgresSink(name, settings)
    raise TypeError(f"no sink takes {type(settings).__name__}")
