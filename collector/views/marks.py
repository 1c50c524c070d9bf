"""Marks as shown by the API, the page and the metrics."""

from collections.abc import Iterator
from typing import NamedTuple

from collector.health import Condition
from collector.inventory import Inventory
from collector.marks import Mark, MarkedGpu, Marks
from collector.model import Place, Placement
from collector.views.cooperative import yielding

__all__ = ["AbsentMarkedGpu", "absent_marked", "marked_gpus", "placements_of"]


class AbsentMarkedGpu(NamedTuple):
    """A marked GPU in no node, with its last known condition and place."""

    serial: str  # empty where it is not known
    uuid: str  # empty where it is not known
    mark: Mark
    place: Place | None = None
    condition: Condition | None = None


def marked_gpus(inventory: Inventory, marks: Marks, now: float) -> Iterator[MarkedGpu]:
    """Yield every marked GPU once, including absent and never seen ones; `now` is in Unix seconds."""
    found: set[tuple[str, str]] = set()
    for mark in sorted(marks.all(now), key=lambda one: one.uuid is None):  # a UUID's mark overrides its serial's
        for serial, uuid in _identities(inventory, mark):
            if (serial, uuid) not in found:
                found.add((serial, uuid))
                yield MarkedGpu(serial, uuid, mark)


def placements_of(inventory: Inventory, marks: Marks, mark: Mark, now: float) -> list[Placement]:
    """Return where the GPUs are to which a mark applies; a UUID's mark overrides its serial's."""
    if mark.uuid is not None:
        return inventory.find(uuid=mark.uuid)
    found = inventory.find(serial=mark.serial) if mark.serial is not None else []
    return [one for one in found if marks.of(one.gpu.uuid, one.gpu.serial, now) is mark]


async def absent_marked(inventory: Inventory, marks: Marks, now: float) -> list[AbsentMarkedGpu]:
    """Return the marked GPUs that are in no node or were never seen, most recently marked first.

    Lets other tasks run.
    """
    found = []
    async for mark in yielding(marks.all(now)):
        if mark.uuid is None:
            if not inventory.find(serial=mark.serial or ""):
                found.append(AbsentMarkedGpu(mark.serial or "", "", mark))
        elif not inventory.find(uuid=mark.uuid):
            facts = inventory.facts(mark.uuid)
            serial = mark.serial or (facts.serial if facts else None) or ""
            place, condition = inventory.last_place(mark.uuid), inventory.last_condition(mark.uuid)
            found.append(AbsentMarkedGpu(serial, mark.uuid, mark, place, condition))
    return found


def _identities(inventory: Inventory, mark: Mark) -> list[tuple[str, str]]:
    """Return the serials and UUIDs of a mark's GPUs, completed from the inventory where known."""
    if mark.uuid is None:
        serial = mark.serial or ""
        return sorted({(serial, one.gpu.uuid) for one in inventory.find(serial=serial)}) or [(serial, "")]
    if mark.serial is not None:
        return [(mark.serial, mark.uuid)]
    gpus = (*(one.gpu for one in inventory.find(uuid=mark.uuid)), inventory.facts(mark.uuid))
    return [(next((gpu.serial for gpu in gpus if gpu is not None and gpu.serial), ""), mark.uuid)]
