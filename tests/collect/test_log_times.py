"""When documents were printed, whatever the clock of their node says."""

from hypothesis import given
from hypothesis import strategies as st

from collector.collect.log_times import RUN_SECONDS, LogTimes, moment_of
from collector.collect.smi_reading import Moment, Printed

CREATED = 1_000_000.0
NOT_KNOWN = float("-inf")


def seen(stamp: str, time: float | None, at: float, *, newest: str = "") -> Printed:
    """A document that was in the log when it was asked for, some seconds after the pod was created."""
    return Printed(stamp=stamp, time=time, newest=newest or stamp, asked=Moment(CREATED + at, at))


class TestTimes:
    def test_the_nodes_time_counts(self) -> None:
        dated = LogTimes(CREATED, 0.0).date(seen("a", CREATED + 100, at=150), CREATED + 151)
        assert (dated.time, dated.ahead) == (CREATED + 100, 0.0)

    def test_none_is_in_the_future(self) -> None:
        dated = LogTimes(CREATED, 0.0).date(seen("a", CREATED + 4000, at=150), CREATED + 151)
        assert (dated.time, dated.ahead) == (CREATED + 151, 3849.0)

    def test_none_is_from_before_the_pod(self) -> None:
        dated = LogTimes(CREATED, 0.0).date(seen("a", CREATED - 4000, at=150), CREATED + 151)
        assert (dated.time, dated.ahead) == (CREATED, -4000.0)

    def test_a_small_difference_is_no_wrong_clock(self) -> None:
        dated = LogTimes(CREATED, 0.0).date(seen("a", CREATED + 160, at=150), CREATED + 151)
        assert (dated.time, dated.ahead) == (CREATED + 151, 0.0)

    def test_a_new_one_is_from_after_the_log_was_read_without_it(self) -> None:
        times = LogTimes(CREATED, 0.0)
        times.date(seen("a", CREATED - 4000, at=150), CREATED + 151)
        dated = times.date(seen("b", CREATED - 3700, at=450), CREATED + 451)
        assert (dated.time, dated.ahead) == (CREATED + 150, -3850.0)

    def test_the_same_one_keeps_its_time(self) -> None:
        times = LogTimes(CREATED, 0.0)
        first = times.date(seen("a", CREATED + 4000, at=150), CREATED + 151)
        assert times.date(seen("a", CREATED + 4000, at=300), CREATED + 301) == first

    def test_without_a_time_it_is_as_old_as_it_may_be(self) -> None:
        assert LogTimes(CREATED, 0.0).date(seen("a", None, at=150), CREATED + 151).time == CREATED

    def test_what_is_no_time_is_long_ago(self) -> None:
        assert [moment_of("2001-09-09T01:46:40Z"), moment_of(""), moment_of("x")] == [1e9, 0.0, 0.0]


class TestStarts:
    def test_nothing_is_known_of_the_first_one(self) -> None:
        assert LogTimes(CREATED, 0.0).date(seen("a", CREATED + 100, at=150), CREATED + 151).started == NOT_KNOWN

    def test_a_new_one_was_started_after_the_log_was_read_without_it(self) -> None:
        times = LogTimes(CREATED, 0.0)
        times.date(seen("a", CREATED + 100, at=150), CREATED + 151)
        times.date(seen("a", CREATED + 100, at=250), CREATED + 251)
        assert times.date(seen("b", CREATED + 400, at=450), CREATED + 451).started == 250 - RUN_SECONDS

    def test_one_that_had_begun_already_was_started_before_that(self) -> None:
        times = LogTimes(CREATED, 0.0)
        times.date(seen("a", CREATED + 100, at=150), CREATED + 151)
        times.date(seen("a", CREATED + 100, at=400, newest="b"), CREATED + 401)
        assert times.date(seen("b", CREATED + 399, at=450), CREATED + 451).started == 150 - RUN_SECONDS

    def test_a_log_without_a_document_counts_as_read(self) -> None:
        times = LogTimes(CREATED, 0.0)
        times.look("", Moment(CREATED + 5, 5.0))
        assert times.date(seen("a", CREATED + 10, at=20), CREATED + 21).started == 5 - RUN_SECONDS


@given(st.lists(st.tuples(st.integers(1, 400), st.booleans()), max_size=12), st.sampled_from([0.0, 7200.0, -7200.0]))
def test_no_clock_makes_a_document_newer_than_it_is(looks: list[tuple[int, bool]], skew: float) -> None:
    """A node prints before some of the readings; each document's start and time are never after the truth."""
    times, at, printed, number = LogTimes(CREATED, 0.0), 0.0, 1.0, 0
    assigned: dict[int, tuple[float, float]] = {}
    for wait, prints in looks:
        at += wait
        if prints:
            printed, number = at - 0.5, number + 1
        dated = times.date(seen(str(number), CREATED + printed + skew, at=at), CREATED + at + 0.1)
        assert dated.started < printed
        assert dated.time <= CREATED + at + 0.1
        if skew == 0:
            assert dated.time == CREATED + printed
        assert assigned.setdefault(number, (dated.time, dated.started)) == (dated.time, dated.started)
    assert sorted(assigned.values()) == [assigned[key] for key in sorted(assigned)]
