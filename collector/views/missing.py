"""Which GPUs a node lacks: those that were in it last, are in no node now, and whose seats are empty."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from collector.inventory import Inventory
from collector.model import Gpu, NodeState, canonical_bus_id
from collector.views.cluster_summary import missing_gpus

__all__ = ["MissingGpu", "missing_from"]


class MissingGpu(NamedTuple):
    """A GPU that a node lacks, as it was when it was there; times are Unix seconds."""

    gpu: Gpu  # as far as it is known: what identifies it, and where it sat
    last_seen: float | None  # when a reading found it last; None: before anything that is remembered
    left: float | None  # when a reading no longer found it


def missing_from(inventory: Inventory, entry: NodeState) -> list[MissingGpu]:
    """Return the GPUs that a node lacks, the last to leave first; fewer than it lacks where not all were ever seen."""
    return list(itertools.islice(_candidates(inventory, entry), missing_gpus(entry)))


def _candidates(inventory: Inventory, entry: NodeState) -> Iterator[MissingGpu]:
    """Yield what left the node and may be missing: no other GPU has taken its seat."""
    taken = {seat for gpu in entry.gpus for seat in _seats(gpu)}
    taken |= {canonical_bus_id(one.pci_bus_id) for one in entry.silent}
    for uuid, absent in reversed(list(inventory.absent_from(entry.place).items())):
        gpu = absent.facts or Gpu(uuid=uuid)
        if taken.isdisjoint(_seats(gpu)):
            yield MissingGpu(gpu, absent.read or None, absent.time or None)


def _seats(gpu: Gpu) -> Iterator[object]:
    """Yield what names the place of a GPU in its node, each by itself."""
    if gpu.pci_bus_id:
        yield canonical_bus_id(gpu.pci_bus_id)
    if gpu.module:
        yield gpu.chassis, gpu.tray, gpu.slot, gpu.host, gpu.module
