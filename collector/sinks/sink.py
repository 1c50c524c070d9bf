"""The sink interface, and its creation from a `[sinks.NAME]` table of the configuration."""

from collections.abc import Sequence
from typing import Protocol

from collector.config.sinks import CommonSinkSettings, PostgresSettings, S3Settings, StdoutSettings, WebhookSettings
from collector.model import SinkRecord
from collector.redaction import Secrets, redacting

__all__ = ["RedactingSink", "Sink", "SinkWithSecrets", "open_sink"]


class Sink(Protocol):
    """Accepts batches of records, one at a time."""

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


class SinkWithSecrets(Sink, Protocol):
    """A sink, and the secrets that must not appear in its receiver's messages."""

    secrets: Secrets


class RedactingSink:
    """Redacts a sink's secrets from everything it reports."""

    def __init__(self, sink: SinkWithSecrets) -> None:
        self.sink = sink

    async def send(self, records: Sequence[SinkRecord], *, key: str) -> None:
        """Deliver one batch."""
        with redacting(self.sink.secrets):
            await self.sink.send(records, key=key)

    async def check(self) -> str:
        """Check that the sink is reachable and writable."""
        with redacting(self.sink.secrets):
            return self.sink.secrets.mask(await self.sink.check())

    async def aclose(self) -> None:
        """Close all connections."""
        with redacting(self.sink.secrets):
            await self.sink.aclose()


def open_sink(name: str, settings: CommonSinkSettings) -> Sink:
    """Return the sink for the settings of `[sinks.NAME]`; it connects on first use."""
    return RedactingSink(_new_sink(name, settings))


def _new_sink(name: str, settings: CommonSinkSettings) -> SinkWithSecrets:
    # Imported on demand: the AWS libraries take longer to load than everything else.
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
