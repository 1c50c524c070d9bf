"""A reading of a node, and why there is none."""

from enum import StrEnum
from typing import NamedTuple

import msgspec

from collector.model.errors import ReadFailure
from collector.model.gpu import Gpu, GpuRef, UnidentifiedGpu
from collector.model.node import Fingerprint, NodeInfo, Sharing

__all__ = [
    "UNREAD_REASONS",
    "Failing",
    "Known",
    "Reading",
    "Uncovered",
    "Unread",
    "UnreadReason",
]


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """All GPUs of one node at one instant; the only data about GPUs that leaves a cluster."""

    cluster: str
    node: NodeInfo
    source: str  # `namespace/pod` that was read
    fingerprint: Fingerprint
    time: float  # Unix seconds, when the output was complete, or a document in a log was started
    driver_version: str | None
    cuda_version: str | None
    gpus: tuple[Gpu, ...]
    unidentified: tuple[UnidentifiedGpu, ...] = ()  # without a UUID from the tool: they only go into records
    # When the command was started and its output was complete, on this process's monotonic clock. Only a reading that
    # was started after a claim can answer it. None: it answers every claim. Output that a pod printed by itself was
    # started when it was last proven absent, or long ago without such proof.
    started: float | None = None
    ended: float | None = None
    sharing: Sharing | None = None  # derived from this and earlier readings about the node's capacity
    lost: tuple[GpuRef, ...] = ()  # that did not respond
    unread: tuple[GpuRef, ...] = ()  # about which this reading says nothing, good or bad
    partial: bool = False  # an unnamed GPU of the node did not respond, and is not known to be gone


class Known(NamedTuple):
    """The part of an earlier reading that is needed to decide on the next one."""

    fingerprint: Fingerprint
    time: float
    sharing: Sharing | None = None
    boards: int | None = None  # the node's capacity, if from ResourceSlices during the fingerprint's boot


class Failing(NamedTuple):
    """A failing node: why the last attempt failed, and since when (Unix seconds) all have failed."""

    reason: ReadFailure
    since: float
    message: str = ""  # one line: the command's own message, if any
    tries: int = 1  # failed attempts since then
    next_try: float | None = None  # Unix seconds of the next attempt, unless the node changes earlier


class Uncovered(StrEnum):
    """Why reading a GPU node is not even tried."""

    PENDING = "pending"  # new and within its first grace period, or waiting for its first reading
    NO_POD = "no_pod"  # no pod of any source on it
    POD_NOT_READY = "pod_not_ready"


UnreadReason = Uncovered | ReadFailure  # NO_CONTAINER: no pod on the node has its source's container
UNREAD_REASONS: tuple[UnreadReason, ...] = (*Uncovered, *ReadFailure)  # the closed set of the `reason` label


class Unread(NamedTuple):
    """Why a node's GPUs cannot be read now, and since when (Unix seconds; None: since it is known)."""

    reason: UnreadReason
    since: float | None = None
