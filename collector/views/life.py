"""The whole life of one GPU as one list: its places, what was altered of it, its health, and its marks."""

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

MAX_PERIODS = 200  # that are asked for at once, the newest
MAX_ALTERATIONS = 200
MAX_HEALTH_CHANGES = 500
MAX_MARKS = 200
MOVE_SECONDS = 5.0  # from leaving one node to being found in another one


class Kind(StrEnum):
    """What can happen in a GPU's life."""

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
    """One thing that happened to a GPU."""

    kind: Kind
    time: float | None  # Unix seconds; None: before anything that is remembered
    place: Place | None = None
    previous: Place | None = None  # from where it moved
    machine: str = ""
    stayed: float | None = None  # seconds: how long it stayed in `place`, or has been there; before LEFT, until then
    before: float | None = None  # seconds that it had been in `previous`
    present: bool = False  # it is in `place` now, since then
    claim: bool = False  # another node had it first and has not let go of it yet
    again: bool = False  # it had been there before
    first: bool = False  # nothing is recorded of it before
    nowhere: float | None = None  # seconds that it had been in no node before it came
    reasons: tuple[Degradation, ...] = ()  # why it was degraded when it came, moved or left
    level: Level | None = None
    changes: tuple[FieldChange, ...] = ()
    turn: Turn = Turn()
    mark: Mark | None = None
    who: str = ""
    seat: str = ""  # where in its machine it was then, for people


class Memory(NamedTuple):
    """What is known of one GPU's past, each the newest first."""

    placements: HistoryAnswer[PastPlacement]
    health: list[HealthChange]
    altered: list[Alteration]
    marks: list[Mark]

    @property
    def whole(self) -> bool:
        """Whether the placements are all that are recorded."""
        return len(self.placements.rows) < MAX_PERIODS

    @property
    def complete_from(self) -> float | None:
        """From when on (Unix seconds) this is all that is recorded; None: from the beginning."""
        rows = self.placements.rows
        ends = [rows[-1].since] if len(rows) == MAX_PERIODS else []
        ends += [self.health[-1].time] if len(self.health) == MAX_HEALTH_CHANGES else []
        ends += [self.marks[-1].set_at] if len(self.marks) == MAX_MARKS else []
        ends += [self.altered[-1].time] if len(self.altered) == MAX_ALTERATIONS else []
        return max(ends, default=None)


class Part(NamedTuple):
    """A part of a life, the newest first, and where the next part begins (Unix seconds; None at the end)."""

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
    """Return a life, the newest first; its periods and the rest are given the newest first.

    `whole` is whether the periods are all that are recorded.
    """
    changed = list(health)
    found = [
        *(_as_it_was(one, past) for one in _places(periods, now, whole=whole)),
        *(Happening(Kind.ALTERED, one.time, changes=one.changes) for one in altered),
        *_healths(changed, past),
        *_faded(changed, past.stages, now),
        *_marks(marks, now),
    ]
    # What happened at the same time is listed in the order of the kinds: that it came, then how it was.
    order = {kind: number for number, kind in enumerate(Kind)}
    return sorted(found, key=lambda one: (-math.inf if one.time is None else one.time, order[one.kind]), reverse=True)


def part_of(life: Sequence[Happening], *, before: float | None, complete_from: float | None, limit: int) -> Part:
    """Return the part of a life, given the newest first, that begins before a time (Unix seconds; None: now).

    It has `limit` happenings, or more if they were at the same time. The life is known from `complete_from` on, in Unix
    seconds; None: from its beginning.
    """
    newer = [one for one in life if before is None or one.time is None or one.time < before]
    known = [one for one in newer if complete_from is None or (one.time is not None and one.time >= complete_from)]
    if len(known) <= limit:
        return Part(known, complete_from)
    last = known[limit - 1].time
    shown = [one for number, one in enumerate(known) if number < limit or one.time == last]
    return Part(shown, last if len(shown) < len(newer) or complete_from is not None else None)


async def recall(view: CollectorView, uuid: str, history: History | None, *, before: float | None = None) -> Memory:
    """Return what is recorded of a GPU, given in whatever case, before a time (Unix seconds); else what memory holds.

    All questions to `history` share its time.
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
    """Return all that was ever noted of a GPU, the newest first; else, without the store, what is in force."""
    present = [placement.gpu.serial for placement in view.inventory.find(uuid=uuid)]
    serial = next((one for one in (*present, *(row.serial for row in rows)) if one), None)
    if (store := view.mark_store) is not None:
        try:
            return await store.of_gpu(uuid, serial, limit=MAX_MARKS)
        except StoreError:
            pass  # the page says already that the history is unavailable
    mark = view.marks.of(uuid, serial, view.now())
    return [] if mark is None else [mark]


async def _placements(uuid: str, before: float | None, history: History) -> list[PastPlacement]:
    after = None if before is None else Position(present=False, since=before, id=0)
    # A serial may look like anything, even like another GPU's UUID.
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
    """Return which of the periods a GPU left for this one: the two nodes were read in either order."""
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
    """Return for how many seconds a GPU had been in no node before a period; None if that is not known."""
    if period.since is None:
        return None
    earlier = [one for one in periods if one is not period and (one.since or 0.0) < period.since]
    ends = [one.until for one in earlier if one.until is not None]
    return period.since - max(ends) if ends and len(ends) == len(earlier) and max(ends) < period.since else None


def _as_it_was(one: Happening, past: Past) -> Happening:
    """Return a coming or going with the condition that the GPU was in, as far as no change of that moment tells it."""
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
    """Yield when errors had not grown for so long that they count as growing no more, which no change tells."""
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
