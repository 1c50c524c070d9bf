"""Keeps values that a GPU no longer reports as last known, with the time of the last report."""

import math
import sys
from collections.abc import Iterable, Sequence

import msgspec

from collector.health import (
    GROWTH_WINDOW_SECONDS,
    HEALTH_FIELDS,
    Health,
    grew,
    growth_follows,
    of_card,
    shared,
    without,
)
from collector.model import KEPT_FIELDS, SEAT_FIELDS, Gpu, LastReport

__all__ = [
    "facts_of",
    "newest_marks",
    "settled",
    "with_foreign_growth",
    "with_growth",
    "with_last_known",
    "with_own_health",
]

_OWN_FIELDS = tuple(field for field in KEPT_FIELDS if field != "chassis")  # those that a GPU has in any node
_RESETS = ("reset_required", "drain_and_reset_recommended")  # reported by drivers without a recovery action
_WAITING = ("recovery_action", *_RESETS, *(field for field in HEALTH_FIELDS if field.endswith("_pending")))


def with_last_known(gpu: Gpu, known: Gpu, time: float, *, same_node: bool, rebooted: bool = False) -> Gpu:
    """Return a GPU with the values that only an earlier reading has, marked as such.

    `time` (Unix seconds) is when `known` was read, unless its values are marked with an earlier time. `rebooted` means
    that the node has rebooted since.
    """
    return _with_known(gpu, known, _lasting(known, gpu.health, rebooted=rebooted), time, same_node=same_node)


def _with_known(gpu: Gpu, known: Gpu, known_health: Health | None, time: float, *, same_node: bool) -> Gpu:
    if gpu.virtual:
        return gpu
    kept = {
        name: value
        for name in (KEPT_FIELDS if same_node else _OWN_FIELDS)
        if getattr(gpu, name) is None and (value := getattr(known, name)) is not None
    }
    health, unsaid = _with_last_health(gpu.health, known_health, known.last_known)
    growth = gpu.ecc_growth if gpu.ecc_growth is not None else known.ecc_growth
    if not kept and not unsaid:
        return gpu if growth == gpu.ecc_growth else msgspec.structs.replace(gpu, ecc_growth=growth)
    marks = known.last_known
    if [field for field, _ in marks] != [*kept, *unsaid]:  # otherwise only values that were already missing are missing
        times = dict(marks)
        whole = times.get("health", time)
        marks = tuple(LastReport(name, times.get(name, time)) for name in kept)
        marks += tuple(LastReport(name, times.get(name, whole)) for name in unsaid)
    return msgspec.structs.replace(gpu, **kept, last_known=gpu.last_known + marks, health=health, ecc_growth=growth)


def _lasting(known: Gpu, health: Health | None, *, rebooted: bool) -> Health | None:
    """Return a GPU's known health without the values that expire when a later reading does not report them.

    The fabric belongs to the place, not the card. A reboot of the node resets whatever waited for a reset. For whether
    a reset is required, the recovery action and its predecessors substitute for each other; and if a GPU reports that
    instead of its values, it expires when the values are back.
    """
    if (was := known.health) is None or health is was:
        return was
    ended = set(_WAITING) if rebooted else set()
    if health is not None and health.reset_required is False:
        ended.add("recovery_action")
    if health is not None and health.recovery_action is not None:
        ended.update(_RESETS)
    elif health is not None and _has_values(health) and _in_place_of_values(known):
        ended.add("reset_required")
    return without(of_card(was), ended)


def _in_place_of_values(known: Gpu) -> bool:
    """Return whether the required reset came from something other than the flag paired with the drain flag."""
    if known.health is None or not known.health.reset_required:
        return False
    times = dict(known.last_known)
    reset, drain = (times.get(name, times.get("health", math.inf)) for name in _RESETS)
    return known.health.drain_and_reset_recommended is None or drain < reset


def _has_values(health: Health) -> bool:
    """Return whether a GPU responds; one that does not reports only what is wrong."""
    return any((value := getattr(health, name)) is not None and value is not True for name in HEALTH_FIELDS)


def _with_last_health(
    health: Health | None, known: Health | None, marks: tuple[LastReport, ...]
) -> tuple[Health | None, tuple[str, ...]]:
    """Return a health with the values that only an earlier one has, and the names under which they are marked.

    `marks` are the names of the earlier one's values that are already marked.
    """
    if known is None or health is known:
        return health, ()
    if health is None:
        fields = (field for field, _ in marks if field in HEALTH_FIELDS and getattr(known, field) is not None)
        return known, (*fields, "health")
    kept = {
        name: value
        for name in HEALTH_FIELDS
        if getattr(health, name) is None and (value := getattr(known, name)) is not None
    }
    return (shared(msgspec.structs.replace(health, **kept)), tuple(kept)) if kept else (health, ())


def with_growth(gpu: Gpu, known: Gpu, time: float) -> Gpu:
    """Return a GPU as found by a reading at `time` (Unix seconds), noting growth of its uncorrectable ECC errors.

    `known` is the earlier data from its own cluster: another cluster's is not trusted.
    """
    if known.health is gpu.health or gpu.virtual or gpu.ecc_growth is not None or not grew(known.health, gpu.health):
        return gpu
    return msgspec.structs.replace(gpu, ecc_growth=time)


def with_foreign_growth(gpu: Gpu, known: Gpu, time: float) -> Gpu:
    """Return a GPU as found by a reading at `time` (Unix seconds), with error growth noted in another cluster.

    That growth is adopted only if the GPU's own values here confirm it.
    """
    growth = known.ecc_growth
    if growth is None or gpu.virtual or (gpu.ecc_growth is not None and gpu.ecc_growth >= growth):
        return gpu
    if abs(time - growth) >= GROWTH_WINDOW_SECONDS or not growth_follows(known.health, gpu.health):
        return gpu
    return msgspec.structs.replace(gpu, ecc_growth=growth)


def settled(gpu: Gpu, known: Gpu, time: float) -> Gpu:
    """Return a GPU that has moved within its cluster, with its old place's knowledge of its health.

    Its data in the claim dates from when the claim was opened. `time` is when it was last read at its old place.
    """
    if known.health is not None and gpu.last_known and gpu.health is not None:
        whole = any(field == "health" for field, _ in gpu.last_known)
        unsaid = {field for field, _ in gpu.last_known if field in HEALTH_FIELDS}
        names = [name for name in HEALTH_FIELDS if getattr(known.health, name) is not None]
        said = {name: None for name in names if whole or name in unsaid}
        if said:
            health = None if whole else msgspec.structs.replace(gpu.health, **said)
            marks = tuple(one for one in gpu.last_known if one.field not in said and (one.field != "health"))
            gpu = msgspec.structs.replace(gpu, health=health, last_known=marks)
    newest = max((one.ecc_growth for one in (gpu, known) if one.ecc_growth is not None), default=None)
    gpu = with_last_known(gpu, known, time, same_node=False)
    return gpu if gpu.ecc_growth == newest else msgspec.structs.replace(gpu, ecc_growth=newest)


def facts_of(gpu: Gpu, time: float) -> Gpu | None:
    """Return the last known values and position of a GPU while it is in no node, marked; None if there are none.

    `time` (Unix seconds) is when it was last read.
    """
    if gpu.virtual:
        return None
    nothing = Gpu(uuid=gpu.uuid)
    facts = _with_known(nothing, gpu, gpu.health, time, same_node=True)
    if facts is nothing:
        return None
    texts = {name: sys.intern(value) for name in KEPT_FIELDS if name != "serial" and (value := getattr(facts, name))}
    seat = {name: getattr(gpu, name) for name in SEAT_FIELDS}
    texts |= {name: sys.intern(value) for name, value in seat.items() if isinstance(value, str)}
    # Shared by all absent GPUs with equal values.
    return msgspec.structs.replace(facts, **seat | texts)


def newest_marks(gpu: Gpu, recorded: Gpu) -> Gpu:
    """Return a GPU with its last known values marked with the times recorded by another inventory."""
    theirs = dict(recorded.last_known)
    marks = tuple(
        LastReport(field, theirs[field])
        if field in theirs and _value(gpu, field) == _value(recorded, field)
        else LastReport(field, time)
        for field, time in gpu.last_known
    )
    return gpu if marks == gpu.last_known else msgspec.structs.replace(gpu, last_known=marks)


def with_own_health(gpus: Sequence[Gpu], own: Iterable[Gpu]) -> tuple[Gpu, ...]:
    """Return another inventory's GPUs, of an older version that does not read their health, with what this one read."""
    known = {gpu.uuid: gpu for gpu in own}
    found = []
    for gpu in gpus:
        if (here := known.get(gpu.uuid)) is not None:
            marks = tuple(one for one in here.last_known if one.field == "health" or one.field in HEALTH_FIELDS)
            gpu = msgspec.structs.replace(
                gpu, health=here.health, ecc_growth=here.ecc_growth, last_known=gpu.last_known + marks
            )
        found.append(gpu)
    return tuple(found)


def _value(gpu: Gpu, field: str) -> object:
    return getattr(gpu.health, field, None) if field in HEALTH_FIELDS else getattr(gpu, field)
