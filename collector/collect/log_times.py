"""Date the documents that a pod prints by itself. No I/O: all times are passed in.

The times in a log are the node's, whose clock may be wrong. What does not depend on it is that a document which was not
in the log when it was read was printed after that. So each document is dated between the last reading that did not have
it and the first one that had, whatever its node says, and keeps that date however often it is read.
"""

import dataclasses
import datetime
from typing import NamedTuple

from collector.collect.smi_reading import Moment, Printed
from collector.model import Fingerprint

__all__ = ["Dated", "LogState", "LogTimes", "moment_of"]

RUN_SECONDS = 90.0  # from the start of a run to its first line; the reader gives nvidia-smi 60 s, and prints then
CLOCK_TOLERANCE_SECONDS = 60.0
_LONG_AGO = float("-inf")


class Dated(NamedTuple):
    """When a document was printed."""

    time: float  # Unix seconds
    started: float  # since when its run is known to have started, on the monotonic clock
    ahead: float  # by how many seconds the node's clock was wrong; 0 where it may have been right


class LogTimes:
    """When the documents in the log of one container were printed.

    `created` is when its pod was, in Unix seconds, and `now` a time of the monotonic clock.
    """

    def __init__(self, created: float, now: float) -> None:
        self.since = now  # when it was read first, on the monotonic clock
        self._looked = Moment(created, _LONG_AGO)
        self._begun: dict[str, Moment] = {}  # when it was known not to have begun, by stamp, of the last documents
        self._dated: tuple[str, Dated] | None = None

    def look(self, newest: str, asked: Moment) -> None:
        """Note which document was the last one that had begun when the log was read."""
        self._note((newest,), asked)

    def date(self, printed: Printed, now: float) -> Dated:
        """Return when a document was printed, for a reading that was complete at `now`, in Unix seconds."""
        self._note((printed.stamp, printed.newest), printed.asked)
        if self._dated is not None and self._dated[0] == printed.stamp:
            return self._dated[1]
        bound = self._begun[printed.stamp]
        earliest = min(bound.time, now)
        said = earliest if printed.time is None else printed.time
        time = min(max(said, earliest), now)
        ahead = said - time if abs(said - time) >= CLOCK_TOLERANCE_SECONDS else 0.0
        dated = Dated(time, bound.monotonic - RUN_SECONDS, ahead)
        self._dated = (printed.stamp, dated)
        return dated

    def _note(self, stamps: tuple[str, ...], asked: Moment) -> None:
        self._begun = {stamp: self._begun.get(stamp, self._looked) for stamp in stamps if stamp}
        self._looked = asked


@dataclasses.dataclass(slots=True, eq=False)
class LogState:
    """What is known of the log through which a node is read, and of what was asked of it."""

    applied: tuple[str, Fingerprint] | None = None  # the document that was reported last, and what it depends on
    _asked: float | None = None  # since when a document that is newer than that is wanted, on the monotonic clock
    _polls: int = 0  # for it
    _times: LogTimes | None = None
    _container: tuple[str, str, int] = ("", "", 0)  # which has printed that log: pod, ID and restarts

    def times_of(self, current: Fingerprint, created: str, now: float) -> LogTimes:
        """Return when the documents of a container were printed, whose pod was created at an RFC 3339 time."""
        container = (current.pod_uid, current.container_id, current.restarts)
        if self._times is None or self._container != container:
            self._times, self._container = LogTimes(moment_of(created), now), container
        return self._times

    def ask(self, now: float) -> None:
        """Note that only a document of a run that starts from now on is an answer."""
        self._asked, self._polls = now, 0

    def unanswered(self, started: float, now: float, patience: float) -> int | None:
        """Return how often a newer document was waited for already; None where none is, or not any more."""
        if self._asked is None or started >= self._asked or now - self._asked > patience:
            self._asked = None
            return None
        self._polls += 1
        return self._polls - 1


def moment_of(text: str) -> float:
    """Return an RFC 3339 time of the API server in Unix seconds; long ago where it is none."""
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0
