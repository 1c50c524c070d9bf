"""The root of gpuid's errors, and why a node could not be read."""

from enum import StrEnum

__all__ = [
    "GpuidError",
    "ReadError",
    "ReadFailure",
]


class GpuidError(Exception):
    """The base class of gpuid's own errors; the text is one line for users."""


class ReadFailure(StrEnum):
    """Why a reading failed: the closed set of the `reason` label."""

    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    NO_CONTAINER = "no_container"
    NO_BINARY = "no_binary"
    TIMEOUT = "timeout"
    EXIT_STATUS = "exit_status"
    BAD_OUTPUT = "bad_output"
    CONNECTION = "connection"
    NO_DOCUMENT = "no_document"  # no nvidia-smi output in the log of a pod that should print it
    STALE = "stale"  # the log's last document is too old to represent the node's current state


class ReadError(GpuidError):
    """A node could not be read; `reason` is the label for it."""

    def __init__(self, reason: ReadFailure, text: str) -> None:
        super().__init__(text)
        self.reason = reason
