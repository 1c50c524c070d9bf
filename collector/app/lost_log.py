"""Logs which GPUs of a node stopped responding, and which respond again."""

import logging

from collector.model import NO_UUIDS, GpuRef, NodeState
from collector.timestamps import rfc3339

__all__ = ["log_lost"]

log = logging.getLogger(__name__)

_UNLISTED = "is no longer listed by ResourceSlices"


def log_lost(before: NodeState | None, after: NodeState | None) -> None:
    """Log which GPUs of a node stopped responding since its last reading, and which respond again."""
    if after is None:
        return
    _log_silent(before, after)
    was = before.lost_uuids if before is not None else NO_UUIDS
    if after.lost_uuids == was:
        return
    for placement in after.placements():
        gpu = placement.gpu
        fields = {
            "cluster": after.place.cluster,
            "node": after.place.node,
            "uuid": gpu.uuid,
            "bus": gpu.pci_bus_id or "",
        }
        if gpu.serial:
            fields["serial"] = gpu.serial
        if placement.lost and gpu.uuid not in was:
            fields["last_seen"] = rfc3339(placement.confirmed) or ""
            what = _UNLISTED if gpu.uuid in after.unlisted_uuids else "does not respond"
            text = "GPU lost: the GPU at %s %s: serial %s, UUID %s, last seen %s"
            log.warning(
                text,
                gpu.pci_bus_id or "an unknown address",
                what,
                gpu.serial or "unknown",
                gpu.uuid,
                fields["last_seen"],
                extra=fields,
            )
        elif gpu.uuid in was and not placement.lost:
            log.info("GPU responds again", extra=fields)


def _log_silent(before: NodeState | None, after: NodeState) -> None:
    """Log the GPUs that stopped responding, or respond again, if only their bus addresses were known."""
    was = {one.pci_bus_id for one in before.silent} if before is not None else set()
    now = {one.pci_bus_id for one in after.silent}
    where = {"cluster": after.place.cluster, "node": after.place.node}
    unlisted = {one.pci_bus_id for one in after.silent if one.unlisted}
    for bus in sorted(now - was):
        what = _UNLISTED if bus in unlisted else "does not respond"
        log.warning("GPU lost: the GPU at %s %s and has never been read", bus, what, extra={**where, "bus": bus})
    if not (ended := was - now):
        return
    for placement in after.placements():
        gpu = placement.gpu
        address = GpuRef.of(gpu).pci_bus_id
        if address in ended and not placement.lost:
            fields = {**where, "bus": address, "uuid": gpu.uuid} | ({"serial": gpu.serial} if gpu.serial else {})
            log.info("GPU responds again", extra=fields)
