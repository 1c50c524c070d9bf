"""What a node's ResourceSlices add to its info: its GPUs, and how many it has."""

import dataclasses

import msgspec

from collector.collect.gpu_signs import SLICE_SIGN
from collector.collect.slices import NodeDevices
from collector.model import NodeInfo

__all__ = ["Boards", "with_devices"]

SETTLE_SECONDS = 600.0  # after a boot: until then, slices may still be those of the previous boot


@dataclasses.dataclass(slots=True)
class Boards:
    """The most GPUs that slices have listed since a node booted.

    A driver that loses a GPU lists one less, and the node must not look complete because of that. A removed board is
    gone after the next boot. GPUs passed to virtual machines are counted too, so that one that returns is not an extra
    one.
    """

    boot_id: str = ""
    since: float = float("-inf")  # when the boot was observed; long ago for the first one
    most: int = 0

    def change(self, before: NodeDevices | None, after: NodeDevices | None, now: float) -> None:
        """Apply a change of the slices."""
        listed = [after] if before is None or now - self.since < SETTLE_SECONDS else [before, after]
        self.most = max(self.most, *(one.gpus + one.passed for one in listed if one is not None), 0)

    def reboot(self, boot_id: str, now: float) -> None:
        """Start over after a boot, including the first one."""
        if self.boot_id:
            self.since, self.most = now, 0
        self.boot_id = boot_id

    def restore(self, boot_id: str, most: int) -> None:
        """Restore the state of an earlier run."""
        self.boot_id, self.most = boot_id, max(most, self.most)


def with_devices(facts: NodeInfo, devices: NodeDevices, most: int) -> NodeInfo:
    """Return a node's info with its slices; up to `most` GPUs were listed since boot, including passed-through ones.

    A device plugin may count the same GPUs or others of the node: the larger number is used, never the sum.
    """
    capacity = max(devices.gpus, most - devices.passed)
    if not capacity and not devices.passed:  # the driver runs but has never found a GPU
        return msgspec.structs.replace(facts, listed=devices.listed)
    allocatable = devices.usable
    if facts.capacity:
        capacity = max(capacity, facts.capacity)
        allocatable = max(allocatable, facts.allocatable or 0)
    return msgspec.structs.replace(
        facts,
        capacity=capacity,
        allocatable=min(allocatable, capacity),
        listed=devices.listed,
        gpu_sign=facts.gpu_sign or SLICE_SIGN,
    )
