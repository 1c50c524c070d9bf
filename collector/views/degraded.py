"""Which GPUs are degraded, and what is to be done about them."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from collector.health import Condition, Degradation, Health, Level, degradations
from collector.marks import Mark
from collector.model import NodeState, Placement

__all__ = ["DegradedGpu", "count_degraded", "count_levels", "degraded_in", "worst_in"]

SOUND_VALUES_KEPT = 4096  # of a walk: values of health that were judged to be no reason


class DegradedGpu(NamedTuple):
    """A GPU that is degraded or marked, where it is, and why."""

    placement: Placement
    reasons: tuple[Degradation, ...] = ()  # the worst first; none for one that is marked only
    level: Level | None = None  # what is to be done about it; None for one that is marked only
    mark: Mark | None = None

    @classmethod
    def of(cls, placement: Placement) -> "DegradedGpu":
        """Return a GPU as it is."""
        return cls(placement, placement.degradations, placement.level)


def degraded_in(entry: NodeState, sound: dict[int, Health] | None = None) -> Iterator[DegradedGpu]:
    """Yield the degraded GPUs of a node, without their marks.

    `sound` remembers, by identity, values of health that are no reason: equal ones of a fleet are one object.
    """
    sound = {} if sound is None else sound
    for gpu, since in zip(entry.gpus, entry.since, strict=True):
        health = gpu.health
        if gpu.ecc_growth is None and not entry.unseen:
            if health is None or id(health) in sound:
                continue
            if not degradations(Condition(health)):
                if len(sound) < SOUND_VALUES_KEPT:
                    sound[id(health)] = health  # kept alive, so that no other value gets its id
                continue
        one = DegradedGpu.of(entry.placement(gpu, since))
        if one.reasons:
            yield one


def count_levels(degraded: Iterable[DegradedGpu]) -> Counter[Level]:
    """Return how many GPUs are degraded, by what is to be done.

    One in conflict counts once, and one that is claimed where it was first.
    """
    levels = {one.placement.gpu.uuid: one.level for one in degraded if not one.placement.claim}
    return Counter(level for level in levels.values() if level is not None)


def count_degraded(entries: Iterable[NodeState]) -> Counter[Level]:
    """Return how many GPUs of some nodes are degraded, as `count_levels` counts them."""
    sound: dict[int, Health] = {}
    return count_levels(one for entry in entries for one in degraded_in(entry, sound))


def worst_in(entry: NodeState) -> Level | None:
    """Return the worst level of a node's GPUs; None where none is degraded."""
    levels = {one.level for one in degraded_in(entry)}
    return next((level for level in Level if level in levels), None)
