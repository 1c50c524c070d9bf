"""Which absent GPUs are remembered when there are too many, and what two inventories know together about one."""

import msgspec
import pytest

from collector.inventory.absent import Absent, AbsentGpus, merged
from collector.model import Gpu, LastReport, Place

A, B, C = Place("east", "a"), Place("west", "b"), Place("east", "c")


def test_the_longest_absent_of_a_cluster_are_forgotten_first() -> None:
    absent = AbsentGpus(3)
    for number in range(5):
        absent.add(f"GPU-{number}", A, float(number))
    assert list(absent.places()) == ["GPU-2", "GPU-3", "GPU-4"]


def test_one_cluster_cannot_evict_the_gpus_of_another() -> None:
    absent = AbsentGpus(10)
    for number in range(5):
        absent.add(f"GPU-{number}", A, 1.0)
    for number in range(1000):
        absent.add(f"GPU-made-up-{number}", B, 2.0)
    places = absent.places()
    assert len(places) == 10
    assert {f"GPU-{number}" for number in range(5)} <= places.keys()
    assert absent.pop("GPU-3") == Absent(A, 1.0)


def test_a_cluster_that_fills_the_limit_makes_room() -> None:
    absent = AbsentGpus(10)
    for number in range(1000):
        absent.add(f"GPU-made-up-{number}", B, 2.0)
    for number in range(5):
        absent.add(f"GPU-{number}", A, 1.0)
    assert [place.cluster for place in absent.places().values()].count("east") == 5


def test_a_gpu_that_leaves_again_counts_once_where_it_was_last() -> None:
    absent = AbsentGpus(10)
    absent.add("GPU-1", A, 1.0)
    absent.add("GPU-1", B, 2.0)
    assert (absent.places(), absent.of(A), absent.of(B)) == ({"GPU-1": B}, {}, {"GPU-1": Absent(B, 2.0)})
    absent.forget_cluster("east")
    assert absent.pop("GPU-1") == Absent(B, 2.0)
    assert absent.pop("GPU-1") is None


def test_a_cluster_is_forgotten_with_its_gpus() -> None:
    absent = AbsentGpus(10)
    absent.add("GPU-1", A, 1.0)
    absent.add("GPU-2", B, 1.0)
    absent.forget_cluster("east")
    assert absent.places() == {"GPU-2": B}
    assert (absent.of(A), absent.of(B)) == ({}, {"GPU-2": Absent(B, 1.0)})


def test_of_forgotten_gpus_it_is_known_until_when_they_were_there() -> None:
    absent = AbsentGpus(2)
    for number in range(5):
        absent.add(f"GPU-{number}", A, 10.0 + number)
    absent.forget_cluster("east")
    assert [absent.return_of(f"GPU-{number}", 1.0)[0] for number in range(5)] == [1.0, 1.0, 1.0, 13.0, 14.0]
    assert absent.return_of("GPU-4", 1.0) == (1.0, None)


def test_one_that_makes_room_is_forgotten_like_this() -> None:
    absent = AbsentGpus(1)
    absent.add("GPU-1", A, 10.0)
    absent.add("GPU-2", A, 20.0)
    assert [absent.return_of(f"GPU-{number}", 1.0) for number in (1, 2)] == [(10.0, None), (20.0, Absent(A, 20.0))]


def test_a_gpu_that_left_at_an_unknown_time_may_return_at_any_time() -> None:
    absent = AbsentGpus(2)
    absent.note("GPU-1", 0.0)
    assert [absent.return_of(f"GPU-{number}", 0.5) for number in (1, 2)] == [(0.5, None), (0.5, None)]


def test_an_older_record_of_a_forgotten_gpu_lets_it_return_no_earlier() -> None:
    absent = AbsentGpus(2)
    absent.note("GPU-1", 20.0)
    absent.note("GPU-1", 10.0)
    assert absent.return_of("GPU-1", 1.0) == (20.0, None)


def test_an_absent_gpu_was_read_when_its_newest_value_was() -> None:
    assert Absent(A, 30.0).read == 30.0
    assert Absent(A, 30.0, Gpu(uuid="GPU-1")).read == 30.0
    marks = LastReport("serial", 10.0), LastReport("model", 20.0), LastReport("vbios", 15.0)
    assert Absent(A, 30.0, Gpu(uuid="GPU-1", last_known=marks)).read == 20.0


class TestTimesInTheFuture:
    """A clock that was ahead can have noted them."""

    @staticmethod
    def facts(*times: float) -> Gpu:
        marks = [LastReport(name, time) for name, time in zip(("serial", "model"), times, strict=False)]
        return Gpu(uuid="GPU-1", serial="s1", model="H100", last_known=tuple(marks))

    def test_they_become_now(self) -> None:
        ahead = Absent(A, 30.0, self.facts(10.0, 25.0), lost=True)
        assert ahead.until(20.0) == Absent(A, 20.0, self.facts(10.0, 20.0), lost=True)
        assert Absent(A, 30.0).until(20.0) == Absent(A, 20.0)

    def test_times_until_now_are_kept(self) -> None:
        left_early = Absent(A, 10.0, self.facts(30.0, 5.0))
        assert left_early.until(20.0) == Absent(A, 10.0, self.facts(20.0, 5.0))
        read_early = Absent(A, 30.0, self.facts(5.0, 10.0))
        assert read_early.until(20.0) == Absent(A, 20.0, self.facts(5.0, 10.0))
        for past in (Absent(A, 20.0, self.facts(20.0, 5.0)), Absent(A, 20.0), Absent(A, 5.0, self.facts(20.0))):
            assert past.until(20.0) is past

    def test_every_absent_gpu_has_left_and_was_read_by_now(self) -> None:
        absent = AbsentGpus(10)
        absent.add("GPU-1", A, 30.0, self.facts(25.0))
        absent.add("GPU-2", A, 10.0, self.facts(30.0))
        absent.add("GPU-3", A, 10.0, self.facts(5.0))
        absent.add("GPU-4", B, 40.0)
        absent.cap_times(20.0)
        east = {
            "GPU-1": Absent(A, 20.0, self.facts(20.0)),
            "GPU-2": Absent(A, 10.0, self.facts(20.0)),
            "GPU-3": Absent(A, 10.0, self.facts(5.0)),
        }
        assert (absent.of(A), absent.of(B)) == (east, {"GPU-4": Absent(B, 20.0)})
        assert [absent.get(f"GPU-{number}") for number in range(1, 5)] == [*east.values(), Absent(B, 20.0)]
        assert list(absent.places().values()) == [A, A, A, B]

    def test_a_forgotten_gpu_has_left_by_now(self) -> None:
        absent = AbsentGpus(10)
        absent.note("GPU-1", 30.0)
        absent.note("GPU-2", 10.0)
        absent.cap_times(20.0)
        assert [absent.return_of(uuid, 1.0) for uuid in ("GPU-1", "GPU-2")] == [(20.0, None), (10.0, None)]

    @pytest.mark.parametrize(("left", "read"), [(30.0, 5.0), (10.0, 30.0)])
    def test_one_is_found_among_later_ones_of_the_past(self, left: float, read: float) -> None:
        absent = AbsentGpus(10)
        absent.add("GPU-1", A, left, self.facts(read))
        absent.add("GPU-2", B, 11.0)
        absent.note("GPU-3", 11.0)
        absent.cap_times(20.0)
        assert absent.of(A) == {"GPU-1": Absent(A, min(left, 20.0), self.facts(min(read, 20.0)))}

    def test_later_ones_become_now_as_well(self) -> None:
        absent = AbsentGpus(10)
        for time in (30.0, 40.0):
            absent.add("GPU-1", A, time)
            absent.cap_times(time - 5.0)
            assert absent.get("GPU-1") == Absent(A, time - 5.0)
        absent.cap_times(20.0)  # the clock stepped back further
        assert absent.of(A) == {"GPU-1": Absent(A, 20.0)}

    def test_without_them_nothing_is_changed(self) -> None:
        absent = AbsentGpus(10)
        absent.add("GPU-1", A, 20.0, self.facts(15.0))
        absent.note("GPU-2", 20.0)
        before = absent.get("GPU-1")
        for now in (20.0, 21.0):
            absent.cap_times(now)
            assert absent.get("GPU-1") is absent.of(A)["GPU-1"] is before
        assert absent.return_of("GPU-2", 1.0) == (20.0, None)


class TestMerging:
    """`read` is when a GPU was last read; it left later."""

    @staticmethod
    def absent(
        place: Place, left: float, read: float, serial: str | None, *, lost: bool = False, slot: str = ""
    ) -> Absent:
        facts = Gpu(uuid="GPU-1", serial=serial, model="H100", slot=slot or None)
        marks = [LastReport(name, read) for name in ("serial", "model") if getattr(facts, name) is not None]
        return Absent(place, left, msgspec.structs.replace(facts, last_known=tuple(marks)), lost)

    def both(self, one: Absent, other: Absent) -> tuple[Place, str | None, str | None, bool]:
        """Return the place, serial, slot and loss, which do not depend on who merges."""
        found = merged(one, other)
        assert merged(other, one) == found
        assert found.time == max(one.time, other.time)
        assert found.facts is not None
        return found.place, found.facts.serial, found.facts.slot, found.lost

    def test_it_is_where_it_left_last(self) -> None:
        assert self.both(self.absent(A, 20.0, 10.0, "s1"), self.absent(B, 30.0, 10.0, "s2")) == (B, "s2", None, False)
        assert merged(Absent(A, 20.0), Absent(B, 20.0)) == Absent(A, 20.0)

    def test_the_later_reading_decides_its_state(self) -> None:
        noticed_late, read_late = self.absent(A, 30.0, 10.0, "s1", lost=True), self.absent(C, 20.0, 15.0, "s2")
        assert self.both(noticed_late, read_late) == (A, "s2", None, False)
        assert self.both(noticed_late._replace(lost=False), read_late._replace(lost=True)) == (A, "s2", None, True)
        read_early = self.absent(C, 20.0, 5.0, "s2", lost=True)
        assert self.both(noticed_late._replace(lost=False), read_early) == (A, "s1", None, False)
        assert self.both(noticed_late, read_early._replace(lost=False)) == (A, "s1", None, True)

    def test_of_two_equally_old_readings_either_knows_of_a_loss(self) -> None:
        later, earlier = self.absent(A, 30.0, 10.0, "s1"), self.absent(C, 20.0, 10.0, "s2")
        for lost in ((False, False), (True, False), (False, True)):
            found = self.both(later._replace(lost=lost[0]), earlier._replace(lost=lost[1]))
            assert found == (A, "s1", None, any(lost))

    def test_what_only_one_knows_is_known(self) -> None:
        for left in (20.0, 40.0):
            one, other = self.absent(A, 30.0, 15.0, None), self.absent(A, left, 10.0, "s2")
            assert self.both(one, other) == (A, "s2", None, False)
            assert self.both(Absent(A, left, lost=True), one)[3] is (left == 40.0)
        assert merged(Absent(A, 30.0), Absent(A, 20.0)) == Absent(A, 30.0)

    def test_its_seat_is_that_in_its_last_node(self) -> None:
        last = self.absent(A, 30.0, 10.0, "s1", slot="1")
        assert self.both(last, self.absent(C, 20.0, 15.0, "s1", slot="2")) == (A, "s1", "1", False)
        assert self.both(last, self.absent(A, 20.0, 15.0, "s1", slot="2")) == (A, "s1", "1", False)
        bare = self.absent(A, 30.0, 10.0, "s1")
        assert self.both(bare, self.absent(A, 20.0, 5.0, "s1", slot="2")) == (A, "s1", "2", False)
        assert self.both(bare, self.absent(C, 20.0, 5.0, "s1", slot="2")) == (A, "s1", None, False)
