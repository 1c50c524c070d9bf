"""Degraded GPUs and the action they require."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from collector.health import Condition, Degradation, Health, Level, degradations
from collector.marks import Mark
from collector.model import NodeState, Placement

__all__ = ["DegradedGpu", "count_degraded", "count_levels", "degraded_in", "worst_in"]

SOUND_VALUES_KEPT = 4096  # health values already judged to be sound


class DegradedGpu(NamedTuple):
    """A GPU that is degraded or marked, where it is, and why."""

    placement: Placement
    reasons: tuple[Degradation, ...] = ()  # worst first; empty for one that is only marked
    level: Level | None = None  # required action; None for one that is only marked
    mark: Mark | None = None

    @classmethod
    def of(cls, placement: Placement) -> "DegradedGpu":
        """Return a GPU as it is."""
        return cls(placement, placement.degradations, placement.level)


def degraded_in(entry: NodeState, sound: dict[int, Health] | None = None) -> Iterator[DegradedGpu]:
    """Yield the degraded GPUs of a node, without their marks.

    `sound` remembers sound health values by identity: equal ones in a fleet are one object.
    """
    sound = {} if sound is None else sound
    for gpu, since in zip(entry.gpus, entry.since, strict=True):
        health = gpu.health
        if gpu.ecc_growth is None and not entry.unseen:
            if health is None or id(health) in sound:
                continue
            if not degradations(Condition(health)):
                if len(sound) < SOUND_VALUES_KEPT:
                    sound[id(health)] = health  # kept alive, so that its id is not reused
                continue
        one = DegradedGpu.of(entry.placement(gpu, since))
        if one.reasons:
            yield one


def count_levels(degraded: Iterable[DegradedGpu]) -> Counter[Level]:
    """Return how many GPUs are degraded, by required action.

    A GPU in conflict counts once, a claimed one where it was first.
    """
    levels = {one.placement.gpu.uuid: one.level for one in degraded if not one.placement.claim}
    return Counter(level for level in levels.values() if level is not None)


def count_degraded(entries: Iterable[NodeState]) -> Counter[Level]:
    """Return how many GPUs of some nodes are degraded, as `count_levels` counts them."""
    sound: dict[int, Health] = {}
    return count_levels(one for entry in entries for one in degraded_in(entry, sound))


def worst_in(entry: NodeState) -> Level | None:
    """Return the worst level of a node's GPUs; None if none is degraded."""
    levels = {one.level for one in degraded_in(entry)}
    return next((level for level in Level if level in levels), None)
