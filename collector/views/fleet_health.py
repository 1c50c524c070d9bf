"""What share of the known GPUs is healthy: one number for the fleet, for a cluster and for a model."""

import functools
from collections.abc import Iterable
from typing import NamedTuple

from collector.exposition.gpu_counts import GpuState, Share
from collector.views.collector_view import CollectorView

__all__ = ["FleetHealth", "Share", "cluster_share", "fleet_health"]


class FleetHealth(NamedTuple):
    """The shares of a fleet: of all of it, by cluster, and by model (empty where that is not known), both sorted.

    They are those of `gpuid_gpus`, from which the recording rules are computed. A GPU counts as healthy if it is
    present, readable and not degraded; the known ones are those that are present, lost ones included, and those that
    are missing by their nodes' capacity. Where a node or its cluster cannot be read, or has not been read yet, its GPUs
    are known, and not healthy.
    """

    fleet: Share
    clusters: dict[str, Share]
    models: dict[str, Share]


def fleet_health(view: CollectorView) -> FleetHealth:
    """Return the shares of all configured clusters as they are now, without walking any nodes."""
    clusters: dict[str, Share] = {}
    models: dict[str, Share] = {}
    for cluster in sorted(view.clusters()):
        shares = _by_model(view, cluster)
        clusters[cluster] = _total(shares.values())
        for model, share in shares.items():
            models[model] = models.get(model, Share()).plus(share)
    return FleetHealth(_total(clusters.values()), clusters, dict(sorted(models.items())))


def cluster_share(view: CollectorView, cluster: str) -> Share:
    """Return the share of one cluster as it is now."""
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
