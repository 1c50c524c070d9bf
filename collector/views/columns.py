"""The rows of the API, of CSV files and of the command line as types: one name for each thing, described once.

From these types come the API's JSON and its OpenAPI document, CSV headers, the columns of tables and docs/api.md.
"""

import functools
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, inspect

from collector.health import Degradation, Health, Level
from collector.marks import MarkKind
from collector.model import ClusterState
from collector.views.problems.kinds import ProblemKind, Severity

__all__ = [
    "UNRECORDED",
    "AlterationRow",
    "ChangeRow",
    "ChangedField",
    "ClusterRow",
    "Column",
    "GpuRow",
    "LostGpu",
    "MarkRow",
    "MarkSummary",
    "MissingGpuRow",
    "NodeRow",
    "PlacementRow",
    "PresenceState",
    "ProblemGpuRow",
    "ProblemNodeRow",
    "ProblemRow",
    "Shown",
    "SourceRow",
    "Time",
    "columns",
    "flat_columns",
    "rest",
    "row_object",
    "table",
    "wide",
]

UNRECORDED = ("board_part_number", "gpu_part_number")  # columns of the present that no history has


class Shown(StrEnum):
    """Where a column is shown; JSON and CSV have every one."""

    TABLE = "table"
    WIDE = "wide"
    REST = "rest"


class PresenceState(StrEnum):
    """How a GPU or a node's GPUs are: they answer, one does not, or they are on no node (the node is gone)."""

    FOUND = "found"
    LOST = "lost"
    GONE = "gone"


def table(description: str) -> Meta:
    """Describe a column of every table."""
    return Meta(description=description, extra={"shown": Shown.TABLE})


def wide(description: str) -> Meta:
    """Describe a column of wide tables."""
    return Meta(description=description, extra={"shown": Shown.WIDE})


def rest(description: str) -> Meta:
    """Describe a column of JSON and CSV alone."""
    return Meta(description=description, extra={"shown": Shown.REST})


Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]  # RFC 3339 in UTC, to the millisecond
Numbered = int | str  # a number where the tool prints one, else its text


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What is unknown is null."""


class MarkSummary(Row, frozen=True, kw_only=True):
    """A mark that somebody set on a GPU."""

    kind: Annotated[MarkKind, rest("What is to become of the GPU.")]
    note: Annotated[str, rest("Why, in one line.")] = ""
    ticket: Annotated[str, rest("URL or name of a ticket.")] = ""
    until: Annotated[Time | None, rest("When it ends by itself.")] = None
    set_at: Annotated[Time, rest("When it was set.")]
    set_by: Annotated[str, rest("Who set it.")]


class MarkRow(Row, frozen=True, kw_only=True):
    """A mark, in force or ended."""

    id: Annotated[int, rest("Its number in the store.")]
    serial: Annotated[str | None, table("Serial of the marked GPU.")]
    uuid: Annotated[str | None, wide("UUID of the marked GPU.")]
    kind: Annotated[MarkKind, table("What is to become of the GPU.")]
    note: Annotated[str, table("Why, in one line.")]
    ticket: Annotated[str, table("URL or name of a ticket.")]
    until: Annotated[Time | None, table("When it ends by itself.")]
    set_at: Annotated[Time, table("When it was set.")]
    set_by: Annotated[str, wide("Who set it.")]
    removed_at: Annotated[Time | None, wide("When it was removed or replaced.")]
    removed_by: Annotated[str | None, wide("Who removed it; null if it ended by itself.")]


class GpuRow(Row, frozen=True, kw_only=True):
    """One GPU on one node."""

    cluster: Annotated[str, table("Cluster.")]
    node: Annotated[str, table("Node.")]
    machine: Annotated[str | None, wide("The cloud's or machine's own name of the node.")] = None
    source: Annotated[str | None, rest("Pod that was read, as namespace/pod.")] = None
    uuid: Annotated[str, wide("UUID of the GPU.")]
    serial: Annotated[str | None, table("Serial of the board.")] = None
    model: Annotated[str | None, table("Product name.")] = None
    architecture: Annotated[str | None, rest("Architecture.")] = None
    chassis: Annotated[str | None, wide("Serial of the chassis.")] = None
    slot: Annotated[Numbered | None, wide("Slot of the chassis.")] = None
    tray: Annotated[Numbered | None, wide("Tray of the chassis.")] = None
    host: Annotated[Numbered | None, wide("Host in the tray.")] = None
    module: Annotated[Numbered | None, wide("Module on the board.")] = None
    pci_bus_id: Annotated[str | None, wide("PCI bus address.")] = None
    board_part_number: Annotated[str | None, rest("Part number of the board.")] = None
    gpu_part_number: Annotated[str | None, rest("Part number of the GPU.")] = None
    minor_number: Annotated[int | None, rest("N of /dev/nvidiaN.")] = None
    vbios: Annotated[str | None, rest("VBIOS version.")] = None
    mig: Annotated[bool | None, rest("Whether MIG is enabled.")] = None
    virtual: Annotated[bool | None, rest("Whether it is a vGPU of this machine's host.")] = None
    multi_gpu_board: Annotated[bool | None, rest("Whether other GPUs share its board and serial.")] = None
    last_known: Annotated[dict[str, Time] | None, wide("Fields no longer reported, and when each was last.")] = None
    since: Annotated[Time | None, wide("Since when it is on the node.")] = None
    until: Annotated[Time | None, rest("When it left the node; only of GPUs that are gone.")] = None
    confirmed_at: Annotated[Time | None, wide("When it was last read there.")] = None
    claim: Annotated[bool | None, wide("Whether another node had it first and has not let go of it yet.")] = None
    state: Annotated[PresenceState, table("found, lost (does not answer) or gone (on no node).")]
    degraded: Annotated[list[Degradation] | None, wide("Why it is degraded, the worst reason first.")] = None
    level: Annotated[Level | None, wide("What is to be done about it.")] = None
    health: Annotated[Health | None, rest("What it reports of its wear and faults.")] = None
    mark: Annotated[MarkSummary | None, wide("Its mark in force.")] = None


class LostGpu(Row, frozen=True, kw_only=True):
    """A GPU that does not answer."""

    node: Annotated[str, rest("Node.")]
    pci_bus_id: Annotated[str | None, rest("PCI bus address.")]
    serial: Annotated[str | None, rest("Serial, where it was ever read.")]
    uuid: Annotated[str | None, rest("UUID, where it was ever read.")]
    module: Annotated[Numbered | None, rest("Module on the board, where it was ever read.")] = None
    seen_at: Annotated[Time | None, rest("When it was last read.")]
    unlisted: Annotated[bool, rest("Whether ResourceSlices no longer list it.")]


class MissingGpuRow(Row, frozen=True, kw_only=True):
    """A GPU that a node lacks, and where it sat."""

    serial: Annotated[str | None, rest("Serial of the board.")]
    uuid: Annotated[str, rest("UUID of the GPU.")]
    model: Annotated[str | None, rest("Product name.")]
    tray: Annotated[Numbered | None, rest("Tray of the chassis.")]
    slot: Annotated[Numbered | None, rest("Slot of the chassis.")]
    module: Annotated[Numbered | None, rest("Module on the board.")]
    pci_bus_id: Annotated[str | None, rest("PCI bus address.")]
    seen_at: Annotated[Time | None, rest("When a reading found it last.")]


class NodeRow(Row, frozen=True, kw_only=True):
    """One node that has GPUs or a GPU pod."""

    cluster: Annotated[str, table("Cluster.")]
    node: Annotated[str, table("Node.")]
    machine: Annotated[str | None, wide("The cloud's or machine's own name of the node.")] = None
    provider_id: Annotated[str | None, rest("Provider id of Kubernetes.")] = None
    chassis: Annotated[str | None, wide("Serials of its chassis, joined by commas.")] = None
    driver_version: Annotated[str | None, wide("Driver version.")] = None
    cuda_version: Annotated[str | None, wide("CUDA version of the driver.")] = None
    state: Annotated[PresenceState | None, wide("found, lost (a GPU does not answer) or gone (the node is gone).")] = (
        None
    )
    found: Annotated[int | None, table("GPUs found by the last reading.")] = None
    lost: Annotated[int | None, table("GPUs that do not answer.")] = None
    capacity: Annotated[int | None, table("GPUs that Kubernetes says the node has.")] = None
    allocatable: Annotated[int | None, wide("GPUs that pods may use.")] = None
    missing: Annotated[int | None, table("GPUs of its capacity that are neither found nor lost.")] = None
    lost_gpus: Annotated[list[LostGpu] | None, rest("The GPUs that do not answer.")] = None
    missing_gpus: Annotated[list[MissingGpuRow] | None, rest("The missing GPUs that were on it before.")] = None
    gpus_degraded: Annotated[dict[str, int] | None, wide("Degraded GPUs by level.")] = None
    source: Annotated[str | None, rest("Pod that was read, as namespace/pod.")] = None
    read_at: Annotated[Time | None, table("When it was last read.")] = None
    until: Annotated[Time | None, rest("When its last GPU left; only of nodes that are gone.")] = None
    overdue: Annotated[bool | None, wide("Whether the last reading is older than it should be.")] = None
    gpu_sign: Annotated[str | None, rest("Resource or label by which Kubernetes shows GPUs.")] = None
    unread_reason: Annotated[str | None, table("Why its GPUs cannot be read.")] = None
    unread_since: Annotated[Time | None, wide("Since when they cannot be read.")] = None
    failing_reason: Annotated[str | None, wide("Why the last reading failed.")] = None
    failing_since: Annotated[Time | None, rest("Since when every reading has failed.")] = None
    failing_message: Annotated[str | None, rest("The command's own words.")] = None
    tries: Annotated[int | None, rest("Attempts to read it that have failed since then.")] = None
    next_try_at: Annotated[Time | None, rest("When it is read again, if nothing about it changes before.")] = None


class SourceRow(Row, frozen=True, kw_only=True):
    """One source of GPU pods in a cluster."""

    source: Annotated[str, rest("Namespace and selector.")]
    container: Annotated[str, rest("Container that is read.")]
    pods: Annotated[int | None, rest("Pods that match.")]


class ClusterRow(Row, frozen=True, kw_only=True):
    """One cluster: its status and how much is in it."""

    cluster: Annotated[str, table("Cluster.")]
    state: Annotated[ClusterState | None, table("up, starting, or why it is down.")] = None
    up: Annotated[bool | None, rest("Whether list and watch are healthy.")] = None
    message: Annotated[str, wide("Why it is down, in one line.")] = ""
    shard: Annotated[int | None, wide("Shard that reads it; null without shards, or if none does.")] = None
    since: Annotated[Time | None, wide("Since when it has this state.")] = None
    synced_at: Annotated[Time | None, wide("When its view was last proved current.")] = None
    nodes: Annotated[int | None, table("GPU nodes.")] = None
    nodes_read: Annotated[int | None, wide("GPU nodes whose GPUs are known.")] = None
    nodes_unread: Annotated[int | None, table("GPU nodes whose GPUs cannot be read.")] = None
    unread_reasons: Annotated[dict[str, int] | None, rest("Unread GPU nodes by reason.")] = None
    nodes_failing: Annotated[int | None, wide("Nodes whose readings fail.")] = None
    nodes_overdue: Annotated[int | None, wide("Nodes not read for too long.")] = None
    nodes_listed: Annotated[int | None, rest("All nodes that were listed.")] = None
    sources: Annotated[list[SourceRow] | None, rest("Where GPU pods are looked for.")] = None
    resource_slices: Annotated[str | None, rest("Whether ResourceSlices are watched.")] = None
    gpus: Annotated[int | None, table("GPUs.")] = None
    capacity: Annotated[
        int | None, wide("GPUs that Kubernetes says are there; where it does not say, those found.")
    ] = None
    gpus_missing: Annotated[int | None, table("GPUs of the capacity that are neither found nor lost.")] = None
    gpus_lost: Annotated[int | None, wide("GPUs that do not answer.")] = None
    lost_gpus: Annotated[list[LostGpu] | None, rest("The first 100 GPUs that do not answer.")] = None
    gpus_degraded: Annotated[dict[str, int] | None, table("Degraded GPUs by level.")] = None
    gpus_healthy: Annotated[int | None, wide("GPUs that are known and healthy.")] = None
    gpus_known: Annotated[int | None, wide("GPUs that are known to exist.")] = None
    gpus_virtual: Annotated[int | None, rest("vGPUs.")] = None
    conflicts: Annotated[int | None, wide("GPUs confirmed in two places.")] = None
    claims: Annotated[int | None, wide("GPUs on a second node, not settled yet.")] = None
    resembles: Annotated[list[str] | None, rest("Clusters that show the same nodes.")] = None


class ChangedField(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One field before and after; null: not reported."""

    before: str | int | bool | None
    after: str | int | bool | None
    went_back: bool = False  # a counter that only grows is less than it was: another InfoROM or driver


Changes = dict[str, ChangedField]


class AlterationRow(Row, frozen=True, kw_only=True):
    """What a reading altered, and when."""

    time: Annotated[Time, rest("When it was read.")]
    changes: Annotated[Changes | None, rest("Fields with before and after.")]


class PlacementRow(Row, frozen=True, kw_only=True):
    """One GPU's time on one node, past or present."""

    id: Annotated[int, rest("Its number in the store.")]
    uuid: Annotated[str, table("UUID of the GPU.")]
    serial: Annotated[str | None, table("Serial of the board.")]
    model: Annotated[str | None, wide("Product name.")]
    chassis: Annotated[str | None, wide("Serial of the chassis.")]
    cluster: Annotated[str, table("Cluster.")]
    node: Annotated[str, table("Node.")]
    machine: Annotated[str, rest("The cloud's or machine's own name of the node.")]
    slot: Annotated[Numbered | None, rest("Slot of the chassis.")]
    tray: Annotated[Numbered | None, rest("Tray of the chassis.")]
    module: Annotated[Numbered | None, wide("Module on the board.")]
    pci_bus_id: Annotated[str | None, wide("PCI bus address.")]
    since: Annotated[Time, table("Since when it was on the node.")]
    until: Annotated[Time | None, table("When it left; null while it is there.")]
    confirmed_at: Annotated[Time, wide("When it was last read there.")]
    last_known: Annotated[dict[str, Time] | None, rest("Fields no longer reported, and when each was last.")]
    altered: Annotated[list[AlterationRow], rest("What was altered meanwhile, the newest first.")]
    health_changes: Annotated[list[AlterationRow], rest("How its health changed meanwhile, the newest first.")]
    degraded: Annotated[list[Degradation], rest("Why it is degraded now, the worst reason first.")]
    level: Annotated[Level | None, wide("What is to be done about it now.")]
    mark: Annotated[MarkSummary | None, wide("Its mark in force now.")]


class ChangeRow(Row, frozen=True, kw_only=True):
    """One change of one GPU."""

    id: Annotated[int, rest("Grows in the order in which changes were recorded.")]
    time: Annotated[Time, table("When it was noticed.")]
    event: Annotated[str, table("appeared, moved, vanished, altered or health.")]
    uuid: Annotated[str, table("UUID of the GPU.")]
    serial: Annotated[str | None, table("Serial of the board.")]
    model: Annotated[str | None, wide("Product name.")]
    chassis: Annotated[str | None, wide("Serial of the chassis.")]
    cluster: Annotated[str, table("Cluster; of one that vanished, the last.")]
    node: Annotated[str, table("Node; of one that vanished, the last.")]
    machine: Annotated[str, rest("The cloud's or machine's own name of the node.")]
    source: Annotated[str, rest("Pod that was read, as namespace/pod.")]
    previous_cluster: Annotated[str | None, table("Cluster that it moved from.")]
    previous_node: Annotated[str | None, table("Node that it moved from.")]
    changes: Annotated[Changes | None, table("Fields with before and after.")]
    last_known: Annotated[dict[str, Time] | None, rest("Fields no longer reported, and when each was last.")]
    mark: Annotated[str | None, rest("Kind of the mark that it had when this was recorded.")]
    first_sight: Annotated[bool, rest("Whether its node had never been read before.")]


class ProblemNodeRow(Row, frozen=True, kw_only=True):
    """A node that has a problem."""

    cluster: Annotated[str, rest("Cluster.")]
    node: Annotated[str, rest("Node.")]
    since: Annotated[Time | None, rest("Since when it has the problem.")]
    reason: Annotated[str, rest("Why, in the words of what failed.")]
    tries: Annotated[int | None, rest("Attempts to read it that have failed since then.")]
    next_try_at: Annotated[Time | None, rest("When it is read again, if nothing about it changes before.")]


class ProblemGpuRow(Row, frozen=True, kw_only=True):
    """A GPU that has a problem, and where it sits or sat."""

    cluster: Annotated[str, rest("Cluster.")]
    node: Annotated[str, rest("Node; of a missing GPU, the one that lacks it.")]
    serial: Annotated[str | None, rest("Serial of the board.")]
    uuid: Annotated[str | None, rest("UUID of the GPU.")]
    model: Annotated[str | None, rest("Product name.")]
    chassis: Annotated[str | None, rest("Serial of the chassis.")]
    tray: Annotated[Numbered | None, rest("Tray of the chassis.")]
    slot: Annotated[Numbered | None, rest("Slot of the chassis.")]
    module: Annotated[Numbered | None, rest("Module on the board.")]
    pci_bus_id: Annotated[str | None, rest("PCI bus address.")]
    seen_at: Annotated[Time | None, rest("When a reading found it last.")]
    reason: Annotated[str, rest("What is wrong with it.")]


class ProblemRow(Row, frozen=True, kw_only=True):
    """One problem: the same trouble of any number of GPUs, nodes or clusters."""

    id: Annotated[str, rest("Stays the same while the problem lasts.")]
    severity: Annotated[Severity, table("critical, warning or info.")]
    kind: Annotated[ProblemKind, wide("What is wrong, one of a closed set.")]
    title: Annotated[str, table("What is wrong, as a sentence.")]
    count: Annotated[int, wide("How many GPUs, nodes, clusters or batches have it.")]
    gpus_affected: Annotated[int, wide("How many GPUs it concerns, as far as they are known.")]
    consequences: Annotated[int, rest("Troubles that it explains and that are not listed on their own.")]
    since: Annotated[Time | None, table("Since when, of what has lasted for longest.")]
    reason: Annotated[str, wide("Why, in the words of what failed.")]
    remedy: Annotated[str, wide("What to do.")]
    url: Annotated[str, rest("Path of the page that shows more; empty if there is none.")]
    clusters: Annotated[list[str], wide("The clusters that have it.")]
    nodes: Annotated[list[ProblemNodeRow], wide("The first 100 nodes that have it.")]
    nodes_total: Annotated[int, rest("How many nodes have it.")]
    gpus: Annotated[list[ProblemGpuRow], rest("The first 100 GPUs that have it.")]
    gpus_total: Annotated[int, rest("How many GPUs it can name.")]


class Column(NamedTuple):
    """One column of a kind of rows."""

    name: str  # of a field of a field, its path: mark.kind
    description: str
    kind: str  # text, number, boolean, time, list or object
    shown: Shown


@functools.cache
def columns(row_type: type[msgspec.Struct]) -> tuple[Column, ...]:
    """Return the columns of a kind of rows, in the order of its fields."""
    return tuple(_column(field) for field in _fields(row_type))


@functools.cache
def flat_columns(row_type: type[msgspec.Struct]) -> tuple[Column, ...]:
    """Return the columns of a CSV file: those of an object that has fixed fields are columns of their own."""
    found: list[Column] = []
    for field in _fields(row_type):
        inner = next((one.cls for one in _alternatives(field.type) if isinstance(one, inspect.StructType)), None)
        if inner is None:
            found.append(_column(field))
        else:
            found += (one._replace(name=f"{field.encode_name}.{one.name}") for one in flat_columns(inner))
    return tuple(found)


def row_object(row: msgspec.Struct) -> dict[str, Any]:
    """Return a row as decoded JSON has it."""
    found: dict[str, Any] = msgspec.to_builtins(row)
    return found


def _fields(row_type: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(row_type)
    if not isinstance(info, inspect.StructType):  # for the type checker
        raise TypeError(f"{row_type.__name__} is no Struct")
    return info.fields


def _column(field: inspect.Field) -> Column:
    extra: dict[str, Any] = {}
    schema: Mapping[str, Any] = {}
    if isinstance(field.type, inspect.Metadata):
        extra, schema = field.type.extra or {}, field.type.extra_json_schema or {}
    return Column(
        field.encode_name,
        str(schema.get("description", "")),
        _kind(field.type),
        Shown(extra.get("shown", Shown.REST)),
    )


def _alternatives(kind: inspect.Type) -> list[inspect.Type]:
    """Return what a value may be besides null, times marked by their metadata."""
    if isinstance(kind, inspect.UnionType):
        return [inner for one in kind.types for inner in _alternatives(one)]
    if isinstance(kind, inspect.Metadata) and (kind.extra_json_schema or {}).get("format") != "date-time":
        return _alternatives(kind.type)
    return [] if isinstance(kind, inspect.NoneType) else [kind]


_KINDS: Mapping[type[inspect.Type], str] = {
    inspect.Metadata: "time",
    inspect.BoolType: "boolean",
    inspect.IntType: "number",
    inspect.ListType: "list",
    inspect.DictType: "object",
    inspect.StructType: "object",
}


def _kind(kind: inspect.Type) -> str:
    found = {_KINDS.get(type(one), "text") for one in _alternatives(kind)}
    return found.pop() if len(found) == 1 else "text"
