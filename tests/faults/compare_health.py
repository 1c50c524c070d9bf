"""Whether the changes of health in the history follow each other and lead to the true health: pure functions.

A change names a field with its value before and after. A value that says nothing, such as a count of 0, need not be
recorded when it comes to be reported or stops being so: it is the same as no value. Of a GPU that vanished with its
cluster, which was not configured any more, nothing is known when it comes back: its next change may repeat the last.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from collector.health import COUNTERS

__all__ = ["compare_health", "replay_health"]

Row = Mapping[str, Any]  # of the API

ALWAYS_TOLD = COUNTERS | {  # whose values a first reading is recorded with if they say anything
    "row_remap_pending",
    "row_remap_failure",
    "sram_threshold_exceeded",
    "recovery_action",
}


def replay_health(changes: Iterable[Row], removed: Collection[str] = ()) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the last recorded values of each GPU's health, by UUID and field, and what made no sense on the way.

    `removed` are the clusters that were not configured at some time.
    """
    told: dict[str, dict[str, Any]] = defaultdict(dict)
    forgotten: set[str] = set()
    wrong = []
    for change in changes:
        if change["event"] == "vanished" and change["cluster"] in removed:
            forgotten.add(change["uuid"])
        if change["event"] != "health":
            continue
        values, known = told[change["uuid"]], change["uuid"] not in forgotten
        forgotten.discard(change["uuid"])
        for field, one in change["changes"].items():
            if known and field in values and not _same(values[field], one["before"]):
                wrong.append(
                    f"history: {change['id']}: {change['uuid']}: {field} was {one['before']!r} before, "
                    f"and after the change before that {values[field]!r}"
                )
            values[field] = one["after"]
    return dict(told), wrong


def compare_health(truth: Mapping[str, Mapping[str, Any]], told: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Compare the health that changes lead to with the true one; all these GPUs respond."""
    wrong = []
    for uuid, health in sorted(truth.items()):
        values = told.get(uuid, {})
        for field, value in [*health.items(), ("lost", False)]:
            if (field in values or field in ALWAYS_TOLD) and not _same(values.get(field), value):
                wrong.append(f"history: {uuid}: {field} is {values.get(field)!r} by its changes, not {value!r}")
    return wrong


def _same(one: Any, other: Any) -> bool:
    return one == other or (_says_nothing(one) and _says_nothing(other))


def _says_nothing(value: Any) -> bool:
    return value in (None, 0, False, "None")
