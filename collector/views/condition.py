"""How one GPU is, in words: why it is degraded, since when, and what NVIDIA's documents say to do about it."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from collector.health import (
    GROWTH_WINDOW_SECONDS,
    HEALTH_FIELDS,
    Condition,
    Degradation,
    Health,
    Level,
    degradations,
    worst_level,
)
from collector.model import FieldChange, Gpu, Place
from collector.views.humanize import LEVEL_WORDS
from collector.views.recent_changes import ChangeGroup

__all__ = [
    "ADVICE",
    "REASON_WORDS",
    "HealthChange",
    "Reason",
    "Stage",
    "Turn",
    "Verdict",
    "degraded_since",
    "health_after",
    "judge",
    "lost_after",
    "stages",
    "turn",
    "turn_of",
]

REASON_WORDS = MappingProxyType(
    {
        Degradation.LOST: "it does not answer",
        Degradation.ROW_REMAP_FAILURE: "row remapping failed",
        Degradation.SRAM_THRESHOLD: "SRAM error threshold exceeded",
        Degradation.PAGE_RETIREMENT_LIMIT: "too many retired pages",
        Degradation.UNCORRECTABLE_ECC_GROWING: "uncorrectable ECC errors grow",
        Degradation.ROW_REMAP_PENDING: "row remapping pending",
        Degradation.PAGE_RETIREMENT_PENDING: "page retirement pending",
        Degradation.REPAIR_PENDING: "repair pending",
        Degradation.RECOVERY_ACTION: "recovery action requested",
        Degradation.FABRIC: "fabric unhealthy",
    }
)

# One sentence each, after the documents that the docstring of Degradation names.
ADVICE = MappingProxyType(
    {
        Degradation.ROW_REMAP_FAILURE: "NVIDIA's RMA policy is met when the card fails the field diagnostic as well.",
        Degradation.SRAM_THRESHOLD: "NVIDIA's RMA policy is met by the errors that exceed this threshold.",
        Degradation.PAGE_RETIREMENT_LIMIT: (
            "NVIDIA's field diagnostic fails a card with so many retired pages, so have it checked for an RMA."
        ),
        Degradation.LOST: (
            "NVIDIA's Xid catalog says of a GPU that has fallen off the bus: restart the machine, and contact support "
            "if that does not help."
        ),
        Degradation.UNCORRECTABLE_ECC_GROWING: (
            "NVIDIA's DCGM says of uncorrectable errors: drain the GPU and reset it, or reboot the node."
        ),
        Degradation.RECOVERY_ACTION: (
            "The driver asks for it; NVIDIA says to end the processes on the GPU before a reset (nvidia-smi -r), and "
            "to reboot the node where it asks for a reboot."
        ),
        Degradation.REPAIR_PENDING: (
            "NVIDIA does not say what the repair waits for, and gpuid takes it for a reset; memory that is unrepairable"
            " makes DCGM fail the card."
        ),
        Degradation.ROW_REMAP_PENDING: (
            "NVIDIA says that rows are remapped at the next reset of the GPU, and that work on it may go on until then."
        ),
        Degradation.PAGE_RETIREMENT_PENDING: (
            "NVIDIA says that the page is retired when the driver is loaded again; a reboot of the node does that."
        ),
        Degradation.FABRIC: (
            "NVIDIA's DCGM fails a GPU that did not join the NVLink fabric, or whose route in it is not healthy."
        ),
    }
)

UNCORRECTABLE = frozenset(("ecc_sram_uncorrectable", "ecc_dram_uncorrectable"))


class HealthChange(NamedTuple):
    """One change of a GPU's health, and when (Unix seconds)."""

    time: float
    changes: tuple[FieldChange, ...]
    place: Place | None = None  # where the GPU was then


class Stage(NamedTuple):
    """A part of a GPU's life in which its reasons to be degraded stayed the same."""

    since: float | None  # Unix seconds; None: before anything that is recorded
    reasons: tuple[Degradation, ...] = ()
    level: Level | None = None


class Turn(NamedTuple):
    """What one change of health began and ended, as far as its own fields tell; the worst first."""

    began: tuple[Degradation, ...] = ()
    ended: tuple[Degradation, ...] = ()
    level: Level | None = None  # what is to be done because of what began


class Reason(NamedTuple):
    """Why a GPU is degraded, since when (Unix seconds; None: unknown), and what to do about it in one sentence."""

    reason: Degradation
    since: float | None = None

    @property
    def words(self) -> str:
        """The reason as people say it."""
        return REASON_WORDS[self.reason]

    @property
    def advice(self) -> str:
        """What NVIDIA's documents say to do; empty where they say nothing."""
        return ADVICE.get(self.reason, "")


class Verdict(NamedTuple):
    """What is to be said of one GPU's condition."""

    level: Level | None  # None: it is not degraded
    reasons: tuple[Reason, ...]  # the worst first
    told: bool  # whether anything is reported of its health at all

    @property
    def words(self) -> str:
        """It in a word or two, as a heading: "Needs replacement"."""
        if self.level is None:
            return "Healthy" if self.told else "Health unknown"
        words = LEVEL_WORDS[self.level]
        return words[:1].upper() + words[1:]


def judge(condition: Condition, past: Sequence[Stage] = ()) -> Verdict:
    """Return what is to be said of a GPU in this condition, with this past, oldest first."""
    reasons = tuple(Reason(one, degraded_since(one, past)) for one in degradations(condition))
    return Verdict(worst_level(condition), reasons, told=condition.health is not None)


def stages(changes: Iterable[HealthChange], gpu: Gpu, *, until: float) -> list[Stage]:
    """Return the stages of a GPU's condition until a time (Unix seconds), oldest first, from its changes of health.

    The changes are given oldest first. Before the first one of a field it was what that one says, and a field that is
    no longer reported stays what it was, as in the inventory.
    """
    known = list(changes)
    state = _state_before(known, gpu)
    growth: float | None = None
    found: list[Stage] = [_stage(None, _condition(state))]
    for time, altered, _ in known:
        if growth is not None and time - growth >= GROWTH_WINDOW_SECONDS:
            _add(found, growth + GROWTH_WINDOW_SECONDS, _condition(state))
            growth = None
        for field, before, after in altered:
            if field in UNCORRECTABLE and _grew(before, after):
                growth = time
            if after is not None:
                state[field] = after
        _add(found, time, _condition(state, growth, time))
    if growth is not None and until - growth >= GROWTH_WINDOW_SECONDS:
        _add(found, growth + GROWTH_WINDOW_SECONDS, _condition(state))
    return found


def turn(changes: Iterable[FieldChange]) -> Turn:
    """Return which reasons to be degraded one change of health began and ended.

    What is no longer reported has not ended: a driver that says less repairs nothing.
    """
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    growth = None
    for field, was, now in changes:
        before[field], after[field] = was, was if now is None else now
        if field in UNCORRECTABLE and _grew(was, now):
            growth = 0.0
    then = _condition(after, growth)
    old, new = degradations(_condition(before)), degradations(then)
    began = tuple(one for one in new if one not in old)
    return Turn(began, tuple(one for one in old if one not in new), worst_level(then) if began else None)


def turn_of(group: ChangeGroup) -> Turn:
    """Return which reasons to be degraded the changes of some GPUs together began and ended."""
    turns = [turn(changes) for changes in group.altered]
    began = tuple(one for one in Degradation if any(one in each.began for each in turns))
    ended = tuple(one for one in Degradation if any(one in each.ended for each in turns) and one not in began)
    levels = [each.level for each in turns]
    return Turn(began, ended, next((level for level in (Level.REPLACE, Level.RESET) if level in levels), None))


def health_after(changes: Iterable[HealthChange]) -> Health | None:
    """Return the health of which changes, given oldest first, tell; None where they tell nothing."""
    state = {field: now for _, altered, _ in changes for field, _, now in altered if now is not None}
    return _health(state)


def lost_after(changes: Iterable[HealthChange]) -> bool:
    """Return whether a GPU had stopped answering after its changes of health, given oldest first."""
    lost = False
    for _, altered, _ in changes:
        lost = next((now is True for field, _, now in altered if field == "lost"), lost)
    return lost


def degraded_since(reason: Degradation, past: Sequence[Stage]) -> float | None:
    """Return since when (Unix seconds) a reason has held without a break; None if that is not known."""
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
    if (stage := _stage(since, condition)).reasons != found[-1].reasons:
        found.append(stage)


def _stage(since: float | None, condition: Condition) -> Stage:
    return Stage(since, degradations(condition), worst_level(condition))


def _condition(state: Mapping[str, Any], growth: float | None = None, time: float = 0.0) -> Condition:
    return Condition(_health(state), state.get("lost") is True, growth, time)


def _health(state: Mapping[str, Any]) -> Health | None:
    values = {field: value for field, value in state.items() if field in HEALTH_FIELDS and value is not None}
    return Health(**values) if values else None


def _grew(before: object, after: object) -> bool:
    return isinstance(before, int) and isinstance(after, int) and after > before
