"""Times, durations, states and failures as text for people."""

from collections.abc import Mapping
from datetime import UTC, datetime

from collector.health import Level
from collector.model import ClusterState, ClusterStatus, ReadFailure, Uncovered, UnreadReason
from collector.text import counted
from collector.timestamps import as_of

__all__ = [
    "LEVEL_WORDS",
    "UNREAD_WORDS",
    "ago",
    "clock",
    "day_name",
    "describe_coverage",
    "describe_failure",
    "describe_status",
    "describe_unread",
    "duration",
    "percent",
    "utc",
]

# Seconds of a unit, from how many seconds on it is used, and its name; page.js has the same table.
UNITS = ((86400.0, 129600.0, "day"), (3600.0, 5400.0, "hour"), (60.0, 90.0, "minute"), (1.0, 0.0, "second"))

STATES = {
    ClusterState.STARTING: "is starting (waiting for its first response)",
    ClusterState.UP: "is up",
    ClusterState.BAD_CONTEXT: "has an unusable kubeconfig context",
    ClusterState.CREDENTIAL_PLUGIN_MISSING: "needs a credential plugin that is not installed",
    ClusterState.CREDENTIAL_PLUGIN_FAILED: "has a failing credential plugin",
    ClusterState.UNAUTHORIZED: "rejects the credentials",
    ClusterState.FORBIDDEN: "denies a required permission",
    ClusterState.UNREACHABLE: "is unreachable",
    ClusterState.SERVER_ERROR: "responds with errors",
    ClusterState.LIMIT_EXCEEDED: "exceeds a limit of the configuration",
    ClusterState.UNOWNED: "is read by no shard",
    ClusterState.DUPLICATE: "is skipped: it is configured twice",
}
FAILURES = {
    ReadFailure.FORBIDDEN: "permission for pods/exec or pods/log is missing",
    ReadFailure.NOT_FOUND: "its pod no longer exists",
    ReadFailure.NO_CONTAINER: "its pod has no container with the configured name",
    ReadFailure.NO_BINARY: "the command was not found in the container",
    ReadFailure.TIMEOUT: "the command or the log timed out (possibly a hung GPU)",
    ReadFailure.EXIT_STATUS: "the command exited with an error",
    ReadFailure.BAD_OUTPUT: "the output of nvidia-smi is not valid XML",
    ReadFailure.CONNECTION: "the connection to its pod failed",
    ReadFailure.NO_DOCUMENT: "its pod has printed no nvidia-smi document",
    ReadFailure.STALE: "the last document that its pod printed is too old",
}
UNCOVERED = {
    Uncovered.PENDING: "it is waiting for its first reading",
    Uncovered.NO_POD: "no pod of a configured source runs on it",
    Uncovered.POD_NOT_READY: "its pod is not ready",
}
UNREAD_WORDS = {  # in a few words; `describe_unread` has clauses
    ReadFailure.FORBIDDEN: "permission missing",
    ReadFailure.NOT_FOUND: "pod gone",
    ReadFailure.NO_CONTAINER: "no container of the configured name",
    ReadFailure.NO_BINARY: "nvidia-smi not found in the container",
    ReadFailure.TIMEOUT: "nvidia-smi timed out",
    ReadFailure.EXIT_STATUS: "nvidia-smi exited with an error",
    ReadFailure.BAD_OUTPUT: "output of nvidia-smi not valid",
    ReadFailure.CONNECTION: "connection to the pod failed",
    ReadFailure.NO_DOCUMENT: "nothing of nvidia-smi in the pod's log",
    ReadFailure.STALE: "last document in the pod's log too old",
    Uncovered.NO_POD: "no GPU pod",
    Uncovered.POD_NOT_READY: "GPU pod not ready",
    Uncovered.PENDING: "not read yet",
}
MIN_AHEAD_SECONDS = 60.0

LEVEL_WORDS = {Level.REPLACE: "needs replacement", Level.RESET: "needs a reset or drain"}


def clock(seconds: float) -> str:
    """Return the time of day in UTC of a time in Unix seconds: "16:51:03"."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")


def day_name(seconds: float, now: float) -> str:
    """Return the day in UTC on which a time was: "Today", "Yesterday", "Tuesday, 24 November 2026"."""
    day = datetime.fromtimestamp(seconds, UTC)
    away = datetime.fromtimestamp(now, UTC).toordinal() - day.toordinal()
    named = {0: "Today", 1: "Yesterday"}.get(away)
    return named or f"{day:%A}, {day.day} {day:%B} {day.year}"


def utc(seconds: float) -> str:
    """Return Unix seconds as RFC 3339 in UTC, without a fraction if there is none, or if `as_of` has none."""
    return as_of(seconds).replace(".000Z", "Z")


def ago(time: float, now: float) -> str:
    """Return how long ago a time was, or when it will be: "3 minutes ago", "in 14 days".

    What is less than a minute ahead, such as by a fast clock, is "just now".
    """
    if time - now >= MIN_AHEAD_SECONDS:
        return f"in {duration(time - now)}"
    return "just now" if now - time < 1.5 else f"{duration(now - time)} ago"


def duration(seconds: float) -> str:
    """Return a duration in its largest unit: "45 seconds", "2 hours", "3 days"."""
    size, unit = next((size, unit) for size, least, unit in UNITS if seconds >= least or unit == "second")
    return counted(max(0, int(seconds / size + 0.5)), unit)


def percent(ratio: float) -> str:
    """Return a share as text: "99.4 %"; what is not all is never 100 %, and what is not nothing never 0 %."""
    if ratio in (0, 1):
        return f"{ratio:.0%}".replace("%", " %")
    return f"{min(99.9, max(0.1, ratio * 100)):.1f} %"


def describe_status(status: ClusterStatus | None) -> str:
    """Return the predicate of a sentence about a cluster, such as "is up"; None is a cluster that is starting."""
    return STATES[status.state if status else ClusterState.STARTING]


def describe_failure(reason: ReadFailure) -> str:
    """Return why a reading failed, as a clause: "its pod no longer exists"."""
    return FAILURES[reason]


def describe_unread(reason: UnreadReason) -> str:
    """Return why a node cannot be read now, or has not been read yet, as a clause: "its pod is not ready"."""
    return UNCOVERED[reason] if isinstance(reason, Uncovered) else describe_failure(reason)


def describe_coverage(read: int, unread: Mapping[UnreadReason, int]) -> str:
    """Return how many GPU nodes have been read, and why not the others.

    "3 of 5 GPU nodes read; 2 unread: no GPU pod".
    """
    reasons = sorted(((count, reason) for reason, count in unread.items() if count), reverse=True)
    left = sum(count for count, _reason in reasons)
    text = f"{read:,} of {counted(read + left, 'GPU node')} read"
    if not reasons:
        return text
    names = [(count, UNREAD_WORDS[reason]) for count, reason in reasons]
    why = names[0][1] if len(names) == 1 else ", ".join(f"{count:,} {name}" for count, name in names)
    return f"{text}; {left:,} unread: {why}"
