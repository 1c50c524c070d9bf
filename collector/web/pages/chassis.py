"""A chassis's page: its trays as a grid, and its former GPUs."""

from aiohttp import web

from collector.store import PastPlacement
from collector.views.chassis import MAX_FORMER_GPUS, find_chassis, recall_chassis
from collector.views.history_query import HistoryAnswer
from collector.web.keys import COLLECTOR
from collector.web.pages.rendering import page

__all__ = ["chassis"]


async def chassis(request: web.Request) -> web.Response:
    """Show one chassis by serial, even if only the history knows it."""
    collector = request.app[COLLECTOR]
    serial = request.match_info["chassis"]
    former, history = await recall_chassis(collector, serial)
    found = find_chassis(collector, serial)
    if not found.trays and not former:
        raise _unknown(serial, history)
    return await page(
        request,
        "chassis.html",
        chassis=found,
        statuses=collector.statuses,
        former=former,
        history=history,
        cut=len(former) == MAX_FORMER_GPUS,
    )


def _unknown(serial: str, history: HistoryAnswer[PastPlacement]) -> web.HTTPException:
    absent = f"No GPU currently reports the chassis “{serial}”"
    if history.error:
        return web.HTTPServiceUnavailable(text=f"{absent}, and the history is currently unavailable. {history.error}")
    nor = ", and none in the history did" if history.configured else ""
    return web.HTTPNotFound(text=f"{absent}{nor}.")
