"""The page of degraded GPUs, worst first, and the same list as CSV."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import TypeVar

from aiohttp import hdrs, web

from collector.health import HEALTH_FIELDS, Degradation, Level, degradations, worst_level
from collector.marks import MarkKind
from collector.model import Event
from collector.timestamps import rfc3339
from collector.views.collector_view import CollectorView
from collector.views.counting import fold_counting
from collector.views.csv_files import csv_cell
from collector.views.degraded import DegradedGpu
from collector.views.fleet_health import fleet_health
from collector.views.health import Filter, degraded_times, marked, select
from collector.views.marks import AbsentMarkedGpu, absent_marked
from collector.web.keys import COLLECTOR, HEALTH_SURVEYS
from collector.web.pages.paging import PAGE_ROWS, window
from collector.web.pages.rendering import page
from collector.web.params import check_parameters, choice

__all__ = ["FILTERS", "health", "health_csv"]

FILTERS = Filter._fields
MAX_CHANGES = 12
CSV_PART_ROWS = 500
CSV_COLUMNS = (
    *("level", "degraded", "degraded_since", "mark", "ticket", "note", "cluster", "node", "machine"),
    *("serial", "uuid", "model", "since", "confirmed_at", "state"),
    *HEALTH_FIELDS,
)

_T = TypeVar("_T", Level, Degradation, MarkKind)


async def health(request: web.Request) -> web.Response:
    """Show the degraded GPUs, worst first, filtered by `level`, `reason`, `mark`, `cluster` and `model`."""
    collector = request.app[COLLECTOR]
    wanted = _filter(request)
    survey = await request.app[HEALTH_SURVEYS].survey()
    found = await select(collector, survey.degraded, wanted)
    part = window(request, len(found))
    shown = marked(collector, found[part.offset : part.offset + PAGE_ROWS])
    return await page(
        request,
        "health.html",
        survey=survey,
        share=fleet_health(collector).fleet,
        levels=survey.levels,
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
        models=survey.models,
        latest=fold_counting(collector.recent_changes.newest(Event.HEALTH), MAX_CHANGES),
    )


async def health_csv(request: web.Request) -> web.StreamResponse:
    """Stream the whole list as a CSV file: it is never in memory all at once."""
    check_parameters(request, FILTERS)
    collector = request.app[COLLECTOR]
    survey = await request.app[HEALTH_SURVEYS].survey()
    wanted = _filter(request)
    found = await select(collector, survey.degraded, wanted)
    headers = {"Content-Disposition": 'attachment; filename="gpuid-health.csv"'}
    if request.method == hdrs.METH_HEAD:  # a compressed stream would write its end
        return web.Response(content_type="text/csv", charset="utf-8", headers=headers)
    response = web.StreamResponse(headers=headers)
    response.content_type, response.charset = "text/csv", "utf-8"
    response.enable_compression()
    await response.prepare(request)
    await response.write(_csv([CSV_COLUMNS]))
    for start in range(0, len(found), CSV_PART_ROWS):
        part = marked(collector, found[start : start + CSV_PART_ROWS])
        since = await degraded_times(collector, part)
        await response.write(_csv(_csv_row(collector, one, since.get(one.placement.gpu.uuid)) for one in part))
    if wanted.mark is not None and wanted == Filter(mark=wanted.mark):  # GPUs on no node have no cluster or model
        await response.write(_csv(_absent_csv_row(one) for one in await _absent(collector, wanted.mark)))
    await response.write_eof()
    return response


async def _absent(collector: CollectorView, kind: MarkKind | None) -> list[AbsentMarkedGpu]:
    found = await absent_marked(collector.inventory, collector.marks, collector.now())
    return [one for one in found if kind is None or one.mark.kind is kind]


def _csv(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


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
    return [csv_cell(value) for value in values]


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
    return [csv_cell(values.get(column)) for column in CSV_COLUMNS]
