"""The latest changes, kept in memory for the page and for those who follow it live."""

import heapq
import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence

import anyio
import msgspec

from collector.inventory import Inventory
from collector.model import Change, Event, Gpu, Place
from collector.store import HistoricChange

__all__ = ["ChangeGroup", "RecentChanges", "as_change", "found_since", "grouped"]

_KEPT = 500  # groups of each event


class ChangeGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of one kind to GPUs of one node at one instant: what one reading found."""

    id: int  # grows in the order in which they happened, also over restarts
    event: Event
    time: float  # Unix seconds
    place: Place
    previous: Place | None
    gpus: tuple[Gpu, ...]


class RecentChanges:
    """A bounded memory of what happened last.

    Each event has room of its own: a first inventory lets thousands of GPUs appear, which must not push out the moves.
    """

    def __init__(self) -> None:
        self._ids = itertools.count(time.time_ns() // 1_000_000)
        self._kept: dict[Event, deque[ChangeGroup]] = {event: deque(maxlen=_KEPT) for event in Event}
        self._newer: anyio.Event | None = None  # set when something is added; None while nobody waits

    def add(self, changes: Sequence[Change]) -> None:
        """Keep what one step of the inventory did."""
        for group in grouped(changes, self._ids):
            self._kept[group.event].append(group)
        if changes and self._newer is not None:
            self._newer.set()
            self._newer = None

    def newest(self, event: Event | None = None, *, after: int | None = None) -> Iterator[ChangeGroup]:
        """Walk what is kept, the newest first; with `after` only what came later than the group of that id."""
        kept = self._kept.values() if event is None else [self._kept[event]]
        groups = heapq.merge(*map(reversed, kept), key=lambda group: group.id, reverse=True)
        return groups if after is None else itertools.takewhile(lambda group: group.id > after, groups)

    async def wait(self) -> None:
        """Wait until something is added."""
        if self._newer is None:
            self._newer = anyio.Event()
        await self._newer.wait()


def grouped(changes: Sequence[Change], ids: Iterator[int]) -> Iterator[ChangeGroup]:
    """Put changes that stand beside each other and are of one kind, node and instant together."""
    for (event, moment, place, previous), group in itertools.groupby(
        changes, key=lambda change: (change.event, change.time, change.place, change.previous)
    ):
        gpus = tuple(change.gpu for change in group)
        yield ChangeGroup(id=next(ids), event=event, time=moment, place=place, previous=previous, gpus=gpus)


def found_since(group: ChangeGroup, inventory: Inventory) -> Place | None:
    """Tell in which one place all the GPUs of a group are now; None if any is nowhere or they are in several."""
    places = {placement.place for gpu in group.gpus for placement in inventory.find(uuid=gpu.uuid)}
    everywhere = all(inventory.find(uuid=gpu.uuid) for gpu in group.gpus)
    return places.pop() if everywhere and len(places) == 1 else None


def as_change(recorded: HistoricChange) -> Change:
    """Make of a change in the history what it was, as far as the history holds it."""
    gpu = Gpu(uuid=recorded.uuid, serial=recorded.serial, model=recorded.model, chassis=recorded.chassis)
    return Change(
        event=Event(recorded.event),
        time=recorded.time,
        gpu=gpu,
        place=Place(recorded.cluster, recorded.node),
        machine=recorded.machine,
        source=recorded.source,
        previous=recorded.previous,
    )
