"""Merges changes that only count up, which some cards have at each reading."""

import itertools
from collections.abc import Iterable, Iterator

import msgspec

from collector.health import COUNTERS
from collector.model import Event, FieldChange
from collector.views.alterations import fields_of
from collector.views.condition import Turn, turn_of
from collector.views.recent_changes import ChangeGroup

__all__ = ["counting_key", "fold_counting"]


def fold_counting(groups: Iterable[ChangeGroup], limit: int) -> list[ChangeGroup]:
    """Return `limit` groups, newest first as given.

    Changes of the same counters of the same GPUs are merged into the newest if they do not affect whether the GPUs are
    degraded: correctable memory errors grow every day.
    """
    found: dict[str, ChangeGroup] = {}
    for group in groups:
        key = counting_key(group)
        newer = found.get(key)
        if newer is not None and _continues(newer, group):
            found[key] = _joined(newer, group)
        elif len(found) < limit:
            found[str(group.id) if newer is not None or not key else key] = group
        else:
            break
    return list(found.values())


def counting_key(group: ChangeGroup) -> str:
    """Return the key of groups that can be merged; empty for other changes."""
    if group.event is not Event.HEALTH or not group.altered or not all(_grows(one) for one in _changes(group)):
        return ""
    if turn_of(group) != Turn():
        return ""
    place, fields = group.place, fields_of(group.altered[0])
    return " ".join([place.cluster, place.node, *fields, *sorted(gpu.uuid for gpu in group.gpus)])


def _changes(group: ChangeGroup) -> Iterator[FieldChange]:
    return itertools.chain.from_iterable(group.altered)


def _grows(change: FieldChange) -> bool:
    return change.field in COUNTERS and not change.went_back and change.after is not None


def _continues(newer: ChangeGroup, older: ChangeGroup) -> bool:
    """Return whether nothing came between: a counter that went back has its own row."""
    return [gpu.uuid for gpu in newer.gpus] == [gpu.uuid for gpu in older.gpus] and all(
        new.before == old.after for new, old in zip(_changes(newer), _changes(older), strict=True)
    )


def _joined(newer: ChangeGroup, older: ChangeGroup) -> ChangeGroup:
    altered = tuple(
        tuple(new._replace(before=old.before) for new, old in zip(late, early, strict=True))
        for late, early in zip(newer.altered, older.altered, strict=True)
    )
    return msgspec.structs.replace(newer, altered=altered, times=newer.times + older.times, began=older.time)
