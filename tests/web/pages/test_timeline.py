"""Where the bars of a GPU's timeline are."""

from hypothesis import given
from hypothesis import strategies as st

from collector.model import Event, Gpu, Place, Placement
from collector.store import PastPlacement
from collector.views.recent_changes import ChangeGroup
from collector.web.pages.timeline import Bar, Stay, Tick, draw, stays_in_history, stays_in_memory

A, B = Place("c", "a"), Place("c", "b")
DAY = 86400.0


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


class TestStays:
    def test_what_is_not_in_the_history_yet_is_added_to_it(self) -> None:
        assert stays_in_history([past(A, 1.0, 5.0, 4.0)], [placement(B, 5.0, 6.0)]) == [
            Stay(B, 5.0, None, 6.0),
            Stay(A, 1.0, 5.0, 4.0, "m"),
        ]

    def test_a_history_that_stands_still_does_not_keep_a_gpu_where_it_was(self) -> None:
        assert stays_in_history([past(A, 1.0, None, 4.0)], [placement(B, 5.0, 6.0)]) == [
            Stay(B, 5.0, None, 6.0),
            Stay(A, 1.0, 4.0, 4.0, "m"),
        ]

    def test_memory_tells_what_the_changes_that_it_holds_imply(self) -> None:
        happened = [
            group(9, Event.VANISHED, B),
            group(5, Event.MOVED, B, previous=A),
            group(4, Event.APPEARED, Place("c", "other"), previous=None),
        ]
        happened[2] = ChangeGroup(
            id=4, event=Event.APPEARED, time=4.0, place=B, previous=None, gpus=(Gpu(uuid="GPU-other"),)
        )
        assert stays_in_memory(happened, "GPU-1", []) == [Stay(B, 5.0, 9.0), Stay(A, None, 5.0)]

    def test_a_place_of_now_comes_first(self) -> None:
        happened = [group(5, Event.MOVED, B, previous=A), group(1, Event.APPEARED, A)]
        assert stays_in_memory(happened, "GPU-1", [placement(B, 5.0, 8.0)]) == [
            Stay(B, 5.0, None, 8.0),
            Stay(A, 1.0, 5.0),
        ]


class TestDrawing:
    def test_stays_of_days_are_drawn_to_scale_with_days_on_the_axis(self) -> None:
        start = 1764028800.0  # 2025-11-25T00:00:00Z
        drawing = draw([Stay(B, start + 3 * DAY, None), Stay(A, start, start + 2 * DAY)], start + 4 * DAY)
        assert [(lane.place, lane.bars) for lane in drawing.lanes] == [
            (B, [Bar(75.0, 25.0, True)]),
            (A, [Bar(0.0, 50.0, False)]),
        ]
        assert drawing.ticks == [
            Tick(0.0, "25 Nov", "start"),
            Tick(25.0, "26 Nov", "middle"),
            Tick(50.0, "27 Nov", "middle"),
            Tick(75.0, "28 Nov", "middle"),
            Tick(100.0, "29 Nov", "end"),
        ]
        assert drawing.left_out == 0

    def test_ten_minutes_have_a_label_every_two(self) -> None:
        start = 1764000000.0  # 2025-11-24T16:00:00Z
        drawing = draw([Stay(A, start, None)], start + 600)
        assert [tick.label for tick in drawing.ticks] == ["16:00", "16:02", "16:04", "16:06", "16:08", "16:10"]

    def test_a_gpu_that_came_back_has_two_bars_in_one_lane(self) -> None:
        drawing = draw([Stay(A, 300.0, None), Stay(B, 100.0, 300.0), Stay(A, 0.0, 100.0)], 400.0)
        assert [len(lane.bars) for lane in drawing.lanes] == [2, 1]

    def test_more_nodes_than_can_be_drawn_are_counted(self) -> None:
        stays = [Stay(Place("c", f"n{number}"), float(number), number + 1.0) for number in range(20)]
        drawing = draw(stays, 100.0)
        assert (len(drawing.lanes), drawing.left_out) == (12, 8)

    @given(
        spans=st.lists(st.tuples(st.sampled_from([A, B]), st.floats(0, 1e9), st.floats(0, 1e9)), max_size=30),
        now=st.floats(0, 2e9),
    )
    def test_everything_is_inside_and_can_be_seen(self, spans: list[tuple[Place, float, float]], now: float) -> None:
        stays = [Stay(place, min(times), max(times)) for place, *times in spans]
        drawing = draw(stays, now)
        assert sum(len(lane.bars) for lane in drawing.lanes) == len(stays)
        for lane in drawing.lanes:
            for bar in lane.bars:
                assert 0 <= bar.x <= 100
                assert bar.width >= 0.6
                assert bar.x + bar.width <= 100.001
        assert all(0 <= tick.x <= 100 for tick in drawing.ticks)
        assert 1 <= len(drawing.ticks) <= 6
