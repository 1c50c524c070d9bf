"""A GPU's complete history as one list: places, alterations, health and marks."""

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from collector.health import Degradation, Level
from collector.marks import Mark
from collector.model import FieldChange, Place, canonical_uuid
from collector.store import Alteration, HistoricChange, History, PastPlacement, Position, StoreError
from collector.views.collector_view import CollectorView
from collector.views.condition import NO_PAST, HealthChange, Past, Stage, Turn, remembered, turn
from collector.views.history_query import HistoryAnswer, query_history
from collector.views.placements import PlacementPeriod, alterations

__all__ = ["Happening", "Kind", "Memory", "Part", "part_of", "recall", "tell"]

MAX_PERIODS = 200  # requested at a time, newest first
MAX_ALTERATIONS = 200
MAX_HEALTH_CHANGES = 500
MAX_MARKS = 200
MOVE_SECONDS = 5.0  # from leaving one node to being found in another


class Kind(StrEnum):
    """Kinds of events in a GPU's history."""

    CAME = "came"
    MOVED = "moved"
    LEFT = "left"
    ALTERED = "altered"
    HEALTH = "health"
    LOST = "lost"
    ANSWERED = "answering"
    MARKED = "marked"
    UNMARKED = "unmarked"
    MARK_ENDED = "mark ended"


class Happening(NamedTuple):
    """One event in a GPU's history."""

    kind: Kind
    time: float | None  # Unix seconds; None: before the first record
    place: Place | None = None
    previous: Place | None = None  # where it moved from
    machine: str = ""
    stayed: float | None = None  # seconds: how long it stayed in `place`, or has been there; before LEFT, until then
    before: float | None = None  # seconds that it had been in `previous`
    present: bool = False  # it is in `place` now, since then
    claim: bool = False  # another node had it first and has not been verified yet
    again: bool = False  # it had been there before
    first: bool = False  # no earlier records
    nowhere: float | None = None  # seconds it had been in no node before
    reasons: tuple[Degradation, ...] = ()  # why it was degraded when it came, moved or left
    level: Level | None = None
    changes: tuple[FieldChange, ...] = ()
    turn: Turn = Turn()
    mark: Mark | None = None
    who: str = ""
    seat: str = ""  # its position in the machine then, in words


class Memory(NamedTuple):
    """A GPU's known past, each list newest first."""

    placements: HistoryAnswer[PastPlacement]
    health: list[HealthChange]
    altered: list[Alteration]
    marks: list[Mark]

    @property
    def whole(self) -> bool:
        """Whether the placements are complete."""
        return len(self.placements.rows) < MAX_PERIODS

    @property
    def complete_from(self) -> float | None:
        """Since when (Unix seconds) the records are complete; None: from the beginning."""
        rows = self.placements.rows
        ends = [rows[-1].since] if len(rows) == MAX_PERIODS else []
        ends += [self.health[-1].time] if len(self.health) == MAX_HEALTH_CHANGES else []
        ends += [self.marks[-1].set_at] if len(self.marks) == MAX_MARKS else []
        ends += [self.altered[-1].time] if len(self.altered) == MAX_ALTERATIONS else []
        return max(ends, default=None)


class Part(NamedTuple):
    """A part of a history, newest first, and where the next part starts (Unix seconds; None at the end)."""

    happenings: list[Happening]
    older: float | None


def tell(
    periods: Sequence[PlacementPeriod],
    altered: Iterable[Alteration],
    health: Iterable[HealthChange],
    marks: Iterable[Mark],
    *,
    now: float,
    past: Past = NO_PAST,
    whole: bool = True,
) -> list[Happening]:
    """Return a history, newest first, from periods and events that are given newest first.

    `whole` is whether the periods are complete.
    """
    changed = list(health)
    found = [
        *(_as_it_was(one, past) for one in _places(periods, now, whole=whole)),
        *(Happening(Kind.ALTERED, one.time, changes=one.changes) for one in altered),
        *_healths(changed, past),
        *_faded(changed, past.stages, now),
        *_marks(marks, now),
    ]
    # Events at the same time are listed in the order of kinds: first the arrival, then the condition.
    order = {kind: number for number, kind in enumerate(Kind)}
    return sorted(found, key=lambda one: (-math.inf if one.time is None else one.time, order[one.kind]), reverse=True)


def part_of(life: Sequence[Happening], *, before: float | None, complete_from: float | None, limit: int) -> Part:
    """Return the part of a history, given newest first, before a time (Unix seconds; None: now).

    It has `limit` events, or more if they were at the same time. The history is complete since `complete_from` (Unix
    seconds; None: from the beginning).
    """
    newer = [one for one in life if before is None or one.time is None or one.time < before]
    known = [one for one in newer if complete_from is None or (one.time is not None and one.time >= complete_from)]
    if len(known) <= limit:
        return Part(known, complete_from)
    last = known[limit - 1].time
    shown = [one for number, one in enumerate(known) if number < limit or one.time == last]
    return Part(shown, last if len(shown) < len(newer) or complete_from is not None else None)


async def recall(view: CollectorView, uuid: str, history: History | None, *, before: float | None = None) -> Memory:
    """Return a GPU's records before a time (Unix seconds), by UUID in any case, from the store or else from memory.

    All queries of `history` share its deadline.
    """
    uuid = canonical_uuid(uuid)
    placements = await query_history(view, functools.partial(_placements, uuid, before), history)
    asked = await query_history(view, functools.partial(_health_changes, uuid, before), history)
    if asked.available:
        health = [HealthChange(row.time, row.changes, Place(row.cluster, row.node)) for row in asked.rows]
    else:
        health = [one for _, one in itertools.islice(remembered(view.recent_changes, {uuid}), MAX_HEALTH_CHANGES)]
    altered = alterations(view, uuid, placements, limit=MAX_ALTERATIONS)
    return Memory(placements, health, altered, await _recorded_marks(view, uuid, placements.rows))


async def _recorded_marks(view: CollectorView, uuid: str, rows: Sequence[PastPlacement]) -> list[Mark]:
    """Return all marks of a GPU, newest first; without the store, the current ones."""
    present = [placement.gpu.serial for placement in view.inventory.find(uuid=uuid)]
    serial = next((one for one in (*present, *(row.serial for row in rows)) if one), None)
    if (store := view.mark_store) is not None:
        try:
            return await store.of_gpu(uuid, serial, limit=MAX_MARKS)
        except StoreError:
            pass  # the page already says that the history is unavailable
    mark = view.marks.of(uuid, serial, view.now())
    return [] if mark is None else [mark]


async def _placements(uuid: str, before: float | None, history: History) -> list[PastPlacement]:
    after = None if before is None else Position(present=False, since=before, id=0)
    # A serial may look like anything, even another GPU's UUID.
    return [row for row in await history.where(uuid, after=after, limit=MAX_PERIODS) if row.uuid == uuid]


async def _health_changes(uuid: str, before: float | None, history: History) -> list[HistoricChange]:
    return await history.health_changes([uuid], before=before, limit=MAX_HEALTH_CHANGES)


def _places(periods: Sequence[PlacementPeriod], now: float, *, whole: bool) -> Iterator[Happening]:
    moves = {index: left for index in range(len(periods)) if (left := _left_for(index, periods)) is not None}
    left_for_another = set(moves.values())
    for index, period in enumerate(periods):
        stayed = None if period.since is None else (now if period.until is None else period.until) - period.since
        previous = periods[moves[index]] if index in moves else None
        yield Happening(
            Kind.CAME if previous is None else Kind.MOVED,
            period.since,
            period.place,
            previous.place if previous else None,
            period.machine,
            stayed=stayed,
            before=None if previous is None or previous.since is None else previous.until - previous.since,  # type: ignore[operator]  # it has ended
            present=period.until is None,
            claim=period.claim,
            nowhere=_nowhere(period, periods) if previous is None else None,
            again=any(older.place == period.place for older in periods[index + 1 :]),
            first=whole and index == len(periods) - 1 and period.since is not None,
            seat=period.seat,
        )
        if period.until is not None and index not in left_for_another:
            yield Happening(Kind.LEFT, period.until, period.place, machine=period.machine, stayed=stayed)


def _left_for(index: int, periods: Sequence[PlacementPeriod]) -> int | None:
    """Return the period that a GPU left for this one; the two nodes may be read in either order."""
    since, place = periods[index].since, periods[index].place
    if since is None:
        return None
    ends = {
        number: one.until
        for number, one in enumerate(periods)
        if number != index and one.until is not None and one.place != place and 0.0 <= since - one.until < MOVE_SECONDS
    }
    return max(ends, key=ends.__getitem__, default=None)


def _nowhere(period: PlacementPeriod, periods: Iterable[PlacementPeriod]) -> float | None:
    """Return how many seconds a GPU had been in no node before a period; None if unknown."""
    if period.since is None:
        return None
    earlier = [one for one in periods if one is not period and (one.since or 0.0) < period.since]
    ends = [one.until for one in earlier if one.until is not None]
    return period.since - max(ends) if ends and len(ends) == len(earlier) and max(ends) < period.since else None


def _as_it_was(one: Happening, past: Past) -> Happening:
    """Return an arrival or departure with the GPU's condition, unless a change at that moment describes it."""
    if one.time is None:
        return one
    then = [stage for stage in past.stages if stage.since is None or stage.since <= one.time]
    begun = {reason for change, turned in past.turns.items() if change.time == one.time for reason in turned.began}
    if not then or begun.issuperset(then[-1].reasons):
        return one
    return one._replace(reasons=then[-1].reasons, level=then[-1].level)


def _healths(health: Iterable[HealthChange], past: Past) -> Iterator[Happening]:
    for change in health:
        time, changes, place = change
        lost = next((one.after for one in changes if one.field == "lost"), None)
        kind = Kind.HEALTH if lost is None else Kind.LOST if lost else Kind.ANSWERED
        said = tuple(one for one in changes if one.field != "lost")
        turned = past.turns.get(change)
        yield Happening(kind, time, place, changes=said, turn=turn(changes) if turned is None else turned)


def _faded(health: Sequence[HealthChange], stages: Iterable[Stage], now: float) -> Iterator[Happening]:
    """Yield when errors stopped counting as growing because they had not grown for long, which has no record."""
    times = {one.time for one in health}
    growing = Degradation.UNCORRECTABLE_ECC_GROWING
    for before, after in itertools.pairwise(stages):
        ended = growing in before.reasons and growing not in after.reasons
        if ended and after.since is not None and after.since <= now and after.since not in times:
            yield Happening(Kind.HEALTH, after.since, turn=Turn(ended=(growing,)))


def _marks(marks: Iterable[Mark], now: float) -> Iterator[Happening]:
    for mark in marks:
        yield Happening(Kind.MARKED, mark.set_at, mark=mark, who=mark.set_by)
        if mark.removed_at is not None and mark.removed_by is not None:
            yield Happening(Kind.UNMARKED, mark.removed_at, mark=mark, who=mark.removed_by)
        elif mark.removed_at is not None or (mark.until is not None and mark.until <= now):
            ended = mark.removed_at if mark.removed_at is not None else mark.until
            yield Happening(Kind.MARK_ENDED, ended, mark=mark)
