"""The GPUs missing from a node: last seen there, in no node now, and with an empty seat."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from collector.inventory import Inventory
from collector.model import Gpu, NodeState, canonical_bus_id
from collector.views.cluster_summary import missing_gpus

__all__ = ["MissingGpu", "missing_from"]


class MissingGpu(NamedTuple):
    """A GPU missing from a node, as it was there; times are Unix seconds."""

    gpu: Gpu  # as far as known: identity and position
    last_seen: float | None  # when a reading last found it; None: before the first record
    left: float | None  # when a reading no longer found it


def missing_from(inventory: Inventory, entry: NodeState) -> list[MissingGpu]:
    """Return the GPUs missing from a node, last to leave first; only those that were ever seen."""
    return list(itertools.islice(_candidates(inventory, entry), missing_gpus(entry)))


def _candidates(inventory: Inventory, entry: NodeState) -> Iterator[MissingGpu]:
    """Yield GPUs that left the node and may be missing, since no other GPU has taken their seats."""
    taken = {seat for gpu in entry.gpus for seat in _seats(gpu)}
    taken |= {canonical_bus_id(one.pci_bus_id) for one in entry.silent}
    for uuid, absent in reversed(list(inventory.absent_from(entry.place).items())):
        gpu = absent.facts or Gpu(uuid=uuid)
        if taken.isdisjoint(_seats(gpu)):
            yield MissingGpu(gpu, absent.read or None, absent.time or None)


def _seats(gpu: Gpu) -> Iterator[object]:
    """Yield the values that each identify a GPU's position in its node."""
    if gpu.pci_bus_id:
        yield canonical_bus_id(gpu.pci_bus_id)
    if gpu.module:
        yield gpu.chassis, gpu.tray, gpu.slot, gpu.host, gpu.module
