"""Simulates pods that print the output of nvidia-smi periodically, and serves the logs of pods."""

import asyncio
import collections
import contextlib
import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from aiohttp import web

from collector.simulator import errors
from collector.simulator.faults import LogFault, LogFaultKind
from collector.simulator.objects import PODS, READER_LABELS, Document
from collector.simulator.requests import RequestInfo, flag
from collector.simulator.smi import Printed
from collector.simulator.state import State
from collector.simulator.storage import Entry

__all__ = ["PRINT_SECONDS", "PodLogs"]

PRINT_SECONDS = 300.0  # between two documents

_KEPT_DOCUMENTS = 6  # of each pod; what is older has been rotated
_LINE_SECONDS = 1e-6  # between two lines of a document


class _Run(NamedTuple):
    """The output of one run in a pod."""

    time: float  # Unix seconds
    lines: list[bytes]


class PodLogs:
    """The logs of one cluster's pods. Pods with the reader's labels print documents, others a single line."""

    def __init__(self, state: State, run_smi: Callable[[str, Sequence[str]], Printed]) -> None:
        self._storage, self._faults = state.storage, state.faults
        self._run_smi = run_smi
        self._interval = PRINT_SECONDS
        self._changed = asyncio.Event()
        self._runs: dict[str, collections.deque[_Run]] = {}  # by the ID of the container

    async def run(self) -> None:
        """Have the pods print on schedule until cancelled."""
        while True:
            self.print_all()
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._interval)

    def set_interval(self, seconds: float) -> None:
        """Have the pods print now, and at this interval from now on."""
        self._interval = seconds
        self._changed.set()

    def print_all(self, node: str | None = None) -> None:
        """Have all pods print, or those of a node, except where faults prevent it."""
        seen = set()
        for entry in self._storage.entries(PODS):
            if _prints(entry) and (container := _running(entry.document())):
                seen.add(container)
                if node in (None, entry.node):
                    self._print(container, entry.node)
        for gone in self._runs.keys() - seen:
            del self._runs[gone]

    def serve(self, request: web.BaseRequest, info: RequestInfo) -> web.StreamResponse:
        """Return the log of a container, as the kubelet does; raises ApiError."""
        entry = self._storage.get(PODS, f"{info.namespace}/{info.name}")
        if entry is None:
            raise errors.not_found("pods", info.name)
        query, document = request.query, entry.document()
        containers = [container["name"] for container in document["spec"]["containers"]]
        container = query.get("container", "") or containers[0]
        if container not in containers:
            raise errors.bad_request(f"container {container} is not valid for pod {info.name}")
        if flag(query, "previous"):
            raise errors.bad_request(f'previous terminated container "{container}" in pod "{info.name}" not found')
        if not (running := _running(document)):
            raise errors.bad_request(
                f'container "{container}" in pod "{info.name}" is waiting to start: ContainerCreating'
            )
        fault = self._faults.log_fault(entry.node)
        if fault is not None and fault.how is LogFaultKind.UNREADABLE:
            return web.Response(text=f"unable to retrieve container logs for {running}", content_type="text/plain")
        lines = list(self._lines(entry, running))
        return web.Response(body=_tail(lines, query, time.time()), content_type="text/plain")

    def _print(self, container: str, node: str) -> None:
        runs = self._runs.setdefault(container, collections.deque(maxlen=_KEPT_DOCUMENTS))
        if not (runs and self._faults.keeps_from_printing(node)):
            runs.append(_Run(time.time(), self._run_smi(node, ("-q", "-x")).stdout.splitlines()))

    def _lines(self, entry: Entry, container: str) -> Iterator[tuple[float, bytes]]:
        """Yield all lines of a log with their timestamps, after applying faults."""
        if not _prints(entry):
            yield time.time(), b"started"
            return
        if container not in self._runs:  # it was started since the pods printed last
            self._print(container, entry.node)
        lines = [
            (run.time + at * _LINE_SECONDS, line)
            for run in self._runs.get(container, ())
            for at, line in enumerate(run.lines)
        ]
        fault = self._faults.log_fault(entry.node)
        last = len(self._runs[container][-1].lines) if self._runs.get(container) else 0
        yield from lines if fault is None else _spoiled(lines, last, fault)


def _spoiled(lines: list[tuple[float, bytes]], last: int, fault: LogFault) -> list[tuple[float, bytes]]:
    """Apply a fault to a log whose last document has this many lines."""
    match fault.how:
        case LogFaultKind.EMPTY | LogFaultKind.UNREADABLE:
            return []
        case LogFaultKind.ROTATED:
            return lines[len(lines) - last // 2 :]
        case LogFaultKind.CUT:
            return lines[len(lines) - last : len(lines) - last // 2]
        case LogFaultKind.OTHER:
            return [(at, b"waiting for the driver") for at, _line in lines[:3]]
        case LogFaultKind.GARBAGE:
            return [(at, bytes(byte for byte in range(256) if byte != 10)) for at, _line in lines[:3]]
        case LogFaultKind.OLD:
            return [(at - fault.seconds, line) for at, line in lines]
        case LogFaultKind.CLOCK:
            return [(at + fault.seconds, line) for at, line in lines]


def _prints(entry: Entry) -> bool:
    return READER_LABELS.items() <= entry.read_labels().items()


def _running(document: Document) -> str:
    """Return the ID of a pod's first container; empty if it is not running."""
    for status in document.get("status", {}).get("containerStatuses", []):
        if "running" in status.get("state", {}):
            return str(status["containerID"])
    return ""


def _tail(lines: list[tuple[float, bytes]], query: Mapping[str, str], now: float) -> bytes:
    """Return the requested part: the kubelet counts lines from the end, then bytes from there on."""
    tail, limit, since = (_number(query, key) for key in ("tailLines", "limitBytes", "sinceSeconds"))
    if tail is not None:
        lines = lines[max(0, len(lines) - tail) :]
    earliest = 0.0 if since is None else now - since
    if at := query.get("sinceTime"):
        try:
            earliest = datetime.datetime.fromisoformat(at).timestamp()
        except ValueError as error:
            raise errors.bad_request(f"parsing time {at!r}") from error
    stamped = flag(query, "timestamps")
    body = b"".join((_stamp(at) + b" " if stamped else b"") + line + b"\n" for at, line in lines if at >= earliest)
    return body if limit is None else body[:limit]


def _number(query: Mapping[str, str], key: str) -> int | None:
    text = query.get(key, "")
    if not text:
        return None
    if not text.removeprefix("-").isdecimal():
        raise errors.bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax ({key})')
    if int(text) < (1 if key != "tailLines" else 0):
        raise errors.invalid("PodLogOptions", key, f"Invalid value: {text}")
    return int(text)


def _stamp(at: float) -> bytes:
    written = datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return f"{written}000Z".encode()
