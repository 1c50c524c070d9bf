"""What one shard sees of the nodes of another one, and which claims it settles: `east` is its own, `west` mirrored."""

from typing import Any

import msgspec
import pytest

from collector.inventory import Inventory, MirroringInventory
from collector.model import (
    Change,
    Event,
    Failing,
    Gpu,
    NodeInfo,
    NodeState,
    Place,
    ReadFailure,
    Step,
    Uncovered,
    Unread,
)
from tests.inventory.test_inventory import ONE, TWO, A, B, C, reading, short

D = Place("west", "d")


@pytest.fixture
def shard() -> MirroringInventory:
    return MirroringInventory(is_mirrored=lambda cluster: cluster == "west")


def state(place: Place, time: float, *gpus: Gpu, claims: frozenset[str] = frozenset(), **more: Any) -> NodeState:
    """Return a node as the shard that reads it has it."""
    node = NodeInfo(name=place.node)
    since = (time,) * len(gpus)
    return NodeState(place=place, node=node, time=time, gpus=gpus, since=since, claims=claims, **more)


def own(shard: MirroringInventory, place: Place, time: float, *gpus: Gpu) -> Step:
    timed = msgspec.structs.replace(reading(place, time, *gpus), started=time, ended=time)
    return shard.apply(timed)


def places(shard: Inventory, uuid: str) -> list[tuple[Place, bool]]:
    """Return where a GPU is, and whether it is only claimed there."""
    return [(one.place, one.claim) for one in shard.find(uuid=uuid)]


class TestArrivals:
    def test_a_gpu_of_a_mirrored_node_is_found_and_not_reported(self, shard: MirroringInventory) -> None:
        one = msgspec.structs.replace(ONE, chassis="x")
        step = shard.mirror({C: state(C, 10.0, one)}, 1.0)
        assert (step.changes, step.nodes, step.verify) == ((), {C: shard.node(C)}, ())
        assert places(shard, "GPU-1") == [(C, False)]
        assert [found.place for found in shard.find(serial="s1")] == [C]
        assert shard.chassis_places("x") == (C,)

    def test_the_same_state_again_changes_nothing(self, shard: MirroringInventory) -> None:
        shard.mirror({C: state(C, 10.0, ONE)}, 1.0)
        assert shard.mirror({C: state(C, 10.0, ONE), D: None}, 2.0) == Step()

    def test_an_absent_gpu_that_arrives_is_no_longer_absent(self, shard: MirroringInventory) -> None:
        own(shard, A, 10.0, ONE, TWO)
        own(shard, A, 20.0)
        assert set(shard.absent()) == {"GPU-1", "GPU-2"}
        shard.mirror({C: state(C, 30.0, ONE)}, 3.0)
        assert set(shard.absent()) == {"GPU-2"}

    def test_a_gpu_that_an_own_node_has_is_asked_for_there(self, shard: MirroringInventory) -> None:
        own(shard, A, 10.0, ONE)
        assert shard.mirror({C: state(C, 20.0, ONE)}, 2.0).verify == (A,)
        assert places(shard, "GPU-1") == [(A, False), (C, False)]
        assert (shard.conflicts("east"), shard.conflicts("west")) == (1, 1)
        assert shard.mirror({C: state(C, 30.0, ONE)}, 3.0).verify == ()

    def test_one_in_two_mirrored_nodes_is_asked_for_by_their_shard(self, shard: MirroringInventory) -> None:
        shard.mirror({C: state(C, 10.0, ONE)}, 1.0)
        assert shard.mirror({D: state(D, 20.0, ONE)}, 2.0).verify == ()

    def test_a_new_home_is_asked_for_its_claimants_here(self, shard: MirroringInventory) -> None:
        """They now claim it from there, whatever the previous home answered."""
        shard.mirror({C: state(C, 10.0, ONE)}, 1.0)
        own(shard, A, 20.0, ONE)
        own(shard, B, 21.0, ONE)
        shard.mirror({C: state(C, 30.0, ONE)}, 30.0, answered={C: 29.0})
        assert shard.homes_to_ask("west") == set()
        step = shard.mirror({D: state(D, 40.0, ONE)}, 40.0)
        assert step.verify == (D,)
        assert shard.homes_to_ask("west") == {C, D}

    def test_gpus_here_are_compared_with_those_of_all_nodes_that_arrive_at_once(
        self, shard: MirroringInventory
    ) -> None:
        def board(node: str) -> list[Gpu]:
            return [Gpu(uuid=f"GPU-{node}-{index}", serial="board") for index in range(2)]

        for node in "abcd":
            own(shard, Place("east", node), 10.0, *board(node))
        assert shard.conflicts("east") == 0
        shard.mirror(
            {place: state(place, 20.0, *board(place.node)) for place in (Place("west", "e"), Place("west", "f"))}, 2.0
        )
        assert (shard.conflicts("east"), shard.conflicts("west")) == (8, 4)
        shard.mirror({Place("west", "e"): None, Place("west", "f"): None}, 3.0)
        assert shard.conflicts("east") == 0


class TestClaims:
    def test_a_claim_by_a_mirrored_node_is_shown(self, shard: MirroringInventory) -> None:
        own(shard, A, 10.0, ONE, TWO)
        step = shard.mirror({C: state(C, 20.0, ONE, claims=frozenset({"GPU-1"}))}, 2.0)
        assert (step.changes, step.verify) == ((), ())
        assert places(shard, "GPU-1") == [(A, False), (C, True)]
        assert (shard.claims("east"), shard.claims("west"), shard.conflicts("east")) == (1, 1, 0)

    def test_a_claim_by_a_mirrored_node_leaves_an_absent_gpu_absent(self, shard: MirroringInventory) -> None:
        own(shard, A, 10.0, ONE)
        own(shard, A, 20.0)
        shard.mirror({C: state(C, 30.0, ONE, claims=frozenset({"GPU-1"}))}, 3.0)
        assert shard.last_place("GPU-1") == A

    def test_a_conflict_that_its_shard_found_ends_the_claim(self, shard: MirroringInventory) -> None:
        own(shard, A, 10.0, ONE)
        shard.mirror({C: state(C, 20.0, ONE, claims=frozenset({"GPU-1"}))}, 2.0)
        step = shard.mirror({C: state(C, 20.0, ONE)}, 3.0)
        assert step.verify == (A,)
        assert places(shard, "GPU-1") == [(A, False), (C, False)]
        assert (shard.claims("east"), shard.conflicts("east")) == (0, 1)

    def test_a_gpu_can_become_claimed_again(self, shard: MirroringInventory) -> None:
        own(shard, A, 10.0, ONE)
        shard.mirror({C: state(C, 20.0, ONE)}, 2.0)
        shard.mirror({C: state(C, 20.0, ONE, claims=frozenset({"GPU-1"}))}, 3.0)
        assert places(shard, "GPU-1") == [(A, False), (C, True)]
        assert (shard.claims("east"), shard.conflicts("east")) == (1, 0)

    def test_a_claim_that_its_shard_withdraws_ends(self, shard: MirroringInventory) -> None:
        own(shard, A, 10.0, ONE)
        shard.mirror({C: state(C, 20.0, ONE, claims=frozenset({"GPU-1"}))}, 2.0)
        assert shard.mirror({C: state(C, 30.0)}, 3.0).changes == ()
        assert (places(shard, "GPU-1"), shard.claims("east")) == ([(A, False)], 0)

    def test_a_serial_that_is_only_claimed_there_is_in_no_conflict(self, shard: MirroringInventory) -> None:
        own(shard, A, 10.0, TWO)
        confirmed = state(C, 20.0, msgspec.structs.replace(ONE, serial=TWO.serial))
        claimed = msgspec.structs.replace(confirmed, claims=frozenset({"GPU-1"}))
        for node, contested in ((claimed, set()), (confirmed, {"GPU-2"}), (claimed, set())):
            shard.mirror({C: node}, 2.0)
            assert set(shard.contested("east")) == contested

    def test_an_own_node_does_not_lose_a_gpu_to_it(self, shard: MirroringInventory) -> None:
        """The GPU has vanished here; its new shard records the move once it knows."""
        own(shard, A, 10.0, ONE)
        shard.mirror({C: state(C, 20.0, ONE, claims=frozenset({"GPU-1"}))}, 2.0)
        assert short(own(shard, A, 30.0).changes) == [(Event.VANISHED, "GPU-1", A, None)]
        assert shard.claims("west") == 1


class TestClaimsOfMirroredGpus:
    """An own node reports a GPU that a mirrored node has."""

    @pytest.fixture
    def claimed(self, shard: MirroringInventory) -> MirroringInventory:
        shard.mirror({C: state(C, 10.0, ONE, TWO)}, 1.0)
        assert own(shard, A, 20.0, ONE).changes == ()
        return shard

    def test_its_home_is_to_be_asked(self, claimed: MirroringInventory) -> None:
        assert (claimed.homes_to_ask("west"), claimed.homes_to_ask("east")) == ({C}, set())
        assert places(claimed, "GPU-1") == [(C, False), (A, True)]

    def test_it_has_moved_when_its_home_lets_go(self, claimed: MirroringInventory) -> None:
        step = claimed.mirror({C: state(C, 30.0, TWO)}, 30.0)
        assert short(step.changes) == [(Event.MOVED, "GPU-1", A, C)]
        assert places(claimed, "GPU-1") == [(A, False)]
        assert claimed.homes_to_ask("west") == set()

    def test_it_has_moved_when_its_home_is_gone(self, claimed: MirroringInventory) -> None:
        step = claimed.mirror({C: None}, 30.0, gone_at={"west": 29.0})
        assert short(step.changes) == [(Event.MOVED, "GPU-1", A, C)]
        assert step.changes[0].time == 29.0
        assert (step.nodes[C], claimed.node(C)) == (None, None)
        assert claimed.last_place("GPU-2") == C
        assert claimed.absent_gpu("GPU-2") == (C, 29.0, claimed.facts("GPU-2"), False)
        assert list(claimed.clusters()) == ["east"]

    @pytest.mark.parametrize(("asked", "answers"), [(19.9, False), (20.0, True)])
    def test_its_claimant_is_read_again_once_its_home_has_answered(
        self, claimed: MirroringInventory, asked: float, answers: bool
    ) -> None:
        step = claimed.mirror({C: state(C, 30.0, ONE, TWO)}, 30.0, answered={C: asked})
        assert step.verify == ((A,) if answers else ())
        assert claimed.homes_to_ask("west") == (set() if answers else {C})
        assert claimed.mirror({}, 31.0, answered={C: asked}).verify == ()

    def test_a_later_claimant_is_a_new_question(self, claimed: MirroringInventory) -> None:
        claimed.mirror({}, 30.0, answered={C: 29.0})
        assert claimed.homes_to_ask("west") == set()
        own(claimed, B, 31.0, ONE)
        assert claimed.homes_to_ask("west") == {C}

    def test_both_are_in_conflict_if_its_claimant_confirms_it(self, claimed: MirroringInventory) -> None:
        claimed.mirror({}, 30.0, answered={C: 29.0})
        assert own(claimed, A, 30.0, ONE).changes != ()
        assert (claimed.conflicts("east"), claimed.conflicts("west"), claimed.claims("east")) == (1, 1, 0)

    def test_an_answer_of_an_unknown_node_is_none(self, claimed: MirroringInventory) -> None:
        assert claimed.mirror({}, 30.0, answered={D: 29.0}) == Step()
        assert claimed.homes_to_ask("west") == {C}

    def test_an_answer_of_a_node_that_only_claims_it_too_is_none(self, claimed: MirroringInventory) -> None:
        step = claimed.mirror({D: state(D, 30.0, ONE, claims=frozenset({"GPU-1"}))}, 30.0, answered={D: 29.0})
        assert step.verify == ()
        assert claimed.homes_to_ask("west") == {C}


class TestDepartures:
    def test_a_gpu_that_leaves_a_mirrored_node_has_a_last_place(self, shard: MirroringInventory) -> None:
        shard.mirror({C: state(C, 10.0, ONE, TWO)}, 1.0)
        step = shard.mirror({C: state(C, 20.0, TWO)}, 2.0)
        assert (step.changes, step.nodes) == ((), {C: shard.node(C)})
        assert shard.absent_gpu("GPU-1") == (C, 20.0, shard.facts("GPU-1"), False)
        assert (shard.find(serial="s1"), places(shard, "GPU-2")) == ([], [(C, False)])

    def test_it_moves_here_from_there(self, shard: MirroringInventory) -> None:
        shard.mirror({C: state(C, 10.0, ONE)}, 1.0)
        shard.mirror({C: None}, 2.0)
        assert shard.absent_gpu("GPU-1") == (C, 10.0, shard.facts("GPU-1"), False)  # not before it was there
        assert short(own(shard, A, 30.0, ONE).changes) == [(Event.MOVED, "GPU-1", A, C)]

    def test_it_can_move_between_mirrored_nodes_in_one_step(self, shard: MirroringInventory) -> None:
        shard.mirror({C: state(C, 10.0, ONE)}, 1.0)
        for nodes in ({C: state(C, 20.0), D: state(D, 20.0, ONE)}, {C: state(C, 30.0, ONE), D: None}):
            assert shard.mirror(nodes, 2.0).changes == ()
            assert (shard.absent(), shard.conflicts("west")) == ({}, 0)
        assert places(shard, "GPU-1") == [(C, False)]

    def test_a_node_that_went_is_not_counted(self, shard: MirroringInventory) -> None:
        failing = Failing(ReadFailure.TIMEOUT, 5.0, "", 1, None)
        unread = Unread(Uncovered.NO_POD, 5.0)
        shard.mirror({C: state(C, 10.0, failing=failing), D: state(D, 10.0, uncovered=unread)}, 1.0)
        assert (shard.failing("west", ReadFailure.TIMEOUT), shard.unread("west", Uncovered.NO_POD)) == (1, 1)
        shard.mirror({C: None, D: None}, 2.0)
        assert (shard.failing("west", ReadFailure.TIMEOUT), shard.unread("west", Uncovered.NO_POD)) == (0, 0)

    def test_a_new_node_of_its_name_is_asked_at_once(self, shard: MirroringInventory) -> None:
        shard.mirror({C: state(C, 10.0, ONE)}, 1.0)
        for time in (20.0, 22.0):
            own(shard, A, time, ONE)
            own(shard, A, time + 1.0)
        delays = own(shard, A, 30.0, ONE).verify_later
        assert set(delays) == {C}
        own(shard, A, 31.0)
        shard.mirror({C: None}, 32.0)
        shard.mirror({C: state(C, 33.0, ONE)}, 33.0)
        assert own(shard, A, 34.0, ONE).verify == (C,)


def test_why_nodes_could_not_be_read_is_forgotten_on_request(shard: MirroringInventory) -> None:
    failing, unread = Failing(ReadFailure.TIMEOUT, 5.0, "", 1, None), Unread(Uncovered.NO_POD, 5.0)
    failed, bare, fine = state(C, 10.0, ONE), state(D, 10.0), state(Place("west", "e"), 10.0, TWO)
    nodes = [msgspec.structs.replace(failed, failing=failing), msgspec.structs.replace(bare, uncovered=unread), fine]
    shard.mirror({one.place: one for one in nodes}, 1.0)
    step = shard.forget_unread("west")
    assert step.nodes == {C: failed, D: bare}
    assert shard.node(C) == failed
    assert shard.forget_unread("west") == Step()


class TestPassedBy:
    """A GPU that was in a mirrored node between two looks."""

    @staticmethod
    def vanished(place: Place, uuid: str = "GPU-1", event: Event = Event.VANISHED) -> Change:
        return Change.of(state(place, 10.0), event, 10.0, Gpu(uuid=uuid))

    def test_is_one_that_vanished_from_where_it_was_not_seen(self, shard: MirroringInventory) -> None:
        assert shard.passed_by([self.vanished(C), self.vanished(D, "GPU-2")]) == {"GPU-1", "GPU-2"}
        assert shard.passed_by([self.vanished(C, event=Event.APPEARED)]) == set()
        assert shard.passed_by([self.vanished(A)]) == set()  # this shard has recorded that itself

    def test_is_not_one_that_was_seen_there_last(self, shard: MirroringInventory) -> None:
        shard.mirror({C: state(C, 10.0, ONE)}, 1.0)
        shard.mirror({C: state(C, 20.0)}, 2.0)
        assert shard.passed_by([self.vanished(C)]) == set()
        assert shard.passed_by([self.vanished(D)]) == {"GPU-1"}

    def test_is_not_one_that_is_in_a_node(self, shard: MirroringInventory) -> None:
        own(shard, A, 10.0, ONE)
        assert shard.passed_by([self.vanished(C)]) == set()
