"""Data that shards exchange about their clusters: which shard reads each, and its status."""

import msgspec

from collector.model import ClusterStatus, LabelTrouble, SliceStatus, Survey

__all__ = ["ClusterOwner", "ClusterReport", "ShardLease"]


class ClusterOwner(msgspec.Struct, frozen=True, kw_only=True):
    """The shard that currently reads and records a cluster."""

    shard: int | None = None  # None: no shard does
    holder: str = ""  # the process, for users: host name and pid; if no shard reads the cluster, the last one
    own: bool = False  # whether it is this process


class ShardLease(msgspec.Struct, frozen=True, kw_only=True):
    """One shard that has run at some time, and the process that holds its lease or held it last."""

    shard: int
    holder: str
    held: bool  # the lease has not expired


class ClusterReport(msgspec.Struct, frozen=True, kw_only=True):
    """The status of a cluster as reported by its owner to the other shards; times are Unix seconds."""

    status: ClusterStatus
    synced: float | None = None  # the last proof that its view is current, at least once a minute
    survey: Survey | None = None
    slices: SliceStatus | None = None
    resembles: tuple[str, ...] = ()
    label_trouble: LabelTrouble | None = None
