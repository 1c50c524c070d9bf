"""What gpuid says after a calm, compared with the truth: pure functions that return what is wrong, a line each.

What must hold, and why nothing stricter can:

- **Now.** After a calm every series and every row of the API shows each GPU in its one true place and nowhere else,
  with its true serial, health and mark; nothing is claimed, in conflict, unread or lost; every cluster is up. This
  converges; the caller polls until it holds, up to a limit.
- **Numbers** of GPUs by node, model and cluster, and the counts of errors, follow from that (compare_counts.py).
- **The order of changes.** Replayed from nothing, the changes of each GPU make sense one after the other: it appears
  only where it is not, vanishes only where it is, moves from where it last was. At the end they lead to the truth.
  While two nodes really claimed it at the same time (a fault of its own), it may be in both.
- **The past.** Each place in the history is one where the GPU really was, in the true order and not before it came
  there. Places between two readings may be missing: nobody saw them. But a place that was true at a calm was seen, so
  it is there, because the replay led to it at that calm.
- **Absence.** A GPU vanishes only if it was out of its node at that time, or if its node could be dropped: it had been
  deleted, or no ready pod covered it for longer than `grace`.
- **Placements** (the history of one GPU) show the changes as periods: each begins at the time of its change and ends at
  that of the next one, by which the GPU moved or vanished; the last one is open exactly if the GPU is somewhere.
- **Health** is what the card has, as far as its driver reports it, and the changes of health, replayed, lead to it
  (compare_health.py).
- **What a change says** of its GPU, node and mark was so at the calm before or since, and its health not earlier than
  it became so (compare_facts.py).
- **What is wrong is shown.** After some calms, a GPU is lost or a second node claims one, and that has to be shown
  before the next step (shown.py).
- **Counters** stay, and only grow, while a process runs.
- **Memory, descriptors, threads** do not grow from calm to calm, once warm, while a process runs. Runs of even seeds
  start none again, so that this can be seen.

A change is compared at the calm after it was recorded, from the state at the calm before: what excuses it (a clock that
was stepped, a UUID that two nodes had, a cluster with two names or without configuration) excuses nothing later. Times
of a GPU are not compared while its last recorded one is still to come.
"""

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tests.faults.truth import Place

__all__ = [
    "Gpu",
    "Sample",
    "compare_counters",
    "compare_gpus",
    "compare_marks",
    "compare_placements",
    "compare_reading_times",
    "compare_scrape",
    "growing",
    "shows_growth",
]

Row = Mapping[str, Any]  # of the API
Sample = tuple[str, Mapping[str, str], float]

QUIET = (  # families without a sample above 0 while all is well
    "gpuid_gpu_conflicts",
    "gpuid_gpu_claims",
    "gpuid_unread_nodes",
    "gpuid_read_failing_nodes",
    "gpuid_store_lost_records_total",
    "gpuid_store_damaged_files",
    "gpuid_export_dead_letters",
)
# What a card's health is degraded by, by field; what the driver of the simulated machines reports of it.
REASONS = {
    "row_remap_failure": "row_remap_failure",
    "sram_threshold_exceeded": "sram_threshold",
    "recovery_action": "recovery_action",
    "row_remap_pending": "row_remap_pending",
}
GROWING = "uncorrectable_ecc_growing"  # depends on what was read before


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
    grew: bool = False  # it has had more errors at some time, whatever it reports since its InfoROM was flashed

    @property
    def place(self) -> Place:
        """Its cluster and node."""
        return self.cluster, self.node


def compare_scrape(truth: Sequence[Gpu], clusters: Iterable[str], samples: Sequence[Sample]) -> list[str]:
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
    wrong += [f"scrape: {name}{dict(one)} is {value:g}" for name, one, value in samples if name in QUIET and value]
    wrong += [
        f"scrape: {value:g} lost on {one['node']} of {one['cluster']}"
        for name, one, value in samples
        if name == "gpuid_node_gpus" and one["state"] == "lost" and value
    ]
    return wrong + _compare_degraded(truth, samples)


def _compare_degraded(truth: Iterable[Gpu], samples: Sequence[Sample]) -> list[str]:
    """Compare the reasons why GPUs are degraded with their health."""
    wanted = {
        (gpu.uuid, reason)
        for gpu in truth
        for field, reason in REASONS.items()
        if gpu.health.get(field) not in (None, False, "None")
    }
    found = {(one["uuid"], one["reason"]) for name, one, _ in samples if name == "gpuid_gpu_degraded"}
    return [
        f"scrape: {uuid} is {'not ' if (uuid, reason) in wanted else ''}degraded: {reason}"
        for uuid, reason in sorted(found ^ wanted)
        if reason != GROWING
    ]


def compare_reading_times(samples: Sequence[Sample], since: float, until: float) -> list[str]:
    """Compare when each node was read with when that may have been (Unix seconds)."""
    return [
        f"scrape: {one['node']} of {one['cluster']} was read at {value:.3f}, not from {since:.3f} to {until:.3f}"
        for name, one, value in samples
        if name == "gpuid_node_read_timestamp_seconds" and not since <= value <= until
    ]


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


def compare_placements(
    uuid: str, rows: Sequence[Row], places: Iterable[Place], changes: Sequence[Row], *, after: int = 0
) -> list[str]:
    """Compare the periods that the API shows for one GPU with where it is, and with its changes.

    It is in one place at a time, from the time of its change on. Up to the change `after`, it was not alone in having
    its UUID, its cluster had two names, or clocks were stepped: of these, only the places are compared.
    """
    wrong = []
    now = [(row["cluster"], row["node"]) for row in rows if row["until"] is None]
    if sorted(now) != sorted(places):
        wrong.append(f"placements: {uuid} is on {now}, not on {sorted(places)}")
    wrong += [
        f"placements: {uuid}: {row['id']} ends before it begins"
        for row in rows
        if row["until"] is not None and row["until"] < row["since"]
    ]
    entered = [one for one in changes if one["uuid"] == uuid and one["event"] in ("appeared", "moved")]
    shown, recorded = [[*map(_place, some)] for some in (rows, entered)]
    if sorted(shown) != sorted(recorded):
        return [*wrong, f"placements: {uuid} was on {shown}, and by its changes on {recorded}"]
    plain = sum(change["id"] > after for change in entered)
    ordered = sorted(rows, key=lambda row: row["id"])[len(rows) - plain :]
    for before, following in itertools.pairwise(ordered):
        if before["until"] is None or before["until"] > following["since"]:
            wrong.append(f"placements: {uuid}: {before['id']} until {before['until']} overlaps {following['id']}")
    since = [(*_place(row), row["since"]) for row in ordered]
    times = [(*_place(change), change["time"]) for change in entered[len(entered) - plain :]]
    if since != times:
        wrong.append(f"placements: {uuid} was on {since}, and by its changes on {times}")
    until = [(*_place(row), row["until"]) for row in ordered]
    ends = _ends(change for change in changes if change["uuid"] == uuid and change["id"] > after)
    if until != ends:
        wrong.append(f"placements: {uuid} was there until {until}, and by its changes until {ends}")
    return wrong + _compare_last_excused(uuid, rows, changes, after)


def _ends(changes: Iterable[Row]) -> list[tuple[str, str, str | None]]:
    """Return the placements that changes of one GPU began, each with the time of the change that ended it."""
    ends: list[tuple[str, str, str | None]] = []
    for change in changes:
        if change["event"] in ("moved", "vanished") and ends and ends[-1][2] is None:
            ends[-1] = (*ends[-1][:2], change["time"])
        if change["event"] in ("appeared", "moved"):
            ends.append((*_place(change), None))
    return ends


def _compare_last_excused(uuid: str, rows: Sequence[Row], changes: Sequence[Row], after: int) -> list[str]:
    """Compare the end of a placement that an excused change began with the change that ended it, which is not."""
    events = [one for one in changes if one["uuid"] == uuid and one["event"] in ("appeared", "moved", "vanished")]
    first = next((number for number, one in enumerate(events) if one["id"] > after), 0)
    if not first or events[first]["event"] == "appeared" or events[first - 1]["event"] == "vanished":
        return []  # it was nowhere
    change = events[first]
    moved = change["event"] == "moved"
    place = (change["previous_cluster"], change["previous_node"]) if moved else _place(change)
    told = [row["until"] for row in rows if _place(row) == place]
    return [] if change["time"] in told else [f"placements: {uuid} was on {place} until {told}, not {change['time']}"]


def _place(row: Row) -> Place:
    return row["cluster"], row["node"]


def compare_counters(before: Sequence[Sample], after: Sequence[Sample]) -> list[str]:
    """Return the counters that a process has set back or no longer has."""
    last = {_series(name, labels): value for name, labels, value in after if _counts(name)}
    now = [
        (f"{name}{dict(labels)}", value, last.get(_series(name, labels)))
        for name, labels, value in before
        if _counts(name)
    ]
    wrong = [f"counter: {name} is gone" for name, _, value in now if value is None]
    return wrong + [
        f"counter: {name} went from {earlier:g} back to {value:g}"
        for name, earlier, value in now
        if value is not None and value < earlier
    ]


def _series(name: str, labels: Mapping[str, str]) -> tuple[Any, ...]:
    return name, *sorted(labels.items())


def _counts(name: str) -> bool:
    return name.endswith(("_total", "_count", "_bucket", "_sum"))


def shows_growth(values: Sequence[float], *, warm: int = 2) -> bool:
    """Return whether there are enough values, one for each calm, to tell whether a measure grows."""
    return len(values) - warm >= 6


def growing(name: str, values: Sequence[float], *, slack: float, warm: int = 2) -> list[str]:
    """Return whether a measure, one value for each calm, grows: its last third is above the third after warming up."""
    if not shows_growth(values, warm=warm):
        return []
    warmed = values[warm:]
    third = len(warmed) // 3
    early, late = statistics.median(warmed[:third]), statistics.median(warmed[-third:])
    return [f"{name}: grew from {early:,.0f} to {late:,.0f} in {len(values)} calms"] if late > early + slack else []
