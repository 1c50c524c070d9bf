"""Bounds how many changes of GPU health a cluster can have recorded: what its nodes report may be made up."""

import logging
import time
from collections.abc import Callable

import msgspec

from collector.model import Change, Event, Step

__all__ = ["HealthBudget"]

PER_DAY = 1000.0  # changes, in addition to those of each GPU
PER_GPU_AND_DAY = 8.0
MAX_PER_DAY = 100_000.0

_DAY_SECONDS = 86400.0
_LOG_INTERVAL_SECONDS = 3600.0

log = logging.getLogger(__name__)


class HealthBudget:
    """A token bucket for each cluster, full at first, that fills up within a day.

    `count` returns how many GPUs a cluster has; `dropped` is called for each change beyond the budget. Such a change is
    neither recorded, delivered nor logged; the GPU's current health remains what its last reading says.
    """

    def __init__(
        self,
        count: Callable[[str], int],
        dropped: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count = count
        self._dropped = dropped
        self._clock = clock
        self._spent: dict[str, tuple[float, float]] = {}  # by cluster: spent tokens, and when that was
        self._logged: dict[str, float] = {}  # by cluster: when it was logged

    def bounded(self, step: Step) -> Step:
        """Return a step without the changes of health beyond the budget of its cluster."""
        if all(change.event is not Event.HEALTH for change in step.changes):  # nearly always
            return step
        changes = tuple(change for change in step.changes if change.event is not Event.HEALTH or self._pay(change))
        return step if len(changes) == len(step.changes) else msgspec.structs.replace(step, changes=changes)

    def _pay(self, change: Change) -> bool:
        cluster, now = change.place.cluster, self._clock()
        most = min(MAX_PER_DAY, PER_DAY + PER_GPU_AND_DAY * self._count(cluster))
        spent, since = self._spent.get(cluster, (0.0, now))
        spent = max(0.0, spent - (now - since) / _DAY_SECONDS * most)
        fits = spent + 1.0 <= most
        self._spent[cluster] = (spent + fits, now)
        if not fits:
            self._dropped(cluster)
            if now >= self._logged.get(cluster, now):
                self._logged[cluster] = now + _LOG_INTERVAL_SECONDS
                log.warning(
                    "too many GPU health changes, not recording them",
                    extra={"cluster": cluster, "per_day": round(most)},
                )
        return fits
