"""How worn simulated cards are: it follows them, and drivers tell as much of it as they do."""

import json
from pathlib import Path

import aiohttp
import pytest
from lxml import etree

from collector.health import HEALTH_FIELDS
from collector.simulator import DRIVER_FORMS, Simulator, smi
from collector.simulator.actions import actions
from collector.simulator.cluster import SimulatedCluster
from collector.simulator.fleet import Fleet, SimulationError
from collector.simulator.wear import NEW

Wear = dict[str, int | bool | str]

WEAR: Wear = {
    "remapped_rows_correctable": 2,
    "remapped_rows_uncorrectable": 5,
    "remapped_rows_inactive": 1,
    "row_remap_pending": True,
    "row_remap_banks_low": 3,
    "row_remap_banks_none": 1,
    "ecc_sram_uncorrectable": 7,
    "ecc_dram_correctable": 11,
    "sram_threshold_exceeded": True,
    "channel_repair_pending": True,
    "unrepairable_memory": True,
    "recovery_action": "Reboot",
    "reset_required": True,
    "fabric_health": "Unhealthy",
}


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(clusters=3, nodes=4, gpus=4)


def printed(fleet: Fleet, cluster: str, node: str, form: str | None = None) -> list[dict[str, str]]:
    """The leaves of each GPU by their path."""
    output = smi.render(fleet.kind(cluster), fleet.cards(cluster, node), 0.0, form=form)
    gpus = []
    for gpu in etree.fromstring(output).iterchildren("gpu"):
        tree = etree.ElementTree(gpu)
        gpus.append({tree.getelementpath(one): one.text or "" for one in gpu.iter() if not len(one)})
    return gpus


class TestWearFollowsTheCard:
    def test_to_another_cluster(self, fleet: Fleet) -> None:
        [uuid] = fleet.wear("sim-0", "gpu-0000", None, {"row_remap_failure": True})
        fleet.move("sim-0", "gpu-0000", "sim-1", "gpu-0002", uuid)
        assert fleet.worn() == {uuid: {"row_remap_failure": True}}
        assert [gpu["remapped_rows/remapped_row_failure"] for gpu in printed(fleet, "sim-1", "gpu-0002")] == [
            *["No"] * 4,
            "Yes",
        ]

    def test_but_not_to_replacement_cards(self, fleet: Fleet) -> None:
        fleet.wear("sim-0", "gpu-0000", None, {"row_remap_failure": True})
        fleet.swap_tray("sim-0", "gpu-0000")
        assert {gpu["remapped_rows/remapped_row_failure"] for gpu in printed(fleet, "sim-0", "gpu-0000")} == {"No"}

    def test_through_a_deletion_of_its_node(self, fleet: Fleet) -> None:
        [uuid] = fleet.wear("sim-0", "gpu-0000", None, {"ecc_dram_uncorrectable": 2})
        fleet.remove("sim-0", "gpu-0000")
        fleet.add("sim-0", "gpu-0009")
        assert fleet.cards("sim-0", "gpu-0009")[-1].uuid == uuid
        assert printed(fleet, "sim-0", "gpu-0009")[-1]["ecc_errors/aggregate/dram_uncorrectable"] == "2"

    def test_only_worn_cards_take_memory(self, fleet: Fleet) -> None:
        [uuid] = fleet.wear("sim-0", "gpu-0000", None, {"row_remap_pending": True})
        fleet.wear("sim-0", "gpu-0000", uuid, {"row_remap_pending": False})
        assert fleet.worn() == {}
        assert [card.health for card in fleet.cards("sim-0", "gpu-0000")] == [None] * 4


class TestRepairs:
    def test_a_reset_performs_pending_repairs(self, fleet: Fleet) -> None:
        pending: Wear = {"row_remap_pending": True, "tpc_repair_pending": True, "recovery_action": "Reset"}
        [uuid] = fleet.wear("sim-0", "gpu-0000", None, pending | {"remapped_rows_uncorrectable": 3})
        fleet.reset("sim-0", "gpu-0000", uuid)
        assert fleet.worn() == {uuid: {"remapped_rows_uncorrectable": 4}}

    def test_a_reboot_resets_but_does_not_cure(self, fleet: Fleet) -> None:
        [uuid] = fleet.wear(
            "sim-0", "gpu-0000", None, {"row_remap_failure": True, "recovery_action": "Drain and Reset"}
        )
        fleet.reboot("sim-0", "gpu-0000")
        assert fleet.worn() == {uuid: {"row_remap_failure": True}}

    def test_a_pending_page_is_retired_by_a_reset(self, fleet: Fleet) -> None:
        fleet.swap_tray("sim-0", "gpu-0000", "v100")
        [uuid] = fleet.wear("sim-0", "gpu-0000", None, {"page_retirement_pending": True})
        fleet.reset("sim-0", "gpu-0000", uuid)
        assert fleet.worn() == {uuid: {"retired_pages_double_bit": 1}}

    def test_another_inforom_counts_from_zero(self, fleet: Fleet) -> None:
        [uuid] = fleet.wear("sim-0", "gpu-0000", None, {"ecc_dram_correctable": 70, "row_remap_failure": True})
        fleet.flash("sim-0", "gpu-0000", uuid)
        assert fleet.worn() == {uuid: {"row_remap_failure": True, "inforom": "G520.0200.00.06"}}


class TestWhatIsNotPossible:
    @pytest.mark.parametrize(
        ("wear", "text"),
        [
            ({"rows": 1}, r"no rows; there are remapped_rows_correctable, "),
            ({"retired_pages_single_bit": 1}, r"no card of kind h100 has retired_pages_single_bit$"),
            ({"row_remap_pending": 1}, r"row_remap_pending: 1 is not a value such as False$"),
            ({"ecc_dram_correctable": -1}, r"ecc_dram_correctable: -1 is not a value such as 0$"),
        ],
    )
    def test_is_one_clear_line(self, fleet: Fleet, wear: Wear, text: str) -> None:
        with pytest.raises(SimulationError, match=r"^sim-0: gpu-0000: " + text):
            fleet.wear("sim-0", "gpu-0000", None, wear)


class TestDriversTellAsMuchAsTheyDo:
    def told(self, fleet: Fleet, form: str) -> dict[str, str]:
        fleet.wear("sim-2", "gpu-0000", fleet.cards("sim-2", "gpu-0000")[0].uuid, WEAR)
        worn, new = printed(fleet, "sim-2", "gpu-0000", form)[0], printed(fleet, "sim-2", "gpu-0001", form)[0]
        where = ("ecc", "remapped", "retired", "gpu_reset", "gpu_recovery", "fabric")
        return {path: text for path, text in worn.items() if path.startswith(where) and text != new.get(path)}

    def test_418_reports_only_error_counts(self, fleet: Fleet) -> None:
        assert self.told(fleet, "418") == {
            "ecc_errors/aggregate/sram_uncorrectable": "7",
            "ecc_errors/aggregate/dram_correctable": "11",
        }

    def test_450_reports_remapped_rows(self, fleet: Fleet) -> None:
        assert self.told(fleet, "450") == {
            "ecc_errors/aggregate/sram_uncorrectable": "7",
            "ecc_errors/aggregate/dram_correctable": "11",
            "remapped_rows/remapped_row_corr": "2",
            "remapped_rows/remapped_row_unc": "5",
            "remapped_rows/remapped_row_pending": "Yes",
        }

    def test_535_reports_remaining_rows_and_pending_resets(self, fleet: Fleet) -> None:
        told = self.told(fleet, "535")
        assert told["remapped_rows/row_remapper_histogram/row_remapper_histogram_low"] == "3 bank(s)"
        assert told["remapped_rows/row_remapper_histogram/row_remapper_histogram_none"] == "1 bank(s)"
        assert told["gpu_reset_status/reset_required"] == "Yes"
        assert told["ecc_errors/aggregate/sram_uncorrectable"] == "7"

    def test_570_reports_parity_secded_and_recovery_action(self, fleet: Fleet) -> None:
        told = self.told(fleet, "570")
        assert told["ecc_errors/aggregate/sram_uncorrectable_parity"] == "2"
        assert told["ecc_errors/aggregate/sram_uncorrectable_secded"] == "5"
        assert told["ecc_errors/aggregate/sram_threshold_exceeded"] == "Yes"
        assert told["gpu_recovery_action"] == "Reboot"
        assert told["fabric/health/route_unhealthy"] == "True"
        assert not [path for path in told if "repair" in path or "reset" in path or "inactive" in path]

    @pytest.mark.parametrize("form", ["580", "610"])
    def test_580_reports_pending_repairs(self, fleet: Fleet, form: str) -> None:
        told = self.told(fleet, form)
        assert told["ecc_errors/channel_repair_pending"] == "Yes"
        assert told["ecc_errors/unrepairable_memory"] == "Yes"
        assert told["remapped_rows/remapped_row_unc_inactive"] == "1"
        assert told["fabric/health/summary"] == "Unhealthy"

    @pytest.mark.parametrize("form", ["418", "450", "535", "570", "580"])
    def test_an_old_card_has_pages_and_tables(self, fleet: Fleet, form: str) -> None:
        fleet.swap_tray("sim-0", "gpu-0000", "v100")
        wear: Wear = {"retired_pages_double_bit": 2, "page_retirement_pending": True, "ecc_dram_uncorrectable": 4}
        fleet.wear("sim-0", "gpu-0000", None, wear)
        [*_, gpu] = printed(fleet, "sim-0", "gpu-0000", form)
        assert gpu["product_name"] == "Tesla V100-SXM2-32GB"
        assert gpu["retired_pages/double_bit_retirement/retired_count"] == "2"
        assert gpu["retired_pages/pending_retirement"] == "Yes"
        assert gpu["ecc_errors/aggregate/double_bit/device_memory"] == "4"
        assert gpu["ecc_errors/aggregate/double_bit/total"] == "4"
        assert gpu.get("remapped_rows") == (None if form == "418" else "N/A")

    def test_610_has_other_names_for_its_versions(self, fleet: Fleet) -> None:
        text = smi.render("h100", fleet.cards("sim-0", "gpu-0000"), 0.0, form="610").decode()
        assert "\t<kmd_version>615.23</kmd_version>\n" in text
        assert "<!-- driver_version is deprecated" in text

    @pytest.mark.parametrize("form", DRIVER_FORMS)
    @pytest.mark.parametrize("kind", NEW)
    def test_every_form_is_filled(self, fleet: Fleet, form: str, kind: str) -> None:
        fleet.swap_tray("sim-0", "gpu-0000", kind)
        text = smi.render("h100", fleet.cards("sim-0", "gpu-0000"), 0.0, form=form).decode()
        assert not {"{", "}", "@"} & set(text)
        assert "None<" not in text.replace(">None<", "")


class TestActions:
    def test_wear_accepts_every_field_of_health(self) -> None:
        assert tuple(actions(SimulatedCluster)["wear_gpu"].parameters)[-len(HEALTH_FIELDS) :] == HEALTH_FIELDS

    async def test_wear_reset_and_flash_by_the_control_server(self, simulator: Simulator) -> None:
        uuid = simulator.fleet.cards("sim-0", "gpu-0001")[2].uuid

        async def act(name: str, **body: object) -> dict[str, object]:
            url = f"{simulator.control_url}/clusters/sim-0/{name}"
            async with aiohttp.request("POST", url, json=body) as response:
                assert response.status == 200, await response.text()
                return json.loads(await response.read())

        async def worn() -> dict[str, object]:
            async with aiohttp.request("GET", f"{simulator.control_url}/expected?cluster=sim-0") as response:
                return {one["uuid"]: one["health"] for one in await response.json() if one["health"]}

        done = await act("wear_gpu", node="gpu-0001", index=2, row_remap_pending=True, ecc_dram_uncorrectable=3)
        assert done["gpus"] == [uuid]
        assert done["message"] == f"sim-0: {uuid} on gpu-0001: row_remap_pending=True, ecc_dram_uncorrectable=3"
        assert await worn() == {uuid: {"row_remap_pending": True, "ecc_dram_uncorrectable": 3}}
        await act("reset_gpu", uuid=uuid)
        assert await worn() == {uuid: {"remapped_rows_uncorrectable": 1, "ecc_dram_uncorrectable": 3}}
        await act("flash_inforom", uuid=uuid)
        assert await worn() == {uuid: {"inforom": "G520.0200.00.06"}}

    async def test_by_default_an_already_worn_gpu_is_chosen(self, simulator: Simulator) -> None:
        cluster, fleet = simulator.clusters["sim-0"], simulator.fleet
        first, *_, last = cluster.nodes
        fleet.swap_tray("sim-0", first, "v100")
        fleet.lose("sim-0", last, listed=True)
        worn = {cluster.wear_gpu(row_remap_pending=True).nodes[0] for _ in cluster.nodes[1:-1]}
        assert worn == set(cluster.nodes[1:-1])  # each once: one that is as new
        assert cluster.wear_gpu(row_remap_pending=True).nodes[0] in worn
        assert cluster.wear_gpu(page_retirement_pending=True).nodes == (first,)
        with pytest.raises(SimulationError, match=r"^sim-0: gpu-\d+: no rows; there are "):
            cluster.wear_gpu(rows=1)

    async def test_a_missing_gpu_is_refused(self, simulator: Simulator) -> None:
        cluster = simulator.clusters["sim-0"]
        with pytest.raises(SimulationError, match=r"^sim-0: no GPU GPU-1$"):
            cluster.reset_gpu(uuid="GPU-1")
        with pytest.raises(SimulationError, match=r"^sim-0: gpu-0000 has 4 GPUs, no index 4$"):
            cluster.reset_gpu("gpu-0000", index=4)
        url = f"{simulator.control_url}/clusters/sim-0/wear_gpu"
        async with aiohttp.request("POST", url, json={"rows": 1}) as response:
            assert response.status == 400
            assert "rows" in await response.text()

    async def test_another_driver_reports_less(self, simulator: Simulator) -> None:
        cluster = simulator.clusters["sim-0"]
        cluster.set_driver("450", "gpu-0001")
        texts = {node: cluster._run_smi(node, ()).stdout for node in cluster.nodes}
        assert [node for node, text in texts.items() if b"<driver_version>450" in text] == ["gpu-0001"]
        assert b"<gpu_recovery_action>" not in texts["gpu-0001"]
        cluster.set_driver("610")
        assert b"<kmd_version>" in cluster._run_smi("gpu-0001", ()).stdout

    async def test_clusters_have_drivers_in_turn(self, tmp_path: Path, anyio_backend: str) -> None:
        async with Simulator(nodes=1, gpus=1, directory=tmp_path, drivers=("580", "450")) as simulator:
            described = [cluster.describe()["driver"] for cluster in simulator.clusters.values()]
            assert described == ["580", "450", "580"]
