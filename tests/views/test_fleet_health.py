"""The share of healthy GPUs, for the fleet, a cluster and a model."""

import pytest

from collector.health import Health, Level
from collector.model import ClusterState, Gpu, GpuRef
from collector.views.cluster_summary import summarize
from collector.views.fleet_health import Share, cluster_share, fleet_health
from collector.views.rows import cluster_row
from tests.web.conftest import Site

pytestmark = pytest.mark.anyio


def gpu(number: int, model: str | None = "H100", **facts: Health) -> Gpu:
    return Gpu(uuid=f"GPU-{number}", serial=str(number), model=model, **facts)  # type: ignore[arg-type]


def test_an_empty_fleet_has_no_share() -> None:
    site = Site()
    site.cluster("prod")
    found = fleet_health(site.collector)
    assert found.fleet == found.clusters["prod"] == Share(0, 0)
    assert found.fleet.ratio is None
    assert found.models == {}


async def test_shares_add_up_over_clusters_and_models() -> None:
    site = Site()
    site.cluster("prod")
    site.cluster("test")
    site.cluster("away", ClusterState.UNREACHABLE)
    site.read("prod", "n1", *(gpu(n) for n in range(7)), gpu(7, health=Health(row_remap_failure=True)), capacity=8)
    site.read("prod", "n2", gpu(8, "H200"), lost=(GpuRef("GPU-8"),), capacity=2)
    site.read("test", "n1", gpu(9), gpu(10, None), capacity=4)
    site.read("away", "n1", gpu(11), capacity=1)
    found = fleet_health(site.collector)
    assert found.clusters == {"away": Share(0, 1), "prod": Share(7, 10), "test": Share(2, 4)}
    assert found.models == {"": Share(1, 3), "H100": Share(8, 10), "H200": Share(0, 2)}
    assert list(found.models) == sorted(found.models)
    assert found.fleet == Share(9, 15)
    assert found.fleet.ratio == 0.6
    for name, share in found.clusters.items():
        assert cluster_share(site.collector, name) == share
        assert (await summarize(site.collector, name)).share == share
        row = cluster_row(site.collector, name)
        assert (row.gpus_healthy, row.gpus_known) == share


def test_a_cluster_no_longer_configured_does_not_count() -> None:
    site = Site()
    site.cluster("prod")
    site.read("prod", "n1", gpu(0), capacity=1)
    site.collector.configured = []
    assert fleet_health(site.collector).fleet == Share(0, 0)


async def test_degraded_gpus_are_counted_by_one_rule() -> None:
    site = Site()
    site.cluster("prod")
    site.cluster("test")
    worn, claimed = (gpu(number, health=Health(row_remap_failure=True)) for number in (1, 2))
    site.read("prod", "n1", worn, claimed)
    site.read("prod", "n2", worn, both=True)
    site.read("prod", "n1", worn, claimed, both=True)
    site.read("prod", "n2", worn, both=True)
    site.read("test", "n1", claimed, both=True)
    inventory = site.collector.inventory
    assert (inventory.conflicts("prod"), inventory.claims("test")) == (1, 1)
    for name, expected in (("prod", {Level.REPLACE: 2}), ("test", {})):
        assert (await summarize(site.collector, name)).degraded == expected
        assert cluster_row(site.collector, name).gpus_degraded == {level.value: n for level, n in expected.items()}
