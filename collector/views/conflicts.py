"""GPUs and nodes in conflict, where two places cannot both be right, and claimed GPUs."""

from collections.abc import Sequence
from typing import NamedTuple

from collector.inventory import Inventory
from collector.model import Gpu, Place, Placement

__all__ = [
    "Claimed",
    "Conflict",
    "claim_of",
    "conflict_of",
    "other_placements",
    "same_board",
]


class Conflict(NamedTuple):
    """The places that contradict each other."""

    placements: list[Placement]
    same_uuid: bool  # else two GPUs have the same serial


class Claimed(NamedTuple):
    """The places of a GPU that a second node reports before the first one has been verified."""

    homes: list[Placement]  # where it was; several are in conflict, empty if it was lost there
    claims: list[Placement]  # where it is also reported


def claim_of(present: Sequence[Placement]) -> Claimed | None:
    """Return the open claim of the GPU with these placements; None without one."""
    claims = [placement for placement in present if placement.claim]
    return Claimed([placement for placement in present if not placement.claim], claims) if claims else None


def conflict_of(inventory: Inventory, present: Sequence[Placement]) -> Conflict | None:
    """Return the conflict of the GPU with these placements; None without one. A claim is not a conflict."""
    homes = [placement for placement in present if not placement.claim]
    if len(homes) > 1:
        return Conflict(homes, same_uuid=True)
    if not homes or homes[0].gpu.uuid not in inventory.contested(homes[0].place.cluster):
        return None
    return Conflict(_with_same_serial(inventory, homes[0].gpu, homes[0].place), same_uuid=False)


def other_placements(inventory: Inventory, gpu: Gpu, place: Place) -> list[Placement]:
    """Return the other places of a GPU in conflict: with the same UUID, or else with the same serial."""
    homes = [placement for placement in inventory.find(uuid=gpu.uuid) if not placement.claim]
    return [other for other in homes if other.place != place] or _with_same_serial(inventory, gpu, place)


def same_board(inventory: Inventory, gpu: Gpu, present: Sequence[Placement]) -> list[Gpu]:
    """Return the other GPUs of a GPU's board: those with its serial on the same node."""
    places = {placement.place for placement in present}
    found = inventory.find(serial=gpu.serial) if gpu.serial else []
    return [other.gpu for other in found if other.place in places and other.gpu.uuid != gpu.uuid]


def _with_same_serial(inventory: Inventory, gpu: Gpu, place: Place) -> list[Placement]:
    """Return the other GPUs that report a GPU's serial, on other nodes than `place`."""
    found = inventory.find(serial=gpu.serial)
    return [
        other for other in found if other.place != place and other.gpu.uuid != gpu.uuid and other.gpu.reports("serial")
    ]
