"""A node's page: its GPUs in their trays and slots, and what sat there before."""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from aiohttp import web

from collector.model import Event, Gpu, NodeState, Place, Placement
from collector.store import History, PastPlacement
from collector.web.context import CONTEXT, CollectorView
from collector.web.pages.past import Past, look_back
from collector.web.pages.rendering import page
from collector.web.pages.survey import missing

__all__ = ["Seat", "Tray", "node", "position", "seats", "trays"]

_BEFORE = 100  # GPUs that left, the latest first


class Tray(NamedTuple):
    """The GPUs of a node that share a tray, as far as the hardware tells."""

    chassis: str | None
    tray: str | None
    slot: str | None
    host: str | None
    gpus: list[Gpu]


class Seat(NamedTuple):
    """One place of a tray, or several whose numbers the hardware does not tell."""

    name: str
    gpu: Gpu | None  # None where the capacity says that there is one, and the reading did not find it
    places: int = 1


class _Left(NamedTuple):
    """A GPU that sat in the node, and where it is now."""

    uuid: str
    serial: str | None
    model: str | None
    since: float | None  # Unix seconds; None: before anything that is remembered
    until: float
    now: list[Placement]


async def node(request: web.Request) -> web.Response:
    """Show one node, also when only the history knows it."""
    context = request.app[CONTEXT]
    place = Place(request.match_info["cluster"], request.match_info["node"])
    past = await look_back(context, functools.partial(History.left_from, place=place, limit=_BEFORE))
    entry = context.inventory.node(place)
    left = _left(context, place, past)
    if entry is None and not left:
        raise _unknown(place, past)
    contested = context.inventory.contested(place.cluster)
    return await page(
        request,
        "node.html",
        place=place,
        entry=entry,
        status=context.statuses.get(place.cluster),
        missing=missing(entry) if entry else 0,
        overdue=context.overdue(entry) if entry else False,
        refresh=context.refresh(place.cluster),
        trays=_seated(entry) if entry else [],
        rows=_rows(entry),
        contested={
            gpu.uuid: _elsewhere(context, gpu, place) for gpu in (entry.gpus if entry else ()) if gpu.uuid in contested
        },
        past=past,
        left=left,
        cut=len(left) == _BEFORE,
    )


def trays(gpus: Sequence[Gpu]) -> list[Tray]:
    """Sort GPUs into the trays that the hardware tells of; none if it tells of none."""
    if not any(gpu.chassis or gpu.tray or gpu.slot or gpu.module for gpu in gpus):
        return []

    def tray(gpu: Gpu) -> tuple[str | None, str | None, str | None, str | None]:
        return gpu.chassis, gpu.tray, gpu.slot, gpu.host

    return [Tray(*key, list(group)) for key, group in itertools.groupby(sorted(gpus, key=position), key=tray)]


def seats(gpus: Sequence[Gpu], lacking: int) -> list[Seat]:
    """Give the places of one tray in their order; `lacking` of them are empty."""
    taken = [Seat(_seat(gpu), gpu) for gpu in gpus]
    modules = {int(gpu.module) for gpu in gpus if gpu.module and _natural(gpu.module)[0] >= 0}
    gaps = sorted(set(range(min(modules), max(modules))) - modules) if modules else []
    if len(modules) < len(gpus) or len(gaps) != lacking:  # an empty place at either end cannot be told from none
        return [*taken, Seat("place unknown", None, lacking)] if lacking else taken
    empty = [Seat(f"module {gap}", None) for gap in gaps]
    return sorted([*taken, *empty], key=lambda seat: int(seat.name.rpartition(" ")[2]))


def position(gpu: Gpu) -> tuple[tuple[int, str], ...]:
    """Give what orders GPUs as they sit: chassis, tray, slot, host, module, then the order of the bus."""
    minor = None if gpu.minor_number is None else str(gpu.minor_number)
    sits = (gpu.chassis, gpu.tray, gpu.slot, gpu.host, gpu.module, minor, gpu.pci_bus_id, gpu.uuid)
    return tuple(_natural(text or "") for text in sits)


def _natural(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isascii() and text.isdigit() and len(text) < 10 else (-1, text)


def _seated(entry: NodeState) -> list[tuple[Tray, list[Seat]]]:
    """Put the GPUs into their places; which of several trays an empty place is in is not known."""
    found = trays(entry.gpus)
    lacking = missing(entry) if len(found) == 1 else 0
    return [(tray, seats(tray.gpus, lacking)) for tray in found]


def _seat(gpu: Gpu) -> str:
    if gpu.module:
        return f"module {gpu.module}"
    return "GPU" if gpu.minor_number is None else f"GPU {gpu.minor_number}"


def _rows(entry: NodeState | None) -> list[tuple[Gpu, float]]:
    return sorted(zip(entry.gpus, entry.since, strict=True), key=lambda row: position(row[0])) if entry else []


def _elsewhere(context: CollectorView, gpu: Gpu, place: Place) -> list[Placement]:
    """Find the other places of a conflict: of the same UUID, or else of the same serial."""
    found = context.inventory.find(uuid=gpu.uuid)
    if len(found) < 2:
        found = context.inventory.find(serial=gpu.serial)
    return [other for other in found if other.place != place]


def _left(context: CollectorView, place: Place, past: Past[PastPlacement]) -> list[_Left]:
    find = context.inventory.find
    if past.kept and not past.trouble:
        return [
            _Left(row.uuid, row.serial, row.model, row.since, row.until or row.confirmed, find(uuid=row.uuid))
            for row in past.rows
        ]
    gone = (
        (group.time, gpu)
        for group in context.latest.newest()
        if (group.event is Event.VANISHED and group.place == place) or group.previous == place
        for gpu in group.gpus
    )
    return [
        _Left(gpu.uuid, gpu.serial, gpu.model, None, time, find(uuid=gpu.uuid))
        for time, gpu in itertools.islice(gone, _BEFORE)
    ]


def _unknown(place: Place, past: Past[PastPlacement]) -> web.HTTPException:
    name = f"node “{place.node}” in the cluster “{place.cluster}”"
    if past.trouble:
        return web.HTTPServiceUnavailable(
            text=f"There is no {name} now, and the history, which may know it, cannot be read. {past.trouble}"
        )
    where = "no GPU pod runs there, and no GPU was ever seen there" if past.kept else "no GPU pod runs there"
    return web.HTTPNotFound(text=f"Nothing is known of a {name}: {where}.")
