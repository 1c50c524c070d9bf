"""Finds GPUs of a node that were replaced: some left, and others came within the hour."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from collector.model import Event, Gpu, Place
from collector.views.recent_changes import ChangeGroup, Folded
from collector.views.trays import position

__all__ = ["REPLACED_WITHIN_SECONDS", "Exchange", "exchanges", "replaced"]

REPLACED_WITHIN_SECONDS = 3600.0  # from when GPUs left a node to when others came


class Exchange(NamedTuple):
    """A GPU that left a seat and the one that came; only one of them if the seats are unknown."""

    seat: str  # "module 3", "tray 4 module 3", or empty
    left: Gpu | None
    came: Gpu | None
    origin: Place | None = None  # where it moved from


def replaced(
    groups: Sequence[ChangeGroup], around: Iterable[ChangeGroup] = (), *, chosen: bool = False
) -> list[ChangeGroup]:
    """Return groups, newest first, with each replacement merged into one group at the time of arrival.

    `around` are further groups of the same nodes, which only complete replacements and are not returned. Departures
    replaced by arrivals in `around` are omitted, since those are listed above, unless the groups were `chosen` by GPU.
    """
    shown = {_key(group): group.id for group in groups}
    by_place: dict[Place, dict[tuple[object, ...], ChangeGroup]] = {}
    for group in (*around, *groups):  # of those that were chosen, some may be missing
        if group.event in (Event.VANISHED, Event.APPEARED, Event.MOVED):
            by_place.setdefault(group.place, {}).setdefault(_key(group), group)
    instead: dict[tuple[object, ...], ChangeGroup | None] = {}
    for ones in by_place.values():
        if len(ones) > 1:
            _pair(list(ones.values()), shown, instead, chosen)
    found = (instead.get(_key(group), group) for group in groups)
    moved = {
        (gpu.uuid, group.previous): group.time for group in groups if group.event is Event.MOVED for gpu in group.gpus
    }
    return [group for group in found if group is not None and not _is_told_by(moved, group)]


def exchanges(group: ChangeGroup) -> list[Exchange]:
    """Return the exchanges of a replacement, seat by seat where known, then the rest."""
    origins = dict(zip((gpu.uuid for gpu in group.gpus), group.origins, strict=False))
    came = {seat: gpu for gpu in sorted(group.gpus, key=position) if (seat := _seat(gpu))}
    left = {seat: gpu for gpu in sorted(group.left, key=position) if (seat := _seat(gpu))}
    both = [seat for seat in left if seat in came]
    found = [Exchange(seat, left[seat], came[seat], origins.get(came[seat].uuid)) for seat in both]
    exchanged = {gpu.uuid for one in found for gpu in (one.left, one.came) if gpu is not None}
    found += [Exchange(_seat(gpu), gpu, None) for gpu in group.left if gpu.uuid not in exchanged]
    return found + [
        Exchange(_seat(gpu), None, gpu, origins.get(gpu.uuid)) for gpu in group.gpus if gpu.uuid not in exchanged
    ]


def _is_told_by(moved: Mapping[tuple[str, Place | None], float], group: ChangeGroup) -> bool:
    """Return whether all GPUs that vanished were found elsewhere within the hour, so that their moves suffice."""
    if group.event is not Event.VANISHED:
        return False
    times = [moved.get((gpu.uuid, group.place), math.inf) for gpu in group.gpus]
    return all(group.time <= time <= group.time + REPLACED_WITHIN_SECONDS for time in times)


def _pair(
    ones: Sequence[ChangeGroup],
    shown: Mapping[tuple[object, ...], int],
    instead: dict[tuple[object, ...], ChangeGroup | None],
    chosen: bool,
) -> None:
    """Record by key the replacements for groups of one node; None: nothing."""
    arrivals = sorted({one.time for one in ones if one.event is not Event.VANISHED})
    leaving: dict[float, list[ChangeGroup]] = {}  # by the time of arrival
    for one in ones:
        if one.event is Event.VANISHED:
            times = (time for time in arrivals if one.time <= time <= one.time + REPLACED_WITHIN_SECONDS)
            if (time := next(times, None)) is not None:
                leaving.setdefault(time, []).append(one)
    for time, left in leaving.items():
        came = [one for one in ones if one.event is not Event.VANISHED and one.time == time]
        gone = {gpu.uuid: gpu for one in left for gpu in one.gpus}
        here = {gpu.uuid: (gpu, one.previous) for one in came for gpu in one.gpus}
        back = gone.keys() & here.keys()
        if not gone.keys() - back or not here.keys() - back:
            continue  # they were only away
        new = [(gpu, origin) for uuid, (gpu, origin) in here.items() if uuid not in back]
        head = next((one for one in (*came, *(left if chosen else ())) if _key(one) in shown), None)
        for one in (*left, *came):
            instead[_key(one)] = None
        if head is not None:
            instead[_key(head)] = msgspec.structs.replace(
                head,
                id=shown[_key(head)],
                event=Folded.REPLACED,
                time=time,
                previous=None,
                gpus=tuple(gpu for gpu, _ in new),
                origins=tuple(origin for _, origin in new),
                left=tuple(gpu for uuid, gpu in gone.items() if uuid not in back),
                returned=len(back),
                began=min(one.time for one in left),
            )


def _key(group: ChangeGroup) -> tuple[object, ...]:
    return group.event, group.time, group.place, group.previous


def _seat(gpu: Gpu) -> str:
    """Return a GPU's position in its node, if known."""
    tray = f"tray {gpu.tray} " if gpu.tray else ""
    if gpu.module:
        return f"{tray}module {gpu.module}"
    return f"{tray}{gpu.pci_bus_id}" if gpu.pci_bus_id else ""
