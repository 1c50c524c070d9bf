"""Where the bars of a GPU's timeline are."""

from hypothesis import given
from hypothesis import strategies as st

from collector.health import Degradation, Level
from collector.model import Place
from collector.views.condition import Stage
from collector.views.placements import PlacementPeriod as Period
from collector.web.pages.timeline import Bar, Span, Tick, draw

A, B = Place("c", "a"), Place("c", "b")
DAY = 86400.0


class TestDrawing:
    def test_days_are_drawn_to_scale_with_days_on_the_axis(self) -> None:
        start = 1764028800.0  # 2025-11-25T00:00:00Z
        drawing = draw([Period(B, start + 3 * DAY, None), Period(A, start, start + 2 * DAY)], start + 4 * DAY)
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
        drawing = draw([Period(A, start, None)], start + 600)
        assert [tick.label for tick in drawing.ticks] == ["16:00", "16:02", "16:04", "16:06", "16:08", "16:10"]

    def test_a_gpu_that_returned_has_two_bars_in_one_lane(self) -> None:
        drawing = draw([Period(A, 300.0, None), Period(B, 100.0, 300.0), Period(A, 0.0, 100.0)], 400.0)
        assert [len(lane.bars) for lane in drawing.lanes] == [2, 1]

    def test_more_nodes_than_can_be_drawn_are_counted(self) -> None:
        periods = [Period(Place("c", f"n{number}"), float(number), number + 1.0) for number in range(20)]
        drawing = draw(periods, 100.0)
        assert (len(drawing.lanes), drawing.left_out) == (12, 8)

    def test_a_lasting_condition_is_one_line(self) -> None:
        failure, pending = Degradation.ROW_REMAP_FAILURE, Degradation.ROW_REMAP_PENDING
        past = [
            Stage(None),
            Stage(100.0, (pending,), Level.RESET),
            Stage(200.0, (failure, pending), Level.REPLACE),
            Stage(300.0, (failure,), Level.REPLACE),
        ]
        drawing = draw([Period(A, 0.0, None)], 400.0, past)
        assert drawing.spans == [Span(25.0, 25.0, Level.RESET), Span(50.0, 50.0, Level.REPLACE)]

    @given(
        spans=st.lists(st.tuples(st.sampled_from([A, B]), st.floats(0, 1e9), st.floats(0, 1e9)), max_size=30),
        now=st.floats(0, 2e9),
    )
    def test_everything_is_visible_within_the_drawing(
        self, spans: list[tuple[Place, float, float]], now: float
    ) -> None:
        periods = [Period(place, min(times), max(times)) for place, *times in spans]
        drawing = draw(periods, now)
        assert sum(len(lane.bars) for lane in drawing.lanes) == len(periods)
        for lane in drawing.lanes:
            for bar in lane.bars:
                assert 0 <= bar.x <= 100
                assert bar.width >= 0.6
                assert bar.x + bar.width <= 100.001
        assert all(0 <= tick.x <= 100 for tick in drawing.ticks)
        assert 1 <= len(drawing.ticks) <= 6
