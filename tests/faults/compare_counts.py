"""How many GPUs there are, and their counts of errors, as a scrape and the lists of the API say: pure functions.

What a node has in its capacity is what its API server says, in GPUs. Where that is not how many there are (a GPU was
moved without a reboot, GPUs are shared or partitioned), gpuid infers what a unit is from what it read when; then the
capacity may be any number of GPUs that the units make, or unknown.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tests.faults.compare import REASONS, Gpu, Row, Sample
from tests.faults.truth import Place

__all__ = ["Node", "capacities", "compare_clusters", "compare_counts", "compare_nodes"]

INSTANCES = "nvidia.com/gpu.slices.gi"  # the label of a node whose capacity counts instances
OTHER_NODES = 2  # of each cluster, without GPUs (collector/simulator/cluster_objects.py)
# Fields of a card's health by family, with their labels; absent where there are none.
COUNTS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "remapped_rows_correctable": ("gpuid_gpu_remapped_rows", {"kind": "correctable"}),
    "remapped_rows_uncorrectable": ("gpuid_gpu_remapped_rows", {"kind": "uncorrectable"}),
    "remapped_rows_inactive": ("gpuid_gpu_remapped_rows", {"kind": "inactive"}),
    "retired_pages_single_bit": ("gpuid_gpu_retired_pages", {"cause": "single_bit"}),
    "retired_pages_double_bit": ("gpuid_gpu_retired_pages", {"cause": "double_bit"}),
    "ecc_sram_correctable": ("gpuid_gpu_ecc_errors", {"memory": "sram", "kind": "correctable"}),
    "ecc_sram_uncorrectable": ("gpuid_gpu_ecc_errors", {"memory": "sram", "kind": "uncorrectable"}),
    "ecc_dram_correctable": ("gpuid_gpu_ecc_errors", {"memory": "dram", "kind": "correctable"}),
    "ecc_dram_uncorrectable": ("gpuid_gpu_ecc_errors", {"memory": "dram", "kind": "uncorrectable"}),
}
FAMILIES = {family for family, _ in COUNTS.values()}


class Node(NamedTuple):
    """The truth about one node, whose GPUs all respond."""

    cluster: str
    node: str
    found: int
    capacities: frozenset[int | None]  # that it may have; None: it does not count GPUs
    allocatable: int | None  # of them, where its capacity counts GPUs and is known

    @property
    def place(self) -> Place:
        """Its cluster and itself."""
        return self.cluster, self.node


def capacities(
    advertised: int | None, labels: Iterable[str], found: int, numbers: Iterable[int]
) -> frozenset[int | None]:
    """Return how many GPUs a node may have in its capacity.

    `advertised` is what its API server says; None if it names no such resource, as where ResourceSlices list the GPUs:
    these may be from before a GPU was moved, or gpuid may miss one that they listed, so any of the `numbers` that the
    node has had is possible.
    """
    if advertised is None:
        return frozenset(numbers)
    if INSTANCES in labels:
        return frozenset([None])
    if advertised == found:
        return frozenset([found])
    return frozenset([None, *(advertised // units for units in range(1, advertised + 1) if advertised % units == 0)])


def compare_counts(truth: Iterable[Gpu], nodes: Iterable[Node], samples: Sequence[Sample]) -> list[str]:
    """Compare a scrape with the GPUs and nodes that should be in it."""
    truth, nodes = list(truth), list(nodes)
    return [
        *_compare_node_gpus(nodes, samples),
        *_compare_gpus(truth, nodes, samples),
        *_compare_errors(truth, samples),
    ]


def _compare_node_gpus(nodes: Sequence[Node], samples: Sequence[Sample]) -> list[str]:
    told = _told(samples)
    wrong = [f"counts: {place} is no node with GPUs" for place in sorted(told.keys() - {one.place for one in nodes})]
    for node in nodes:
        states = told.get(node.place, {})
        wrong += [f"counts: {one}" for one in _differences(node, states)]
    return wrong


def _told(samples: Iterable[Sample]) -> dict[Place, dict[str, float]]:
    """Return the values of gpuid_node_gpus, by place and state."""
    told: dict[Place, dict[str, float]] = {}
    for name, one, value in samples:
        if name == "gpuid_node_gpus":
            told.setdefault((one["cluster"], one["node"]), {})[one["state"]] = value
    return told


def _differences(node: Node, told: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the counts of a node, in its series or its row."""
    wrong = []
    if told.get("found") != node.found:
        wrong.append(f"{node.place}: {told.get('found')} found, not {node.found}")
    if told.get("lost"):
        wrong.append(f"{node.place}: {told['lost']} lost, not none")
    capacity, allocatable = told.get("capacity"), told.get("allocatable")
    if capacity not in node.capacities:
        among = sorted(node.capacities, key=lambda one: (one is None, one))
        wrong.append(f"{node.place}: a capacity of {capacity}, not of {among}")
    expected = None if capacity is None else node.allocatable
    if len(node.capacities) == 1 and allocatable != expected:
        wrong.append(f"{node.place}: {allocatable} allocatable, not {expected}")
    return wrong


def _compare_gpus(truth: Sequence[Gpu], nodes: Sequence[Node], samples: Sequence[Sample]) -> list[str]:
    """Compare gpuid_gpus with what the same scrape says of each node and of each degraded GPU."""
    told = _told(samples)
    missing: Counter[str] = Counter()
    for node in nodes:
        missing[node.cluster] += max(0, int(told.get(node.place, {}).get("capacity", 0)) - node.found)
    degraded = {one["uuid"] for name, one, _ in samples if name == "gpuid_gpu_degraded"}
    wanted: Counter[tuple[str, str, str]] = Counter()
    for gpu in truth:
        wanted[gpu.cluster, gpu.model, "healthy"] += gpu.uuid not in degraded
        wanted[gpu.cluster, gpu.model, "degraded"] += gpu.uuid in degraded
    for cluster, model in {(gpu.cluster, gpu.model) for gpu in truth}:  # one model in each cluster
        wanted[cluster, model, "missing"] = missing[cluster]
    found = {
        (one["cluster"], one["model"], one["state"]): value for name, one, value in samples if name == "gpuid_gpus"
    }
    return [
        f"counts: {found.get(key, 0):g} {' '.join(key)}, not {wanted[key]}"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key, 0) != wanted[key]
    ]


def _compare_errors(truth: Iterable[Gpu], samples: Iterable[Sample]) -> list[str]:
    """Compare the counts of errors that each card keeps."""
    wanted = {
        _labelled(
            family, {"cluster": gpu.cluster, "node": gpu.node, "serial": gpu.serial, "uuid": gpu.uuid, **labels}, n
        )
        for gpu in truth
        for field, (family, labels) in COUNTS.items()
        if (n := gpu.health.get(field))
    }
    found = {_labelled(*one) for one in samples if one[0] in FAMILIES}
    return [
        f"counts: {'lacks' if one in wanted else 'no'} {one[0]}{dict(one[1])} {one[2]:g}"
        for one in sorted(found ^ wanted)
    ]


def _labelled(name: str, labels: Mapping[str, str], value: float) -> tuple[str, tuple[tuple[str, str], ...], float]:
    return name, tuple(sorted(labels.items())), float(value)


def compare_nodes(nodes: Iterable[Node], rows: Sequence[Row]) -> list[str]:
    """Compare the rows of /api/v1/nodes with the truth."""
    wrong = []
    wanted = {node.place: node for node in nodes}
    found = {_place(row): row for row in rows}
    if len(found) != len(rows):
        wrong.append("API: the same node twice")
    wrong += [f"API: {place} is no node with GPUs" for place in sorted(found.keys() - wanted.keys())]
    wrong += [f"API: lacks the node {place}" for place in sorted(wanted.keys() - found.keys())]
    for place in sorted(found.keys() & wanted.keys()):
        row = found[place]
        wrong += [f"API: {one}" for one in _differences(wanted[place], row)]
        expected: dict[str, Any] = {
            "state": "found",
            "missing": max(0, (row["capacity"] or 0) - wanted[place].found),
            "lost_gpus": [],
            "unread_reason": None,
        }
        wrong += _compare_row(str(place), expected, row)
    return wrong


def compare_clusters(
    truth: Iterable[Gpu], clusters: Iterable[str], nodes: Sequence[Row], rows: Sequence[Row]
) -> list[str]:
    """Compare the rows of /api/v1/clusters with the truth, and with the rows of the nodes."""
    wrong = []
    truth, found = list(truth), {row["cluster"]: row for row in rows}
    if sorted(found) != sorted(clusters) or len(found) != len(rows):
        wrong.append(f"API: the clusters are {[row['cluster'] for row in rows]}, not {sorted(clusters)}")
    for name, row in sorted(found.items()):
        own = [node for node in nodes if node["cluster"] == name]
        gpus = [gpu for gpu in truth if gpu.cluster == name]
        missing, degraded = sum(node["missing"] or 0 for node in own), sum(row["gpus_degraded"].values())
        expected = {
            "state": "up",
            "up": True,
            "nodes": len(own),
            "nodes_read": len(own),
            "nodes_unread": 0,
            "unread_reasons": {},
            "nodes_listed": len(own) + OTHER_NODES,
            "gpus": len(gpus),
            "capacity": sum((node["found"] or 0) if node["capacity"] is None else node["capacity"] for node in own),
            "gpus_missing": missing,
            "gpus_lost": 0,
            "lost_gpus": [],
            "gpus_healthy": len(gpus) - degraded,
            "gpus_known": len(gpus) + missing,
            "gpus_virtual": 0,
            "conflicts": 0,
            "claims": 0,
        }
        wrong += _compare_row(name, expected, row)
        surely = sum(_is_degraded(gpu) for gpu in gpus)
        possibly = sum(_is_degraded(gpu) or _may_be_growing(gpu) for gpu in gpus)
        if not surely <= degraded <= possibly:
            wrong.append(f"API: {name}: {degraded} degraded, not from {surely} to {possibly}")
    return wrong


def _compare_row(what: str, expected: Mapping[str, Any], row: Row) -> list[str]:
    return [
        f"API: {what}: {column} is {row.get(column)!r}, not {value!r}"
        for column, value in expected.items()
        if row.get(column) != value
    ]


def _is_degraded(gpu: Gpu) -> bool:
    return any(gpu.health.get(field) not in (None, False, "None") for field in REASONS)


def _may_be_growing(gpu: Gpu) -> bool:
    """Return whether a GPU may be degraded because its errors are growing."""
    return gpu.grew or any(value for field, value in gpu.health.items() if field.endswith("_uncorrectable"))


def _place(row: Row) -> Place:
    return row["cluster"], row["node"]
