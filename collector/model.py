"""The nouns that every other module shares; no I/O and no decisions live here."""

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
    """The root of the errors that gpuid raises itself; its text is one line fit for a user."""


class LastReport(NamedTuple):
    """A field of a GPU whose value is the last known one, and the reading that reported it last (Unix seconds)."""

    field: str
    time: float


class Gpu(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One GPU as `nvidia-smi -q -x` describes it; what the tool does not know is None.

    A virtual one is a share of a board that its host gave to this machine: it has no serial and no place of its own.
    """

    uuid: str  # as `canonical_uuid` writes it
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
    virtual: bool = False  # a vGPU of this machine's host; the tool says so
    multi_gpu_board: bool = False  # the tool says that other GPUs are on its board, and so have its serial
    # The fields whose values only earlier readings had, those of `health` too; "health": all of them.
    last_known: tuple[LastReport, ...] = ()
    health: Health | None = None  # None: no reading has said anything of it
    # Unix seconds of the last reading that found more uncorrectable ECC errors than one before; None: none did.
    ecc_growth: float | None = None

    def reports(self, field: str) -> bool:
        """Return whether a field's value is what the last reading said, and not merely the last known one."""
        if not self.last_known:
            return True
        names = (field, "health") if field in HEALTH_FIELDS else (field,)
        return all(one.field not in names for one in self.last_known)

    @property
    def last_known_facts(self) -> tuple[LastReport, ...]:
        """Those of `last_known` that are fields of the GPU itself, and not of its health."""
        if not self.last_known:
            return ()
        return tuple(one for one in self.last_known if one.field not in HEALTH_FIELDS)


# What identifies a GPU, its board and its chassis, and never changes by itself: kept as last known.
KEPT_FIELDS = ("serial", "model", "architecture", "board_part_number", "gpu_part_number", "chassis")
# Where in its node a GPU sat: kept of one that is in no node, so that it can be found and pulled.
SEAT_FIELDS = ("tray", "slot", "host", "module", "pci_bus_id", "minor_number")


class FieldChange(NamedTuple):
    """One field of a GPU or its health that its reading altered, named and typed as there; None: not reported.

    The field `lost` tells whether it did not answer.
    """

    field: str
    before: str | int | bool | None
    after: str | int | bool | None

    @property
    def went_back(self) -> bool:
        """Whether a counter that only grows is less than it was: another InfoROM or driver does that, and no repair."""
        if self.field not in ONLY_GROWING or not isinstance(self.before, int) or not isinstance(self.after, int):
            return False
        return self.after < self.before


_ALTERABLE = tuple(name for name in Gpu.__struct_fields__ if name not in ("uuid", "last_known", "health", "ecc_growth"))


def field_changes(before: Gpu, after: Gpu) -> tuple[FieldChange, ...]:
    """Return what is different between two states of one GPU.

    A value that is merely the last known one is not reported: its loss is a change to None, its return one from None.
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


@functools.lru_cache(maxsize=1024)  # a fleet that is new, or gets another driver, has few kinds of them
def health_changes(before: Health | None, after: Health | None) -> tuple[FieldChange, ...]:
    """Return what is different between two states of one GPU's health; its fields are HEALTH_FIELDS.

    What is not reported in one of them is a difference only where the other one has something to say: a counter that is
    not zero, or what the GPU is degraded by. So a driver that begins to report more changes nothing of a healthy GPU.
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
    """Return whether the value of a field of a health is news by itself."""
    value = getattr(health, field)
    if value is None or field in COUNTERS or isinstance(value, bool):
        return bool(value)
    return bool(degradations(Condition(Health(**{field: value}))))


class UnidentifiedGpu(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A GPU that `nvidia-smi -q -x` lists without a UUID, such as one that the driver has lost."""

    serial: str | None = None
    model: str | None = None
    chassis: str | None = None
    pci_bus_id: str | None = None


class GpuRef(NamedTuple):
    """Which GPU of a node is meant, as far as it is known; both are None where the tool does not say."""

    uuid: str | None = None
    pci_bus_id: str | None = None  # as `canonical_bus_id` writes it

    @classmethod
    def of(cls, gpu: "Gpu | UnidentifiedGpu") -> Self:
        """Return what names a GPU, as far as it says that itself."""
        uuid = gpu.uuid if isinstance(gpu, Gpu) else None
        return cls(uuid, canonical_bus_id(gpu.pci_bus_id) if gpu.pci_bus_id else None)

    def means(self, gpu: Gpu) -> bool:
        """Return whether this GPU of the node is meant."""
        if self.uuid is not None:
            return gpu.uuid == self.uuid
        return self.pci_bus_id is not None and GpuRef.of(gpu).pci_bus_id == self.pci_bus_id


def canonical_bus_id(text: str) -> str:
    """Return a PCI bus address with a domain of eight digits, in capitals, as newer drivers write it."""
    *domain, bus, device = text.strip().rsplit(":", 2) if ":" in text else ("", "", "")
    return f"{''.join(domain).zfill(8)}:{bus}:{device}".upper() if device else text


def on_one_board(gpu: Gpu, *, sharing: bool, other: Gpu, other_sharing: bool, one_cluster: bool) -> bool:
    """Return whether two GPUs on two nodes, with one serial, are on one board of several GPUs.

    `sharing` tells for each whether its own node shows that its board has several: the tool says so, or another GPU
    there has the serial too. Where both say in which tray of which chassis they are, and as which module, that decides:
    the two GPUs of a Grace superchip have a module each, and nothing else tells that they are on one board. A foreign
    cluster may have copied that, so across clusters (`one_cluster` is False) it only tells that they are not.
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
    """Return the UUID of a GPU in the tool's own spelling, whatever the case of the text: one GPU has one key."""
    prefix, dash, rest = text.partition("-")
    return prefix.upper() + dash + rest.lower() if prefix.upper() == "GPU" else text


class Place(NamedTuple):
    """Where a GPU can be: one node of one cluster."""

    cluster: str
    node: str


class Sharing(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How many units of a node's advertised capacity are one GPU, as its readings told."""

    units: int  # the advertised capacity when the node was read
    labelled: int  # units that are one GPU by the labels at that time; 0 where they did not tell
    most: int  # the most GPUs that one reading has found since the capacity is this
    shares: int  # units that are one GPU; 0 where that cannot be told
    complete: bool  # a reading found every GPU that this makes, so it holds until the capacity changes


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What Kubernetes says of a node that has GPUs or a GPU pod."""

    name: str
    uid: str = ""  # given by its API server; empty only where an older store left it out
    provider_id: str = ""
    boot_id: str = ""
    capacity: int | None = None  # GPUs the node has, None where the device plugin never registered or counts no GPUs
    allocatable: int | None = None  # GPUs that pods may use
    # The two as Kubernetes counts them: in GPUs, shares or MIG instances.
    advertised: tuple[int | None, int | None] = (None, None)
    ready: bool = True  # False only where Kubernetes says so
    labels: tuple[tuple[str, str], ...] = ()  # only the labels on the configured allow-list, sorted
    gpu_sign: str = ""  # the resource or label by which Kubernetes says that the node has GPUs; empty: it does not
    # The GPUs that complete ResourceSlices list, those given to virtual machines by their addresses alone; None: no
    # slices tell.
    listed: tuple[GpuRef, ...] | None = None

    @property
    def machine(self) -> str:
        """The last path segment of the provider id, which names the cloud's instance; empty if none."""
        return self.provider_id.rpartition("/")[2]


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What must be unchanged for an earlier reading of a node still to hold."""

    pod_uid: str
    container_id: str
    restarts: int
    boot_id: str
    capacity: int | None  # as advertised
    allocatable: int | None = None
    listed: tuple[GpuRef, ...] | None = None  # by ResourceSlices


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """All GPUs of one node at one instant; the only thing about GPUs that leaves a cluster."""

    cluster: str
    node: NodeInfo
    source: str  # `namespace/pod` that was read
    fingerprint: Fingerprint
    time: float  # Unix seconds, when the output was complete, or a document in a log was begun
    driver_version: str | None
    cuda_version: str | None
    gpus: tuple[Gpu, ...]
    unidentified: tuple[UnidentifiedGpu, ...] = ()  # the tool named no UUID: they go into records and nowhere else
    # When the command was started and its output was complete, on this process's monotonic clock. It tells whether a
    # reading can answer a claim: only one that was started after the claim. None: it answers every claim. What a pod
    # had printed by itself was started when it was proven not to be there yet, and long ago where nothing proves that.
    started: float | None = None
    ended: float | None = None
    sharing: Sharing | None = None  # what it and the readings before it told of the node's capacity
    lost: tuple[GpuRef, ...] = ()  # that did not answer
    unread: tuple[GpuRef, ...] = ()  # of which this reading says nothing, good or bad
    partial: bool = False  # a GPU of the node that it does not name did not answer, and is not known to be gone


class Known(NamedTuple):
    """An earlier reading, as far as deciding on the next one needs it."""

    fingerprint: Fingerprint
    time: float
    sharing: Sharing | None = None
    boards: int | None = None  # the node's capacity, where ResourceSlices told it in the boot of the fingerprint


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU on one node, from when and confirmed when (Unix seconds)."""

    gpu: Gpu
    place: Place
    since: float
    confirmed: float
    claim: bool = False  # another node had it first and has not let go of it yet
    lost: bool = False  # it did not answer when its node was read last, or its node no longer lists it
    lost_since: float | None = None  # Unix seconds when that was noticed, if it is known

    @property
    def condition(self) -> Condition:
        """All that the GPU is judged by."""
        return Condition(self.gpu.health, self.lost, self.gpu.ecc_growth, self.confirmed)

    @property
    def degradations(self) -> tuple[Degradation, ...]:
        """Why the GPU is degraded, the worst first."""
        return degradations(self.condition)

    @property
    def level(self) -> Level | None:
        """What is to be done about the GPU; None where it is not degraded."""
        return worst_level(self.condition)


class Event(StrEnum):
    """What can happen to a GPU."""

    APPEARED = "appeared"
    MOVED = "moved"
    VANISHED = "vanished"
    ALTERED = "altered"
    HEALTH = "health"
    CONFIRMED = "confirmed"


CHANGE_EVENTS = tuple(event for event in Event if event is not Event.CONFIRMED)  # those that are changes


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to one GPU; `place` is where it is now, or was last when it vanished."""

    event: Event
    time: float
    gpu: Gpu
    place: Place
    machine: str
    source: str
    previous: Place | None = None  # where it came from, for MOVED
    last_seen: float | None = None  # Unix seconds; when it was found last where it no longer is, if it was lost there
    changes: tuple[FieldChange, ...] = ()  # what was altered, for ALTERED and HEALTH (its fields, and "lost")
    confirmed: float | None = None  # Unix seconds; when it was last read where it was, for VANISHED
    lost: bool = False  # whether it no longer answered where it was, for VANISHED

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
        """Return what happened at `time` (Unix seconds) to a GPU of a node."""
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
        """Why the GPU was degraded before its health changed, and why it is now; for HEALTH."""
        health, growth = self.gpu.health or Health(), self.gpu.ecc_growth
        before = {one.field: one.before for one in self.changes if one.field in HEALTH_FIELDS}
        after = {one.field: one.after for one in self.changes if one.field in HEALTH_FIELDS}
        lost = next((one for one in self.changes if one.field == "lost"), FieldChange("lost", False, False))
        then, now = msgspec.structs.replace(health, **before), msgspec.structs.replace(health, **after)
        grown = growth if grew(then, now) else None
        read = self.time if grown is None else grown  # of which the time of a change may be ahead
        was = Condition(then, bool(lost.before), growth if grown is None else None, read)
        return degradations(was), degradations(Condition(now, bool(lost.after), growth, read))


class SinkRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One GPU on one node as the sinks write it; text that is absent is the empty string.

    The first seven fields, their names and their order are those of the Go program's records.
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
    mark: str | None = None  # the kind of the mark that it had when this was recorded

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
        """Return the record of what happened to a GPU at `time` (RFC 3339); absent text is None."""
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
    """Return what was altered as JSON has it everywhere: by field, with `before` and `after`; None for nothing.

    A counter that is less than it was has `went_back` as well.
    """
    return {
        one.field: {"before": one.before, "after": one.after} | ({"went_back": True} if one.went_back else {})
        for one in changes
    } or None


def last_known_object(last_known: Iterable[LastReport]) -> dict[str, str] | None:
    """Return the fields that are merely last known as JSON has it everywhere: by field, the time; None for none."""
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
    NO_DOCUMENT = "no_document"  # nothing of nvidia-smi in the log of a pod that prints it
    STALE = "stale"  # the log's last document is too old to be taken for how the node is now


class ReadError(GpuidError):
    """A node could not be read; `reason` is the label for it."""

    def __init__(self, reason: ReadFailure, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Failing(NamedTuple):
    """That a node cannot be read: why the last attempt failed, and since when (Unix seconds) every one has."""

    reason: ReadFailure
    since: float
    message: str = ""  # one line: the command's own words, where it said any
    tries: int = 1  # attempts since then, all of which failed
    next_try: float | None = None  # Unix seconds of the next attempt, if nothing about the node changes before


class Unseen(NamedTuple):
    """A GPU of a node that its last reading did not find, and that is not known to be elsewhere."""

    uuid: str
    confirmed: float  # Unix seconds of the last reading that found it
    lost: bool  # it did not answer, or its node's ResourceSlices list it no more; else it could not be asked
    unlisted: bool = False  # the ResourceSlices did not list it, which nothing has refuted since
    lost_since: float | None = None  # Unix seconds; None: it is not lost, or an earlier version did not note it


class SilentGpu(NamedTuple):
    """A GPU of a node that does not answer, and of which nvidia-smi has never said more than its address.

    Or one of a node that was never read, which ResourceSlices have listed, and do not any more.
    """

    pci_bus_id: str  # as `canonical_bus_id` writes it
    since: float  # Unix seconds of the first reading that named it
    boot_id: str  # of the node, when nvidia-smi named it last
    unlisted: bool = False  # slices said so, not nvidia-smi


class Uncovered(StrEnum):
    """Why no reading of a GPU node is even tried."""

    PENDING = "pending"  # new, and so within its first grace, or waiting for its first reading
    NO_POD = "no_pod"  # no source has a pod on it
    POD_NOT_READY = "pod_not_ready"


UnreadReason = Uncovered | ReadFailure  # NO_CONTAINER: no pod on the node has the container that its source names
UNREAD_REASONS: tuple[UnreadReason, ...] = (*Uncovered, *ReadFailure)  # the closed set of the `reason` label


class Unread(NamedTuple):
    """That the GPUs of a node cannot be read now: why, and since when (Unix seconds; None: since it is known)."""

    reason: UnreadReason
    since: float | None = None


class Survey(NamedTuple):
    """What a complete listing of a cluster found: the size of what is watched, GPUs or not."""

    nodes: int  # all that `node_selector` selects
    pods: tuple[int, ...]  # by source, in the order of the configuration


class SliceState(StrEnum):
    """Whether the ResourceSlices of a cluster are seen."""

    WATCHED = "watched"
    ABSENT = "absent"  # its API server has none
    FORBIDDEN = "forbidden"
    FAILING = "failing"


class SliceStatus(NamedTuple):
    """Whether the ResourceSlices of a cluster are seen and, if not, why in one line without secrets."""

    state: SliceState
    message: str = ""
    lost: bool = False  # they were seen, and are no longer

    @property
    def unseen(self) -> bool:
        """True where there may be slices that are not seen."""
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
    """Why labels of a node are not what they should be: the closed set of the `reason` label."""

    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"  # the node is gone
    CONFLICT = "conflict"  # the node is another one by now, of the same name
    INVALID = "invalid"
    CONTESTED = "contested"  # another client changes what was written
    UNAVAILABLE = "unavailable"  # the API server fails or does not answer


class LabelTrouble(msgspec.Struct, frozen=True, kw_only=True):
    """Why labels of some nodes of a cluster cannot be written, in one line, and since when (Unix seconds)."""

    reason: LabelFailure
    message: str
    since: float
    nodes: int | None = None  # how many cannot; None: none can


NO_UUIDS: frozenset[str] = frozenset()  # one for all nodes: an empty set of its own would cost each of them 200 bytes


class NodeState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """All that the inventory knows of one node at one instant; a change replaces it as a whole."""

    place: Place
    node: NodeInfo
    time: float | None = None  # Unix seconds of the last reading, None before the first
    failing: Failing | None = None  # None after a reading, and before the first attempt
    uncovered: Unread | None = None  # that no ready pod covers it; None where one does
    driver_version: str | None = None
    cuda_version: str | None = None
    source: str = ""  # `namespace/pod` that was read
    fingerprint: Fingerprint | None = None
    sharing: Sharing | None = None  # what readings told of the node's capacity
    gpus: tuple[Gpu, ...] = ()  # those that are here
    since: tuple[float, ...] = ()  # beside `gpus`: Unix seconds since when each is here
    claims: frozenset[str] = NO_UUIDS  # UUIDs of `gpus` that another node had first and has not let go of yet
    unseen: tuple[Unseen, ...] = ()  # those of `gpus` that the last reading did not find
    silent: tuple[SilentGpu, ...] = ()  # GPUs that do not answer and are not known, and so not among `gpus`
    partial: bool = False  # its last reading lacks GPUs that may be there

    @property
    def found(self) -> int | None:
        """How many GPUs are here and not lost; None before the first reading."""
        if self.time is None:
            return None
        return len(self.gpus) - len(self.lost_uuids) - (self._doubtful if self.silent else 0)

    @property
    def lost(self) -> int:
        """How many GPUs did not answer when they were read last, whether or not it is known which ones they are."""
        return len(self.lost_uuids) + len(self.silent)

    @property
    def lost_uuids(self) -> frozenset[str]:
        """The UUIDs of the GPUs that are here and did not answer when they were read last."""
        if not self.unseen:
            return NO_UUIDS
        return frozenset(one.uuid for one in self.unseen if one.lost) & {gpu.uuid for gpu in self.gpus}

    @property
    def unlisted_uuids(self) -> frozenset[str]:
        """The UUIDs of the lost GPUs of which that is known because ResourceSlices did not list them."""
        if not self.unseen:
            return NO_UUIDS
        return self.lost_uuids & {one.uuid for one in self.unseen if one.unlisted}

    @property
    def _doubtful(self) -> int:
        """How many GPUs are here that may be the ones at the addresses that do not answer."""
        silent = {one.pci_bus_id for one in self.silent}
        lost = self.lost_uuids
        return sum(gpu.uuid not in lost and GpuRef.of(gpu).pci_bus_id in silent for gpu in self.gpus)

    @property
    def unread(self) -> Unread | None:
        """Why the GPUs cannot be read now, or have not been read yet; None where the last reading stands."""
        if self.uncovered is not None:
            return self.uncovered
        if self.failing is not None:
            return Unread(self.failing.reason, self.failing.since)
        return Unread(Uncovered.PENDING) if self.time is None else None

    @property
    def chassis(self) -> str:
        """The serial of the chassis that the GPUs are in; several joined by a comma, empty where none is known."""
        return ",".join(sorted({gpu.chassis for gpu in self.gpus if gpu.chassis}))

    def since_of(self, uuid: str) -> float:
        """Return since when (Unix seconds) a GPU has been here; raises StopIteration for one that is not."""
        return next(since for gpu, since in zip(self.gpus, self.since, strict=True) if gpu.uuid == uuid)

    def placements(self) -> list[Placement]:
        """Return the GPUs that are here, each with since when and when it was last confirmed."""
        return [self.placement(gpu, since) for gpu, since in zip(self.gpus, self.since, strict=True)]

    def placement(self, gpu: Gpu, since: float) -> Placement:
        """Return one of the GPUs that are here as a placement."""
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
        """Whether all GPUs that are here were read last and report the same health, so that one stands for all.

        That is so on nearly every node. A node whose GPUs' errors grow, or have grown, is not uniform.
        """
        if not self.gpus or self.unseen or self.silent:
            return False
        health = self.gpus[0].health  # nearly always one object for all
        same = [(gpu.health is health or gpu.health == health) and gpu.ecc_growth is None for gpu in self.gpus]
        return all(same)  # twice as fast as a generator

    def condition(self, gpu: Gpu, since: float) -> Condition:
        """Return all that one of the GPUs that are here is judged by, as its placement has it."""
        if not self.unseen:
            return Condition(gpu.health, False, gpu.ecc_growth, self.time or since)
        return self.placement(gpu, since).condition

    def shares_board(self, gpu: Gpu) -> bool:
        """Return whether a GPU that is here is on a board of several: the tool says so, or another has its serial."""
        if gpu.multi_gpu_board or gpu.serial is None:
            return gpu.multi_gpu_board
        return any(other.serial == gpu.serial and other.uuid != gpu.uuid for other in self.gpus)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one step of the inventory did: the changes of GPUs, and the nodes it touched with their new state."""

    changes: tuple[Change, ...] = ()
    nodes: Mapping[Place, NodeState | None] = {}  # None: the node is gone
    reading: Reading | None = None  # what caused it, if that was a reading
    removed_cluster: str | None = None  # a cluster that is forgotten as a whole, its absent GPUs too
    verify: tuple[Place, ...] = ()  # nodes to be read again now, because another node claims a GPU of theirs
    verify_later: Mapping[Place, float] = {}  # likewise, in how many seconds: such claims came to nothing before


class ClusterState(StrEnum):
    """How a cluster is; all but STARTING and UP are reasons for being down."""

    STARTING = "starting"
    UP = "up"
    BAD_CONTEXT = "bad_context"
    CREDENTIAL_PLUGIN_MISSING = "credential_plugin_missing"
    CREDENTIAL_PLUGIN_FAILED = "credential_plugin_failed"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    UNREACHABLE = "unreachable"
    SERVER_ERROR = "server_error"
    LIMIT_EXCEEDED = "limit_exceeded"  # its API server sends more than the configuration allows
    UNOWNED = "unowned"  # no shard of the installation reads it at present
    DUPLICATE = "duplicate"  # the same cluster as one before it in the configuration, and so not read


class ClusterStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How one cluster is and, when it is not up, why in one line without secrets."""

    cluster: str
    state: ClusterState
    message: str = ""
    since: float  # Unix seconds of the last change of state

    @property
    def up(self) -> bool:
        """True while list and watch are healthy."""
        return self.state is ClusterState.UP
