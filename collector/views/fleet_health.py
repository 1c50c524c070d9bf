"""The share of known GPUs that is healthy, for the fleet, each cluster and each model."""

import functools
from collections.abc import Iterable
from typing import NamedTuple

from collector.exposition.gpu_counts import GpuState, Share
from collector.views.collector_view import CollectorView

__all__ = ["FleetHealth", "Share", "cluster_share", "fleet_health"]


class FleetHealth(NamedTuple):
    """The healthy shares of a fleet: in total, by cluster and by model (empty if unknown), both sorted.

    They match `gpuid_gpus`, on which the recording rules are based. A GPU is healthy if it is present, readable and not
    degraded; known GPUs are those present, including lost ones, and those missing from their nodes' capacity. GPUs on
    nodes or in clusters that cannot be read, or have not been read yet, count as known but not healthy.
    """

    fleet: Share
    clusters: dict[str, Share]
    models: dict[str, Share]


def fleet_health(view: CollectorView) -> FleetHealth:
    """Return the current shares of all configured clusters, without iterating over nodes."""
    clusters: dict[str, Share] = {}
    models: dict[str, Share] = {}
    for cluster in sorted(view.clusters()):
        shares = _by_model(view, cluster)
        clusters[cluster] = _total(shares.values())
        for model, share in shares.items():
            models[model] = models.get(model, Share()).plus(share)
    return FleetHealth(_total(clusters.values()), clusters, dict(sorted(models.items())))


def cluster_share(view: CollectorView, cluster: str) -> Share:
    """Return the current share of one cluster."""
    return _total(_by_model(view, cluster).values())


def _total(shares: Iterable[Share]) -> Share:
    return functools.reduce(Share.plus, shares, Share())


def _by_model(view: CollectorView, cluster: str) -> dict[str, Share]:
    status = view.statuses.get(cluster)
    shares: dict[str, Share] = {}
    for (model, state), count in view.exposition.gpu_counts.of(cluster, up=status is not None and status.up).items():
        share = Share(count if state is GpuState.HEALTHY else 0, count)
        shares[model] = shares.get(model, Share()).plus(share)
    return shares
