"""The state of a cluster, and of what is watched or written in it."""

from enum import StrEnum
from typing import NamedTuple

import msgspec

__all__ = [
    "ClusterState",
    "ClusterStatus",
    "LabelFailure",
    "LabelTrouble",
    "SliceState",
    "SliceStatus",
    "Survey",
    "WatchRestart",
]


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
