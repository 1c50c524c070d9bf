"""The list of clusters: filters, order, totals, and models by cluster."""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from collector.model import ReadFailure
from collector.text import natural_key
from collector.views.cluster_summary import ClusterSummary, fleet_models
from collector.views.fleet_health import Share

__all__ = [
    "CLUSTER_SORTS",
    "ClusterShow",
    "ClusterTotals",
    "MatrixRow",
    "ModelMatrix",
    "failing_nodes",
    "fleet_drivers",
    "list_clusters",
    "model_matrix",
    "total",
]


class ClusterShow(StrEnum):
    """Which clusters are listed."""

    ALL = ""
    PROBLEM = "problem"
    DOWN = "down"
    UNREAD = "unread"
    FAILING = "failing"
    MISSING = "missing"
    DEGRADED = "degraded"
    CONFLICT = "conflict"


class ClusterTotals(NamedTuple):
    """Totals of several clusters; a GPU that two of them report counts in both."""

    clusters: int
    down: int
    nodes: int
    unread: int
    failing: int
    gpus: int
    virtual: int
    capacity: int
    missing: int
    lost: int
    degraded: int
    conflicts: int
    share: Share


class MatrixRow(NamedTuple):
    """How many GPUs of each model a cluster has."""

    cluster: str  # empty: several clusters
    clusters: int
    counts: list[int]  # parallel to the matrix's models
    others: int  # of other models
    total: int


class ModelMatrix(NamedTuple):
    """Models by clusters: the most frequent models, the largest clusters, and the rest of both."""

    models: list[tuple[str, int]]
    others: int
    total: int
    rows: list[MatrixRow]
    rest: MatrixRow | None


def failing_nodes(summary: ClusterSummary) -> int:
    """Return how many of a cluster's nodes are unread because reading them fails."""
    return sum(count for reason, count in summary.unread.items() if isinstance(reason, ReadFailure))


def fleet_drivers(summaries: Iterable[ClusterSummary]) -> list[str]:
    """Return the driver versions of some clusters, latest first."""
    return sorted({driver for one in summaries for driver in one.drivers if driver}, key=natural_key, reverse=True)


def _down(summary: ClusterSummary) -> bool:
    return summary.status is not None and not summary.up and summary.status.state != "starting"


_SHOWN: Mapping[ClusterShow, Callable[[ClusterSummary], bool]] = {
    ClusterShow.DOWN: _down,
    ClusterShow.UNREAD: lambda one: one.unread.total() > 0,
    ClusterShow.FAILING: lambda one: failing_nodes(one) > 0,
    ClusterShow.MISSING: lambda one: one.missing + one.lost > 0,
    ClusterShow.DEGRADED: lambda one: one.degraded.total() > 0,
    ClusterShow.CONFLICT: lambda one: one.conflicts > 0,
}

CLUSTER_SORTS: Mapping[str, Callable[[ClusterSummary], Any]] = {
    "cluster": lambda _one: (),
    "state": lambda one: (one.up, not one.unreadable, "" if one.status is None else one.status.state),
    "nodes": lambda one: one.nodes,
    "unread": lambda one: one.unread.total(),
    "failing": failing_nodes,
    "gpus": lambda one: one.gpus,
    "capacity": lambda one: one.capacity,
    "missing": lambda one: one.missing,
    "lost": lambda one: one.lost,
    "degraded": lambda one: one.degraded.total(),
    "conflicts": lambda one: one.conflicts,
    "healthy": lambda one: one.share.ratio if one.share.known else 2.0,
    "synced": lambda one: one.synced or 0.0,
}


def list_clusters(
    summaries: Iterable[ClusterSummary], show: ClusterShow, part_of_name: str, sort: str
) -> list[ClusterSummary]:
    """Return the selected clusters, sorted by a key of CLUSTER_SORTS; with a "-", the largest first."""
    wanted = part_of_name.lower()
    found = [one for one in summaries if wanted in one.name.lower() and _is_shown(one, show)]
    found.sort(key=lambda one: natural_key(one.name))
    key, descending = sort.removeprefix("-"), sort.startswith("-")
    if key == "cluster":
        return found[::-1] if descending else found
    return sorted(found, key=CLUSTER_SORTS[key], reverse=descending)


def _is_shown(summary: ClusterSummary, show: ClusterShow) -> bool:
    if show is ClusterShow.PROBLEM:
        return any(holds(summary) for holds in _SHOWN.values())
    return show is ClusterShow.ALL or _SHOWN[show](summary)


def total(summaries: Sequence[ClusterSummary]) -> ClusterTotals:
    """Return the totals of clusters."""
    return ClusterTotals(
        clusters=len(summaries),
        down=sum(map(_down, summaries)),
        nodes=sum(one.nodes for one in summaries),
        unread=sum(one.unread.total() for one in summaries),
        failing=sum(map(failing_nodes, summaries)),
        gpus=sum(one.gpus for one in summaries),
        virtual=sum(one.virtual for one in summaries),
        capacity=sum(one.capacity for one in summaries),
        missing=sum(one.missing for one in summaries),
        lost=sum(one.lost for one in summaries),
        degraded=sum(one.degraded.total() for one in summaries),
        conflicts=sum(one.conflicts for one in summaries),
        share=functools.reduce(Share.plus, (one.share for one in summaries), Share()),
    )


def model_matrix(summaries: Sequence[ClusterSummary], most_models: int, most_clusters: int) -> ModelMatrix:
    """Return the number of GPUs by model and cluster, for the most frequent models and the largest clusters."""
    models = fleet_models(summaries)
    named = [model for model, count in models.most_common(most_models) if count]
    largest = sorted((one for one in summaries if one.gpus), key=lambda one: (-one.gpus, natural_key(one.name)))
    rows = [_row(one.name, 1, one.models, named) for one in largest[:most_clusters]]
    left = largest[most_clusters:]
    rest = _row("", len(left), sum((one.models for one in left), Counter()), named) if left else None
    return ModelMatrix(
        models=[(model, models[model]) for model in named],
        others=models.total() - sum(models[model] for model in named),
        total=models.total(),
        rows=rows,
        rest=rest,
    )


def _row(name: str, clusters: int, models: Mapping[str, int], named: Sequence[str]) -> MatrixRow:
    counts, gpus = [models.get(model, 0) for model in named], sum(models.values())
    return MatrixRow(name, clusters, counts, gpus - sum(counts), gpus)
