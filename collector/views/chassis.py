"""One chassis: its trays and seats with their current and former GPUs."""

import itertools
from collections import Counter
from typing import NamedTuple

from collector.model import Event, Gpu, NodeState
from collector.store import PastPlacement
from collector.views.collector_view import CollectorView
from collector.views.gpu_state import GpuState, gpu_states
from collector.views.history_query import HistoryAnswer, query_history
from collector.views.missing import missing_from
from collector.views.placements import FormerGpu, former_gpu, last_condition
from collector.views.trays import Seat, Tray, position, seats_by_tray

__all__ = ["MAX_FORMER_GPUS", "MAX_TRAYS", "Chassis", "ChassisTray", "find_chassis", "recall_chassis"]

MAX_TRAYS = 100  # shown; racks have fewer
MAX_FORMER_GPUS = 500  # likewise, the last to leave


class ChassisTray(NamedTuple):
    """One tray of a chassis, and the node whose GPUs are in it."""

    tray: Tray
    seats: list[Seat]
    entry: NodeState
    states: dict[str, GpuState]  # by UUID


class Chassis(NamedTuple):
    """The current state of a chassis."""

    serial: str
    trays: list[ChassisTray]  # in their order
    left_out: int = 0  # nodes not shown

    @property
    def gpus(self) -> list[Gpu]:
        """Its GPUs, by seat."""
        return [seat.gpu for tray in self.trays for seat in tray.seats if seat.gpu is not None]

    @property
    def missing(self) -> int:
        """The number of seats that lost their GPU."""
        return sum(seat.positions for tray in self.trays for seat in tray.seats if seat.gpu is None)

    @property
    def states(self) -> Counter[str]:
        """The number of its GPUs that need attention, by state."""
        found = (tray.states[seat.gpu.uuid] for tray in self.trays for seat in tray.seats if seat.gpu is not None)
        return Counter(state.words for state in found if state.severity in ("bad", "idle"))

    @property
    def models(self) -> Counter[str]:
        """How many GPUs of each model are in it."""
        return Counter(gpu.model or "unknown model" for gpu in self.gpus)

    @property
    def clusters(self) -> list[str]:
        """The clusters whose nodes have GPUs in it."""
        return sorted({tray.entry.place.cluster for tray in self.trays})

    @property
    def nodes(self) -> int:
        """How many nodes have GPUs in it."""
        return len({tray.entry.place for tray in self.trays})


def find_chassis(view: CollectorView, serial: str) -> Chassis:
    """Return a chassis by serial, as its nodes were last read; without trays if it has no GPUs now."""
    inventory = view.inventory
    places = sorted(inventory.chassis_places(serial))
    if len(places) <= MAX_TRAYS:  # racks have fewer; any excess is cut arbitrarily
        places.sort(key=lambda place: _first_seat(inventory.node(place), serial))
    trays = []
    for place in places[:MAX_TRAYS]:
        if (entry := inventory.node(place)) is not None:
            states = gpu_states(view, entry)
            found = seats_by_tray(entry, missing_from(inventory, entry))
            trays += [ChassisTray(tray, seats, entry, states) for tray, seats in found if tray.chassis == serial]
    return Chassis(serial, trays, max(0, len(places) - MAX_TRAYS))


def _first_seat(entry: NodeState | None, serial: str) -> tuple[tuple[int, str], ...]:
    """Return the sort key of a node within a chassis."""
    return min((position(gpu) for gpu in (entry.gpus if entry else ()) if gpu.chassis == serial), default=())


async def recall_chassis(view: CollectorView, serial: str) -> tuple[list[FormerGpu], HistoryAnswer[PastPlacement]]:
    """Return the GPUs that left a node while they were in a chassis, the last to leave first."""
    history = await query_history(view, lambda store: store.left_chassis(serial, limit=MAX_FORMER_GPUS))
    if history.available:
        return [former_gpu(view, row) for row in history.rows], history
    left = (
        FormerGpu(gpu, place, None, group.time, view.inventory.find(uuid=gpu.uuid), last_condition(view, gpu.uuid))
        for group in view.recent_changes.newest()
        if (place := group.place if group.event is Event.VANISHED else group.previous) is not None
        for gpu in group.gpus
        if gpu.chassis == serial
    )
    return list(itertools.islice(left, MAX_FORMER_GPUS)), history
