"""The result of reading a pod by any method: a report of its node's GPUs, or an error."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from collector.collect.nvidia_smi import Report
from collector.model import GpuRef, ReadError

__all__ = ["GpusLostError", "Moment", "Printed", "SmiReading", "distinct", "with_exit_status"]

_MAX_WARNINGS = 10  # of one reading
_CORRUPTED_INFOROM = 14  # an exit status that is only a warning: all GPUs were read


class Moment(NamedTuple):
    """A moment on both clocks of this process."""

    time: float  # Unix seconds
    monotonic: float


class Printed(NamedTuple):
    """When a pod printed the document that was read from its log."""

    stamp: str  # distinguishes the document from others of the same container
    time: float | None  # when its run began to print, in Unix seconds by the node's clock
    newest: str  # the stamp of the newest document that has begun, this one or one that is not whole yet
    asked: Moment  # before the log was requested: what is not in it was printed after that
    failure: ReadError | None = None  # of a later run that printed no document
    period: float | None = None  # seconds since the document before it, by the node's clock
    last_line: bytes = b""  # of the log; a different one means that more was printed. Empty if unknown


class SmiReading(NamedTuple):
    """The reading of a node."""

    report: Report
    warnings: tuple[str, ...]  # each in one line
    one_by_one: bool = False  # the command printed no document, and its GPUs were read one by one
    printed: Printed | None = None  # when the pod printed it to its log; None: read by a command


class GpusLostError(ReadError):
    """No GPU could be read; `lost` are those that do not respond, according to the tool."""

    def __init__(self, failure: ReadError, lost: Sequence[GpuRef]) -> None:
        super().__init__(failure.reason, str(failure))
        self.lost = tuple(lost)


def with_exit_status(report: Report, exit_status: int) -> Report:
    """Return a report with the implications of the exit status added."""
    partial = report.partial or exit_status not in (0, _CORRUPTED_INFOROM)
    return msgspec.structs.replace(report, partial=partial)


def distinct(warnings: Sequence[str]) -> tuple[str, ...]:
    """Return the first warnings, each once."""
    return tuple(dict.fromkeys(warnings))[:_MAX_WARNINGS]
