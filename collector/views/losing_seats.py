"""Seats that repeatedly lose GPUs and GPUs that repeatedly drop out: whether the slot or the card is at fault."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from collector.model import Place
from collector.views.placements import FormerGpu, PlacementPeriod, in_words

__all__ = ["LosingSeat", "dropouts", "losing_seats"]

MAX_LEFT_TOGETHER = 2  # most GPUs of a board that leave at one time; more are a tray or a machine that moved
MIN_LOSSES = 2


class LosingSeat(NamedTuple):
    """A seat that GPUs left on their own, more than once."""

    name: str  # in words: "tray 3, slot 4, module 2", or the bus address
    losses: list[FormerGpu]  # last to leave first

    @property
    def gpus(self) -> list[tuple[FormerGpu, int]]:
        """Each GPU that left and how often; last to leave first."""
        times = Counter(one.uuid for one in self.losses)
        last = {one.uuid: one for one in reversed(self.losses)}
        return [(last[uuid], times[uuid]) for uuid in times]


def dropouts(periods: Sequence[PlacementPeriod]) -> Counter[Place]:
    """Return by node how often a GPU left it and next returned to it, or is still in none.

    `periods` are its places, newest first.
    """
    found: Counter[Place] = Counter()
    for index, period in enumerate(periods):
        if period.until is not None and (index == 0 or periods[index - 1].place == period.place):
            found[period.place] += 1
    return found


def losing_seats(former: Iterable[FormerGpu]) -> list[LosingSeat]:
    """Return the seats that repeatedly lost GPUs, most losses first.

    `former` are the GPUs that left one node, last to leave first. GPUs that left with others say nothing about a seat.
    """
    known = list(former)
    together = Counter(one.until for one in known)
    seats: dict[str, list[FormerGpu]] = {}
    for one in known:
        name = in_words(one.gpu) if one.gpu.module else one.gpu.pci_bus_id
        if name and together[one.until] <= MAX_LEFT_TOGETHER:
            seats.setdefault(name, []).append(one)
    found = [LosingSeat(name, losses) for name, losses in seats.items() if len(losses) >= MIN_LOSSES]
    return sorted(found, key=lambda seat: -len(seat.losses))
