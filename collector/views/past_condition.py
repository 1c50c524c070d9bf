"""How a GPU was at a time: what was recorded of its health before and after, or nothing where that does not tell.

A change says what was before it and what after it. Between two changes nothing was noticed, unless the collector had
forgotten the GPU meanwhile, as it does with a cluster that is taken out of the configuration. Where both sides
disagree, what was recorded during the same stay on a node counts; without that, nothing is known.
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
    """Return how a GPU was at a time (Unix seconds) at which it was in `stay`; None if that is not known.

    `changes` are those of its health, oldest first: all since then, and those before by which errors may be growing.
    `stays` are all that it had, oldest first; they are not needed without changes. `now` is how it is, or was when it
    was read last; None: that is not known.
    """
    health = None if now is None else now.health if stay.until is None else of_card(now.health)
    if not changes:  # of nearly every GPU
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
    """Return when (Unix seconds) errors had grown last within the window before a time, and whether that is known."""
    came = {
        later.since
        for earlier, later in itertools.pairwise(stays)
        if earlier.place.cluster != later.place.cluster  # whose errors are another one's to tell
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
