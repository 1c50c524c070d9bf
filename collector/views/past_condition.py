"""A GPU's condition at a past time, from the health changes before and after it, or unknown if they do not say.

A change has the values before and after it. Between two changes nothing was noticed, unless the collector had
forgotten the GPU, as it does when a cluster is removed from the configuration. If both sides disagree, records from
the same stay on a node count; without any, the condition is unknown.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from collector.health import GROWTH_WINDOW_SECONDS, HEALTH_FIELDS, UNCORRECTABLE, Condition, Health, of_card
from collector.model import FieldChange
from collector.store import PastHealthChange, Stay

__all__ = ["condition_at"]


def condition_at(
    time: float,
    stay: Stay,
    changes: Sequence[PastHealthChange],
    stays: Sequence[Stay],
    now: Condition | None,
) -> Condition | None:
    """Return a GPU's condition at a time (Unix seconds) during `stay`; None if unknown.

    `changes` are its health changes, oldest first: all since then, and earlier ones that affect the growth of errors.
    `stays` are all of its stays, oldest first; they are not needed without changes. `now` is its current or last read
    condition; None: unknown.
    """
    health = None if now is None else now.health if stay.until is None else of_card(now.health)
    if not changes:  # true of nearly every GPU
        return None if now is None else Condition(health, now.lost, None, time)
    state: dict[str, Any] = {name: getattr(health, name, None) for name in HEALTH_FIELDS}
    state["lost"] = now is not None and now.lost
    for field in {one.field for change in changes for one in change.changes}:
        known, state[field] = _value_at(time, stay, field, changes, state.get(field))
        if not known:
            return None
    growth, known = _growth_at(time, stay, changes, stays)
    if not known:
        return None
    values = {name: value for name in HEALTH_FIELDS if (value := state[name]) is not None}
    return Condition(Health(**values) if values else None, state["lost"] is True, growth, time)


def _value_at(
    time: float, stay: Stay, field: str, changes: Iterable[PastHealthChange], now: object
) -> tuple[bool, object]:
    """Return whether a field's value at a time is known, and the value."""
    before: tuple[float, FieldChange] | None = None
    after: tuple[float, FieldChange] | None = None
    for change in changes:
        for one in change.changes:
            if one.field == field and change.time <= time:
                before = change.time, one
            elif one.field == field and after is None:
                after = change.time, one
    later = now if after is None else after[1].before
    if before is None:
        return True, later
    value = before[1].after
    if (value or None) == (later or None) or before[0] >= stay.since:
        return True, value
    ended = stay.until
    return ended is None or (after is not None and after[0] <= ended), later


def _growth_at(
    time: float, stay: Stay, changes: Iterable[PastHealthChange], stays: Sequence[Stay]
) -> tuple[float | None, bool]:
    """Return when (Unix seconds) errors last grew within the window before a time, and whether that is known."""
    came = {
        later.since
        for earlier, later in itertools.pairwise(stays)
        if earlier.place.cluster != later.place.cluster  # whose errors belong to another field
    }
    grown = [
        change.time
        for change in changes
        if time - GROWTH_WINDOW_SECONDS < change.time <= time and change.time not in came and _grew(change.changes)
    ]
    if not grown:
        return None, True
    last = max(grown)
    return last, last >= stay.since or _stayed(last, stay, stays)


def _grew(changes: Iterable[FieldChange]) -> bool:
    return any(
        one.field in UNCORRECTABLE
        and isinstance(one.before, int)
        and isinstance(one.after, int)
        and one.after > one.before
        for one in changes
    )


def _stayed(since: float, stay: Stay, stays: Sequence[Stay]) -> bool:
    """Return whether a GPU was in one cluster from a time (Unix seconds) until a stay, without a break."""
    way = [one for one in stays if one.since <= stay.since and (one.until is None or one.until >= since)]
    return all(
        earlier.until == later.since and earlier.place.cluster == later.place.cluster
        for earlier, later in itertools.pairwise(way)
    )
