"""Decide what stays known of a GPU that a reading does not find, or of which it says less than the ones before."""

from collections.abc import Collection, Mapping

import msgspec

from collector.model import Gpu, GpuRef, NodeState, Reading, Unseen, canonical_bus_id

__all__ = ["also_lost", "unseen_gpus", "with_last_known"]

# What a GPU keeps when a reading no longer says it. Where the GPU was read in another node, only what is its own.
_OWN_FIELDS = ("serial", "model", "architecture", "board_part_number", "gpu_part_number")
_FIELDS = (*_OWN_FIELDS, "chassis")


def unseen_gpus(before: NodeState, reading: Reading) -> tuple[Unseen, ...]:
    """Return which GPUs of a node stay in it although its new reading did not find them.

    A bus address names a GPU only on the machine on which it was read: after a reboot the node may be a virtual machine
    on another host, with other GPUs at the same addresses. Then nobody is accused.
    """
    found = {gpu.uuid: gpu for gpu in reading.gpus}
    unseen = []
    if reading.lost:
        known = {one.uuid: one.confirmed for one in before.unseen}
        at = before.time if before.time is not None else reading.time
        here = {gpu.uuid for gpu in before.gpus}
        unseen += [
            Unseen(gpu.uuid, known.get(gpu.uuid, at if gpu.uuid in here else reading.time), lost=True)
            for gpu in reading.gpus
            if any(ref.means(gpu) for ref in reading.lost)
        ]
    left = [gpu for gpu in before.gpus if gpu.uuid not in found]
    if not left or before.time is None:
        return tuple(unseen)
    missing = [*reading.lost, *(GpuRef(pci_bus_id=_bus(one.pci_bus_id)) for one in reading.unidentified)]
    same = _same_machine(before, reading, found)
    seen = {one.uuid: one for one in before.unseen}
    for gpu in left:
        confirmed = seen[gpu.uuid].confirmed if gpu.uuid in seen else before.time
        if any(ref.means(gpu) for ref in reading.unread):
            was_lost = gpu.uuid in seen and seen[gpu.uuid].lost
            unseen.append(Unseen(gpu.uuid, confirmed, lost=was_lost))
        elif same is not False and (reading.partial or any(ref.means(gpu) for ref in missing)):
            unseen.append(Unseen(gpu.uuid, confirmed, lost=bool(same)))
    return tuple(unseen)


def also_lost(node: NodeState, lost: Collection[GpuRef]) -> tuple[Unseen, ...]:
    """Return the unseen GPUs of a node that cannot be read, with those that did not answer."""
    if not lost or node.time is None or node.fingerprint is None or node.fingerprint.boot_id != node.node.boot_id:
        return node.unseen
    seen = {one.uuid: one for one in node.unseen}
    for gpu in node.gpus:
        if any(ref.means(gpu) for ref in lost):
            confirmed = seen[gpu.uuid].confirmed if gpu.uuid in seen else node.time
            seen[gpu.uuid] = Unseen(gpu.uuid, confirmed, lost=True)
    return tuple(seen.values())


def with_last_known(gpu: Gpu, known: Gpu, *, same_node: bool) -> Gpu:
    """Return a GPU with the values that only an earlier reading of it has, marked as such."""
    if gpu.virtual:
        return gpu
    fields = _FIELDS if same_node else _OWN_FIELDS
    kept = {
        name: value for name in fields if getattr(gpu, name) is None and (value := getattr(known, name)) is not None
    }
    return msgspec.structs.replace(gpu, **kept, last_known=",".join(kept)) if kept else gpu


def _bus(text: str | None) -> str | None:
    return canonical_bus_id(text) if text else None


def _same_machine(before: NodeState, reading: Reading, found: Mapping[str, Gpu]) -> bool | None:
    """Return whether a node's bus addresses mean what they meant in its last reading; None if that is not known."""
    if before.fingerprint is not None and before.fingerprint.boot_id == reading.fingerprint.boot_id:
        return True
    by_bus = {_bus(gpu.pci_bus_id): gpu.uuid for gpu in before.gpus if gpu.pci_bus_id}
    agree = [by_bus[bus] == gpu.uuid for gpu in found.values() if (bus := _bus(gpu.pci_bus_id)) in by_bus]
    return all(agree) if agree else None
