"""An inventory restored from recorded nodes knows what the previous one knew."""

from typing import Any

import msgspec
import pytest

from collector.health import Health
from collector.inventory import Inventory
from collector.model import Event, Fingerprint, Gpu, GpuRef, NodeInfo, NodeState, Place, Reading, SilentGpu

A, B, C = (Place("prod", name) for name in "abc")
FAR = Place("far", "a")


def reading(place: Place, time: float, *gpus: Gpu | str) -> Reading:
    return Reading(
        cluster=place.cluster,
        node=NodeInfo(name=place.node, provider_id=f"aws:///{place.node}", capacity=8),
        source=f"x/{place.node}",
        fingerprint=Fingerprint(pod_uid=place.node, container_id="c", restarts=0, boot_id="b", capacity=8),
        time=time,
        driver_version="580",
        cuda_version="13",
        gpus=tuple(gpu if isinstance(gpu, Gpu) else Gpu(uuid=gpu, serial=f"s{gpu}", chassis="c1") for gpu in gpus),
    )


def restored(before: Inventory, *places: Place, absent: dict[str, Place] | None = None) -> Inventory:
    after = Inventory()
    after.restore([found for place in places if (found := before.node(place))], absent or {})
    return after


def state(inventory: Inventory, place: Place) -> NodeState:
    """Return what an inventory says of a node that it has."""
    found = inventory.node(place)
    assert found is not None
    return found


class TestState:
    def test_an_unknown_node_has_no_state(self):
        assert Inventory().node(A) is None

    def test_a_state_is_a_copy(self):
        inventory = Inventory()
        inventory.apply(reading(A, 1.0, "GPU-1"))
        before = state(inventory, A)
        inventory.apply(reading(B, 2.0, "GPU-1"))
        assert [gpu.uuid for gpu in before.gpus] == ["GPU-1"]
        assert state(inventory, B).claims == {"GPU-1"}


class TestRestore:
    def test_every_node_is_as_it_was(self):
        before = Inventory()
        before.apply(reading(A, 1.0, "GPU-1", "GPU-2"))
        before.set_node("prod", NodeInfo(name="b", capacity=4))
        after = restored(before, A, B)
        assert [after.node(place) for place in (A, B)] == [before.node(place) for place in (A, B)]
        assert after.known("prod") == before.known("prod")

    def test_gpus_are_found_by_uuid_serial_and_chassis(self):
        before = Inventory()
        before.apply(reading(A, 1.0, "GPU-1"))
        before.apply(reading(B, 2.0, "GPU-2"))
        after = restored(before, A, B)
        assert after.find(uuid="GPU-1") == before.find(uuid="GPU-1")
        assert after.find(serial="sGPU-2") == before.find(serial="sGPU-2")
        assert [placement.place for placement in after.find(chassis="c1")] == [A, B]

    def test_the_step_has_every_node_and_no_change(self):
        before = Inventory()
        before.apply(reading(A, 1.0, "GPU-1"))
        before.apply(reading(B, 1.0, "GPU-2"))
        nodes = [state(before, A), state(before, B)]
        step = Inventory().restore(nodes, {})
        assert (step.changes, list(step.nodes.values())) == ((), nodes)

    def test_the_same_reading_again_changes_nothing(self):
        before = Inventory()
        before.apply(reading(A, 1.0, "GPU-1"))
        assert restored(before, A).apply(reading(A, 2.0, "GPU-1")).changes == ()

    def test_a_gpu_that_moved_meanwhile_is_recorded_as_moved(self):
        before = Inventory()
        before.apply(reading(A, 1.0, "GPU-1"))
        step = (after := restored(before, A)).apply(reading(B, 2.0, "GPU-1"))
        assert (step.changes, step.verify, after.claimed("prod")) == ((), (A,), {"GPU-1"})
        (change,) = after.apply(reading(A, 3.0)).changes
        assert (change.event, change.place, change.previous, change.time) == (Event.MOVED, B, A, 2.0)

    def test_an_open_claim_asks_for_both_nodes_again(self):
        before = Inventory()
        before.apply(reading(A, 1.0, "GPU-1"))
        before.apply(reading(B, 2.0, "GPU-1", "GPU-2"))
        after = restored(before, A, B)
        assert (after.claimed("prod"), after.nodes_in_claim("prod")) == ({"GPU-1"}, {"a", "b"})
        (change,) = after.apply(reading(A, 3.0)).changes
        assert (change.event, change.place, change.previous) == (Event.MOVED, B, A)
        assert after.nodes_in_claim("prod") == set()

    def test_the_limit_of_absent_gpus_holds(self):
        after = Inventory(max_absent=2)
        after.restore([], {f"GPU-{number}": A for number in range(5)})
        assert len(after.absent()) == 2
        changes = after.apply(reading(B, 2.0, *(f"GPU-{number}" for number in range(5)))).changes
        events = [change.event for change in changes]
        assert (events.count(Event.MOVED), events.count(Event.APPEARED)) == (2, 3)

    def test_an_absent_gpu_that_comes_back_has_moved(self):
        (change,) = restored(Inventory(), absent={"GPU-1": A}).apply(reading(B, 2.0, "GPU-1")).changes
        assert (change.event, change.previous) == (Event.MOVED, A)

    def test_records_of_absent_gpus_are_adopted(self):
        one = Inventory()
        one.apply(reading(A, 1.0, "GPU-1", "GPU-2", "GPU-3"))
        one.apply(reading(A, 3.0, "GPU-3"))  # the others left
        one.recall({"GPU-1": B, "GPU-3": B, "GPU-4": C}, {"GPU-1": 5.0, "GPU-2": 2.0, "GPU-3": 9.0, "GPU-4": 6.0})
        assert one.absent() == {"GPU-1": B, "GPU-2": A, "GPU-4": C}
        left = [one.absent_gpu(uuid) for uuid in ("GPU-1", "GPU-2", "GPU-4")]
        assert [absent and absent.time for absent in left] == [5.0, 3.0, 6.0]
        changes = one.apply(reading(Place("prod", "d"), 4.0, "GPU-1", "GPU-2", "GPU-4")).changes
        assert [(change.time, change.previous) for change in changes] == [(5.0, B), (4.0, A), (6.0, C)]

    @pytest.mark.parametrize("how", ["restore", "recall"])
    def test_no_gpu_returns_before_it_was_recorded_to_have_left_a_forgotten_place(self, how: str):
        inventory = Inventory()
        if how == "restore":
            inventory.restore([], {}, {"GPU-1": 4000.0})
        else:
            inventory.recall({}, {"GPU-1": 4000.0})
        (change,) = inventory.apply(reading(A, 400.0, "GPU-1")).changes
        assert (change.event, change.time) == (Event.APPEARED, 4000.0)

    def test_a_gpu_in_two_places_is_a_conflict(self):
        before = Inventory()
        for time, place in enumerate((A, B, A, B)):
            before.apply(reading(place, float(time), "GPU-1"))
        after = restored(before, A, B)
        assert after.conflicts("prod") == 1
        after.apply(reading(A, 9.0))
        assert after.conflicts("prod") == 0

    def test_nor_does_a_conflict_need_a_serial(self):
        before = Inventory()
        for place, time in ((A, 1.0), (B, 2.0), (A, 3.0), (B, 4.0)):
            before.apply(reading(place, time, Gpu(uuid="GPU-1")))
        assert restored(before, A, B, C).conflicts("prod") == 1

    def test_one_serial_in_two_nodes_is_a_conflict(self):
        before = Inventory()
        before.apply(reading(A, 1.0, Gpu(uuid="GPU-1", serial="s")))
        before.apply(reading(B, 1.0, Gpu(uuid="GPU-2", serial="s")))
        assert restored(before, A, B).conflicts("prod") == 2

    def test_a_serial_shared_by_a_board_is_not_a_conflict(self):
        before = Inventory()
        seat: Any = {"serial": "s", "chassis": "c", "tray": "1", "slot": "2"}
        before.apply(reading(A, 1.0, Gpu(uuid="GPU-1", module="1", **seat)))
        before.apply(reading(B, 1.0, Gpu(uuid="GPU-2", module="2", **seat)))
        assert restored(before, A, B).conflicts("prod") == 0

    def test_a_claimed_gpu_that_both_nodes_confirm_is_a_conflict(self):
        before = Inventory()
        before.apply(reading(A, 1.0, "GPU-1"))
        before.apply(reading(B, 2.0, "GPU-1"))
        step = (after := restored(before, A, B)).apply(reading(A, 3.0, "GPU-1"))
        assert (step.changes, step.verify, after.conflicts("prod")) == ((), (B,), 0)
        (change,) = after.apply(reading(B, 4.0, "GPU-1")).changes
        assert (change.event, change.place, after.conflicts("prod")) == (Event.APPEARED, B, 1)

    def test_a_claimant_alone_does_not_settle_its_claim(self):
        before = Inventory()
        before.apply(reading(A, 1.0, "GPU-1"))
        before.apply(reading(B, 2.0, "GPU-1"))
        step = (after := restored(before, A, B)).apply(reading(B, 3.0, "GPU-1"))
        assert (step.changes, step.verify, after.claimed("prod")) == ((), (A,), {"GPU-1"})

    def test_a_claimant_whose_home_is_gone_has_the_gpu(self):
        """Another shard may have recorded that it is gone."""
        before = Inventory()
        before.apply(reading(A, 1.0, "GPU-1"))
        before.apply(reading(B, 2.0, "GPU-1"))
        after = restored(before, B)
        assert (after.claimed("prod"), after.nodes_in_claim("prod")) == ({"GPU-1"}, {"b"})
        (change,) = after.apply(reading(B, 3.0, "GPU-1")).changes
        assert (change.event, change.place, change.time) == (Event.APPEARED, B, 2.0)
        assert (after.claimed("prod"), state(after, B).claims) == (set(), frozenset())

    def test_only_an_empty_inventory_can_be_restored(self):
        inventory = Inventory()
        inventory.apply(reading(A, 1.0, "GPU-1"))
        with pytest.raises(ValueError, match="empty"):
            inventory.restore([], {})


class TestAdopting:
    """What another inventory knew of a node is taken over where its reading is the newer one."""

    def other(self, *readings: Reading) -> Inventory:
        inventory = Inventory()
        for one in readings:
            inventory.apply(one)
        return inventory

    def test_an_unknown_node_is_adopted_with_its_gpus(self):
        recorded = state(self.other(reading(A, 1.0, "GPU-1")), A)
        inventory = Inventory()
        (change,) = inventory.adopt(recorded).changes
        assert (change.event, change.gpu.uuid, change.place) == (Event.APPEARED, "GPU-1", A)
        assert inventory.node(A) == recorded

    def test_the_newer_reading_determines_the_gpus(self):
        inventory = self.other(reading(A, 2.0, "GPU-1", "GPU-2"), reading(B, 2.0))
        recorded = self.other(reading(A, 1.0, "GPU-1", "GPU-2"), reading(B, 5.0, "GPU-1"))
        assert inventory.adopt(state(recorded, A)).changes == ()
        recorded.apply(reading(A, 6.0, "GPU-2"))  # which settles that it has moved
        assert inventory.adopt(state(recorded, B)).changes == ()  # as long as A is not known to have lost it
        (change,) = inventory.adopt(state(recorded, A)).changes
        assert (change.event, change.gpu.uuid, change.previous) == (Event.MOVED, "GPU-1", A)
        assert [gpu.uuid for gpu in state(inventory, A).gpus] == ["GPU-2"]

    @pytest.mark.parametrize("order", [(A, FAR), (FAR, A), (A, B), (B, A)])
    def test_a_conflict_stays_one_in_both_places(self, order: tuple[Place, Place]):
        """In one cluster and across two, whichever node was read last."""
        one, other = order
        readings = [
            reading(one, 1.0, "GPU-1"),
            reading(other, 2.0, "GPU-1"),
            reading(one, 3.0, "GPU-1"),
            reading(other, 4.0, "GPU-1"),
        ]
        inventory = self.other(*readings)
        recorded = self.other(*readings, reading(one, 13.0, "GPU-1"), reading(other, 18.0, "GPU-1"))
        for place in order:
            assert inventory.adopt(state(recorded, place)).changes == ()
        assert {found.place for found in inventory.find(uuid="GPU-1")} == {one, other}
        assert inventory.conflicts(one.cluster) == recorded.conflicts(one.cluster) >= 1

    def test_after_a_fast_clock_new_readings_decide(self):
        inventory = self.other(reading(A, 80.0, "GPU-1"), reading(A, 190.0), reading(B, 200.0, "GPU-1"))
        recorded = self.other(reading(A, 3690.0, "GPU-1"), reading(B, 3690.0))
        assert set(inventory.adopt(state(recorded, A)).verify) == {A, B}
        inventory.adopt(state(recorded, B))
        inventory.apply(reading(A, 210.0))
        (change,) = inventory.apply(reading(B, 220.0, "GPU-1")).changes
        assert (change.event, change.place, change.previous) == (Event.MOVED, B, A)
        assert change.time >= 3690.0

    def test_nodes_both_agree_on_are_not_read_again(self):
        inventory = self.other(reading(A, 80.0, "GPU-1"))
        recorded = self.other(reading(A, 3690.0, "GPU-1"))
        assert inventory.adopt(state(recorded, A)).verify == ()

    def test_an_unsettled_claim_waits_for_a_new_reading(self):
        inventory = self.other(reading(A, 2.0, "GPU-1"), reading(B, 2.0))
        recorded = self.other(reading(A, 1.0, "GPU-1"), reading(B, 5.0, "GPU-1", "GPU-2"))
        step = inventory.adopt(state(recorded, B))
        assert [(change.event, change.gpu.uuid) for change in step.changes] == [(Event.APPEARED, "GPU-2")]
        assert step.verify == (B,)
        assert [placement.place for placement in inventory.find(uuid="GPU-1")] == [A]

    def test_a_claim_settled_elsewhere_is_settled(self):
        inventory = self.other(reading(A, 2.0, "GPU-1"), reading(B, 3.0, "GPU-1"))
        recorded = self.other(reading(A, 1.0, "GPU-1"), reading(B, 5.0, "GPU-1"), reading(A, 6.0))
        assert inventory.adopt(state(recorded, B)).changes == ()
        (change,) = inventory.adopt(state(recorded, A)).changes
        assert (change.event, change.place, change.previous) == (Event.MOVED, B, A)
        assert (inventory.claimed("prod"), inventory.conflicts("prod")) == (set(), 0)
        (change,) = inventory.apply(reading(B, 7.0)).changes
        assert change.event is Event.VANISHED
        (change,) = inventory.apply(reading(B, 8.0, "GPU-1")).changes
        assert change.event is Event.APPEARED

    def test_an_older_reading_only_adds_an_earlier_since(self):
        inventory = self.other(reading(A, 2.0, "GPU-1"), reading(A, 6.0, "GPU-1", "GPU-3"))
        recorded = self.other(reading(A, 1.0, "GPU-1"), reading(A, 5.0, "GPU-1", "GPU-2"))
        step = inventory.adopt(state(recorded, A))
        after = state(inventory, A)
        assert (step.changes, step.nodes) == ((), {A: after})
        assert [gpu.uuid for gpu in after.gpus] == ["GPU-1", "GPU-3"]
        assert after.since == (1.0, 6.0)
        assert after.time == 6.0

    def test_a_node_without_a_reading_is_known_by_name(self):
        other = Inventory()
        other.set_node("prod", NodeInfo(name="b", capacity=4))
        inventory = Inventory()
        assert inventory.adopt(state(other, B)).changes == ()
        assert inventory.node(B) == other.node(B)

    def test_of_two_readings_at_one_time_the_own_one_stays(self):
        inventory = self.other(reading(A, 2.0, "GPU-1"))
        recorded = self.other(reading(A, 2.0, "GPU-2"))
        step = inventory.adopt(state(recorded, A))
        assert (step.changes, step.verify) == ((), (A,))
        assert [gpu.uuid for gpu in state(inventory, A).gpus] == ["GPU-1"]

    def test_the_newer_reading_determines_the_health(self):
        inventory = self.other(reading(A, 2.0, Gpu(uuid="GPU-1", health=Health(row_remap_pending=True))))
        fine = Health(row_remap_pending=False)
        recorded = self.other(reading(A, 5.0, Gpu(uuid="GPU-1", health=fine)))
        inventory.adopt(state(recorded, A))
        assert [gpu.health for gpu in state(inventory, A).gpus] == [fine]

    @pytest.mark.parametrize(("time", "partial"), [(5.0, True), (1.0, False)])
    def test_a_reading_that_may_lack_gpus_stays_one(self, time: float, partial: bool):
        inventory = self.other(reading(A, 2.0, "GPU-1"))
        recorded = self.other(msgspec.structs.replace(reading(A, time, "GPU-1"), partial=True))
        inventory.adopt(state(recorded, A))
        assert state(inventory, A).partial is partial

    @pytest.mark.parametrize(("time", "lost"), [(5.0, 1), (1.5, 0)])
    def test_a_gpu_that_the_newer_reading_lost_is_lost(self, time: float, lost: int):
        inventory = self.other(reading(A, 2.0, "GPU-1"))
        recorded = self.other(
            reading(A, 1.0, "GPU-1"), msgspec.structs.replace(reading(A, time), lost=(GpuRef("GPU-1"),))
        )
        assert [one.lost for one in state(recorded, A).unseen] == [True]
        inventory.adopt(state(recorded, A))
        assert state(inventory, A).lost == lost
        assert (state(inventory, A).unseen == state(recorded, A).unseen) is bool(lost)

    def test_silent_gpus_of_a_node_that_neither_has_read_are_adopted(self):
        one, other = (SilentGpu(f"00000000:0{bus}:00.0", 1.0, "b", unlisted=True) for bus in (1, 2))
        node = NodeState(place=A, node=NodeInfo(name="a"))
        inventory = Inventory()
        inventory.set_node("prod", node.node)
        assert inventory.adopt(node).nodes == {}
        assert inventory.adopt(msgspec.structs.replace(node, silent=(one,))).nodes == {A: state(inventory, A)}
        inventory.adopt(msgspec.structs.replace(node, silent=(other,)))  # too late
        assert state(inventory, A).silent == (one,)
        read = self.other(reading(A, 2.0))
        assert read.adopt(msgspec.structs.replace(node, silent=(one,))).nodes == {}
