"""A GPU's page: its condition, place and history."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
from aiohttp import web

from collector.health import HEALTH_FIELDS, Condition, Level
from collector.model import Gpu, NodeState, Placement
from collector.views.alterations import FACT_LABELS, HEALTH_LABELS
from collector.views.collector_view import CollectorView
from collector.views.condition import Verdict, condition_after, judge, retrace
from collector.views.conflicts import claim_of, conflict_of, same_board
from collector.views.gpu_state import gpu_states
from collector.views.humanize import utc
from collector.views.life import Memory, part_of, recall, tell
from collector.views.lookup import lookup
from collector.views.lookup_rows import describe_no
from collector.views.losing_seats import dropouts
from collector.views.missing import MissingGpu, missing_from
from collector.views.placements import PlacementPeriod, in_words, known_gpu, placement_periods
from collector.views.repair import Board, boards, doubts
from collector.views.terms import parse_term
from collector.web.keys import COLLECTOR
from collector.web.pages.links import search_url
from collector.web.pages.rendering import page
from collector.web.pages.search import target_of
from collector.web.pages.timeline import draw
from collector.web.public_url import local_path, public_url

__all__ = ["gpu"]

LIFE_ROWS = 100  # per part of the history


class Absence(NamedTuple):
    """A GPU missing from its node: the last reading did not find it, but the node's capacity includes it."""

    entry: NodeState
    missing: MissingGpu


async def gpu(request: web.Request) -> web.Response:
    """Show one GPU by UUID, even if only the history knows it; `before` is the end of an older part."""
    collector = request.app[COLLECTOR]
    wanted, before = request.match_info["uuid"], _before(request)
    history, now = collector.history, collector.now()
    memory = await recall(collector, wanted, history)
    # After the history, which must not be newer than the state shown as current.
    present = sorted(collector.inventory.find(uuid=wanted), key=_first_to_tell)
    known = known_gpu(collector, wanted, present, memory.placements)
    if known is None:
        raise await _unknown(request, wanted)
    periods = placement_periods(collector, known.uuid, present, memory.placements)
    condition = _condition(collector, known, present, periods, memory)
    known = msgspec.structs.replace(known, health=condition.health)
    arrivals = {period.since for period in periods if period.since is not None}
    past = retrace(memory.health[::-1], known, condition, arrivals=arrivals)
    shown = memory if before is None else await recall(collector, known.uuid, history, before=before)
    told = placement_periods(collector, known.uuid, present, shown.placements)
    life = tell(told, shown.altered, shown.health, shown.marks, now=now, past=past, whole=shown.whole)
    verdict = judge(condition, past)
    sheet = _repair_sheet(collector, known, present, periods)
    part = part_of(life, before=before, complete_from=shown.complete_from, limit=LIFE_ROWS)
    return await page(
        request,
        "gpu.html",
        gpu=known,
        verdict=verdict,
        others=_otherwise(present),
        unsaid=past.unsaid,
        level=next((one for one in Level if one in {verdict.level, *(each.level for each in present)}), None),
        condition=condition,
        health={label: getattr(known.health, field) for field, label in _reported_health(known)},
        mark=collector.marks.of(known.uuid, known.serial, now),
        facts=_facts(known),
        reported=_last_reports(known),
        present=[(placement, collector.inventory.node(placement.place)) for placement in present],
        absence=None if present else _absence(collector, known, periods),
        statuses=collector.statuses,
        conflict=conflict_of(collector.inventory, present),
        claimed=claim_of(present),
        siblings=same_board(collector.inventory, known, present),
        history=memory.placements,
        periods=periods,
        life=part.happenings,
        older=part.older,
        dropouts=dropouts(periods),
        boards=sheet.boards,
        others_on_node=sheet.others,
        doubts=sheet.doubts,
        sheet_state=sheet.state,
        sheet_seat="" if sheet.boards else in_words(known),
        before=before,
        drawing=draw(periods, now, past.stages),
    )


def _absence(collector: CollectorView, gpu: Gpu, periods: Sequence[PlacementPeriod]) -> Absence | None:
    """Return where a GPU that is in no node is missing, if its node should still have it."""
    entry = collector.inventory.node(periods[0].place) if periods else None
    if entry is None:
        return None
    return next(
        (Absence(entry, one) for one in missing_from(collector.inventory, entry) if one.gpu.uuid == gpu.uuid), None
    )


def _first_to_tell(one: Placement) -> tuple[bool, bool, bool]:
    """Return a sort key that puts the decisive place of a GPU first: its first one or, of several, the worst."""
    return one.claim, one.level is None, one.level is not Level.REPLACE


def _otherwise(present: Sequence[Placement]) -> list[tuple[Placement, Verdict]]:
    """Return other places that report the GPU in a condition that differs from the first place."""
    return [(one, judge(one.condition)) for one in present[1:] if one.degradations != present[0].degradations]


class _Sheet(NamedTuple):
    """The contents of a GPU's repair sheet."""

    state: str
    boards: list[Board]  # to pull: the GPU's board, if it is in a node or missing from one
    others: list[Board]  # of the same node
    doubts: list[str]


def _repair_sheet(
    collector: CollectorView, gpu: Gpu, present: Sequence[Placement], periods: Sequence[PlacementPeriod]
) -> _Sheet:
    """Return a GPU's repair sheet: its board and the others of the node that it is in or missing from."""
    place = present[0].place if present else periods[0].place if periods else None
    entry = collector.inventory.node(place) if place else None
    states = gpu_states(collector, entry) if entry else {}
    gone = missing_from(collector.inventory, entry) if entry else []
    found = boards(entry.gpus, states, gone, entry.silent) if entry else []
    own = next((board for board in found if any(one.uuid == gpu.uuid for one in board.gpus)), None)
    if entry is None or own is None:
        return _Sheet("not in any node", [], [], [])
    state = states[gpu.uuid].words if gpu.uuid in states else f"missing from {entry.place.node}"
    return _Sheet(state, [own], [board for board in found if board is not own], doubts(entry, gone))


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


async def _unknown(request: web.Request, name: str) -> web.HTTPException:
    """Return a redirect to what else the name may mean, such as a serial, or an error with what was searched."""
    try:
        term = parse_term(name)
    except ValueError as error:
        raise web.HTTPBadRequest(text=str(error)) from None
    answer = await lookup(request.app[COLLECTOR], [term._replace(at=request.query.get("at", ""))])
    (result,) = answer.results
    if any(match.mark is None or match.former_gpu for match in result.matches):
        target = target_of(result)
        if target is None or local_path(request) == target:
            target = search_url(name)  # a choice
        return web.HTTPSeeOther(public_url(request).prefix + target)
    why = describe_no(result, answer.searched)
    marked = "".join(
        f" It is marked {match.mark.kind} by {match.mark.set_by} since {utc(match.mark.set_at)}."
        for match in result.matches
        if match.mark is not None
    )
    text = f"No results for “{result.term.text}”. {why}{marked}"
    return web.HTTPServiceUnavailable(text=text) if answer.searched.history_error else web.HTTPNotFound(text=text)


def _condition(
    collector: CollectorView,
    gpu: Gpu,
    present: Sequence[Placement],
    periods: Iterable[PlacementPeriod],
    memory: Memory,
) -> Condition:
    """Return a GPU's condition, current or last read; if only the history knows it, from its changes."""
    if present:
        return present[0].condition
    told = condition_after(memory.health[::-1])
    known = collector.inventory.last_condition(gpu.uuid)
    if known is None or (known.health is None and not known.lost):
        known = told._replace(read=known.read if known else told.read)
    return known._replace(read=max((one.confirmed for one in periods if one.confirmed is not None), default=known.read))


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
    values["virtual"] = "yes, a share of one of its host's boards" if gpu.virtual else None
    values["multi_gpu_board"] = "yes" if gpu.multi_gpu_board else None
    return {label: str(values[key]) for key, label in FACT_LABELS.items() if values[key] is not None}


def _last_reports(gpu: Gpu) -> dict[str, float]:
    """Return by label when (Unix seconds) values that are only last known were last reported."""
    labels = {**HEALTH_LABELS, **FACT_LABELS}
    whole = next((time for field, time in gpu.last_known if field == "health"), None)  # all of it
    health = dict.fromkeys(HEALTH_LABELS.values(), whole) if whole is not None else {}
    return health | {labels.get(field, field): time for field, time in gpu.last_known}
