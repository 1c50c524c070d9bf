"""What ResourceSlices reveal about GPUs that cannot be read, and what is left to readings."""

import msgspec
import pytest

from collector.inventory import Inventory
from collector.inventory.listed import with_listed
from collector.model import (
    NO_UUIDS,
    Event,
    FieldChange,
    Fingerprint,
    Gpu,
    GpuRef,
    NodeInfo,
    NodeState,
    Place,
    ReadFailure,
    Reading,
    SilentGpu,
    Step,
    Uncovered,
    Unread,
)
from collector.store.codec import decode_node, encode_node

A, B, C = (f"GPU-{letter}" for letter in "abc")
BUSES = {A: "00000000:1B:00.0", B: "00000000:3B:00.0", C: "00000000:5D:00.0"}
NODE = Place("east", "n")


def refs(*uuids: str) -> tuple[GpuRef, ...]:
    return tuple(GpuRef(uuid, BUSES[uuid]) for uuid in uuids)


class World:
    """One node of an inventory: what its slices list, and its readings."""

    def __init__(self, *, read: bool = True) -> None:
        self.inventory = Inventory()
        self.info = NodeInfo(name="n", uid="1", boot_id="b", capacity=2, listed=refs(A, B))
        self.inventory.set_node("east", self.info)
        if read:
            self.read(A, B)

    def read(self, *uuids: str, cluster: str = "east", node: str = "n", time: float = 10.0) -> Step:
        info = msgspec.structs.replace(self.info, name=node)
        fingerprint = Fingerprint(
            pod_uid="p", container_id="c", restarts=0, boot_id=info.boot_id, capacity=None, listed=info.listed
        )
        gpus = tuple(Gpu(uuid=uuid, pci_bus_id=BUSES[uuid]) for uuid in uuids)
        reading = Reading(
            cluster=cluster,
            node=info,
            source="ns/p",
            fingerprint=fingerprint,
            time=time,
            driver_version=None,
            cuda_version=None,
            gpus=gpus,
        )
        return self.inventory.apply(reading)

    def list(self, *listed: GpuRef, boot_id: str = "b", time: float = 20.0) -> Step:
        self.info = msgspec.structs.replace(self.info, listed=listed, boot_id=boot_id)
        return self.inventory.set_node("east", self.info, time)

    def delete_slices(self, boot_id: str = "b") -> Step:
        self.info = msgspec.structs.replace(self.info, listed=None, boot_id=boot_id)
        return self.inventory.set_node("east", self.info, 25.0)

    def restarted(self, listed: tuple[GpuRef, ...] | None) -> "World":
        """Return a world that knows what a store kept of this one, and what Kubernetes says first."""
        again = World(read=False)
        again.inventory = Inventory()
        again.inventory.restore([decode_node(NODE, self.node.time, encode_node(self.node))], {})
        again.info = msgspec.structs.replace(self.info, listed=listed)
        again.inventory.set_node("east", again.info, 40.0)
        return again

    def uncover(self) -> Step:
        return self.inventory.set_uncovered(NODE, Uncovered.NO_POD, 15.0)

    def cover(self) -> Step:
        return self.inventory.set_uncovered(NODE, None, 30.0)

    @property
    def node(self) -> NodeState:
        node = self.inventory.node(NODE)
        assert node is not None
        return node


@pytest.fixture
def world() -> World:
    return World()


class TestUncoveredNodes:
    def test_a_gpu_that_is_no_longer_listed_is_lost(self, world: World) -> None:
        world.uncover()
        (change,) = world.list(*refs(A)).changes
        assert (change.gpu.uuid, change.changes) == (B, (FieldChange("lost", False, True),))
        assert (world.node.lost_uuids, world.node.unlisted_uuids, world.node.found) == (
            frozenset({B}),
            frozenset({B}),
            1,
        )
        assert [(one.gpu.uuid, one.lost, one.confirmed, one.lost_since) for one in world.node.placements()] == [
            (A, False, 10.0, None),
            (B, True, 10.0, change.time),
        ]

    def test_a_gpu_is_lost_whichever_event_comes_first(self, world: World) -> None:
        world.list(*refs(A))
        assert world.node.lost_uuids == NO_UUIDS
        world.uncover()
        assert world.node.lost_uuids == {B}

    def test_a_gpu_is_lost_where_readings_fail(self, world: World) -> None:
        world.list(*refs(A))
        world.inventory.read_failed(NODE, ReadFailure.FORBIDDEN, 20.0)
        assert world.node.lost_uuids == {B}

    def test_all_gpus_can_be_lost(self, world: World) -> None:
        world.uncover()
        world.list()
        assert (world.node.lost_uuids, world.node.found) == (frozenset({A, B}), 0)

    def test_a_relisted_gpu_is_not_lost(self, world: World) -> None:
        world.uncover()
        world.list(*refs(A))
        world.list(*refs(A, B))
        assert (world.node.lost_uuids, world.node.found) == (NO_UUIDS, 2)

    def test_a_gpu_nvidia_smi_calls_lost_stays_lost_while_listed(self, world: World) -> None:
        world.inventory.read_failed(NODE, ReadFailure.BAD_OUTPUT, 12.0, lost=refs(B))
        world.list(*refs(A, B, C))
        assert (world.node.lost_uuids, world.node.unlisted_uuids) == (frozenset({B}), NO_UUIDS)

    def test_removed_slices_mark_no_gpu_lost(self, world: World) -> None:
        world.uncover()
        world.list(*refs(A))
        world.delete_slices()
        assert (world.node.lost_uuids, world.node.unlisted_uuids) == (frozenset({B}), frozenset({B}))

    def test_a_gpu_relisted_after_slices_returned_is_not_lost(self, world: World) -> None:
        world.uncover()
        world.list(*refs(A))
        world.delete_slices()
        world.list(*refs(A, B))
        assert (world.node.lost_uuids, world.node.unlisted_uuids, world.node.found) == (NO_UUIDS, NO_UUIDS, 2)

    def test_a_gpu_relisted_after_a_reboot_is_not_lost(self, world: World) -> None:
        world.uncover()
        world.list(*refs(A))
        world.delete_slices(boot_id="another")
        world.list(*refs(A, B), boot_id="another")
        assert world.node.lost_uuids == NO_UUIDS

    def test_a_gpu_nvidia_smi_calls_lost_outlasts_returning_slices(self, world: World) -> None:
        world.inventory.read_failed(NODE, ReadFailure.BAD_OUTPUT, 12.0, lost=refs(B))
        world.delete_slices()
        world.list(*refs(A, B))
        assert (world.node.lost_uuids, world.node.unlisted_uuids) == (frozenset({B}), NO_UUIDS)

    def test_a_gpu_lost_before_a_restart_returns_when_listed(self, world: World) -> None:
        world.uncover()
        world.list(*refs(A))
        for listed in (refs(A, B), None):
            again = world.restarted(listed)
            again.list(*refs(A, B))
            assert again.node.lost_uuids == {B}  # what covers the node is not known yet
            again.uncover()
            assert (again.node.lost_uuids, again.node.found) == (NO_UUIDS, 2)

    def test_an_adopted_record_does_not_make_a_listed_gpu_lost(self, world: World) -> None:
        world.uncover()
        world.list(*refs(A))
        recorded = world.node
        world.list(*refs(A, B))
        world.inventory.adopt(recorded)
        assert world.node.lost_uuids == NO_UUIDS

    def test_a_gpu_given_to_a_virtual_machine_is_not_lost(self, world: World) -> None:
        world.uncover()
        world.list(*refs(A), GpuRef(None, BUSES[B]))
        assert world.node.lost_uuids == NO_UUIDS

    def test_a_gpu_that_was_read_is_not_lost_although_unlisted(self, world: World) -> None:
        world.list(*refs(A))
        world.read(A, B, time=21.0)
        world.uncover()
        world.list(*refs(A, C))
        assert world.node.lost_uuids == NO_UUIDS

    def test_another_machine_under_the_same_name_loses_no_gpu(self, world: World) -> None:
        world.uncover()
        world.list(*refs(C), boot_id="another")
        assert (world.node.lost_uuids, [one.uuid for one in world.node.unseen]) == (NO_UUIDS, [A, B])

    def test_another_machine_whose_slices_come_first_loses_no_gpu(self, world: World) -> None:
        world.uncover()
        world.list(*refs(C))
        assert world.node.lost_uuids == {A, B}
        world.list(*refs(C), boot_id="another")
        assert (world.node.lost_uuids, [one.uuid for one in world.node.unseen]) == (NO_UUIDS, [A, B])

    def test_a_reboot_without_slices_finds_no_lost_gpu(self, world: World) -> None:
        world.uncover()
        world.list()
        world.list(boot_id="another")
        assert world.node.lost_uuids == {A, B}

    def test_a_loss_reported_by_nvidia_smi_is_not_undone(self, world: World) -> None:
        world.inventory.read_failed(NODE, ReadFailure.BAD_OUTPUT, 12.0, lost=refs(B))
        world.list(*refs(A, B, C), boot_id="another")
        world.list(*refs(B, C), boot_id="another")
        assert B in world.node.lost_uuids

    def test_a_reboot_after_which_a_gpu_is_unlisted_loses_it(self, world: World) -> None:
        world.uncover()
        world.list(*refs(A), boot_id="another")
        assert world.node.lost_uuids == {B}

    def test_a_lost_gpu_that_turns_up_in_another_node_of_the_cluster_has_moved(self, world: World) -> None:
        world.uncover()
        world.list(*refs(A))
        step = world.read(B, node="m", time=30.0)
        assert [(change.event, change.place.node) for change in step.changes] == [
            (Event.MOVED, "m"),
            (Event.HEALTH, "m"),  # it responds again
        ]
        assert [gpu.uuid for gpu in world.node.gpus] == [A]


class TestCoveredNodes:
    def test_a_loss_is_not_later_than_the_move_of_the_gpu(self, world: World) -> None:
        world.uncover()
        world.read(B, cluster="west", time=12.0)
        (lost,) = world.list(*refs(A)).changes
        assert lost.time == 20.0
        assert [one.since for one in world.inventory.find(uuid=B)] == [10.0, 20.0]
        changes = world.inventory.remove_node(NODE, 30.0).changes
        assert [one.time for one in changes if one.gpu.uuid == B] == [20.0, 20.0]  # it has moved, and responds

    def test_slices_alone_mark_no_gpu_lost(self, world: World) -> None:
        world.list(*refs(A))
        assert (world.node.lost_uuids, world.node.found) == (NO_UUIDS, 2)

    def test_a_reading_decides(self, world: World) -> None:
        world.uncover()
        world.list(*refs(A))
        world.cover()
        assert world.node.lost_uuids == {B}
        world.read(A, B, time=31.0)
        assert (world.node.lost_uuids, world.node.found) == (NO_UUIDS, 2)

    def test_a_gpu_listed_by_neither_has_vanished(self, world: World) -> None:
        world.uncover()
        world.list(*refs(A))
        world.cover()
        (change,) = world.read(A, time=31.0).changes
        assert (change.event, change.gpu.uuid, change.last_seen) == (Event.VANISHED, B, 10.0)


class TestNodesThatWereNeverRead:
    def test_a_gpu_that_is_no_longer_listed_is_lost_by_its_address(self) -> None:
        world = World(read=False)
        world.list(*refs(A))
        assert world.node.silent == (SilentGpu(BUSES[B], 20.0, "b", unlisted=True),)
        assert (world.node.lost, world.node.found) == (1, None)

    def test_a_relisted_gpu_is_not_lost(self) -> None:
        world = World(read=False)
        world.list(*refs(A))
        world.list(*refs(A, B))
        assert world.node.silent == ()

    def test_a_gpu_relisted_after_slices_returned_is_not_lost(self) -> None:
        world = World(read=False)
        world.list(*refs(A))
        world.delete_slices()
        assert world.node.silent[0].unlisted
        world.list(*refs(A, B))
        assert world.node.silent == ()

    def test_a_gpu_relisted_after_a_reboot_is_not_lost(self) -> None:
        world = World(read=False)
        world.list(*refs(A))
        world.list(*refs(A, B), boot_id="another")
        assert world.node.silent == ()

    def test_a_gpu_unreachable_for_nvidia_smi_outlasts_new_slices(self) -> None:
        world = World(read=False)
        world.delete_slices()
        world.inventory.read_failed(NODE, ReadFailure.BAD_OUTPUT, 12.0, lost=refs(B))
        world.list(*refs(A, B))
        assert world.node.silent == (SilentGpu(BUSES[B], 12.0, "b"),)

    def test_another_card_in_its_place_is_not_lost(self) -> None:
        world = World(read=False)
        world.list(*refs(A), GpuRef(C, BUSES[B]))
        assert world.node.silent == ()

    def test_a_reboot_marks_no_gpu_lost(self) -> None:
        world = World(read=False)
        world.list(*refs(A), boot_id="another")
        assert world.node.silent == ()

    def test_a_reading_that_finds_the_gpu_ends_the_loss(self) -> None:
        world = World(read=False)
        world.list(*refs(A))
        world.read(A, B, time=21.0)
        assert (world.node.silent, world.node.found) == ((), 2)


def test_another_node_with_the_same_name_loses_no_gpu(world: World) -> None:
    world.uncover()
    world.info = msgspec.structs.replace(world.info, uid="2")
    world.list(*refs(A))
    assert world.node.lost_uuids == NO_UUIDS


def test_slices_take_nothing_from_a_node_without_a_reading() -> None:
    """Nor from one whose reading has no fingerprint, which an earlier version recorded."""
    for time in (None, 10.0):
        node = NodeState(
            place=Place("prod", "n"),
            node=NodeInfo(name="n", uid="1", listed=()),
            time=time,
            gpus=(Gpu(uuid="GPU-1"),),
            since=(5.0,),
            uncovered=Unread(Uncovered.NO_POD, 20.0),
        )
        assert with_listed(node.node, node, 30.0) is node
