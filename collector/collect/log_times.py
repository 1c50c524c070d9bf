"""Dates the documents that a pod prints to its log. No I/O: all times are passed in.

The timestamps in a log are the node's, whose clock may be wrong. Independent of that clock, a document that was not in
the log at one reading was printed after it. So each document is dated between the last reading without it and the first
one with it, whatever its node says, and keeps that date however often it is read.

The times of documents also determine when to look for the next one.
"""

import dataclasses
import datetime
import random
from typing import NamedTuple

import msgspec

from collector.collect.smi_reading import Moment, Printed
from collector.model import Fingerprint

__all__ = ["Dated", "LogState", "LogTimes", "LookPolicy", "moment_of"]

RUN_SECONDS = 90.0  # from the start of a run to its first line; the reader gives nvidia-smi 60 s, then prints
CLOCK_TOLERANCE_SECONDS = 60.0
USUAL_PERIOD_SECONDS = 300.0  # between two documents of the reader
_LONG_AGO = float("-inf")
_NEVER = float("inf")
_LATEST = (1.08, 1.15)  # periods after which the next document is looked for: the reader's differ by 5% either way
_DISTANCES = 3  # between documents, of which the shortest is the period
_EARLIEST = 0.9  # of a period, before which there is no newer document


class Dated(NamedTuple):
    """The date of a document."""

    time: float  # Unix seconds
    started: float  # after which its run is known to have started, on the monotonic clock
    ahead: float  # error of the node's clock in seconds; 0 if it may have been right


class LookPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How often a log is checked, in seconds."""

    period: float = USUAL_PERIOD_SECONDS  # between two documents, until the log's own period is known
    pause: float = 60.0  # minimum between two checks for the next document


class LogTimes:
    """The dates of the documents in the log of one container.

    `created` is the creation time of its pod in Unix seconds, `now` a time of the monotonic clock.
    """

    def __init__(self, created: float, now: float) -> None:
        self.since = now  # when it was read first, on the monotonic clock
        self._looked = Moment(created, _LONG_AGO)
        self._begun: dict[str, Moment] = {}  # when it was known not to have begun, by stamp, of the last documents
        self._dated: tuple[str, Dated] | None = None
        self._said: float | None = None  # the time of that document by the node's clock
        self._distances: tuple[float, ...] = ()  # between two documents each, the last few
        self._last_line = b""
        self._expected = _NEVER  # when the next document is looked for, on the monotonic clock
        self._late = False  # it was not there when expected

    @property
    def dated(self) -> Dated | None:
        """The last document, if any."""
        return None if self._dated is None else self._dated[1]

    def last_line(self, stamp: str, now: float) -> bytes:
        """Return the last line of the log, which shows whether anything was printed since.

        Empty if unknown, or if another document is expected by now.
        """
        is_last = self._dated is not None and self._dated[0] == stamp
        return self._last_line if is_last and (self._late or now < self._expected) else b""

    def next_look(self, now: Moment, refresh: float, policy: LookPolicy, rng: random.Random) -> float:
        """Return in how many seconds to look for the next document: soon after it is expected.

        A late one is looked for again, at growing intervals up to its period.
        """
        pause = min(policy.pause, refresh)
        period = min(max(self._period or policy.period, pause), refresh)
        printed = now.time if self._dated is None else self._dated[1].time
        wait = printed + period * rng.uniform(*_LATEST) - now.time
        self._late = wait <= 0 or now.monotonic >= self._expected
        if self._late:
            wait = min(max(-wait, pause), period)
        wait = min(wait, refresh)
        self._expected = now.monotonic + wait
        return wait

    def earliest(self, now: float) -> float:
        """Return in how many seconds, from `now` in Unix seconds, a newer document may exist; 0: unknown."""
        if self._dated is None or self._period is None or self._dated[1].ahead:
            return 0.0
        pause = self._period * _EARLIEST
        return min(max(0.0, self._dated[1].time + pause - now), pause)  # no more if the clock was set back

    def unchanged(self, asked: Moment) -> None:
        """Record that nothing new had been printed when the log was checked."""
        self._looked = asked

    def look(self, newest: str, asked: Moment) -> None:
        """Record the last document that had begun when the log was read."""
        self._note((newest,), asked)
        self._last_line = b""

    def date(self, printed: Printed, now: float, known: float | None = None) -> Dated:
        """Return when a document was printed, for a reading completed at `now`, in Unix seconds.

        `known` is the time of a reading of the same container by an earlier run. A first document dated into the future
        by its node may be that one.
        """
        self._note((printed.stamp, printed.newest), printed.asked)
        self._last_line = printed.last_line
        if self._dated is not None and self._dated[0] == printed.stamp:
            return self._dated[1]
        bound = self._begun[printed.stamp]
        earliest = min(bound.time, now)
        said = earliest if printed.time is None else printed.time
        time = min(max(said, earliest), now)
        ahead = said - time if abs(said - time) >= CLOCK_TOLERANCE_SECONDS else 0.0
        if self._dated is None and known is not None and said > now:
            time = max(earliest, min(known, now))
        dated = Dated(time, bound.monotonic - RUN_SECONDS, ahead)
        if distance := printed.period or self._since_last(printed.time):
            self._distances = (*self._distances, distance)[-_DISTANCES:]
        self._dated, self._said, self._expected = (printed.stamp, dated), printed.time, _NEVER
        return dated

    @property
    def _period(self) -> float | None:
        """The time between two documents; None if unknown.

        After failed runs or a clock change, the distance is not the period. So the shortest of the last few counts, and
        a single long one is not trusted.
        """
        if not self._distances:
            return None
        shortest = min(self._distances)
        return shortest if len(self._distances) > 1 else min(shortest, USUAL_PERIOD_SECONDS)

    def _since_last(self, said: float | None) -> float | None:
        return said - self._said if said is not None and self._said is not None and said > self._said else None

    def _note(self, stamps: tuple[str, ...], asked: Moment) -> None:
        self._begun = {stamp: self._begun.get(stamp, self._looked) for stamp in stamps if stamp}
        self._looked = asked


@dataclasses.dataclass(slots=True, eq=False)
class LogState:
    """The state of the log through which a node is read, and of pending requests for newer documents."""

    applied: tuple[str, Fingerprint] | None = None  # the last reported document, and its fingerprint
    _seen: Fingerprint | None = None  # what a document would depend on, when it was noted last
    _by_event: bool = False  # a newer document is wanted for a change of that alone
    _read: tuple[str, str, int] | None = None  # the container of the observer's reading
    _asked: float | None = None  # since when a newer document is wanted, on the monotonic clock
    _polls: int = 0  # for it
    _times: LogTimes | None = None
    _container: tuple[str, str, int] = ("", "", 0)  # that printed the log: pod, ID and restarts

    def times_of(self, current: Fingerprint, created: str, now: float) -> LogTimes:
        """Return when the documents of a container were printed, whose pod was created at an RFC 3339 time."""
        container = _container(current)
        if self._times is None or self._container != container:
            self._times, self._container = LogTimes(moment_of(created), now), container
        return self._times

    def ask(self, now: float) -> None:
        """Request a document of a run that starts from now on."""
        self._asked, self._polls, self._by_event = now, 0, False

    def note(self, current: Fingerprint, now: float) -> None:
        """Record the current fingerprint: if it has changed, only a newer document will do.

        A new container has a new log, and prints when it starts.
        """
        before, self._seen = self._seen, current
        if before is None or before == current:
            return
        if _container(before) == _container(current):
            by_event = self._asked is None or self._by_event
            self.ask(now)
            self._by_event = by_event
        elif self._by_event:
            self._asked = None

    def note_reading(self, current: Fingerprint) -> None:
        """Record that the observer has a reading with this fingerprint."""
        self._read, self._seen = _container(current), self._seen or current

    def was_read(self, current: Fingerprint) -> bool:
        """Return whether the observer's reading is of the container that would be read now."""
        return self._read == _container(current)

    def unanswered(self, started: float, now: float, patience: float) -> int | None:
        """Return how often a newer document was awaited so far; None if none is, or no longer."""
        if self._asked is None or started >= self._asked or now - self._asked > patience:
            self._asked = None
            return None
        self._polls += 1
        return self._polls - 1


def _container(current: Fingerprint) -> tuple[str, str, int]:
    return current.pod_uid, current.container_id, current.restarts


def moment_of(text: str) -> float:
    """Return an RFC 3339 time of the API server in Unix seconds; long ago if it is invalid."""
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0
