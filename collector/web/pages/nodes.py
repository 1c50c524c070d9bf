"""A node's page: its GPUs by tray and slot, and its former GPUs."""

import functools

from aiohttp import web

from collector.health import Level
from collector.model import Place
from collector.store import History, PastPlacement
from collector.views.cluster_summary import is_overdue, missing_gpus
from collector.views.conflicts import claim_of, other_placements
from collector.views.degraded import worst_in
from collector.views.gpu_state import gpu_states
from collector.views.history_query import HistoryAnswer, query_history
from collector.views.latest_changes import latest_changes
from collector.views.losing_seats import losing_seats
from collector.views.missing import missing_from
from collector.views.placements import former_gpus
from collector.views.repair import boards, doubts
from collector.views.trays import position, seats_by_tray
from collector.web.keys import COLLECTOR
from collector.web.pages.rendering import page

__all__ = ["node"]

MAX_LATEST = 5  # changes
MAX_FORMER_GPUS = 100  # shown, the last to leave


async def node(request: web.Request) -> web.Response:
    """Show one node, even if only the history knows it."""
    collector = request.app[COLLECTOR]
    inventory = collector.inventory
    place = Place(request.match_info["cluster"], request.match_info["node"])
    history = await query_history(collector, functools.partial(History.left_from, place=place, limit=MAX_FORMER_GPUS))
    entry = inventory.node(place)
    former = former_gpus(collector, place, history, limit=MAX_FORMER_GPUS)
    if entry is None and not former:
        raise _unknown(place, history)
    gpus = sorted(zip(entry.gpus, entry.since, strict=True), key=lambda row: position(row[0])) if entry else []
    states = gpu_states(collector, entry) if entry else {}
    gone = missing_from(inventory, entry) if entry else []
    contested, claimed = inventory.contested(place.cluster), inventory.claimed(place.cluster)
    return await page(
        request,
        "node.html",
        latest=await latest_changes(collector, cluster=place.cluster, node=place.node, limit=MAX_LATEST),
        place=place,
        entry=entry,
        status=collector.statuses.get(place.cluster),
        missing=missing_gpus(entry) if entry else 0,
        states=states,
        by_level={level: {uuid for uuid, state in states.items() if state.level is level} for level in Level},
        worst=worst_in(entry) if entry else None,
        lost={one.gpu.uuid: one for one in entry.placements() if one.lost} if entry else {},
        overdue=is_overdue(collector, entry) if entry else False,
        refresh=collector.refresh(place.cluster),
        trays=seats_by_tray(entry, gone) if entry else [],
        gone=gone,
        boards=boards(entry.gpus, states, gone, entry.silent) if entry else [],
        doubts=doubts(entry, gone) if entry else [],
        absent={one.gpu.uuid for one in gone},
        gpus=gpus,
        contested={
            gpu.uuid: other_placements(inventory, gpu, place)
            for gpu, _ in gpus
            if entry and gpu.uuid in contested and gpu.uuid not in entry.claims
        },
        claimed={gpu.uuid: claim_of(inventory.find(uuid=gpu.uuid)) for gpu, _ in gpus if gpu.uuid in claimed},
        history=history,
        former=former,
        losing=losing_seats(former),
        cut=len(former) == MAX_FORMER_GPUS,
    )


def _unknown(place: Place, history: HistoryAnswer[PastPlacement]) -> web.HTTPException:
    absent = f"No node “{place.node}” with GPUs or a GPU pod is known in the cluster “{place.cluster}”"
    if history.error:
        return web.HTTPServiceUnavailable(text=f"{absent}, and the history is currently unavailable. {history.error}")
    nor = ", and the history has no GPUs there" if history.configured else ""
    return web.HTTPNotFound(text=f"{absent}{nor}.")
