"""Simulates a command in a container: its output, and the Status at its end."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from collector.simulator import errors
from collector.simulator.faults import ExecFault, ExecFaultKind
from collector.simulator.images import Image, start
from collector.simulator.objects import Document
from collector.simulator.requests import flag
from collector.simulator.smi import Printed
from collector.simulator.storage import Entry

__all__ = ["ERROR", "STDERR", "STDOUT", "Command", "Outcome", "command", "killed", "outcome"]

STDOUT, STDERR, ERROR = 1, 2, 3  # channels

_DRIVER_FAILED = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running."
)


class Command(NamedTuple):
    """A command that a client runs in a container."""

    pod: str  # `namespace/name`
    node: str
    container: str
    argv: tuple[str, ...]
    stdout: bool
    stderr: bool

    @property
    def first_channel(self) -> int:
        """The lowest channel that the server writes to."""
        return STDOUT if self.stdout else STDERR if self.stderr else ERROR


class Outcome(NamedTuple):
    """The result of a command."""

    stdout: bytes
    stderr: bytes
    status: bytes  # the Status as JSON, for the error channel


def command(entry: Entry, query: Mapping[str, str], argv: Sequence[str]) -> Command:
    """Return the command of an exec request; raises ApiError 400 if it does not fit the pod."""
    document = entry.document()
    name = document["metadata"]["name"]
    containers = [container["name"] for container in document["spec"]["containers"]]
    container = query.get("container", "")
    if not container and len(containers) > 1:
        listed = " ".join(containers)
        raise errors.bad_request(f"a container name must be specified for pod {name}, choose one of: [{listed}]")
    container = container or containers[0]
    if container not in containers:
        raise errors.bad_request(f"container {container} is not valid for pod {name}")
    wanted = {stream: flag(query, stream) for stream in ("stdin", "stdout", "stderr")}
    if not any(wanted.values()):
        raise errors.bad_request("you must specify at least 1 of stdin, stdout, stderr")
    if not argv:
        raise errors.bad_request("you must specify at least one command for the container")
    if not entry.node:
        raise errors.bad_request(f"pod {name} does not have a host assigned")
    if not _runs(document, container):
        raise errors.internal(f'unable to upgrade connection: container not found ("{container}")')
    return Command(entry.key, entry.node, container, tuple(argv), wanted["stdout"], wanted["stderr"])


def outcome(wanted: Command, fault: ExecFault | None, image: Image, nvidia_smi: Callable[[], Printed]) -> Outcome:
    """Return the outcome of a command in a container of an image; `nvidia_smi` runs the program."""
    if fault is not None and fault.how is ExecFaultKind.INTERNAL_ERROR:
        text = fault.stderr or "rpc error: code = DeadlineExceeded desc = context deadline exceeded"
        return _internal(f"error executing command in container: {text}")
    if fault is not None and fault.how is ExecFaultKind.NO_BINARY:
        image = image.without("nvidia-smi")
    started = start(image, wanted.argv)
    if started.runtime_error:
        return _internal(
            "error executing command in container: failed to exec in container: failed to start exec "
            f'"{"0" * 64}": OCI runtime exec failed: exec failed: unable to start container process: '
            f"{started.runtime_error}: unknown"
        )
    if started.program != "nvidia-smi":
        return _ended(wanted, started.exit_status, b"", started.stderr.encode())
    return _of_nvidia_smi(wanted, fault, nvidia_smi)


def killed(wanted: Command) -> Outcome:
    """Return the outcome of a command whose container was stopped."""
    return _ended(wanted, 137, b"", b"")


def _of_nvidia_smi(wanted: Command, fault: ExecFault | None, nvidia_smi: Callable[[], Printed]) -> Outcome:
    if fault is None:
        printed = nvidia_smi()
        return _ended(wanted, printed.exit_status, printed.stdout, b"")
    stderr = fault.stderr.encode()
    match fault.how:
        case ExecFaultKind.EXIT_STATUS:
            return _ended(wanted, fault.exit_status, b"", stderr or f"{_DRIVER_FAILED}\n".encode())
        case ExecFaultKind.ERROR_TEXT:
            return _ended(wanted, 0, f"{fault.stderr or _DRIVER_FAILED}\n".encode(), b"")
        case ExecFaultKind.GARBAGE:
            return _ended(wanted, 0, bytes(range(256)) * 8, stderr)
        case ExecFaultKind.TRUNCATED:
            whole = nvidia_smi().stdout
            return _ended(wanted, 0, whole[: len(whole) // 2], stderr)
        case ExecFaultKind.WHOLE_OUTPUT:
            return _ended(wanted, fault.exit_status, nvidia_smi().stdout, stderr)
        case _:
            return _ended(wanted, 0, b"", stderr)


def _runs(document: Document, container: str) -> bool:
    statuses = document.get("status", {}).get("containerStatuses", [])
    return any(status["name"] == container and "running" in status.get("state", {}) for status in statuses)


def _ended(wanted: Command, exit_status: int, stdout: bytes, stderr: bytes) -> Outcome:
    status: dict[str, Any] = {"metadata": {}, "status": "Success"}
    if exit_status:
        argv = " ".join(wanted.argv)
        text = f"error executing command [{argv}], exit code {exit_status}"
        status = {
            "metadata": {},
            "status": "Failure",
            "message": f"command terminated with non-zero exit code: {text}",
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": str(exit_status)}]},
        }
    return Outcome(stdout if wanted.stdout else b"", stderr if wanted.stderr else b"", msgspec.json.encode(status))


def _internal(message: str) -> Outcome:
    status = {
        "metadata": {},
        "status": "Failure",
        "message": f"Internal error occurred: {message}",
        "reason": "InternalError",
        "details": {"causes": [{"message": message}]},
        "code": 500,
    }
    return Outcome(b"", b"", msgspec.json.encode(status))
