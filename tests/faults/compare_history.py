"""Whether the history makes sense and tells the truth, as compare.py says: from one calm to the next."""

import copy
import datetime
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tests.faults.truth import Place, Stay

__all__ = ["EARLY_SECONDS", "Known", "Replay", "compare_past", "seconds", "stamp"]

Row = Mapping[str, Any]  # of the API

EARLY_SECONDS = 2.0  # that a recorded time may be before the step that made it true: times are rounded, threads wait


class Replay:
    """Where the changes so far say that each GPU is."""

    def __init__(self) -> None:
        self._held: dict[str, set[Place]] = defaultdict(set)
        self._last: dict[str, Place] = {}  # where each was last, while it is nowhere
        self._number = 0

    def copy(self) -> "Replay":
        """Return another one that starts from here."""
        return copy.deepcopy(self)

    def places(self) -> dict[str, set[Place]]:
        """Return where each GPU is that is anywhere."""
        return {uuid: set(places) for uuid, places in self._held.items() if places}

    def take(self, changes: Iterable[Row], doubled: Iterable[str] = (), names: Mapping[str, str] = {}) -> list[str]:
        """Apply changes in the order in which they were recorded; returns what made no sense.

        GPUs that are `doubled` were really reported by two nodes at once, and may be in both. `names` are the clusters'
        own names, by other ones that they had.
        """
        wrong = []
        doubled = set(doubled)
        for change in changes:
            if change["id"] <= self._number:
                wrong.append(f"history: id {change['id']} after {self._number}")
            self._number = change["id"]
            if why := self._why_not(change, change["uuid"] in doubled, names):
                place = change["cluster"], change["node"]
                wrong.append(f"history: {self._number}: {change['uuid']} {change['event']} on {place}, but {why}")
        return wrong

    def _why_not(self, change: Row, doubled: bool, names: Mapping[str, str]) -> str:
        """Apply a change; returns why it makes no sense, or nothing."""
        uuid, place = change["uuid"], (change["cluster"], change["node"])
        before = self._held[uuid]
        was = f"it was on {sorted(before) or 'no node'}"
        match change["event"]:
            case "appeared":
                why = was if place in before or (before and not doubled and not _renamed(names, place, *before)) else ""
                before.add(place)
            case "moved":
                why = self._why_not_moved(change, place, before, doubled, names)
                before.clear()
                before.add(place)
            case "vanished":
                why = "" if place in before else was
                before.discard(place)
                self._last[uuid] = place
            case _:  # a lost GPU may become worn as well
                why = "" if place in before else was
        return why

    def _why_not_moved(
        self, change: Row, place: Place, before: set[Place], doubled: bool, names: Mapping[str, str]
    ) -> str:
        uuid, source = change["uuid"], (change["previous_cluster"], change["previous_node"])
        if place == source:
            return "that is where it came from"
        if before and source not in before:
            return f"it came from {source}, and was on {sorted(before)}"
        if len(before) > 1 and not doubled and not _renamed(names, source, *(before - {source})):
            return f"it was on {sorted(before)}"
        last = self._last.get(uuid, ("", ""))
        if not before and last != source and not _renamed(names, place, last):
            return f"it came from {source}, and was last on {last}"
        return ""


def _renamed(names: Mapping[str, str], place: Place, *others: Place) -> bool:
    """Return whether other places are in the same cluster under another name: two shards may read both names."""
    own = names.get(place[0], place[0])
    return all(names.get(other[0], other[0]) == own and other[0] != place[0] for other in others)


class Known(NamedTuple):
    """What was known of a GPU at a calm."""

    stay: int = 0  # the index of its last true stay
    time: float = 0.0  # the latest one of its recorded changes


def compare_past(
    changes: Iterable[Row],
    lives: Mapping[str, Sequence[Stay]],
    hidden: Mapping[Place, Sequence[tuple[float, float]]],
    *,
    known: Mapping[str, Known] = {},
    names: Mapping[str, str] = {},
    apart: Collection[str] = (),
    clocks: bool = True,
    start: float = 0.0,
    now: float = math.inf,
) -> list[str]:
    """Compare the places of changes with the true lives: in their order, and (with `clocks`) not before their time.

    The changes were recorded between two calms, `start` and `now` (Unix seconds); what is `known` is from the first.
    With `clocks`, none is dated after the second, at which the truth held, or before the one that was recorded before
    it, except for GPUs that were `apart`: two nodes had them, or one under two names of its cluster.

    Returns what is recorded and was not so. `hidden` says from when to when a node could be dropped, or (without a
    node's name) those of a whole cluster; `names` are the clusters' own names, by other ones that they had.
    """
    wrong = []
    by_uuid: dict[str, list[Row]] = defaultdict(list)
    for change in changes:
        if change["event"] in ("appeared", "moved", "vanished"):
            by_uuid[change["uuid"]].append(change)
    for uuid, told in sorted(by_uuid.items()):
        life = lives.get(uuid)
        if life is None:
            wrong.append(f"history: {uuid} never existed")
            continue
        position, time = known.get(uuid, Known())
        timed = clocks and time <= now + EARLY_SECONDS  # nothing is recorded as before what was recorded earlier
        for change in told:
            cluster, at = names.get(change["cluster"], change["cluster"]), seconds(change["time"])
            place = cluster, change["node"]
            gone = change["event"] == "vanished"
            described = f"history: {change['id']}: {uuid} {change['event']} on {place} at {change['time']}"
            if timed:
                wrong += [f"{described}, {why}" for why in _untimely(at, 0.0 if uuid in apart else time, now)]
            time = max(at, time)
            fits = _first(life, position, lambda stay: (place in stay.places) is not gone)  # noqa: B023
            dropped = (*hidden.get(place, ()), *hidden.get((cluster, ""), ()))
            if gone and _could_be_dropped(dropped, *((at, at) if timed else (start + EARLY_SECONDS, now))):
                continue  # its node was dropped, wherever the GPU was
            if fits is None:
                after = f"after {sorted(life[position].places) or 'nowhere'} since {stamp(life[position].start)}"
                wrong.append(f"{described}, where it was {'still' if gone else 'not'} {after}: {_told(life)}")
                continue
            if timed and at < life[fits].start - EARLY_SECONDS:
                wrong.append(f"{described}, but not before {stamp(life[fits].start)}: {_told(life)}")
            position = fits
    return wrong


def _untimely(at: float, before: float, now: float) -> Iterator[str]:
    if at < before:
        yield "before the change that was recorded before it"
    if at > now + EARLY_SECONDS:
        yield f"and was so at {stamp(now)}"


def _first(life: Sequence[Stay], start: int, fits: Any) -> int | None:
    return next((index for index in range(start, len(life)) if fits(life[index])), None)


def _could_be_dropped(windows: Sequence[tuple[float, float]], earliest: float, latest: float) -> bool:
    return any(start - EARLY_SECONDS <= latest and earliest <= end + EARLY_SECONDS for start, end in windows)


def _told(life: Sequence[Stay]) -> str:
    return ", ".join(f"{stamp(stay.start)} {sorted(stay.places) or 'nowhere'}" for stay in life)


def seconds(text: str) -> float:
    """Return a time of the API as Unix seconds."""
    return datetime.datetime.fromisoformat(text).timestamp()


def stamp(time: float) -> str:
    """Return Unix seconds as the API writes them."""
    return datetime.datetime.fromtimestamp(time, datetime.UTC).isoformat(timespec="milliseconds")
