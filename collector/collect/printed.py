"""Finds the last complete document in the log of a pod that prints the output of `nvidia-smi -q -x` periodically.

A log may begin and end anywhere: it was rotated, only its end was requested, or the pod is printing right now. Each
line starts with the time at which it was printed, by the node's clock.

Process names may contain anything, including the end of a document and another complete one. The text alone cannot
distinguish them from real ones, but a pause can: nvidia-smi prints a document without one, and printers wait in
between.
"""

import collections
import datetime
import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

from collector.collect.smi_output import own_text

__all__ = ["LastDocument", "Log", "find_last", "last_line"]

PAUSE_SECONDS = 20.0  # between two lines: longer between two runs of nvidia-smi, shorter within one
_MAX_LATER_BYTES = 1 << 16  # of what was printed after the document
_MAX_UNTIMED_BYTES = 1 << 10
_MAX_STARTS = 64  # of documents examined, from the end
_MAX_TEXT_LINES = 1000  # before and after a document that may belong to its run

_TIME = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)"
_STAMP = re.compile(rb"^(" + _TIME + rb")(?: |$)", re.MULTILINE)
_LINE_TIME = re.compile(_TIME)
_PROLOG = rb"(?:<\?[^>\n]*>[ \t]*|<![^>\n]*>[ \t]*)*"
_ROOT = re.compile(rb"<nvidia_smi_log(?=[\s/>])")
_BEFORE_ROOT = re.compile(rb"(?:" + _TIME + rb" )?(?:\xef\xbb\xbf)?[ \t]*" + _PROLOG)  # in its line
_END_TAG = b"</nvidia_smi_log>"
_END = re.compile(_END_TAG + rb"(?=[ \t\r]*$)", re.MULTILINE)  # in a name, it would not end its line
_PROLOG_LINE = re.compile(rb"(?:\xef\xbb\xbf)?[ \t]*" + _PROLOG + rb"\r?")


class LastDocument(NamedTuple):
    """The last complete document of a log."""

    output: bytes  # it and what was printed with it, without times
    stamp: str  # timestamp of its first line, as the kubelet wrote it: unique within the log
    time: float | None  # when its run began to print, in Unix seconds by the node's clock; None if unknown
    later: bytes  # text printed after it that is not a document: a later run has failed
    period: float | None  # seconds since the previous one, by the node's clock; None if that is not in the log


class Log(NamedTuple):
    """The findings in a log."""

    last: LastDocument | None
    newest: str  # timestamp of the last document that begins, possibly cut off; empty if none does
    cut: bool  # a document ends in it that began before it
    text: bytes  # its text instead of a document
    untimed: bytes = b""  # text sent instead of timestamped lines


def find_last(log: bytes, *, complete: bool, pause: float = PAUSE_SECONDS) -> Log:
    """Return the last complete document of a log; `complete` means that nothing precedes its first line.

    Documents that follow each other without a `pause` count as one, of which the first is read.
    """
    sections = _sections(log, complete=complete, pause=pause)
    newest = _stamp_at(log, sections[-1].root) if sections else ""
    for at in reversed(range(len(sections))):
        section = sections[at]
        ends = [match.end() for match in _END.finditer(log, section.start, section.end)]
        if ends:
            period = _seconds_between(log, sections[at - 1].start, section.start) if at else None
            return Log(_document(log, section, ends[-1], pause, period), newest, cut=False, text=b"")
    texts = _texts(log, max(0, len(log) - _MAX_LATER_BYTES), pause)
    text = own_text(_without_times(b"".join(texts)))
    return Log(None, newest, cut=_END.search(log) is not None, text=text, untimed=_untimed(log))


def _untimed(log: bytes) -> bytes:
    """Return a log without any timestamps; otherwise its last line, if that has neither a timestamp nor an end."""
    if _STAMP.search(log) is not None:
        last = log.rfind(b"\n") + 1
        log = b"" if _LINE_TIME.match(log, last) else log[last:]
    return log[:_MAX_UNTIMED_BYTES].strip()


class _Section(NamedTuple):
    """The output from the run of one document up to that of the next."""

    start: int
    root: int  # the line in which the document begins
    end: int


def _sections(log: bytes, *, complete: bool, pause: float) -> list[_Section]:
    """Return the parts of a log that begin with a document, whole or not, in order."""
    starts: list[tuple[int, int]] = []
    for root in collections.deque(_roots(log), maxlen=_MAX_STARTS):
        start = _print_start(log, root, starts[-1][0] if starts else 0, pause)
        first = start == 0 and complete
        if first or _are_apart(_time_at(log, _line_before(log, start)), _time_at(log, start), pause):
            starts.append((start, root))
    ends = [*(start for start, _root in starts), len(log)][1:]
    return [_Section(start, root, end) for (start, root), end in zip(starts, ends, strict=True)]


def _roots(log: bytes) -> Iterator[int]:
    """Yield the start of each line in which a document begins."""
    end = -1  # of the line that was looked at
    for match in _ROOT.finditer(log):
        if match.start() < end:  # only the first of a line can begin one
            continue
        line = log.rfind(b"\n", 0, match.start()) + 1
        end = log.find(b"\n", match.start())
        if end < 0:
            end = len(log)
        if _BEFORE_ROOT.fullmatch(log, line, match.start()):
            yield line


def _print_start(log: bytes, root: int, floor: int, pause: float) -> int:
    """Return where a run began to print, given the line with its document's root element.

    Text before the document belongs to the run, except the output of an earlier run.
    """
    begin, after = root, _time_at(log, root)
    for _ in range(_MAX_TEXT_LINES):
        if begin <= floor:
            break
        line = _line_before(log, begin)
        if line < floor or _END_TAG in log[line:begin]:
            break
        time = _time_at(log, line)
        if _are_apart(time, after, pause):
            break
        stripped = _STAMP.sub(b"", log[line : begin - 1], count=1)
        if not _PROLOG_LINE.fullmatch(stripped) and b"<" in stripped:
            break  # of a document that is cut off
        begin, after = line, time if time is not None else after
    return begin


def last_line(log: bytes) -> bytes:
    """Return the last line of a log, identified by its timestamp; empty if it has none."""
    line = log[log.rfind(b"\n", 0, len(log) - 1) + 1 :]
    return line if _LINE_TIME.match(line) else b""


def _document(log: bytes, section: _Section, end: int, pause: float, period: float | None) -> LastDocument:
    """Return the document of a section, which ends at `end`, with the output up to the next pause."""
    after = log.find(b"\n", end) + 1 or len(log)
    ended = _time_at(log, log.rfind(b"\n", 0, end) + 1)
    lines = itertools.islice(_lines(log, after, section.end), _MAX_TEXT_LINES)
    later_at = next((at for at, time in lines if _are_apart(ended, time, pause)), section.end)
    later = _texts(log, max(later_at, len(log) - _MAX_LATER_BYTES), pause)
    return LastDocument(
        output=_without_times(log[section.start : later_at]),
        stamp=_stamp_at(log, section.root),
        time=time if (time := _time_at(log, section.start)) is not None else _time_at(log, section.root),
        later=_without_times(b"".join(later)),
        period=period,
    )


def _are_apart(one: float | None, other: float | None, pause: float) -> bool:
    return one is not None and other is not None and abs(other - one) >= pause


def _seconds_between(log: bytes, line: int, later: int) -> float | None:
    one, other = _time_at(log, line), _time_at(log, later)
    return other - one if one is not None and other is not None and other > one else None


def _line_before(log: bytes, begin: int) -> int:
    """Return the start of the line before the one at `begin`; -1 if there is none."""
    return log.rfind(b"\n", 0, begin - 1) + 1 if begin > 0 else -1


def _lines(log: bytes, start: int, end: int) -> Iterator[tuple[int, float | None]]:
    """Yield the start and timestamp of each line."""
    while start < end:
        yield start, _time_at(log, start)
        start = log.find(b"\n", start) + 1 or end


def _texts(log: bytes, start: int, pause: float) -> Iterator[bytes]:
    """Yield the complete lines of a log from `start` on outside of documents, complete or cut off.

    Text that follows the beginning of a document without a pause may be in the name of a process.
    """
    inside, before = False, None
    for line, time in _lines(log, start, log.rfind(b"\n") + 1):
        text = log[line : log.find(b"\n", line) + 1]
        inside = (inside and not _are_apart(before, time, pause)) or b"<nvidia_smi_log" in text
        if not inside:
            yield text
        before = time if time is not None else before


def _time_at(log: bytes, line: int) -> float | None:
    """Return the timestamp of a line in Unix seconds, by the node's clock; None if it has none."""
    match = _LINE_TIME.match(log, line) if line >= 0 else None
    return None if match is None else _seconds(match[0].decode("ascii"))


def _stamp_at(log: bytes, line: int) -> str:
    match = _LINE_TIME.match(log, line)
    return "" if match is None else match[0].decode("ascii")


def _seconds(stamp: str) -> float | None:
    try:
        return datetime.datetime.fromisoformat(stamp).timestamp()
    except (ValueError, OverflowError):
        return None


def _without_times(log: bytes) -> bytes:
    return _STAMP.sub(b"", log)
