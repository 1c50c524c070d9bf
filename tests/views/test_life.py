"""The whole life of a GPU as one list."""

from collector.marks import Mark, MarkKind
from collector.model import FieldChange, Place
from collector.store import Alteration
from collector.views.condition import HealthChange
from collector.views.life import Happening, Kind, part_of, tell
from collector.views.placements import PlacementPeriod as Period

A, B = Place("c", "a"), Place("d", "b")


def kinds(life: list[Happening]) -> list[tuple[str, float | None]]:
    return [(one.kind.value, one.time) for one in life]


class TestTelling:
    def test_it_came_moved_left_and_came_back(self) -> None:
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

    def test_two_places_at_once_are_no_move(self) -> None:
        life = tell([Period(B, 20.0, None), Period(A, 10.0, None)], [], [], [], now=100.0)
        assert kinds(life) == [("came", 20.0), ("came", 10.0)]


class TestParts:
    LIFE = (*(Happening(Kind.HEALTH, float(time)) for time in (9, 8, 7, 7, 7, 6)), Happening(Kind.CAME, None))

    def test_the_parts_together_are_the_life(self) -> None:
        told: list[Happening] = []
        before: float | None = None
        for _ in range(10):
            part = part_of(self.LIFE, before=before, complete_from=None, limit=3)
            told += part.happenings
            if (before := part.older) is None:
                break
        assert told == list(self.LIFE)

    def test_nothing_is_told_of_what_is_not_known_completely(self) -> None:
        part = part_of(self.LIFE, before=None, complete_from=8.0, limit=100)
        assert [one.time for one in part.happenings] == [9.0, 8.0]
        assert part.older == 8.0
