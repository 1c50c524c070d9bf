"""What changes do to the placements, as plain values."""

import msgspec
import pytest

from collector.health import Health
from collector.model import Change, Event, FieldChange, Gpu, LastReport, NodeInfo, NodeState, Place, Unseen
from collector.store.codec import decode_facts
from collector.store.plan import Departure, OpenPlacement, Recorded, arriving, differences, plan

A, B, C = (Place("prod", name) for name in "abc")


def change(
    event: Event, time: float, place: Place, uuid: str = "GPU-1", previous: Place | None = None, serial: str = "s"
) -> Change:
    gpu = Gpu(uuid=uuid, serial=serial, model="m", chassis="c", module="3")
    return Change(event=event, time=time, gpu=gpu, place=place, machine="i", source="x/y", previous=previous)


def begun(*changes: Change) -> list[tuple[str, str, float, float | None]]:
    return [(row["uuid"], row["node"], row["since"], row["until"]) for row in plan(changes).begin]


def snapshot(place: Place, time: float, **gpus: float) -> NodeState:
    return NodeState(
        place=place,
        node=NodeInfo(name=place.node),
        time=time,
        driver_version=None,
        cuda_version=None,
        source="x/y",
        fingerprint=None,
        gpus=tuple(Gpu(uuid=uuid.replace("_", "-"), serial="s", model="m", chassis="c") for uuid in gpus),
        since=tuple(gpus.values()),
    )


class TestWhatChangesDo:
    def test_appearing_begins_a_placement(self):
        assert begun(change(Event.APPEARED, 1.0, A)) == [("GPU-1", "a", 1.0, None)]

    def test_vanishing_ends_the_placement_in_that_node_only(self):
        steps = plan([change(Event.VANISHED, 2.0, A)])
        seat = {"b_tray": None, "b_slot": None, "b_module": "3", "b_pci_bus_id": None}
        assert steps.end == [{"b_uuid": "GPU-1", "b_cluster": "prod", "b_node": "a", "b_until": 2.0, **seat}]
        assert steps.end_all == []
        facts = '{"serial":["s",2.0],"model":["m",2.0],"chassis":["c",2.0],"module":"3"}'
        assert steps.vanished == [{"b_uuid": "GPU-1", "b_cluster": "prod", "b_node": "a", "b_facts": facts}]

    def test_moving_ends_all_placements(self):
        steps = plan([change(Event.MOVED, 3.0, B, previous=A)])
        assert steps.end_all == [{"b_uuid": "GPU-1", "b_until": 3.0}]
        assert steps.arrived == [{"b_uuid": "GPU-1"}]

    def test_placements_within_one_batch_are_all_kept(self):
        assert begun(
            change(Event.APPEARED, 1.0, A),
            change(Event.MOVED, 2.0, B, previous=A),
            change(Event.VANISHED, 3.0, B),
            change(Event.MOVED, 4.0, A, previous=B),
        ) == [("GPU-1", "a", 1.0, 2.0), ("GPU-1", "b", 2.0, 3.0), ("GPU-1", "a", 4.0, None)]

    PENDING = FieldChange("row_remap_pending", False, True)
    LOST = FieldChange("lost", False, True)

    def test_an_arrival_is_known_with_the_change_of_health_that_came_with_it(self):
        came = change(Event.MOVED, 2.0, A, previous=C)
        worn = msgspec.structs.replace(came, event=Event.HEALTH, previous=None, changes=(self.PENDING,))
        later = msgspec.structs.replace(worn, gpu=msgspec.structs.replace(came.gpu))  # from another reading
        lost = msgspec.structs.replace(worn, changes=(self.LOST,))
        for health, told in (
            ([worn, later], (self.PENDING,)),
            ([later], ()),
            ([lost], ()),
            ([lost, worn], (self.PENDING,)),
        ):
            (arrival,) = plan([came, *health], owned={"prod"}).arrivals.values()
            assert (arrival.change, arrival.health) == (came, told)

    def test_a_gpu_that_has_left_before_does_not_arrive_from_elsewhere(self):
        left, came = change(Event.VANISHED, 1.0, A), change(Event.MOVED, 2.0, B, previous=A)
        assert plan([left, came], owned={"prod"}).arrivals == {}

    def test_leaving_one_of_two_places_keeps_the_other(self):
        assert begun(
            change(Event.APPEARED, 1.0, A), change(Event.APPEARED, 2.0, B), change(Event.VANISHED, 3.0, A)
        ) == [("GPU-1", "a", 1.0, 3.0), ("GPU-1", "b", 2.0, None)]

    def test_a_gpu_back_in_one_node_is_not_absent(self):
        steps = plan(
            [
                change(Event.MOVED, 2.0, A, previous=C),
                change(Event.APPEARED, 3.0, B),
                change(Event.VANISHED, 4.0, B),
            ]
        )
        assert steps.arrived == [{"b_uuid": "GPU-1"}]  # the ghost goes first; it comes again only if it is nowhere
        assert [(row["b_uuid"], row["b_node"]) for row in steps.vanished] == [("GPU-1", "b")]

    def test_an_altered_fact_is_kept_with_the_placement(self):
        steps = plan([change(Event.ALTERED, 5.0, A)])
        assert steps.alter == [
            {
                "b_uuid": "GPU-1",
                "b_cluster": "prod",
                "b_node": "a",
                "b_serial": "s",
                "b_chassis": "c",
                "b_model": "m",
                "b_tray": None,
                "b_slot": None,
                "b_module": "3",
                "b_pci_bus_id": None,
                "b_last_known": None,
            }
        ]
        assert steps.begin == []

    def test_an_alteration_in_the_first_batch_is_kept(self):
        steps = plan([change(Event.APPEARED, 1.0, A), change(Event.ALTERED, 2.0, A, serial="new")])
        assert [row["serial"] for row in steps.begin] == ["new"]
        assert steps.alter == []

    def test_the_last_known_facts_of_a_first_batch_are_kept(self):
        altered = change(Event.ALTERED, 2.0, A)
        altered = msgspec.structs.replace(
            altered, gpu=msgspec.structs.replace(altered.gpu, last_known=(LastReport("serial", 1.5),))
        )
        steps = plan([change(Event.APPEARED, 1.0, A), altered])
        assert [row["last_known"] for row in steps.begin] == ['{"serial":1.5}']

    def test_a_placement_of_one_batch_was_confirmed_when_the_gpu_was_last_found(self):
        gone = change(Event.VANISHED, 9.0, A)
        lost = msgspec.structs.replace(gone, last_seen=4.0)
        for departure, confirmed in ((gone, 1.0), (lost, 4.0)):
            steps = plan([change(Event.APPEARED, 1.0, A), departure])
            assert [(row["until"], row["confirmed"]) for row in steps.begin] == [(9.0, confirmed)]

    @pytest.mark.parametrize("event", [Event.ALTERED, Event.HEALTH])
    def test_news_of_a_gpu_in_another_place_do_not_hide_its_departure(self, event: Event):
        steps = plan([change(Event.VANISHED, 2.0, A), change(event, 3.0, B)])
        assert [row["b_node"] for row in steps.vanished] == ["a"]

    def test_only_a_lost_gpu_has_a_time_at_which_it_was_last_found(self):
        lost = msgspec.structs.replace(change(Event.VANISHED, 9.0, A), last_seen=4.0)
        other = change(Event.VANISHED, 9.0, B, uuid="GPU-2")
        confirmed = plan([lost, other]).confirm
        assert [row["b_uuid"] for row in confirmed] == ["GPU-1"]

    def test_an_alteration_of_no_recorded_field_is_not_listed(self):
        altered = change(Event.ALTERED, 5.0, A)
        renamed = msgspec.structs.replace(altered, changes=(FieldChange("serial", "old", "s"),))
        rows = plan([altered, renamed, change(Event.APPEARED, 6.0, B, uuid="GPU-2")]).changes
        assert [row["uuid"] for row in rows] == ["GPU-1", "GPU-2"]

    def test_the_past_changes_from_the_earliest_time_on(self):
        assert plan([change(Event.APPEARED, 7.0, A), change(Event.VANISHED, 5.0, B, uuid="GPU-2")]).earliest == 5.0
        assert plan([change(Event.ALTERED, 5.0, A), change(Event.HEALTH, 6.0, A)]).earliest == float("inf")

    def test_another_model_changes_all_of_a_placement(self):
        altered = msgspec.structs.replace(
            change(Event.ALTERED, 5.0, A), changes=(FieldChange("serial", "t", "s"), FieldChange("model", "n", "m"))
        )
        assert plan([altered]).earliest == 0.0
        other = msgspec.structs.replace(altered, changes=altered.changes[:1])
        assert plan([other]).earliest == float("inf")

    def test_a_confirmation_is_not_a_change(self):
        with pytest.raises(ValueError, match="confirmed is no change"):
            plan([change(Event.CONFIRMED, 1.0, A)])


class TestAShard:
    """It owns some clusters, and ends placements only in them."""

    OTHER = Place("other", "x")

    def test_a_gpu_that_moved_within_its_clusters_left_one_place(self):
        steps = plan([change(Event.MOVED, 3.0, B, previous=A)], owned={"prod"})
        assert steps.end_all == []
        assert [(row["b_node"], row["b_until"]) for row in steps.end] == [("a", 3.0)]

    def test_the_owner_of_another_cluster_ends_the_placement_there(self):
        steps = plan([change(Event.MOVED, 3.0, B, previous=self.OTHER)], owned={"prod"})
        assert steps.end == []
        assert [row["node"] for row in steps.begin] == ["b"]

    def test_a_move_from_nowhere_ends_nothing(self):
        assert plan([change(Event.MOVED, 3.0, B)], owned={"prod"}).end == []

    def test_a_placement_begun_by_the_same_changes_ends_in_them(self):
        steps = plan([change(Event.APPEARED, 1.0, A), change(Event.MOVED, 2.0, B, previous=A)], owned={"prod"})
        assert [(row["node"], row["until"]) for row in steps.begin] == [("a", 2.0), ("b", None)]
        assert steps.end == []

    def test_where_a_lost_gpu_was_last_found_is_for_its_owner_to_say(self):
        lost = msgspec.structs.replace(change(Event.VANISHED, 9.0, self.OTHER), last_seen=4.0)
        assert plan([lost], owned={"prod"}).confirm == []


def test_gpus_without_an_open_placement_there_are_arriving():
    here = [OpenPlacement("GPU-1", "s", "c", "m", (), A, 1.0, 1.0)]
    nodes = {A: snapshot(A, 9.0, GPU_1=1.0, GPU_2=7.0), B: snapshot(B, 9.0, GPU_1=8.0), C: None}
    assert arriving(here, {A: nodes[A]}) == {"GPU-2"}
    assert arriving(here, nodes) == {"GPU-1", "GPU-2"}


class TestTheDifferenceWhenTheStepsAreLost:
    def found(self, before: list[tuple[str, Place]], nodes: dict) -> list[tuple[str, str, str, float, Place | None]]:
        placements = [OpenPlacement(uuid, "s", "c", "m", (), place, 1.0, 1.0) for uuid, place in before]
        return [
            (one.event.value, str(one.gpu.uuid), one.place.node, one.time, one.previous)
            for one in differences(Recorded(placements, set(), {}), nodes, 100.0)
        ]

    def test_without_changes_there_is_no_difference(self):
        assert self.found([("GPU-1", A)], {A: snapshot(A, 9.0, GPU_1=1.0)}) == []

    def test_a_gpu_found_on_another_node_has_moved(self):
        nodes = {A: snapshot(A, 9.0), B: snapshot(B, 8.0, GPU_1=7.0)}
        assert self.found([("GPU-1", A)], nodes) == [("moved", "GPU-1", "b", 7.0, A)]

    def test_a_missing_gpu_vanished_with_the_last_reading(self):
        assert self.found([("GPU-1", A), ("GPU-2", A)], {A: snapshot(A, 9.0, GPU_2=1.0)}) == [
            ("vanished", "GPU-1", "a", 9.0, None)
        ]

    def test_the_gpus_of_a_missing_node_vanish_now(self):
        assert self.found([("GPU-1", A)], {A: None}) == [("vanished", "GPU-1", "a", 100.0, None)]

    def test_a_gpu_that_left_two_nodes_ends_in_both(self):
        nodes = {A: snapshot(A, 9.0), B: snapshot(B, 9.0), C: snapshot(C, 8.0, GPU_1=7.0)}
        assert self.found([("GPU-1", A), ("GPU-1", B)], nodes) == [
            ("vanished", "GPU-1", "a", 7.0, None),
            ("moved", "GPU-1", "c", 7.0, B),
        ]

    def test_a_gpu_absent_in_between_vanished_and_appeared(self):
        assert self.found([("GPU-1", A)], {A: snapshot(A, 9.0, GPU_1=7.0)}) == [
            ("vanished", "GPU-1", "a", 7.0, None),
            ("appeared", "GPU-1", "a", 7.0, None),
        ]

    def test_nothing_ends_before_it_begins_although_the_clock_was_set_back(self):
        nodes = {A: snapshot(A, 0.5), B: snapshot(B, 0.5, GPU_1=0.5), C: snapshot(C, 0.5, GPU_3=0.5)}
        assert self.found([("GPU-1", A), ("GPU-2", A), ("GPU-3", C)], nodes) == [
            ("moved", "GPU-1", "b", 1.0, A),
            ("vanished", "GPU-2", "a", 1.0, None),
        ]

    def test_a_claimed_gpu_is_not_placed(self):
        claimant = msgspec.structs.replace(snapshot(B, 8.0, GPU_1=7.0, GPU_2=1.0), claims=frozenset({"GPU-1"}))
        nodes = {A: snapshot(A, 9.0, GPU_1=1.0), B: claimant}
        assert self.found([("GPU-1", A), ("GPU-2", B)], nodes) == []

    def test_a_different_fact_is_an_alteration(self):
        before = [OpenPlacement("GPU-1", "old", "c", "m", (), A, 1.0, 1.0)]
        (found,) = differences(Recorded(before, set(), {}), {A: snapshot(A, 9.0, GPU_1=1.0)}, 100.0)
        assert (found.event, found.gpu.serial, found.time) == ("altered", "s", 9.0)
        assert found.changes == (FieldChange("serial", "old", "s"),)

    def test_nothing_alters_before_its_recorded_arrival(self):
        before = [OpenPlacement("GPU-1", "old", "c", "m", (), A, 9.5, 9.5)]
        (found,) = differences(Recorded(before, set(), {}), {A: snapshot(A, 9.0, GPU_1=8.9)}, 100.0)
        assert (found.event, found.time) == ("altered", 9.5)

    def test_a_fact_no_longer_reported_is_an_alteration(self):
        before = [OpenPlacement("GPU-1", "s", "c", "m", (), A, 1.0, 1.0)]
        node = snapshot(A, 9.0, GPU_1=1.0)
        silent = tuple(msgspec.structs.replace(gpu, last_known=(LastReport("serial", 5.0),)) for gpu in node.gpus)
        node = msgspec.structs.replace(node, gpus=silent)
        (found,) = differences(Recorded(before, set(), {}), {A: node}, 100.0)
        assert (found.event, found.changes) == ("altered", (FieldChange("serial", "s", None),))
        marked = [before[0]._replace(last_known=(LastReport("serial", 5.0),))]
        assert differences(Recorded(marked, set(), {}), {A: node}, 100.0) == []
        (found,) = differences(Recorded(marked, set(), {}), {A: snapshot(A, 9.0, GPU_1=1.0)}, 100.0)
        assert (found.event, found.changes) == ("altered", (FieldChange("serial", None, "s"),))

    def test_nothing_arrives_before_its_recorded_departure(self):
        recorded = Recorded([], set(), {"GPU-1": 8.5})
        nodes = {B: snapshot(B, 9.0, GPU_1=7.0, GPU_2=7.0)}
        found = [(one.event.value, one.gpu.uuid, one.time) for one in differences(recorded, nodes, 100.0)]
        assert found == [("appeared", "GPU-2", 7.0), ("appeared", "GPU-1", 8.5)]

    @pytest.mark.parametrize("lost", [False, True])
    def test_an_arrival_says_whether_the_gpu_responds(self, lost):
        unseen = (Unseen("GPU-1", 8.0, lost=True), Unseen("GPU-2", 8.0, lost=True)) if lost else ()
        node = msgspec.structs.replace(snapshot(B, 9.0, GPU_1=7.0, GPU_2=7.0), unseen=unseen)
        before = [OpenPlacement("GPU-1", "s", "c", "m", (), A, 1.0, 1.0)]
        found = differences(Recorded(before, set(), {}), {A: snapshot(A, 9.0), B: node}, 100.0)
        came = {one.event.value: one.lost for one in found if one.event is not Event.HEALTH}
        assert came == {"moved": lost, "appeared": lost}

    def test_a_gpu_in_two_places_has_not_moved(self):
        before = [OpenPlacement("GPU-1", "s", "c", "m", (), A, 1.0, 1.0)]
        nodes = {A: snapshot(A, 9.0), B: snapshot(B, 8.0, GPU_1=7.0)}
        found = differences(Recorded(before, {"GPU-1"}, {}), nodes, 100.0)
        assert [(one.event.value, one.place, one.time) for one in found] == [("vanished", A, 7.0), ("appeared", B, 7.0)]

    def test_an_absent_gpu_left_when_its_absence_was_noticed(self):
        before = [OpenPlacement(uuid, "s", "c", "m", (), A, 1.0, 1.0) for uuid in ("GPU-1", "GPU-2", "GPU-3")]
        left = {uuid: Departure(A, time, 0.1, Gpu(uuid=uuid)) for uuid, time in (("GPU-1", 5.0), ("GPU-2", 0.5))}
        found = differences(Recorded(before, set(), {}), {A: snapshot(A, 9.0)}, 100.0, left)
        assert [(one.gpu.uuid, one.time) for one in found] == [("GPU-2", 1.0), ("GPU-1", 5.0), ("GPU-3", 9.0)]

    def test_a_gpu_vanished_from_the_machine_that_its_node_was(self):
        before = [OpenPlacement("GPU-1", "s", "c", "m", (), A, 1.0, 1.0, machine="i-1")]
        another = msgspec.structs.replace(snapshot(A, 9.0), node=NodeInfo(name=A.node, provider_id="aws:///eu-1/i-2"))
        for node in (None, another):
            (vanished,) = differences(Recorded(before, set(), {}), {A: node}, 100.0)
            assert (vanished.event, vanished.machine) == (Event.VANISHED, "i-1")

    LOST = FieldChange("lost", False, True)

    def test_a_loss_before_an_absence_is_recorded_once(self):
        before = [OpenPlacement("GPU-1", "s", "c", "m", (), A, 1.0, 1.0)]
        node = msgspec.structs.replace(snapshot(A, 9.0, GPU_1=7.0), unseen=(Unseen("GPU-1", 8.0, lost=True),))
        found = differences(Recorded(before, set(), {}), {A: node}, 100.0)
        assert [(one.event.value, one.lost) for one in found] == [("vanished", True), ("appeared", True)]
        (_, _, health) = differences(Recorded([before[0]._replace(lost=False)], set(), {}), {A: node}, 100.0)
        assert health.changes == (self.LOST,)

    def test_the_final_health_is_recorded_before_departure(self):
        gpu = Gpu(uuid="GPU-1", serial="s", health=Health(row_remap_pending=False))
        before = [OpenPlacement("GPU-1", "s", None, None, (), A, 1.0, 2.0, gpu, lost=False)]
        worn = Gpu(
            uuid="GPU-1",
            serial="s",
            chassis="c",
            health=Health(row_remap_pending=True, ecc_dram_uncorrectable=4),
            ecc_growth=40.0,
            last_known=(LastReport("chassis", 30.0), LastReport("row_remap_pending", 31.0)),
        )
        left = {"GPU-1": Departure(A, 50.0, 41.0, worn, lost=True)}
        health, vanished = differences(Recorded(before, set(), {}), {A: None}, 100.0, left)
        assert (health.event, health.place, health.time) == (Event.HEALTH, A, 41.0)
        assert [(one.field, one.before, one.after) for one in health.changes] == [
            ("lost", False, True),
            ("row_remap_pending", False, True),
            ("ecc_dram_uncorrectable", None, 4),
        ]
        assert (vanished.event, vanished.time, vanished.confirmed, vanished.lost) == (Event.VANISHED, 50.0, 41.0, True)
        (row,) = plan([health, vanished], everywhere=False).vanished
        facts, lost = decode_facts("GPU-1", row["b_facts"])
        assert lost
        assert facts is not None
        assert (facts.health, facts.ecc_growth) == (worn.health, 40.0)
        assert dict(facts.last_known) == {"serial": 41.0, "chassis": 30.0, "row_remap_pending": 31.0, "health": 41.0}

    def test_nothing_vanishes_before_its_last_reading_or_change(self):
        before = [OpenPlacement("GPU-1", "s", "c", "m", (), A, 1.0, 6.0)]
        left = {"GPU-1": Departure(A, 5.0, 5.0, Gpu(uuid="GPU-1"))}
        (found,) = differences(Recorded(before, set(), {}), {A: None}, 100.0, left)
        assert found.time == 6.0
        (found,) = differences(Recorded(before, set(), {"GPU-1": 7.0}), {A: None}, 100.0, left)
        assert found.time == 7.0

    def test_a_gpu_on_a_second_node_reports_its_health(self):
        node = snapshot(B, 8.0, GPU_1=7.0)
        worn = tuple(msgspec.structs.replace(gpu, health=Health(row_remap_pending=True)) for gpu in node.gpus)
        node = msgspec.structs.replace(node, gpus=worn)
        appeared, health = differences(Recorded([], {"GPU-1"}, {}), {B: node}, 100.0)
        assert (appeared.event, health.event, health.time) == (Event.APPEARED, Event.HEALTH, 7.0)
        assert health.changes == (FieldChange("row_remap_pending", None, True),)

    def test_differences_are_in_chronological_order(self):
        nodes = {A: snapshot(A, 9.0), B: snapshot(B, 8.0, GPU_1=7.0), C: snapshot(C, 5.0)}
        assert self.found([("GPU-1", A), ("GPU-2", C)], nodes) == [
            ("vanished", "GPU-2", "c", 5.0, None),
            ("moved", "GPU-1", "b", 7.0, A),
        ]
