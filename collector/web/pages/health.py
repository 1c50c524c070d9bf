"""The page of the degraded GPUs, the worst first, and the same list as CSV."""

import csv
import io
import itertools
from collections.abc import Sequence
from typing import TypeVar

from aiohttp import web

from collector.health import HEALTH_FIELDS, Degradation, Level, degradations, worst_level
from collector.marks import MarkKind
from collector.model import Event
from collector.text import csv_text
from collector.timestamps import rfc3339
from collector.views.collector_view import CollectorView
from collector.views.cooperative import yielding
from collector.views.degraded import DegradedGpu, count_levels
from collector.views.fleet_health import fleet_health
from collector.views.health import Filter, degraded_times, select
from collector.views.marks import AbsentMarkedGpu, absent_marked
from collector.web.keys import COLLECTOR, HEALTH_SURVEYS
from collector.web.pages.paging import PAGE_ROWS, window
from collector.web.pages.rendering import page
from collector.web.params import check_parameters, choice

__all__ = ["health", "health_csv"]

MAX_CHANGES = 12
CSV_COLUMNS = (
    *("level", "degraded", "degraded_since", "mark", "ticket", "note", "cluster", "node", "machine"),
    *("serial", "uuid", "model", "since", "confirmed", "state"),
    *HEALTH_FIELDS,
)

_T = TypeVar("_T", Level, Degradation, MarkKind)


async def health(request: web.Request) -> web.Response:
    """Show the degraded GPUs, the worst first; `level`, `reason`, `mark`, `cluster` and `model` choose among them."""
    collector = request.app[COLLECTOR]
    wanted = _filter(request)
    survey = await request.app[HEALTH_SURVEYS].survey()
    found = select(collector, survey.degraded, wanted)
    part = window(request, len(found))
    shown = found[part.offset : part.offset + PAGE_ROWS]
    return await page(
        request,
        "health.html",
        survey=survey,
        share=fleet_health(collector).fleet,
        levels=count_levels(survey.degraded),
        shown=shown,
        total=len(found),
        since=await degraded_times(collector, shown),
        window=part,
        wanted=wanted,
        filtered=any(wanted),
        absent=await _absent(collector, wanted.mark),
        merely_marked=wanted == Filter(mark=wanted.mark) and wanted.mark is not None,
        most_absent=PAGE_ROWS,
        query={key: value for key, value in wanted._asdict().items() if value},
        levels_known=list(Level),
        reasons_known=list(Degradation),
        marks_known=list(MarkKind),
        clusters=sorted({*collector.clusters(), *collector.inventory.clusters()}),
        models=sorted({one.placement.gpu.model for one in survey.degraded if one.placement.gpu.model}),
        latest=list(itertools.islice(collector.recent_changes.newest(Event.HEALTH), MAX_CHANGES)),
        last=collector.recent_changes.last_id,
    )


async def health_csv(request: web.Request) -> web.Response:
    """Return the same list as a CSV file, all of it."""
    check_parameters(request, Filter._fields)
    collector = request.app[COLLECTOR]
    survey = await request.app[HEALTH_SURVEYS].survey()
    wanted = _filter(request)
    found = select(collector, survey.degraded, wanted)
    since = await degraded_times(collector, found)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    async for one in yielding(found):
        writer.writerow(_csv_row(collector, one, since.get(one.placement.gpu.uuid)))
    if wanted.mark is not None and wanted == Filter(mark=wanted.mark):  # what is in no node has no cluster or model
        writer.writerows([_absent_csv_row(one) for one in await _absent(collector, wanted.mark)])
    response = web.Response(text=text.getvalue(), content_type="text/csv", charset="utf-8")
    response.headers["Content-Disposition"] = 'attachment; filename="gpuid-health.csv"'
    response.enable_compression()
    return response


async def _absent(collector: CollectorView, kind: MarkKind | None) -> list[AbsentMarkedGpu]:
    found = await absent_marked(collector.inventory, collector.marks, collector.now())
    return [one for one in found if kind is None or one.mark.kind is kind]


def _filter(request: web.Request) -> Filter:
    return Filter(
        cluster=request.query.get("cluster", ""),
        model=request.query.get("model", ""),
        level=_one_of(request, "level", list(Level)),
        reason=_one_of(request, "reason", list(Degradation)),
        mark=_one_of(request, "mark", list(MarkKind)),
    )


def _one_of(request: web.Request, key: str, known: Sequence[_T]) -> _T | None:
    value = choice(request, key, ["", *known])
    return next((one for one in known if one == value), None)


def _csv_row(collector: CollectorView, one: DegradedGpu, since: float | None) -> list[str]:
    placement, mark = one.placement, one.mark
    gpu, place = placement.gpu, placement.place
    entry = collector.inventory.node(place)
    values = (
        *(one.level, ",".join(one.reasons), rfc3339(since)),
        *((mark.kind, mark.ticket, mark.note) if mark else (None, None, None)),
        *(place.cluster, place.node, entry.node.machine if entry else None, gpu.serial, gpu.uuid, gpu.model),
        *(rfc3339(placement.since), rfc3339(placement.confirmed), "lost" if placement.lost else "found"),
        *(getattr(gpu.health, field, None) for field in HEALTH_FIELDS),
    )
    return [_cell(value) for value in values]


def _absent_csv_row(one: AbsentMarkedGpu) -> list[str]:
    known, mark = one.condition, one.mark
    values: dict[str, object] = {
        "level": known and worst_level(known),
        "degraded": known and ",".join(degradations(known)),
        "mark": mark.kind,
        "ticket": mark.ticket,
        "note": mark.note,
        "serial": one.serial,
        "uuid": one.uuid,
        "state": "absent",
        **{field: getattr(known.health, field, None) for field in HEALTH_FIELDS if known},
    }
    return [_cell(values.get(column)) for column in CSV_COLUMNS]


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return csv_text(str(value)) if value is not None else ""
