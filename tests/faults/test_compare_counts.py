"""Numbers of GPUs and counts of errors that are wrong are found, and those that are right are not."""

from typing import Any

import pytest

from tests.faults.compare import Gpu, Sample
from tests.faults.compare_counts import Node, capacities, compare_clusters, compare_counts, compare_nodes

WORN = {"ecc_dram_uncorrectable": 5, "remapped_rows_correctable": 2, "retired_pages_double_bit": 1}
GPUS = [
    Gpu("prod", "n1", "GPU-1", "100", "", "H100", {"row_remap_pending": True, "ecc_sram_correctable": 0}),
    Gpu("prod", "n1", "GPU-2", "200", "", "H100", WORN),
    Gpu("prod", "n2", "GPU-3", "300", "", "H100", {}),
]
NODES = [
    Node("prod", "n1", 2, frozenset([2]), 2),
    Node("prod", "n2", 1, frozenset([None, 3, 1]), 3),  # gpuid takes it for one that lacks two
]


def of_node(node: str, state: str, value: float) -> Sample:
    return "gpuid_node_gpus", {"cluster": "prod", "node": node, "state": state}, value


def of_model(state: str, value: float) -> Sample:
    return "gpuid_gpus", {"cluster": "prod", "model": "H100", "state": state}, value


def of_card(family: str, value: float, **labels: str) -> Sample:
    return family, {"cluster": "prod", "node": "n1", "serial": "200", "uuid": "GPU-2", **labels}, value


SAMPLES: list[Sample] = [
    of_node("n1", "found", 2),
    of_node("n1", "capacity", 2),
    of_node("n1", "allocatable", 2),
    of_node("n2", "found", 1),
    of_node("n2", "capacity", 3),
    of_node("n2", "allocatable", 3),
    of_model("healthy", 2),
    of_model("degraded", 1),
    of_model("missing", 2),
    ("gpuid_gpu_degraded", {"cluster": "prod", "uuid": "GPU-1", "reason": "row_remap_pending"}, 1),
    of_card("gpuid_gpu_ecc_errors", 5, memory="dram", kind="uncorrectable"),
    of_card("gpuid_gpu_remapped_rows", 2, kind="correctable"),
    of_card("gpuid_gpu_retired_pages", 1, cause="double_bit"),
]
COUNTED = [sample for sample in SAMPLES if sample[0] != "gpuid_gpu_degraded"]


def row(node: str, **values: Any) -> dict[str, Any]:
    fine = {"state": "found", "lost": 0, "lost_gpus": [], "unread_reason": None}
    return {"cluster": "prod", "node": node, **fine, **values}


ROWS = [
    row("n1", found=2, capacity=2, allocatable=2, missing=0),
    row("n2", found=1, capacity=3, allocatable=3, missing=2),
]
CLUSTER = {
    "cluster": "prod",
    "state": "up",
    "up": True,
    "nodes": 2,
    "nodes_read": 2,
    "nodes_unread": 0,
    "unread_reasons": {},
    "nodes_listed": 4,
    "gpus": 3,
    "capacity": 5,
    "gpus_missing": 2,
    "gpus_lost": 0,
    "lost_gpus": [],
    "gpus_degraded": {"reset": 1},
    "gpus_healthy": 2,
    "gpus_known": 5,
    "gpus_virtual": 0,
    "conflicts": 0,
    "claims": 0,
}


class TestTheScrape:
    def test_the_truth(self) -> None:
        assert compare_counts(GPUS, NODES, SAMPLES) == []

    @pytest.mark.parametrize("planted", range(len(COUNTED)))
    def test_a_value_that_is_too_high_or_lacking(self, planted: int) -> None:
        name, labels, value = COUNTED[planted]
        others = [sample for sample in SAMPLES if sample != COUNTED[planted]]
        free = labels.get("node") == "n2" and labels.get("state") in ("capacity", "allocatable")
        assert compare_counts(GPUS, NODES, [*others, (name, labels, value + 7)]) or labels.get("state") == "allocatable"
        assert compare_counts(GPUS, NODES, others) or free

    def test_counts_of_what_is_not_there(self) -> None:
        for sample in (
            of_node("n3", "found", 1),
            of_node("n1", "lost", 1),
            of_model("unreadable", 1),
            of_card("gpuid_gpu_ecc_errors", 1, memory="sram", kind="correctable"),
        ):
            assert len(compare_counts(GPUS, NODES, [*SAMPLES, sample])) == 1


class TestTheApi:
    def test_the_truth(self) -> None:
        assert compare_nodes(NODES, ROWS) == []
        assert compare_clusters(GPUS, ["prod"], ROWS, [CLUSTER]) == []

    def test_every_wrong_value_of_a_node(self) -> None:
        values = {"state": "lost", "found": 6, "lost": 1, "capacity": 5, "allocatable": 1, "missing": 3}
        for column, value in {**values, "lost_gpus": [{}], "unread_reason": "no_pod"}.items():
            assert compare_nodes(NODES, [{**ROWS[0], column: value}, ROWS[1]]), column

    def test_a_node_that_has_not_been_read_is_wrong(self) -> None:
        rows = [ROWS[0], row("n2", state="unread", found=None, capacity=None, allocatable=None, missing=None)]
        assert compare_nodes(NODES, rows)
        assert compare_clusters(GPUS, ["prod"], rows, [CLUSTER])

    def test_every_wrong_value_of_a_cluster(self) -> None:
        for column, value in CLUSTER.items():
            planted: Any = value + 9 if isinstance(value, int) and column != "up" else None
            if isinstance(value, dict):
                planted = {"reset": 3}
            assert compare_clusters(GPUS, ["prod"], ROWS, [{**CLUSTER, column: planted}]), column

    def test_ghosts_lacking_rows_and_rows_that_come_twice(self) -> None:
        for rows in (ROWS[:1], [*ROWS, ROWS[0]], [*ROWS, row("n3", found=1, capacity=1, allocatable=1, missing=0)]):
            assert len(compare_nodes(NODES, rows)) == 1
        for clusters in ([], [CLUSTER, CLUSTER], [CLUSTER, {**CLUSTER, "cluster": "test"}]):
            assert compare_clusters(GPUS, ["prod"], ROWS, clusters)

    def test_a_gpu_may_be_degraded_because_its_errors_are_growing(self) -> None:
        rows = [
            {**CLUSTER, "gpus_degraded": {"reset": 1, "replace": more}, "gpus_healthy": 2 - more} for more in (1, 2)
        ]
        assert compare_clusters(GPUS, ["prod"], ROWS, rows[:1]) == []
        assert len(compare_clusters(GPUS, ["prod"], ROWS, rows[1:])) == 1
        flashed = [gpu._replace(grew=True) for gpu in GPUS]
        assert compare_clusters(flashed, ["prod"], ROWS, rows[1:]) == []


class TestCapacities:
    def test_a_node_that_offers_its_gpus(self) -> None:
        assert capacities(4, {}, 4, {4, 5}) == {4}

    def test_a_unit_may_be_part_of_a_gpu_where_there_are_not_as_many_gpus(self) -> None:
        assert capacities(6, {}, 4, {4}) == {None, 6, 3, 2, 1}

    def test_instances_count_no_gpus(self) -> None:
        assert capacities(4, {"nvidia.com/gpu.slices.gi": "1"}, 4, {4}) == {None}

    def test_slices_list_the_gpus_of_some_time(self) -> None:
        assert capacities(None, {}, 3, {3, 4}) == {3, 4}
