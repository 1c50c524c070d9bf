"""How the sinks take what they are owed, kept in memory for the page."""

from collections.abc import Collection
from dataclasses import dataclass, field

from collector.store import Backlog

__all__ = ["SinkStatus", "SinkStatuses"]


@dataclass
class SinkStatus:
    """One sink: what it is owed, and why the last try failed."""

    sink: str
    backlog: Backlog = field(default_factory=lambda: Backlog(records=0, oldest=None))
    reason: str = ""  # empty while it takes what it is given
    since: float | None = None  # Unix seconds since when every try has failed


class SinkStatuses:
    """What the delivery tells of each sink."""

    def __init__(self) -> None:
        self._states: dict[str, SinkStatus] = {}

    def by_name(self) -> list[SinkStatus]:
        """List the sinks that something was heard of."""
        return sorted(self._states.values(), key=lambda state: state.sink)

    def exported(self, sink: str) -> None:
        """Hear that a sink took a batch."""
        self._trouble(self._of(sink), "", None)

    def failed(self, sink: str, reason: str, time: float) -> None:
        """Hear that a sink did not take a batch, at `time` in Unix seconds."""
        state = self._of(sink)
        self._trouble(state, reason, time if state.since is None else state.since)

    def owed(self, sink: str, backlog: Backlog) -> None:
        """Hear what a sink is owed; where that is nothing, nothing is tried, here or by another process."""
        state = self._of(sink)
        state.backlog = backlog
        if not backlog.records:
            self._trouble(state, "", None)

    def keep(self, sinks: Collection[str]) -> None:
        """Forget the sinks that are not among these."""
        self._states = {name: state for name, state in self._states.items() if name in sinks}

    def _of(self, sink: str) -> SinkStatus:
        return self._states.setdefault(sink, SinkStatus(sink))

    @staticmethod
    def _trouble(state: SinkStatus, reason: str, since: float | None) -> None:
        state.reason, state.since = reason, since
