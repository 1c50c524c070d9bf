"""A GPU as nvidia-smi describes it, and references to one."""

from typing import NamedTuple, Self

import msgspec

from collector.health import HEALTH_FIELDS, Health

__all__ = [
    "KEPT_FIELDS",
    "SEAT_FIELDS",
    "Gpu",
    "GpuRef",
    "LastReport",
    "UnidentifiedGpu",
    "canonical_bus_id",
    "canonical_uuid",
    "on_one_board",
]


# Fields that identify a GPU, its board and its chassis, and never change by themselves: kept as last known.
KEPT_FIELDS = ("serial", "model", "architecture", "board_part_number", "gpu_part_number", "chassis")
# A GPU's position: kept for one in no node, so that it can be found and pulled.
SEAT_FIELDS = ("tray", "slot", "host", "module", "pci_bus_id", "minor_number")


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


class UnidentifiedGpu(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A GPU listed by `nvidia-smi -q -x` without a UUID, such as one lost by the driver."""

    serial: str | None = None
    model: str | None = None
    chassis: str | None = None
    pci_bus_id: str | None = None


class GpuRef(NamedTuple):
    """A reference to a GPU of a node, as far as known; both fields are None if the tool does not say."""

    uuid: str | None = None
    pci_bus_id: str | None = None  # in the form of `canonical_bus_id`

    @classmethod
    def of(cls, gpu: Gpu | UnidentifiedGpu) -> Self:
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


def canonical_uuid(text: str) -> str:
    """Return a GPU's UUID in the tool's spelling, whatever its case, so that a GPU has one key."""
    prefix, dash, rest = text.partition("-")
    return prefix.upper() + dash + rest.lower() if prefix.upper() == "GPU" else text


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
