"""Seats that lose GPUs again and again, and GPUs that drop out again and again: whether it is the slot or the card."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from collector.model import Place
from collector.views.placements import FormerGpu, PlacementPeriod, in_words

__all__ = ["LosingSeat", "dropouts", "losing_seats"]

MAX_LEFT_TOGETHER = 2  # GPUs that leave at one time by themselves: a board's; more are a tray, or a machine that moved
MIN_LOSSES = 2


class LosingSeat(NamedTuple):
    """A seat that GPUs left by themselves, more than once."""

    name: str  # for people: "tray 3, slot 4, module 2", or the bus address
    losses: list[FormerGpu]  # the last to leave first

    @property
    def gpus(self) -> list[tuple[FormerGpu, int]]:
        """Each GPU that left, and how often; the last to leave first."""
        times = Counter(one.uuid for one in self.losses)
        last = {one.uuid: one for one in reversed(self.losses)}
        return [(last[uuid], times[uuid]) for uuid in times]


def dropouts(periods: Sequence[PlacementPeriod]) -> Counter[Place]:
    """Return how often one GPU left a node and was next in the same one, or is in none yet; by node.

    `periods` are where it was, the newest first.
    """
    found: Counter[Place] = Counter()
    for index, period in enumerate(periods):
        if period.until is not None and (index == 0 or periods[index - 1].place == period.place):
            found[period.place] += 1
    return found


def losing_seats(former: Iterable[FormerGpu]) -> list[LosingSeat]:
    """Return the seats that lost GPUs repeatedly, the one with the most losses first.

    `former` are the GPUs that left one node, the last to leave first. What left with others says nothing of its seat.
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
