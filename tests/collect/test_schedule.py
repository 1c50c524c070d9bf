"""Which pod of a node is read, and when."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.backoff import Backoff
from collector.collect.objects import Container, PodObject
from collector.collect.schedule import (
    Attempt,
    Candidate,
    RetryPolicy,
    choose,
    due,
    failed,
    find_container,
    fingerprint,
    ready,
    resumed,
    succeeded,
    why_uncovered,
)
from collector.config import PodSource
from collector.model import Fingerprint, Known, NodeInfo, ReadFailure, Uncovered, UnreadReason

HOUR = 3600.0
RETRY = Backoff(initial=1.0, maximum=300.0, jitter=0.2)
READY = Container(name="ctr", id="containerd://1", ready=True)
PRINT = Fingerprint(pod_uid="u", container_id="containerd://1", restarts=0, boot_id="b", capacity=8, allocatable=7)


def pod(name: str = "p", **fields: Any) -> PodObject:
    defaults: dict[str, Any] = {
        "uid": f"uid-{name}",
        "created": "2026-01-01T00:00:00Z",
        "running": True,
        "containers": (READY,),
    }
    return PodObject(key=f"ns/{name}", version="1", node="n", **(defaults | fields))


def candidate(name: str = "p", order: int = 0, container: str = "ctr", **fields: Any) -> Candidate:
    return Candidate(order, PodSource(namespace="ns", selector="", container=container), pod(name, **fields))


def rng() -> random.Random:
    return random.Random(7)


class TestReady:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({}, True),
            ({"running": False}, False),
            ({"terminating": True}, False),
            ({"containers": ()}, False),
            ({"containers": (READY, Container(name="other"))}, False),
            ({"containers": (READY, Container(name="other", ready=True))}, True),
        ],
    )
    def test_a_ready_pod_runs_with_all_containers_ready(self, fields: dict[str, Any], expected: bool) -> None:
        assert ready(pod(**fields)) is expected


class TestChoose:
    def test_no_pod_is_chosen_if_none_is_ready(self) -> None:
        assert choose([]) is None
        assert choose([candidate(running=False)]) is None

    def test_the_newest_pod_of_a_source_is_chosen(self) -> None:
        old, new = candidate("old", created="2026-01-01T00:00:00Z"), candidate("new", created="2026-01-02T00:00:00Z")
        assert choose([old, new]) == choose([new, old]) == new

    def test_the_first_source_wins_however_old_its_pod(self) -> None:
        first = candidate("first", order=0, created="2026-01-01T00:00:00Z")
        second = candidate("second", order=1, created="2026-01-02T00:00:00Z")
        assert choose([second, first]) == first

    def test_the_next_source_is_used_where_the_first_has_none(self) -> None:
        first, second = candidate("first", order=0, terminating=True), candidate("second", order=1)
        assert choose([first, second]) == second

    def test_the_choice_does_not_depend_on_the_input_order(self) -> None:
        twins = [candidate("a"), candidate("b"), candidate("c")]
        assert {choose(random.Random(seed).sample(twins, 3)).pod.name for seed in range(20)} == {"c"}  # type: ignore[union-attr]

    def test_pods_without_the_source_s_container_are_ignored(self) -> None:
        plugin, discovery = candidate("plugin"), candidate("gfd", containers=(Container(name="gfd", ready=True),))
        newer = candidate("gfd", created="2026-02-01T00:00:00Z", containers=(Container(name="gfd", ready=True),))
        assert choose([plugin, newer]) == plugin
        assert choose([discovery]) is None


class TestWhyUncovered:
    OTHER = (Container(name="other", ready=True),)

    @pytest.mark.parametrize(
        ("candidates", "expected"),
        [
            ([], Uncovered.NO_POD),
            ([candidate()], None),
            ([candidate("a", running=False), candidate("b", order=1)], None),
            ([candidate(running=False)], Uncovered.POD_NOT_READY),
            ([candidate(containers=())], Uncovered.POD_NOT_READY),
            ([candidate(terminating=True)], Uncovered.POD_NOT_READY),
            ([candidate(containers=OTHER)], ReadFailure.NO_CONTAINER),
            ([candidate(containers=OTHER, running=False)], ReadFailure.NO_CONTAINER),
            ([candidate("a", containers=OTHER), candidate("b", running=False)], Uncovered.POD_NOT_READY),
            ([candidate("a", containers=OTHER), candidate("b")], None),
        ],
    )
    def test_a_node_says_why_none_of_its_pods_can_be_read(
        self, candidates: list[Candidate], expected: UnreadReason | None
    ) -> None:
        assert why_uncovered(candidates) == expected


class TestFingerprint:
    NODE = NodeInfo(name="n", boot_id="b", capacity=2, allocatable=2, advertised=(8, 7))

    def test_a_fingerprint_covers_pod_container_boot_and_capacity(self) -> None:
        assert fingerprint(candidate(uid="u"), self.NODE) == PRINT

    def test_a_fingerprint_is_of_the_source_s_container(self) -> None:
        other = Container(name="other", id="containerd://2", ready=True, restarts=5)
        assert fingerprint(candidate(uid="u", containers=(other, READY)), self.NODE) == PRINT

    def test_pods_without_the_container_have_different_fingerprints(self) -> None:
        without = candidate(container="absent")
        assert find_container(without) is None
        assert fingerprint(without, self.NODE) == Fingerprint(
            pod_uid="uid-p", container_id="", restarts=0, boot_id="b", capacity=8, allocatable=7
        )


class TestDue:
    LAST = Attempt(fingerprint=PRINT, ended=100.0, next=3000.0)

    def test_a_node_never_read_is_due_now(self) -> None:
        assert due(None, PRINT, 500.0, settle=5.0) == 500.0

    def test_an_unchanged_node_is_due_when_the_attempt_says(self) -> None:
        assert due(self.LAST, PRINT, 500.0, settle=5.0) == 3000.0

    @pytest.mark.parametrize(
        "change",
        [
            {"pod_uid": "v"},
            {"container_id": "containerd://2"},
            {"restarts": 1},
            {"boot_id": "c"},
            {"boot_id": "c", "capacity": 0},
            {"capacity": 7},
            {"capacity": None},
            {"allocatable": 6},
            {"allocatable": None},
            {"capacity": 7, "allocatable": 8},
        ],
    )
    def test_a_changed_node_is_due_now(self, change: dict[str, Any]) -> None:
        assert due(self.LAST, msgspec.structs.replace(PRINT, **change), 500.0, settle=5.0) == 500.0

    def test_a_flapping_capacity_is_read_only_every_settle_seconds(self) -> None:
        last, now, reads = self.LAST, 101.0, []
        for capacity in (0, 8, 0, 8):
            current = msgspec.structs.replace(PRINT, capacity=capacity)
            now = due(last, current, now, settle=5.0)
            reads.append(now)
            last = succeeded(last, current, now, HOUR, rng())
        assert reads == [105.0, 110.0, 115.0, 120.0]


class TestRefreshing:
    @given(st.randoms(use_true_random=False))
    def test_the_first_refresh_falls_into_the_interval_s_second_half(self, chance: random.Random) -> None:
        assert 1800.0 <= succeeded(None, PRINT, 0.0, HOUR, chance).next <= 3600.0

    def test_first_refreshes_are_spread_evenly(self) -> None:
        chance = rng()
        times = [succeeded(None, PRINT, 0.0, HOUR, chance).next for _ in range(4000)]
        tenths = [sum(1800 + 180 * tenth <= time < 1980 + 180 * tenth for time in times) for tenth in range(10)]
        assert min(tenths) > 320
        assert max(tenths) < 480

    @given(st.randoms(use_true_random=False))
    def test_later_refreshes_keep_the_interval_within_5_percent(self, chance: random.Random) -> None:
        last = Attempt(fingerprint=PRINT, ended=0.0, next=3000.0)
        assert 3000 + 3420 <= succeeded(last, PRINT, 3000.0, HOUR, chance).next <= 3000 + 3780

    @given(st.floats(0, 3600), st.randoms(use_true_random=False))
    def test_a_known_reading_is_refreshed_before_it_is_too_old(self, age: float, chance: random.Random) -> None:
        left = 3600 - age
        attempt = resumed(Known(PRINT, 0.0), age, 50.0, HOUR, chance)
        assert 50 + left / 2 <= attempt.next <= 50 + left
        assert due(attempt, PRINT, 50.0, settle=5.0) == attempt.next

    def test_a_known_reading_that_is_too_old_is_refreshed_now(self) -> None:
        assert resumed(Known(PRINT, 0.0), 3601.0, 50.0, HOUR, rng()).next == 50.0

    def test_a_reading_from_the_future_counts_as_new(self) -> None:
        attempt = resumed(Known(PRINT, 0.0), -1e6, 50.0, HOUR, rng())
        assert 50 + 1800 <= attempt.next <= 50 + 3600
        assert attempt.ended == 50  # so a change of the capacity is read as soon as ever

    def test_a_capacity_change_during_a_restart_is_due_now(self) -> None:
        attempt = resumed(Known(PRINT, 0.0), 600.0, 50.0, HOUR, rng())
        assert due(attempt, msgspec.structs.replace(PRINT, capacity=7), 50.0, settle=5.0) == 50.0


def test_the_delays_are_those_of_the_documentation() -> None:  # docs/operations.md, "When a node is read"
    assert RetryPolicy() == RetryPolicy(
        backoff=Backoff(initial=1.0, maximum=5 * 60.0),
        timeout_delay=5 * 60.0,
        settle=5.0,
        first_document=6 * 60.0,
        newer_document=Backoff(initial=5.0, maximum=30.0),
        newer_patience=15 * 60.0,
    )


class TestFailures:
    def test_delays_double_up_to_five_minutes(self) -> None:
        steady = Backoff(initial=1.0, maximum=300.0, jitter=0.0)
        last, waits = None, []
        for _ in range(12):
            last = failed(last, PRINT, 0.0, steady, rng())
            waits.append(last.next)
        assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]

    def test_a_command_that_hangs_is_retried_after_minutes(self) -> None:
        delays = RetryPolicy().after_timeout(refresh=HOUR)
        steady = msgspec.structs.replace(delays, jitter=0.0)
        assert [steady.delay(attempt) for attempt in range(6)] == [300, 600, 1200, 2400, 3600, 3600]

    def test_commands_that_hang_and_other_failures_are_counted_separately(self) -> None:
        other, hung = (Backoff(initial=first, maximum=HOUR, jitter=0.0) for first in (1.0, 300.0))
        last, waits = None, []
        for hangs in (False, False, True, True, False, True):
            last = failed(last, PRINT, 0.0, hung if hangs else other, rng(), hung=hangs)
            waits.append(last.next)
        assert waits == [1, 2, 300, 600, 4, 1200]
        assert failed(last, PRINT, 0.0, other, rng()).timeouts == 3
        assert failed(last, msgspec.structs.replace(PRINT, restarts=1), 0.0, hung, rng(), hung=True).next == 300

    def test_delays_are_jittered(self) -> None:
        chance = rng()
        assert len({failed(None, PRINT, 0.0, RETRY, chance).next for _ in range(10)}) == 10

    def test_a_new_fingerprint_resets_the_backoff(self) -> None:
        last = None
        for _ in range(5):
            last = failed(last, PRINT, 0.0, RETRY, rng())
        replaced = msgspec.structs.replace(PRINT, pod_uid="v")
        assert due(last, replaced, 10.0, settle=5.0) == 10.0
        assert failed(last, replaced, 10.0, RETRY, rng()).failures == 1

    def test_a_success_resets_the_backoff(self) -> None:
        last = failed(failed(None, PRINT, 0.0, RETRY, rng()), PRINT, 0.0, RETRY, rng())
        assert last.failures == 2
        assert succeeded(last, PRINT, 0.0, HOUR, rng()).failures == 0

    def test_nodes_that_recover_together_are_refreshed_apart(self) -> None:
        last = failed(None, PRINT, 0.0, RETRY, rng())
        assert 1800 <= succeeded(last, PRINT, 0.0, HOUR, random.Random(1)).next < 3000

    def test_a_failed_refresh_is_retried_after_the_backoff(self) -> None:
        last = failed(succeeded(None, PRINT, 0.0, HOUR, rng()), PRINT, 3600.0, RETRY, rng())
        assert 3600.8 <= due(last, PRINT, 3600.0, settle=5.0) <= 3601.2
