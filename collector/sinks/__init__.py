"""Destinations of records: each sink accepts batches and raises errors that say whether to retry."""

from collector.sinks.errors import KnownKeyError, Reason, RejectedError, SinkError, TooLargeError, UnavailableError
from collector.sinks.sink import Sink, open_sink

__all__ = [
    "KnownKeyError",
    "Reason",
    "RejectedError",
    "Sink",
    "SinkError",
    "TooLargeError",
    "UnavailableError",
    "open_sink",
]
