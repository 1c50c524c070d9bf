"""Where a GPU was, from the history or from memory."""

from collector.model import Event, Gpu, Place, Placement
from collector.store import PastPlacement
from collector.views.placements import PlacementPeriod as Period
from collector.views.placements import periods_from_history, periods_from_memory
from collector.views.recent_changes import ChangeGroup

A, B = Place("c", "a"), Place("c", "b")


def placement(place: Place, since: float, confirmed: float) -> Placement:
    return Placement(gpu=Gpu(uuid="GPU-1"), place=place, since=since, confirmed=confirmed)


def group(number: int, event: Event, place: Place, *, previous: Place | None = None) -> ChangeGroup:
    return ChangeGroup(
        id=number, event=event, time=float(number), place=place, previous=previous, gpus=(Gpu(uuid="GPU-1"),)
    )


def past(place: Place, since: float, until: float | None, confirmed: float) -> PastPlacement:
    return PastPlacement(
        id=1,
        uuid="GPU-1",
        serial=None,
        model=None,
        chassis=None,
        cluster=place.cluster,
        node=place.node,
        machine="m",
        since=since,
        until=until,
        confirmed=confirmed,
    )


class TestPeriods:
    def test_unrecorded_changes_are_added_to_the_history(self) -> None:
        assert periods_from_history([past(A, 1.0, 5.0, 4.0)], [placement(B, 5.0, 6.0)]) == [
            Period(B, 5.0, None, 6.0),
            Period(A, 1.0, 5.0, 4.0, "m"),
        ]

    def test_a_stalled_history_does_not_hold_a_gpu_in_place(self) -> None:
        assert periods_from_history([past(A, 1.0, None, 4.0)], [placement(B, 5.0, 6.0)]) == [
            Period(B, 5.0, None, 6.0),
            Period(A, 1.0, 4.0, 4.0, "m"),
        ]

    def test_memory_contains_placements_its_changes_imply(self) -> None:
        happened = [
            group(9, Event.VANISHED, B),
            group(5, Event.MOVED, B, previous=A),
            group(4, Event.APPEARED, Place("c", "other"), previous=None),
        ]
        happened[2] = ChangeGroup(
            id=4, event=Event.APPEARED, time=4.0, place=B, previous=None, gpus=(Gpu(uuid="GPU-other"),)
        )
        assert periods_from_memory(happened, "GPU-1", []) == [
            Period(B, 5.0, 9.0),
            Period(A, None, 5.0),
        ]

    def test_a_current_place_comes_first(self) -> None:
        happened = [group(5, Event.MOVED, B, previous=A), group(1, Event.APPEARED, A)]
        assert periods_from_memory(happened, "GPU-1", [placement(B, 5.0, 8.0)]) == [
            Period(B, 5.0, None, 8.0),
            Period(A, 1.0, 5.0),
        ]
