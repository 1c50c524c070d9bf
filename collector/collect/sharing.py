"""How many GPUs a node's capacity stands for: what a unit of it is, by labels and by what readings found.

Kubernetes counts units of `nvidia.com/gpu`. One is a GPU, or a share of one (time-slicing, MPS, HAMi), or a MIG
instance. Labels may say which; where they do not, or are wrong, a capacity that is a whole multiple of what was found
is sharing: the device plugin gives every GPU of a node the same number of shares (api/config/v1/replicas.go of
k8s-device-plugin ignores any other wish). A GPU that is lost must not pass for sharing, so a multiple counts only if

- the GPUs that a reading did not find are as many as Kubernetes regards as unhealthy, at the most: the kubelet counts
  healthy and unhealthy devices in the capacity, and only healthy ones as allocatable (GetCapacity in
  pkg/kubelet/cm/devicemanager/manager.go), and
- no reading has found more since the node booted and while the capacity was the same.

Among several that could be, the one with the most GPUs is taken, and so with the most that are missing. Once a reading
has found all GPUs, the answer stands until the capacity changes, whatever is lost later.

This cannot be detected: half of a node's GPUs lost before its first reading, where Kubernetes regards all as healthy,
from GPUs that are shared twice; and GPUs with different numbers of shares, which count one by one.
"""

import functools
from collections.abc import Iterator

import msgspec

from collector.model import Sharing

__all__ = ["GpuLabels", "count_gpus", "learn", "units_per_gpu"]

MAX_GPUS = 256  # of a node; a capacity beyond it cannot count GPUs
MAX_USUAL_GPUS = 16  # of a node; where nothing else tells, a capacity up to it counts GPUs


class GpuLabels(msgspec.Struct, frozen=True, gc=False):
    """What a node's labels tell of how its capacity counts GPUs."""

    instances: bool = False  # it counts MIG instances, or not all GPUs
    shares: int = 1  # units that are one GPU; 1 proves nothing, 0: the label makes no sense
    machine: int = 0  # GPUs that a machine of this type has; 0: not known


def count_gpus(amount: int | None, units: int) -> int | None:
    """Return how many GPUs an amount of units is; None where the units are not known (0)."""
    return amount // units if amount is not None and units else None


def units_per_gpu(capacity: int | None, labels: GpuLabels, sharing: Sharing | None = None) -> int:
    """Return how many units of a capacity are one GPU; 0 where it does not count GPUs, or not all of them."""
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
    mig: bool = False,
    rebooted: bool = False,
) -> Sharing | None:
    """Return what is known after a reading.

    `before` is what was known after the last one, and `rebooted` whether the node has been booted since. `capacity` and
    `allocatable` are as advertised now, `found` is the number of GPUs, and `mig` whether any of them is cut into
    instances.
    """
    if labels.instances or not capacity or not found:
        return before
    most = found
    if before is not None and (before.units, before.labelled) == (capacity, labels.shares) and not rebooted:
        most = max(found, before.most)
        if before.complete and most * before.shares <= capacity:
            return before
    unhealthy = max(0, capacity - allocatable) if allocatable is not None else 0
    told = [*_told(capacity, labels), before.shares if before is not None else 0]
    told = [units for units in told if units > 1 and _fits(units, capacity)]  # 1 is what an absent label means, too

    def can_be(units: int) -> bool:
        """Return whether a GPU can be `units` units: the GPUs not found must be among the unhealthy."""
        gpus = capacity // units
        return gpus >= most and (gpus - found) * units <= unhealthy

    if labels.machine >= most and capacity % labels.machine == 0:
        shares = capacity // labels.machine
    else:
        shares = next((units for units in (*told, *_divisors(capacity, most)) if can_be(units)), 0)
        shares = shares or _guess(capacity, most, told, countable=not mig and _fits(labels.shares, capacity))
    return _sharing(capacity, labels.shares, most, shares, shares > 0 and capacity // shares == found)


@functools.lru_cache(maxsize=4096)
def _sharing(units: int, labelled: int, most: int, shares: int, complete: bool) -> Sharing:
    """Return one object for all nodes of which the same is known: a fleet has few kinds of nodes."""
    return Sharing(units=units, labelled=labelled, most=most, shares=shares, complete=complete)


def _told(capacity: int, labels: GpuLabels) -> Iterator[int]:
    """Yield the units that labels say are one GPU, as far as they fit the capacity; the surest first."""
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
    """Return the units of a GPU where GPUs are missing that Kubernetes regards as healthy."""
    for units in told:
        if capacity // units >= most:
            return units
    if not countable:
        return 0
    if capacity <= MAX_USUAL_GPUS:
        return 1
    return max(_divisors(capacity, most), default=1)  # the fewest GPUs that can be
