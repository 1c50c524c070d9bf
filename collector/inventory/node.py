"""One node of the inventory: as it is kept, and as it is taken down and restored."""

import msgspec

from collector.model import Failing, Fingerprint, Gpu, NodeInfo, Place

__all__ = ["NONE", "NodeEntry", "NodeSnapshot"]

NONE: frozenset[str] = frozenset()  # one for all nodes: each empty set of its own would take 200 bytes


class NodeSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All that the inventory knows of one node at one instant; from these it is restored."""

    place: Place
    node: NodeInfo
    time: float | None  # Unix seconds of the last reading, None before the first
    driver_version: str | None
    cuda_version: str | None
    source: str
    fingerprint: Fingerprint | None
    gpus: tuple[Gpu, ...]  # those that are here
    since: tuple[float, ...]  # beside `gpus`
    superseded: frozenset[str]  # UUIDs that the last reading had, but that have since been seen on another node


class NodeEntry:
    """One node with a GPU pod, as it is published; read-only outside the inventory."""

    __slots__ = (
        "alone",
        "cuda_version",
        "driver_version",
        "failing",
        "fingerprint",
        "gpus",
        "node",
        "place",
        "since",
        "source",
        "superseded",
        "time",
    )

    def __init__(self, place: Place, node: NodeInfo) -> None:
        self.place = place
        self.node = node
        self.time: float | None = None  # Unix seconds of the last reading, None before the first
        self.failing: Failing | None = None  # None after a reading, and before the first attempt
        self.driver_version: str | None = None
        self.cuda_version: str | None = None
        self.source = ""  # `namespace/pod` that was read
        self.fingerprint: Fingerprint | None = None
        self.gpus: tuple[Gpu, ...] = ()  # those that are here; each has a UUID
        self.since: tuple[float, ...] = ()  # beside `gpus`: Unix seconds since when each is here
        # UUIDs that the last reading had, but that have since been seen on another node.
        self.superseded = NONE
        self.alone = (self,)  # what the indexes hold for a GPU that is here and nowhere else; one tuple for all of them

    @property
    def found(self) -> int | None:
        """How many GPUs are here; None before the first reading."""
        return None if self.time is None else len(self.gpus)

    def since_of(self, uuid: str) -> float:
        """Tell since when a GPU that is here is here."""
        return next(since for gpu, since in zip(self.gpus, self.since, strict=True) if gpu.uuid == uuid)

    def snapshot(self) -> NodeSnapshot:
        """Take down all that is known."""
        return NodeSnapshot(
            place=self.place,
            node=self.node,
            time=self.time,
            driver_version=self.driver_version,
            cuda_version=self.cuda_version,
            source=self.source,
            fingerprint=self.fingerprint,
            gpus=self.gpus,
            since=self.since,
            superseded=self.superseded,
        )

    @property
    def chassis(self) -> str:
        """The serial of the chassis that the GPUs are in; several joined by a comma, empty where none is known."""
        return ",".join(sorted({gpu.chassis for gpu in self.gpus if gpu.chassis}))
