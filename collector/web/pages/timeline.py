"""Draws a GPU's places: one lane per node and one bar per period, on a common time axis."""

import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from collector.health import Level
from collector.model import Place
from collector.views.condition import Stage
from collector.views.placements import PlacementPeriod

__all__ = ["Bar", "Drawing", "Lane", "Span", "Tick", "draw"]

MAX_LANES = 12  # nodes drawn; the list below has all
LANE_HEIGHT, TOP_MARGIN, SPANS_HEIGHT, AXIS_HEIGHT = 38, 4, 14, 26  # pixels
MIN_BAR_WIDTH = 0.6  # percent
MIN_SPAN_SECONDS = 60.0  # of the axis
MAX_TICK_INTERVALS = 5
EDGE_WIDTH = 9.0  # percent: a centred label closer to an end would be cut off on a phone
DAY_SECONDS = 86400
HOUR_SECONDS = 3600
TICK_STEPS = (  # seconds
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800),
    *(HOUR_SECONDS * hours for hours in (1, 2, 3, 6, 12)),
    *(DAY_SECONDS * days for days in (1, 2, 7, 14, 30, 90)),
)
TICK_LABELS = ((300 * DAY_SECONDS, "%b %Y"), (DAY_SECONDS, "%-d %b"), (60, "%H:%M"), (0, "%H:%M:%S"))  # by minimum step


class Bar(NamedTuple):
    """One period, in percent of the drawing's width."""

    x: float
    width: float
    present: bool


class Lane(NamedTuple):
    """All periods on one node."""

    place: Place
    y: int  # pixels
    bars: list[Bar]


class Tick(NamedTuple):
    """A mark on the time axis, in percent of the drawing's width."""

    x: float
    label: str
    anchor: str  # whether the label starts, ends or is centred at x


class Span(NamedTuple):
    """A period in which the GPU was degraded, in percent of the drawing's width."""

    x: float
    width: float
    level: Level


class Drawing(NamedTuple):
    """The values that the template renders as SVG."""

    lanes: list[Lane]
    ticks: list[Tick]
    spans: list[Span]
    spans_at: int  # pixels from the top
    axis: int  # pixels from the top
    height: int
    start: float
    end: float
    left_out: int  # nodes that are not drawn


def draw(periods: Sequence[PlacementPeriod], now: float, past: Sequence[Stage] = ()) -> Drawing:
    """Lay out the periods up to now (Unix seconds); the first lane is the node of the newest one.

    Below them are the periods in which the GPU was degraded, from the stages of its condition, oldest first.
    """
    times = [time for period in periods for time in (period.since, period.until, period.confirmed) if time is not None]
    start = min([*times, now - MIN_SPAN_SECONDS])
    end = max([*times, now])
    span = end - start
    lanes: dict[Place, Lane] = {}
    for period in periods:
        lane = lanes.setdefault(period.place, Lane(period.place, TOP_MARGIN + LANE_HEIGHT * len(lanes), []))
        left = start if period.since is None else period.since
        width = max(MIN_BAR_WIDTH, ((end if period.until is None else period.until) - left) / span * 100)
        lane.bars.append(Bar(min((left - start) / span * 100, 100 - width), width, period.until is None))
    drawn = list(lanes.values())[:MAX_LANES]
    spans_at = TOP_MARGIN + LANE_HEIGHT * len(drawn)
    spans = list(_spans(past, start, end))
    axis = spans_at + (SPANS_HEIGHT if spans else 0)
    left_out = len(lanes) - len(drawn)
    return Drawing(drawn, _ticks(start, end), spans, spans_at, axis, axis + AXIS_HEIGHT, start, end, left_out)


def _spans(past: Sequence[Stage], start: float, end: float) -> Iterator[Span]:
    begun = [next(stages) for _, stages in itertools.groupby(past, key=lambda stage: stage.level)]
    ends = [*(stage.since for stage in begun[1:]), end]
    for stage, until in zip(begun, ends, strict=False):
        since = start if stage.since is None else max(start, stage.since)
        if stage.level is None or until is None or until < start:
            continue
        width = max(MIN_BAR_WIDTH, (until - since) / (end - start) * 100)
        yield Span(min((since - start) / (end - start) * 100, 100 - width), width, stage.level)


def _ticks(start: float, end: float) -> list[Tick]:
    step = next((step for step in TICK_STEPS if (end - start) / step <= MAX_TICK_INTERVALS), 0)
    if not step:
        step = DAY_SECONDS * 365 * max(1, round((end - start) / DAY_SECONDS / 365 / MAX_TICK_INTERVALS))
    label = next(label for shortest, label in TICK_LABELS if step >= shortest)
    first = -(-start // step) * step
    marks = (first + index * step for index in range(MAX_TICK_INTERVALS + 1))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return [
        Tick(
            x,
            (epoch + timedelta(seconds=mark)).strftime(label),
            "start" if x < EDGE_WIDTH else "end" if x > 100 - EDGE_WIDTH else "middle",
        )
        for mark in marks
        if (x := (mark - start) / (end - start) * 100) <= 100
    ]
