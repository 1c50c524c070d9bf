"""The clusters as a list, and which models are where."""

from collections import Counter
from typing import Any

import pytest

from collector.model import ClusterState, ClusterStatus, ReadFailure, Uncovered
from collector.views.cluster_summary import ClusterSummary
from collector.views.cluster_table import ClusterShow, failing_nodes, list_clusters, model_matrix, total
from collector.views.fleet_health import Share


def summary(name: str, state: ClusterState = ClusterState.UP, **known: Any) -> ClusterSummary:
    """Return a cluster in which everything is well but what is known."""
    values: dict[str, Any] = dict.fromkeys(("conflicts", "claims"), 0)
    values |= {"synced": 1.0, "refresh": 60.0, "survey": None, "sources": (), "node_selector": "", "resembles": ()}
    values |= {"slices": None, "stale": False, "share": Share()} | known
    return ClusterSummary(name=name, status=ClusterStatus(cluster=name, state=state, since=1.0), **values)


def unread(*reasons: Any) -> Counter[Any]:
    return Counter(reasons)


FLEET = [
    summary("sim-10", models=Counter(H100=8), missing=2, capacity=10),
    summary("sim-2", ClusterState.UNREACHABLE, models=Counter(H100=4, GB200=4), capacity=8),
    summary("Sim-1", unread=unread(ReadFailure.TIMEOUT, Uncovered.NO_POD), nodes=2),
]


@pytest.mark.parametrize(
    ("show", "name", "sort", "names"),
    [
        ("", "", "cluster", ["Sim-1", "sim-2", "sim-10"]),
        ("", "", "-cluster", ["sim-10", "sim-2", "Sim-1"]),
        ("", "", "-missing", ["sim-10", "Sim-1", "sim-2"]),
        ("", "", "-gpus", ["sim-2", "sim-10", "Sim-1"]),
        ("", "SIM-1", "cluster", ["Sim-1", "sim-10"]),
        ("problem", "", "-failing", ["Sim-1", "sim-2", "sim-10"]),
        ("down", "", "state", ["sim-2"]),
        ("unread", "", "cluster", ["Sim-1"]),
        ("failing", "", "cluster", ["Sim-1"]),
        ("missing", "", "cluster", ["sim-10"]),
        ("degraded", "", "cluster", []),
    ],
)
def test_clusters_are_filtered_and_sorted(show: str, name: str, sort: str, names: list[str]) -> None:
    assert [one.name for one in list_clusters(FLEET, ClusterShow(show), name, sort)] == names


def test_only_nodes_whose_readings_fail_are_failing() -> None:
    assert [failing_nodes(one) for one in FLEET] == [0, 0, 1]


def test_totals_over_clusters_are_correct() -> None:
    sums = total(FLEET)
    assert (sums.clusters, sums.down, sums.nodes, sums.unread, sums.failing) == (3, 1, 2, 2, 1)
    assert (sums.gpus, sums.capacity, sums.missing, sums.degraded) == (16, 18, 2, 0)


def test_the_matrix_has_the_largest_and_the_rest() -> None:
    whole = model_matrix(FLEET, 5, 5)
    assert whole.models == [("H100", 12), ("GB200", 4)]
    assert [(row.cluster, row.counts, row.others, row.total) for row in whole.rows] == [
        ("sim-2", [4, 4], 0, 8),
        ("sim-10", [8, 0], 0, 8),
    ]
    assert (whole.others, whole.total, whole.rest) == (0, 16, None)
    part = model_matrix(FLEET, 1, 1)
    assert (part.models, part.others) == ([("H100", 12)], 4)
    assert [(row.cluster, row.counts, row.others) for row in part.rows] == [("sim-2", [4], 4)]
    assert part.rest is not None
    assert (part.rest.clusters, part.rest.counts, part.rest.others, part.rest.total) == (1, [8], 0, 8)
