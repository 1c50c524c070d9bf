"""Destinations of records: each sink takes batches and raises an error that says whether to retry."""

from collector.sinks.errors import Reason, RejectedError, SinkError, UnavailableError
from collector.sinks.sink import Sink, open_sink

__all__ = ["Reason", "RejectedError", "Sink", "SinkError", "UnavailableError", "open_sink"]
