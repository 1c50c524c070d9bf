"""A GPU's page: what it is, where it is, and where it was."""

import functools
from typing import NamedTuple

import msgspec
from aiohttp import web

from collector.model import Gpu, Place, Placement
from collector.store import History, PastPlacement
from collector.web.context import CONTEXT, CollectorView
from collector.web.pages.past import Past, look_back
from collector.web.pages.rendering import page
from collector.web.pages.timeline import Stay, draw, stays_in_history, stays_in_memory

__all__ = ["gpu"]

_STAYS = 200  # the newest are shown
_FACTS = {
    "serial": "Serial",
    "uuid": "UUID",
    "model": "Model",
    "architecture": "Architecture",
    "chassis": "Chassis",
    "tray": "Tray",
    "slot": "Slot",
    "host": "Host",
    "module": "Module",
    "pci_bus_id": "PCI bus",
    "minor_number": "Minor number",
    "board_part_number": "Board part",
    "gpu_part_number": "GPU part",
    "vbios": "VBIOS",
    "mig": "MIG",
}


class _Conflict(NamedTuple):
    """Why two places cannot both be right."""

    placements: list[Placement]
    same_uuid: bool  # else it is the serial that two GPUs claim


async def gpu(request: web.Request) -> web.Response:
    """Show one GPU by its UUID, also when it is only in the history."""
    context = request.app[CONTEXT]
    wanted = request.match_info["uuid"]
    past = await look_back(context, functools.partial(_where, wanted))
    present = context.inventory.find(
        uuid=wanted
    )  # after the history, which must not be older than what is shown as now
    uuid = present[0].gpu.uuid if present else past.rows[0].uuid if past.rows else wanted
    stays = _stays(context, uuid, present, past)
    known = _known(context, uuid, present, past)
    if known is None:
        raise _unknown(wanted, past)
    return await page(
        request,
        "gpu.html",
        gpu=known,
        facts=_facts(known),
        present=[(placement, context.inventory.node(placement.place)) for placement in present],
        statuses=context.statuses,
        conflict=_conflict(context, present),
        siblings=_siblings(context, known, present),
        past=past,
        stays=stays,
        cut=len(past.rows) == _STAYS,
        drawing=draw(stays, context.clock()),
    )


async def _where(uuid: str, history: History) -> list[PastPlacement]:
    # A serial may look like anything, even like another GPU's UUID.
    return [row for row in await history.where(uuid, limit=_STAYS) if row.uuid.lower() == uuid.lower()]


def _stays(context: CollectorView, uuid: str, present: list[Placement], past: Past[PastPlacement]) -> list[Stay]:
    if past.kept and not past.trouble:
        return stays_in_history(past.rows, present)
    return stays_in_memory(list(context.latest.newest()), uuid, present)


def _known(context: CollectorView, uuid: str, present: list[Placement], past: Past[PastPlacement]) -> Gpu | None:
    """Give the facts of a GPU from where they are newest."""
    if present:
        return present[0].gpu
    for group in context.latest.newest():
        for seen in group.gpus:
            if seen.uuid.lower() == uuid.lower():
                return seen
    for row in past.rows:
        return Gpu(uuid=row.uuid, serial=row.serial, model=row.model, chassis=row.chassis)
    return None


def _unknown(uuid: str, past: Past[PastPlacement]) -> web.HTTPException:
    if past.trouble:
        return web.HTTPServiceUnavailable(
            text=f"No node has a GPU {uuid} now, and the history, which may know it, cannot be read. {past.trouble}"
        )
    where = "no node has it now, and none had it before" if past.kept else "no node has it now"
    return web.HTTPNotFound(text=f"Nothing is known of a GPU {uuid}: {where}.")


def _facts(gpu: Gpu) -> dict[str, str]:
    values = msgspec.structs.asdict(gpu)
    values["mig"] = None if gpu.mig is None else "on" if gpu.mig else "off"
    return {label: str(values[key]) for key, label in _FACTS.items() if values[key] is not None}


def _conflict(context: CollectorView, present: list[Placement]) -> _Conflict | None:
    if len(present) > 1:
        return _Conflict(present, same_uuid=True)
    if not present or present[0].gpu.uuid not in context.inventory.contested(present[0].place.cluster):
        return None
    found = context.inventory.find(serial=present[0].gpu.serial)
    return _Conflict([other for other in found if other.place != present[0].place], same_uuid=False)


def _siblings(context: CollectorView, gpu: Gpu, present: list[Placement]) -> list[Gpu]:
    """Find the other GPUs of the same board: its serial, in the same node."""
    places: set[Place] = {placement.place for placement in present}
    found = context.inventory.find(serial=gpu.serial) if gpu.serial else []
    return [other.gpu for other in found if other.place in places and other.gpu.uuid != gpu.uuid]
