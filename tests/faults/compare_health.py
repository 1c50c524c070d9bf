"""Whether the changes of health in the history follow each other and lead to the true health: pure functions.

A change names a field with its value before and after. A value that says nothing, such as a count of 0, need not be
recorded when it comes to be reported or stops being so: it is the same as no value. Of a GPU that vanished with its
cluster, which was not configured any more, or before it, nothing is known when it comes back: what was said of it may
be repeated, and may be so no longer without a change that says so.
"""

import copy
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from collector.health import COUNTERS

__all__ = ["HealthReplay", "compare_health"]

Row = Mapping[str, Any]  # of the API

ALWAYS_TOLD = COUNTERS | {  # whose values a first reading is recorded with if they say anything
    "row_remap_pending",
    "row_remap_failure",
    "sram_threshold_exceeded",
    "recovery_action",
}


class _Forgotten(NamedTuple):
    """A value from before gpuid may have forgotten the GPU."""

    value: Any


class HealthReplay:
    """The last recorded values of each GPU's health."""

    def __init__(self) -> None:
        self._told: dict[str, dict[str, Any]] = defaultdict(dict)  # by UUID and field
        self._gone: dict[str, str] = {}  # by UUID, the cluster that a GPU vanished from

    def copy(self) -> "HealthReplay":
        """Return another one that starts from here."""
        return copy.deepcopy(self)

    def values(self, uuid: str) -> dict[str, Any]:
        """Return the values of a GPU."""
        return self._told.get(uuid, {})

    def take(self, changes: Iterable[Row], removed: Collection[str] = ()) -> list[str]:
        """Apply changes; returns what made no sense.

        `removed` are the clusters that were not configured for some of the time.
        """
        wrong = []
        for uuid, cluster in self._gone.items():
            if cluster in removed:
                self._forget(uuid)
        for change in changes:
            uuid, cluster = change["uuid"], change["cluster"]
            values = self._told[uuid]
            if change["event"] == "vanished":
                self._gone[uuid] = cluster
                if cluster in removed:
                    self._forget(uuid)
            elif change["event"] in ("appeared", "moved"):
                self._gone.pop(uuid, None)
            if change["event"] != "health":
                continue
            for field, one in change["changes"].items():
                if field in values and not _same(values[field], one["before"]):
                    wrong.append(
                        f"history: {change['id']}: {change['uuid']}: {field} was {one['before']!r} before, "
                        f"and after the change before that {_told(values[field])!r}"
                    )
                values[field] = one["after"]
        return wrong

    def _forget(self, uuid: str) -> None:
        self._told[uuid].update({field: _Forgotten(_told(value)) for field, value in self._told[uuid].items()})

    def settle(self, truth: Mapping[str, Mapping[str, Any]]) -> None:
        """Note the true health of GPUs, which gpuid knows now, of the fields that changes are recorded of."""
        for uuid, health in truth.items():
            fields = {**health, "lost": False}
            self._told[uuid] = {name: fields[name] for name in self._told[uuid].keys() | ALWAYS_TOLD if name in fields}


def compare_health(truth: Mapping[str, Mapping[str, Any]], told: HealthReplay) -> list[str]:
    """Compare the health that changes lead to with the true one; all these GPUs respond."""
    wrong = []
    for uuid, health in sorted(truth.items()):
        values = told.values(uuid)
        for field, value in [*health.items(), ("lost", False)]:
            if (field in values or field in ALWAYS_TOLD) and not _same(values.get(field), value):
                wrong.append(f"history: {uuid}: {field} is {_told(values.get(field))!r} by its changes, not {value!r}")
    return wrong


def _told(value: Any) -> Any:
    return value.value if isinstance(value, _Forgotten) else value


def _same(told: Any, other: Any) -> bool:
    forgotten = isinstance(told, _Forgotten)
    return _told(told) == other or ((forgotten or _says_nothing(told)) and _says_nothing(other))


def _says_nothing(value: Any) -> bool:
    return value in (None, 0, False, "None")
