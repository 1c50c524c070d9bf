"""What gpuid says after a calm, compared with the truth: pure functions that return what is wrong, a line each.

What must hold, and why nothing stricter can:

- **Now.** After a calm every series and every row of the API shows each GPU in its one true place and nowhere else,
  with its true serial, health and mark; nothing is claimed, in conflict, unread or lost; every cluster is up. This
  comes by and by, so the caller asks again until they hold, up to a limit.
- **The order of changes.** Replayed from nothing, the changes of each GPU make sense one after the other: it appears
  only where it is not, vanishes only where it is, moves from where it last was. At the end they lead to the truth.
  While two nodes really claimed it at the same time (a fault of its own), it may be in both.
- **The past.** Each place in the history is one where the GPU really was, in the true order and not before it came
  there. Places between two readings may be missing: nobody saw them. But a place that was true at a calm was seen, so
  it is there, because the replay led to it at that calm.
- **Absence.** A GPU vanishes only if it was out of its node at that time, or if its node could be dropped: it had been
  deleted, or no ready pod covered it for longer than `grace`.
- **Placements** (the history of one GPU) are the changes told as periods: each begins at the time of its change, they
  follow each other without overlap, and the last one is open exactly if the GPU is somewhere.
- **Health** is what the card has, as far as its driver reports it, and the changes of health, replayed, lead to it
  (compare_health.py).
- **Counters** only grow while a process runs.
- **Memory, descriptors, threads** do not grow from calm to calm, once warm, while a process runs. Runs of even seeds
  start none again, so that this can be seen.

Times are compared only where clocks were not stepped.
"""

import datetime
import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tests.faults.truth import Place, Stay

__all__ = [
    "Gpu",
    "Sample",
    "compare_counters",
    "compare_gpus",
    "compare_marks",
    "compare_past",
    "compare_placements",
    "compare_scrape",
    "growing",
    "replay",
]

Row = Mapping[str, Any]  # of the API
Sample = tuple[str, Mapping[str, str], float]

EARLY_SECONDS = 2.0  # that a recorded time may be before the step that made it true: times are rounded, threads wait


class Gpu(NamedTuple):
    """The truth about one GPU."""

    cluster: str
    node: str
    uuid: str
    serial: str
    chassis: str
    model: str
    health: Mapping[str, Any]  # as far as the driver reports it
    mark: tuple[str, str] | None = None  # kind and ticket

    @property
    def place(self) -> Place:
        """Its cluster and node."""
        return self.cluster, self.node


def compare_scrape(truth: Iterable[Gpu], clusters: Iterable[str], samples: Sequence[Sample]) -> list[str]:
    """Compare one scrape with the GPUs and clusters that should be in it."""
    labels = ("cluster", "node", "uuid", "serial", "chassis", "model")
    wanted = {tuple(getattr(gpu, label) for label in labels) for gpu in truth}
    found = [tuple(one[label] for label in labels) for name, one, _ in samples if name == "gpuid_gpu_info"]
    wrong = [f"scrape: ghost {' '.join(one)}" for one in sorted(set(found) - wanted)]
    wrong += [f"scrape: lacks {' '.join(one)}" for one in sorted(wanted - set(found))]
    if len(found) != len(set(found)):
        wrong.append("scrape: the same GPU twice")
    up = {one["cluster"]: value for name, one, value in samples if name == "gpuid_cluster_up"}
    wrong += [f"scrape: {name} is {up.get(name)}, not up" for name in sorted(clusters) if up.get(name) != 1]
    wrong += [f"scrape: {name} is not a cluster of it" for name in sorted(set(up) - set(clusters))]
    for name in ("gpuid_gpu_conflicts", "gpuid_gpu_claims", "gpuid_unread_nodes", "gpuid_read_failing_nodes"):
        wrong += [f"scrape: {name}{dict(one)} is {value:g}" for found, one, value in samples if found == name and value]
    wrong += [
        f"scrape: {value:g} lost on {one['node']} of {one['cluster']}"
        for name, one, value in samples
        if name == "gpuid_node_gpus" and one["state"] == "lost" and value
    ]
    return wrong


def compare_gpus(truth: Iterable[Gpu], rows: Sequence[Row]) -> list[str]:
    """Compare the rows of /api/v1/gpus with the truth."""
    wrong = []
    wanted = {(gpu.uuid, gpu.place): gpu for gpu in truth}
    found = {(row["uuid"], (row["cluster"], row["node"])): row for row in rows}
    if len(found) != len(rows):
        wrong.append("API: the same GPU twice in one place")
    wrong += [f"API: ghost {uuid} on {place}" for uuid, place in sorted(found.keys() - wanted.keys())]
    wrong += [f"API: lacks {uuid} on {place}" for uuid, place in sorted(wanted.keys() - found.keys())]
    for key in sorted(found.keys() & wanted.keys()):
        row, gpu = found[key], wanted[key]
        for column in ("serial", "chassis", "model"):
            if (row.get(column) or "") != getattr(gpu, column):
                wrong.append(f"API: {gpu.uuid}: {column} is {row.get(column)!r}, not {getattr(gpu, column)!r}")
        if row.get("claim") or row["state"] != "found":
            wrong.append(f"API: {gpu.uuid} on {gpu.place}: state {row['state']}, claim {row.get('claim')}")
        health = row.get("health") or {}
        wrong += [
            f"API: {gpu.uuid}: {field} is {health.get(field)!r}, not {value!r}"
            for field, value in gpu.health.items()
            if health.get(field) != value
        ]
        mark = row.get("mark")
        if (mark and (mark["kind"], mark["ticket"])) != gpu.mark:
            wrong.append(f"API: {gpu.uuid}: mark is {mark!r}, not {gpu.mark!r}")
    return wrong


def compare_marks(marks: Mapping[str, tuple[str, str]], samples: Sequence[Sample]) -> list[str]:
    """Compare the series of marks with the marks that people have set, by UUID."""
    found = {one["uuid"]: (one["mark"], one["ticket"]) for name, one, _ in samples if name == "gpuid_gpu_mark_info"}
    return [
        f"scrape: mark of {uuid} is {found.get(uuid)}, not {marks.get(uuid)}"
        for uuid in sorted(found.keys() | marks.keys())
        if found.get(uuid) != marks.get(uuid)
    ]


def replay(
    changes: Iterable[Row], doubled: Iterable[str] = (), names: Mapping[str, str] = {}
) -> tuple[dict[str, set[Place]], list[str]]:
    """Replay changes in the order in which they were recorded: where each GPU is then, and what made no sense.

    GPUs that are `doubled` were really reported by two nodes at once, and may be in both. `names` are the clusters' own
    names, by other ones that they had.
    """
    replaying = _Replay(doubled, names)
    number = 0
    for change in changes:
        if change["id"] <= number:
            replaying.wrong.append(f"history: id {change['id']} after {number}")
        number = change["id"]
        if why := replaying.take(change):
            place = change["cluster"], change["node"]
            replaying.wrong.append(f"history: {number}: {change['uuid']} {change['event']} on {place}, but {why}")
    return {uuid: places for uuid, places in replaying.held.items() if places}, replaying.wrong


class _Replay:
    """Where the changes so far say that each GPU is."""

    def __init__(self, doubled: Iterable[str], names: Mapping[str, str]) -> None:
        self.held: dict[str, set[Place]] = defaultdict(set)
        self.wrong: list[str] = []
        self._last: dict[str, Place] = {}  # where each came to last
        self._doubled = set(doubled)
        self._names = names

    def take(self, change: Row) -> str:
        """Apply a change; returns why it makes no sense, or nothing."""
        uuid, place = change["uuid"], (change["cluster"], change["node"])
        before = self.held[uuid]
        was = f"it was on {sorted(before) or 'no node'}"
        match change["event"]:
            case "appeared":
                others = uuid in self._doubled or self._renamed(place, *before)
                why = was if place in before or (before and not others) else ""
                before.add(place)
                self._last[uuid] = place
            case "moved":
                why = self._moved(change, place, before)
                before.clear()
                before.add(place)
                self._last[uuid] = place
            case "vanished":
                why = "" if place in before else was
                before.discard(place)
            case _:  # a lost GPU may become worn as well
                why = "" if place in before else was
        return why

    def _moved(self, change: Row, place: Place, before: set[Place]) -> str:
        uuid, source = change["uuid"], (change["previous_cluster"], change["previous_node"])
        if place == source:
            return "that is where it came from"
        if before and source not in before:
            return f"it came from {source}, and was on {sorted(before)}"
        if len(before) > 1 and uuid not in self._doubled and not self._renamed(source, *(before - {source})):
            return f"it was on {sorted(before)}"
        last = self._last.get(uuid, ("", ""))
        if not before and last != source and not self._renamed(place, last):
            return f"it came from {source}, and was last on {last}"
        return ""

    def _renamed(self, place: Place, *others: Place) -> bool:
        """Return whether other places are in the same cluster under another name: two shards may read both names."""
        own = self._names.get(place[0], place[0])
        return all(self._names.get(other[0], other[0]) == own and other[0] != place[0] for other in others)


def compare_past(
    changes: Iterable[Row],
    lives: Mapping[str, Sequence[Stay]],
    hidden: Mapping[Place, Sequence[tuple[float, float]]],
    *,
    names: Mapping[str, str] = {},
    clocks: bool = True,
    now: float = math.inf,
) -> list[str]:
    """Compare recorded places with the true lives: in their order, and (with `clocks`) not before their time.

    With `clocks`, nothing was recorded after `now` (Unix seconds) either.

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
        position = 0
        time = 0.0
        for change in told:
            cluster, at = names.get(change["cluster"], change["cluster"]), seconds(change["time"])
            place = cluster, change["node"]
            gone = change["event"] == "vanished"
            described = f"history: {change['id']}: {uuid} {change['event']} on {place} at {change['time']}"
            if clocks:
                wrong += [f"{described}, {why}" for why in _untimely(at, time, now)]
            time = max(at, time)
            fits = _first(life, position, lambda stay: (place in stay.places) is not gone)  # noqa: B023
            dropped = (*hidden.get(place, ()), *hidden.get((cluster, ""), ()))
            if gone and _could_be_dropped(dropped, at if clocks else None):
                continue  # its node was dropped, wherever the GPU was
            if fits is None:
                after = f"after {sorted(life[position].places) or 'nowhere'} since {stamp(life[position].start)}"
                wrong.append(f"{described}, where it was {'still' if gone else 'not'} {after}: {_told(life)}")
                continue
            if clocks and at < life[fits].start - EARLY_SECONDS:
                wrong.append(f"{described}, but not before {stamp(life[fits].start)}: {_told(life)}")
            position = fits
    return wrong


def _untimely(at: float, before: float, now: float) -> Iterator[str]:
    if at < before:
        yield "before the change that was recorded before it"
    if at > now + EARLY_SECONDS:
        yield "which is still to come"


def _first(life: Sequence[Stay], start: int, fits: Any) -> int | None:
    return next((index for index in range(start, len(life)) if fits(life[index])), None)


def _could_be_dropped(windows: Sequence[tuple[float, float]], at: float | None) -> bool:
    return any(at is None or start - EARLY_SECONDS <= at <= end + EARLY_SECONDS for start, end in windows)


def _told(life: Sequence[Stay]) -> str:
    return ", ".join(f"{stamp(stay.start)} {sorted(stay.places) or 'nowhere'}" for stay in life)


def compare_placements(
    uuid: str, rows: Sequence[Row], places: Iterable[Place], changes: Sequence[Row], *, alone: bool = True
) -> list[str]:
    """Compare the periods that the API tells of one GPU with where it is, and with its changes.

    It is in one place at a time, from the time of its change on, unless it was not `alone` in having its UUID, its
    cluster had two names, or clocks were stepped.
    """
    wrong = []
    now = [(row["cluster"], row["node"]) for row in rows if row["until"] is None]
    if sorted(now) != sorted(places):
        wrong.append(f"placements: {uuid} is on {now}, not on {sorted(places)}")
    ordered = sorted(rows, key=lambda row: (row["since"], row["id"]))
    for before, after in itertools.pairwise(ordered):
        if alone and (before["until"] is None or before["until"] > after["since"]):
            wrong.append(f"placements: {uuid}: {before['id']} until {before['until']} overlaps {after['id']}")
    wrong += [
        f"placements: {uuid}: {row['id']} ends before it begins"
        for row in ordered
        if row["until"] is not None and row["until"] < row["since"]
    ]
    entered = [
        (change["cluster"], change["node"], change["time"])
        for change in changes
        if change["uuid"] == uuid and change["event"] in ("appeared", "moved")
    ]
    told = [(row["cluster"], row["node"], row["since"]) for row in ordered]
    if told != entered and (alone or sorted(one[:2] for one in told) != sorted(one[:2] for one in entered)):
        wrong.append(f"placements: {uuid} was on {told}, and by its changes on {entered}")
    return wrong


def compare_counters(before: Sequence[Sample], after: Sequence[Sample]) -> list[str]:
    """Return the counters that a process has set back."""
    last = {_series(name, labels): value for name, labels, value in after if _counts(name)}
    return [
        f"counter: {name}{dict(labels)} went from {value:g} back to {last[key]:g}"
        for name, labels, value in before
        if _counts(name) and (key := _series(name, labels)) in last and last[key] < value
    ]


def _series(name: str, labels: Mapping[str, str]) -> tuple[Any, ...]:
    return name, *sorted(labels.items())


def _counts(name: str) -> bool:
    return name.endswith(("_total", "_count", "_bucket", "_sum"))


def growing(name: str, values: Sequence[float], *, slack: float, warm: int = 2) -> list[str]:
    """Return whether a measure, one value for each calm, grows: its last third is above the third after warming up."""
    warmed = values[warm:]
    third = len(warmed) // 3
    if third < 2:
        return []
    early, late = statistics.median(warmed[:third]), statistics.median(warmed[-third:])
    return [f"{name}: grew from {early:,.0f} to {late:,.0f} in {len(values)} calms"] if late > early + slack else []


def seconds(text: str) -> float:
    """Return a time of the API as Unix seconds."""
    return datetime.datetime.fromisoformat(text).timestamp()


def stamp(time: float) -> str:
    """Return Unix seconds as the API writes them."""
    return datetime.datetime.fromtimestamp(time, datetime.UTC).isoformat(timespec="milliseconds")
