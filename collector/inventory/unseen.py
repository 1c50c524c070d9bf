"""Decides what remains known of a GPU that a reading does not find."""

from collections.abc import Collection, Mapping, Sequence

from collector.model import Gpu, GpuRef, NodeState, Reading, SilentGpu, UnidentifiedGpu, Unseen

__all__ = ["also_lost", "also_silent", "lost_since", "silent_gpus", "unseen_gpus"]


def unseen_gpus(before: NodeState, reading: Reading) -> tuple[Unseen, ...]:
    """Return the GPUs that stay in a node although its new reading did not find them.

    A bus address identifies a GPU only on the machine where it was read: after a reboot the node may be a virtual
    machine on another host, with other GPUs at the same addresses. Then no GPU is considered lost.
    """
    found = {gpu.uuid: gpu for gpu in reading.gpus}
    unseen = []
    seen = {one.uuid: one for one in before.unseen}
    if reading.lost:
        at = before.time if before.time is not None else reading.time
        here = {gpu.uuid for gpu in before.gpus}
        for gpu in reading.gpus:
            if any(ref.means(gpu) for ref in reading.lost):
                known = seen.get(gpu.uuid)
                confirmed = known.confirmed if known is not None else at if gpu.uuid in here else reading.time
                unseen.append(Unseen(gpu.uuid, confirmed, lost=True, lost_since=lost_since(known, reading.time)))
    left = [gpu for gpu in before.gpus if gpu.uuid not in found]
    if not left or before.time is None:
        return tuple(unseen)
    missing = [*reading.lost, *map(GpuRef.of, reading.unidentified)]
    same = _same_machine(before, reading, found)
    for gpu in left:
        known = seen.get(gpu.uuid)
        confirmed = before.time if known is None else known.confirmed
        if any(ref.means(gpu) for ref in reading.unread):
            unseen.append(known or Unseen(gpu.uuid, confirmed, lost=False))
        elif same is not False and (reading.partial or any(ref.means(gpu) for ref in missing)):
            since = lost_since(known, reading.time) if same else None
            unseen.append(Unseen(gpu.uuid, confirmed, lost=bool(same), lost_since=since))
    return tuple(unseen)


def lost_since(known: Unseen | None, time: float) -> float | None:
    """Return since when (Unix seconds) a GPU lost at `time` has been lost; `known` is its earlier entry."""
    return known.lost_since if known is not None and known.lost else time


def also_lost(node: NodeState, lost: Collection[GpuRef], time: float) -> tuple[Unseen, ...]:
    """Return the unseen GPUs of an unreadable node, including those that did not respond at `time` (Unix seconds)."""
    if not lost or node.time is None or node.fingerprint is None or node.fingerprint.boot_id != node.node.boot_id:
        return node.unseen
    seen = {one.uuid: one for one in node.unseen}
    for gpu in node.gpus:
        if any(ref.means(gpu) for ref in lost):
            known = seen.get(gpu.uuid)
            confirmed = node.time if known is None else known.confirmed
            seen[gpu.uuid] = Unseen(gpu.uuid, confirmed, lost=True, lost_since=lost_since(known, time))
    return tuple(seen.values())


def silent_gpus(
    before: NodeState, reading: Reading, gpus: Sequence[Gpu], unseen: Collection[Unseen]
) -> tuple[SilentGpu, ...]:
    """Return the GPUs of a node that do not respond and are known only by their bus addresses.

    `gpus` and `unseen` are the node's after the reading. Such a GPU stays until its address responds, or until a
    reading after a reboot no longer lists it; without a reboot, as long as the capacity has room for it.
    """
    named = [ref.pci_bus_id for ref in reading.lost]
    named += map(_bus, reading.unidentified)
    if not before.silent and not any(named):
        return ()
    explained = {*map(_bus, reading.gpus), *_lost_buses(gpus, unseen)}
    kept, new = _silent(before.silent, named, explained, reading.fingerprint.boot_id, reading.time)
    if (capacity := reading.node.capacity) is not None:
        kept = kept[: max(0, capacity - len(gpus) - len(new))]
    return (*kept, *new)


def also_silent(
    node: NodeState, lost: Collection[GpuRef], unseen: Collection[Unseen], time: float
) -> tuple[SilentGpu, ...]:
    """Return the same as `silent_gpus` for an unreadable node; `unseen` is the result of `also_lost`."""
    if not lost:
        return node.silent
    named = [ref.pci_bus_id for ref in lost]
    kept, new = _silent(node.silent, named, _lost_buses(node.gpus, unseen), node.node.boot_id, time)
    return (*kept, *new)


def _bus(gpu: Gpu | UnidentifiedGpu) -> str | None:
    return GpuRef.of(gpu).pci_bus_id


def _lost_buses(gpus: Collection[Gpu], unseen: Collection[Unseen]) -> set[str | None]:
    """Return the addresses of known lost GPUs."""
    lost = {one.uuid for one in unseen if one.lost}
    return {_bus(gpu) for gpu in gpus if gpu.uuid in lost} if lost else set()


def _silent(
    before: Collection[SilentGpu],
    named: Collection[str | None],
    explained: Collection[str | None],
    boot: str,
    time: float,
) -> tuple[list[SilentGpu], list[SilentGpu]]:
    """Return the GPUs that remain silent though no longer listed, if not rebooted, and those listed now.

    `explained` are the addresses of GPUs with more known data.
    """
    since = {one.pci_bus_id: one.since for one in before}
    now = dict.fromkeys(bus for bus in named if bus is not None and bus not in explained)
    kept = [one for one in before if one.boot_id and one.boot_id == boot and one.pci_bus_id not in {*now, *explained}]
    return kept, [SilentGpu(bus, since.get(bus, time), boot) for bus in now]


def _same_machine(before: NodeState, reading: Reading, found: Mapping[str, Gpu]) -> bool | None:
    """Return whether a node's bus addresses mean the same as at its last reading; None if unknown."""
    if before.fingerprint is not None and before.fingerprint.boot_id == reading.fingerprint.boot_id:
        return True
    by_bus = {_bus(gpu): gpu.uuid for gpu in before.gpus if gpu.pci_bus_id}
    agree = [by_bus[bus] == gpu.uuid for gpu in found.values() if (bus := _bus(gpu)) in by_bus]
    return all(agree) if agree else None
