"""Determines how many GPUs a node's capacity represents: the meaning of a unit, from labels and readings.

Kubernetes counts units of `nvidia.com/gpu`. A unit is a GPU, a share of one (time-slicing, MPS, HAMi), or a MIG
instance. Labels may say which; if they do not, or are wrong, a capacity that is an integer multiple of the GPUs found
means sharing: the device plugin gives every GPU of a node the same number of shares (api/config/v1/replicas.go of
k8s-device-plugin ignores anything else). A lost GPU must not pass for sharing, so a multiple counts only if

- a reading misses at most as many GPUs as Kubernetes considers unhealthy: the kubelet counts
  healthy and unhealthy devices in the capacity, and only healthy ones as allocatable (GetCapacity in
  pkg/kubelet/cm/devicemanager/manager.go), and
- no reading has found more since the node booted and while the capacity was the same; a reading that found more than
  there are units counts as one that found as many.

Of several candidates, the one with the most GPUs, and so the most missing ones, is chosen. Once a reading has found all
GPUs, the result holds until the capacity changes, whatever is lost later, or found in addition: a GPU may be attached
before the device plugin counts it.

Two cases cannot be detected: half of a node's GPUs lost before its first reading while Kubernetes considers all
healthy, which looks like two shares per GPU; and GPUs with different numbers of shares, which are counted individually.
"""

import functools
from collections.abc import Iterator

import msgspec

from collector.model import Sharing

__all__ = ["GpuLabels", "count_gpus", "learn", "units_per_gpu"]

MAX_GPUS = 256  # of a node; a capacity beyond it cannot count GPUs
MAX_USUAL_GPUS = 16  # of a node; without other evidence, a capacity up to it counts GPUs


class GpuLabels(msgspec.Struct, frozen=True, gc=False):
    """What a node's labels reveal about how its capacity counts GPUs."""

    instances: bool = False  # it counts MIG instances, or not all GPUs
    shares: int = 1  # units per GPU; 1 proves nothing, 0: the label is invalid
    machine: int = 0  # GPUs of this instance type; 0: unknown


def count_gpus(amount: int | None, units: int) -> int | None:
    """Return the number of GPUs in an amount of units; None if the units are unknown (0)."""
    return amount // units if amount is not None and units else None


def units_per_gpu(capacity: int | None, labels: GpuLabels, sharing: Sharing | None = None) -> int:
    """Return how many units of a capacity are one GPU; 0 if it does not count GPUs, or not all of them."""
    if labels.instances or capacity is None:
        return 0
    if sharing is not None and sharing.labelled == labels.shares:
        if sharing.units == capacity:
            return sharing.shares
        if sharing.shares and capacity % sharing.shares == 0:
            return sharing.shares
    return next(_told(capacity, labels), 0)


def learn(
    before: Sharing | None,
    labels: GpuLabels,
    *,
    capacity: int | None,
    allocatable: int | None,
    found: int,
    mig: bool,
    rebooted: bool,
) -> Sharing | None:
    """Return the updated knowledge after a reading.

    `before` is the knowledge after the last one, `rebooted` whether the node has booted since. `capacity` and
    `allocatable` are as advertised now, `found` is the number of GPUs, and `mig` whether any of them is partitioned.
    """
    if labels.instances or not capacity or not found:
        return before
    most = found
    complete = False
    if before is not None and (before.units, before.labelled) == (capacity, labels.shares) and not rebooted:
        most = max(found, min(before.most, capacity))
        complete = before.complete
        if complete and most * before.shares <= capacity:
            return before
    unhealthy = max(0, capacity - allocatable) if allocatable is not None else 0
    told = [*_told(capacity, labels), before.shares if before is not None else 0]
    told = [units for units in told if units > 1 and _fits(units, capacity)]  # an absent label also means 1

    def can_be(units: int) -> bool:
        """Return whether a GPU can be `units` units: the GPUs not found must be among the unhealthy."""
        gpus = capacity // units
        return gpus >= most and (gpus - found) * units <= unhealthy

    if labels.machine >= most and capacity % labels.machine == 0:
        shares = capacity // labels.machine
    else:
        shares = next((units for units in (*told, *_divisors(capacity, most)) if can_be(units)), 0)
        if complete and not shares:
            return before
        shares = shares or _guess(capacity, most, told, countable=not mig and _fits(labels.shares, capacity))
    return _sharing(capacity, labels.shares, most, shares, shares > 0 and capacity // shares == found)


@functools.lru_cache(maxsize=4096)
def _sharing(units: int, labelled: int, most: int, shares: int, complete: bool) -> Sharing:
    """Return one object for all nodes with the same knowledge: a fleet has few kinds of nodes."""
    return Sharing(units=units, labelled=labelled, most=most, shares=shares, complete=complete)


def _told(capacity: int, labels: GpuLabels) -> Iterator[int]:
    """Yield the units per GPU according to labels, as far as they fit the capacity; the most reliable first."""
    if capacity and _fits(labels.machine, capacity):
        yield capacity // labels.machine
    if _fits(labels.shares, capacity):
        yield labels.shares


def _fits(units: int, capacity: int) -> bool:
    return units > 0 and capacity % units == 0


def _divisors(capacity: int, least: int) -> Iterator[int]:
    """Yield possible numbers of units per GPU that give a node at least this many GPUs, most GPUs first."""
    for gpus in range(min(capacity, MAX_GPUS), least - 1, -1):
        if capacity % gpus == 0:
            yield capacity // gpus


def _guess(capacity: int, most: int, told: list[int], *, countable: bool) -> int:
    """Return the units per GPU if GPUs are missing that Kubernetes considers healthy."""
    for units in told:
        if capacity // units >= most:
            return units
    if not countable:
        return 0
    if capacity <= MAX_USUAL_GPUS:
        return 1
    return max(_divisors(capacity, most), default=1)  # the smallest possible number of GPUs
