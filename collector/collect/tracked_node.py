"""What is tracked of one node: its pods, the last attempt to read it, and what was reported and logged."""

import dataclasses
from typing import NamedTuple

import msgspec

from collector.collect import schedule
from collector.collect.listed import Boards, with_devices
from collector.collect.log_times import LogState
from collector.collect.objects import NodeObject
from collector.collect.schedule import Attempt, Candidate
from collector.collect.sharing import count_gpus, units_per_gpu
from collector.collect.slices import NodeDevices
from collector.model import Fingerprint, NodeInfo, ReadFailure, Sharing, UnreadReason

__all__ = ["Target", "TrackedNode"]


@dataclasses.dataclass(slots=True, eq=False)
class TrackedNode:
    """The tracked state of one node: its pods, the last attempt, and what was reported and logged."""

    name: str
    pods: dict[tuple[int, str], Candidate] = dataclasses.field(default_factory=dict)  # by source and pod
    observed: bool = False  # the observer knows the node
    observed_info: NodeInfo | None = None  # as reported to the observer
    observed_pod: bool = False  # likewise whether it has a pod that may be read
    observed_uncovered: UnreadReason | None = None  # likewise
    observed_before: bool = False  # the observer knows the node from an earlier queue, in whatever state
    attempt: Attempt | None = None
    reading: bool = False  # handed out, not done yet
    verify_at: float | None = None  # when to read it again, whatever the last attempt set
    read_at: float | None = None  # the time of the observer's reading of it
    log_state: LogState | None = None  # once it is read from one
    was_read: bool = False  # the observer has a reading of it
    found: int = 0  # GPUs in that, as far as this queue knows
    sharing: Sharing | None = None  # what that revealed about its capacity
    devices: NodeDevices | None = None  # from its ResourceSlices
    boards: Boards | None = None  # the most they listed since it booted; None if they have listed none
    read_boot_id: str = ""  # of the boot in which it was made
    podless_since: float | None = None  # since when it has had no pod with the container
    grace_until: float | None = None  # when the grace for a missing ready pod ends; None while it has one
    warned: bool = False  # the missing pod was logged, after its grace
    last_failure: ReadFailure | None = None  # failure of the last attempt; None after a success
    last_warnings: tuple[str, ...] = ()  # of the last successful reading

    @property
    def log(self) -> LogState:
        """The state of the log that it is read from."""
        if self.log_state is None:
            self.log_state = LogState()
        return self.log_state

    @property
    def has_candidates(self) -> bool:
        """Whether any of its pods may have the container to read."""
        return not all(map(schedule.lacks_container, self.pods.values()))

    def info(self, known: NodeObject, now: float) -> NodeInfo:
        """Return the node's info with its capacity in GPUs, as far as known from readings and ResourceSlices."""
        facts = _shared(known, self.sharing)
        if self.devices is None:
            return facts
        self.boards = self.boards or Boards()
        if self.boards.boot_id != facts.boot_id:
            self.boards.reboot(facts.boot_id, now)
        return with_devices(facts, self.devices, self.boards.most)


class Target(NamedTuple):
    """The pod through which a node is read, and the fingerprint of a reading made now."""

    node: TrackedNode
    candidate: Candidate
    fingerprint: Fingerprint


def _shared(known: NodeObject, sharing: Sharing | None) -> NodeInfo:
    """Return a node's info with its capacity in GPUs, as far as readings have shown how many units are one GPU."""
    if sharing is None:
        return known.facts
    advertised = known.facts.advertised
    units = units_per_gpu(advertised[0], known.labels, sharing)
    capacity, allocatable = (count_gpus(amount, units) for amount in advertised)
    if (capacity, allocatable) == (known.facts.capacity, known.facts.allocatable):
        return known.facts  # keep a single copy
    return msgspec.structs.replace(known.facts, capacity=capacity, allocatable=allocatable)
