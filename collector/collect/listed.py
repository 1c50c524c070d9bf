"""What the ResourceSlices of a node add to what is known of it: its GPUs, and how many it has."""

import dataclasses

import msgspec

from collector.collect.gpu_signs import SLICE_SIGN
from collector.collect.slices import NodeDevices
from collector.model import NodeInfo

__all__ = ["Boards", "with_devices"]

SETTLE_SECONDS = 600.0  # after a boot: until then, slices may still be those of the boot before


@dataclasses.dataclass(slots=True)
class Boards:
    """The most GPUs that slices have listed since a node booted.

    A driver that loses a GPU lists one less, and its node must not seem complete for that. A board that is taken out is
    gone with the next boot. Those that virtual machines have are counted too, so that one which comes back is no more.
    """

    boot_id: str = ""
    since: float = float("-inf")  # when it was seen to boot; long ago for the first boot that was seen
    most: int = 0

    def change(self, before: NodeDevices | None, after: NodeDevices | None, now: float) -> None:
        """Take a change of what the slices say."""
        listed = [after] if before is None or now - self.since < SETTLE_SECONDS else [before, after]
        self.most = max(self.most, *(one.gpus + one.passed for one in listed if one is not None), 0)

    def reboot(self, boot_id: str, now: float) -> None:
        """Start over in another boot, the first one included."""
        if self.boot_id:
            self.since, self.most = now, 0
        self.boot_id = boot_id

    def restore(self, boot_id: str, most: int) -> None:
        """Take up what an earlier run knew."""
        self.boot_id, self.most = boot_id, max(most, self.most)


def with_devices(facts: NodeInfo, devices: NodeDevices, most: int) -> NodeInfo:
    """Return a node's info with what its slices say; `most` GPUs were listed since it booted, passed ones included.

    A device plugin may count the same GPUs, or others of the node: the larger number is taken, never the sum.
    """
    capacity = max(devices.gpus, most - devices.passed)
    if not capacity and not devices.passed:  # the driver runs where it has never found a GPU
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
