"""What a sink is, and how a `[sinks.NAME]` table of the configuration becomes one."""

from collections.abc import Sequence
from typing import Protocol

from collector.config.sinks import CommonSinkSettings, PostgresSettings, S3Settings, StdoutSettings, WebhookSettings
from collector.model import SinkRecord

__all__ = ["Sink", "open_sink"]


class Sink(Protocol):
    """Takes batches of records, one after the other."""

    async def send(self, records: Sequence[SinkRecord], *, key: str) -> None:
        """Deliver one batch; raises UnavailableError (retry it) or RejectedError (never retry it).

        `key` is the same for all attempts of a batch, so that the receiver can recognise a repeated delivery as far as
        the sink's format allows. An empty batch does nothing.
        """

    async def check(self) -> str:
        """Check that the sink is reachable and writable, leaving nothing behind; raises SinkError.

        Return a short text for a person.
        """

    async def aclose(self) -> None:
        """Close all connections; a later `send` opens them again."""


def open_sink(name: str, settings: CommonSinkSettings) -> Sink:
    """Return the sink that the settings of `[sinks.NAME]` describe; it connects at its first use."""
    # Imported on demand: the AWS libraries alone take longer to load than everything else.
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
