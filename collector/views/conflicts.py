"""Which GPUs and nodes are in conflict with which: two places that cannot both be right."""

from collections.abc import Sequence
from typing import NamedTuple

from collector.inventory import Inventory
from collector.model import Gpu, Place, Placement

__all__ = ["Conflict", "conflict_of", "nodes_in_conflict", "other_placements", "same_board"]


class Conflict(NamedTuple):
    """The places that contradict each other."""

    placements: list[Placement]
    same_uuid: bool  # else two GPUs have the same serial


def conflict_of(inventory: Inventory, present: Sequence[Placement]) -> Conflict | None:
    """Return the conflict of the GPU with these placements; None without one."""
    if len(present) > 1:
        return Conflict(list(present), same_uuid=True)
    if not present or present[0].gpu.uuid not in inventory.contested(present[0].place.cluster):
        return None
    found = inventory.find(serial=present[0].gpu.serial)
    return Conflict([other for other in found if other.place != present[0].place], same_uuid=False)


def other_placements(inventory: Inventory, gpu: Gpu, place: Place) -> list[Placement]:
    """Return the other places of a GPU in conflict: of the same UUID, or else of the same serial."""
    found = inventory.find(uuid=gpu.uuid)
    if len(found) < 2:
        found = inventory.find(serial=gpu.serial)
    return [other for other in found if other.place != place]


def nodes_in_conflict(inventory: Inventory, cluster: str) -> set[str]:
    """Return the nodes of a cluster that report a GPU in conflict."""
    return {
        placement.place.node
        for uuid in inventory.contested(cluster)
        for placement in inventory.find(uuid=uuid)
        if placement.place.cluster == cluster
    }


def same_board(inventory: Inventory, gpu: Gpu, present: Sequence[Placement]) -> list[Gpu]:
    """Return the other GPUs of a GPU's board: those with its serial on the same node."""
    places = {placement.place for placement in present}
    found = inventory.find(serial=gpu.serial) if gpu.serial else []
    return [other.gpu for other in found if other.place in places and other.gpu.uuid != gpu.uuid]
