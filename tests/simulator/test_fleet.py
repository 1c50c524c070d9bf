"""The simulated hardware: where each GPU is, and how actions change it."""

import pytest

from collector.collect import nvidia_smi
from collector.model import Gpu
from collector.simulator import smi
from collector.simulator.fleet import Fleet, SimulationError


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(clusters=3, nodes=4, gpus=4)


def read(fleet: Fleet, cluster: str, node: str) -> tuple[Gpu, ...]:
    return nvidia_smi.parse(smi.render(fleet.kind(cluster), fleet.cards(cluster, node), 0.0)).gpus


class TestAFleetIsDeterminedByItsSeed:
    def test_the_same_seed_makes_the_same_fleet(self, fleet: Fleet) -> None:
        assert Fleet(clusters=3, nodes=4, gpus=4).expected() == fleet.expected()

    def test_another_seed_makes_other_gpus(self, fleet: Fleet) -> None:
        other = Fleet(clusters=3, nodes=4, gpus=4, seed=1).expected()
        assert {placed.uuid for placed in other}.isdisjoint(placed.uuid for placed in fleet.expected())
        assert {placed.serial for placed in other}.isdisjoint(placed.serial for placed in fleet.expected())

    def test_an_untouched_fleet_stays_small(self) -> None:
        fleet = Fleet(clusters=100, nodes=1000, gpus=8)
        assert isinstance(fleet._machines["sim-99"]["gpu-0999"].gpus, range)


class TestWhatTheMachinesAreMadeOf:
    def test_every_third_cluster_is_gb200(self) -> None:
        fleet = Fleet(clusters=6, nodes=1, gpus=1)
        assert [fleet.kind(name) for name in fleet.clusters] == ["h100", "h100", "gb200"] * 2

    def test_every_h100_has_its_own_serial_and_no_chassis(self, fleet: Fleet) -> None:
        gpus = fleet.expected("sim-0")
        assert len(gpus) == len({gpu.serial for gpu in gpus}) == 16
        assert {gpu.chassis for gpu in gpus} == {""}

    def test_two_gb200_share_a_board_and_its_serial(self, fleet: Fleet) -> None:
        gpus = fleet.expected("sim-2")
        assert len({gpu.uuid for gpu in gpus}) == 16
        assert len({gpu.serial for gpu in gpus}) == 8

    def test_eighteen_gb200_trays_share_a_chassis(self) -> None:
        fleet = Fleet(clusters=3, nodes=40, gpus=4)
        assert len({gpu.chassis for gpu in fleet.expected("sim-2")}) == 3
        [gpu, *_] = read(fleet, "sim-2", "gpu-0019")
        assert (gpu.slot, gpu.tray, gpu.host, gpu.module) == ("2", "1", "1", "1")

    def test_a_node_may_have_an_odd_number_of_gb200(self) -> None:
        fleet = Fleet(clusters=3, nodes=2, gpus=3)
        assert len({gpu.serial for gpu in fleet.expected("sim-2")}) == 4


class TestActs:
    def test_a_moved_gpu_is_on_the_other_node(self, fleet: Fleet) -> None:
        [uuid] = fleet.move("sim-0", "gpu-0000", "sim-1", "gpu-0002")
        assert [(gpu.cluster, gpu.node) for gpu in fleet.expected() if gpu.uuid == uuid] == [("sim-1", "gpu-0002")]
        assert fleet.capacity("sim-0", "gpu-0000") == 3
        assert fleet.capacity("sim-1", "gpu-0002") == 5

    def test_a_gb200_moves_with_its_whole_board(self, fleet: Fleet) -> None:
        serial = fleet.cards("sim-2", "gpu-0000")[0].serial
        moved = fleet.move("sim-2", "gpu-0000", "sim-2", "gpu-0001", fleet.cards("sim-2", "gpu-0000")[0].uuid)
        assert len(moved) == 2
        assert {gpu.node for gpu in fleet.expected("sim-2") if gpu.serial == serial} == {"gpu-0001"}

    def test_a_swapped_tray_has_new_gpus_in_the_old_chassis(self, fleet: Fleet) -> None:
        before = {gpu for gpu in fleet.expected("sim-2") if gpu.node == "gpu-0001"}
        fleet.swap_tray("sim-2", "gpu-0001")
        after = {gpu for gpu in fleet.expected("sim-2") if gpu.node == "gpu-0001"}
        assert len(after) == len(before) == 4
        assert {gpu.serial for gpu in after}.isdisjoint(gpu.serial for gpu in before)
        assert {gpu.chassis for gpu in after} == {gpu.chassis for gpu in before}

    def test_a_repaired_gpu_returns_in_another_slot(self, fleet: Fleet) -> None:
        broken = fleet.cards("sim-0", "gpu-0001")[1].uuid
        new, out = fleet.replace("sim-0", "gpu-0001", broken)
        assert (out, fleet.cards("sim-0", "gpu-0001")[1].uuid) == (broken, new)
        assert broken not in {gpu.uuid for gpu in fleet.expected()}
        other = fleet.cards("sim-1", "gpu-0003")[0].uuid
        assert fleet.replace("sim-1", "gpu-0003", other, broken) == [broken, other]
        assert fleet.cards("sim-1", "gpu-0003")[0].uuid == broken
        with pytest.raises(
            SimulationError, match=r"^sim-0: no GPU GPU-\S+ of the kind was taken out that could be put"
        ):
            fleet.replace("sim-0", "gpu-0001", None, broken)

    def test_a_gb200_is_replaced_with_its_whole_board(self, fleet: Fleet) -> None:
        before = [card.serial for card in fleet.cards("sim-2", "gpu-0000")]
        assert len(fleet.replace("sim-2", "gpu-0000", fleet.cards("sim-2", "gpu-0000")[0].uuid)) == 4
        after = [card.serial for card in fleet.cards("sim-2", "gpu-0000")]
        assert [one == other for one, other in zip(before, after, strict=True)] == [False, False, True, True]

    def test_gpus_of_a_deleted_node_return_with_the_next(self, fleet: Fleet) -> None:
        gone = fleet.remove("sim-0", "gpu-0003")
        assert not {gpu for gpu in fleet.expected() if gpu.uuid in gone}
        assert fleet.add("sim-0", "gpu-0009") == gone

    def test_a_migrated_node_has_other_gpus(self, fleet: Fleet) -> None:
        before = {card.uuid for card in fleet.cards("sim-0", "gpu-0000")}
        assert before.isdisjoint(fleet.migrate("sim-0", "gpu-0000"))

    def test_a_lost_gpu_is_back_after_a_reboot(self, fleet: Fleet) -> None:
        truth = fleet.expected()
        [uuid] = fleet.lose("sim-0", "gpu-0000")
        assert {gpu.uuid for gpu in truth - fleet.expected()} == {uuid}
        fleet.reboot("sim-0", "gpu-0000")
        assert fleet.expected() == truth

    def test_a_missing_object_is_reported_in_one_line(self, fleet: Fleet) -> None:
        with pytest.raises(SimulationError, match=r"^no cluster sim-9; there are sim-0, sim-1, sim-2$"):
            fleet.cards("sim-9", "gpu-0000")
        with pytest.raises(SimulationError, match=r"^sim-0: no GPU node x; there are gpu-0000, gpu-0001, gpu-0002, "):
            fleet.cards("sim-0", "x")
        with pytest.raises(SimulationError, match=r"^sim-0: gpu-0001 has no GPU GPU-1; it has GPU-"):
            fleet.lose("sim-0", "gpu-0001", "GPU-1")
        with pytest.raises(SimulationError, match=r"^sim-0: the GPU is already on gpu-0001$"):
            fleet.move("sim-0", "gpu-0001", "sim-0", "gpu-0001")


class TestWhatNvidiaSmiPrints:
    @pytest.mark.parametrize("cluster", ["sim-0", "sim-2"])
    def test_the_parser_reads_the_truth(self, fleet: Fleet, cluster: str) -> None:
        truth = {(gpu.uuid, gpu.serial, gpu.chassis or None, gpu.model) for gpu in fleet.expected(cluster)}
        assert truth == {
            (gpu.uuid, gpu.serial, gpu.chassis, gpu.model)
            for node in fleet.nodes(cluster)
            for gpu in read(fleet, cluster, node)
        }

    def test_it_has_the_format_and_size_of_real_output(self, fleet: Fleet) -> None:
        text = smi.render("gb200", fleet.cards("sim-2", "gpu-0000"), 1_769_000_000.0).decode()
        assert text.startswith(
            '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n<nvidia_smi_log>\n'
            "\t<timestamp>Wed Jan 21 12:53:20 2026</timestamp>\n"
        )
        assert text.endswith("\t</gpu>\n\n</nvidia_smi_log>\n")
        assert "\t\t\t<peer_type>Switch Connected</peer_type>\n" in text
        assert "{" not in text
        assert 4 * 10_000 < len(text) < 4 * 14_000

    def test_a_host_without_gpus_lists_none(self) -> None:
        assert b"<attached_gpus>0</attached_gpus>" in smi.render("h100", [], 0.0)

    def test_mig_shows_its_devices_and_changes_no_uuid(self, fleet: Fleet) -> None:
        before = [gpu.uuid for gpu in read(fleet, "sim-0", "gpu-0000")]
        fleet.set_mig("sim-0", "gpu-0000", True)
        gpus = read(fleet, "sim-0", "gpu-0000")
        assert [gpu.uuid for gpu in gpus] == before
        assert {gpu.mig for gpu in gpus} == {True}

    def test_a_hidden_serial_is_not_available(self, fleet: Fleet) -> None:
        fleet.hide_serials("sim-0", "gpu-0000")
        assert {gpu.serial for gpu in read(fleet, "sim-0", "gpu-0000")} == {None}
        assert b"<serial>N/A</serial>" in smi.render("h100", fleet.cards("sim-0", "gpu-0000"), 0.0)

    def test_a_lost_gpu_that_is_listed_has_no_details(self, fleet: Fleet) -> None:
        fleet.lose("sim-0", "gpu-0000", listed=True)
        text = smi.render("h100", fleet.cards("sim-0", "gpu-0000"), 0.0)
        assert b"<attached_gpus>4</attached_gpus>" in text
        assert b"<uuid>GPU is lost</uuid>" in text
        known = {gpu.uuid for gpu in nvidia_smi.parse(text).gpus} - {None}
        assert known == {gpu.uuid for gpu in fleet.expected("sim-0") if gpu.node == "gpu-0000"}


def test_nodes_with_gpus_that_do_not_respond_are_impaired_until_they_reboot() -> None:
    fleet = Fleet(clusters=1, nodes=4, gpus=2)
    fleet.lose("sim-0", "gpu-0000")
    fleet.lose("sim-0", "gpu-0001", listed=True)
    fleet.lose("sim-0", "gpu-0002", silent=True)
    assert fleet.impaired("sim-0") == ["gpu-0000", "gpu-0001", "gpu-0002"]
    fleet.reboot("sim-0", "gpu-0001")
    assert fleet.impaired("sim-0") == ["gpu-0000", "gpu-0002"]


def test_a_new_node_on_a_freed_host_has_no_impaired_gpus() -> None:
    fleet = Fleet(clusters=1, nodes=1, gpus=2)
    fleet.lose("sim-0", "gpu-0000", silent=True)
    there = fleet.remove("sim-0", "gpu-0000")
    assert fleet.add("sim-0", "gpu-0001") == there
    assert fleet.impaired("sim-0") == []
