"""The health of each GPU as reconstructed from the changes alone."""

from collections.abc import Iterable

from collector.model import Event
from collector.store import HistoricChange

__all__ = ["Key", "replayed_healths"]

Key = tuple[str, str, str]  # UUID, cluster, node


def replayed_healths(changes: Iterable[HistoricChange]) -> dict[Key, dict[str, object]]:
    """What a consumer of the changes alone holds for that: of a GPU in conflict, what each place says."""
    held: dict[Key, dict[str, object]] = {}
    away: dict[str, dict[str, object]] = {}
    for change in changes:
        key = (change.uuid, change.cluster, change.node)
        others = [other for other in held if other[0] == change.uuid]
        match change.event:
            case Event.APPEARED:
                held[key] = {} if others else away.pop(change.uuid, {})
            case Event.MOVED:
                gone = away.pop(change.uuid, {})
                before = (change.uuid, *(change.previous or ("", "")))
                held[key] = held.get(before, {} if others else gone)
                for other in others:
                    del held[other]
            case Event.VANISHED:
                known = held.pop(key)
                if others == [key]:
                    away[change.uuid] = known
            case Event.HEALTH:
                become(held[key], change)
    return held


def become(held: dict[str, object], change: HistoricChange) -> None:
    for field, before, after in change.changes:
        assert (held.pop(field, None) or None) == (before or None), change
        if after:
            held[field] = after
