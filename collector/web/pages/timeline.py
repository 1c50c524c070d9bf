"""Draws where one GPU was: one lane for each node, one bar for each stay, on a common time axis."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from collector.model import Event, Place, Placement
from collector.store import PastPlacement
from collector.views.recent_changes import ChangeGroup

__all__ = ["Bar", "Drawing", "Lane", "Stay", "Tick", "draw", "stays_in_history", "stays_in_memory"]

_LANES = 12  # nodes that are drawn; the table beside it has all
_LANE, _TOP, _AXIS = 38, 4, 26  # pixels
_LEAST = 60.0  # seconds of the axis
_TICKS = 5
_EDGE = 9.0  # percent: a label nearer to an end would be cut there on a phone, were it centred
_DAY = 86400
_HOUR = 3600
_STEPS = (
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800),
    *(_HOUR * hours for hours in (1, 2, 3, 6, 12)),
    *(_DAY * days for days in (1, 2, 7, 14, 30, 90)),
)


class Stay(NamedTuple):
    """One GPU on one node, in Unix seconds."""

    place: Place
    since: float | None  # None: before anything that is remembered
    until: float | None  # None while it is there
    confirmed: float | None = None
    machine: str = ""


class Bar(NamedTuple):
    """A stay on the drawing, in percent of its width."""

    x: float
    width: float
    present: bool


class Lane(NamedTuple):
    """All stays on one node."""

    place: Place
    y: int  # pixels
    bars: list[Bar]


class Tick(NamedTuple):
    """A mark on the time axis, in percent of its width."""

    x: float
    label: str
    anchor: str  # which end of the label, or its middle, is at x


class Drawing(NamedTuple):
    """What the template makes an SVG of."""

    lanes: list[Lane]
    ticks: list[Tick]
    axis: int  # pixels from the top
    height: int
    start: float
    end: float
    left_out: int  # nodes that are not drawn


def stays_in_history(past: Iterable[PastPlacement], present: Sequence[Placement]) -> list[Stay]:
    """Join what the history tells with what is so now and may not be committed yet; the newest first."""
    here = {placement.place for placement in present}
    stays = []
    for row in past:
        place = Place(row.cluster, row.node)
        # Where a store that takes nothing new still says "there", the GPU was last known to be at its confirmation.
        until = row.confirmed if row.until is None and place not in here else row.until
        stays.append(Stay(place, row.since, until, row.confirmed, row.machine))
    return _with_present(stays, present)


def stays_in_memory(groups: Sequence[ChangeGroup], uuid: str, present: Iterable[Placement]) -> list[Stay]:
    """Tell where a GPU was from the latest changes alone, given newest first; the newest stay first."""
    began: dict[Place, float] = {}
    stays = []
    for group in reversed(groups):
        if all(gpu.uuid != uuid for gpu in group.gpus):
            continue
        if group.event in (Event.APPEARED, Event.MOVED):
            if group.previous is not None:
                stays.append(Stay(group.previous, began.pop(group.previous, None), group.time))
            began[group.place] = group.time
        elif group.event is Event.VANISHED:
            stays.append(Stay(group.place, began.pop(group.place, None), group.time))
    return _with_present(stays, present)


def draw(stays: Sequence[Stay], now: float) -> Drawing:
    """Lay the stays out up to now; the node of the newest stay is the first lane."""
    times = [time for stay in stays for time in (stay.since, stay.until, stay.confirmed) if time is not None]
    start = min([*times, now - _LEAST])
    end = max([*times, now])
    wide = end - start
    lanes: dict[Place, Lane] = {}
    for stay in stays:
        lane = lanes.setdefault(stay.place, Lane(stay.place, _TOP + _LANE * len(lanes), []))
        left = start if stay.since is None else stay.since
        width = max(0.6, ((end if stay.until is None else stay.until) - left) / wide * 100)
        lane.bars.append(Bar(min((left - start) / wide * 100, 100 - width), width, stay.until is None))
    drawn = list(lanes.values())[:_LANES]
    axis = _TOP + _LANE * len(drawn)
    return Drawing(drawn, _ticks(start, end), axis, axis + _AXIS, start, end, len(lanes) - len(drawn))


def _with_present(stays: list[Stay], present: Iterable[Placement]) -> list[Stay]:
    known = {stay.place for stay in stays if stay.until is None}
    stays += [
        Stay(placement.place, placement.since, None, placement.confirmed)
        for placement in present
        if placement.place not in known
    ]
    return sorted(stays, key=lambda stay: (stay.until is None, stay.since or 0.0), reverse=True)


def _ticks(start: float, end: float) -> list[Tick]:
    step = next((step for step in _STEPS if (end - start) / step <= _TICKS), 0)
    if not step:
        step = _DAY * 365 * max(1, round((end - start) / _DAY / 365 / _TICKS))
    form = "%H:%M:%S" if step < 60 else "%H:%M" if step < _DAY else "%-d %b" if step < 300 * _DAY else "%b %Y"
    first = -(-start // step) * step
    marks = (first + index * step for index in range(_TICKS + 1))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return [
        Tick(
            x,
            (epoch + timedelta(seconds=mark)).strftime(form),
            "start" if x < _EDGE else "end" if x > 100 - _EDGE else "middle",
        )
        for mark in marks
        if (x := (mark - start) / (end - start) * 100) <= 100
    ]
