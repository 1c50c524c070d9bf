"""The types that all other modules share; without I/O or decisions."""

import functools
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple, Self

import msgspec

from collector.health import (
    COUNTERS,
    HEALTH_FIELDS,
    ONLY_GROWING,
    Condition,
    Degradation,
    Health,
    Level,
    degradations,
    grew,
    worst_level,
)
from collector.timestamps import rfc3339

__all__ = [
    "CHANGE_EVENTS",
    "KEPT_FIELDS",
    "NO_UUIDS",
    "SEAT_FIELDS",
    "UNREAD_REASONS",
    "Change",
    "ClusterState",
    "ClusterStatus",
    "Event",
    "Failing",
    "FieldChange",
    "Fingerprint",
    "Gpu",
    "GpuRef",
    "GpuidError",
    "Known",
    "LabelFailure",
    "LabelTrouble",
    "LastReport",
    "NodeInfo",
    "NodeState",
    "Place",
    "Placement",
    "ReadError",
    "ReadFailure",
    "Reading",
    "Sharing",
    "SilentGpu",
    "SinkRecord",
    "SliceState",
    "SliceStatus",
    "Step",
    "Survey",
    "Uncovered",
    "UnidentifiedGpu",
    "Unread",
    "UnreadReason",
    "Unseen",
    "WatchRestart",
    "canonical_bus_id",
    "canonical_uuid",
    "changes_object",
    "field_changes",
    "health_changes",
    "last_known_object",
    "on_one_board",
]


class GpuidError(Exception):
    """The base class of gpuid's own errors; the text is one line for users."""


class LastReport(NamedTuple):
    """A field of a GPU with only a last known value, and when it was last reported (Unix seconds)."""

    field: str
    time: float


class Gpu(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One GPU as described by `nvidia-smi -q -x`; unknown values are None.

    A virtual GPU is a share of a board that the host assigned to this machine, without its own serial and position.
    """

    uuid: str  # in the form of `canonical_uuid`
    serial: str | None = None
    model: str | None = None
    architecture: str | None = None
    chassis: str | None = None
    slot: str | None = None
    tray: str | None = None
    host: str | None = None
    module: str | None = None
    pci_bus_id: str | None = None
    board_part_number: str | None = None
    gpu_part_number: str | None = None
    minor_number: int | None = None
    vbios: str | None = None
    mig: bool | None = None
    virtual: bool = False  # a vGPU of this machine's host, according to the tool
    multi_gpu_board: bool = False  # other GPUs share its board and serial, according to the tool
    # Fields reported only by earlier readings, including those of `health`; "health": all of them.
    last_known: tuple[LastReport, ...] = ()
    health: Health | None = None  # None: never reported
    # Unix seconds of the last reading with more uncorrectable ECC errors than before; None: none.
    ecc_growth: float | None = None

    def reports(self, field: str) -> bool:
        """Return whether a field's value is from the last reading and not only last known."""
        if not self.last_known:
            return True
        names = (field, "health") if field in HEALTH_FIELDS else (field,)
        return all(one.field not in names for one in self.last_known)

    @property
    def last_known_facts(self) -> tuple[LastReport, ...]:
        """The fields of `last_known` that belong to the GPU itself, not its health."""
        if not self.last_known:
            return ()
        return tuple(one for one in self.last_known if one.field not in HEALTH_FIELDS)


# Fields that identify a GPU, its board and its chassis, and never change by themselves: kept as last known.
KEPT_FIELDS = ("serial", "model", "architecture", "board_part_number", "gpu_part_number", "chassis")
# A GPU's position: kept for one in no node, so that it can be found and pulled.
SEAT_FIELDS = ("tray", "slot", "host", "module", "pci_bus_id", "minor_number")


class FieldChange(NamedTuple):
    """One altered field of a GPU or its health, with the same name and type; None: not reported.

    The field `lost` is whether it did not respond.
    """

    field: str
    before: str | int | bool | None
    after: str | int | bool | None

    @property
    def went_back(self) -> bool:
        """Whether a monotonic counter decreased, which a different InfoROM or driver causes, not a repair."""
        if self.field not in ONLY_GROWING or not isinstance(self.before, int) or not isinstance(self.after, int):
            return False
        return self.after < self.before


_ALTERABLE = tuple(name for name in Gpu.__struct_fields__ if name not in ("uuid", "last_known", "health", "ecc_growth"))


def field_changes(before: Gpu, after: Gpu) -> tuple[FieldChange, ...]:
    """Return the differences between two states of one GPU.

    A value that is only last known is not reported: losing it is a change to None, and regaining it one from None.
    """
    found = []
    for field in _ALTERABLE:
        old, new = getattr(before, field), getattr(after, field)
        if old == new and not before.last_known and not after.last_known:
            continue
        was = old if old != new or before.reports(field) else None
        now = new if after.reports(field) else None
        if was != now:
            found.append(FieldChange(field, was, now))
    return tuple(found)


@functools.lru_cache(maxsize=1024)  # a new fleet, or one that gets another driver, has few distinct ones
def health_changes(before: Health | None, after: Health | None) -> tuple[FieldChange, ...]:
    """Return the differences between two states of one GPU's health; its fields are HEALTH_FIELDS.

    A field that one of them does not report is a difference only if the other's value is significant: a non-zero
    counter, or a reason to be degraded. A driver that starts to report more thus changes nothing for a healthy GPU.
    """
    if before == after:
        return ()
    old, new = before or Health(), after or Health()
    found = (FieldChange(field, getattr(old, field), getattr(new, field)) for field in HEALTH_FIELDS)
    return tuple(
        one
        for one in found
        if one.before != one.after
        and (None not in (one.before, one.after) or _tells(one.field, old) or _tells(one.field, new))
    )


def _tells(field: str, health: Health) -> bool:
    """Return whether the value of a health field is significant by itself."""
    value = getattr(health, field)
    if value is None or field in COUNTERS or isinstance(value, bool):
        return bool(value)
    return bool(degradations(Condition(Health(**{field: value}))))


class UnidentifiedGpu(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A GPU listed by `nvidia-smi -q -x` without a UUID, such as one lost by the driver."""

    serial: str | None = None
    model: str | None = None
    chassis: str | None = None
    pci_bus_id: str | None = None


class GpuRef(NamedTuple):
    """A reference to a GPU of a node, as far as known; both fields are None if the tool does not tell."""

    uuid: str | None = None
    pci_bus_id: str | None = None  # in the form of `canonical_bus_id`

    @classmethod
    def of(cls, gpu: "Gpu | UnidentifiedGpu") -> Self:
        """Return a reference to a GPU, from its own values."""
        uuid = gpu.uuid if isinstance(gpu, Gpu) else None
        return cls(uuid, canonical_bus_id(gpu.pci_bus_id) if gpu.pci_bus_id else None)

    def means(self, gpu: Gpu) -> bool:
        """Return whether this refers to a GPU of the node."""
        if self.uuid is not None:
            return gpu.uuid == self.uuid
        return self.pci_bus_id is not None and GpuRef.of(gpu).pci_bus_id == self.pci_bus_id


def canonical_bus_id(text: str) -> str:
    """Return a PCI bus address with an eight-digit domain, in upper case, as in newer drivers."""
    *domain, bus, device = text.strip().rsplit(":", 2) if ":" in text else ("", "", "")
    return f"{''.join(domain).zfill(8)}:{bus}:{device}".upper() if device else text


def on_one_board(gpu: Gpu, *, sharing: bool, other: Gpu, other_sharing: bool, one_cluster: bool) -> bool:
    """Return whether two GPUs on two nodes, with the same serial, are on one board of several GPUs.

    `sharing` is, for each, whether its own node shows that its board has several GPUs: the tool says so, or another
    GPU there has the same serial. If both report chassis, tray and module, those decide: the two GPUs of a Grace
    superchip have one module each, and nothing else shows that they share a board. A foreign cluster may have copied
    these values, so across clusters (`one_cluster` is False) they can only show that the boards differ.
    """
    if gpu.chassis and other.chassis:
        if (gpu.chassis, gpu.tray, gpu.slot) != (other.chassis, other.tray, other.slot):
            return False
        if (gpu.tray or gpu.slot) and gpu.module and other.module:
            if gpu.module == other.module:
                return False
            if one_cluster:
                return True
    return sharing and other_sharing


def canonical_uuid(text: str) -> str:
    """Return a GPU's UUID in the tool's spelling, whatever its case, so that a GPU has one key."""
    prefix, dash, rest = text.partition("-")
    return prefix.upper() + dash + rest.lower() if prefix.upper() == "GPU" else text


class Place(NamedTuple):
    """Where a GPU can be: one node of one cluster."""

    cluster: str
    node: str


class Sharing(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How many units of a node's advertised capacity are one GPU, according to its readings."""

    units: int  # the advertised capacity when the node was read
    labelled: int  # units per GPU according to the labels at that time; 0 if unknown
    most: int  # the most GPUs found by one reading with this capacity
    shares: int  # units per GPU; 0 if unknown
    complete: bool  # a reading found all of these GPUs, so it holds until the capacity changes


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Kubernetes' data on a node that has GPUs or a GPU pod."""

    name: str
    uid: str = ""  # from its API server; empty only in data of an older store
    provider_id: str = ""
    boot_id: str = ""
    capacity: int | None = None  # GPUs of the node; None if the device plugin never registered or does not count GPUs
    allocatable: int | None = None  # GPUs allocatable to pods
    # The same two in Kubernetes' units: GPUs, shares or MIG instances.
    advertised: tuple[int | None, int | None] = (None, None)
    ready: bool = True  # False only if Kubernetes says so
    labels: tuple[tuple[str, str], ...] = ()  # only the labels on the configured allow-list, sorted
    gpu_sign: str = ""  # the resource or label that shows GPUs in Kubernetes; empty: none
    # The GPUs in complete ResourceSlices, with only addresses for those assigned to virtual machines; None: no slices.
    listed: tuple[GpuRef, ...] | None = None

    @property
    def machine(self) -> str:
        """The last path segment of the provider id, the cloud's instance name; empty if none."""
        return self.provider_id.rpartition("/")[2]


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What must be unchanged for an earlier reading of a node to remain valid."""

    pod_uid: str
    container_id: str
    restarts: int
    boot_id: str
    capacity: int | None  # as advertised
    allocatable: int | None = None
    listed: tuple[GpuRef, ...] | None = None  # by ResourceSlices


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


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU on one node, with since when and when last confirmed (Unix seconds)."""

    gpu: Gpu
    place: Place
    since: float
    confirmed: float
    claim: bool = False  # another node had it first and has not been verified yet
    lost: bool = False  # it did not respond at its node's last reading, or its node no longer lists it
    lost_since: float | None = None  # Unix seconds when that was noticed, if known

    @property
    def condition(self) -> Condition:
        """Everything by which the GPU is judged."""
        return Condition(self.gpu.health, self.lost, self.gpu.ecc_growth, self.confirmed)

    @property
    def degradations(self) -> tuple[Degradation, ...]:
        """Why the GPU is degraded, worst first."""
        return degradations(self.condition)

    @property
    def level(self) -> Level | None:
        """The action that the GPU requires; None if it is not degraded."""
        return worst_level(self.condition)


class Event(StrEnum):
    """Events of a GPU."""

    APPEARED = "appeared"
    MOVED = "moved"
    VANISHED = "vanished"
    ALTERED = "altered"
    HEALTH = "health"
    CONFIRMED = "confirmed"


CHANGE_EVENTS = tuple(event for event in Event if event is not Event.CONFIRMED)  # those that are changes


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change of one GPU; `place` is where it is now or, if it vanished, was last."""

    event: Event
    time: float
    gpu: Gpu
    place: Place
    machine: str
    source: str
    previous: Place | None = None  # where it came from, for MOVED
    last_seen: float | None = None  # Unix seconds; when it was last found at its former place, if it was lost there
    changes: tuple[FieldChange, ...] = ()  # altered fields, for ALTERED and HEALTH (its fields, and "lost")
    confirmed: float | None = None  # Unix seconds; when it was last read at its place, for VANISHED
    lost: bool = False  # whether it had stopped responding at its place, for VANISHED

    @classmethod
    def of(
        cls,
        node: "NodeState",
        event: Event,
        time: float,
        gpu: Gpu,
        *,
        previous: Place | None = None,
        last_seen: float | None = None,
        changes: tuple[FieldChange, ...] = (),
        confirmed: float | None = None,
        lost: bool = False,
    ) -> "Change":
        """Return a change at `time` (Unix seconds) of a GPU of a node."""
        return cls(
            event=event,
            time=time,
            gpu=gpu,
            place=node.place,
            machine=node.node.machine,
            source=node.source,
            previous=previous,
            last_seen=last_seen,
            changes=changes,
            confirmed=confirmed,
            lost=lost,
        )

    @property
    def degradations(self) -> tuple[tuple[Degradation, ...], tuple[Degradation, ...]]:
        """Why the GPU was degraded before its health changed, and after; for HEALTH."""
        health, growth = self.gpu.health or Health(), self.gpu.ecc_growth
        before = {one.field: one.before for one in self.changes if one.field in HEALTH_FIELDS}
        after = {one.field: one.after for one in self.changes if one.field in HEALTH_FIELDS}
        lost = next((one for one in self.changes if one.field == "lost"), FieldChange("lost", False, False))
        then, now = msgspec.structs.replace(health, **before), msgspec.structs.replace(health, **after)
        grown = growth if grew(then, now) else None
        read = self.time if grown is None else grown  # a change's time may be later
        was = Condition(then, bool(lost.before), growth if grown is None else None, read)
        return degradations(was), degradations(Condition(now, bool(lost.after), growth, read))


class SinkRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One GPU on one node as written by sinks; absent text is the empty string.

    The names and order of the first seven fields are those of the Go program's records.
    """

    cluster: str
    node: str
    machine: str
    source: str  # `namespace/pod` that was read
    chassis: str
    gpu: str  # the serial
    time: str  # RFC 3339, UTC
    uuid: str
    model: str
    event: str  # an Event's value
    changes: Mapping[str, Mapping[str, str | int | bool | None]] | None = None  # see `changes_object`
    last_known: Mapping[str, str] | None = None  # see `last_known_object`
    mark: str | None = None  # the kind of its mark when this was recorded

    @classmethod
    def of(
        cls,
        *,
        place: Place,
        machine: str,
        source: str,
        time: str,
        event: str,
        uuid: str,
        serial: str | None,
        model: str | None,
        chassis: str | None,
        changes: Iterable[FieldChange] = (),
        last_known: Iterable[LastReport] = (),
        mark: str | None = None,
    ) -> "SinkRecord":
        """Return the record of a GPU's event at `time` (RFC 3339); absent text is None."""
        return cls(
            cluster=place.cluster,
            node=place.node,
            machine=machine,
            source=source,
            chassis=chassis or "",
            gpu=serial or "",
            time=time,
            uuid=uuid,
            model=model or "",
            event=str(event),
            changes=changes_object(changes),
            last_known=last_known_object(last_known),
            mark=mark,
        )


def changes_object(changes: Iterable[FieldChange]) -> dict[str, dict[str, str | int | bool | None]] | None:
    """Return alterations as a JSON object: by field, with `before` and `after`; None if there are none.

    A counter that decreased also has `went_back`.
    """
    return {
        one.field: {"before": one.before, "after": one.after} | ({"went_back": True} if one.went_back else {})
        for one in changes
    } or None


def last_known_object(last_known: Iterable[LastReport]) -> dict[str, str] | None:
    """Return the last known fields as a JSON object with the time of each; None if there are none."""
    return {one.field: rfc3339(one.time) for one in last_known} or None


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


class Failing(NamedTuple):
    """A failing node: why the last attempt failed, and since when (Unix seconds) all have failed."""

    reason: ReadFailure
    since: float
    message: str = ""  # one line: the command's own message, if any
    tries: int = 1  # failed attempts since then
    next_try: float | None = None  # Unix seconds of the next attempt, unless the node changes earlier


class Unseen(NamedTuple):
    """A GPU that its node's last reading did not find and that is not known to be elsewhere."""

    uuid: str
    confirmed: float  # Unix seconds of the last reading that found it
    lost: bool  # it did not respond or is no longer in its node's ResourceSlices; else it could not be queried
    unlisted: bool = False  # it was not in the ResourceSlices, and nothing has refuted that since
    lost_since: float | None = None  # Unix seconds; None: it is not lost, or an earlier version did not record it


class SilentGpu(NamedTuple):
    """An unresponsive GPU of which nvidia-smi has only reported the address.

    Or a GPU of a node that was never read, which ResourceSlices listed before but no longer do.
    """

    pci_bus_id: str  # in the form of `canonical_bus_id`
    since: float  # Unix seconds of the first reading that listed it
    boot_id: str  # of the node, when nvidia-smi last listed it
    unlisted: bool = False  # according to slices, not nvidia-smi


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


class Survey(NamedTuple):
    """The size of a completely listed cluster: everything that is watched, GPUs or not."""

    nodes: int  # all nodes selected by `node_selector`
    pods: tuple[int, ...]  # by source, in the order of the configuration


class SliceState(StrEnum):
    """Whether a cluster's ResourceSlices are visible."""

    WATCHED = "watched"
    ABSENT = "absent"  # its API server has none
    FORBIDDEN = "forbidden"
    FAILING = "failing"


class SliceStatus(NamedTuple):
    """Whether a cluster's ResourceSlices are visible and, if not, why, on one line without secrets."""

    state: SliceState
    message: str = ""
    lost: bool = False  # they were visible and no longer are

    @property
    def unseen(self) -> bool:
        """True if there may be slices that are not visible."""
        return self.state in (SliceState.FORBIDDEN, SliceState.FAILING)


class WatchRestart(StrEnum):
    """Why a reflector had to start over: the closed set of the `reason` label."""

    EXPIRED = "expired"
    SILENT = "silent"
    CONNECTION = "connection"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    SERVER_ERROR = "server_error"
    LIMIT_EXCEEDED = "limit_exceeded"


class LabelFailure(StrEnum):
    """Why a node's labels are not as wanted: the closed set of the `reason` label."""

    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"  # the node is gone
    CONFLICT = "conflict"  # a different node of the same name exists by now
    INVALID = "invalid"
    CONTESTED = "contested"  # another client changes our labels
    UNAVAILABLE = "unavailable"  # the API server fails or does not respond


class LabelTrouble(msgspec.Struct, frozen=True, kw_only=True):
    """Why labels of some of a cluster's nodes cannot be written, on one line, and since when (Unix seconds)."""

    reason: LabelFailure
    message: str
    since: float
    nodes: int | None = None  # number of such nodes; None: all


NO_UUIDS: frozenset[str] = frozenset()  # shared by all nodes: an empty set for each would cost 200 bytes


class NodeState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The inventory's state of one node at one instant; a change replaces it as a whole."""

    place: Place
    node: NodeInfo
    time: float | None = None  # Unix seconds of the last reading, None before the first
    failing: Failing | None = None  # None after a reading, and before the first attempt
    uncovered: Unread | None = None  # why no ready pod covers it; None if one does
    driver_version: str | None = None
    cuda_version: str | None = None
    source: str = ""  # `namespace/pod` that was read
    fingerprint: Fingerprint | None = None
    sharing: Sharing | None = None  # derived from readings about the node's capacity
    gpus: tuple[Gpu, ...] = ()  # those that are here
    since: tuple[float, ...] = ()  # parallel to `gpus`: Unix seconds since when each is here
    claims: frozenset[str] = NO_UUIDS  # UUIDs of `gpus` that another node had first and that are not verified yet
    unseen: tuple[Unseen, ...] = ()  # GPUs that the last reading did not find
    silent: tuple[SilentGpu, ...] = ()  # unidentified GPUs that do not respond, and so are not in `gpus`
    partial: bool = False  # its last reading may lack GPUs

    @property
    def found(self) -> int | None:
        """The number of GPUs here that are not lost; None before the first reading."""
        if self.time is None:
            return None
        return len(self.gpus) - len(self.lost_uuids) - (self._doubtful if self.silent else 0)

    @property
    def lost(self) -> int:
        """The number of GPUs that did not respond at the last reading, identified or not."""
        return len(self.lost_uuids) + len(self.silent)

    @property
    def lost_uuids(self) -> frozenset[str]:
        """The UUIDs of the GPUs here that did not respond at the last reading."""
        if not self.unseen:
            return NO_UUIDS
        return frozenset(one.uuid for one in self.unseen if one.lost) & {gpu.uuid for gpu in self.gpus}

    @property
    def unlisted_uuids(self) -> frozenset[str]:
        """The UUIDs of GPUs that are lost because ResourceSlices did not list them."""
        if not self.unseen:
            return NO_UUIDS
        return self.lost_uuids & {one.uuid for one in self.unseen if one.unlisted}

    @property
    def _doubtful(self) -> int:
        """The number of GPUs here that may be those at unresponsive addresses."""
        silent = {one.pci_bus_id for one in self.silent}
        lost = self.lost_uuids
        return sum(gpu.uuid not in lost and GpuRef.of(gpu).pci_bus_id in silent for gpu in self.gpus)

    @property
    def unread(self) -> Unread | None:
        """Why the GPUs cannot be read now or have not been read yet; None if the last reading is valid."""
        if self.uncovered is not None:
            return self.uncovered
        if self.failing is not None:
            return Unread(self.failing.reason, self.failing.since)
        return Unread(Uncovered.PENDING) if self.time is None else None

    @property
    def chassis(self) -> str:
        """The chassis serial of the GPUs; several separated by commas, empty if none is known."""
        return ",".join(sorted({gpu.chassis for gpu in self.gpus if gpu.chassis}))

    def since_of(self, uuid: str) -> float:
        """Return since when (Unix seconds) a GPU has been here; raises StopIteration if it is not."""
        return next(since for gpu, since in zip(self.gpus, self.since, strict=True) if gpu.uuid == uuid)

    def placements(self) -> list[Placement]:
        """Return the GPUs here, each with since when and when last confirmed."""
        return [self.placement(gpu, since) for gpu, since in zip(self.gpus, self.since, strict=True)]

    def placement(self, gpu: Gpu, since: float) -> Placement:
        """Return one of the GPUs here as a placement."""
        unseen = next((one for one in self.unseen if one.uuid == gpu.uuid), None)
        return Placement(
            gpu=gpu,
            place=self.place,
            since=since,
            confirmed=(self.time or since) if unseen is None else unseen.confirmed,
            claim=gpu.uuid in self.claims,
            lost=unseen is not None and unseen.lost,
            lost_since=None if unseen is None else unseen.lost_since,
        )

    @property
    def uniform(self) -> bool:
        """Whether all GPUs here were in the last reading and report the same health, so that one stands for all.

        This is true for nearly every node, but not for one with growing errors, now or earlier.
        """
        if not self.gpus or self.unseen or self.silent:
            return False
        health = self.gpus[0].health  # nearly always a shared object
        same = [(gpu.health is health or gpu.health == health) and gpu.ecc_growth is None for gpu in self.gpus]
        return all(same)  # twice as fast as a generator

    def condition(self, gpu: Gpu, since: float) -> Condition:
        """Return the condition of one of the GPUs here, as in its placement."""
        if not self.unseen:
            return Condition(gpu.health, False, gpu.ecc_growth, self.time or since)
        return self.placement(gpu, since).condition

    def shares_board(self, gpu: Gpu) -> bool:
        """Return whether a GPU here shares a board: the tool says so, or another GPU has its serial."""
        if gpu.multi_gpu_board or gpu.serial is None:
            return gpu.multi_gpu_board
        return any(other.serial == gpu.serial and other.uuid != gpu.uuid for other in self.gpus)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one inventory step: changes of GPUs, and affected nodes with their new state."""

    changes: tuple[Change, ...] = ()
    nodes: Mapping[Place, NodeState | None] = {}  # None: the node is gone
    reading: Reading | None = None  # the reading that caused it, if any
    removed_cluster: str | None = None  # a cluster that is forgotten completely, including its absent GPUs
    verify: tuple[Place, ...] = ()  # nodes to read again now, because another node claims one of their GPUs
    verify_later: Mapping[Place, float] = {}  # likewise, after this many seconds: such claims were refuted before


class ClusterState(StrEnum):
    """The state of a cluster; all except STARTING and UP are reasons for being down."""

    STARTING = "starting"
    UP = "up"
    BAD_CONTEXT = "bad_context"
    CREDENTIAL_PLUGIN_MISSING = "credential_plugin_missing"
    CREDENTIAL_PLUGIN_FAILED = "credential_plugin_failed"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    UNREACHABLE = "unreachable"
    SERVER_ERROR = "server_error"
    LIMIT_EXCEEDED = "limit_exceeded"  # its API server exceeds a configured limit
    UNOWNED = "unowned"  # no shard of the installation reads it at present
    DUPLICATE = "duplicate"  # the same cluster as an earlier one in the configuration, so not read


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one cluster and, if not up, the reason, on one line without secrets."""

    cluster: str
    state: ClusterState
    message: str = ""
    since: float  # Unix seconds of the last change of state

    @property
    def up(self) -> bool:
        """True while list and watch are healthy."""
        return self.state is ClusterState.UP
