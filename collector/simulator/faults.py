"""Fault injection into a simulated API server, and its counters."""

import itertools
from collections import Counter
from enum import StrEnum
from typing import Any

import msgspec

__all__ = ["Counters", "ExecFault", "ExecFaultKind", "Faults", "LogFault", "LogFaultKind", "Misbehaviour"]


class ExecFaultKind(StrEnum):
    """The ways in which an exec can fail."""

    EXIT_STATUS = "exit_status"  # a non-zero exit status, with text on stderr
    ERROR_TEXT = "error_text"  # exit status 0, and an error message where the XML should be
    GARBAGE = "garbage"  # bytes that are not XML
    TRUNCATED = "truncated"  # half of the XML
    WHOLE_OUTPUT = "whole_output"  # all of the XML, and a non-zero exit status
    EMPTY = "empty"  # nothing at all
    NO_BINARY = "no_binary"  # the program is not in the container
    INTERNAL_ERROR = "internal_error"  # the kubelet reports an error of its own
    DROPPED = "dropped"  # the connection breaks off in the middle
    HANG = "hang"  # never ends
    FLOOD = "flood"  # output without end
    EMPTY_FRAMES = "empty_frames"  # messages without content, without end


class ExecFault(msgspec.Struct):
    """How the execs of a node fail, for the next `times` execs or, if None, until it is removed."""

    how: ExecFaultKind
    exit_status: int = 9
    stderr: str = ""
    times: int | None = None


class LogFaultKind(StrEnum):
    """The ways in which the log of a printing pod can be unusable."""

    EMPTY = "empty"  # nothing was printed, or the file has just been rotated
    ROTATED = "rotated"  # the file begins in the middle of the last document
    CUT = "cut"  # the only document has no end
    OLD = "old"  # the pod has printed nothing for `seconds`
    CLOCK = "clock"  # the clock of the node is `seconds` ahead
    OTHER = "other"  # lines that are no document
    GARBAGE = "garbage"  # bytes that are no text
    UNREADABLE = "unreadable"  # the kubelet cannot read it, and sends why in its place, with status 200


class LogFault(msgspec.Struct):
    """The fault in the logs of a node's printing pods."""

    how: LogFaultKind
    seconds: float = 3600.0


class Misbehaviour(StrEnum):
    """The ways in which an API server can answer that no client expects."""

    SERVER_ERROR = "server_error"  # 500
    UNAVAILABLE = "unavailable"  # 503 without a Status, as a proxy in front of it says
    GARBAGE = "garbage"  # 200 with bytes that are not JSON
    NO_HTTP = "no_http"  # bytes that are not HTTP
    EMPTY = "empty"  # 200 without a body
    TORN = "torn"  # half of a list, and the connection breaks
    REDIRECT = "redirect"  # to another server
    SHORT_WATCHES = "short_watches"  # watches end as soon as they are open
    BOOKMARK_FLOOD = "bookmark_flood"  # watches send bookmarks without end


class Faults:
    """The active faults."""

    def __init__(self) -> None:
        self.refuses_tokens = False
        # (verb, resource, namespace), each may be "*"; the namespace is empty for requests in all of them
        self.denied: set[tuple[str, str, str]] = set()
        self.throttled: int | None = 0  # number of requests that still get 429; None means all
        self.retry_after = 1  # seconds
        self.misbehaviour: Misbehaviour | None = None
        self.misbehaviours_left: int | None = None  # number of requests that it still affects; None means all
        self.expired_as_status = False  # watches from a compacted version get HTTP 410 instead of an ERROR event
        self.delays: dict[str, float] = {}  # seconds added to an exec, by node or "*"
        self.execs: dict[str, ExecFault] = {}  # by node or "*"
        self.logs: dict[str, LogFault] = {}  # by node or "*"

    def denies(self, verb: str, resource: str, namespace: str) -> bool:
        """Return whether a right is denied."""
        return any(what in self.denied for what in itertools.product((verb, "*"), (resource, "*"), (namespace, "*")))

    def throttles(self) -> bool:
        """Return whether to throttle this request, and count it."""
        if self.throttled is None:
            return True
        if self.throttled > 0:
            self.throttled -= 1
            return True
        return False

    def misbehaves(self, *kinds: Misbehaviour) -> bool:
        """Return whether a request is answered in one of these ways, and count it."""
        if self.misbehaviour not in kinds:
            return False
        if self.misbehaviours_left is not None:
            self.misbehaviours_left -= 1
            if self.misbehaviours_left <= 0:
                self.misbehaviour = None
        return True

    def exec_fault(self, node: str) -> ExecFault | None:
        """Return how this exec fails, if at all, and count it."""
        key = node if node in self.execs else "*"
        fault = self.execs.get(key)
        if fault is not None and fault.times is not None:
            fault.times -= 1
            if fault.times <= 0:
                del self.execs[key]
        return fault

    def log_fault(self, node: str) -> LogFault | None:
        """Return the fault in the logs of a node."""
        return self.logs.get(node, self.logs.get("*"))

    def keeps_from_printing(self, node: str) -> bool:
        """Return whether the printing pods of a node have stopped printing."""
        fault = self.log_fault(node)
        return fault is not None and fault.how is LogFaultKind.OLD

    def delay(self, node: str) -> float:
        """Return the seconds that are added to this exec."""
        return self.delays.get(node, self.delays.get("*", 0.0))

    def describe(self) -> dict[str, Any]:
        """Return the active faults as JSON values."""
        return {
            "refuses_tokens": self.refuses_tokens,
            "denied": sorted(
                f"{verb} {resource}" + ("" if namespace == "*" else f" in {namespace or 'all namespaces'}")
                for verb, resource, namespace in self.denied
            ),
            "throttled": "all" if self.throttled is None else self.throttled,
            "misbehaves": self.misbehaviour,
            "delays": self.delays,
            "execs": self.execs,
            "logs": self.logs,
        }


class Counters:
    """Counts an API server's requests since it was created."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()  # (verb, resource)
        self.responses: Counter[int] = Counter()  # by HTTP status
        self.execs: Counter[str] = Counter()  # by node
        self.open_execs: Counter[str] = Counter()  # open now, by node
        self.peak_execs = 0  # the most concurrent ones in the cluster
        self.peak_execs_per_node = 0
        self.open_watches = 0

    def exec_opened(self, node: str) -> None:
        """Count an exec that starts."""
        self.execs[node] += 1
        self.open_execs[node] += 1
        self.peak_execs = max(self.peak_execs, self.open_execs.total())
        self.peak_execs_per_node = max(self.peak_execs_per_node, self.open_execs[node])

    def exec_closed(self, node: str) -> None:
        """Count an exec that ends."""
        self.open_execs[node] -= 1
        if not self.open_execs[node]:
            del self.open_execs[node]

    def describe(self) -> dict[str, Any]:
        """Return the counts as JSON values; requests are keyed by `verb resource`."""
        return {
            "requests": {f"{verb} {resource}": number for (verb, resource), number in sorted(self.requests.items())},
            "responses": {str(status): number for status, number in sorted(self.responses.items())},
            "execs": self.execs.total(),
            "execs_per_node": dict(sorted(self.execs.items())),
            "open_execs": self.open_execs.total(),
            "open_watches": self.open_watches,
            "peak_execs": self.peak_execs,
            "peak_execs_per_node": self.peak_execs_per_node,
        }
