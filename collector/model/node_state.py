"""The inventory's state of one node, with the placements of its GPUs."""

from typing import NamedTuple

import msgspec

from collector.health import Condition, Degradation, Level, degradations, worst_level
from collector.model.gpu import Gpu, GpuRef
from collector.model.node import Fingerprint, NodeInfo, Place, Sharing
from collector.model.reading import Failing, Uncovered, Unread

__all__ = [
    "NO_UUIDS",
    "NodeState",
    "Placement",
    "SilentGpu",
    "Unseen",
]


NO_UUIDS: frozenset[str] = frozenset()  # shared by all nodes: an empty set for each would cost 200 bytes


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
