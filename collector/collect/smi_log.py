"""Reads reports of nvidia-smi from the log of a pod that prints them periodically, without running anything."""

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import anyio

from collector.collect import nvidia_smi, printed
from collector.collect.charged import parse_charged
from collector.collect.nvidia_smi import BadOutputError, Report
from collector.collect.printable import printable_report
from collector.collect.printed import PAUSE_SECONDS, Log
from collector.collect.smi_output import ROOT, lost_gpus, own_words
from collector.collect.smi_reading import GpusLostError, Moment, Printed, SmiReading, distinct, with_exit_status
from collector.config import ClusterSettings, PodSource
from collector.kube import logs
from collector.kube.client import ApiClient
from collector.kube.logs import LogError
from collector.model import Gpu, ReadError, ReadFailure
from collector.redaction import redact

__all__ = ["NoDocumentError", "SmiLog"]

_MAX_WORDS_LENGTH = 300
_LINES_PER_GPU = 650  # two documents of 300 lines each, as a GPU has without supported clocks, and some more
_MOST_GPUS = 16
_LINE_BYTES = 96  # with its time; of more lines than max_log_size has room for, nothing could be read
_MORE = 12  # times as many lines are requested for a longer document; some GPUs have 1,000 lines of clocks
# Messages of the reader about a run (config/kubernetes/reader).
_EXIT_STATUS = re.compile(rb"^gpuid-reader: .* ended with exit status ([0-9]{1,3})\r?$", re.MULTILINE)
_HANGS = re.compile(rb"^gpuid-reader: .* (?:has not ended|cannot be killed) after ", re.MULTILINE)


class NoDocumentError(LogError):
    """A log has no complete document; `newest` is the timestamp of one that has begun, `asked` that of the request."""

    def __init__(self, text: str, newest: str, asked: Moment) -> None:
        super().__init__(ReadFailure.NO_DOCUMENT, text)
        self.newest = newest
        self.asked = asked


class _Found(NamedTuple):
    log: Log
    complete: bool  # nothing precedes it
    report: Report | None
    warnings: list[str]
    last_line: bytes


class SmiLog:
    """The log of the container of one pod."""

    def __init__(
        self,
        client: ApiClient,
        source: PodSource,
        pod: str,
        cluster: ClusterSettings,
        *,
        parsing: anyio.CapacityLimiter | None = None,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        self._client = client
        self._source = source
        self._pod = pod
        self._cluster = cluster
        self._parsing = parsing  # limits how many large logs are parsed at the same time
        self._pause = pause  # in seconds, which separates two documents

    async def read(self, known: Callable[[], Sequence[Gpu]], capacity: int | None) -> SmiReading:  # noqa: ARG002
        """Return the report of the last complete document of the log; raises ReadError.

        If it is longer than expected for `capacity` GPUs, more of the log is read, once.
        """
        lines = _LINES_PER_GPU * min(max(capacity or _MOST_GPUS // 2, 1), _MOST_GPUS)
        found, asked = await self._find(lines)
        if found.log.last is None and not found.complete:
            most = int(self._cluster.max_log_size) // _LINE_BYTES
            found, asked = await self._find(max(lines, min(_MORE * lines, most)))
        log, last = found.log, found.log.last
        if last is None or found.report is None:
            if log.untimed:  # the kubelet failed within a successful response, or something else responded
                words = self._client.session.secrets.redact(log.untimed.decode(errors="replace"), _MAX_WORDS_LENGTH)
                raise LogError(ReadFailure.CONNECTION, f"cannot read the log; the response was: {words}")
            if (failure := self._said(log.text, "no nvidia-smi output in the log")) is not None:
                raise failure
            raise NoDocumentError(self._why_none(log), log.newest, asked)
        failure = self._said(last.later, "nvidia-smi has printed no document since")
        stamp = last.stamp or hashlib.blake2b(last.output, digest_size=16).hexdigest()
        printed_then = Printed(
            stamp=stamp,
            time=last.time,
            newest=log.newest or stamp,
            asked=asked,
            failure=failure,
            period=last.period,
            last_line=found.last_line,
        )
        return SmiReading(found.report, distinct(found.warnings), printed=printed_then)

    async def last_line(self) -> tuple[bytes, Moment]:
        """Return the last line of the log, and the time of the request; raises ReadError.

        While it is unchanged, nothing was printed.
        """
        asked = Moment(time.time(), anyio.current_time())
        return printed.last_line(await self._read_tail(1)), asked

    async def _read_tail(self, lines: int) -> bytes:
        source, timeout = self._source, self._cluster.exec_timeout
        return await logs.read_tail(
            self._client, source.namespace, self._pod, source.container, lines=lines, timeout=timeout
        )

    async def _find(self, lines: int) -> tuple[_Found, Moment]:
        """Return the findings in the last lines of the log, and the time of the request."""
        asked = Moment(time.time(), anyio.current_time())
        log = await self._read_tail(lines)
        complete = log.count(b"\n") < lines
        session = self._client.session

        def parse() -> _Found:
            warnings: list[str] = []
            found = printed.find_last(log, complete=complete, pause=self._pause)
            last_line = printed.last_line(log)
            if found.last is None:
                return _Found(found, complete, None, warnings, last_line)
            report = nvidia_smi.parse(found.last.output, warnings)
            if (exit_status := _exit_status(found.last.output)) is not None:
                report = with_exit_status(report, exit_status)
                warnings.append(f"nvidia-smi exited with status {exit_status}, after a complete document")
            return _Found(found, complete, printable_report(report, session.secrets), warnings, last_line)

        try:
            return await parse_charged(parse, len(log), session.share, self._parsing), asked
        except BadOutputError as error:
            raise LogError(ReadFailure.BAD_OUTPUT, redact(f"the last document of the log: {error}")) from error

    def _why_none(self, log: Log) -> str:
        where = f'the log of container "{self._source.container}"'
        if log.cut and not log.newest:
            return (
                f"{where} begins in the middle of a document: it was rotated, or its documents are too close together"
            )
        if log.newest:
            return f"{where} has no complete nvidia-smi output"
        return f"{where} has no nvidia-smi output; does the pod print that of `nvidia-smi -q -x`?"

    def _said(self, text: bytes, what: str) -> ReadError | None:
        """Return the error for text printed instead of a document; None if there is none.

        It may not be raised, so it is redacted here.
        """
        if not (words := own_words(text)):
            return None
        failure = LogError(_reason(text), f"{what}: {self._client.session.secrets.redact(words)}")
        lost = lost_gpus(text)
        return GpusLostError(failure, lost) if lost else failure


def _exit_status(output: bytes) -> int | None:
    """Return the exit status of a run, if the pod printed it before the document."""
    match = _EXIT_STATUS.search(output[: output.find(f"<{ROOT}".encode())])
    return None if match is None else int(match[1])


def _reason(text: bytes) -> ReadFailure:
    """Return why a run printed no document, as far as the pod says why."""
    statuses = list(_EXIT_STATUS.finditer(text))  # each ends a run
    if _HANGS.search(text, statuses[-2].end() if len(statuses) > 1 else 0):
        return ReadFailure.TIMEOUT
    if not statuses:
        return ReadFailure.BAD_OUTPUT
    return ReadFailure.NO_BINARY if int(statuses[-1][1]) in (126, 127) else ReadFailure.EXIT_STATUS
