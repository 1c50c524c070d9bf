"""Decides what a node's ResourceSlices reveal about GPUs that cannot be read.

If a node can be read, its readings decide. If not, a GPU that an earlier reading found and that the node's complete
slices no longer list is lost: it keeps its place, like one that does not respond. On a node that was never read, only
slices have listed GPUs; for those that they no longer list, the bus address is kept.

Such a GPU is back as soon as slices list it, however long they were not visible in between. One that a reading found
lost stays lost while slices keep listing it; it is back when they list it again after not doing so.

Slices are ignored if they already lacked the GPU when it was read, or if the node seems to be a different machine:
it has booted since, and none of its GPUs is listed.
"""

from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import TypeVar

import msgspec

from collector.inventory.unseen import lost_since
from collector.model import GpuRef, NodeInfo, NodeState, SilentGpu, Unseen

__all__ = ["with_listed"]

_Gone = TypeVar("_Gone", Unseen, SilentGpu)
_Name = Callable[[Unseen | SilentGpu | GpuRef], str | None]
_UUID: _Name = attrgetter("uuid")
_BUS: _Name = attrgetter("pci_bus_id")


def with_listed(before: NodeInfo, node: NodeState, time: float) -> NodeState:
    """Return a node's state with what its slices reveal at `time` (Unix seconds).

    `before` is Kubernetes' previous data on the node.
    """
    listed = node.node.listed
    if listed is None or before.uid != node.node.uid:
        return node
    unseen, silent = node.unseen, node.silent
    if node.uncovered is not None or node.failing is not None:
        unseen = _unlisted(_still(unseen, before, listed, _UUID), node, listed, time)
        silent = _still(silent, before, listed, _BUS)
    elif node.time is None:
        silent = _still(silent, before, listed, _BUS)
    if node.time is None and before.listed is not None and before.boot_id == node.node.boot_id:
        silent = (*silent, *_silent_now(silent, before.listed, node, listed, time))
    if (unseen, silent) == (node.unseen, node.silent):
        return node
    return msgspec.structs.replace(node, unseen=unseen, silent=silent)


def _still(gone: tuple[_Gone, ...], before: NodeInfo, listed: tuple[GpuRef, ...], name: _Name) -> tuple[_Gone, ...]:
    """Return the unseen or silent GPUs, by key, without those that slices list again."""
    if not gone:
        return gone
    has = set(map(name, listed))
    again = set() if before.listed is None else has - set(map(name, before.listed))
    return tuple(one for one in gone if name(one) not in (has if one.unlisted else again))


def _unlisted(
    unseen: tuple[Unseen, ...], node: NodeState, listed: tuple[GpuRef, ...], time: float
) -> tuple[Unseen, ...]:
    """Return the unseen GPUs and those that slices listed when the node was read but no longer do."""
    if node.time is None or node.fingerprint is None:
        return unseen
    uuids = {ref.uuid for ref in listed}
    passed = {ref.pci_bus_id for ref in listed if ref.uuid is None}  # given to virtual machines, not lost
    read = node.fingerprint.listed
    could_be = None if read is None else {ref.uuid for ref in read}
    missing = [
        gpu
        for gpu in node.gpus
        if gpu.uuid not in uuids
        and gpu.uuid not in node.claims
        and (could_be is None or gpu.uuid in could_be)
        and GpuRef.of(gpu).pci_bus_id not in passed
    ]
    if not missing:
        return unseen
    same = node.fingerprint.boot_id == node.node.boot_id or any(gpu.uuid in uuids for gpu in node.gpus)
    seen = {one.uuid: one for one in unseen}
    for gpu in missing:
        known = seen.get(gpu.uuid)
        confirmed = node.time if known is None else known.confirmed
        # A new machine's slices may have arrived before its boot ID: then undo their effect.
        was_lost = known is not None and known.lost and not (known.unlisted and uuids)
        lost = same or was_lost
        since = lost_since(known, time) if lost else None
        seen[gpu.uuid] = Unseen(gpu.uuid, confirmed, lost, unlisted=True, lost_since=since)
    return tuple(seen.values())


def _silent_now(
    silent: tuple[SilentGpu, ...],
    before: tuple[GpuRef, ...],
    node: NodeState,
    listed: tuple[GpuRef, ...],
    time: float,
) -> Iterator[SilentGpu]:
    """Yield, by address, the GPUs of a never-read node that are no longer listed."""
    if before == listed:
        return
    known = {one.pci_bus_id for one in silent} | {ref.pci_bus_id for ref in listed}
    for bus in sorted({ref.pci_bus_id for ref in before if ref.pci_bus_id is not None} - known):
        yield SilentGpu(bus, time, node.node.boot_id, unlisted=True)
