"""Keeps the latest changes in memory for the page and its live stream."""

import heapq
import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from enum import StrEnum

import msgspec

from collector.events import ResettableEvent
from collector.inventory import Inventory
from collector.model import Change, Event, FieldChange, Gpu, Place
from collector.store import HistoricChange
from collector.views.alterations import describe_common_changes, fields_of

__all__ = ["ChangeGroup", "Folded", "RecentChanges", "as_change", "current_place", "grouped"]

GROUPS_KEPT = 500  # of each event


class Folded(StrEnum):
    """Events that combine several changes."""

    REPLACED = "replaced"  # GPUs left a node and others took their place
    FIRST_SEEN = "first seen"  # nodes were read for the first time


class ChangeGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of one kind and the same fields to GPUs of one node at one instant: the result of one reading.

    For a replacement, `gpus` are those that came and `left` those they replaced. First sights combine the nodes of one
    cluster on one day and have only a number of GPUs.
    """

    id: int  # increases in order of occurrence, even across restarts
    event: Event | Folded
    time: float  # Unix seconds
    place: Place
    previous: Place | None
    gpus: tuple[Gpu, ...]
    altered: tuple[tuple[FieldChange, ...], ...] = ()  # parallel to `gpus`: alterations of each
    times: int = 1  # number of changes combined
    began: float | None = None  # Unix seconds of the first one
    left: tuple[Gpu, ...] = ()  # of a replacement
    origins: tuple[Place | None, ...] = ()  # of a replacement, parallel to `gpus`: where each moved from
    returned: int = 0  # of a replacement: GPUs that were gone in between and are back
    nodes: int = 1  # of first sights; with several nodes, `place` is one of them
    counted: int | None = None  # of first sights: GPUs

    @property
    def key(self) -> str:
        """A key that identifies it in any list and stays the same while it grows."""
        if self.event == Folded.FIRST_SEEN and self.nodes > 1:
            return f"{self.event} {self.time // 86400.0:.0f} {self.place.cluster}"
        first = min((gpu.uuid for gpu in self.gpus), default="")
        return f"{self.event} {self.time:.3f} {self.place.cluster} {self.place.node} {first}"

    @property
    def size(self) -> int:
        """The number of GPUs; for a replacement, those that left or came, whichever is greater."""
        return max(len(self.gpus), len(self.left)) if self.counted is None else self.counted

    @property
    def summary(self) -> str:
        """The alterations common to the GPUs, as text; empty for other events."""
        return describe_common_changes(self.altered)


class RecentChanges:
    """A bounded memory of the latest changes.

    Each kind of event has its own limit: the thousands of new GPUs in a first inventory must not push out moves.
    """

    def __init__(self) -> None:
        self._ids = itertools.count(time.time_ns() // 1_000_000)
        self._groups: dict[Event, deque[ChangeGroup]] = {event: deque(maxlen=GROUPS_KEPT) for event in Event}
        self._added = ResettableEvent()

    def add(self, changes: Sequence[Change]) -> None:
        """Keep the changes of one step of the inventory."""
        for group in grouped(changes, self._ids):
            self._groups[Event(group.event)].append(group)
        if changes:
            self._added.pulse()

    def newest(self, event: Event | None = None, *, after: int | None = None) -> Iterator[ChangeGroup]:
        """Yield the groups, newest first; with `after`, only those newer than the group with that id."""
        kept = self._groups.values() if event is None else [self._groups[event]]
        groups = heapq.merge(*map(reversed, kept), key=lambda group: group.id, reverse=True)
        return groups if after is None else itertools.takewhile(lambda group: group.id > after, groups)

    @property
    def last_id(self) -> int:
        """The id of the newest group; 0 before the first."""
        return next((group.id for group in self.newest()), 0)

    async def wait(self) -> None:
        """Wait until something is added."""
        await self._added.wait()


def grouped(changes: Sequence[Change], ids: Iterator[int]) -> Iterator[ChangeGroup]:
    """Group adjacent changes of one kind, node, instant and set of fields."""
    for (event, moment, place, previous), group in itertools.groupby(
        changes, key=lambda change: (change.event, change.time, change.place, change.previous)
    ):
        by_fields: dict[tuple[str, ...], list[Change]] = {}
        for change in group:
            by_fields.setdefault(fields_of(change.changes), []).append(change)
        for fields, ones in by_fields.items():
            gpus = tuple(change.gpu for change in ones)
            altered = tuple(change.changes for change in ones) if fields else ()
            yield ChangeGroup(
                id=next(ids), event=event, time=moment, place=place, previous=previous, gpus=gpus, altered=altered
            )


def current_place(group: ChangeGroup, inventory: Inventory) -> Place | None:
    """Return the single place of all GPUs of a group now; None if one is absent or they are in several."""
    places = {placement.place for gpu in group.gpus for placement in inventory.find(uuid=gpu.uuid)}
    all_present = all(inventory.find(uuid=gpu.uuid) for gpu in group.gpus)
    return places.pop() if all_present and len(places) == 1 else None


def as_change(recorded: HistoricChange) -> Change:
    """Convert a change from the history, with the GPU's facts as far as recorded."""
    gpu = Gpu(
        uuid=recorded.uuid,
        serial=recorded.serial,
        model=recorded.model,
        chassis=recorded.chassis,
        last_known=recorded.last_known,
    )
    return Change(
        event=Event(recorded.event) if recorded.event in _EVENTS else Event.ALTERED,  # of a damaged row
        time=recorded.time,
        gpu=gpu,
        place=Place(recorded.cluster, recorded.node),
        machine=recorded.machine,
        source=recorded.source,
        previous=recorded.previous,
        changes=recorded.changes,
    )


_EVENTS = frozenset(Event)
