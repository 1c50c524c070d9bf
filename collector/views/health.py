"""The degraded GPUs of the fleet, worst first, and how many GPUs cannot be judged."""

import functools
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import anyio

from collector.health import Degradation, Health, Level
from collector.marks import Mark, MarkKind
from collector.model import NodeState, Place, Placement
from collector.store import HistoricChange, History
from collector.views.cluster_summary import MAX_REST_SECONDS, REST_FACTOR
from collector.views.collector_view import CollectorView
from collector.views.condition import HealthChange, degraded_since, remembered, retrace
from collector.views.cooperative import sorted_window, yielding
from collector.views.degraded import DegradedGpu, degraded_in
from collector.views.history_query import query_history
from collector.views.marks import placements_of
from collector.views.trays import position

__all__ = [
    "Filter",
    "HealthSurvey",
    "HealthSurveys",
    "degraded_times",
    "marked",
    "select",
    "survey_health",
]

UUIDS_PER_QUERY = 500
MAX_CHANGES_PER_QUERY = 10_000

_REASONS = {reason: number for number, reason in enumerate(Degradation)}
_UNCORRECTABLE = (
    "remapped_rows_uncorrectable",
    "retired_pages_double_bit",
    "ecc_dram_uncorrectable",
    "ecc_sram_uncorrectable",
)


@dataclass
class HealthSurvey:
    """The result of a survey of the fleet."""

    degraded: list[DegradedGpu] = field(default_factory=list)  # without marks, worst first
    levels: Counter[Level] = field(default_factory=Counter)  # of them, as `count_levels` counts
    models: list[str] = field(default_factory=list)  # of them, sorted
    gpus: int = 0  # that are present
    silent: int = 0  # of these, GPUs that report no health data
    unread: int = 0  # of these, GPUs on nodes that cannot be read now
    down: int = 0  # of these, GPUs in clusters that are not up
    never_read: int = 0  # capacity of nodes that were never read, not included in `gpus`
    unknown: int = 0  # unresponsive GPUs that were never read, known only by address


class Filter(NamedTuple):
    """Filters for degraded GPUs; empty ones match all.

    Without a reason or level, a mark also matches GPUs that have it but are not degraded.
    """

    cluster: str = ""
    model: str = ""
    level: Level | None = None
    reason: Degradation | None = None
    mark: MarkKind | None = None


class HealthSurveys:
    """Cached surveys; they take at most a tenth of a core, however often they are requested."""

    def __init__(self, view: CollectorView) -> None:
        self._view = view
        self._lock = anyio.Lock()
        self._survey = HealthSurvey()
        self._fresh_until = 0.0

    async def survey(self) -> HealthSurvey:
        """Return a survey that is at most a few seconds old."""
        async with self._lock:
            started = time.monotonic()
            if started >= self._fresh_until:
                self._survey = await survey_health(self._view)
                ended = time.monotonic()
                self._fresh_until = ended + min(MAX_REST_SECONDS, REST_FACTOR * (ended - started))
            return self._survey


async def survey_health(view: CollectorView) -> HealthSurvey:
    """Survey all GPUs, letting other tasks run; healthy ones cost next to nothing."""
    survey = HealthSurvey()
    found: list[DegradedGpu] = []
    sound: dict[int, Health] = {}
    for cluster in sorted(view.inventory.clusters()):
        status = view.statuses.get(cluster)
        up = status is not None and status.up
        async for entry in yielding(list(view.inventory.nodes(cluster).values())):
            _count(survey, entry, up=up)
            found += (one for one in degraded_in(entry, sound) if not _is_listed_where_it_was(view, one))
    survey.degraded = await sorted_window(found, _worst_first, 0, len(found))
    levels: dict[str, Level | None] = {}
    models: set[str] = set()
    async for one in yielding(survey.degraded):
        models.add(one.placement.gpu.model or "")
        if not one.placement.claim:
            levels[one.placement.gpu.uuid] = one.level
    survey.levels = Counter(level for level in levels.values() if level is not None)
    survey.models = sorted(models - {""})
    return survey


def _is_listed_where_it_was(view: CollectorView, one: DegradedGpu) -> bool:
    """Return whether a GPU is claimed and also degraded at its first place."""
    if not one.placement.claim:
        return False
    return any(not other.claim and other.degradations for other in view.inventory.find(uuid=one.placement.gpu.uuid))


async def select(view: CollectorView, degraded: list[DegradedGpu], wanted: Filter) -> list[DegradedGpu]:
    """Return the GPUs that match a filter, without their marks, in the given order."""
    if not any(wanted):
        return degraded
    now, found = view.now(), list[DegradedGpu]()
    async for one in yielding(degraded):
        gpu = one.placement.gpu
        if (
            _is_of(one.placement, wanted)
            and (wanted.reason is None or wanted.reason in one.reasons)
            and (wanted.level is None or one.level is wanted.level)
            and (wanted.mark is None or _is_marked(view.marks.of(gpu.uuid, gpu.serial, now), wanted.mark))
        ):
            found.append(one)
    if wanted.mark is not None and wanted.level is None and wanted.reason is None:
        found += await _merely_marked(view, wanted)
    return found


def marked(view: CollectorView, rows: Iterable[DegradedGpu]) -> list[DegradedGpu]:
    """Return GPUs with their marks."""
    now = view.now()
    return [one._replace(mark=view.marks.of(one.placement.gpu.uuid, one.placement.gpu.serial, now)) for one in rows]


async def _merely_marked(view: CollectorView, wanted: Filter) -> list[DegradedGpu]:
    """Return the GPUs that are marked and present, and not degraded."""
    now = view.now()
    found: dict[tuple[str, object], DegradedGpu] = {}
    async for mark in yielding(view.marks.all(now)):
        if mark.kind is wanted.mark:
            for one in placements_of(view.inventory, view.marks, mark, now):
                if not one.degradations and _is_of(one, wanted):
                    found.setdefault((one.gpu.uuid, one.place), DegradedGpu(one))
    return await sorted_window(list(found.values()), _worst_first, 0, len(found))


def _is_of(placement: Placement, wanted: Filter) -> bool:
    """Return whether the place and model match."""
    return (not wanted.cluster or placement.place.cluster == wanted.cluster) and (
        not wanted.model or placement.gpu.model == wanted.model
    )


def _is_marked(mark: Mark | None, kind: MarkKind) -> bool:
    return mark is not None and mark.kind is kind


def _count(survey: HealthSurvey, entry: NodeState, *, up: bool) -> None:
    gpus = len(entry.gpus) - len(entry.claims)  # counted where they were first
    survey.gpus += gpus
    survey.silent += sum(gpu.health is None for gpu in entry.gpus)
    survey.unknown += len(entry.silent)
    if entry.time is None:
        survey.never_read += entry.node.capacity or 0
    if not up:
        survey.down += gpus
    elif entry.unread is not None:
        survey.unread += gpus


def _worst_first(one: DegradedGpu) -> tuple[object, ...]:
    placement, reasons = one.placement, one.reasons
    worst = _REASONS[reasons[0]] if reasons else len(_REASONS)
    uncorrectable = sum(getattr(placement.gpu.health, name, None) or 0 for name in _UNCORRECTABLE)
    place = placement.place
    return (
        one.level is not Level.REPLACE,
        worst,
        -len(reasons),
        -uncorrectable,
        place.cluster,
        place.node,
        position(placement.gpu),
    )


async def degraded_times(view: CollectorView, rows: Sequence[DegradedGpu]) -> dict[str, float]:
    """Return since when (Unix seconds) GPUs have been degraded for their worst reason, by UUID, where known.

    Without a store, or if it does not respond, this uses the latest changes.
    """
    gpus = {one.placement.gpu.uuid: one for one in rows if one.reasons}
    asked, found = view.history, dict[str, float]()
    uuids = list(gpus)
    for start in range(0, len(uuids), UUIDS_PER_QUERY):
        part = uuids[start : start + UUIDS_PER_QUERY]
        answer = await query_history(view, functools.partial(_health_changes, part), asked)
        recorded: dict[str, list[HealthChange]] = {}
        if not answer.available:
            for uuid, change in reversed(list(remembered(view.recent_changes, frozenset(part)))):
                recorded.setdefault(uuid, []).append(change)
        for row in reversed(answer.rows):
            recorded.setdefault(row.uuid, []).append(HealthChange(row.time, row.changes, Place(row.cluster, row.node)))
        async for uuid, changes in yielding(recorded.items()):
            _add_time(found, gpus[uuid], changes)
    return found


async def _health_changes(uuids: list[str], history: History) -> list[HistoricChange]:
    return await history.health_changes(uuids, limit=MAX_CHANGES_PER_QUERY)


def _add_time(found: dict[str, float], one: DegradedGpu, changes: list[HealthChange]) -> None:
    past = retrace(changes, one.placement.gpu, one.placement.condition)
    if (since := degraded_since(one.reasons[0], past.stages)) is not None:
        found[one.placement.gpu.uuid] = since
