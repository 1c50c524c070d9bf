"""The types that all other modules share; without I/O or decisions."""

from collector.model.change import CHANGE_EVENTS, Change, Event, Step
from collector.model.cluster import (
    ClusterState,
    ClusterStatus,
    LabelFailure,
    LabelTrouble,
    SliceState,
    SliceStatus,
    Survey,
    WatchRestart,
)
from collector.model.differences import FieldChange, field_changes, health_changes
from collector.model.errors import GpuidError, ReadError, ReadFailure
from collector.model.gpu import (
    KEPT_FIELDS,
    SEAT_FIELDS,
    Gpu,
    GpuRef,
    LastReport,
    UnidentifiedGpu,
    canonical_bus_id,
    canonical_uuid,
    on_one_board,
)
from collector.model.node import Fingerprint, NodeInfo, Place, Sharing
from collector.model.node_state import NO_UUIDS, NodeState, Placement, SilentGpu, Unseen
from collector.model.reading import UNREAD_REASONS, Failing, Known, Reading, Uncovered, Unread, UnreadReason
from collector.model.record import SinkRecord, changes_object, last_known_object

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
