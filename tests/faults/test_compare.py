"""The comparison of what gpuid says with the truth finds what is wrong, and nothing in what is right."""

from typing import Any

from tests.faults.compare import (
    Gpu,
    compare_counters,
    compare_gpus,
    compare_marks,
    compare_past,
    compare_placements,
    compare_scrape,
    growing,
    replay,
    stamp,
)
from tests.faults.compare_health import compare_health, replay_health
from tests.faults.truth import Stay

A, B, C = ("prod", "n1"), ("prod", "n2"), ("test", "n1")
GPU = Gpu(*A, "GPU-1", "100", "", "H100", {"row_remap_pending": True}, ("rma", "OPS-1"))
LABELS = {"cluster": "prod", "node": "n1", "uuid": "GPU-1", "serial": "100", "chassis": "", "model": "H100"}
SAMPLES = [("gpuid_gpu_info", LABELS, 1.0), ("gpuid_cluster_up", {"cluster": "prod"}, 1.0)]
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
    return {"id": 1, "event": "health", "uuid": "GPU-1", "changes": altered}


def life(*stays: tuple[float, set[Any]]) -> dict[str, list[Stay]]:
    return {"GPU-1": [Stay(start, frozenset(places)) for start, places in stays]}


def placement(number: int, place: tuple[str, str], since: float, until: float | None) -> dict[str, Any]:
    end = None if until is None else stamp(until)
    return {"id": number, "cluster": place[0], "node": place[1], "since": stamp(since), "until": end}


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

    def test_false_conflicts_and_claims_and_nodes_that_stay_unread(self) -> None:
        for name in ("gpuid_gpu_conflicts", "gpuid_gpu_claims", "gpuid_unread_nodes", "gpuid_read_failing_nodes"):
            assert len(compare_scrape([GPU], ["prod"], [*SAMPLES, (name, {"cluster": "prod"}, 1.0)])) == 1
            assert compare_scrape([GPU], ["prod"], [*SAMPLES, (name, {"cluster": "prod"}, 0.0)]) == []

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
        assert replay(told[:2]) == ({"GPU-1": {B}}, [])
        assert replay(told) == ({}, [])

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
            assert len(replay(changes(*told))[1]) == 1, told

    def test_a_gpu_that_two_nodes_really_reported_may_be_in_both(self) -> None:
        told = changes(("appeared", A, 1), ("appeared", B, 2), ("vanished", A, 3))
        assert replay(told, ["GPU-1"]) == ({"GPU-1": {B}}, [])

    def test_a_cluster_that_two_shards_read_under_two_names(self) -> None:
        other = ("other", "n1")
        told = changes(("appeared", A, 1), ("appeared", other, 2), ("vanished", A, 3))
        assert replay(told, names={"other": "prod"}) == ({"GPU-1": {other}}, [])
        assert len(replay(told)[1]) == 1
        told = changes(("appeared", C, 1), ("moved", other, 2, C), ("vanished", other, 3), ("moved", A, 4, C))
        assert replay(told, names={"other": "prod"}) == ({"GPU-1": {A}}, [])

    def test_numbers_that_go_back(self) -> None:
        first, second = MOVED
        assert len(replay([first, {**second, "id": 1}])[1]) == 1


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

    def test_a_cluster_that_had_another_name(self) -> None:
        told = changes(("appeared", ("other", "n1"), 10), ("moved", A, 20, ("other", "n1")))
        assert compare_past(told, life((9, {A})), {}, names={"other": "prod"}) == []
        assert compare_past(told, life((9, {A})), {})

    def test_times_are_not_compared_where_clocks_were_stepped(self) -> None:
        assert compare_past(MOVED, life((9, {A}), (30, {B})), {}, clocks=False) == []

    def test_times_that_go_back(self) -> None:
        told = changes(("appeared", A, 30), ("moved", B, 20, A))
        assert len(compare_past(told, life((9, {A}), (19, {B})), {})) == 1

    def test_a_gpu_vanishes_with_its_node_or_if_it_was_out(self) -> None:
        told = changes(("appeared", A, 10), ("vanished", A, 20), ("appeared", A, 30))
        assert len(compare_past(told, life((9, {A})), {})) == 1
        assert compare_past(told, life((9, {A})), {A: [(15.0, 25.0)]}) == []
        assert compare_past(told, life((9, {A})), {("prod", ""): [(15.0, 25.0)]}) == []
        for window in ((25.0, 26.0), (11.0, 12.0)):
            assert len(compare_past(told, life((9, {A})), {A: [window]})) == 1
        assert compare_past(told, life((9, {A}), (19, set()), (29, {A})), {}) == []

    def test_a_change_that_is_still_to_come(self) -> None:
        assert compare_past(MOVED, life((9, {A}), (19, {B})), {}, now=20.0) == []
        assert len(compare_past(MOVED, life((9, {A}), (19, {B})), {}, now=15.0)) == 1
        assert compare_past(MOVED, life((9, {A}), (19, {B})), {}, now=15.0, clocks=False) == []


class TestPlacements:
    PERIODS = (placement(1, A, 10, 20), placement(2, B, 20, None))

    def test_the_truth(self) -> None:
        assert compare_placements("GPU-1", self.PERIODS, {B}, MOVED) == []

    def test_overlaps_open_ends_and_other_places(self) -> None:
        first, second = self.PERIODS
        for rows in (
            [placement(1, A, 10, 21), second],
            [placement(1, A, 10, 9), second],
            [placement(1, A, 9, 20), second],  # it was not there yet
            [first, placement(2, B, 21, None)],  # it was there before
            [first, placement(2, C, 20, None)],
            [second],
            [first],
        ):
            assert compare_placements("GPU-1", rows, {B}, MOVED), rows


class TestTheHistoryOfHealth:
    PENDING, RESET = worn(row_remap_pending=(None, True)), worn(row_remap_pending=(True, False))

    def test_changes_that_follow_each_other_lead_to_the_truth(self) -> None:
        told, wrong = replay_health([*MOVED, self.PENDING])
        assert wrong == []
        assert compare_health({"GPU-1": {"row_remap_pending": True}, "GPU-2": {"row_remap_pending": False}}, told) == []

    def test_a_value_that_says_nothing_is_the_same_as_none(self) -> None:
        told, wrong = replay_health([self.PENDING, self.RESET, self.PENDING])
        assert wrong == []
        assert compare_health({"GPU-1": {"row_remap_pending": True, "inforom": "G520"}}, told) == []

    def test_a_change_from_what_was_not(self) -> None:
        assert len(replay_health([self.PENDING, worn(row_remap_pending=(False, True))])[1]) == 1
        assert len(replay_health([self.RESET, worn(row_remap_pending=(True, False))])[1]) == 1

    def test_a_gpu_that_vanished_with_its_cluster_may_be_told_of_again(self) -> None:
        told = [self.PENDING, *changes(("vanished", A, 30), ("appeared", A, 40)), self.PENDING]
        assert replay_health(told, {"prod"})[1] == []
        assert len(replay_health(told)[1]) == 1
        assert len(replay_health([*told, self.PENDING], {"prod"})[1]) == 1

    def test_a_gpu_that_vanished_with_its_cluster_may_have_been_repaired_meanwhile(self) -> None:
        told = [self.PENDING, *changes(("vanished", A, 30), ("appeared", A, 40))]
        for value in (True, False):
            assert compare_health({"GPU-1": {"row_remap_pending": value}}, replay_health(told, {"prod"})[0]) == []
        assert len(compare_health({"GPU-1": {"row_remap_pending": False}}, replay_health(told)[0])) == 1
        repaired = [*told, self.RESET]
        assert len(compare_health({"GPU-1": {"row_remap_pending": True}}, replay_health(repaired, {"prod"})[0])) == 1

    def test_a_health_that_the_changes_do_not_lead_to(self) -> None:
        for health, told in (
            ({"row_remap_pending": False}, [self.PENDING]),
            ({"row_remap_pending": True}, [self.PENDING, self.RESET]),
            ({"row_remap_pending": True}, []),  # nobody recorded it
            ({"ecc_dram_uncorrectable": 1}, [self.PENDING, self.RESET]),
            ({}, [worn(lost=(False, True))]),
        ):
            assert len(compare_health({"GPU-1": health}, replay_health(told)[0])) == 1, health


class TestCountersAndGrowth:
    def test_a_counter_that_goes_back(self) -> None:
        before = [("gpuid_gpu_moves_total", {"cluster": "prod"}, 2.0), ("gpuid_gpus", {}, 9.0)]
        assert compare_counters(before, before) == []
        assert len(compare_counters(before, [("gpuid_gpu_moves_total", {"cluster": "prod"}, 1.0)])) == 1
        assert compare_counters(before, [("gpuid_gpus", {}, 1.0)]) == []

    def test_what_grows_from_calm_to_calm(self) -> None:
        warm = [100.0] * 5
        assert growing("threads", [*warm, *range(100, 130)], slack=8)
        assert not growing("threads", [*warm, *[100, 104, 101] * 10], slack=8)
        assert not growing("threads", [1, 50, 100, *warm], slack=8)
