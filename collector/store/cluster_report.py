"""What the shards of an installation tell each other of their clusters: who reads each, and how it is."""

import msgspec

from collector.model import ClusterStatus, LabelTrouble, SliceStatus, Survey

__all__ = ["ClusterOwner", "ClusterReport", "ShardLease"]


class ClusterOwner(msgspec.Struct, frozen=True, kw_only=True):
    """Which shard reads and records a cluster at present."""

    shard: int | None = None  # None: no shard does
    holder: str = ""  # the process, for people: host name and pid; of a cluster that no shard reads, the last one
    own: bool = False  # it is this process


class ShardLease(msgspec.Struct, frozen=True, kw_only=True):
    """One shard that has run at some time, and the process that holds its lease, or held it last."""

    shard: int
    holder: str
    held: bool  # the lease has not expired


class ClusterReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a cluster is, as its owner tells the other shards; times are Unix seconds."""

    status: ClusterStatus
    synced: float | None = None  # the last proof that its view is current, at least once a minute
    survey: Survey | None = None
    slices: SliceStatus | None = None
    resembles: tuple[str, ...] = ()
    label_trouble: LabelTrouble | None = None
