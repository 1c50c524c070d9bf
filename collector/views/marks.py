"""Marks as the API, the page and the metrics show them."""

from collections.abc import Iterator
from typing import NamedTuple

from collector.health import Condition
from collector.inventory import Inventory
from collector.marks import Mark, MarkedGpu, Marks
from collector.model import Place, Placement
from collector.views.cooperative import yielding

__all__ = ["AbsentMarkedGpu", "absent_marked", "marked_gpus", "placements_of"]


class AbsentMarkedGpu(NamedTuple):
    """A marked GPU that is in no node, and how and where it was when it was seen last, as far as that is known."""

    serial: str  # empty where it is not known
    uuid: str  # empty where it is not known
    mark: Mark
    place: Place | None = None
    condition: Condition | None = None


def marked_gpus(inventory: Inventory, marks: Marks, now: float) -> Iterator[MarkedGpu]:
    """Yield every marked GPU once, also one that is absent or was never seen; `now` is in Unix seconds."""
    found: set[tuple[str, str]] = set()
    for mark in sorted(marks.all(now), key=lambda one: one.uuid is None):  # a UUID's own mark comes before its serial's
        for serial, uuid in _identities(inventory, mark):
            if (serial, uuid) not in found:
                found.add((serial, uuid))
                yield MarkedGpu(serial, uuid, mark)


def placements_of(inventory: Inventory, marks: Marks, mark: Mark, now: float) -> list[Placement]:
    """Return where the GPUs are for which a mark counts: one with a UUID's own mark is not marked by its serial."""
    if mark.uuid is not None:
        return inventory.find(uuid=mark.uuid)
    found = inventory.find(serial=mark.serial) if mark.serial is not None else []
    return [one for one in found if marks.of(one.gpu.uuid, one.gpu.serial, now) is mark]


async def absent_marked(inventory: Inventory, marks: Marks, now: float) -> list[AbsentMarkedGpu]:
    """Return the marked GPUs that are in no node or were never seen, those marked last first.

    Other tasks get their turn.
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
    """Return the serial and UUID of the GPUs that a mark is of; what its own lacks is the inventory's, if known."""
    if mark.uuid is None:
        serial = mark.serial or ""
        return sorted({(serial, one.gpu.uuid) for one in inventory.find(serial=serial)}) or [(serial, "")]
    if mark.serial is not None:
        return [(mark.serial, mark.uuid)]
    gpus = (*(one.gpu for one in inventory.find(uuid=mark.uuid)), inventory.facts(mark.uuid))
    return [(next((gpu.serial for gpu in gpus if gpu is not None and gpu.serial), ""), mark.uuid)]
