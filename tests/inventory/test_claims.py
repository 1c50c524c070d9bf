"""The effects of a claim: how often nodes are read because of it, and which claimant gets the GPU."""

from typing import Any, ClassVar

import msgspec
import pytest

from collector.inventory import Inventory
from collector.inventory.claims import Claim, Claims
from collector.inventory.index import PlaceIndex
from collector.inventory.verify_backoff import MAX_DELAY_SECONDS
from collector.model import Event, Fingerprint, Gpu, GpuRef, NodeInfo, Place, ReadFailure, Reading, Step

HOUR = 3600.0

A, B, OTHER = Place("east", "a"), Place("east", "b"), Place("east", "other")
C, D = Place("west", "c"), Place("west", "d")
N = Place("north", "n")
ONE, TWO = Gpu(uuid="GPU-1", serial="s1"), Gpu(uuid="GPU-2", serial="s2")


def reading(place: Place, time: float, *gpus: Gpu) -> Reading:
    """Return a reading that took half a second up to `time`, which is that of both clocks."""
    return Reading(
        cluster=place.cluster,
        node=NodeInfo(name=place.node),
        source="gpu-operator/pod",
        fingerprint=Fingerprint(pod_uid="p", container_id="c", restarts=0, boot_id="b", capacity=8),
        time=time,
        driver_version="570",
        cuda_version="12.8",
        gpus=gpus,
        started=time - 0.5,
        ended=time,
    )


def asked(step: Step, place: Place) -> float | None:
    """Return in how many seconds a step wants a node to be read; None if it does not."""
    return 0.0 if place in step.verify else step.verify_later.get(place)


class Fleet:
    """An inventory in which nodes are read when a step wants it, as the collector reads them."""

    def __init__(self) -> None:
        self.inventory = Inventory()
        self.gpus: dict[Place, tuple[Gpu, ...]] = {}
        self.due: dict[Place, float] = {}
        self.reads: dict[Place, list[float]] = {}  # that were wanted, by place

    def read(self, place: Place, time: float, *gpus: Gpu) -> Step:
        self.gpus[place] = gpus
        step = self.inventory.apply(reading(place, time, *gpus))
        for node in {*step.verify, *step.verify_later}:
            due = time + max(asked(step, node) or 0.0, 5.0)
            self.due[node] = min(self.due.get(node, due), due)
        return step

    def until(self, time: float) -> None:
        """Read the nodes that are due by then."""
        while self.due and min(self.due.values()) <= time:
            place = min(self.due, key=self.due.__getitem__)
            at = self.due.pop(place)
            self.reads.setdefault(place, []).append(at)
            self.read(place, at + 0.5, *self.gpus[place])


class TestPace:
    """Claims from a place whose claims fail cause readings less and less often."""

    @pytest.mark.parametrize("claimants", [[C], [C, D], [B]], ids=["a foreign node", "two of them", "its own cluster"])
    def test_claims_that_come_and_go_cause_few_readings(self, claimants: list[Place]) -> None:
        fleet = Fleet()
        fleet.read(A, 10.0, ONE)
        for second in range(20, 20 + 3600):
            fleet.until(float(second))
            claimant = claimants[second // 2 % len(claimants)]
            fleet.read(claimant, second + 0.1, *((ONE,) if second % 2 else ()))
        assert 2 <= len(fleet.reads[A]) <= 8
        assert fleet.reads[A][0] < 27.0  # the first claim was verified at once
        assert A in {one.place for one in fleet.inventory.find(uuid="GPU-1")}

    def test_claims_from_new_nodes_cause_few_readings(self) -> None:
        fleet = Fleet()
        fleet.read(A, 10.0, ONE)
        for second in range(20, 20 + 1800):
            fleet.until(float(second))
            fleet.read(Place("west", f"c{second}"), second + 0.1, ONE)
            fleet.inventory.remove_node(Place("west", f"c{second}"), second + 0.2)
        assert len(fleet.reads[A]) <= 8

    def test_a_home_moving_within_its_cluster_adds_no_readings(self) -> None:
        fleet = Fleet()
        fleet.read(C, 10.0, ONE)
        fleet.read(A, 11.0, ONE)  # which is where it is
        for second in range(12, 12 + 3600, 2):
            fleet.until(float(second))
            had, has = (C, D) if second % 4 else (D, C)
            fleet.read(has, second + 0.1, ONE)
            fleet.read(had, second + 0.9)
            fleet.read(has, second + 1.7, ONE)
        assert len(fleet.reads[A]) <= 8
        assert A in {one.place for one in fleet.inventory.find(uuid="GPU-1")}

    def test_moves_between_its_own_nodes_do_not_earn_trust(self) -> None:
        fleet = Fleet()
        fleet.read(A, 10.0, ONE)
        for second in range(12, 12 + 1800, 2):
            fleet.until(float(second))
            has, had = (B, OTHER) if second % 4 else (OTHER, B)
            fleet.read(has, second + 0.1, ONE, TWO)
            fleet.read(had, second + 0.9)
        assert len(fleet.reads[A]) <= 16  # eight for each of the two

    def test_claims_from_many_nodes_cause_few_readings(self) -> None:
        fleet = Fleet()
        homes = {Place("east", f"home-{number}"): Gpu(uuid=f"GPU-{number}") for number in range(100)}
        for home, gpu in homes.items():
            fleet.read(home, 10.0, gpu)
        for second in range(20, 20 + 1200):
            fleet.until(float(second))
            fleet.read(A, second + 0.1, *(homes.values() if second % 2 else ()))
        assert max(map(len, fleet.reads.values())) <= 8
        assert fleet.reads.keys() >= homes.keys()

    def test_the_readings_stay_an_hour_apart_at_most(self) -> None:
        fleet = Fleet()
        fleet.read(A, 10.0, ONE)
        for minute in range(1, 8 * 60):
            fleet.until(minute * 60.0)
            fleet.read(C, minute * 60.0 + 1, *((ONE,) if minute % 2 else ()))
        gaps = [after - before for before, after in zip(fleet.reads[A], fleet.reads[A][1:], strict=False)]
        assert MAX_DELAY_SECONDS <= max(gaps) <= MAX_DELAY_SECONDS + 120.0

    def test_a_claim_is_settled_when_its_turn_comes(self) -> None:
        fleet = Fleet()
        fleet.read(A, 10.0, ONE)
        for second in range(20, 60):
            fleet.until(float(second))
            fleet.read(C, second + 0.1, *((ONE,) if second % 2 else ()))
        fleet.gpus[A] = ()
        fleet.read(C, 61.0, ONE)
        fleet.until(61.0 + 120.0)
        assert [one.place for one in fleet.inventory.find(uuid="GPU-1")] == [C]

    def test_several_gpus_of_one_reading_are_one_claim(self) -> None:
        inventory = Inventory()
        many = [Gpu(uuid=f"GPU-{number}") for number in range(8)]
        inventory.apply(reading(A, 10.0, *many))
        step = inventory.apply(reading(C, 20.0, *many))
        assert (step.verify, step.verify_later) == ((A,), {})

    def test_other_nodes_and_other_clusters_are_verified_at_once(self) -> None:
        fleet = Fleet()
        fleet.read(A, 10.0, ONE)
        fleet.read(B, 10.0, TWO)
        for second in range(20, 60):
            fleet.until(float(second))
            fleet.read(C, second + 0.1, *((ONE,) if second % 2 else ()))
        assert asked(fleet.read(D, 61.0, TWO), B) == 0.0
        assert asked(fleet.read(N, 61.0, ONE), A) == 0.0
        assert asked(fleet.read(OTHER, 61.0, ONE), A) == 0.0

    def test_real_moves_never_wait(self) -> None:
        fleet = Fleet()
        many = [Gpu(uuid=f"GPU-{number}") for number in range(20)]
        fleet.read(A, 10.0, *many)
        for number in range(1, 20):
            time = 20.0 + 10 * number
            assert asked(fleet.read(C, time, *many[:number]), A) == 0.0
            fleet.read(A, time + 1.0, *many[number:])

    def test_an_unanswerable_claim_is_verified_less_and_less_often(self) -> None:
        inventory = Inventory()
        inventory.apply(reading(A, 10.0, ONE))
        delays = [asked(inventory.apply(reading(C, time, ONE)), A) for time in (20.0, 21.0, 22.0, 23.0, 60.0)]
        assert delays == [0.0, 0.0, 19.0, 18.0, 61.0]

    def test_the_claimant_whose_turn_comes_first_decides(self) -> None:
        inventory = Inventory()
        inventory.apply(reading(A, 10.0, ONE))
        assert [asked(inventory.apply(reading(C, time, ONE)), A) for time in (20.0, 21.0, 22.0)] == [0.0, 0.0, 19.0]
        inventory.apply(reading(N, 22.5, ONE))
        assert asked(inventory.apply(msgspec.structs.replace(reading(A, 23.0, ONE), started=19.0)), A) == 0.0

    def test_claims_that_are_withdrawn_leave_their_node_soon_to_be_read(self) -> None:
        inventory = Inventory()
        inventory.apply(reading(A, 10.0, ONE))
        for time in (20.0, 30.0, 40.0, 50.0):
            inventory.apply(reading(C, time, ONE))
            assert asked(inventory.apply(reading(A, time + 1.0, ONE)), C) == 0.0
            inventory.apply(reading(C, time + 2.0))

    def test_a_day_without_a_claim_resets_the_pace(self) -> None:
        fleet = Fleet()
        fleet.read(A, 10.0, ONE)
        for second in range(20, 60):
            fleet.until(float(second))
            fleet.read(C, second + 0.1, *((ONE,) if second % 2 else ()))
        fleet.read(C, 100.0)
        assert asked(fleet.read(C, 100.0 + 26 * HOUR, ONE), A) == 0.0

    def test_a_reading_without_times_is_verified_at_once(self) -> None:
        inventory = Inventory()
        for number in range(20):
            gpus = () if number % 2 else (ONE,)
            inventory.apply(msgspec.structs.replace(reading(A, 10.0 + number, ONE), started=None, ended=None))
            step = inventory.apply(msgspec.structs.replace(reading(C, 10.5 + number, *gpus), started=None, ended=None))
        assert step.verify_later == {}


def test_invented_gpus_do_not_turn_a_move_into_an_appearance() -> None:
    inventory = Inventory(max_absent=100)
    inventory.apply(reading(A, 10.0, ONE))
    inventory.apply(reading(A, 11.0))
    for number in range(300):
        inventory.apply(reading(C, 20.0 + number, Gpu(uuid=f"GPU-made-up-{number}")))
    (change,) = inventory.apply(reading(B, 500.0, ONE)).changes
    assert (change.event, change.previous) == (Event.MOVED, A)


class TestHeirs:
    """A GPU that its node no longer has goes to the claimant that most likely has it."""

    def heirs(self, inventory: Inventory, time: float) -> list[tuple[Event, Place]]:
        """Read the first node without the GPU; returns what changed."""
        return [(change.event, change.place) for change in inventory.apply(reading(A, time)).changes]

    def test_a_claimant_in_the_same_cluster_comes_first(self) -> None:
        inventory = Inventory()
        inventory.apply(reading(A, 10.0, ONE))
        inventory.apply(reading(C, 20.0, ONE))
        inventory.apply(reading(B, 21.0, ONE))
        inventory.apply(reading(C, 22.0, ONE))  # which proves nothing
        assert self.heirs(inventory, 23.0) == [(Event.MOVED, B)]
        assert [one.place for one in inventory.find(uuid="GPU-1") if one.claim] == [C]

    def test_a_remaining_foreign_claimant_is_unsettled_until_both_are_read(self) -> None:
        inventory = Inventory()
        inventory.apply(reading(A, 10.0, ONE))
        inventory.apply(reading(C, 20.0, ONE))
        inventory.apply(reading(B, 21.0, ONE))
        assert asked(inventory.apply(reading(A, 22.0)), B) == 0.0
        assert inventory.conflicts("east") == 0
        assert asked(inventory.apply(reading(B, 23.0, ONE)), C) == 0.0
        assert (inventory.claims("east"), inventory.conflicts("east")) == (1, 0)
        inventory.apply(reading(C, 24.0, ONE))
        assert (inventory.claims("east"), inventory.conflicts("east")) == (0, 1)

    @pytest.mark.parametrize(("first", "second"), [(B, OTHER), (C, N)], ids=["in its cluster", "in others"])
    def test_a_claimant_that_reported_it_twice_comes_first(self, first: Place, second: Place) -> None:
        inventory = Inventory()
        inventory.apply(reading(A, 10.0, ONE))
        inventory.apply(reading(first, 20.0, ONE))
        inventory.apply(reading(second, 21.0, ONE))
        inventory.apply(reading(second, 30.0, ONE))
        assert self.heirs(inventory, 31.0) == [(Event.MOVED, second)]

    def test_a_reading_begun_before_the_claim_confirms_nothing(self) -> None:
        inventory = Inventory()
        inventory.apply(reading(A, 10.0, ONE))
        inventory.apply(reading(B, 20.0, ONE))
        inventory.apply(reading(OTHER, 21.0, ONE))
        inventory.apply(msgspec.structs.replace(reading(OTHER, 21.4, ONE), started=20.9))
        assert self.heirs(inventory, 31.0) == [(Event.MOVED, B)]

    def test_among_equals_the_earliest_claimant_comes_first(self) -> None:
        inventory = Inventory()
        inventory.apply(reading(A, 10.0, ONE))
        inventory.apply(reading(C, 20.0, ONE))
        inventory.apply(reading(N, 21.0, ONE))
        assert self.heirs(inventory, 22.0) == [(Event.MOVED, C)]
        assert [one.place for one in inventory.find(uuid="GPU-1")] == [C, N]

    def test_a_removed_node_leaves_its_gpu_to_its_cluster(self) -> None:
        inventory = Inventory()
        inventory.apply(reading(A, 10.0, ONE))
        inventory.apply(reading(C, 20.0, ONE))
        inventory.apply(reading(B, 21.0, ONE))
        (change,) = inventory.remove_node(A, 22.0).changes
        assert (change.event, change.place) == (Event.MOVED, B)


class TestBoards:
    """What a foreign cluster alone says of a board explains no serial that both have."""

    SEAT: ClassVar[dict[str, Any]] = {"serial": "s", "chassis": "x", "tray": "1", "slot": "2"}

    def conflicts(self, here: Place, mine: Gpu, there: Place, *theirs: Gpu) -> tuple[int, int]:
        inventory = Inventory()
        inventory.apply(reading(here, 10.0, mine))
        inventory.apply(reading(there, 10.0, *theirs))
        return inventory.conflicts(here.cluster), inventory.conflicts(there.cluster)

    def test_a_copied_tray_hides_no_conflict_across_clusters(self) -> None:
        mine, copy = Gpu(uuid="GPU-1", module="1", **self.SEAT), Gpu(uuid="GPU-2", module="2", **self.SEAT)
        assert self.conflicts(A, mine, C, copy) == (1, 1)
        assert self.conflicts(A, mine, B, copy) == (0, 0)

    def test_a_copy_claiming_to_be_partial_hides_no_conflict(self) -> None:
        mine = Gpu(uuid="GPU-1", module="1", **self.SEAT)
        copies = [Gpu(uuid=f"GPU-{number}", module=str(number), multi_gpu_board=True, **self.SEAT) for number in (2, 3)]
        assert self.conflicts(A, mine, C, *copies) == (1, 2)

    def test_a_board_that_both_clusters_show_may_be_split(self) -> None:
        one, other = (Gpu(uuid=f"GPU-{number}", serial="s", multi_gpu_board=True) for number in (1, 2))
        assert self.conflicts(A, one, C, other) == (0, 0)

    def test_a_different_tray_or_the_same_module_is_a_conflict(self) -> None:
        one = Gpu(uuid="GPU-1", module="1", multi_gpu_board=True, **self.SEAT)
        for change in ({"tray": "2"}, {"module": "1"}):
            other = msgspec.structs.replace(one, uuid="GPU-2", **({"module": "2"} | change))
            assert self.conflicts(A, one, C, other) == (1, 1)


class TestNodesOfAClaim:
    def test_an_unreadable_node_that_lost_a_gpu_is_no_longer_in_its_chassis(self) -> None:
        inventory = Inventory()
        one = msgspec.structs.replace(ONE, chassis="c")
        inventory.apply(reading(A, 10.0, one, TWO))
        inventory.read_failed(A, ReadFailure.TIMEOUT, 15.0)
        (change,) = inventory.apply(reading(B, 20.0, one)).changes
        assert (change.event, change.previous) == (Event.MOVED, A)
        assert inventory.chassis_places("c") == (B,)

    def test_a_claim_stays_while_a_reading_says_nothing_of_the_gpu(self) -> None:
        inventory = Inventory()
        inventory.apply(reading(A, 10.0, ONE))
        inventory.apply(reading(C, 20.0, ONE))
        inventory.apply(msgspec.structs.replace(reading(C, 30.0), unread=(GpuRef("GPU-1"),)))
        claimant = inventory.node(C)
        assert claimant is not None
        assert claimant.claims == {"GPU-1"}

    def test_both_nodes_of_a_conflict_are_named(self) -> None:
        inventory = Inventory()
        for place, time in ((A, 10.0), (C, 20.0), (A, 30.0), (C, 40.0)):
            inventory.apply(reading(place, time, ONE))
        assert (inventory.nodes_in_conflict("east"), inventory.nodes_in_conflict("west")) == ({"a"}, {"c"})

    def test_a_new_node_with_the_name_of_a_removed_one_is_asked_at_once(self) -> None:
        inventory = Inventory()
        for time in (10.0, 20.0, 30.0):
            inventory.apply(reading(A, time, ONE))
            delay = asked(inventory.apply(reading(C, time + 1.0, ONE)), A)
            inventory.apply(reading(C, time + 2.0))
        assert delay is not None
        assert delay > 0.0
        inventory.remove_node(A, 40.0)
        inventory.apply(reading(A, 41.0, ONE))
        assert asked(inventory.apply(reading(C, 42.0, ONE)), A) == 0.0


class TestAnswers:
    """A reading that started at the time of the question, or at an unknown time, answers it."""

    @pytest.mark.parametrize(("started", "answers"), [(9.9, False), (10.0, True), (10.1, True), (None, True)])
    def test_a_later_reading_answers(self, started: float | None, answers: bool) -> None:
        answer = msgspec.structs.replace(reading(A, 11.0, ONE), started=started)
        claim = Claim(10.0)
        assert claim.answered_by_home(answer) is answers
        claim.note_repeated(answer)
        assert claim.repeated is answers
        assert not claim.answered_by_claimant(answer)  # not before the home has confirmed that it has the GPU
        claim.confirmed = 10.0
        assert claim.answered_by_claimant(answer) is answers


class TestOpenClaims:
    def test_open_claims_are_counted(self) -> None:
        claims = Claims(PlaceIndex())
        for uuid, claimant in (("GPU-1", B), ("GPU-1", C), ("GPU-2", C)):
            claims.open(uuid, claimant, 1.0)
        assert len(claims) == 3
        claims.close("GPU-1", B)
        assert len(claims) == 2
        assert list(claims.claimants("GPU-1")) == [C]
        claims.close("GPU-1", C)
        assert (claims.get("GPU-1", C), claims.claimants("GPU-1")) == (None, {})

    def test_a_claim_in_another_shard_is_settled_there(self) -> None:
        claims = Claims(PlaceIndex(), is_mirrored=lambda cluster: cluster == "west")
        claims.open("GPU-1", C, 1.0)
        assert (claims.to_settle("GPU-1"), claims.successor("GPU-1", A)) == ({}, None)
        claims.open("GPU-1", B, 2.0)
        claims.open("GPU-2", B, 2.0)
        assert [list(claims.to_settle(uuid)) for uuid in ("GPU-1", "GPU-2")] == [[B], [B]]
        assert claims.successor("GPU-1", A) == B

    def test_without_shards_every_claim_is_settled_here(self) -> None:
        claims = Claims(PlaceIndex())
        claims.open("GPU-1", C, 1.0)
        assert list(claims.to_settle("GPU-1")) == [C]
