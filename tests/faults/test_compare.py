"""The comparison of what gpuid says with the truth finds what is wrong, and nothing in what is right."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pytest

from tests.faults.compare import (
    Gpu,
    compare_counters,
    compare_gpus,
    compare_marks,
    compare_placements,
    compare_reading_times,
    compare_scrape,
    growing,
)
from tests.faults.compare_health import HealthReplay, compare_health
from tests.faults.compare_history import Known, Replay, compare_past, stamp
from tests.faults.observed import MEMORY
from tests.faults.run import WARM_CALMS
from tests.faults.truth import Place, Stay

A, B, C = ("prod", "n1"), ("prod", "n2"), ("test", "n1")
GPU = Gpu(*A, "GPU-1", "100", "", "H100", {"row_remap_pending": True}, ("rma", "OPS-1"))
LABELS = {"cluster": "prod", "node": "n1", "uuid": "GPU-1", "serial": "100", "chassis": "", "model": "H100"}
DEGRADED = ("gpuid_gpu_degraded", {"uuid": "GPU-1", "reason": "row_remap_pending"}, 1.0)
SAMPLES = [("gpuid_gpu_info", LABELS, 1.0), ("gpuid_cluster_up", {"cluster": "prod"}, 1.0), DEGRADED]
ROW = {
    **LABELS,
    "state": "found",
    "health": {"row_remap_pending": True, "row_remap_failure": False},
    "mark": {"kind": "rma", "ticket": "OPS-1"},
}


def changes(*events: tuple[Any, ...], uuid: str = "GPU-1") -> list[dict[str, Any]]:
    """Rows of the API: each an event, its place, when (Unix seconds) and from where."""
    rows = []
    for number, (event, place, at, *source) in enumerate(events, 1):
        row = {"id": number, "event": event, "uuid": uuid, "cluster": place[0], "node": place[1], "time": stamp(at)}
        previous = source[0] if source else (None, None)
        rows.append({**row, "previous_cluster": previous[0], "previous_node": previous[1]})
    return rows


def worn(**fields: tuple[Any, Any]) -> dict[str, Any]:
    """A change of health in the API: fields with their values before and after."""
    altered = {field: {"before": before, "after": after} for field, (before, after) in fields.items()}
    return {"id": 1, "event": "health", "uuid": "GPU-1", "cluster": "prod", "changes": altered}


def life(*stays: tuple[float, set[Any]]) -> dict[str, list[Stay]]:
    return {"GPU-1": [Stay(start, frozenset(places)) for start, places in stays]}


def placement(number: int, place: tuple[str, str], since: float, until: float | None) -> dict[str, Any]:
    end = None if until is None else stamp(until)
    return {"id": number, "cluster": place[0], "node": place[1], "since": stamp(since), "until": end}


def replayed(
    told: list[dict[str, Any]], doubled: Iterable[str] = (), names: Mapping[str, str] = {}
) -> tuple[dict[str, set[Place]], list[str]]:
    """Where changes lead to from nothing, and what is wrong with them."""
    replay = Replay()
    wrong = replay.take(told, doubled, names)
    return replay.places(), wrong


def wrong_health(told: list[dict[str, Any]], removed: Collection[str] = ()) -> list[str]:
    return HealthReplay().take(told, removed)


def health_after(told: list[dict[str, Any]], removed: Collection[str] = ()) -> HealthReplay:
    health = HealthReplay()
    health.take(told, removed)
    return health


MOVED = changes(("appeared", A, 10), ("moved", B, 20, A))


class TestTheScrape:
    def test_the_truth(self) -> None:
        assert compare_scrape([GPU], ["prod"], SAMPLES) == []

    def test_a_ghost_and_what_is_lacking(self) -> None:
        wrong = compare_scrape([GPU._replace(node="n2")], ["prod"], SAMPLES)
        assert [one.split()[:2] for one in wrong] == [["scrape:", "ghost"], ["scrape:", "lacks"]]

    def test_a_gpu_with_two_series(self) -> None:
        assert compare_scrape([GPU], ["prod"], [*SAMPLES, SAMPLES[0]]) == ["scrape: the same GPU twice"]

    def test_clusters_that_are_down_or_nobody_knows(self) -> None:
        assert compare_scrape([GPU], ["prod", "test"], SAMPLES) == ["scrape: test is None, not up"]
        assert compare_scrape([GPU], [], SAMPLES) == ["scrape: prod is not a cluster of it"]

    @pytest.mark.parametrize(
        "name",
        [
            "gpuid_gpu_conflicts",
            "gpuid_gpu_claims",
            "gpuid_unread_nodes",
            "gpuid_read_failing_nodes",
            "gpuid_store_lost_records_total",
            "gpuid_store_damaged_files",
            "gpuid_export_dead_letters",
        ],
    )
    def test_what_there_is_none_of(self, name: str) -> None:
        assert len(compare_scrape([GPU], ["prod"], [*SAMPLES, (name, {"cluster": "prod"}, 1.0)])) == 1
        assert compare_scrape([GPU], ["prod"], [*SAMPLES, (name, {"cluster": "prod"}, 0.0)]) == []

    def test_reasons_why_a_gpu_is_degraded(self) -> None:
        assert compare_scrape([GPU], ["prod"], SAMPLES[:2]) == ["scrape: GPU-1 is not degraded: row_remap_pending"]
        lost = ("gpuid_gpu_degraded", {"uuid": "GPU-1", "reason": "lost"}, 1.0)
        assert compare_scrape([GPU], ["prod"], [*SAMPLES, lost]) == ["scrape: GPU-1 is degraded: lost"]
        growing_errors = ("gpuid_gpu_degraded", {"uuid": "GPU-1", "reason": "uncorrectable_ecc_growing"}, 1.0)
        assert compare_scrape([GPU], ["prod"], [*SAMPLES, growing_errors]) == []

    def test_readings_that_are_dated_by_another_clock(self) -> None:
        sample = ("gpuid_node_read_timestamp_seconds", {"cluster": "prod", "node": "n1"}, 20.0)
        assert compare_reading_times([sample, *SAMPLES], 10.0, 20.0) == []
        for since, until in ((10.0, 19.0), (21.0, 30.0)):
            assert len(compare_reading_times([sample], since, until)) == 1

    def test_a_gpu_that_is_taken_for_lost(self) -> None:
        lost = ("gpuid_node_gpus", {"cluster": "prod", "node": "n1", "state": "lost"}, 1.0)
        assert compare_scrape([GPU], ["prod"], [*SAMPLES, lost]) == ["scrape: 1 lost on n1 of prod"]

    def test_marks_that_are_missing_wrong_or_left_over(self) -> None:
        series = ("gpuid_gpu_mark_info", {"uuid": "GPU-1", "serial": "100", "mark": "rma", "ticket": "OPS-1"}, 1.0)
        assert compare_marks({"GPU-1": ("rma", "OPS-1")}, [series]) == []
        for marks, samples in (({}, [series]), ({"GPU-1": ("rma", "OPS-1")}, []), ({"GPU-1": ("watch", "")}, [series])):
            assert len(compare_marks(marks, samples)) == 1


class TestTheApi:
    def test_the_truth(self) -> None:
        assert compare_gpus([GPU], [ROW]) == []

    def test_ghosts_lacking_rows_and_rows_that_come_twice(self) -> None:
        assert len(compare_gpus([], [ROW])) == 1
        assert len(compare_gpus([GPU], [])) == 1
        assert len(compare_gpus([GPU], [ROW, ROW])) == 1

    def test_every_wrong_value(self) -> None:
        values = {"serial": "200", "model": None, "chassis": "9", "state": "lost", "claim": True, "mark": None}
        for column, value in values.items():
            assert len(compare_gpus([GPU], [{**ROW, column: value}])) == 1, column

    def test_a_health_that_is_not_the_cards(self) -> None:
        assert len(compare_gpus([GPU], [{**ROW, "health": {"row_remap_pending": False}}])) == 1
        assert len(compare_gpus([GPU], [{**ROW, "health": None}])) == 1


class TestTheOrderOfChanges:
    def test_a_life(self) -> None:
        told = changes(
            ("appeared", A, 1), ("moved", B, 2, A), ("vanished", B, 3), ("moved", C, 4, B), ("vanished", C, 5)
        )
        assert replayed(told[:2]) == ({"GPU-1": {B}}, [])
        assert replayed(told) == ({}, [])

    def test_changes_that_make_no_sense(self) -> None:
        for told in (
            [("vanished", A, 1)],
            [("altered", A, 1)],
            [("health", A, 1)],
            [("moved", B, 1, A)],
            [("appeared", A, 1), ("appeared", A, 2)],
            [("appeared", A, 1), ("appeared", B, 2)],
            [("appeared", A, 1), ("moved", C, 2, B)],
            [("appeared", A, 1), ("moved", A, 2, A)],
            [("appeared", A, 1), ("vanished", B, 2)],
            [("appeared", A, 1), ("vanished", A, 2), ("moved", C, 3, B)],
        ):
            assert len(replayed(changes(*told))[1]) == 1, told

    def test_a_gpu_that_two_nodes_really_reported_may_be_in_both(self) -> None:
        told = changes(("appeared", A, 1), ("appeared", B, 2), ("vanished", A, 3))
        assert replayed(told, ["GPU-1"]) == ({"GPU-1": {B}}, [])

    def test_a_gpu_that_two_nodes_reported_before_the_last_calm_may_not_be_in_both_again(self) -> None:
        told = changes(("appeared", A, 1), ("appeared", B, 2), ("vanished", A, 3), ("appeared", A, 4))
        replay = Replay()
        assert replay.take(told[:3], ["GPU-1"]) == []
        tried = replay.copy()
        assert len(tried.take(told[3:])) == 1
        assert (tried.places(), replay.places()) == ({"GPU-1": {A, B}}, {"GPU-1": {B}})

    def test_a_gpu_comes_from_the_node_that_kept_it_when_another_ones_claim_ended(self) -> None:
        told = [("appeared", A, 1), ("appeared", B, 2), ("vanished", B, 3), ("vanished", A, 4)]
        assert replayed(changes(*told, ("moved", C, 5, A)), ["GPU-1"]) == ({"GPU-1": {C}}, [])
        assert len(replayed(changes(*told, ("moved", C, 5, B)), ["GPU-1"])[1]) == 1

    def test_a_cluster_that_two_shards_read_under_two_names(self) -> None:
        other = ("other", "n1")
        told = changes(("appeared", A, 1), ("appeared", other, 2), ("vanished", A, 3))
        assert replayed(told, names={"other": "prod"}) == ({"GPU-1": {other}}, [])
        assert len(replayed(told)[1]) == 1
        told = changes(("appeared", C, 1), ("moved", other, 2, C), ("vanished", other, 3), ("moved", A, 4, C))
        assert replayed(told, names={"other": "prod"}) == ({"GPU-1": {A}}, [])

    def test_numbers_that_go_back(self) -> None:
        first, second = MOVED
        assert len(replayed([first, {**second, "id": 1}])[1]) == 1


class TestThePast:
    def test_the_truth_and_a_place_that_nobody_saw(self) -> None:
        assert compare_past(MOVED, life((9, {A}), (19, {B})), {}) == []
        assert compare_past(MOVED, life((9, {A}), (12, {C}), (19, {B})), {}) == []

    def test_a_history_that_lies(self) -> None:
        for lies in (
            life((9, {A})),  # it never moved
            life((9, {B}), (19, {A})),  # the other way round
            life((9, {A}), (30, {B})),  # before its time
            {},  # there is no such GPU
        ):
            assert compare_past(MOVED, lies, {}), lies

    def test_a_place_from_before_the_last_calm(self) -> None:
        lives = life((9, {A}), (19, {B}))
        assert compare_past(MOVED[1:], lives, {}, known={"GPU-1": Known(0, 10.0)}) == []
        back = changes(("moved", A, 40, B))
        assert compare_past(back, lives, {}) == []
        assert len(compare_past(back, lives, {}, known={"GPU-1": Known(1, 20.0)})) == 1

    def test_a_cluster_that_had_another_name(self) -> None:
        told = changes(("appeared", ("other", "n1"), 10), ("moved", A, 20, ("other", "n1")))
        assert compare_past(told, life((9, {A})), {}, names={"other": "prod"}) == []
        assert compare_past(told, life((9, {A})), {})

    def test_times_are_not_compared_while_a_clock_is_stepped(self) -> None:
        lives = life((9, {A}), (30, {B}))
        assert compare_past(MOVED, lives, {}, clocks=False) == []
        assert len(compare_past(MOVED, lives, {})) == 1

    def test_times_that_go_back(self) -> None:
        told = changes(("appeared", A, 30), ("moved", B, 20, A))
        assert len(compare_past(told, life((9, {A}), (19, {B})), {})) == 1
        assert compare_past(told, life((9, {A}), (19, {B})), {}, apart={"GPU-1"}) == []
        assert len(compare_past(MOVED[1:], life((9, {A}), (19, {B})), {}, known={"GPU-1": Known(0, 21.0)}, now=30)) == 1

    def test_a_gpu_with_a_change_that_is_still_to_come_has_no_times(self) -> None:
        told, lives = changes(("moved", B, 86_410, A)), life((9, {A}), (19, {B}))
        assert compare_past(told, lives, {}, known={"GPU-1": Known(0, 86_410.0)}, now=30) == []
        assert len(compare_past(told, lives, {}, known={"GPU-1": Known(0, 10.0)}, now=30)) == 1

    def test_a_gpu_vanishes_with_its_node_or_if_it_was_out(self) -> None:
        told = changes(("appeared", A, 10), ("vanished", A, 20), ("appeared", A, 30))
        assert len(compare_past(told, life((9, {A})), {})) == 1
        assert compare_past(told, life((9, {A})), {A: [(15.0, 25.0)]}) == []
        assert compare_past(told, life((9, {A})), {("prod", ""): [(15.0, 25.0)]}) == []
        for window in ((25.0, 26.0), (11.0, 12.0)):
            assert len(compare_past(told, life((9, {A})), {A: [window]})) == 1
        assert compare_past(told, life((9, {A}), (19, set()), (29, {A})), {}) == []

    def test_while_a_clock_is_stepped_a_gpu_vanishes_only_with_what_could_be_dropped_since_the_last_calm(self) -> None:
        told, lives = changes(("vanished", A, 86_420), ("appeared", A, 86_425)), life((9, {A}))

        def wrong(*window: float) -> list[str]:
            return compare_past(told, lives, {A: [(window[0], window[1])]}, clocks=False, start=15.0, now=30.0)

        assert wrong(18.0, 25.0) == wrong(10.0, 16.0) == []
        assert len(wrong(10.0, 14.9)) == 1

    def test_a_change_that_is_dated_too_late(self) -> None:
        lives = life((9, {A}), (19, {B}))
        assert compare_past(MOVED, lives, {}, now=20.0) == []
        assert len(compare_past(changes(("appeared", A, 10), ("moved", B, 3_620, A)), lives, {}, now=30.0)) == 1
        assert compare_past(MOVED, lives, {}, now=15.0, clocks=False) == []


class TestPlacements:
    PERIODS = (placement(1, A, 10, 20), placement(2, B, 20, None))

    def test_the_truth(self) -> None:
        assert compare_placements("GPU-1", self.PERIODS, {B}, MOVED) == []

    def test_overlaps_open_ends_and_other_places(self) -> None:
        first, second = self.PERIODS
        for rows in (
            [placement(1, A, 10, 21), second],
            [placement(1, A, 10, 9), second],
            [placement(1, A, 10, 10), second],  # a gap: it was still there
            [placement(1, A, 9, 20), second],  # it was not there yet
            [first, placement(2, B, 21, None)],  # it was there before
            [first, placement(2, C, 20, None)],
            [second],
            [first],
        ):
            assert compare_placements("GPU-1", rows, {B}, MOVED), rows

    def test_an_end_that_is_not_when_it_vanished(self) -> None:
        told = changes(
            ("appeared", A, 10), ("vanished", A, 500_000), ("moved", B, 600_000, A), ("vanished", B, 700_000)
        )
        second = placement(2, B, 600_000, 700_000)
        assert compare_placements("GPU-1", [placement(1, A, 10, 500_000), second], set(), told) == []
        for end in (10, 240_000, 600_000):
            assert len(compare_placements("GPU-1", [placement(1, A, 10, end), second], set(), told)) == 1
        for rows in ([placement(1, A, 10, 500_000), placement(2, B, 600_000, end)] for end in (600_000, 800_000)):
            assert len(compare_placements("GPU-1", rows, set(), told)) == 1

    def test_an_end_that_a_change_after_the_last_excused_one_made(self) -> None:
        told = changes(("appeared", A, 10), ("moved", B, 20, A), ("vanished", B, 30))
        for event in (told, [*told[:2], *changes(("moved", C, 30, B))]):
            event[2]["id"] = 3
            there = [placement(3, C, 30, None)] if event[2]["event"] == "moved" else []
            places = {C} if there else set()
            rows = [placement(1, A, 10, 15), placement(2, B, 20, 30), *there]
            assert compare_placements("GPU-1", rows, places, event, after=2) == []
            rows[1] = placement(2, B, 20, 20)
            assert len(compare_placements("GPU-1", rows, places, event, after=2)) == 1
            assert compare_placements("GPU-1", rows, places, event, after=3) == []

    def test_times_up_to_a_change_that_is_excused(self) -> None:
        told = [*MOVED, *changes(("moved", A, 30, B))]
        told[2]["id"] = 3
        rows = [placement(1, A, 9, 20), placement(2, B, 20, 30), placement(3, A, 30, None)]
        assert compare_placements("GPU-1", rows, {A}, told, after=1) == []
        assert len(compare_placements("GPU-1", rows, {A}, told)) == 1
        rows[2] = placement(3, A, 31, None)
        assert len(compare_placements("GPU-1", rows, {A}, told, after=2)) == 1
        assert compare_placements("GPU-1", rows, {A}, told, after=3) == []
        assert len(compare_placements("GPU-1", rows[1:], {A}, told, after=3)) == 1


class TestTheHistoryOfHealth:
    PENDING, RESET = worn(row_remap_pending=(None, True)), worn(row_remap_pending=(True, False))

    def test_changes_that_follow_each_other_lead_to_the_truth(self) -> None:
        assert wrong_health([*MOVED, self.PENDING]) == []
        told = health_after([*MOVED, self.PENDING])
        assert compare_health({"GPU-1": {"row_remap_pending": True}, "GPU-2": {"row_remap_pending": False}}, told) == []

    def test_a_value_that_says_nothing_is_the_same_as_none(self) -> None:
        assert wrong_health([self.PENDING, self.RESET, self.PENDING]) == []
        told = health_after([self.PENDING, self.RESET, self.PENDING])
        assert compare_health({"GPU-1": {"row_remap_pending": True, "inforom": "G520"}}, told) == []

    def test_a_change_from_what_was_not(self) -> None:
        assert len(wrong_health([self.PENDING, worn(row_remap_pending=(False, True))])) == 1
        assert len(wrong_health([self.RESET, worn(row_remap_pending=(True, False))])) == 1

    def test_a_gpu_that_vanished_with_its_cluster_may_be_told_of_again(self) -> None:
        told = [self.PENDING, *changes(("vanished", A, 30), ("appeared", A, 40)), self.PENDING]
        assert wrong_health(told, {"prod"}) == []
        assert len(wrong_health(told)) == 1
        assert len(wrong_health([*told, self.PENDING], {"prod"})) == 1

    def test_a_gpu_that_vanished_with_its_cluster_may_have_been_repaired_meanwhile(self) -> None:
        told = [self.PENDING, *changes(("vanished", A, 30), ("appeared", A, 40))]
        for value in (True, False):
            assert compare_health({"GPU-1": {"row_remap_pending": value}}, health_after(told, {"prod"})) == []
        assert len(compare_health({"GPU-1": {"row_remap_pending": False}}, health_after(told))) == 1
        repaired = [*told, self.RESET]
        assert len(compare_health({"GPU-1": {"row_remap_pending": True}}, health_after(repaired, {"prod"}))) == 1

    def test_a_health_that_the_changes_do_not_lead_to(self) -> None:
        for health, told in (
            ({"row_remap_pending": False}, [self.PENDING]),
            ({"row_remap_pending": True}, [self.PENDING, self.RESET]),
            ({"row_remap_pending": True}, []),  # nobody recorded it
            ({"ecc_dram_uncorrectable": 1}, [self.PENDING, self.RESET]),
            ({}, [worn(lost=(False, True))]),
        ):
            assert len(compare_health({"GPU-1": health}, health_after(told))) == 1, health

    def test_a_gpu_that_vanished_before_its_cluster_did(self) -> None:
        told = health_after([self.PENDING, *changes(("vanished", A, 30))])
        assert len(told.copy().take([self.PENDING])) == 1
        assert len(told.copy().take([self.PENDING], {"test"})) == 1
        assert told.copy().take([self.PENDING], {"prod"}) == []
        assert told.take(changes(("appeared", B, 40)), set()) == []
        assert len(told.take([self.PENDING], {"prod"})) == 1

    def test_what_was_true_at_a_calm_is_known_from_then_on(self) -> None:
        told = HealthReplay()
        told.take([self.PENDING, *changes(("vanished", A, 30), ("appeared", A, 40))], {"prod"})
        told.settle({"GPU-1": {"row_remap_pending": True, "inforom": "G520"}})
        assert len(told.copy().take([self.PENDING])) == 1
        assert told.copy().take([self.RESET]) == []
        assert len(compare_health({"GPU-1": {"row_remap_pending": False}}, told)) == 1
        assert told.copy().take([worn(inforom=("G530", "G520"))]) == []  # nothing was recorded of it


class TestCountersAndGrowth:
    def test_a_counter_that_goes_back_or_is_gone(self) -> None:
        before = [("gpuid_gpu_moves_total", {"cluster": "prod"}, 2.0), ("gpuid_gpus", {}, 9.0)]
        assert compare_counters(before, before) == []
        assert len(compare_counters(before, [("gpuid_gpu_moves_total", {"cluster": "prod"}, 1.0)])) == 1
        assert compare_counters(before, before[:1]) == []
        assert compare_counters(before, before[1:]) == ["counter: gpuid_gpu_moves_total{'cluster': 'prod'} is gone"]

    def test_what_grows_from_calm_to_calm(self) -> None:
        warm = [100.0] * 5
        assert growing("threads", [*warm, *range(100, 130)], slack=8)
        assert not growing("threads", [*warm, *[100, 104, 101] * 10], slack=8)
        assert not growing("threads", [1, 50, 100, *warm], slack=8)

    def test_a_slow_leak_of_memory_once_everything_is_warm(self) -> None:
        filling = [100e6 + 2e6 * number for number in range(WARM_CALMS)]
        flat = [130e6 + number % 3 * 1e6 for number in range(60)]
        leaking = [130e6 + 0.4e6 * number for number in range(60)]
        assert not growing("bytes", [*filling, *flat], slack=MEMORY["bytes of memory"], warm=WARM_CALMS)
        assert growing("bytes", [*filling, *leaking], slack=MEMORY["bytes of memory"], warm=WARM_CALMS)
