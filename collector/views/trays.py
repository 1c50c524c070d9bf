"""The positions of a node's GPUs: trays, their seats, and which of these are empty."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from collector.model import Gpu, NodeState
from collector.views.cluster_summary import missing_gpus
from collector.views.missing import MissingGpu

__all__ = ["Seat", "Tray", "last_known_chassis", "position", "seats", "seats_by_tray", "trays"]


class Tray(NamedTuple):
    """The GPUs of a node that share a tray, as far as the hardware reports it."""

    chassis: str | None
    tray: str | None
    slot: str | None
    host: str | None
    gpus: list[Gpu]


class Seat(NamedTuple):
    """One position in a tray, or several with unknown numbers."""

    name: str
    gpu: Gpu | None  # None if the reading did not find one of the capacity, or one does not respond
    positions: int = 1
    silent: bool = False  # the GPU does not respond and was never read; the name is its bus address
    missing: MissingGpu | None = None  # the GPU that was last here and is in no node now


def seats_by_tray(entry: NodeState, missing: Sequence[MissingGpu] = ()) -> list[tuple[Tray, list[Seat]]]:
    """Return the trays of a node with their seats; with several trays, the tray of a missing GPU is unknown.

    `missing` are the GPUs from `collector.views.missing.missing_from`, placed in their former seats.
    """
    found = trays(entry.gpus)
    if len(found) != 1:
        return [(tray, seats(tray.gpus, 0)) for tray in found]
    (tray,) = found
    silent = [Seat(one.pci_bus_id, None, silent=True) for one in entry.silent]
    return [(tray, [*seats(tray.gpus, missing_gpus(entry), missing), *silent])]


def last_known_chassis(gpus: Sequence[Gpu]) -> dict[str, float]:
    """Return the chassis that none of these GPUs reports any longer, with when it was last reported (Unix seconds)."""
    found: dict[str, float] = {}
    for gpu in gpus:
        for field, time in gpu.last_known or ():
            if field == "chassis" and gpu.chassis:
                found[gpu.chassis] = max(time, found.get(gpu.chassis, time))
    reported = {gpu.chassis for gpu in gpus if all(field != "chassis" for field, _ in gpu.last_known or ())}
    return {chassis: time for chassis, time in found.items() if chassis not in reported}


def trays(gpus: Sequence[Gpu]) -> list[Tray]:
    """Return GPUs grouped by tray, in order; empty if the hardware reports no positions."""
    if not any(gpu.chassis or gpu.tray or gpu.slot or gpu.module for gpu in gpus):
        return []

    def tray(gpu: Gpu) -> tuple[str | None, str | None, str | None, str | None]:
        return gpu.chassis, gpu.tray, gpu.slot, gpu.host

    return [Tray(*key, list(group)) for key, group in itertools.groupby(sorted(gpus, key=position), key=tray)]


def seats(gpus: Sequence[Gpu], missing: int, named: Sequence[MissingGpu] = ()) -> list[Seat]:
    """Return the seats of one tray in order; `missing` of them are empty, and `named` are their former GPUs."""
    taken = [Seat(_seat_name(gpu), gpu) for gpu in gpus]
    modules = {int(gpu.module) for gpu in gpus if gpu.module and _natural(gpu.module)[0] >= 0}
    gaps = sorted(set(range(min(modules), max(modules))) - modules) if modules else []
    if len(modules) < len(gpus) or len(gaps) != missing:  # an empty seat at either end leaves no gap
        known = [Seat(_seat_name(one.gpu), None, missing=one) for one in named]
        unknown = missing - len(known)
        ordered = sorted([*taken, *known], key=_seat_order) if known else taken
        return [*ordered, Seat("position unknown", None, unknown)] if unknown else ordered
    by_module = {one.gpu.module: one for one in named}
    empty = [Seat(f"module {gap}", None, missing=by_module.get(str(gap))) for gap in gaps]
    return sorted([*taken, *empty], key=lambda seat: int(seat.name.rpartition(" ")[2]))


def _seat_order(seat: Seat) -> tuple[tuple[int, str], ...]:
    gpu = seat.gpu or (seat.missing.gpu if seat.missing else None)
    return position(gpu) if gpu else ()


def position(gpu: Gpu) -> tuple[tuple[int, str], ...]:
    """Return a key that sorts GPUs by chassis, tray, slot, host and module, then by bus address."""
    minor = None if gpu.minor_number is None else str(gpu.minor_number)
    parts = (gpu.chassis, gpu.tray, gpu.slot, gpu.host, gpu.module, minor, gpu.pci_bus_id, gpu.uuid)
    return tuple(_natural(text or "") for text in parts)


def _natural(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isascii() and text.isdigit() and len(text) < 10 else (-1, text)


def _seat_name(gpu: Gpu) -> str:
    if gpu.module:
        return f"module {gpu.module}"
    return "GPU" if gpu.minor_number is None else f"GPU {gpu.minor_number}"
