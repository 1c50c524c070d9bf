"""A GPU's page: how it is, where it is, and its whole life."""

import math

import msgspec
from aiohttp import web

from collector.health import HEALTH_FIELDS, Condition
from collector.model import Gpu, Placement
from collector.views.alterations import FACT_LABELS, HEALTH_LABELS
from collector.views.collector_view import CollectorView
from collector.views.condition import health_after, judge, lost_after, stages
from collector.views.conflicts import claim_of, conflict_of, same_board
from collector.views.life import Memory, part_of, recall, tell
from collector.views.placements import known_gpu, placement_periods
from collector.web.keys import COLLECTOR
from collector.web.pages.rendering import page
from collector.web.pages.timeline import draw

__all__ = ["gpu"]

LIFE_ROWS = 100  # of one part of a life


async def gpu(request: web.Request) -> web.Response:
    """Show one GPU by its UUID, also when only the history knows it; `before` is where an older part of it ends."""
    collector = request.app[COLLECTOR]
    wanted, before = request.match_info["uuid"], _before(request)
    history, now = collector.history, collector.now()
    memory = await recall(collector, wanted, history)
    # After the history, which must not be newer than what is shown as the present.
    present = collector.inventory.find(uuid=wanted)
    known = known_gpu(collector, wanted, present, memory.placements)
    if known is None:
        raise _unknown(wanted, memory)
    if not present:
        known = _with_health(collector, known, memory)
    condition = _condition(known, present, memory)
    past = stages(memory.health[::-1], known, until=condition.read)
    shown = memory if before is None else await recall(collector, known.uuid, history, before=before)
    told = placement_periods(collector, known.uuid, present, shown.placements)
    life = tell(told, shown.altered, shown.health, shown.marks, now=now, past=past)
    part = part_of(life, before=before, complete_from=shown.complete_from, limit=LIFE_ROWS)
    periods = placement_periods(collector, known.uuid, present, memory.placements)
    return await page(
        request,
        "gpu.html",
        gpu=known,
        verdict=judge(condition, past),
        condition=condition,
        health={label: getattr(known.health, field) for field, label in _reported_health(known)},
        mark=collector.marks.of(known.uuid, known.serial, now),
        facts=_facts(known),
        reported=_last_reports(known),
        present=[(placement, collector.inventory.node(placement.place)) for placement in present],
        statuses=collector.statuses,
        conflict=conflict_of(collector.inventory, present),
        claimed=claim_of(present),
        siblings=same_board(collector.inventory, known, present),
        history=memory.placements,
        periods=periods,
        life=part.happenings,
        older=part.older,
        before=before,
        drawing=draw(periods, now, past),
    )


def _with_health(collector: CollectorView, gpu: Gpu, memory: Memory) -> Gpu:
    """Return a GPU that is in no node with what is last known of its health."""
    if gpu.health is not None:
        return gpu
    facts = collector.inventory.facts(gpu.uuid)
    if facts is not None and facts.health is not None:
        return msgspec.structs.replace(gpu, health=facts.health, ecc_growth=facts.ecc_growth)
    return msgspec.structs.replace(gpu, health=health_after(memory.health[::-1]))


def _before(request: web.Request) -> float | None:
    if not (text := request.query.get("before")):
        return None
    try:
        before = float(text)
    except ValueError:
        before = math.nan
    if not (text.isascii() and 0 <= before < 1e12):
        raise web.HTTPBadRequest(text="before: expected the position of an older part")
    return before


def _unknown(uuid: str, memory: Memory) -> web.HTTPException:
    history = memory.placements
    if history.error:
        return web.HTTPServiceUnavailable(
            text=f"GPU {uuid} is not present on any node, and the history is currently unavailable. {history.error}"
        )
    nor = ", and the history has no record of it" if history.configured else ""
    return web.HTTPNotFound(text=f"GPU {uuid} is not present on any node{nor}.")


def _condition(gpu: Gpu, present: list[Placement], memory: Memory) -> Condition:
    """Return how a GPU is, or was when it was seen last."""
    if present:
        return present[0].condition
    times = [row.confirmed for row in memory.placements.rows] + [one.time for one in memory.health]
    return Condition(gpu.health, lost_after(memory.health[::-1]), gpu.ecc_growth, max(times, default=0.0))


def _reported_health(gpu: Gpu) -> list[tuple[str, str]]:
    """Return the fields of its health that are known, with their labels."""
    return [
        (field, HEALTH_LABELS.get(field, field))
        for field in HEALTH_FIELDS
        if getattr(gpu.health, field, None) is not None
    ]


def _facts(gpu: Gpu) -> dict[str, str]:
    values = msgspec.structs.asdict(gpu)
    values["mig"] = None if gpu.mig is None else "on" if gpu.mig else "off"
    values["virtual"] = "yes, a share of a board of its host's" if gpu.virtual else None
    values["multi_gpu_board"] = "yes" if gpu.multi_gpu_board else None
    return {label: str(values[key]) for key, label in FACT_LABELS.items() if values[key] is not None}


def _last_reports(gpu: Gpu) -> dict[str, float]:
    """Return when (Unix seconds) what is merely last known was reported last, by its label."""
    labels = {**HEALTH_LABELS, **FACT_LABELS}
    whole = next((time for field, time in gpu.last_known if field == "health"), None)  # all of it
    health = dict.fromkeys(HEALTH_LABELS.values(), whole) if whole is not None else {}
    return health | {labels.get(field, field): time for field, time in gpu.last_known}
