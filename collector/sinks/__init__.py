"""Where records go: each sink takes batches of records and says plainly when it could not."""

from collector.sinks.errors import Reason, RejectedError, SinkError, UnavailableError
from collector.sinks.sink import Sink, open_sink

__all__ = ["Reason", "RejectedError", "Sink", "SinkError", "UnavailableError", "open_sink"]
