"""A GPU's condition in words: why it is degraded, since when, and NVIDIA's advice."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from collector.health import (
    GROWTH_WINDOW_SECONDS,
    HEALTH_FIELDS,
    Condition,
    Degradation,
    Health,
    Level,
    degradations,
    grew,
    growth_follows,
    level,
    worst_level,
)
from collector.model import Event, FieldChange, Gpu, Place
from collector.views.humanize import LEVEL_WORDS
from collector.views.recent_changes import ChangeGroup, RecentChanges

__all__ = [
    "ADVICE",
    "NO_PAST",
    "REASON_WORDS",
    "HealthChange",
    "Past",
    "Reason",
    "Stage",
    "Turn",
    "Verdict",
    "condition_after",
    "degraded_since",
    "judge",
    "remembered",
    "retrace",
    "turn",
    "turn_of",
]

REASON_WORDS = MappingProxyType(
    {
        Degradation.LOST: "does not respond",
        Degradation.ROW_REMAP_FAILURE: "row remapping failed",
        Degradation.SRAM_THRESHOLD: "SRAM error threshold exceeded",
        Degradation.PAGE_RETIREMENT_LIMIT: "too many retired pages",
        Degradation.UNCORRECTABLE_ECC_GROWING: "uncorrectable ECC errors increasing",
        Degradation.ROW_REMAP_PENDING: "row remapping pending",
        Degradation.PAGE_RETIREMENT_PENDING: "page retirement pending",
        Degradation.REPAIR_PENDING: "repair pending",
        Degradation.RECOVERY_ACTION: "recovery action requested",
        Degradation.FABRIC: "fabric unhealthy",
    }
)

# One sentence each, based on the documents named in Degradation's docstring.
ADVICE = MappingProxyType(
    {
        Degradation.ROW_REMAP_FAILURE: "NVIDIA's RMA policy applies if the card also fails the field diagnostic.",
        Degradation.SRAM_THRESHOLD: "Errors above this threshold meet NVIDIA's RMA policy.",
        Degradation.PAGE_RETIREMENT_LIMIT: (
            "NVIDIA's field diagnostic fails cards with this many retired pages: have it checked for an RMA."
        ),
        Degradation.LOST: (
            "NVIDIA's Xid catalog for a GPU that fell off the bus: restart the machine, and contact support "
            "if that does not help."
        ),
        Degradation.UNCORRECTABLE_ECC_GROWING: (
            "NVIDIA's DCGM advises for uncorrectable errors: drain the GPU and reset it, or reboot the node."
        ),
        Degradation.RECOVERY_ACTION: (
            "The driver requests it; NVIDIA says to end the processes on the GPU before a reset (nvidia-smi -r), and "
            "to reboot the node if a reboot is requested."
        ),
        Degradation.REPAIR_PENDING: (
            "NVIDIA does not document what the repair needs; gpuid assumes a reset. For unrepairable memory,"
            " DCGM fails the card."
        ),
        Degradation.ROW_REMAP_PENDING: (
            "NVIDIA says that rows are remapped at the next GPU reset, and that work may continue until then."
        ),
        Degradation.PAGE_RETIREMENT_PENDING: (
            "NVIDIA says that the page is retired when the driver is reloaded; rebooting the node does that."
        ),
        Degradation.FABRIC: (
            "NVIDIA's DCGM fails a GPU that did not join the NVLink fabric or whose route in it is unhealthy."
        ),
    }
)
_ORDER = {level: number for number, level in enumerate(Level)}


class HealthChange(NamedTuple):
    """One change of a GPU's health, and when (Unix seconds)."""

    time: float
    changes: tuple[FieldChange, ...]
    place: Place | None = None  # where the GPU was then


class Stage(NamedTuple):
    """A period in which a GPU's reasons and required action stayed the same."""

    since: float | None  # Unix seconds; None: before the first record
    reasons: tuple[Degradation, ...] = ()
    level: Level | None = None


class Turn(NamedTuple):
    """The reasons that a health change started and ended; worst first."""

    began: tuple[Degradation, ...] = ()
    ended: tuple[Degradation, ...] = ()
    unsaid: tuple[Degradation, ...] = ()  # ended only because they are no longer reported, which is not a recovery
    level: Level | None = None  # action required by the reasons that started


class Past(NamedTuple):
    """A GPU's past condition."""

    stages: Sequence[Stage] = ()  # oldest first
    turns: Mapping[HealthChange, Turn] = MappingProxyType({})  # what each of its changes started and ended
    unsaid: Sequence[Degradation] = ()  # why it needed replacement at its former place, no longer reported now


NO_PAST = Past()


class Reason(NamedTuple):
    """Why a GPU is degraded, since when (Unix seconds; None: unknown), and what to do, in one sentence."""

    reason: Degradation
    since: float | None = None
    or_earlier: bool = False  # it already applied at the first reading

    @property
    def words(self) -> str:
        """The reason in words."""
        return REASON_WORDS[self.reason]

    @property
    def advice(self) -> str:
        """NVIDIA's advice; empty if there is none."""
        return ADVICE.get(self.reason, "")


class Verdict(NamedTuple):
    """The verdict on one GPU's condition."""

    level: Level | None  # None: it is not degraded
    reasons: tuple[Reason, ...]  # the worst first
    told: bool  # whether it reports any health data

    @property
    def words(self) -> str:
        """The verdict as a heading: "Needs replacement"."""
        if self.level is None:
            return "Healthy" if self.told else "Health unknown"
        words = LEVEL_WORDS[self.level]
        return words[:1].upper() + words[1:]


def judge(condition: Condition, past: Past = NO_PAST) -> Verdict:
    """Return the verdict on a GPU with this condition and past."""
    first = {
        (change.time, reason)
        for change, turned in past.turns.items()
        if all(before is None for _, before, _ in change.changes)
        for reason in turned.began
    }
    sinces = ((one, degraded_since(one, past.stages)) for one in degradations(condition))
    reasons = tuple(Reason(one, since, (since, one) in first) for one, since in sinces)
    return Verdict(worst_level(condition), reasons, told=condition.health is not None)


def remembered(changes: RecentChanges, uuids: Container[str]) -> Iterator[tuple[str, HealthChange]]:
    """Yield the health changes of these GPUs in memory, newest first."""
    for group in changes.newest(Event.HEALTH):
        for gpu, altered in zip(group.gpus, group.altered, strict=False):
            if gpu.uuid in uuids:
                yield gpu.uuid, HealthChange(group.time, altered, group.place)


def retrace(
    changes: Iterable[HealthChange], gpu: Gpu, now: Condition, *, arrivals: Container[float] | None = None
) -> Past:
    """Return a GPU's past condition from its health changes, oldest first, up to its last reading.

    Before the first change of a field, its value was the change's old one; fields that a change reports as unknown are
    unknown. As in the inventory, more errors than in another cluster are not growth, and fewer end it; `arrivals` are
    the times (Unix seconds) at which the GPU came to its places, if known. The last stage is always that of `now`.
    """
    followed = _Followed(list(changes), gpu, arrivals)
    followed.pass_time(now.read)
    _end_with(followed.stages, now, followed.came)
    return Past(followed.stages, followed.turns, followed.unsaid(now))


def condition_after(changes: Sequence[HealthChange]) -> Condition:
    """Return the condition of a GPU of which only its health changes, oldest first, are known."""
    followed = _Followed(changes, Gpu(uuid=""), None)
    return followed.condition(changes[-1].time if changes else 0.0)


class _Followed:
    """A GPU's condition, tracked through its health changes, oldest first."""

    def __init__(self, changes: Sequence[HealthChange], gpu: Gpu, arrivals: Container[float] | None) -> None:
        self._state = _state_before(changes, gpu)
        self._last = dict(self._state)  # last reported, at any place
        self._growth: float | None = None  # Unix seconds
        self._cluster: str | None = None
        self._arrivals = arrivals
        self.stages: list[Stage] = [_stage(None, self.condition(0.0))]
        self.turns: dict[HealthChange, Turn] = {}
        self.came: float | None = None  # Unix seconds: into the cluster of the last change, from another one
        for change in changes:
            self._follow(change)

    def condition(self, time: float) -> Condition:
        """Return the GPU's condition at a time (Unix seconds) after the last change."""
        return Condition(_health(self._state), self._state.get("lost") is True, self._growth, time)

    def pass_time(self, time: float) -> None:
        """End a growth of errors that is too old at a time (Unix seconds)."""
        if self._growth is not None and (ends := self._growth + GROWTH_WINDOW_SECONDS) <= time:
            self._growth = None
            _add(self.stages, ends, self.condition(ends))

    def unsaid(self, now: Condition) -> list[Degradation]:
        """Return reasons that neither a reset nor a reboot cures and that current reports do not refute."""
        kept = Condition(_filled(now.health, _health(self._last)))
        return [one for one in degradations(kept) if level(one, kept) is Level.REPLACE and one not in degradations(now)]

    def _follow(self, change: HealthChange) -> None:
        time, altered, place = change
        self.pass_time(time)
        was = self.condition(time)
        self._state.update((field, after) for field, _, after in altered)
        self._last.update((field, after) for field, _, after in altered if after is not None)
        now = _health(self._state)
        if self._is_from_another_cluster(time, place):
            self.came = time
            if not growth_follows(was.health, now):
                self._growth = None
        elif grew(was.health, now):
            self._growth = time
        self._cluster = self._cluster if place is None else place.cluster
        condition = self.condition(time)
        self.turns[change] = _turn(was, condition, grown=self._growth == time)
        _add(self.stages, time, condition)

    def _is_from_another_cluster(self, time: float, place: Place | None) -> bool:
        if place is None or self._cluster in (None, place.cluster):
            return False
        return self._arrivals is None or time in self._arrivals


def _end_with(found: list[Stage], now: Condition, came: float | None) -> None:
    """Make the current state the last stage, from the latest time at which it can have started."""
    last, current = found[-1], degradations(now)
    if (current, worst_level(now)) == (last.reasons, last.level):
        return
    begun = now.ecc_growth if Degradation.UNCORRECTABLE_ECC_GROWING in set(current) - set(last.reasons) else came
    since = now.read if begun is None else begun
    _add(found, since if last.since is None else max(since, last.since), now)


def turn(changes: Iterable[FieldChange], known: Health | None = None, *, grown: bool = True) -> Turn:
    """Return the reasons that a health change started and ended.

    `known` is the health after it, as far as known; `grown` is whether more errors count as growth.
    """
    after: dict[str, Any] = {field: getattr(known, field, None) for field in HEALTH_FIELDS}
    before = dict(after)
    for field, old, new in changes:
        before[field], after[field] = old, new
    growth = 0.0 if grown and grew(_health(before), _health(after)) else None
    was = Condition(_health(before), before.get("lost") is True)
    return _turn(was, Condition(_health(after), after.get("lost") is True, growth), grown=growth is not None)


def _turn(was: Condition, now: Condition, *, grown: bool) -> Turn:
    """Return the difference; errors that grow again count as started, even if they grew recently."""
    old = {one: level(one, was) for one in degradations(was)}
    new = {one: level(one, now) for one in degradations(now)}
    growing = Degradation.UNCORRECTABLE_ECC_GROWING
    worse = {one for one, to_do in new.items() if one not in old or _ORDER[to_do] < _ORDER[old[one]]}
    began = tuple(one for one in new if one in worse or (grown and one is growing))
    levels = [new[one] for one in began]
    unsaid = _unsaid(was.health, now.health).intersection(old).difference(new)
    return Turn(
        began,
        tuple(one for one in old if one not in new and one not in unsaid),
        tuple(one for one in old if one in unsaid),
        min(levels, key=_ORDER.__getitem__, default=None),
    )


def _unsaid(was: Health | None, now: Health | None) -> set[Degradation]:
    """Return the reasons that would apply if values no longer reported still held."""
    reasons = set(degradations(Condition(_filled(now, was))))
    if now is not None and now.recovery_action is not None:  # equivalent to older flags
        reasons.discard(Degradation.RECOVERY_ACTION)
    return reasons


def _filled(health: Health | None, known: Health | None) -> Health | None:
    """Return a health value with gaps filled from an earlier one."""
    if health is None or known is None:
        return known if health is None else health
    return msgspec.structs.replace(
        known, **{field: value for field in HEALTH_FIELDS if (value := getattr(health, field)) is not None}
    )


def turn_of(group: ChangeGroup) -> Turn:
    """Return the reasons that the changes of several GPUs together started and ended."""
    turns = [
        turn(changes, gpu.health, grown=gpu.health is None or gpu.ecc_growth is not None)
        for gpu, changes in zip(group.gpus, group.altered, strict=False)
    ]
    began = tuple(one for one in Degradation if any(one in each.began for each in turns))
    ended = tuple(one for one in Degradation if any(one in each.ended for each in turns) and one not in began)
    unsaid = tuple(one for one in Degradation if any(one in each.unsaid for each in turns) and one not in began)
    levels = [each.level for each in turns]
    return Turn(began, ended, unsaid, next((one for one in Level if one in levels), None))


def degraded_since(reason: Degradation, past: Sequence[Stage]) -> float | None:
    """Return since when (Unix seconds) a reason has applied without a break; None if unknown."""
    since = None
    for stage in reversed(past):
        if reason not in stage.reasons:
            break
        since = stage.since
    return since


def _state_before(changes: Iterable[HealthChange], gpu: Gpu) -> dict[str, Any]:
    state: dict[str, Any] = {field: getattr(gpu.health, field, None) for field in HEALTH_FIELDS}
    first: dict[str, Any] = {}
    for _, altered, _ in changes:
        for field, before, _ in altered:
            first.setdefault(field, before)
    return state | first


def _add(found: list[Stage], since: float, condition: Condition) -> None:
    last, stage = found[-1], _stage(since, condition)
    if (stage.reasons, stage.level) == (last.reasons, last.level):
        return
    if last.since == since:
        found.pop()
    found.append(stage)


def _stage(since: float | None, condition: Condition) -> Stage:
    return Stage(since, degradations(condition), worst_level(condition))


def _health(state: Mapping[str, Any]) -> Health | None:
    values = {field: value for field, value in state.items() if field in HEALTH_FIELDS and value is not None}
    return Health(**values) if values else None
