"""Keeps the delivery status of each sink in memory."""

from collections.abc import Collection
from dataclasses import dataclass, field

from collector.store import SinkBacklog

__all__ = ["SinkStatus", "SinkStatuses"]


@dataclass
class SinkStatus:
    """One sink: its backlog, and why its last delivery attempt failed."""

    sink: str
    backlog: SinkBacklog = field(default_factory=lambda: SinkBacklog(records=0, oldest=None))
    failure: str = ""  # the reason; empty while deliveries succeed
    message: str = ""  # the receiver's own message, on one line without secrets
    failing_since: float | None = None  # Unix seconds of the first of consecutive failures
    delivered: int = 0  # records, since this process started


class SinkStatuses:
    """The status of every sink, as reported by the delivery."""

    def __init__(self) -> None:
        self._statuses: dict[str, SinkStatus] = {}

    def by_name(self) -> list[SinkStatus]:
        """Return the status of each reported sink, sorted by name."""
        return sorted(self._statuses.values(), key=lambda status: status.sink)

    def delivered(self, sink: str, records: int = 0) -> None:
        """Record a delivered batch and its number of records."""
        status = self._of(sink)
        status.delivered += records
        self._clear_failure(status)

    def failed(self, sink: str, reason: str, time: float, message: str = "") -> None:
        """Record a failed delivery attempt at `time` (Unix seconds) and its reason."""
        status = self._of(sink)
        status.failure, status.message = reason, message
        if status.failing_since is None:
            status.failing_since = time

    def set_backlog(self, sink: str, backlog: SinkBacklog) -> None:
        """Record a sink's backlog; if empty, this or another replica has delivered everything."""
        status = self._of(sink)
        status.backlog = backlog
        if not backlog.records:
            self._clear_failure(status)

    def retain(self, sinks: Collection[str]) -> None:
        """Forget all sinks except these."""
        self._statuses = {name: status for name, status in self._statuses.items() if name in sinks}

    def _of(self, sink: str) -> SinkStatus:
        return self._statuses.setdefault(sink, SinkStatus(sink))

    @staticmethod
    def _clear_failure(status: SinkStatus) -> None:
        status.failure, status.message, status.failing_since = "", "", None
