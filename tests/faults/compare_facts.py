"""Whether each change says of its GPU what was true of it, and of its health not before it was: pure functions.

A reading shows what was true when the tool ran, which may be long before it is recorded. So what a change says has to
have been true at the last calm, when everything had been read, or since; and not later than the time of the change.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from tests.faults.compare_history import EARLY_SECONDS, seconds
from tests.faults.truth import Facts, Place

__all__ = ["compare_facts"]

Row = Mapping[str, Any]  # of the API


def compare_facts(
    changes: Iterable[Row],
    facts: Mapping[str, Sequence[Facts]],
    machines: Mapping[Place, Collection[str]],
    marks: Callable[[str], Collection[str | None]],
    *,
    names: Mapping[str, str] = {},
    clocks: bool = True,
) -> list[str]:
    """Compare changes since a calm with what was true of their GPUs and nodes at that calm and since, the first first.

    `marks` returns the kinds of mark that a GPU had, None among them. `names` are the clusters' own names, by other
    ones that they had. Without `clocks`, no time is compared.
    """
    wrong = []
    for change in changes:
        at = seconds(change["time"]) + EARLY_SECONDS if clocks else math.inf
        known = facts.get(change["uuid"], ())
        true = [*known[:1], *(one for one in known[1:] if one.start <= at)]
        place = names.get(change["cluster"], change["cluster"]), change["node"]
        untrue = [
            *_unlike(change, true, machines.get(place, ()), marks(change["uuid"])),
            *_unhealthy(change, true),
            *(f"{name} was last known after that" for name, time in _last_known(change) if seconds(time) > at),
        ]
        described = f"history: {change['id']}: {change['uuid']} {change['event']} on {place} at {change['time']}"
        wrong += [f"{described}: {why}" for why in untrue]
    return wrong


def _unlike(
    change: Row, true: Sequence[Facts], machines: Collection[str], marks: Collection[str | None]
) -> Iterator[str]:
    """Yield what is not as it was of the GPU or its node."""
    values: dict[str, Collection[Any]] = {
        name: {getattr(one, name) or None for one in true} for name in ("serial", "model", "chassis")
    }
    for name, ones in {**values, "machine": machines, "mark": marks}.items():
        if change[name] not in ones:
            yield f"{name} is {change[name]!r}, and was {_listed(ones)} by then"


def _unhealthy(change: Row, true: Sequence[Facts]) -> Iterator[str]:
    """Yield the values of health that the GPU had not had by then; one that is not reported says nothing."""
    changes = change["changes"] if change["event"] == "health" else {}
    for field, one in changes.items():
        after = one["after"]
        values: set[Any] = {not known.responds if field == "lost" else known.health.get(field) for known in true}
        if after is not None and after not in values:
            yield f"{field} became {after!r}, and was {_listed(values)} by then"


def _last_known(change: Row) -> Iterable[tuple[str, str]]:
    return sorted((change["last_known"] or {}).items())


def _listed(values: Iterable[Any]) -> str:
    return " or ".join(sorted(map(repr, values))) or "unknown"
