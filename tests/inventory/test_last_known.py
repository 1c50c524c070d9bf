"""A value that a GPU no longer reports stays known within its cluster, with the time of its last report."""

import msgspec
import pytest

from collector.health import Health
from collector.inventory import Inventory
from collector.inventory.last_known import (
    facts_of,
    newest_marks,
    settled,
    with_foreign_growth,
    with_last_known,
    with_own_health,
)
from collector.model import (
    Change,
    Event,
    FieldChange,
    Fingerprint,
    Gpu,
    GpuRef,
    LastReport,
    NodeInfo,
    NodeState,
    Place,
    Placement,
    Reading,
)

A, B, WEST = Place("east", "a"), Place("east", "b"), Place("west", "c")
FULL = Gpu(
    uuid="GPU-1",
    serial="s1",
    model="H100",
    architecture="Hopper",
    chassis="c1",
    board_part_number="699",
    gpu_part_number="2330",
    pci_bus_id="00000000:18:00.0",
    vbios="96",
    mig=False,
)
NO_SERIAL = msgspec.structs.replace(FULL, serial=None)
BARE = Gpu(uuid="GPU-1")


class World:
    """An inventory whose readings are one second apart, unless they say when they were."""

    def __init__(self) -> None:
        self.inventory = Inventory()

    def read(self, place: Place, time: float, *gpus: Gpu, lost: tuple[GpuRef, ...] = ()) -> list[Change]:
        return list(
            self.inventory.apply(
                Reading(
                    cluster=place.cluster,
                    node=NodeInfo(name=place.node),
                    source="x/y",
                    fingerprint=Fingerprint(pod_uid="p", container_id="c", restarts=0, boot_id="b", capacity=8),
                    time=time,
                    driver_version=None,
                    cuda_version=None,
                    gpus=gpus,
                    lost=lost,
                )
            ).changes
        )

    def remove(self, place: Place, time: float) -> None:
        self.inventory.remove_node(place, time)

    def state(self, place: Place) -> NodeState:
        found = self.inventory.node(place)
        assert found is not None
        return found

    def only(self, place: Place) -> Placement:
        (placement,) = self.inventory.placements(place)
        return placement

    def facts(self, place: Place) -> dict[str, tuple[object, float]]:
        """What is last known of the only GPU of a node, and when it was reported last."""
        gpu = self.only(place).gpu
        return {field: (getattr(gpu, field), time) for field, time in gpu.last_known}


@pytest.fixture
def world() -> World:
    return World()


class TestInItsNode:
    def test_the_time_is_that_of_the_last_report(self, world: World) -> None:
        for time, gpu in ((10.0, FULL), (20.0, FULL), (30.0, NO_SERIAL), (40.0, NO_SERIAL)):
            world.read(A, time, gpu)
        assert world.facts(A) == {"serial": ("s1", 20.0)}

    def test_each_field_has_its_own_time(self, world: World) -> None:
        world.read(A, 10.0, FULL)
        world.read(A, 20.0, NO_SERIAL)
        world.read(A, 30.0, msgspec.structs.replace(NO_SERIAL, chassis=None))
        assert world.facts(A) == {"serial": ("s1", 10.0), "chassis": ("c1", 20.0)}

    def test_the_time_of_a_gpu_that_was_lost_is_when_it_was_found(self, world: World) -> None:
        world.read(A, 10.0, FULL)
        world.read(A, 20.0, lost=(GpuRef("GPU-1"),))
        world.read(A, 30.0, NO_SERIAL)
        assert world.facts(A) == {"serial": ("s1", 10.0)}

    def test_its_loss_and_its_return_are_changes(self, world: World) -> None:
        world.read(A, 10.0, FULL)
        (lost,) = world.read(A, 20.0, NO_SERIAL)
        assert (lost.event, lost.changes) == (Event.ALTERED, (FieldChange("serial", "s1", None),))
        assert lost.gpu.serial == "s1"
        (back,) = world.read(A, 30.0, FULL)
        assert (back.event, back.changes) == (Event.ALTERED, (FieldChange("serial", None, "s1"),))
        assert world.only(A).gpu == FULL

    def test_another_value_replaces_the_last_known_one(self, world: World) -> None:
        world.read(A, 10.0, FULL)
        world.read(A, 20.0, NO_SERIAL)
        (other,) = world.read(A, 30.0, msgspec.structs.replace(FULL, serial="s2"))
        assert other.changes == (FieldChange("serial", "s1", "s2"),)
        assert world.facts(A) == {}
        assert world.inventory.find(serial="s1") == []

    def test_volatile_values_are_not_kept(self, world: World) -> None:
        world.read(A, 10.0, FULL)
        (change,) = world.read(A, 20.0, msgspec.structs.replace(FULL, vbios=None, mig=True, pci_bus_id=None))
        assert change.changes == (
            FieldChange("pci_bus_id", "00000000:18:00.0", None),
            FieldChange("vbios", "96", None),
            FieldChange("mig", False, True),
        )
        assert world.facts(A) == {}

    def test_a_confirmed_reading_changes_nothing(self, world: World) -> None:
        world.read(A, 10.0, FULL)
        world.read(A, 20.0, NO_SERIAL)
        before = world.only(A).gpu
        assert world.read(A, 30.0, NO_SERIAL) == []
        assert world.only(A).gpu is before

    def test_a_gpu_that_never_reported_it_has_no_value(self, world: World) -> None:
        world.read(A, 10.0, BARE)
        assert world.read(A, 20.0, BARE) == []
        assert world.facts(A) == {}

    def test_a_last_known_serial_is_found(self, world: World) -> None:
        world.read(A, 10.0, FULL)
        world.read(A, 20.0, NO_SERIAL)
        assert [one.gpu.uuid for one in world.inventory.find(serial="s1")] == ["GPU-1"]
        assert [one.gpu.uuid for one in world.inventory.find(chassis="c1")] == ["GPU-1"]


class TestAlongItsWay:
    def test_values_survive_deletion_and_return_of_the_node(self, world: World) -> None:
        world.read(A, 10.0, FULL)
        world.remove(A, 50.0)
        world.read(A, 60.0, BARE)
        fields = ("serial", "model", "architecture", "board_part_number", "gpu_part_number", "chassis")
        assert world.facts(A) == {field: (getattr(FULL, field), 10.0) for field in fields}

    def test_a_mark_keeps_its_time_while_the_gpu_is_away(self, world: World) -> None:
        world.read(A, 10.0, FULL)
        world.read(A, 20.0, NO_SERIAL)
        world.remove(A, 50.0)
        world.read(A, 60.0, NO_SERIAL)
        assert world.facts(A) == {"serial": ("s1", 10.0)}

    @pytest.mark.parametrize("first", ["leaves", "arrives"])
    def test_values_move_along_within_a_cluster(self, world: World, first: str) -> None:
        world.read(A, 10.0, FULL)
        if first == "leaves":
            world.read(A, 20.0)
        world.read(B, 30.0, BARE)
        world.read(A, 40.0)
        assert world.only(B).gpu.chassis is None  # it may be in another one
        assert world.facts(B)["serial"] == ("s1", 10.0)

    def test_values_of_an_absent_gpu_stay_known(self, world: World) -> None:
        world.read(A, 10.0, FULL)
        world.remove(A, 20.0)
        facts = world.inventory.facts("gpu-1")
        assert facts is not None
        assert (facts.serial, dict(facts.last_known)["serial"]) == ("s1", 10.0)
        assert world.inventory.facts("GPU-2") is None

    @pytest.mark.parametrize("gone", [True, False])
    def test_values_are_not_carried_between_clusters(self, world: World, gone: bool) -> None:
        world.read(A, 10.0, FULL)
        if gone:
            world.remove(A, 20.0)
        world.read(WEST, 30.0, BARE)
        assert world.only(WEST).gpu == BARE
        if not gone:
            world.read(A, 40.0)  # it has really moved
            world.read(WEST, 50.0, BARE)
            assert world.only(WEST).gpu == BARE

    def test_values_survive_a_restart(self, world: World) -> None:
        world.read(A, 10.0, FULL)
        world.remove(A, 20.0)
        facts = world.inventory.facts("GPU-1")
        assert facts is not None
        world.inventory = Inventory()
        world.inventory.restore([], {"GPU-1": A}, {"GPU-1": 20.0}, {"GPU-1": facts})
        world.read(A, 30.0, NO_SERIAL)
        assert world.facts(A) == {"serial": ("s1", 10.0)}

    def test_a_virtual_gpu_leaves_no_values_behind(self, world: World) -> None:
        world.read(A, 10.0, Gpu(uuid="GPU-1", model="GRID", virtual=True))
        world.remove(A, 20.0)
        assert world.inventory.facts("GPU-1") is None


class TestOfAnotherCollector:
    def test_its_values_are_adopted(self) -> None:
        leader, standby = World(), World()
        leader.read(A, 10.0, FULL)
        leader.read(A, 20.0, NO_SERIAL)
        standby.read(A, 30.0, NO_SERIAL)  # it began too late to see the serial
        step = standby.inventory.adopt(leader.state(A))
        assert step.changes == ()
        assert standby.facts(A) == {"serial": ("s1", 10.0)}
        assert [one.place for one in standby.inventory.find(serial="s1")] == [A]

    def test_its_values_are_not_adopted_if_it_does_not_say_what_it_read(self) -> None:
        leader, standby = World(), World()
        leader.read(A, 10.0, FULL)
        standby.inventory.adopt(msgspec.structs.replace(leader.state(A), fingerprint=None))
        assert (standby.state(A).time, standby.state(A).gpus) == (None, ())

    def test_its_times_are_those_of_the_history(self) -> None:
        leader, standby = World(), World()
        for number, world in enumerate((leader, standby)):
            world.read(A, 10.0 + number, FULL)
            world.read(A, 20.0 + number, NO_SERIAL)
        assert standby.facts(A) == {"serial": ("s1", 11.0)}
        standby.inventory.adopt(leader.state(A))
        assert standby.facts(A) == {"serial": ("s1", 10.0)}

    def test_a_departure_noticed_later_keeps_known_values(self) -> None:
        standby = World()
        standby.read(A, 10.0, FULL)
        standby.read(A, 20.0)
        standby.inventory.recall({"GPU-1": A}, {"GPU-1": 25.0}, {})
        standby.read(A, 30.0, BARE)
        assert standby.facts(A)["serial"] == ("s1", 10.0)
        assert standby.facts(A)["chassis"] == ("c1", 10.0)

    @pytest.mark.parametrize("noticed", [15.0, 25.0])
    def test_knowledge_of_an_absent_gpu_is_merged(self, noticed: float) -> None:
        leader, standby = World(), World()
        leader.read(A, 5.0, msgspec.structs.replace(FULL, board_part_number=None))
        leader.read(A, noticed)
        standby.read(A, 10.0, msgspec.structs.replace(NO_SERIAL, chassis=None))
        standby.read(A, 20.0)
        facts = leader.inventory.facts("GPU-1")
        assert facts is not None
        standby.inventory.recall({"GPU-1": A}, {"GPU-1": noticed}, {"GPU-1": facts})
        standby.read(A, 30.0, BARE)
        assert standby.facts(A)["serial"] == ("s1", 5.0)
        assert standby.facts(A)["chassis"] == ("c1", 5.0)
        assert standby.facts(A)["board_part_number"] == ("699", 10.0)

    def test_a_gpu_only_the_other_saw_keeps_its_facts(self) -> None:
        leader, standby = World(), World()
        leader.read(A, 10.0, FULL)
        leader.remove(A, 20.0)
        facts = leader.inventory.facts("GPU-1")
        assert facts is not None
        standby.inventory.recall({"GPU-1": A}, {"GPU-1": 20.0}, {"GPU-1": facts})
        standby.read(A, 30.0, NO_SERIAL)
        assert standby.facts(A) == {"serial": ("s1", 10.0)}

    @pytest.mark.parametrize("noticed", [15.0, 25.0])
    def test_values_of_absent_gpus_stay_within_their_cluster(self, noticed: float) -> None:
        standby = World()
        standby.read(A, 10.0, FULL)
        standby.read(A, 20.0)
        recorded = msgspec.structs.replace(BARE, model="H200", last_known=(LastReport("model", 14.0),))
        standby.inventory.recall({"GPU-1": WEST}, {"GPU-1": noticed}, {"GPU-1": recorded})
        last = WEST if noticed > 20.0 else A
        standby.read(last, 30.0, BARE)
        assert standby.only(last).gpu.model == ("H200" if last == WEST else "H100")
        assert standby.only(last).gpu.serial == (None if last == WEST else "s1")


def test_only_their_health_is_added_to_the_gpus_of_an_inventory_that_does_not_read_it() -> None:
    health = Health(inforom="1", remapped_rows_correctable=0)
    theirs, other = Gpu(uuid="GPU-1", serial="s1", last_known=(LastReport("serial", 1.0),)), Gpu(uuid="GPU-2")
    for field in ("health", "inforom"):
        marks = LastReport("chassis", 2.0), LastReport(field, 3.0)
        own = Gpu(uuid="GPU-1", model="H100", chassis="c1", health=health, ecc_growth=4.0, last_known=marks)
        assert with_own_health([theirs, other], [own]) == (
            Gpu(uuid="GPU-1", serial="s1", health=health, ecc_growth=4.0, last_known=(*theirs.last_known, marks[1])),
            other,
        )


class TestSettledMoves:
    """What a GPU's old place reported while it was claimed replaces what was last known then, at 10.0."""

    FINE, WORN = Health(remapped_rows_correctable=0, inforom="1"), Health(remapped_rows_correctable=1, inforom="1")

    def test_a_health_that_only_its_old_place_reports_is_the_newest_there(self) -> None:
        claimed = Gpu(
            uuid="GPU-1",
            serial="s1",
            health=self.FINE,
            last_known=(LastReport("serial", 5.0), LastReport("health", 10.0)),
        )
        assert settled(claimed, Gpu(uuid="GPU-1", health=self.WORN), 30.0) == msgspec.structs.replace(
            claimed, health=self.WORN, last_known=(LastReport("serial", 5.0), LastReport("health", 30.0))
        )

    def test_a_value_that_only_its_old_place_reports_is_the_newest_there(self) -> None:
        marks = LastReport("serial", 5.0), LastReport("remapped_rows_correctable", 10.0)
        claimed = Gpu(uuid="GPU-1", serial="s1", health=self.FINE, last_known=marks)
        home = Gpu(uuid="GPU-1", health=msgspec.structs.replace(self.WORN, inforom="0"))
        assert settled(claimed, home, 30.0) == msgspec.structs.replace(
            claimed, health=self.WORN, last_known=(marks[0], LastReport("remapped_rows_correctable", 30.0))
        )

    def test_what_it_reports_itself_stays(self) -> None:
        claimed = Gpu(uuid="GPU-1", serial="s1", health=self.FINE, last_known=(LastReport("serial", 5.0),))
        assert settled(claimed, Gpu(uuid="GPU-1", health=self.WORN), 30.0) == claimed
        assert settled(claimed, Gpu(uuid="GPU-1"), 30.0) == claimed

    @pytest.mark.parametrize(("claimed", "home"), [(15.0, 20.0), (20.0, 15.0), (None, 20.0), (20.0, None)])
    def test_the_newest_growth_of_errors_counts(self, claimed: float | None, home: float | None) -> None:
        gpu = Gpu(uuid="GPU-1", health=self.FINE, ecc_growth=claimed)
        assert settled(gpu, Gpu(uuid="GPU-1", ecc_growth=home), 30.0).ecc_growth == 20.0


class TestForeignGrowth:
    """Growth of errors noted in another cluster, on 7 January 2026, counts where the GPU's own values confirm it."""

    NOTED = 1767744000.0
    ERRORS = Health(ecc_dram_uncorrectable=3)
    KNOWN = Gpu(uuid="GPU-1", health=ERRORS, ecc_growth=NOTED)

    @pytest.mark.parametrize("later", [-6 * 86400.0, 0.0, 6 * 86400.0])
    def test_it_is_adopted_within_a_week(self, later: float) -> None:
        found = with_foreign_growth(Gpu(uuid="GPU-1", health=self.ERRORS), self.KNOWN, self.NOTED + later)
        assert found.ecc_growth == self.NOTED

    @pytest.mark.parametrize("later", [-7 * 86400.0, 7 * 86400.0])
    def test_it_has_no_effect_after_a_week(self, later: float) -> None:
        found = with_foreign_growth(Gpu(uuid="GPU-1", health=self.ERRORS), self.KNOWN, self.NOTED + later)
        assert found.ecc_growth is None

    @pytest.mark.parametrize(("own", "newest"), [(NOTED - 60.0, NOTED), (NOTED + 60.0, NOTED + 60.0)])
    def test_the_newest_counts(self, own: float, newest: float) -> None:
        gpu = Gpu(uuid="GPU-1", health=self.ERRORS, ecc_growth=own)
        assert with_foreign_growth(gpu, self.KNOWN, self.NOTED + 120.0).ecc_growth == newest


class TestMarksOfAnotherInventory:
    """Each last known value is marked with the time that the other one recorded for the same value."""

    OURS = LastReport("serial", 20.0), LastReport("inforom", 20.0)
    THEIRS = LastReport("serial", 10.0), LastReport("inforom", 10.0)

    @pytest.mark.parametrize(
        ("serial", "inforom", "marks"),
        [
            ("s1", "1", THEIRS),
            ("s2", "1", (OURS[0], THEIRS[1])),
            ("s1", "2", (THEIRS[0], OURS[1])),
        ],
    )
    def test_another_value_has_another_time(self, serial: str, inforom: str, marks: tuple[LastReport, ...]) -> None:
        gpu = Gpu(uuid="GPU-1", serial="s1", health=Health(inforom="1"), last_known=self.OURS)
        recorded = Gpu(uuid="GPU-1", serial=serial, health=Health(inforom=inforom), last_known=self.THEIRS)
        assert newest_marks(gpu, recorded) == msgspec.structs.replace(gpu, last_known=marks)

    def test_a_value_that_the_other_one_still_reads_keeps_its_time(self) -> None:
        gpu = Gpu(uuid="GPU-1", serial="s1", last_known=self.OURS[:1])
        assert newest_marks(gpu, Gpu(uuid="GPU-1", serial="s1")) is gpu


def test_a_gpu_that_is_virtual_now_keeps_nothing_of_the_physical_one() -> None:
    virtual = Gpu(uuid="GPU-1", virtual=True)
    assert with_last_known(virtual, FULL, 10.0, same_node=True) is virtual


def test_absent_gpus_with_equal_values_share_them_but_not_their_serials() -> None:
    decode = msgspec.json.Decoder(Gpu).decode  # which makes new texts
    written = b'{"uuid": "GPU-1", "serial": "one serial", "model": "NVIDIA H100", "pci_bus_id": "00000000:18:00.0"}'
    first, second = facts_of(decode(written), 10.0), facts_of(decode(written), 10.0)
    assert first is not None
    assert second is not None
    assert first == second
    assert first.model is second.model
    assert first.pci_bus_id is second.pci_bus_id
    assert first.serial is not second.serial


class TestConflicts:
    def test_a_last_known_serial_causes_no_conflict(self, world: World) -> None:
        world.read(A, 10.0, Gpu(uuid="GPU-1", serial="s"))
        world.read(B, 20.0, Gpu(uuid="GPU-2", serial="s"))
        assert world.inventory.conflicts("east") == 2
        world.read(A, 30.0, Gpu(uuid="GPU-1"))
        assert world.inventory.conflicts("east") == 0
        assert len(world.inventory.find(serial="s")) == 2
        world.read(A, 40.0, Gpu(uuid="GPU-1", serial="s"))
        assert world.inventory.conflicts("east") == 2

    def test_a_board_stays_one_if_a_gpu_stops_reporting_it(self, world: World) -> None:
        one, two, three, four = (Gpu(uuid=f"GPU-{number}", serial="board") for number in range(4))
        world.read(A, 10.0, one, two)
        world.read(B, 20.0, three, four)
        world.read(A, 30.0, one, Gpu(uuid=two.uuid))
        assert world.inventory.conflicts("east") == 0
