"""The whole life of a GPU as one list."""

from collector.health import GROWTH_WINDOW_SECONDS as WEEK
from collector.health import Condition, Degradation, Health
from collector.marks import Mark, MarkKind
from collector.model import FieldChange, Gpu, Place
from collector.store import Alteration
from collector.views.condition import HealthChange, retrace
from collector.views.life import Happening, Kind, part_of, tell
from collector.views.placements import PlacementPeriod as Period

A, B = Place("c", "a"), Place("d", "b")


def kinds(life: list[Happening]) -> list[tuple[str, float | None]]:
    return [(one.kind.value, one.time) for one in life]


class TestTelling:
    def test_arrival_move_departure_and_return_are_listed(self) -> None:
        life = tell([Period(A, 70.0, None), Period(B, 20.0, 50.0), Period(A, 10.0, 20.0)], [], [], [], now=100.0)
        assert kinds(life) == [("came", 70.0), ("left", 50.0), ("moved", 20.0), ("came", 10.0)]
        back, left, moved, came = life
        assert (back.place, back.again, back.present, back.stayed) == (A, True, True, 30.0)
        assert (left.place, left.stayed) == (B, 30.0)
        assert (moved.previous, moved.place, moved.before, moved.stayed) == (A, B, 10.0, 30.0)
        assert (came.place, came.again, came.present) == (A, False, False)

    def test_everything_is_one_list_and_the_oldest_has_no_time(self) -> None:
        mark = Mark(uuid="GPU-1", kind=MarkKind.RMA, set_at=40.0, set_by="ann", removed_at=60.0, removed_by="bob")
        ended = Mark(uuid="GPU-1", kind=MarkKind.WATCH, set_at=31.0, set_by="ann", until=33.0)
        health = [
            HealthChange(50.0, (FieldChange("lost", True, False),), A),
            HealthChange(30.0, (FieldChange("lost", False, True), FieldChange("row_remap_pending", False, True)), A),
        ]
        altered = [Alteration(20.0, (FieldChange("vbios", "1", "2"),))]
        life = tell([Period(A, None, None)], altered, health, [mark, ended], now=100.0)
        assert kinds(life) == [
            ("unmarked", 60.0),
            ("answering", 50.0),
            ("marked", 40.0),
            ("mark ended", 33.0),
            ("marked", 31.0),
            ("lost", 30.0),
            ("altered", 20.0),
            ("came", None),
        ]
        assert life[0].who == "bob"
        assert life[5].changes == (FieldChange("row_remap_pending", False, True),)
        assert life[5].turn.level == "reset"

    def test_a_move_read_in_reverse_order_is_one_event(self) -> None:
        life = tell([Period(B, 52.0, None), Period(A, 10.0, 50.0)], [], [], [], now=100.0)
        assert kinds(life) == [("moved", 52.0), ("came", 10.0)]
        assert (life[0].previous, life[0].before, life[0].nowhere) == (A, 40.0, None)

    def test_the_end_of_growth_is_listed(self) -> None:
        grown = HealthChange(10.0, (FieldChange("ecc_dram_uncorrectable", 0, 4),), A)
        now = Condition(Health(ecc_dram_uncorrectable=4), ecc_growth=10.0, read=WEEK + 20.0)
        past = retrace([grown], Gpu(uuid="GPU-1", health=now.health), now)
        life = tell([Period(A, 5.0, None)], [], [grown], [], now=WEEK + 20.0, past=past)
        assert kinds(life) == [("health", WEEK + 10.0), ("health", 10.0), ("came", 5.0)]
        assert life[0].turn.ended == life[1].turn.began == (Degradation.UNCORRECTABLE_ECC_GROWING,)

    def test_the_initial_condition_is_listed_once(self) -> None:
        ill = Health(row_remap_failure=True, row_remap_pending=True)
        first = HealthChange(10.0, (FieldChange("row_remap_failure", None, True),), A)
        past = retrace([first], Gpu(uuid="GPU-1", health=ill), Condition(ill, read=50.0))
        came = tell([Period(B, 20.0, None), Period(A, 10.0, 20.0)], [], [first], [], now=50.0, past=past)
        assert [(one.kind.value, one.reasons) for one in came] == [
            ("moved", (Degradation.ROW_REMAP_FAILURE, Degradation.ROW_REMAP_PENDING)),
            ("health", ()),
            ("came", (Degradation.ROW_REMAP_FAILURE, Degradation.ROW_REMAP_PENDING)),
        ]
        ill = Health(row_remap_failure=True)
        past = retrace([first], Gpu(uuid="GPU-1", health=ill), Condition(ill, read=50.0))
        assert tell([Period(A, 10.0, None)], [], [first], [], now=50.0, past=past)[-1].reasons == ()

    def test_two_simultaneous_places_are_not_a_move(self) -> None:
        life = tell([Period(B, 20.0, None), Period(A, 10.0, None)], [], [], [], now=100.0)
        assert kinds(life) == [("came", 20.0), ("came", 10.0)]


class TestParts:
    LIFE = (*(Happening(Kind.HEALTH, float(time)) for time in (9, 8, 7, 7, 7, 6)), Happening(Kind.CAME, None))

    def test_the_parts_together_are_the_whole_life(self) -> None:
        told: list[Happening] = []
        before: float | None = None
        for _ in range(10):
            part = part_of(self.LIFE, before=before, complete_from=None, limit=3)
            told += part.happenings
            if (before := part.older) is None:
                break
        assert told == list(self.LIFE)

    def test_incomplete_events_are_not_listed(self) -> None:
        part = part_of(self.LIFE, before=None, complete_from=8.0, limit=100)
        assert [one.time for one in part.happenings] == [9.0, 8.0]
        assert part.older == 8.0
