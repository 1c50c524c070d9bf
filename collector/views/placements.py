"""The places of a GPU and the former GPUs of a node, from the history or else from recent changes."""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from collector.health import Condition
from collector.model import SEAT_FIELDS, Event, Gpu, LastReport, Place, Placement
from collector.store import Alteration, PastPlacement
from collector.views.collector_view import CollectorView
from collector.views.history_query import HistoryAnswer
from collector.views.recent_changes import ChangeGroup

__all__ = [
    "FormerGpu",
    "PlacementPeriod",
    "alterations",
    "as_gpu",
    "former_gpu",
    "former_gpus",
    "in_words",
    "known_gpu",
    "last_condition",
    "periods_from_history",
    "periods_from_memory",
    "placement_periods",
]


class PlacementPeriod(NamedTuple):
    """A period in which a GPU was on a node, in Unix seconds."""

    place: Place
    since: float | None  # None: before the first record
    until: float | None  # None while it is there
    confirmed: float | None = None
    machine: str = ""
    claim: bool = False  # another node had it first and has not been verified yet
    seat: str = ""  # its position in the machine, in words; empty if unknown


class FormerGpu(NamedTuple):
    """A GPU that was on a node, and where it is now."""

    gpu: Gpu  # as it was then, as far as recorded: identity and position
    place: Place
    since: float | None  # Unix seconds; None: before the first record
    until: float
    now: list[Placement]
    condition: Condition | None = None  # current or last read; None: unknown

    @property
    def back(self) -> bool:
        """Whether it is on this node again."""
        return any(placement.place == self.place for placement in self.now)

    @property
    def uuid(self) -> str:
        """The GPU's UUID."""
        return self.gpu.uuid

    @property
    def serial(self) -> str | None:
        """The number on its sticker."""
        return self.gpu.serial

    @property
    def last_known(self) -> tuple[LastReport, ...]:
        """The fields reported only by earlier readings."""
        return self.gpu.last_known


def placement_periods(
    view: CollectorView, uuid: str, present: Sequence[Placement], history: HistoryAnswer[PastPlacement]
) -> list[PlacementPeriod]:
    """Return a GPU's current and former places, newest first."""
    if history.available:
        return periods_from_history(history.rows, present)
    return periods_from_memory(list(view.recent_changes.newest()), uuid, present)


def periods_from_history(past: Iterable[PastPlacement], present: Sequence[Placement]) -> list[PlacementPeriod]:
    """Return the periods in the history and the current ones, which may not be committed yet; newest first."""
    here = {placement.place for placement in present}
    periods = []
    for row in past:
        place = Place(row.cluster, row.node)
        # A store that does not accept writes still has it there; the GPU was last known there when last confirmed.
        until = row.confirmed if row.until is None and place not in here else row.until
        periods.append(PlacementPeriod(place, row.since, until, row.confirmed, row.machine, seat=in_words(as_gpu(row))))
    return _with_present(periods, present)


def periods_from_memory(
    groups: Sequence[ChangeGroup], uuid: str, present: Iterable[Placement]
) -> list[PlacementPeriod]:
    """Return the periods implied by the present and the latest changes, given newest first; newest first."""
    began: dict[Place, float] = {}
    periods: list[PlacementPeriod] = []
    for group in reversed(groups):
        if all(gpu.uuid != uuid for gpu in group.gpus):
            continue
        if group.event in (Event.APPEARED, Event.MOVED):
            if group.previous is not None and (group.previous in began or not _left(periods, group.previous)):
                periods.append(PlacementPeriod(group.previous, began.pop(group.previous, None), group.time))
            began[group.place] = group.time
        elif group.event is Event.VANISHED:
            periods.append(PlacementPeriod(group.place, began.pop(group.place, None), group.time))
    return _with_present(periods, present)


def _left(periods: Iterable[PlacementPeriod], place: Place) -> bool:
    """Return whether a GPU is known to have left a place; a GPU that moved was not in no node in between."""
    return any(period.place == place for period in periods)


def known_gpu(
    view: CollectorView, uuid: str, present: Sequence[Placement], history: HistoryAnswer[PastPlacement]
) -> Gpu | None:
    """Return a GPU as last seen, by UUID in any case; None if it never was."""
    if present:
        return present[0].gpu
    recorded = [as_gpu(row) for row in history.rows[:1]]
    remembered = view.inventory.facts(uuid)
    for group in view.recent_changes.newest():
        for seen in group.gpus:
            if seen.uuid.lower() == uuid.lower():
                return _seated(seen, [*recorded, *([remembered] if remembered else [])])
    return recorded[0] if recorded else remembered


def _seated(gpu: Gpu, known: Iterable[Gpu]) -> Gpu:
    """Return a GPU with its position, which a change from the history does not have."""
    if any(getattr(gpu, field) is not None for field in SEAT_FIELDS):
        return gpu
    seats = ({field: getattr(one, field) for field in SEAT_FIELDS} for one in known)
    return msgspec.structs.replace(gpu, **next((seat for seat in seats if any(seat.values())), {}))


def last_condition(view: CollectorView, uuid: str) -> Condition | None:
    """Return a GPU's current or last seen condition; None if unknown."""
    here = view.inventory.find(uuid=uuid)
    if here:
        return min(here, key=lambda placement: placement.claim).condition
    return view.inventory.last_condition(uuid)


def alterations(
    view: CollectorView, uuid: str, history: HistoryAnswer[PastPlacement], *, limit: int
) -> list[Alteration]:
    """Return the alterations of a GPU, newest first."""
    if history.available:
        found = {(one.time, one.changes): one for row in history.rows for one in row.altered}
        return sorted(found.values(), key=lambda one: one.time, reverse=True)[:limit]
    remembered = (
        Alteration(group.time, changes)
        for group in view.recent_changes.newest(Event.ALTERED)
        for gpu, changes in zip(group.gpus, group.altered, strict=False)
        if gpu.uuid == uuid
    )
    return list(itertools.islice(remembered, limit))


def former_gpus(
    view: CollectorView, place: Place, history: HistoryAnswer[PastPlacement], *, limit: int
) -> list[FormerGpu]:
    """Return the GPUs that left a node, last to leave first."""
    if history.available:
        return [former_gpu(view, row) for row in history.rows]
    left = (
        FormerGpu(gpu, place, None, group.time, view.inventory.find(uuid=gpu.uuid), last_condition(view, gpu.uuid))
        for group in view.recent_changes.newest()
        if (group.event is Event.VANISHED and group.place == place) or group.previous == place
        for gpu in group.gpus
    )
    return list(itertools.islice(left, limit))


def former_gpu(view: CollectorView, row: PastPlacement) -> FormerGpu:
    """Return the history's record of a GPU that left a node, and where it is now."""
    return FormerGpu(
        as_gpu(row),
        Place(row.cluster, row.node),
        row.since,
        row.until or row.confirmed,
        view.inventory.find(uuid=row.uuid),
        last_condition(view, row.uuid),
    )


def as_gpu(row: PastPlacement) -> Gpu:
    """Return a GPU as recorded in the history: identity and position."""
    return Gpu(
        uuid=row.uuid,
        serial=row.serial,
        model=row.model,
        chassis=row.chassis,
        tray=row.tray,
        slot=row.slot,
        module=row.module,
        pci_bus_id=row.pci_bus_id,
        last_known=row.last_known,
    )


def in_words(gpu: Gpu) -> str:
    """Return a GPU's position in words: "tray 3, slot 4, module 2"; empty if not reported."""
    return ", ".join(f"{name} {value}" for name in ("tray", "slot", "module") if (value := getattr(gpu, name)))


def _with_present(periods: list[PlacementPeriod], present: Iterable[Placement]) -> list[PlacementPeriod]:
    known = {period.place for period in periods if period.until is None}
    periods += [
        PlacementPeriod(
            placement.place,
            placement.since,
            None,
            placement.confirmed,
            claim=placement.claim,
            seat=in_words(placement.gpu),
        )
        for placement in present
        if placement.place not in known
    ]
    return sorted(periods, key=lambda period: (period.until is None, period.since or 0.0), reverse=True)
