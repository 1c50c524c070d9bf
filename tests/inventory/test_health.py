"""A GPU's health follows its UUID: what changes, where it is carried, and what no other cluster can affect."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.health import (
    COUNTERS,
    GROWTH_WINDOW_SECONDS,
    HEALTH_FIELDS,
    Condition,
    Degradation,
    Health,
    degradations,
)
from collector.inventory import Inventory
from collector.model import (
    Change,
    Event,
    FieldChange,
    Fingerprint,
    Gpu,
    GpuRef,
    LastReport,
    NodeInfo,
    Place,
    Placement,
    ReadFailure,
    Reading,
    Step,
    health_changes,
)
from collector.store.codec import decode_node, encode_node

A, B, WEST = Place("east", "a"), Place("east", "b"), Place("west", "c")
FINE = Health(
    remapped_rows_correctable=0,
    remapped_rows_uncorrectable=0,
    row_remap_pending=False,
    ecc_sram_uncorrectable=0,
    ecc_dram_uncorrectable=0,
    recovery_action="None",
    inforom="G520.0200.00.05",
)
NO_RESET = Health(reset_required=False, drain_and_reset_recommended=False)
PENDING = msgspec.structs.replace(FINE, remapped_rows_uncorrectable=1, row_remap_pending=True)
ROWS, IS_PENDING = FieldChange("remapped_rows_uncorrectable", 0, 1), FieldChange("row_remap_pending", False, True)


class World:
    """An inventory whose nodes are read, fail to be read, and go."""

    def __init__(self) -> None:
        self.inventory = Inventory()

    def read(
        self,
        place: Place,
        time: float,
        *healths: Health | None,
        lost: bool = False,
        uuids: tuple[str, ...] = ("GPU-1",),
        boot: str = "b",
    ) -> list[Change]:
        """Apply a reading that finds GPU-1, or as many GPUs as healths are given; without one it finds none."""
        gpus = tuple(
            Gpu(uuid=uuid, serial=uuid[4:], health=health) for uuid, health in zip(uuids, healths, strict=False)
        )
        reading = Reading(
            cluster=place.cluster,
            node=NodeInfo(name=place.node),
            source="x/y",
            fingerprint=Fingerprint(pod_uid="p", container_id="c", restarts=0, boot_id=boot, capacity=8),
            time=time,
            driver_version=None,
            cuda_version=None,
            gpus=gpus,
            lost=(GpuRef("GPU-1"),) if lost else (),
        )
        return list(self.inventory.apply(reading).changes)

    def only(self, place: Place) -> Placement:
        (placement,) = self.inventory.placements(place)
        return placement


@pytest.fixture
def world() -> World:
    return World()


def events(changes: list[Change] | tuple[Change, ...]) -> list[tuple[str, str, float]]:
    return [(change.event.value, change.place.node, change.time) for change in changes]


class TestWhatIsAChange:
    def test_a_first_health_without_values_is_not_a_change(self, world: World) -> None:
        assert events(world.read(A, 10.0, FINE)) == [("appeared", "a", 10.0)]

    def test_a_first_health_with_faults_is_a_change(self, world: World) -> None:
        appeared, health = world.read(A, 10.0, PENDING)
        assert events([appeared, health]) == [("appeared", "a", 10.0), ("health", "a", 10.0)]
        assert health.changes == (
            FieldChange("remapped_rows_uncorrectable", None, 1),
            FieldChange("row_remap_pending", None, True),
        )

    def test_a_confirmed_health_is_unchanged_and_the_same_object(self, world: World) -> None:
        world.read(A, 10.0, FINE)
        before = world.only(A).gpu
        assert world.read(A, 20.0, msgspec.structs.replace(FINE)) == []
        assert world.only(A).gpu is before

    def test_equal_healths_are_one_object(self, world: World) -> None:
        world.read(A, 10.0, FINE, msgspec.structs.replace(FINE), uuids=("GPU-1", "GPU-2"))
        one, two = world.inventory.placements(A)
        assert one.gpu.health is two.gpu.health
        world.read(A, 20.0, PENDING, msgspec.structs.replace(PENDING), uuids=("GPU-1", "GPU-2"))
        one, two = world.inventory.placements(A)
        assert one.gpu.health is two.gpu.health

    def test_a_different_value_is_a_change(self, world: World) -> None:
        world.read(A, 10.0, FINE)
        (change,) = world.read(A, 20.0, PENDING)
        assert (change.event, change.time, change.place) == (Event.HEALTH, 20.0, A)
        assert change.changes == (ROWS, IS_PENDING)
        assert change.degradations == ((), (Degradation.ROW_REMAP_PENDING,))

    def test_a_health_change_is_separate_from_an_alteration(self, world: World) -> None:
        world.read(A, 10.0, FINE)
        reading = Gpu(uuid="GPU-1", serial="2", health=PENDING)
        altered, health = apply(world, A, 20.0, reading).changes
        assert (altered.event, altered.changes) == (Event.ALTERED, (FieldChange("serial", "1", "2"),))
        assert (health.event, health.changes) == (Event.HEALTH, (ROWS, IS_PENDING))

    def test_values_added_by_a_new_driver_are_not_a_change(self, world: World) -> None:
        world.read(A, 10.0, Health(row_remap_pending=False))
        assert world.read(A, 20.0, FINE) == []
        assert world.only(A).gpu.health == FINE

    def test_a_counter_that_decreases_is_not_a_recovery(self, world: World) -> None:
        world.read(A, 10.0, PENDING)
        (change,) = world.read(A, 20.0, FINE)
        assert [(one.field, one.went_back) for one in change.changes] == [
            ("remapped_rows_uncorrectable", True),
            ("row_remap_pending", False),
        ]

    def test_values_that_fall_with_wear_are_not_a_decrease(self, world: World) -> None:
        """A bank that spends its last spare row is in another class of the histogram."""
        world.read(A, 10.0, Health(row_remap_banks_low=1, row_remap_banks_none=0, remapped_rows_correctable=3))
        (change,) = world.read(
            A, 20.0, Health(row_remap_banks_low=0, row_remap_banks_none=1, remapped_rows_correctable=2)
        )
        assert len(change.changes) == 3
        assert not any(one.went_back for one in change.changes)

    def test_a_fabric_with_two_initial_faults_is_one_change(self, world: World) -> None:
        _, change = world.read(A, 10.0, Health(fabric_state="Not Started", fabric_health="Unhealthy"))
        assert [one.field for one in change.changes] == ["fabric_state", "fabric_health"]

    def test_an_initial_fabric_fault_is_a_change(self, world: World) -> None:
        failing = Health(fabric_state="Completed", fabric_status="Insufficient Resources")
        _, change = world.read(A, 10.0, failing)
        assert FieldChange("fabric_status", None, "Insufficient Resources") in change.changes


class TestWhatIsNoLongerSaid:
    LESS = Health(ecc_dram_uncorrectable=0)

    def test_a_driver_that_reports_less_is_not_a_recovery(self, world: World) -> None:
        world.read(A, 10.0, PENDING)
        assert world.read(A, 20.0, self.LESS) == []
        assert world.read(A, 30.0, self.LESS) == []
        gpu = world.only(A).gpu
        assert gpu.health == PENDING
        assert dict(gpu.last_known)["row_remap_pending"] == 10.0
        assert not gpu.reports("row_remap_pending")
        assert gpu.reports("ecc_dram_uncorrectable")
        assert gpu.last_known_facts == ()
        assert world.only(A).degradations == (Degradation.ROW_REMAP_PENDING,)

    def test_all_missing_fields_are_marked_at_once(self, world: World) -> None:
        world.read(A, 10.0, PENDING)
        assert world.read(A, 20.0, None) == []
        gpu = world.only(A).gpu
        assert (gpu.health, gpu.last_known) == (PENDING, (LastReport("health", 10.0),))
        assert not gpu.reports("row_remap_pending")

    def test_it_is_compared_when_reported_again(self, world: World) -> None:
        world.read(A, 10.0, PENDING)
        world.read(A, 20.0, self.LESS)
        (change,) = world.read(A, 30.0, msgspec.structs.replace(PENDING, row_remap_pending=False))
        assert change.changes == (FieldChange("row_remap_pending", True, False),)
        assert world.only(A).gpu.last_known == ()

    def test_each_field_keeps_its_time(self, world: World) -> None:
        world.read(A, 10.0, Health(row_remap_pending=True, ecc_dram_uncorrectable=3))
        world.read(A, 20.0, Health(ecc_dram_uncorrectable=3))
        world.read(A, 30.0, None)
        world.read(A, 40.0, Health(inforom="1"))
        marks = dict(world.only(A).gpu.last_known)
        assert marks == {"row_remap_pending": 10.0, "ecc_dram_uncorrectable": 20.0}


class TestWhatEndsWithoutBeingSaid:
    @pytest.mark.parametrize("flag", ["reset_required", "drain_and_reset_recommended"])
    def test_a_recovery_action_replaces_earlier_flags(self, world: World, flag: str) -> None:
        world.read(A, 10.0, msgspec.structs.replace(NO_RESET, **{flag: True}))
        (change,) = world.read(A, 20.0, Health(recovery_action="None", ecc_dram_uncorrectable=0))
        assert change.changes == (FieldChange(flag, True, None),)
        assert change.degradations == ((Degradation.RECOVERY_ACTION,), ())
        assert world.only(A).gpu.last_known == ()
        assert world.only(A).degradations == ()

    @pytest.mark.parametrize("silence", [False, True])
    def test_placeholders_end_when_values_appear(self, world: World, silence: bool) -> None:
        world.read(A, 10.0, Health(inforom="1", ecc_dram_uncorrectable=1, drain_and_reset_recommended=False))
        world.read(A, 20.0, Health(inforom="1", reset_required=True))
        if silence:
            assert world.read(A, 25.0, None) == []
            assert world.only(A).degradations == (Degradation.RECOVERY_ACTION,)
        (change,) = world.read(A, 30.0, Health(inforom="1", ecc_dram_uncorrectable=1))
        assert change.changes == (FieldChange("reset_required", True, None),)
        assert world.only(A).degradations == ()

    def test_a_lost_gpu_has_no_values(self, world: World) -> None:
        world.read(A, 10.0, Health(inforom="1", reset_required=True))
        (lost,) = world.read(A, 20.0, Health(row_remap_failure=True), lost=True)
        assert FieldChange("reset_required", True, None) not in lost.changes
        assert Degradation.RECOVERY_ACTION in world.only(A).degradations

    def test_a_flag_stays_if_nothing_replaces_it(self, world: World) -> None:
        world.read(A, 10.0, Health(inforom="1", reset_required=True, drain_and_reset_recommended=False))
        assert world.read(A, 20.0, Health(inforom="1", ecc_dram_uncorrectable=0)) == []
        assert world.only(A).degradations == (Degradation.RECOVERY_ACTION,)

    def test_a_flag_that_was_not_set_stays_known(self, world: World) -> None:
        world.read(A, 10.0, Health(ecc_dram_uncorrectable=0, reset_required=False))
        assert world.read(A, 20.0, Health(ecc_dram_uncorrectable=0)) == []
        assert world.only(A).gpu.last_known == (LastReport("reset_required", 10.0),)

    def test_older_driver_fields_clear_a_recovery_action(self, world: World) -> None:
        world.read(A, 10.0, Health(recovery_action="Drain and Reset"))
        assert world.read(A, 20.0, Health(reset_required=True)) != []
        assert world.only(A).gpu.health == Health(recovery_action="Drain and Reset", reset_required=True)
        (change,) = world.read(A, 30.0, NO_RESET)
        assert [(one.field, one.after) for one in change.changes] == [
            ("recovery_action", None),
            ("reset_required", False),
        ]
        assert world.only(A).degradations == ()

    WAITING = Health(
        row_remap_pending=True,
        bank_remap_pending=True,
        page_retirement_pending=True,
        channel_repair_pending=True,
        tpc_repair_pending=True,
        recovery_action="Reboot",
        drain_and_reset_recommended=True,
    )

    @pytest.mark.parametrize("after", [Health(inforom="1"), None])
    def test_a_reboot_counts_as_the_pending_reset(self, world: World, after: Health | None) -> None:
        burnt = Health(row_remap_failure=True, sram_threshold_exceeded=True, remapped_rows_uncorrectable=2)
        told = {name: value for name in HEALTH_FIELDS if (value := getattr(burnt, name)) is not None}
        world.read(A, 10.0, msgspec.structs.replace(self.WAITING, **told))
        assert world.read(A, 20.0, after) == []
        (change,) = world.read(A, 30.0, after, boot="another")
        assert {one.field for one in change.changes} == {
            name for name in HEALTH_FIELDS if getattr(self.WAITING, name) is not None
        }
        inforom = None if after is None else after.inforom
        assert world.only(A).gpu.health == msgspec.structs.replace(burnt, inforom=inforom)

    FAILING = Health(inforom="1", fabric_state="Completed", fabric_status="Timeout", fabric_health="Unhealthy")

    @pytest.mark.parametrize("after", [Health(inforom="1"), None])
    def test_the_fabric_does_not_belong_to_the_card(self, world: World, after: Health | None) -> None:
        world.read(A, 10.0, self.FAILING)
        (change,) = world.read(A, 20.0, after)
        assert change.changes == (
            FieldChange("fabric_status", "Timeout", None),
            FieldChange("fabric_health", "Unhealthy", None),
        )
        gpu = world.only(A).gpu
        assert gpu.health == Health(inforom="1")
        assert all(not one.field.startswith("fabric") for one in gpu.last_known)

    @pytest.mark.parametrize("gone_first", [True, False])
    def test_fabric_state_is_not_carried_to_another_node(self, world: World, gone_first: bool) -> None:
        world.read(A, 10.0, self.FAILING)
        if gone_first:
            world.read(A, 20.0)
            condition = world.inventory.last_condition("GPU-1")
            assert condition is not None
            assert degradations(condition) == ()
        changes = world.read(B, 30.0, Health(inforom="1")) + world.read(A, 40.0)
        assert [one.field for one in changes[1].changes] == ["fabric_status", "fabric_health"]
        assert world.only(B).gpu == Gpu(uuid="GPU-1", serial="1", health=Health(inforom="1"))

    def test_forgotten_fabric_state_leaves_no_health(self, world: World) -> None:
        world.read(A, 10.0, Health(fabric_health="Unhealthy"))
        world.read(A, 20.0, None)
        assert world.only(A).gpu == Gpu(uuid="GPU-1", serial="1")


class TestOnItsWay:
    @pytest.mark.parametrize("there", [B, WEST])
    @pytest.mark.parametrize("gone_first", [True, False])
    def test_health_is_compared_with_the_previous_place(self, world: World, there: Place, gone_first: bool) -> None:
        world.read(A, 10.0, FINE)
        changes = world.read(A, 20.0) if gone_first else []
        changes += world.read(there, 30.0, PENDING)
        changes += world.read(A, 40.0)
        if not gone_first:
            assert world.only(there).claim is False
        *_, moved, health = changes
        assert events([moved, health]) == [("moved", there.node, 30.0), ("health", there.node, 30.0)]
        assert health.changes == (ROWS, IS_PENDING)

    def test_an_unsettled_claim_changes_no_health(self, world: World) -> None:
        world.read(A, 10.0, FINE)
        assert world.read(WEST, 20.0, PENDING) == []
        assert world.read(WEST, 30.0, FINE) == []
        assert world.only(A).gpu.health == FINE

    def test_a_conflict_does_not_change_the_other_place(self, world: World) -> None:
        world.read(A, 10.0, FINE)
        world.read(WEST, 20.0, PENDING)
        world.read(A, 30.0, FINE)
        appeared, health = world.read(WEST, 40.0, PENDING)
        assert events([appeared, health]) == [("appeared", "c", 20.0), ("health", "c", 20.0)]
        assert {one.before for one in health.changes} == {None}  # as if it was seen there for the first time
        assert world.inventory.conflicts("east") == 1
        (own,) = world.read(A, 50.0, msgspec.structs.replace(FINE, ecc_sram_uncorrectable=1))
        assert own.changes == (FieldChange("ecc_sram_uncorrectable", 0, 1),)  # nobody can silence its own node

    @pytest.mark.parametrize("there", [B, WEST])
    @pytest.mark.parametrize("settled_by", ["home", "removal", "claimant"])
    def test_no_change_predates_the_last_report_of_its_home(self, world: World, there: Place, settled_by: str) -> None:
        world.read(A, 10.0, FINE)
        world.read(there, 20.0, FINE)
        changes = world.read(A, 30.0, PENDING)
        match settled_by:
            case "home":
                changes += world.read(A, 40.0)
            case "removal":
                changes += world.inventory.remove_node(A, 40.0).changes
            case "claimant":
                changes += world.read(there, 40.0, FINE)
        assert len(changes) > 1
        assert [change.time for change in changes] == [30.0] * len(changes)
        assert world.only(there).since == 30.0

    def test_no_change_predates_its_departure(self, world: World) -> None:
        world.read(A, 10.0, FINE)
        set_boot(world)
        world.read(WEST, 20.0, FINE)
        (lost,) = world.inventory.read_failed(A, ReadFailure.EXIT_STATUS, 30.0, lost=[GpuRef("GPU-1")]).changes
        changes = world.inventory.remove_node(A, 40.0).changes
        assert lost.time == 30.0
        assert events(changes) == [("moved", "c", 30.0), ("health", "c", 30.0)]

    def test_known_health_moves_with_it_within_a_cluster(self, world: World) -> None:
        world.read(A, 10.0, PENDING)
        world.read(B, 20.0, Health(ecc_dram_uncorrectable=0))
        moved = world.read(A, 30.0)
        assert events(moved) == [("moved", "b", 20.0)]
        assert world.only(B).gpu.health == PENDING

    def test_reports_of_its_home_after_the_claim_count(self, world: World) -> None:
        world.read(A, 10.0, FINE)
        world.read(B, 20.0, Health(ecc_dram_uncorrectable=0))
        world.read(A, 30.0, PENDING)
        world.read(A, 40.0)
        assert world.only(B).gpu.health == PENDING

    def test_health_is_not_carried_into_another_cluster(self, world: World) -> None:
        world.read(A, 10.0, PENDING)
        world.read(A, 20.0)
        moved, health = world.read(WEST, 30.0, Health(ecc_dram_uncorrectable=0))
        assert (moved.event, health.event) == (Event.MOVED, Event.HEALTH)
        assert health.changes == (
            FieldChange("remapped_rows_uncorrectable", 1, None),
            FieldChange("row_remap_pending", True, None),
        )
        assert world.only(WEST).gpu.health == Health(ecc_dram_uncorrectable=0)

    def test_health_stays_known_while_it_is_absent(self, world: World) -> None:
        world.read(A, 10.0, PENDING)
        world.read(A, 20.0)
        facts = world.inventory.facts("GPU-1")
        assert facts is not None
        assert (facts.health, dict(facts.last_known)["health"]) == (PENDING, 10.0)

    def test_health_is_kept_when_it_returns_to_its_node(self, world: World) -> None:
        world.read(A, 10.0, FINE)
        world.read(A, 20.0)
        appeared, health = world.read(A, 30.0, PENDING)
        assert events([appeared, health]) == [("appeared", "a", 30.0), ("health", "a", 30.0)]
        assert health.changes == (ROWS, IS_PENDING)

    def test_changes_of_the_other_gpus_come_first(self, world: World) -> None:
        both = ("GPU-1", "GPU-2")
        world.read(A, 10.0, FINE, FINE, uuids=both)
        world.read(B, 20.0, PENDING, PENDING, uuids=both)
        assert [change.event for change in world.read(A, 30.0)] == [Event.MOVED] * 2 + [Event.HEALTH] * 2


class TestGrowth:
    def test_more_uncorrectable_errors_are_growth(self, world: World) -> None:
        world.read(A, 10.0, FINE)
        world.read(A, 20.0, msgspec.structs.replace(FINE, ecc_dram_uncorrectable=2))
        assert world.only(A).gpu.ecc_growth == 20.0
        world.read(A, 30.0, msgspec.structs.replace(FINE, ecc_dram_uncorrectable=2))
        assert world.only(A).gpu.ecc_growth == 20.0
        assert world.only(A).degradations == (Degradation.UNCORRECTABLE_ECC_GROWING,)

    @pytest.mark.parametrize("after", [FINE, msgspec.structs.replace(FINE, ecc_sram_uncorrectable=None)])
    def test_fewer_uncorrectable_errors_are_not_growth(self, world: World, after: Health) -> None:
        world.read(A, 10.0, msgspec.structs.replace(FINE, ecc_dram_uncorrectable=2))
        world.read(A, 20.0, after)
        assert world.only(A).gpu.ecc_growth is None

    @pytest.mark.parametrize("gone_first", [True, False])
    def test_growth_moves_along_within_a_cluster(self, world: World, gone_first: bool) -> None:
        more = msgspec.structs.replace(FINE, ecc_dram_uncorrectable=2)
        world.read(A, 10.0, FINE)
        world.read(A, 20.0, more)
        if gone_first:
            world.read(A, 25.0)
        world.read(B, 30.0, more)
        world.read(A, 40.0)
        assert world.only(B).gpu.ecc_growth == 20.0

    @pytest.mark.parametrize("gone_first", [True, False])
    def test_more_errors_on_another_node_are_growth(self, world: World, gone_first: bool) -> None:
        world.read(A, 10.0, FINE)
        if gone_first:
            world.read(A, 20.0)
        world.read(B, 30.0, msgspec.structs.replace(FINE, ecc_dram_uncorrectable=2))
        world.read(A, 40.0)
        assert world.only(B).gpu.ecc_growth == 30.0

    @pytest.mark.parametrize("gone_first", [True, False])
    def test_no_cluster_makes_the_errors_of_another_grow(self, world: World, gone_first: bool) -> None:
        world.read(WEST, 10.0, FINE)
        if gone_first:
            world.read(WEST, 20.0)
        world.read(A, 30.0, msgspec.structs.replace(FINE, ecc_dram_uncorrectable=2))
        world.read(WEST, 40.0)
        assert world.only(A).gpu.ecc_growth is None

    @pytest.mark.parametrize("gone_first", [True, False])
    @pytest.mark.parametrize(
        ("there", "follows"),
        [
            ({}, True),
            ({"ecc_dram_uncorrectable": 3}, True),
            ({"ecc_dram_uncorrectable": 1}, False),
            ({"ecc_dram_uncorrectable": None}, False),
            ({"ecc_sram_uncorrectable": None}, False),
            ({"ecc_sram_uncorrectable": 0, "ecc_dram_uncorrectable": 0}, False),
        ],
    )
    def test_growth_follows_into_a_cluster_that_confirms_it(
        self, world: World, gone_first: bool, there: dict[str, int | None], follows: bool
    ) -> None:
        more = msgspec.structs.replace(FINE, ecc_dram_uncorrectable=2)
        world.read(A, 10.0, FINE)
        world.read(A, 20.0, more)
        if gone_first:
            world.read(A, 25.0)
        changes = world.read(WEST, 30.0, msgspec.structs.replace(more, **there))
        changes += world.read(A, 40.0)
        assert world.only(WEST).gpu.ecc_growth == (20.0 if follows else None)
        assert (world.only(WEST).degradations == (Degradation.UNCORRECTABLE_ECC_GROWING,)) is follows

    @pytest.mark.parametrize("gone_first", [True, False])
    def test_old_growth_does_not_follow(self, world: World, gone_first: bool) -> None:
        more = msgspec.structs.replace(FINE, ecc_dram_uncorrectable=2)
        world.read(A, 10.0, FINE)
        world.read(A, 20.0, more)
        if gone_first:
            world.read(A, 25.0)
        world.read(WEST, 20.0 + GROWTH_WINDOW_SECONDS, more)
        world.read(A, 30.0 + GROWTH_WINDOW_SECONDS)
        assert world.only(WEST).gpu.ecc_growth is None

    def test_growth_is_judged_by_the_last_reading(self, world: World) -> None:
        world.read(A, 10.0, FINE)
        world.read(A, 20.0, msgspec.structs.replace(FINE, ecc_dram_uncorrectable=2))
        world.inventory.remove_node(A, 20.0 + 2 * GROWTH_WINDOW_SECONDS)
        condition = world.inventory.last_condition("GPU-1")
        assert condition is not None
        assert condition.read == 20.0
        assert degradations(condition) == (Degradation.UNCORRECTABLE_ECC_GROWING,)

    def test_growth_shown_by_a_claim_is_new(self, world: World) -> None:
        world.read(A, 10.0, FINE)
        world.read(B, 20.0, FINE)
        world.read(B, 30.0, msgspec.structs.replace(FINE, ecc_dram_uncorrectable=2))
        _, health = world.read(A, 40.0)
        assert health.degradations == ((), (Degradation.UNCORRECTABLE_ECC_GROWING,))

    @pytest.mark.parametrize("before", ["stays", "gone", "moves"])
    def test_a_fast_clock_hides_no_growth(self, world: World, before: str) -> None:
        world.read(A, 1e7, FINE)
        world.read(A, 10.0, FINE)
        if before == "gone":
            world.read(A, 15.0)
        place = B if before == "moves" else A
        changes = world.read(place, 20.0, msgspec.structs.replace(FINE, ecc_dram_uncorrectable=2))
        changes += world.read(A, 30.0) if before == "moves" else []
        assert world.only(place).degradations == (Degradation.UNCORRECTABLE_ECC_GROWING,)
        assert changes[-1].degradations == ((), (Degradation.UNCORRECTABLE_ECC_GROWING,))


LOST, ANSWERS = FieldChange("lost", False, True), FieldChange("lost", True, False)


class TestLost:
    def test_a_loss_is_one_change(self, world: World) -> None:
        world.read(A, 10.0, FINE)
        (lost,) = world.read(A, 20.0, lost=True)
        assert (lost.event, lost.time, lost.changes) == (Event.HEALTH, 20.0, (LOST,))
        assert world.read(A, 30.0, lost=True) == []
        (answers,) = world.read(A, 40.0, FINE)
        assert (answers.time, answers.changes) == (40.0, (ANSWERS,))
        assert world.read(A, 50.0, FINE) == []

    def test_a_loss_is_part_of_the_same_health_change(self, world: World) -> None:
        world.read(A, 10.0, FINE)
        world.read(A, 20.0, lost=True)
        (change,) = world.read(A, 30.0, PENDING)
        assert change.changes == (ANSWERS, ROWS, IS_PENDING)

    def test_a_gpu_can_be_lost_at_first_sight(self, world: World) -> None:
        _, health = world.read(A, 10.0, None, lost=True)
        assert health.changes == (LOST,)

    def test_a_gpu_can_be_lost_on_an_unreadable_node(self, world: World) -> None:
        world.read(A, 10.0, FINE)
        set_boot(world)
        fail = (A, ReadFailure.EXIT_STATUS)
        (lost,) = world.inventory.read_failed(*fail, 20.0, lost=[GpuRef("GPU-1")]).changes
        assert (lost.time, lost.changes) == (20.0, (LOST,))
        assert world.inventory.read_failed(*fail, 30.0, lost=[GpuRef("GPU-1")]).changes == ()
        (answers,) = world.read(A, 40.0, FINE)
        assert answers.changes == (ANSWERS,)

    @pytest.mark.parametrize("there", [B, WEST])
    def test_a_lost_gpu_can_answer_elsewhere(self, world: World, there: Place) -> None:
        world.read(A, 10.0, FINE)
        world.read(A, 20.0, lost=True)
        changes = world.read(there, 30.0, FINE) + world.read(A, 40.0)
        assert events(changes) == [("moved", there.node, 30.0), ("health", there.node, 30.0)]
        assert changes[1].changes == (ANSWERS,)

    def test_a_lost_gpu_that_vanishes_stays_lost(self, world: World) -> None:
        world.read(A, 10.0, FINE)
        world.read(A, 20.0, lost=True)
        (vanished,) = world.read(A, 30.0)
        assert (vanished.event, vanished.lost) == (Event.VANISHED, True)
        assert is_lost(world, "GPU-1")
        _, answers = world.read(A, 40.0, FINE)
        assert answers.changes == (ANSWERS,)

    def test_a_loss_outlasts_adoption_without_a_loss_time(self, world: World) -> None:
        world.read(A, 10.0, FINE)
        world.read(A, 20.0, lost=True)
        world.inventory.remove_node(A, 30.0)
        world.inventory.recall({}, {"GPU-1": 35.0})
        assert is_lost(world, "GPU-1")
        changes = world.read(B, 32.0, FINE)
        assert events(changes) == [("moved", "b", 35.0), ("health", "b", 35.0)]
        assert changes[1].changes == (ANSWERS,)

    def test_a_claimed_gpu_is_never_lost(self, world: World) -> None:
        world.read(A, 10.0, FINE)
        world.read(WEST, 20.0, FINE)
        assert world.read(WEST, 30.0, lost=True) == []

    def test_a_gpu_that_moved_was_not_lost(self, world: World) -> None:
        world.read(A, 10.0, FINE)
        set_boot(world)
        world.read(B, 20.0, FINE)
        step = world.inventory.read_failed(A, ReadFailure.EXIT_STATUS, 30.0, lost=[GpuRef("GPU-1")])
        assert events(step.changes) == [("moved", "b", 20.0)]

    def test_a_standby_adopts_a_loss_unchanged(self, world: World) -> None:
        world.read(A, 10.0, FINE)
        standby = World()
        standby.inventory.adopt(recorded(world))
        world.read(A, 20.0, lost=True)
        (change,) = standby.inventory.adopt(recorded(world)).changes
        assert change.changes == (LOST,)
        world.read(A, 30.0, lost=True)
        assert standby.inventory.adopt(recorded(world)).changes == ()
        world.read(A, 40.0, FINE)
        (change,) = standby.inventory.adopt(recorded(world)).changes
        assert change.changes == (ANSWERS,)


class TestStandby:
    def test_it_adopts_last_known_values_and_growth(self, world: World) -> None:
        less = Health(ecc_dram_uncorrectable=2)
        world.read(A, 10.0, PENDING)
        world.read(A, 20.0, msgspec.structs.replace(PENDING, ecc_dram_uncorrectable=2))
        world.read(A, 30.0, less)
        standby = World()
        standby.read(A, 40.0, less)
        standby.inventory.adopt(recorded(world))
        assert standby.only(A).gpu == world.only(A).gpu

    def test_health_that_an_older_version_does_not_read_is_not_missing(self, world: World) -> None:
        """While collectors are updated one after the other, the older one may lead; its readings have no health."""
        standby = World()
        standby.read(A, 10.0, PENDING)
        world.read(A, 20.0, None)
        older = encode_node(recorded(world)).replace(b"\xabhealth_read\xc3", b"\xabhealth_read\xc2")
        step = standby.inventory.adopt(decode_node(A, 20.0, older))
        assert step.changes == ()
        assert (standby.only(A).gpu.health, standby.only(A).gpu.last_known) == (PENDING, ())
        assert standby.read(A, 30.0, FINE) != []
        assert standby.only(A).gpu.last_known == ()


def apply(world: World, place: Place, time: float, *gpus: Gpu) -> Step:
    reading = Reading(
        cluster=place.cluster,
        node=NodeInfo(name=place.node),
        source="x/y",
        fingerprint=Fingerprint(pod_uid="p", container_id="c", restarts=0, boot_id="b", capacity=8),
        time=time,
        driver_version=None,
        cuda_version=None,
        gpus=gpus,
    )
    return world.inventory.apply(reading)


def set_boot(world: World) -> None:
    """Let Kubernetes say what the readings know of the node's boot."""
    world.inventory.set_node(A.cluster, NodeInfo(name=A.node, boot_id="b"))


def is_lost(world: World, uuid: str) -> bool:
    condition = world.inventory.last_condition(uuid)
    assert condition is not None
    return condition.lost


def recorded(world: World):
    node = world.inventory.node(A)
    assert node is not None
    return node


def test_both_comparisons_find_the_same_differences() -> None:
    forth, back = health_changes(None, PENDING), health_changes(PENDING, None)
    assert [one.field for one in forth] == [one.field for one in back]
    assert health_changes(None, FINE) == health_changes(FINE, None) == health_changes(FINE, FINE) == ()


def told(health: Health | None) -> dict[str, object]:
    return {name: value for name in HEALTH_FIELDS if (value := getattr(health, name, None)) is not None}


HEALTHS = st.none() | st.builds(
    Health,
    row_remap_failure=st.none() | st.booleans(),
    row_remap_pending=st.none() | st.booleans(),
    reset_required=st.none() | st.booleans(),
    drain_and_reset_recommended=st.none() | st.booleans(),
    recovery_action=st.sampled_from([None, "None", "Reset"]),
    retired_pages_double_bit=st.sampled_from([None, 0, 1, 63]),
    fabric_state=st.sampled_from([None, "Completed", "Not Started"]),
    fabric_status=st.sampled_from([None, "Success", "Unknown Error"]),
    fabric_health=st.sampled_from([None, "Healthy", "Unhealthy"]),
)
STEPS = st.tuples(st.sampled_from([A, B, WEST, None]), HEALTHS, st.booleans(), st.sampled_from(["b", "c"]))


@given(st.lists(STEPS, max_size=8))
def test_the_changes_contain_every_reason_for_degradation(steps: list[tuple[Place | None, Health | None, bool, str]]):
    """Wherever it goes, and whatever the drivers report: the changes alone determine its health."""
    world, here, time = World(), None, 0.0
    state: dict[str, Any] = {}
    for place, health, gone_first, boot in steps:
        time += 10.0
        changes = (
            world.read(here, time) if here is not None and (place is None or (place != here and gone_first)) else []
        )
        if place is not None:
            changes += world.read(place, time + 1.0, health, boot=boot)
            changes += world.read(here, time + 2.0) if here not in (None, place) and not gone_first else []
        here = place
        for change in changes:
            if change.event is Event.HEALTH:
                state |= {one.field: one.after for one in change.changes}
        if here is not None:
            known = world.only(here).gpu.health
            follows = Health(**{name: value for name, value in state.items() if value is not None})
            assert degradations(Condition(known)) == degradations(Condition(follows))
            assert {name for name in COUNTERS if told(known).get(name)} == {
                name for name in COUNTERS if told(follows).get(name)
            }
