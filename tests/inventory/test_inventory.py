"""The inventory's rules: where a GPU is, when it moved, when two places claim it."""

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from collector.inventory import Inventory
from collector.inventory.last_known import with_last_known
from collector.model import (
    UNREAD_REASONS,
    Change,
    Event,
    Failing,
    Fingerprint,
    Gpu,
    GpuRef,
    Known,
    LastReport,
    NodeInfo,
    Place,
    Placement,
    ReadFailure,
    Reading,
    Sharing,
    Step,
    Uncovered,
    UnidentifiedGpu,
    Unread,
    on_one_board,
)

A, B, C = Place("east", "a"), Place("east", "b"), Place("west", "c")


def gpu(name: str, serial: str | None = None, *, model: str = "NVIDIA H100", **facts: Any) -> Gpu:
    return Gpu(uuid=f"GPU-{name}", serial=serial, model=model, **facts)


ONE, TWO, THREE = gpu("1", "s1"), gpu("2", "s2"), gpu("3", "s3")


def fingerprint(place: Place) -> Fingerprint:
    return Fingerprint(pod_uid=f"uid-{place.node}", container_id="c1", restarts=0, boot_id="b1", capacity=8)


def reading(place: Place, time: float, *gpus: Gpu, node: NodeInfo | None = None, driver: str = "570") -> Reading:
    return Reading(
        cluster=place.cluster,
        node=node or NodeInfo(name=place.node, provider_id=f"aws:///zone/i-{place.node}"),
        source=f"gpu-operator/pod-{place.node}",
        fingerprint=fingerprint(place),
        time=time,
        driver_version=driver,
        cuda_version="12.8",
        gpus=gpus,
    )


class Fleet:
    """An inventory, and which nodes its last step touched."""

    def __init__(self) -> None:
        self.touched: list[Place] = []
        self.verify: list[Place] = []
        self.inventory = Inventory()

    def read(self, place: Place, time: float, *gpus: Gpu) -> list[tuple[Event, str | None, Place, Place | None]]:
        """Apply a reading; answers the changes in short, and notes which nodes it touched and which it wants read."""
        return short(self.note(self.inventory.apply(reading(place, time, *gpus))).changes)

    def apply(
        self, one: Reading, *, started: float, ended: float
    ) -> list[tuple[Event, str | None, Place, Place | None]]:
        """Apply a reading that took its time on the monotonic clock."""
        timed = msgspec.structs.replace(one, started=started, ended=ended)
        return short(self.note(self.inventory.apply(timed)).changes)

    def note(self, step: Step) -> Step:
        self.touched = list(step.nodes)
        self.verify = list(step.verify)
        assert dict(step.nodes) == {place: self.inventory.node(place) for place in step.nodes}
        return step

    def homes(self, uuid: str) -> list[Place]:
        return [placement.place for placement in self.inventory.find(uuid=uuid)]

    def uuids(self, place: Place) -> list[str | None]:
        entry = self.inventory.node(place)
        return [] if entry is None else [gpu.uuid for gpu in entry.gpus]


def short(changes: Sequence[Change]) -> list[tuple[Event, str | None, Place, Place | None]]:
    return [(change.event, change.gpu.uuid, change.place, change.previous) for change in changes]


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


class TestOneNode:
    """What a node's readings say, one after the other."""

    def test_the_gpus_of_a_first_reading_appear(self, fleet: Fleet) -> None:
        first = reading(A, 10.0, ONE)
        step = fleet.note(fleet.inventory.apply(first))
        assert step.reading is first
        assert step.changes == (
            Change(
                event=Event.APPEARED,
                time=10.0,
                gpu=ONE,
                place=A,
                machine="i-a",
                source="gpu-operator/pod-a",
                previous=None,
            ),
        )
        assert fleet.touched == [A]

    def test_a_confirmation_changes_nothing_but_the_time(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        assert fleet.read(A, 20.0, ONE) == []
        assert fleet.touched == [A]
        assert fleet.inventory.placements(A) == [Placement(gpu=ONE, place=A, since=10.0, confirmed=20.0)]

    def test_a_gpu_whose_facts_differ_is_altered_and_stays_since(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE, TWO)
        flashed = Gpu(uuid="GPU-1", serial="s1", model="NVIDIA H100", vbios="96.2")
        assert fleet.read(A, 20.0, flashed, TWO) == [(Event.ALTERED, "GPU-1", A, None)]
        assert fleet.inventory.find(uuid="GPU-1") == [Placement(gpu=flashed, place=A, since=10.0, confirmed=20.0)]

    def test_a_gpu_missing_from_the_reading_has_vanished(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE, TWO)
        assert fleet.read(A, 20.0, TWO) == [(Event.VANISHED, "GPU-1", A, None)]
        assert fleet.homes("GPU-1") == []
        assert fleet.inventory.find(serial="s1") == []

    def test_a_gpu_that_comes_back_to_its_node_appears_again(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.read(A, 20.0)
        assert fleet.read(A, 30.0, ONE) == [(Event.APPEARED, "GPU-1", A, None)]
        assert fleet.inventory.find(uuid="GPU-1")[0].since == 30.0

    def test_an_empty_reading_counts_as_a_reading(self, fleet: Fleet) -> None:
        assert fleet.read(A, 10.0) == []
        entry = fleet.inventory.node(A)
        assert entry is not None
        assert (entry.found, entry.gpus, entry.time) == (0, (), 10.0)

    def test_the_entry_contains_what_the_reading_reported(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        entry = fleet.inventory.node(A)
        assert entry is not None
        assert (entry.place, entry.time, entry.source) == (A, 10.0, "gpu-operator/pod-a")
        assert (entry.driver_version, entry.cuda_version, entry.node.machine) == ("570", "12.8", "i-a")
        assert (entry.gpus, entry.since, entry.found) == ((ONE,), (10.0,), 1)

    def test_a_failure_lasts_until_the_next_reading(self, fleet: Fleet) -> None:
        fleet.read(A, 1.0, ONE)
        fleet.inventory.read_failed(A, ReadFailure.CONNECTION, 2.0)
        fleet.note(fleet.inventory.read_failed(A, ReadFailure.TIMEOUT, 3.0))
        assert fleet.touched == [A]
        assert fleet.inventory.nodes("east")["a"].failing == Failing(ReadFailure.TIMEOUT, 2.0, tries=2)
        assert fleet.inventory.read_failed(A, ReadFailure.TIMEOUT, 4.0, next_try=9.0) == Step()
        assert fleet.inventory.nodes("east")["a"].failing == Failing(ReadFailure.TIMEOUT, 2.0, tries=3, next_try=9.0)
        fleet.read(A, 5.0, ONE)
        assert fleet.inventory.nodes("east")["a"].failing is None

    def test_a_failure_of_an_unknown_node_is_ignored(self, fleet: Fleet) -> None:
        assert fleet.inventory.read_failed(A, ReadFailure.NOT_FOUND, 1.0) == Step()
        assert fleet.inventory.node(A) is None

    def test_unreadable_nodes_are_counted_by_cluster_and_last_reason(self) -> None:
        fleet = Fleet()

        def count() -> dict[tuple[str, ReadFailure], int]:
            counts = {
                (place.cluster, why): fleet.inventory.failing(place.cluster, why)
                for place in (A, C)
                for why in ReadFailure
            }
            return {key: number for key, number in counts.items() if number}

        for place in (A, B, C):
            fleet.read(place, 1.0, ONE)
            fleet.inventory.read_failed(place, ReadFailure.TIMEOUT, 2.0)
        assert count() == {("east", ReadFailure.TIMEOUT): 2, ("west", ReadFailure.TIMEOUT): 1}
        fleet.inventory.read_failed(A, ReadFailure.CONNECTION, 3.0)
        assert count()[("east", ReadFailure.CONNECTION)] == count()[("east", ReadFailure.TIMEOUT)] == 1
        fleet.read(A, 4.0, ONE)
        fleet.inventory.remove_node(B, 4.0)
        assert count() == {("west", ReadFailure.TIMEOUT): 1}


class TestMoves:
    """A GPU that a second node reports has moved once the first no longer has it."""

    def test_a_claim_by_a_second_node_verifies_the_first(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE, TWO)
        assert fleet.read(B, 20.0, ONE) == []
        assert fleet.verify == [A]
        assert (fleet.uuids(A), fleet.uuids(B)) == (["GPU-1", "GPU-2"], ["GPU-1"])
        assert fleet.inventory.claimed("east") == {"GPU-1"}
        assert (fleet.inventory.conflicts("east"), fleet.inventory.count("east")) == (0, 2)

    def test_the_first_node_without_it_settles_the_move(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE, TWO)
        fleet.read(B, 20.0, ONE)
        assert fleet.read(A, 21.0, TWO) == [(Event.MOVED, "GPU-1", B, A)]
        assert set(fleet.touched) == {A, B}
        assert (fleet.uuids(A), fleet.uuids(B), fleet.verify) == (["GPU-2"], ["GPU-1"], [])
        assert fleet.inventory.placements(B) == [Placement(gpu=ONE, place=B, since=20.0, confirmed=20.0)]
        assert fleet.inventory.claimed("east") == set()

    def test_a_gpu_can_move_to_another_cluster(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        assert fleet.read(C, 20.0, ONE) == []
        assert (fleet.inventory.claims("east"), fleet.inventory.claims("west")) == (1, 1)
        assert fleet.read(A, 21.0) == [(Event.MOVED, "GPU-1", C, A)]
        assert fleet.homes("GPU-1") == [C]

    @pytest.mark.parametrize("end", ["node", "cluster"])
    def test_deleting_the_first_node_settles_the_move(self, fleet: Fleet, end: str) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.read(C, 20.0, ONE)
        inventory = fleet.inventory
        step = inventory.remove_node(A, 21.0) if end == "node" else inventory.remove_cluster("east", 21.0)
        assert short(step.changes) == [(Event.MOVED, "GPU-1", C, A)]
        assert fleet.homes("GPU-1") == [C]

    def test_a_vanished_gpu_that_returns_elsewhere_has_moved(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.read(A, 20.0)
        assert fleet.read(B, 30.0, ONE) == [(Event.MOVED, "GPU-1", B, A)]

    def test_a_gpu_that_comes_back_has_moved_back(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.read(B, 20.0, ONE)
        fleet.read(A, 21.0)
        assert fleet.read(A, 40.0, ONE) == []
        assert fleet.read(B, 41.0) == [(Event.MOVED, "GPU-1", A, B)]

    def test_a_withdrawn_claim_never_was_a_placement(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.read(B, 20.0, ONE)
        assert fleet.read(B, 21.0) == []
        assert fleet.read(A, 22.0, ONE) == []
        assert (fleet.homes("GPU-1"), fleet.verify) == ([A], [])

    def test_a_whole_tray_moves(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE, TWO)
        fleet.read(B, 10.0, THREE)
        assert fleet.read(B, 20.0, ONE, TWO) == [(Event.VANISHED, "GPU-3", B, None)]
        assert fleet.read(A, 21.0, THREE) == [
            (Event.MOVED, "GPU-3", A, B),
            (Event.MOVED, "GPU-1", B, A),
            (Event.MOVED, "GPU-2", B, A),
        ]

    def test_a_reading_begun_before_the_claim_does_not_settle_it(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.apply(reading(B, 20.0, ONE), started=100.0, ended=101.0)
        assert fleet.apply(reading(A, 20.5, ONE), started=100.5, ended=102.0) == []
        assert fleet.verify == [A]
        assert fleet.apply(reading(A, 21.0), started=102.0, ended=103.0) == [(Event.MOVED, "GPU-1", B, A)]

    def test_the_first_of_two_claimants_gets_the_gpu(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.read(B, 20.0, ONE)
        fleet.read(C, 21.0, ONE)
        assert fleet.read(A, 22.0) == [(Event.MOVED, "GPU-1", B, A)]
        assert (fleet.homes("GPU-1"), fleet.verify) == ([B, C], [B])
        assert fleet.read(B, 23.0) == [(Event.MOVED, "GPU-1", C, B)]


class TestSilence:
    """A first node that cannot answer loses the GPU within its cluster, and nowhere else."""

    def test_a_node_that_cannot_be_read_loses_it(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE, TWO)
        fleet.read(B, 20.0, ONE)
        step = fleet.inventory.read_failed(A, ReadFailure.TIMEOUT, 21.0)
        assert short(step.changes) == [(Event.MOVED, "GPU-1", B, A)]
        assert fleet.uuids(A) == ["GPU-2"]

    def test_a_failing_node_loses_it_immediately(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.inventory.read_failed(A, ReadFailure.TIMEOUT, 15.0)
        assert fleet.read(B, 20.0, ONE) == [(Event.MOVED, "GPU-1", B, A)]

    def test_an_unready_node_loses_it(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.read(B, 20.0, ONE)
        step = fleet.inventory.set_node("east", NodeInfo(name="a", ready=False))
        assert short(step.changes) == [(Event.MOVED, "GPU-1", B, A)]

    def test_a_node_without_a_pod_to_read_loses_it(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.read(B, 20.0, ONE)
        assert short(fleet.inventory.cannot_verify(A).changes) == [(Event.MOVED, "GPU-1", B, A)]

    def test_a_node_no_longer_covered_by_a_pod_loses_it(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.read(B, 20.0, ONE)
        step = fleet.inventory.set_uncovered(A, Uncovered.POD_NOT_READY, 21.0)
        assert short(step.changes) == [(Event.MOVED, "GPU-1", B, A)]

    def test_a_claim_from_another_cluster_stays_unsettled(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.read(C, 20.0, ONE)
        assert fleet.inventory.read_failed(A, ReadFailure.TIMEOUT, 21.0).changes == ()
        assert fleet.inventory.set_node("east", NodeInfo(name="a", ready=False)).changes == ()
        assert fleet.inventory.cannot_verify(A) == Step()
        assert (fleet.homes("GPU-1"), fleet.inventory.claims("east")) == ([A, C], 1)
        assert fleet.read(C, 30.0, ONE) == []
        assert fleet.verify == [A]

    def test_a_node_that_lost_it_can_claim_it_back(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.read(B, 20.0, ONE)
        fleet.inventory.read_failed(A, ReadFailure.TIMEOUT, 21.0)
        assert fleet.read(A, 30.0, ONE) == []
        assert fleet.verify == [B]
        assert fleet.read(B, 31.0) == [(Event.MOVED, "GPU-1", A, B)]


class TestTimes:
    """The order of readings is that in which they are applied; the clock may be set back."""

    def test_a_reading_counts_regardless_of_its_time(self, fleet: Fleet) -> None:
        fleet.read(A, 4000.0, ONE)
        assert fleet.read(A, 400.0, ONE, TWO) == [(Event.APPEARED, "GPU-2", A, None)]
        entry = fleet.inventory.node(A)
        assert entry is not None
        assert (entry.time, entry.since) == (400.0, (4000.0, 400.0))

    def test_a_gpu_moves_although_the_clock_was_set_back(self, fleet: Fleet) -> None:
        fleet.read(A, 4000.0, ONE)
        fleet.read(B, 400.0, ONE)
        (change,) = fleet.inventory.apply(reading(A, 401.0)).changes
        assert (change.event, change.place, change.time) == (Event.MOVED, B, 4000.0)
        assert fleet.inventory.placements(B)[0].since == 4000.0

    def test_no_gpu_moves_before_it_arrived(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.read(B, 40.0, ONE)
        fleet.read(C, 20.0, ONE)  # its clock is behind
        fleet.read(A, 41.0)  # B has it since 40
        (change,) = fleet.inventory.apply(reading(B, 42.0)).changes
        assert (change.event, change.place, change.time) == (Event.MOVED, C, 40.0)
        assert fleet.inventory.placements(C)[0].since == 40.0

    @pytest.mark.parametrize("how", ["read", "remove"])
    def test_no_gpu_vanishes_before_it_arrived(self, fleet: Fleet, how: str) -> None:
        fleet.read(A, 4000.0, ONE)
        step = fleet.inventory.apply(reading(A, 400.0)) if how == "read" else fleet.inventory.remove_node(A, 400.0)
        assert [(change.event, change.time) for change in step.changes] == [(Event.VANISHED, 4000.0)]

    def test_a_conflict_does_not_end_before_it_began(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        for time, place in enumerate((C, A, C)):
            fleet.read(place, 4000.0 + time, ONE)
        assert fleet.inventory.conflicts("west") == 1
        (change,) = fleet.note(fleet.inventory.apply(reading(A, 400.0))).changes  # the clock was set back
        assert (change.event, change.time) == (Event.VANISHED, 4000.0)

    def test_no_gpu_returns_before_it_left(self, fleet: Fleet) -> None:
        fleet.read(A, 1000.0, ONE)
        fleet.read(A, 4000.0)
        (change,) = fleet.inventory.apply(reading(B, 400.0, ONE)).changes
        assert (change.event, change.time) == (Event.MOVED, 4000.0)

    def test_no_gpu_returns_before_its_cluster_was_removed(self, fleet: Fleet) -> None:
        fleet.read(A, 1000.0, ONE, TWO)
        fleet.read(A, 4000.0, ONE)
        fleet.inventory.remove_cluster("east", 4010.0)
        changes = fleet.inventory.apply(reading(C, 400.0, ONE, TWO)).changes  # the clock was set back
        assert [(change.event, change.time) for change in changes] == [
            (Event.APPEARED, 4010.0),
            (Event.APPEARED, 4000.0),
        ]

    def test_since_a_gpu_returned_its_earlier_absence_no_longer_counts(self, fleet: Fleet) -> None:
        fleet.read(A, 4000.0, ONE)
        fleet.inventory.remove_cluster("east", 4010.0)
        fleet.read(C, 400.0, ONE)
        fleet.inventory.remove_cluster("west", 4020.0)
        fleet.read(B, 5000.0, ONE)
        (placement,) = fleet.inventory.placements(B)
        assert placement.since == 5000.0


class TestConflicts:
    """A GPU that two nodes confirm is published in both places."""

    def conflict(self, fleet: Fleet, one: Place = A, other: Place = C) -> None:
        fleet.read(one, 10.0, ONE)
        fleet.read(other, 20.0, ONE)
        fleet.read(one, 21.0, ONE)
        fleet.read(other, 22.0, ONE)

    def test_a_gpu_that_both_nodes_confirm_is_in_conflict(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.read(C, 20.0, ONE)
        assert fleet.read(A, 21.0, ONE) == []
        assert fleet.verify == [C]  # it may have been read before the GPU went back
        assert fleet.read(C, 22.0, ONE) == [(Event.APPEARED, "GPU-1", C, None)]
        assert fleet.homes("GPU-1") == [A, C]
        assert (fleet.inventory.conflicts("east"), fleet.inventory.conflicts("west")) == (1, 1)
        assert (fleet.inventory.claims("east"), fleet.verify) == (0, [])
        assert fleet.read(A, 30.0, ONE) == []
        assert fleet.read(C, 40.0, ONE) == []
        assert fleet.verify == []

    def test_a_reading_older_than_a_return_is_not_a_conflict(self, fleet: Fleet) -> None:
        fleet.apply(reading(A, 10.0, ONE), started=99.0, ended=100.0)
        fleet.apply(reading(B, 20.0, ONE), started=95.0, ended=101.0)
        fleet.apply(reading(A, 21.0, ONE), started=101.0, ended=102.0)
        assert fleet.verify == [B]
        assert fleet.apply(reading(B, 22.0), started=102.0, ended=103.0) == []
        assert (fleet.homes("GPU-1"), fleet.inventory.conflicts("east")) == ([A], 0)

    def test_a_conflict_inside_one_cluster_counts_once(self, fleet: Fleet) -> None:
        self.conflict(fleet, A, B)
        assert fleet.inventory.conflicts("east") == 1

    @pytest.mark.parametrize(("loser", "winner"), [(A, C), (C, A)])
    def test_a_conflict_ends_when_a_reading_lacks_the_gpu(self, fleet: Fleet, loser: Place, winner: Place) -> None:
        self.conflict(fleet)
        assert fleet.read(loser, 40.0) == [(Event.VANISHED, "GPU-1", loser, None)]
        assert fleet.homes("GPU-1") == [winner]
        assert (fleet.inventory.conflicts("east"), fleet.inventory.conflicts("west")) == (0, 0)

    def test_a_conflict_ends_when_a_node_is_removed(self, fleet: Fleet) -> None:
        self.conflict(fleet)
        changes = fleet.inventory.remove_node(C, 40.0).changes
        assert short(changes) == [(Event.VANISHED, "GPU-1", C, None)]
        assert fleet.homes("GPU-1") == [A]
        assert (fleet.inventory.conflicts("east"), fleet.inventory.conflicts("west")) == (0, 0)

    def test_a_gpu_in_conflict_counts_once_in_each_cluster(self, fleet: Fleet) -> None:
        self.conflict(fleet, A, B)
        fleet.read(C, 30.0, ONE)
        fleet.read(B, 31.0, ONE, TWO)
        assert fleet.homes("GPU-1") == [A, B, C]
        assert (fleet.inventory.count("east"), fleet.inventory.count("west")) == (2, 1)

    def test_one_reading_removes_nothing_from_another_cluster(self, fleet: Fleet) -> None:
        victims = [gpu(f"v{number}", f"s{number}") for number in range(100)]
        fleet.read(A, 10.0, *victims)
        for turn in range(3):
            assert fleet.read(C, 20.0 + turn, *victims) == []
            assert len(fleet.uuids(A)) == 100
            assert fleet.read(A, 20.5 + turn, *victims) == []
            assert fleet.read(C, 20.7 + turn) == []


class TestSerials:
    """One serial belongs to one GPU, but for the boards that share theirs."""

    def test_one_serial_under_two_uuids_is_a_conflict(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, gpu("1", "same"))
        fleet.read(C, 20.0, gpu("2", "same"))
        assert (fleet.inventory.conflicts("east"), fleet.inventory.conflicts("west")) == (1, 1)
        assert {placement.place for placement in fleet.inventory.find(serial="same")} == {A, C}
        fleet.read(C, 30.0)
        assert (fleet.inventory.conflicts("east"), fleet.inventory.conflicts("west")) == (0, 0)

    def test_a_third_node_joins_and_leaves_a_conflict_by_serial(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, gpu("1", "same"))
        fleet.read(B, 20.0, gpu("2", "same"))
        fleet.read(C, 30.0, gpu("3", "same"))
        assert (fleet.inventory.conflicts("east"), fleet.inventory.conflicts("west")) == (2, 1)
        fleet.read(A, 40.0)
        assert (fleet.inventory.conflicts("east"), fleet.inventory.conflicts("west")) == (1, 1)
        fleet.read(B, 50.0)
        assert (fleet.inventory.conflicts("east"), fleet.inventory.conflicts("west")) == (0, 0)

    def test_gpus_without_a_serial_are_not_in_conflict(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, gpu("1"))
        fleet.read(B, 20.0, gpu("2"))
        assert fleet.inventory.conflicts("east") == 0

    def test_a_board_of_two_gpus_shares_its_serial(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, gpu("1", "board"), gpu("2", "board"))
        assert fleet.inventory.conflicts("east") == 0
        assert [placement.gpu.uuid for placement in fleet.inventory.find(serial="board")] == ["GPU-1", "GPU-2"]

    def test_a_serial_shared_only_once_conflicts_again(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, gpu("1", "board"), gpu("2", "board"))
        fleet.read(A, 20.0, gpu("1", "board"))
        fleet.read(B, 30.0, gpu("2", "board"))
        assert fleet.inventory.conflicts("east") == 2

    def test_a_node_that_repeats_a_serial_hides_no_conflict(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, gpu("1", "same"))
        fleet.read(B, 20.0, gpu("2", "same"))
        fleet.read(C, 30.0, gpu("3", "same"), gpu("4", "same"))
        assert (fleet.inventory.conflicts("east"), fleet.inventory.conflicts("west")) == (2, 2)
        fleet.read(C, 40.0)
        assert (fleet.inventory.conflicts("east"), fleet.inventory.conflicts("west")) == (2, 0)

    def test_two_declared_halves_of_a_board_are_not_a_conflict(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, gpu("1", "board", multi_gpu_board=True))
        fleet.read(B, 20.0, gpu("2", "board", multi_gpu_board=True))
        assert fleet.inventory.conflicts("east") == 0
        fleet.read(B, 30.0, gpu("2", "board"))  # the evidence is gone
        assert fleet.inventory.conflicts("east") == 2

    def test_a_board_of_four_can_be_split_into_halves(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, gpu("1", "board"), gpu("2", "board"))
        fleet.read(B, 20.0, gpu("3", "board"), gpu("4", "board"))
        assert fleet.inventory.conflicts("east") == 0
        fleet.read(B, 30.0, gpu("3", "board"))  # it alone does not look like a board of several
        assert fleet.inventory.conflicts("east") == 3

    SEAT: ClassVar[dict[str, str]] = {"chassis": "182", "tray": "5", "slot": "15"}

    def test_two_modules_of_one_tray_can_share_a_serial(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, gpu("1", "chip", module="1", **self.SEAT))
        fleet.read(B, 20.0, gpu("2", "chip", module="2", **self.SEAT))
        assert fleet.inventory.conflicts("east") == 0

    @pytest.mark.parametrize("elsewhere", [{"tray": "6"}, {"slot": "16"}, {"chassis": "183"}, {"module": "1"}])
    def test_different_trays_or_equal_modules_are_not_one_board(self, fleet: Fleet, elsewhere: dict[str, str]) -> None:
        both: Any = {"module": "2", "multi_gpu_board": True, **self.SEAT}
        fleet.read(A, 10.0, gpu("1", "chip", **both | {"module": "1"}))
        fleet.read(B, 20.0, gpu("2", "chip", **both | elsewhere))
        assert fleet.inventory.conflicts("east") == 2

    def test_a_serial_on_five_nodes_is_a_conflict(self, fleet: Fleet) -> None:
        for index in range(12):
            fleet.read(Place("east", f"n{index}"), 10.0 + index, gpu(str(index), "board", multi_gpu_board=True))
            assert fleet.inventory.conflicts("east") == (0 if index < 4 else index + 1)
        for index in range(12):
            fleet.read(Place("east", f"n{index}"), 30.0 + index)
            assert fleet.inventory.conflicts("east") == (0 if index >= 7 else 11 - index)


class TestLastKnown:
    """A value that a GPU no longer reports stays known, and is marked."""

    FULL: ClassVar[Gpu] = Gpu(uuid="GPU-1", serial="s1", model="H100", chassis="c", board_part_number="b")

    def test_an_unreadable_serial_is_kept_and_marked(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, self.FULL)
        kept = msgspec.structs.replace(self.FULL, last_known=(LastReport("serial", 10.0),))
        assert fleet.read(A, 20.0, msgspec.structs.replace(self.FULL, serial=None)) == [
            (Event.ALTERED, "GPU-1", A, None)
        ]
        assert [placement.gpu for placement in fleet.inventory.find(serial="s1")] == [kept]
        assert fleet.read(A, 30.0, msgspec.structs.replace(self.FULL, serial=None)) == []
        assert fleet.read(A, 40.0, self.FULL) == [(Event.ALTERED, "GPU-1", A, None)]
        assert fleet.inventory.find(serial="s1")[0].gpu == self.FULL

    def test_a_gpu_carries_only_its_own_facts(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, self.FULL)
        fleet.read(B, 20.0, Gpu(uuid="GPU-1"))
        (placement,) = fleet.inventory.placements(B)
        assert (placement.gpu.serial, placement.gpu.chassis) == ("s1", None)
        assert placement.gpu.last_known == tuple(
            LastReport(field, 10.0) for field in ("serial", "model", "board_part_number")
        )

    def test_another_cluster_adds_nothing_to_a_gpu(self, fleet: Fleet) -> None:
        fleet.read(Place("hostile", "h"), 10.0, msgspec.structs.replace(self.FULL, serial="FAKE", model="Fake"))
        fleet.read(A, 20.0, Gpu(uuid="GPU-1"))
        (placement,) = fleet.inventory.placements(A)
        assert placement.gpu == Gpu(uuid="GPU-1")

    def test_a_vgpu_keeps_no_facts_of_a_board(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, self.FULL)
        fleet.read(A, 20.0, Gpu(uuid="GPU-1", virtual=True))
        assert fleet.inventory.find(uuid="GPU-1")[0].gpu == Gpu(uuid="GPU-1", virtual=True)


def at(name: str, bus: str, **facts: Any) -> Gpu:
    return Gpu(uuid=f"GPU-{name}", serial=f"s{name}", pci_bus_id=f"00000000:{bus}:00.0", **facts)


class TestLostGpus:
    """A GPU that does not respond stays in its place by name, and is not counted as found."""

    ONE, TWO = at("1", "18"), at("2", "3B")
    BUS_OF_TWO = GpuRef(None, "00000000:3B:00.0")

    def state(self, fleet: Fleet) -> tuple[int | None, int, set[str]]:
        entry = fleet.inventory.node(A)
        assert entry is not None
        return entry.found, entry.lost, {gpu.uuid for gpu in entry.gpus}

    def silent(self, fleet: Fleet) -> dict[str, float]:
        entry = fleet.inventory.node(A)
        assert entry is not None
        return {one.pci_bus_id: one.since for one in entry.silent}

    def read(
        self,
        fleet: Fleet,
        time: float,
        *gpus: Gpu,
        boot: str = "boot",
        capacity: int | None = None,
        **options: Any,
    ) -> list[Any]:
        one = reading(A, time, *gpus, node=NodeInfo(name="a", boot_id=boot, capacity=capacity))
        one = msgspec.structs.replace(
            one, fingerprint=msgspec.structs.replace(one.fingerprint, boot_id=boot), **options
        )
        return short(fleet.note(fleet.inventory.apply(one)).changes)

    def test_a_lost_gpu_is_identified_by_its_bus_address(self, fleet: Fleet) -> None:
        self.read(fleet, 10.0, self.ONE, self.TWO)
        assert self.read(fleet, 20.0, self.ONE, lost=(self.BUS_OF_TWO,)) == [(Event.HEALTH, "GPU-2", A, None)]
        assert self.state(fleet) == (1, 1, {"GPU-1", "GPU-2"})
        (placement,) = fleet.inventory.find(serial="s2")
        assert (placement.lost, placement.since, placement.confirmed) == (True, 10.0, 10.0)
        assert placement.lost_since == 20.0
        (healthy,) = fleet.inventory.find(serial="s1")
        assert (healthy.lost, healthy.confirmed, healthy.lost_since) == (False, 20.0, None)

    def test_a_gpu_stays_lost_until_it_answers(self, fleet: Fleet) -> None:
        self.read(fleet, 10.0, self.ONE, self.TWO)
        for time in (20.0, 30.0):
            self.read(fleet, time, self.ONE, lost=(self.BUS_OF_TWO,))
        (placement,) = fleet.inventory.find(serial="s2")
        assert (placement.confirmed, placement.lost_since) == (10.0, 20.0)
        assert self.read(fleet, 40.0, self.ONE, self.TWO) == [(Event.HEALTH, "GPU-2", A, None)]
        assert self.state(fleet) == (2, 0, {"GPU-1", "GPU-2"})
        (placement,) = fleet.inventory.find(serial="s2")
        assert (placement.since, placement.lost_since) == (10.0, None)

    def test_a_gpu_is_lost_since_its_loss_was_recorded(self, fleet: Fleet) -> None:
        self.read(fleet, 10.0, self.ONE, self.TWO)
        self.read(fleet, 20.0, self.ONE, partial=True, unread=(GpuRef("GPU-2", "00000000:3B:00.0"),))
        assert fleet.inventory.find(serial="s2")[0].lost_since is None
        for time in (30.0, 31.0):
            step = fleet.note(fleet.inventory.read_failed(A, ReadFailure.TIMEOUT, time, lost=(self.BUS_OF_TWO,)))
            assert [change.time for change in step.changes] == ([30.0] if time == 30.0 else [])
        self.read(fleet, 40.0, self.ONE, lost=(self.BUS_OF_TWO,))
        self.read(fleet, 50.0, self.ONE, self.TWO, lost=(GpuRef("GPU-2", "00000000:3B:00.0"),))
        (placement,) = fleet.inventory.find(serial="s2")
        assert (placement.confirmed, placement.lost_since) == (10.0, 30.0)

    def test_it_vanishes_from_a_reading_that_does_not_name_it(self, fleet: Fleet) -> None:
        self.read(fleet, 10.0, self.ONE, self.TWO)
        self.read(fleet, 20.0, self.ONE, lost=(self.BUS_OF_TWO,))
        assert self.read(fleet, 30.0, self.ONE) == [(Event.VANISHED, "GPU-2", A, None)]
        assert self.state(fleet) == (1, 0, {"GPU-1"})

    def test_a_listed_gpu_without_a_uuid_is_lost(self, fleet: Fleet) -> None:
        self.read(fleet, 10.0, self.ONE, self.TWO)
        self.read(fleet, 20.0, self.ONE, unidentified=(UnidentifiedGpu(pci_bus_id="0000:3b:00.0"),))
        assert self.state(fleet) == (1, 1, {"GPU-1", "GPU-2"})

    def test_a_gpu_lost_at_first_sight_is_placed(self, fleet: Fleet) -> None:
        self.read(fleet, 10.0, self.ONE, self.TWO, lost=(GpuRef("GPU-2", "00000000:3B:00.0"),))
        assert self.state(fleet) == (1, 1, {"GPU-1", "GPU-2"})

    def test_a_partial_reading_loses_only_what_it_asked_for(self, fleet: Fleet) -> None:
        three = at("3", "4C")
        self.read(fleet, 10.0, self.ONE, self.TWO, three)
        changes = self.read(fleet, 20.0, self.ONE, partial=True, unread=(GpuRef("GPU-3", "00000000:4C:00.0"),))
        assert changes == [(Event.HEALTH, "GPU-2", A, None)]
        assert self.state(fleet) == (2, 1, {"GPU-1", "GPU-2", "GPU-3"})
        (unread,) = fleet.inventory.find(serial="s3")
        assert (unread.lost, unread.confirmed) == (False, 10.0)

    def test_an_address_survives_a_reboot_of_the_same_machine(self, fleet: Fleet) -> None:
        self.read(fleet, 10.0, self.ONE, self.TWO)
        changes = self.read(fleet, 20.0, self.ONE, boot="2", lost=(self.BUS_OF_TWO,))
        assert changes == [(Event.HEALTH, "GPU-2", A, None)]
        assert self.state(fleet) == (1, 1, {"GPU-1", "GPU-2"})

    def test_another_machine_does_not_mark_old_gpus_lost(self, fleet: Fleet) -> None:
        self.read(fleet, 10.0, self.ONE, self.TWO)
        other = at("9", "18")
        changes = self.read(fleet, 20.0, other, boot="2", partial=True, lost=(self.BUS_OF_TWO,))
        assert sorted(changes, key=repr) == [
            (Event.APPEARED, "GPU-9", A, None),
            (Event.VANISHED, "GPU-1", A, None),
            (Event.VANISHED, "GPU-2", A, None),
        ]
        assert self.state(fleet) == (1, 1, {"GPU-9"})
        assert self.silent(fleet) == {"00000000:3B:00.0": 20.0}

    def test_no_gpu_is_lost_on_an_unknown_machine(self, fleet: Fleet) -> None:
        self.read(fleet, 10.0, self.TWO)
        assert self.read(fleet, 20.0, boot="2", partial=True, lost=(self.BUS_OF_TWO,)) == []
        assert self.state(fleet) == (0, 1, {"GPU-2"})  # it may be another one
        assert not fleet.inventory.find(uuid="GPU-2")[0].lost
        assert self.silent(fleet) == {"00000000:3B:00.0": 20.0}

    def test_a_lost_gpu_that_answers_elsewhere_has_moved(self, fleet: Fleet) -> None:
        self.read(fleet, 10.0, self.ONE, self.TWO)
        self.read(fleet, 20.0, self.ONE, lost=(self.BUS_OF_TWO,))
        assert fleet.read(B, 30.0, self.TWO) == [(Event.MOVED, "GPU-2", B, A), (Event.HEALTH, "GPU-2", B, None)]
        assert self.state(fleet) == (1, 0, {"GPU-1"})

    def test_another_cluster_only_claims_a_lost_gpu(self, fleet: Fleet) -> None:
        self.read(fleet, 10.0, self.ONE, self.TWO)
        self.read(fleet, 20.0, self.ONE, lost=(self.BUS_OF_TWO,))
        assert fleet.read(C, 30.0, self.TWO) == []
        assert self.read(fleet, 40.0, self.ONE, lost=(self.BUS_OF_TWO,)) == []
        assert (self.state(fleet), fleet.inventory.claims("west")) == ((1, 1, {"GPU-1", "GPU-2"}), 1)
        moved, answers = self.read(fleet, 50.0, self.ONE)
        assert (moved, answers[0]) == ((Event.MOVED, "GPU-2", C, A), Event.HEALTH)

    def test_a_gpu_that_is_lost_when_it_is_claimed_has_moved(self, fleet: Fleet) -> None:
        self.read(fleet, 10.0, self.ONE, self.TWO)
        assert fleet.read(B, 20.0, self.TWO) == []
        assert self.read(fleet, 30.0, self.ONE, lost=(self.BUS_OF_TWO,)) == [(Event.MOVED, "GPU-2", B, A)]
        assert self.state(fleet) == (1, 1, {"GPU-1"})  # what is at its address now is not known

    def test_a_failed_reading_can_name_a_lost_gpu(self, fleet: Fleet) -> None:
        self.read(fleet, 10.0, self.TWO, boot="")
        fleet.inventory.read_failed(A, ReadFailure.EXIT_STATUS, 20.0, "no handle", (self.BUS_OF_TWO,))
        assert self.state(fleet) == (0, 1, {"GPU-2"})
        entry = fleet.inventory.node(A)
        assert entry is not None
        assert entry.failing == Failing(ReadFailure.EXIT_STATUS, 20.0, "no handle")
        self.read(fleet, 30.0, self.TWO, boot="")
        assert self.state(fleet) == (1, 0, {"GPU-2"})

    @pytest.mark.parametrize(
        "how",
        [
            {"lost": (BUS_OF_TWO,)},
            {"lost": (BUS_OF_TWO,), "unidentified": (UnidentifiedGpu(pci_bus_id="00000000:3B:00.0"),)},
            {"unidentified": (UnidentifiedGpu(pci_bus_id="0000:3b:00.0"),)},
            {"lost": (BUS_OF_TWO,), "partial": True},
        ],
    )
    @pytest.mark.parametrize("capacity", [None, 2])
    def test_an_unread_lost_gpu_is_known_by_its_address(
        self, fleet: Fleet, how: dict[str, Any], capacity: int | None
    ) -> None:
        assert self.read(fleet, 10.0, self.ONE, capacity=capacity, **how) == [(Event.APPEARED, "GPU-1", A, None)]
        assert self.state(fleet) == (1, 1, {"GPU-1"})
        self.read(fleet, 20.0, self.ONE, capacity=capacity, **how)
        assert self.silent(fleet) == {"00000000:3B:00.0": 10.0}

    def test_an_unread_lost_gpu_ends_when_its_address_answers(self, fleet: Fleet) -> None:
        self.read(fleet, 10.0, self.ONE, lost=(self.BUS_OF_TWO,))
        assert self.read(fleet, 20.0, self.ONE, self.TWO) == [(Event.APPEARED, "GPU-2", A, None)]
        assert self.state(fleet) == (2, 0, {"GPU-1", "GPU-2"})
        self.read(fleet, 30.0, self.ONE, lost=(self.BUS_OF_TWO,))  # known by now
        assert (self.state(fleet), self.silent(fleet)) == ((1, 1, {"GPU-1", "GPU-2"}), {})

    def test_an_unread_lost_gpu_ends_if_unnamed_after_reboot(self, fleet: Fleet) -> None:
        self.read(fleet, 10.0, self.ONE, lost=(self.BUS_OF_TWO,))
        self.read(fleet, 20.0, self.ONE)
        assert self.silent(fleet) == {"00000000:3B:00.0": 10.0}
        self.read(fleet, 30.0, self.ONE, boot="2", lost=(self.BUS_OF_TWO,))
        assert self.silent(fleet) == {"00000000:3B:00.0": 10.0}
        self.read(fleet, 40.0, self.ONE, boot="3")
        assert (self.state(fleet), self.silent(fleet)) == ((1, 0, {"GPU-1"}), {})

    def test_an_unnamed_lost_gpu_is_kept_only_within_capacity(self, fleet: Fleet) -> None:
        self.read(fleet, 10.0, self.ONE, lost=(self.BUS_OF_TWO,), capacity=2)
        self.read(fleet, 20.0, self.ONE, lost=(GpuRef(None, "00000000:4C:00.0"),), capacity=2)
        assert self.silent(fleet) == {"00000000:4C:00.0": 20.0}
        self.read(fleet, 30.0, self.ONE, at("5", "5D"), capacity=2)
        assert self.state(fleet) == (2, 0, {"GPU-1", "GPU-5"})

    def test_a_node_where_no_gpu_answered_has_their_addresses(self, fleet: Fleet) -> None:
        fleet.inventory.set_node("east", NodeInfo(name="a", boot_id="boot", capacity=2))
        both = (GpuRef(None, "00000000:18:00.0"), self.BUS_OF_TWO)
        fleet.note(fleet.inventory.read_failed(A, ReadFailure.EXIT_STATUS, 10.0, "no handle", both))
        assert fleet.touched == [A]
        assert self.state(fleet) == (None, 2, set())
        fleet.inventory.read_failed(A, ReadFailure.TIMEOUT, 20.0, "hangs")
        assert self.silent(fleet) == {"00000000:18:00.0": 10.0, "00000000:3B:00.0": 10.0}
        self.read(fleet, 30.0, self.ONE, lost=(self.BUS_OF_TWO,))
        assert (self.state(fleet), self.silent(fleet)) == ((1, 1, {"GPU-1"}), {"00000000:3B:00.0": 10.0})

    @pytest.mark.parametrize(("uid", "stays"), [("u", True), ("other", False)])
    def test_a_returning_node_has_its_lost_gpus_again(self, fleet: Fleet, uid: str, stays: bool) -> None:
        fleet.inventory.set_node("east", NodeInfo(name="a", uid="u"))
        fleet.inventory.read_failed(A, ReadFailure.EXIT_STATUS, 10.0, "no handle", (self.BUS_OF_TWO,))
        fleet.inventory.unlist_node(A, 20.0)
        assert fleet.inventory.node(A) is None
        fleet.inventory.set_node("east", NodeInfo(name="a", uid=uid))
        assert self.silent(fleet) == ({"00000000:3B:00.0": 10.0} if stays else {})

    def test_a_failed_reading_after_a_reboot_shows_no_health(self, fleet: Fleet) -> None:
        self.read(fleet, 10.0, self.ONE, self.TWO)
        fleet.inventory.set_node("east", NodeInfo(name="a", boot_id="2", capacity=2))
        fleet.inventory.read_failed(A, ReadFailure.EXIT_STATUS, 20.0, "no handle", (self.BUS_OF_TWO,))
        assert self.state(fleet) == (1, 1, {"GPU-1", "GPU-2"})
        assert not fleet.inventory.find(uuid="GPU-2")[0].lost

    def test_another_inventory_adopts_a_lost_gpu(self, fleet: Fleet) -> None:
        self.read(fleet, 10.0, self.ONE, lost=(self.BUS_OF_TWO,))
        recorded = fleet.inventory.node(A)
        assert recorded is not None
        other = Inventory()
        other.adopt(recorded)
        assert other.node(A) == recorded

    def test_another_inventory_adopts_lost_gpus_of_an_unread_node(self, fleet: Fleet) -> None:
        fleet.inventory.set_node("east", NodeInfo(name="a"))
        fleet.inventory.read_failed(A, ReadFailure.EXIT_STATUS, 10.0, "no handle", (self.BUS_OF_TWO,))
        recorded = fleet.inventory.node(A)
        assert recorded is not None
        other = Inventory()
        other.adopt(recorded)
        found = other.node(A)
        assert found is not None
        assert found.silent == recorded.silent

    def test_a_partial_reading_keeps_the_versions(self, fleet: Fleet) -> None:
        self.read(fleet, 10.0, self.ONE, driver_version="570", cuda_version="12.8")
        for partial, kept in ((True, ("570", "12.8")), (False, (None, None))):
            self.read(fleet, 20.0, self.ONE, driver_version=None, cuda_version=None, partial=partial)
            entry = fleet.inventory.node(A)
            assert entry is not None
            assert (entry.driver_version, entry.cuda_version) == kept


class TestNodes:
    """What Kubernetes says of a node, before and between readings."""

    def test_a_node_may_be_known_before_its_first_reading(self, fleet: Fleet) -> None:
        fleet.note(fleet.inventory.set_node("east", NodeInfo(name="a", capacity=8)))
        assert fleet.touched == [A]
        entry = fleet.inventory.node(A)
        assert entry is not None
        assert (entry.found, entry.time, entry.gpus, entry.chassis) == (None, None, (), "")
        assert fleet.inventory.known("east") == {}

    def test_only_a_difference_updates_a_node(self, fleet: Fleet) -> None:
        fleet.inventory.set_node("east", NodeInfo(name="a", capacity=8))
        assert fleet.inventory.set_node("east", NodeInfo(name="a", capacity=8)) == Step()
        fleet.note(fleet.inventory.set_node("east", NodeInfo(name="a", capacity=7)))
        assert fleet.touched == [A]

    def test_the_newest_facts_win_regardless_of_source(self, fleet: Fleet) -> None:
        fleet.inventory.set_node("east", NodeInfo(name="a", capacity=8))
        fleet.inventory.apply(reading(A, 10.0, ONE, node=NodeInfo(name="a", capacity=7)))
        entry = fleet.inventory.node(A)
        assert entry is not None
        assert entry.node.capacity == 7
        fleet.inventory.set_node("east", NodeInfo(name="a", capacity=6))
        entry = fleet.inventory.node(A)
        assert entry is not None
        assert (entry.node.capacity, entry.gpus) == (6, (ONE,))

    def test_the_chassis_is_the_one_that_the_gpus_agree_on(self, fleet: Fleet) -> None:
        for gpus, expected in [
            ((), ""),
            ((gpu("1"),), ""),
            ((gpu("1", chassis="x"), gpu("2", chassis="x"), gpu("3")), "x"),
            ((gpu("1", chassis="y"), gpu("2", chassis="x")), "x,y"),
        ]:
            fleet.read(A, 10.0, *gpus)
            entry = fleet.inventory.node(A)
            assert entry is not None
            assert entry.chassis == expected

    def test_why_a_node_cannot_be_read_is_kept_and_counted(self, fleet: Fleet) -> None:
        inventory = fleet.inventory

        def unread() -> tuple[Unread | None, dict[str, int]]:
            counts = {reason.value: inventory.unread("east", reason) for reason in UNREAD_REASONS}
            entry = inventory.node(A)
            assert entry is not None
            return entry.unread, {reason: count for reason, count in counts.items() if count}

        fleet.inventory.set_node("east", NodeInfo(name="a", capacity=8))
        assert unread() == (Unread(Uncovered.PENDING), {"pending": 1})
        inventory.set_uncovered(A, Uncovered.NO_POD, 5.0)
        assert unread() == (Unread(Uncovered.NO_POD, 5.0), {"no_pod": 1})
        inventory.set_uncovered(A, Uncovered.POD_NOT_READY, 6.0)
        assert unread() == (Unread(Uncovered.POD_NOT_READY, 5.0), {"pod_not_ready": 1})
        inventory.set_uncovered(A, None, 7.0)
        inventory.read_failed(A, ReadFailure.TIMEOUT, 8.0)
        assert unread() == (Unread(ReadFailure.TIMEOUT, 8.0), {"timeout": 1})
        inventory.set_uncovered(A, ReadFailure.NO_CONTAINER, 9.0)
        assert unread() == (Unread(ReadFailure.NO_CONTAINER, 9.0), {"no_container": 1})
        inventory.set_uncovered(A, None, 10.0)
        fleet.read(A, 11.0, ONE)
        assert unread() == (None, {})
        inventory.set_uncovered(A, Uncovered.NO_POD, 12.0)
        inventory.remove_node(A, 13.0)
        assert inventory.unread("east", Uncovered.NO_POD) == 0

    def test_reasons_of_unknown_or_unchanged_nodes_are_ignored(self, fleet: Fleet) -> None:
        assert fleet.inventory.set_uncovered(A, Uncovered.NO_POD, 5.0) == Step()
        fleet.read(A, 10.0, ONE)
        assert fleet.inventory.set_uncovered(A, None, 11.0) == Step()
        fleet.inventory.set_uncovered(A, Uncovered.NO_POD, 12.0)
        assert fleet.inventory.set_uncovered(A, Uncovered.NO_POD, 13.0) == Step()

    def test_the_capacity_found_by_readings_is_kept(self, fleet: Fleet) -> None:
        sharing = Sharing(units=32, labelled=1, most=8, shares=4, complete=True)
        fleet.inventory.apply(msgspec.structs.replace(reading(A, 10.0, ONE), sharing=sharing))
        assert fleet.inventory.known("east") == {"a": Known(fingerprint(A), 10.0, sharing)}

    def test_known_has_the_last_reading_of_each_node(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.read(C, 20.0)
        assert fleet.inventory.known("east") == {"a": Known(fingerprint(A), 10.0)}
        assert fleet.inventory.known("west") == {"c": Known(fingerprint(C), 20.0)}
        assert fleet.inventory.known("north") == {}

    @pytest.mark.parametrize(
        ("listed", "boot_id", "boards"), [((), "b1", 8), ((), "b2", None), (None, "b1", None), (None, "b2", None)]
    )
    def test_known_has_the_capacity_that_slices_showed_since_the_node_booted(
        self, fleet: Fleet, listed: tuple[GpuRef, ...] | None, boot_id: str, boards: int | None
    ) -> None:
        node = NodeInfo(name="a", capacity=8, boot_id=boot_id, listed=listed)
        fleet.inventory.apply(reading(A, 10.0, ONE, node=node))  # in the boot b1
        assert fleet.inventory.known("east")["a"].boards == boards


class TestRemoval:
    """Nodes and clusters that are gone."""

    def test_the_gpus_of_a_removed_node_vanish(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        assert fleet.inventory.remove_node(A, 20.0) == Step(
            changes=(
                Change(
                    event=Event.VANISHED,
                    time=20.0,
                    gpu=ONE,
                    place=A,
                    machine="i-a",
                    source="gpu-operator/pod-a",
                    confirmed=10.0,
                ),
            ),
            nodes={A: None},
        )
        assert fleet.inventory.node(A) is None
        assert fleet.inventory.find(serial="s1") == []
        assert list(fleet.inventory.clusters()) == []

    def test_removing_an_unknown_node_does_nothing(self, fleet: Fleet) -> None:
        assert fleet.inventory.remove_node(A, 10.0) == fleet.inventory.unlist_node(A, 10.0) == Step()

    def test_a_node_without_a_reading_is_removed_without_a_change(self, fleet: Fleet) -> None:
        fleet.inventory.set_node("east", NodeInfo(name="a"))
        assert fleet.inventory.remove_node(A, 10.0) == Step(nodes={A: None})

    def test_a_gpu_of_a_removed_node_may_move(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.inventory.remove_node(A, 20.0)
        assert fleet.read(B, 30.0, ONE) == [(Event.MOVED, "GPU-1", B, A)]

    def test_a_node_with_the_same_name_starts_empty(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.read(B, 20.0, ONE)
        fleet.inventory.remove_node(A, 25.0)
        assert fleet.read(A, 30.0, ONE) == []
        assert fleet.read(B, 31.0) == [(Event.MOVED, "GPU-1", A, B)]
        assert fleet.inventory.conflicts("east") == 0

    def test_a_removed_cluster_is_forgotten_with_its_absent_gpus(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE, TWO)
        fleet.read(A, 20.0, TWO)
        fleet.read(B, 20.0, THREE)
        step = fleet.note(fleet.inventory.remove_cluster("east", 30.0))
        assert step.removed_cluster == "east"
        assert short(step.changes) == [(Event.VANISHED, "GPU-2", A, None), (Event.VANISHED, "GPU-3", B, None)]
        assert fleet.touched == [A, B]
        assert list(fleet.inventory.clusters()) == []
        assert fleet.read(C, 40.0, ONE, TWO) == [
            (Event.APPEARED, "GPU-1", C, None),
            (Event.APPEARED, "GPU-2", C, None),
        ]

    def test_the_claims_of_a_removed_cluster_end(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.read(C, 20.0, TWO, ONE)
        step = fleet.inventory.remove_cluster("west", 30.0)
        assert short(step.changes) == [(Event.VANISHED, "GPU-2", C, None)]
        assert (fleet.homes("GPU-1"), fleet.inventory.claims("east")) == ([A], 0)

    def test_in_a_removed_cluster_nothing_moves(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.read(B, 20.0, ONE)
        step = fleet.inventory.remove_cluster("east", 30.0)
        assert short(step.changes) == [(Event.VANISHED, "GPU-1", A, None)]
        assert fleet.inventory.last_place("GPU-1") is None

    def test_only_the_silent_gpus_of_a_removed_cluster_are_forgotten(self) -> None:
        inventory = Inventory()
        for place in (A, C):
            inventory.set_node(place.cluster, NodeInfo(name=place.node, uid="1", boot_id="b"))
            lost = (GpuRef(pci_bus_id="00000000:07:00.0"),)
            inventory.read_failed(place, ReadFailure.EXIT_STATUS, 10.0, lost=lost)
            inventory.unlist_node(place, 20.0)
        inventory.remove_cluster("west", 30.0)
        for place, count in ((A, 1), (C, 0)):
            inventory.set_node(place.cluster, NodeInfo(name=place.node, uid="1", boot_id="b"))
            state = inventory.node(place)
            assert state is not None
            assert len(state.silent) == count

    def test_gpus_absent_from_a_node_are_in_the_order_in_which_they_left(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE, TWO)
        fleet.read(A, 20.0, ONE)
        fleet.read(A, 30.0)
        assert [(uuid, one.time) for uuid, one in fleet.inventory.absent_from(A).items()] == [
            ("GPU-2", 20.0),
            ("GPU-1", 30.0),
        ]
        assert fleet.inventory.absent_from(B) == {}

    def test_an_absent_gpu_has_a_last_place(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        assert fleet.inventory.last_place("GPU-1") is None
        fleet.read(A, 20.0)
        assert fleet.inventory.last_place("gpu-1") == A

    def test_the_absent_gpus_of_other_clusters_stay(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, ONE)
        fleet.read(A, 20.0)
        fleet.inventory.remove_cluster("west", 30.0)
        assert fleet.read(B, 40.0, ONE) == [(Event.MOVED, "GPU-1", B, A)]


class TestSearch:
    """Finding a GPU by what is written on it."""

    @pytest.mark.parametrize("uuid", ["GPU-1f", "gpu-1f", "GPU-1F", "Gpu-1F"])
    def test_a_uuid_is_found_in_any_case(self, fleet: Fleet, uuid: str) -> None:
        fleet.read(A, 10.0, gpu("1f", "s1"))
        assert [placement.gpu.serial for placement in fleet.inventory.find(uuid=uuid)] == ["s1"]

    def test_a_chassis_is_found_across_its_nodes(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, gpu("1", chassis="x"), gpu("2", chassis="y"))
        fleet.read(B, 20.0, gpu("3", chassis="x"))
        assert [placement.gpu.uuid for placement in fleet.inventory.find(chassis="x")] == ["GPU-1", "GPU-3"]
        fleet.read(A, 30.0)
        assert [placement.gpu.uuid for placement in fleet.inventory.find(chassis="x")] == ["GPU-3"]

    def test_a_gpu_is_found_by_a_serial_learned_when_moving(self, fleet: Fleet) -> None:
        """When it was claimed there, its home was in another cluster, which adds nothing."""
        near, far = Place("west", "a"), Place("west", "b")
        fleet.read(A, 10.0, gpu("1", "s1"))
        fleet.read(near, 20.0, gpu("1", "s1"))
        fleet.read(far, 30.0, gpu("1", None))
        fleet.read(A, 40.0)
        fleet.read(near, 50.0)
        assert [placement.place for placement in fleet.inventory.find(serial="s1")] == [far]
        fleet.read(far, 60.0)
        assert fleet.inventory.find(serial="s1") == []

    @pytest.mark.parametrize("both", [False, True])
    def test_a_node_that_lost_a_gpu_is_no_place_of_its_serial_and_chassis(self, fleet: Fleet, both: bool) -> None:
        moved, other = gpu("1", "s", chassis="x"), gpu("2", "s" if both else "s2", chassis="x" if both else "y")
        fleet.read(A, 10.0, moved, other)
        fleet.read(B, 20.0, moved)
        fleet.inventory.cannot_verify(A)
        assert fleet.inventory.chassis_places("x") == ((A, B) if both else (B,))
        assert [one.place for one in fleet.inventory.find(serial="s")] == ([A, B] if both else [B])
        fleet.inventory.remove_node(A, 30.0)
        assert [one.place for one in fleet.inventory.find(serial="s")] == [B]

    def test_an_unknown_identifier_is_not_found(self, fleet: Fleet) -> None:
        assert fleet.inventory.find(uuid="GPU-1") == []
        assert fleet.inventory.find(serial="") == []
        assert fleet.inventory.find() == []
        assert fleet.inventory.placements(A) == []
        assert dict(fleet.inventory.nodes("east")) == {}

    def test_only_the_current_serial_and_chassis_find_a_gpu(self, fleet: Fleet) -> None:
        fleet.read(A, 10.0, gpu("1", "old", chassis="x"))
        fleet.read(A, 20.0, gpu("1", "new", chassis="y"))
        assert (fleet.inventory.find(serial="old"), fleet.inventory.find(chassis="x")) == ([], [])
        assert len(fleet.inventory.find(serial="new")) == len(fleet.inventory.find(chassis="y")) == 1


class Naive:
    """The same rules without any index: every query scans everything."""

    def __init__(self) -> None:
        self.gpus: dict[Place, dict[str, Gpu]] = {}  # all that is published
        self.claims: dict[tuple[str, Place], bool] = {}  # in the order of their opening; whether the home has confirmed
        self.repeated: set[tuple[str, Place]] = set()  # claims
        self.arrivals: dict[tuple[str, Place], int] = {}  # which of them came first
        self.absent: dict[str, Place] = {}
        self.facts: dict[str, tuple[Gpu, float]] = {}  # of absent GPUs, with when they were read last
        self.unreadable: set[Place] = set()
        self.unready: set[Place] = set()

    def places(self, uuid: str) -> list[Place]:
        places = [place for place, gpus in self.gpus.items() if uuid in gpus]
        return sorted(places, key=lambda place: self.arrivals[uuid, place])

    def homes(self, uuid: str) -> list[Place]:
        return [place for place in self.places(uuid) if (uuid, place) not in self.claims]

    def claimed(self, cluster: str) -> set[str]:
        uuids = {uuid for uuid, _ in self.claims}
        return {uuid for uuid in uuids if any(place.cluster == cluster for place in self.places(uuid))}

    def claimants(self, uuid: str) -> list[Place]:
        return [place for claimed, place in self.claims if claimed == uuid]

    def apply(self, place: Place, gpus: list[Gpu]) -> set[tuple[Event, str, Place, Place | None]]:  # noqa: C901
        events: set[tuple[Event, str, Place, Place | None]] = set()
        here = self.gpus.setdefault(place, {})
        self.unreadable.discard(place)
        self.unready.discard(place)
        found = {gpu.uuid: gpu for gpu in gpus}
        opened = []
        for uuid, gpu in found.items():
            if uuid not in here:
                self.arrivals[uuid, place] = max(self.arrivals.values(), default=0) + 1
            near = sorted(home for home in self.homes(uuid) if home.cluster == place.cluster)
            was = self.absent.get(uuid)
            if uuid in here:
                gpu = with_last_known(gpu, here[uuid], self.times[place], same_node=True)
            elif near:
                gpu = with_last_known(gpu, self.gpus[near[0]][uuid], self.times[near[0]], same_node=False)
            elif was is not None and was.cluster == place.cluster:
                gpu = with_last_known(gpu, *self.facts[uuid], same_node=was == place)
            found[uuid] = gpu
            if (uuid, place) in self.claims:
                self.repeated.add((uuid, place))
                if self.claims[uuid, place]:  # both have confirmed it
                    del self.claims[uuid, place]
                    events.add((Event.APPEARED, uuid, place, None))
            elif uuid in here:
                for claimant in self.claimants(uuid):
                    self.claims[uuid, claimant] = True
                if here[uuid] != gpu:
                    events.add((Event.ALTERED, uuid, place, None))
            elif self.homes(uuid):
                opened.append(uuid)
                self.claims[uuid, place] = False
                self.repeated.discard((uuid, place))
            else:
                absent = self.absent.pop(uuid, None)
                moved = absent is not None and absent != place
                events.add((Event.MOVED, uuid, place, absent) if moved else (Event.APPEARED, uuid, place, None))
            here[uuid] = gpu
        events |= self.leave(place, here.keys() - found.keys())
        for uuid in opened:
            for home in self.homes(uuid):
                if home in self.unreadable | self.unready and home.cluster == place.cluster:
                    events |= self.leave(home, {uuid})
        return events

    def leave(self, place: Place, uuids: set[str]) -> set[tuple[Event, str, Place, Place | None]]:
        events: set[tuple[Event, str, Place, Place | None]] = set()
        for uuid in uuids:
            gpu = self.gpus[place].pop(uuid)
            if self.claims.pop((uuid, place), None) is not None:
                continue
            claimants = self.claimants(uuid)
            if not self.homes(uuid) and claimants:
                foreign = {claimant: claimant.cluster != place.cluster for claimant in claimants}
                successor = min(claimants, key=lambda one: (foreign[one], (uuid, one) not in self.repeated))
                del self.claims[uuid, successor]
                if successor.cluster == place.cluster:
                    claimed = self.gpus[successor][uuid]
                    self.gpus[successor][uuid] = with_last_known(claimed, gpu, self.times[place], same_node=False)
                for other in self.claimants(uuid):
                    self.claims[uuid, other] = False
                events.add((Event.MOVED, uuid, successor, place))
                continue
            if not self.homes(uuid):
                self.absent[uuid], self.facts[uuid] = place, (gpu, self.times[place])
            events.add((Event.VANISHED, uuid, place, None))
        return events

    def silent(self, place: Place) -> set[tuple[Event, str, Place, Place | None]]:
        """Whatever another node of its cluster claims, a node that cannot answer loses."""
        lost = {
            uuid
            for uuid in self.gpus.get(place, {})
            if (uuid, place) not in self.claims
            and any(claimant.cluster == place.cluster for claimant in self.claimants(uuid))
        }
        return self.leave(place, lost)

    def remove(self, place: Place) -> set[tuple[Event, str, Place, Place | None]]:
        self.unreadable.discard(place)
        self.unready.discard(place)
        events = self.leave(place, set(self.gpus.get(place, {})))
        self.gpus.pop(place, None)
        return events

    times: dict[Place, float]

    def conflicts(self, cluster: str) -> int:
        everything = [
            (place, gpu) for place, gpus in self.gpus.items() for gpu in gpus.values() if place in self.homes(gpu.uuid)
        ]
        reporting = [(place, gpu) for place, gpu in everything if gpu.reports("serial")]

        def shares(place: Place, gpu: Gpu) -> bool:
            others = [other for at, other in everything if at == place and other.uuid != gpu.uuid]
            return gpu.multi_gpu_board or any(other.serial == gpu.serial for other in others)

        def others(place: Place, gpu: Gpu) -> set[Place]:
            same = (at for at, one in reporting if one.serial == gpu.serial and one.uuid != gpu.uuid)
            return {*same} - {place}

        def contested(place: Place, gpu: Gpu) -> bool:
            return any(other.uuid == gpu.uuid for other_place, other in everything if other_place != place) or any(
                other.uuid != gpu.uuid
                and other.serial == gpu.serial is not None
                and gpu.reports("serial")
                and (
                    len(others(place, gpu)) >= 4
                    or not on_one_board(
                        gpu,
                        sharing=shares(place, gpu),
                        other=other,
                        other_sharing=shares(other_place, other),
                        one_cluster=other_place.cluster == place.cluster,
                    )
                )
                for other_place, other in reporting
                if other_place != place
            )

        return len({gpu.uuid for place, gpu in everything if place.cluster == cluster and contested(place, gpu)})


PLACES = [Place(cluster, node) for cluster in ("east", "west") for node in ("a", "b", "c")]
# Few enough that they meet all the time, with serials that clash or are those of boards; some become unreadable.
FLEET = [
    [
        Gpu(
            uuid=f"GPU-{index}",
            serial=serial,
            model=model,
            chassis=chassis,
            tray=tray,
            module=module,
            multi_gpu_board=multi,
        )
        for serial, chassis, tray, module, multi in (
            *((serial, "x", "1", "1", False), (serial, "x", "1", "2", False), (serial, "y", "1", "2", True)),
            *((serial, "x", None, None, True), (serial, None, None, None, True), (serial, None, None, None, False)),
            (None, "x", None, None, False),
        )
    ]
    for index, (serial, model) in enumerate(
        [
            *(("p", "H100"), ("p", "H100"), ("q", "H100"), ("q", "A16")),
            *(("g", "NVIDIA GB200"), ("g", "NVIDIA GB200"), (None, "GTX"), (None, None)),
        ]
    )
]
sightings = st.lists(st.sampled_from(FLEET), unique_by=lambda forms: forms[0].uuid, max_size=4).flatmap(
    lambda chosen: st.tuples(*map(st.sampled_from, chosen))
)


def said(gpu: Gpu) -> dict[str, object]:
    """What the last reading of a GPU said, without what is merely last known."""
    names = [name for name in Gpu.__struct_fields__ if name not in ("uuid", "last_known")]
    return {name: getattr(gpu, name) if gpu.reports(name) else None for name in names}


class InventoryMachine(RuleBasedStateMachine):
    """Random lives of a small fleet, each step compared with the naive model."""

    def __init__(self) -> None:
        super().__init__()
        self.touched: set[Place] = set()
        self.inventory = Inventory()
        self.naive = Naive()
        self.naive.times = {}
        self.nodes: dict[Place, NodeInfo] = {}
        self.clock = 100.0
        self.published = self.view()

    def view(self) -> dict[Place, tuple[Any, ...]]:
        return {
            entry.place: (
                entry.node,
                entry.time,
                entry.failing and entry.failing[:3],  # how often it was tried is no news
                entry.driver_version,
                entry.gpus,
                entry.since,
                entry.claims,
            )
            for cluster in self.inventory.clusters()
            for entry in self.inventory.nodes(cluster).values()
        }

    def tick(self) -> float:
        self.clock += 1.0
        self.touched.clear()
        self.published = self.view()
        return self.clock

    def step(self, step: Step) -> tuple[Change, ...]:
        """Note the nodes that a step touched; they are in it as they are now."""
        self.touched.update(step.nodes)
        assert dict(step.nodes) == {place: self.inventory.node(place) for place in step.nodes}
        return step.changes

    @rule(place=st.sampled_from(PLACES), gpus=sightings, driver=st.sampled_from(["570", "580"]))
    def read(self, place: Place, gpus: tuple[Gpu, ...], driver: str) -> None:
        time = self.tick()
        changes = self.step(self.inventory.apply(reading(place, time, *gpus, driver=driver)))
        expected = self.naive.apply(place, list(gpus))
        self.naive.times[place] = time
        self.nodes[place] = reading(place, time).node
        assert sorted(short(changes), key=repr) == sorted(expected, key=repr)
        for change in changes:
            assert bool(change.changes) == (change.event is Event.ALTERED)
            if change.event is Event.ALTERED:  # what was altered leads from the state before to the one after
                before = next(one for one in self.published[place][4] if one.uuid == change.gpu.uuid)
                after = {one.field: one.after for one in change.changes}
                assert said(before) | after == said(change.gpu)
                assert all(
                    one.before in (said(before)[one.field], getattr(before, one.field)) for one in change.changes
                )
        at_once = {Event.ALTERED, Event.VANISHED}  # the others count from when a claim was opened
        assert all(change.time == time or change.event not in at_once or change.place != place for change in changes)

    @rule(place=st.sampled_from(PLACES), capacity=st.integers(7, 8), ready=st.booleans())
    def hear_from_kubernetes(self, place: Place, capacity: int, ready: bool) -> None:
        self.tick()
        before, self.nodes[place] = self.nodes.get(place), NodeInfo(name=place.node, capacity=capacity, ready=ready)
        changes = self.step(self.inventory.set_node(place.cluster, self.nodes[place]))
        self.naive.gpus.setdefault(place, {})
        expected = set()
        if ready:
            self.naive.unready.discard(place)
        elif before != self.nodes[place]:
            self.naive.unready.add(place)
            expected = self.naive.silent(place)
        assert sorted(short(changes), key=repr) == sorted(expected, key=repr)

    @rule(place=st.sampled_from(PLACES), reason=st.sampled_from(list(ReadFailure)))
    def fail_to_read(self, place: Place, reason: ReadFailure) -> None:
        changes = self.step(self.inventory.read_failed(place, reason, self.tick()))
        expected = set()
        if place in self.naive.gpus:
            self.naive.unreadable.add(place)
            expected = self.naive.silent(place)
        assert sorted(short(changes), key=repr) == sorted(expected, key=repr)

    @rule(place=st.sampled_from(PLACES))
    def find_nothing_to_verify_by(self, place: Place) -> None:
        self.tick()
        changes = self.step(self.inventory.cannot_verify(place))
        assert sorted(short(changes), key=repr) == sorted(self.naive.silent(place), key=repr)

    @rule(place=st.sampled_from(PLACES))
    def remove_a_node(self, place: Place) -> None:
        time = self.tick()
        changes = self.step(self.inventory.remove_node(place, time))
        assert sorted(short(changes), key=repr) == sorted(self.naive.remove(place), key=repr)
        self.nodes.pop(place, None)
        self.naive.times.pop(place, None)

    @rule(cluster=st.sampled_from(["east", "west"]))
    def remove_a_cluster(self, cluster: str) -> None:
        time = self.tick()
        changes = self.step(self.inventory.remove_cluster(cluster, time))
        expected = set()
        removed = [place for place in self.naive.gpus if place.cluster == cluster]
        for uuid, place in [claim for claim in self.naive.claims if claim[1] in removed]:
            self.naive.leave(place, {uuid})
        for place in removed:
            expected |= self.naive.remove(place)
            self.nodes.pop(place, None)
            self.naive.times.pop(place, None)
        self.naive.absent = {uuid: place for uuid, place in self.naive.absent.items() if place.cluster != cluster}
        assert sorted(short(changes), key=repr) == sorted(expected, key=repr)

    @invariant()
    def every_node_has_exactly_its_gpus(self) -> None:
        view = self.view()
        assert view.keys() == self.naive.gpus.keys()
        for place, gpus in self.naive.gpus.items():
            entry = self.inventory.node(place)
            assert entry is not None
            assert {gpu.uuid: gpu for gpu in entry.gpus} == gpus
            assert len(entry.gpus) == len(gpus) == len(entry.since)
            assert entry.found == (len(gpus) if place in self.naive.times else None)
            assert (entry.time, entry.node) == (self.naive.times.get(place), self.nodes[place])

    @invariant()
    def every_index_finds_exactly_what_is_there(self) -> None:
        everything = [(place, gpu) for place, gpus in self.naive.gpus.items() for gpu in gpus.values()]
        for key, values in [
            ("uuid", [f"GPU-{index}" for index in range(len(FLEET))]),
            ("serial", ["p", "q", "g"]),
            ("chassis", ["x", "y"]),
        ]:
            for value in values:
                found = [(placement.place, placement.gpu) for placement in self.inventory.find(**{key: value})]
                expected = [(place, gpu) for place, gpu in everything if getattr(gpu, key) == value]
                assert sorted(found, key=repr) == sorted(expected, key=repr)

    @invariant()
    def conflicts_are_counted_in_each_cluster(self) -> None:
        for cluster in ("east", "west", "north"):
            assert self.inventory.conflicts(cluster) == self.naive.conflicts(cluster)
            assert set(self.inventory.claimed(cluster)) == self.naive.claimed(cluster)
            assert self.inventory.claims(cluster) == len(self.naive.claimed(cluster))

    @invariant()
    def exactly_the_nodes_that_differ_are_in_the_step(self) -> None:
        before, after = self.published, self.view()
        assert self.touched == {
            place for place in before.keys() | after.keys() if before.get(place) != after.get(place)
        }


InventoryMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestAgainstTheNaiveModel = InventoryMachine.TestCase
