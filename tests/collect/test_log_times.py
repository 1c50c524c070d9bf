"""When documents were printed, whatever the clock of their node says."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.collect.log_times import RUN_SECONDS, LogState, LogTimes, LookPolicy, moment_of
from collector.collect.smi_reading import Moment, Printed
from collector.model import Fingerprint

CREATED = 1_000_000.0
NOT_KNOWN = float("-inf")


def seen(stamp: str, time: float | None, at: float, *, newest: str = "") -> Printed:
    """A document that was in the log when it was asked for, some seconds after the pod was created."""
    return Printed(stamp=stamp, time=time, newest=newest or stamp, asked=Moment(CREATED + at, at))


class TestTimes:
    def test_the_time_of_the_node_is_used(self) -> None:
        dated = LogTimes(CREATED, 0.0).date(seen("a", CREATED + 100, at=150), CREATED + 151)
        assert (dated.time, dated.ahead) == (CREATED + 100, 0.0)

    def test_no_time_is_in_the_future(self) -> None:
        dated = LogTimes(CREATED, 0.0).date(seen("a", CREATED + 4000, at=150), CREATED + 151)
        assert (dated.time, dated.ahead) == (CREATED + 151, 3849.0)

    def test_no_time_is_before_the_pod(self) -> None:
        dated = LogTimes(CREATED, 0.0).date(seen("a", CREATED - 4000, at=150), CREATED + 151)
        assert (dated.time, dated.ahead) == (CREATED, -4000.0)

    def test_a_small_difference_is_not_a_wrong_clock(self) -> None:
        dated = LogTimes(CREATED, 0.0).date(seen("a", CREATED + 160, at=150), CREATED + 151)
        assert (dated.time, dated.ahead) == (CREATED + 151, 0.0)

    def test_a_new_document_is_dated_after_the_previous_look(self) -> None:
        times = LogTimes(CREATED, 0.0)
        times.date(seen("a", CREATED - 4000, at=150), CREATED + 151)
        dated = times.date(seen("b", CREATED - 3700, at=450), CREATED + 451)
        assert (dated.time, dated.ahead) == (CREATED + 150, -3850.0)

    def test_the_same_document_keeps_its_time(self) -> None:
        times = LogTimes(CREATED, 0.0)
        first = times.date(seen("a", CREATED + 4000, at=150), CREATED + 151)
        assert times.date(seen("a", CREATED + 4000, at=300), CREATED + 301) == first

    def test_without_a_time_a_document_has_its_greatest_possible_age(self) -> None:
        assert LogTimes(CREATED, 0.0).date(seen("a", None, at=150), CREATED + 151).time == CREATED

    def test_an_invalid_time_is_long_ago(self) -> None:
        assert [moment_of("2001-09-09T01:46:40Z"), moment_of(""), moment_of("x")] == [1e9, 0.0, 0.0]


class TestStarts:
    def test_the_start_of_the_first_run_is_unknown(self) -> None:
        assert LogTimes(CREATED, 0.0).date(seen("a", CREATED + 100, at=150), CREATED + 151).started == NOT_KNOWN

    def test_a_new_run_started_after_the_previous_look(self) -> None:
        times = LogTimes(CREATED, 0.0)
        times.date(seen("a", CREATED + 100, at=150), CREATED + 151)
        times.date(seen("a", CREATED + 100, at=250), CREATED + 251)
        assert times.date(seen("b", CREATED + 400, at=450), CREATED + 451).started == 250 - RUN_SECONDS

    def test_a_run_already_seen_started_before_that_look(self) -> None:
        times = LogTimes(CREATED, 0.0)
        times.date(seen("a", CREATED + 100, at=150), CREATED + 151)
        times.date(seen("a", CREATED + 100, at=400, newest="b"), CREATED + 401)
        assert times.date(seen("b", CREATED + 399, at=450), CREATED + 451).started == 150 - RUN_SECONDS

    def test_a_log_without_a_document_counts_as_read(self) -> None:
        times = LogTimes(CREATED, 0.0)
        times.look("", Moment(CREATED + 5, 5.0))
        assert times.date(seen("a", CREATED + 10, at=20), CREATED + 21).started == 5 - RUN_SECONDS


class TestNextLook:
    """When the log is looked at for the next document."""

    POLICY = LookPolicy(period=300.0, pause=60.0)

    def look(self, times: LogTimes, at: float, refresh: float = 3600.0) -> float:
        return times.next_look(Moment(CREATED + at, at), refresh, self.POLICY, random.Random(0))

    @pytest.mark.parametrize(("period", "usual"), [(None, 300), (600.0, 600), (60.0, 60), (30.0, 60), (9000.0, 3600)])
    def test_it_is_soon_after_the_document_is_due(self, period: float | None, usual: float) -> None:
        times = LogTimes(CREATED, 0.0)
        for stamp in "ab":
            times.date(seen(stamp, CREATED + 100, at=110)._replace(period=period), CREATED + 110)
        assert usual * 1.05 - 10 < self.look(times, 110, refresh=3600 * 1.2) <= usual * 1.2

    @pytest.mark.parametrize("before", [(), (300.0,), (300.0, 300.0)])
    def test_a_gap_after_failed_runs_is_not_a_period(self, before: tuple[float, ...]) -> None:
        times = LogTimes(CREATED, 0.0)
        for number, period in enumerate((*before, 3300.0)):
            times.date(seen(str(number), CREATED + 100, at=110)._replace(period=period), CREATED + 110)
        assert self.look(times, 110) < 360
        assert times.earliest(CREATED + 110) < 300

    def test_the_period_is_learned_from_two_looks(self) -> None:
        times = LogTimes(CREATED, 0.0)
        times.date(seen("a", CREATED + 100, at=110), CREATED + 110)
        times.date(seen("b", CREATED + 220, at=225), CREATED + 225)
        assert 115 <= self.look(times, 225) <= 138

    def test_a_late_document_is_looked_for_at_growing_intervals(self) -> None:
        times, at, waits = LogTimes(CREATED, 0.0), 1.0, []
        times.date(seen("a", CREATED, at=1), CREATED + 1)
        for _ in range(8):
            waits.append(self.look(times, at))
            at += waits[-1]
        assert waits[1] == 60
        assert waits[1:] == sorted(waits[1:])
        assert waits[-1] == 300

    def test_it_is_never_later_than_the_refresh(self) -> None:
        times = LogTimes(CREATED, 0.0)
        times.date(seen("a", CREATED, at=1), CREATED + 1)
        assert [self.look(times, at, refresh=10.0) for at in (1, 100, 5000)] == [10.0] * 3

    def test_the_last_line_is_valid_only_until_then(self) -> None:
        times = LogTimes(CREATED, 0.0)
        times.date(seen("a", CREATED, at=1)._replace(last_line=b"end"), CREATED + 1)
        wait = self.look(times, 1)
        assert [times.last_line("a", at) for at in (1.0, wait, 1.0 + wait)] == [b"end", b"end", b""]
        assert times.last_line("b", 1.0) == b""
        self.look(times, 1 + wait)  # it is late
        assert times.last_line("a", 2 + wait) == b"end"

    def test_no_look_happens_before_a_document_can_exist(self) -> None:
        times = LogTimes(CREATED, 0.0)
        assert times.earliest(CREATED) == 0
        times.date(seen("a", CREATED, at=1), CREATED + 1)
        assert times.earliest(CREATED + 1) == 0
        times.date(seen("b", CREATED + 300, at=301), CREATED + 301)
        assert times.earliest(CREATED + 301) == 269
        assert times.earliest(CREATED - 86_400) == 270  # gpuid's own clock was set back


class TestChanges:
    """What requires a newer document."""

    BEFORE = Fingerprint(pod_uid="p", container_id="c", restarts=0, boot_id="b", capacity=8, allocatable=8)

    @pytest.mark.parametrize("change", [{"capacity": 7}, {"allocatable": 7}, {"boot_id": "x"}, {"listed": ()}])
    def test_a_change_of_the_node_requires_a_new_document(self, change: dict[str, object]) -> None:
        state = LogState()
        state.note(self.BEFORE, 10.0)
        assert state.unanswered(-1.0, 15.0, 900.0) is None
        after = msgspec.structs.replace(self.BEFORE, **change)
        state.note(after, 20.0)
        state.note(after, 30.0)
        assert [state.unanswered(at, 40.0, 900.0) for at in (19.0, 19.0, 20.0, 19.0)] == [0, 1, None, None]

    def test_a_change_since_an_earlier_runs_reading_does_too(self) -> None:
        state = LogState()
        state.note_reading(self.BEFORE)
        state.note(msgspec.structs.replace(self.BEFORE, capacity=7), 20.0)
        assert state.unanswered(19.0, 40.0, 900.0) == 0

    def test_another_container_does_not_require_one(self) -> None:
        state = LogState()
        state.note(self.BEFORE, 10.0)
        rebooted = msgspec.structs.replace(self.BEFORE, boot_id="x")
        state.note(rebooted, 20.0)
        state.note(msgspec.structs.replace(rebooted, restarts=1), 30.0)
        assert state.unanswered(-1.0, 40.0, 900.0) is None

    def test_a_claim_is_not_settled_by_another_container(self) -> None:
        state = LogState()
        state.note(self.BEFORE, 10.0)
        state.ask(15.0)
        rebooted = msgspec.structs.replace(self.BEFORE, boot_id="x")
        state.note(rebooted, 20.0)
        state.note(msgspec.structs.replace(rebooted, restarts=1), 30.0)
        assert state.unanswered(-1.0, 40.0, 900.0) == 0


@given(st.lists(st.tuples(st.integers(1, 400), st.booleans()), max_size=12), st.sampled_from([0.0, 7200.0, -7200.0]))
def test_no_clock_makes_a_document_look_newer(looks: list[tuple[int, bool]], skew: float) -> None:
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
