"""Says times, counts and states in words."""

from collector.model import ClusterState, ClusterStatus, ReadFailure
from collector.text import counted
from collector.timestamps import rfc3339

__all__ = ["ago", "counted", "failure_words", "span", "state_words", "utc"]

_UNITS = ((86400.0, 129600.0, "day"), (3600.0, 5400.0, "hour"), (60.0, 90.0, "minute"), (1.0, 0.0, "second"))


def utc(seconds: float) -> str:
    """Write a moment as RFC 3339 in UTC, to the second where it is a whole one."""
    return rfc3339(seconds).replace(".000Z", "Z")


def ago(time: float, now: float) -> str:
    """Say how long ago a moment was; what a clock that runs ahead puts into the future is "just now"."""
    return "just now" if now - time < 1.5 else f"{span(now - time)} ago"


def span(seconds: float) -> str:
    """Say how long something takes in its largest unit: "45 seconds", "2 hours", "3 days"."""
    size, unit = next((size, unit) for size, least, unit in _UNITS if seconds >= least or unit == "second")
    return counted(max(0, int(seconds / size + 0.5)), unit)


def state_words(status: ClusterStatus | None) -> str:
    """Say how a cluster is."""
    return _STATES[status.state if status else ClusterState.STARTING]


def failure_words(reason: ReadFailure) -> str:
    """Say why a reading failed."""
    return _FAILURES[reason]


_STATES = {
    ClusterState.STARTING: "is starting: its first answer has not come yet",
    ClusterState.UP: "is up",
    ClusterState.BAD_CONTEXT: "has a kubeconfig context that cannot be used",
    ClusterState.CREDENTIAL_PLUGIN_MISSING: "needs a credential plugin that is not installed",
    ClusterState.CREDENTIAL_PLUGIN_FAILED: "has a credential plugin that fails",
    ClusterState.UNAUTHORIZED: "refuses the credentials",
    ClusterState.FORBIDDEN: "does not grant a right that is needed",
    ClusterState.UNREACHABLE: "cannot be reached",
    ClusterState.SERVER_ERROR: "answers with errors",
    ClusterState.DUPLICATE: "is not read, because it is another one once more",
}
_FAILURES = {
    ReadFailure.FORBIDDEN: "the right to create or get pods/exec is missing",
    ReadFailure.NOT_FOUND: "its pod was gone when it was asked",
    ReadFailure.NO_CONTAINER: "its pod has no container of the configured name",
    ReadFailure.NO_BINARY: "the command is not in the container",
    ReadFailure.TIMEOUT: "the command did not end in time, as on a GPU that hangs",
    ReadFailure.EXIT_STATUS: "the command ended with an error",
    ReadFailure.BAD_OUTPUT: "the command's output is not what nvidia-smi writes",
    ReadFailure.CONNECTION: "the connection to its pod failed",
}
