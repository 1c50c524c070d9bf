"""A node's page: its GPUs in their trays and slots, and what sat there before."""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from aiohttp import web

from collector.inventory import NodeEntry
from collector.model import Event, Gpu, Place, Placement
from collector.store import History, PastPlacement
from collector.web.context import CONTEXT, Context
from collector.web.pages.past import Past, look_back
from collector.web.pages.rendering import page
from collector.web.pages.survey import missing

__all__ = ["Tray", "node", "position", "trays"]

_BEFORE = 100  # GPUs that left, the latest first


class Tray(NamedTuple):
    """The GPUs of a node that share a tray, as far as the hardware tells."""

    chassis: str | None
    tray: str | None
    slot: str | None
    host: str | None
    gpus: list[Gpu]


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
    past = await look_back(context, functools.partial(History.left, place=place, limit=_BEFORE))
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
        trays=trays(entry.gpus) if entry else [],
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


def position(gpu: Gpu) -> tuple[tuple[int, str], ...]:
    """Give what orders GPUs as they sit: chassis, tray, slot, host, module, then the order of the bus."""
    minor = None if gpu.minor_number is None else str(gpu.minor_number)
    sits = (gpu.chassis, gpu.tray, gpu.slot, gpu.host, gpu.module, minor, gpu.pci_bus_id, gpu.uuid)
    return tuple(_natural(text or "") for text in sits)


def _natural(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isascii() and text.isdigit() and len(text) < 10 else (-1, text)


def _rows(entry: NodeEntry | None) -> list[tuple[Gpu, float]]:
    return sorted(zip(entry.gpus, entry.since, strict=True), key=lambda row: position(row[0])) if entry else []


def _elsewhere(context: Context, gpu: Gpu, place: Place) -> list[Placement]:
    """Find the other places of a conflict: of the same UUID, or else of the same serial."""
    found = context.inventory.find(uuid=gpu.uuid)
    if len(found) < 2:
        found = context.inventory.find(serial=gpu.serial)
    return [other for other in found if other.place != place]


def _left(context: Context, place: Place, past: Past[PastPlacement]) -> list[_Left]:
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
        _Left(str(gpu.uuid), gpu.serial, gpu.model, None, time, find(uuid=gpu.uuid))
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
