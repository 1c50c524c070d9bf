"""A GPU's page: what it is, where it is, and where it was."""

import functools

import msgspec
from aiohttp import web

from collector.model import Gpu
from collector.store import History, PastPlacement
from collector.views.alterations import FACT_LABELS
from collector.views.conflicts import claim_of, conflict_of, same_board
from collector.views.history_query import HistoryAnswer, query_history
from collector.views.placements import alterations, known_gpu, placement_periods
from collector.web.keys import COLLECTOR
from collector.web.pages.rendering import page
from collector.web.pages.timeline import draw

__all__ = ["gpu"]

MAX_PERIODS = 200  # that are shown, the newest
MAX_ALTERATIONS = 50  # that are shown, the newest


async def gpu(request: web.Request) -> web.Response:
    """Show one GPU by its UUID, also when only the history knows it."""
    collector = request.app[COLLECTOR]
    wanted = request.match_info["uuid"]
    history = await query_history(collector, functools.partial(_recorded, wanted))
    # After the history, which must not be newer than what is shown as the present.
    present = collector.inventory.find(uuid=wanted)
    known = known_gpu(collector, wanted, present, history)
    if known is None:
        raise _unknown(wanted, history)
    periods = placement_periods(collector, known.uuid, present, history)
    return await page(
        request,
        "gpu.html",
        gpu=known,
        facts=_facts(known),
        reported=_last_reports(known),
        alterations=alterations(collector, known.uuid, history, limit=MAX_ALTERATIONS),
        present=[(placement, collector.inventory.node(placement.place)) for placement in present],
        statuses=collector.statuses,
        conflict=conflict_of(collector.inventory, present),
        claimed=claim_of(present),
        siblings=same_board(collector.inventory, known, present),
        history=history,
        periods=periods,
        cut=len(history.rows) == MAX_PERIODS,
        drawing=draw(periods, collector.now()),
    )


async def _recorded(uuid: str, history: History) -> list[PastPlacement]:
    # A serial may look like anything, even like another GPU's UUID.
    return [row for row in await history.where(uuid, limit=MAX_PERIODS) if row.uuid.lower() == uuid.lower()]


def _unknown(uuid: str, history: HistoryAnswer[PastPlacement]) -> web.HTTPException:
    if history.error:
        return web.HTTPServiceUnavailable(
            text=f"GPU {uuid} is not present on any node, and the history is currently unavailable. {history.error}"
        )
    nor = ", and the history has no record of it" if history.configured else ""
    return web.HTTPNotFound(text=f"GPU {uuid} is not present on any node{nor}.")


def _facts(gpu: Gpu) -> dict[str, str]:
    values = msgspec.structs.asdict(gpu)
    values["mig"] = None if gpu.mig is None else "on" if gpu.mig else "off"
    values["virtual"] = "yes, a share of a board of its host's" if gpu.virtual else None
    values["multi_gpu_board"] = "yes" if gpu.multi_gpu_board else None
    return {label: str(values[key]) for key, label in FACT_LABELS.items() if values[key] is not None}


def _last_reports(gpu: Gpu) -> dict[str, float]:
    """Return when (Unix seconds) the facts that are merely last known were reported last, by their labels."""
    return {FACT_LABELS[field]: time for field, time in gpu.last_known_facts}
