"""Decide what the ResourceSlices of a node reveal about GPUs that no reading can ask for.

Where a node is read, its readings decide. Where it cannot be, a GPU that an earlier reading found and that the complete
slices of the node no longer list is lost: it keeps its place, as one that does not answer does. A node that was never
read has GPUs that only slices have named; of those that they name no more, the bus address is kept.

What slices listed when a GPU was read all the same accuses nobody, and neither does a node that seems to be another
machine: it was booted since, and none of its GPUs is listed.
"""

import msgspec

from collector.model import GpuRef, NodeInfo, NodeState, SilentGpu, Unseen

__all__ = ["with_listed"]


def with_listed(before: NodeInfo, node: NodeState, time: float) -> NodeState:
    """Return a node's state with what its slices reveal at `time` (Unix seconds).

    `before` is what Kubernetes said of the node until now.
    """
    listed = node.node.listed
    if listed is None or before.uid != node.node.uid:
        return node
    unseen, silent = node.unseen, node.silent
    if node.uncovered is not None or node.failing is not None:
        unseen = _unlisted(_answering(unseen, before, listed), node, listed)
    if node.time is None and before.listed is not None:
        silent = _silent(before, node, listed, time)
    if (unseen, silent) == (node.unseen, node.silent):
        return node
    return msgspec.structs.replace(node, unseen=unseen, silent=silent)


def _answering(unseen: tuple[Unseen, ...], before: NodeInfo, listed: tuple[GpuRef, ...]) -> tuple[Unseen, ...]:
    """Return the unseen GPUs without those that slices list again."""
    if not unseen or before.listed is None or before.listed == listed:
        return unseen
    again = {ref.uuid for ref in listed} - {ref.uuid for ref in before.listed}
    return tuple(one for one in unseen if one.uuid not in again)


def _unlisted(unseen: tuple[Unseen, ...], node: NodeState, listed: tuple[GpuRef, ...]) -> tuple[Unseen, ...]:
    """Return the unseen GPUs with those that slices listed when the node was read, and do not now."""
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
        seen[gpu.uuid] = Unseen(gpu.uuid, confirmed, lost=same or (known is not None and known.lost))
    return tuple(seen.values())


def _silent(before: NodeInfo, node: NodeState, listed: tuple[GpuRef, ...], time: float) -> tuple[SilentGpu, ...]:
    """Return the GPUs of a node that was never read that are named no more, by their addresses."""
    if before.listed == listed or before.boot_id != node.node.boot_id:
        return node.silent
    had = {ref.pci_bus_id for ref in before.listed or ()}
    has = {ref.pci_bus_id for ref in listed}
    kept = [one for one in node.silent if one.pci_bus_id not in has - had]
    known = {one.pci_bus_id for one in kept}
    gone = [bus for bus in sorted(had - has - known - {None}, key=str) if bus is not None]
    return (*kept, *(SilentGpu(bus, time, node.node.boot_id) for bus in gone))
