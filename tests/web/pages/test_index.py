"""The first page."""

import dataclasses
from typing import Any

import httpx
import pytest

from collector.model import ClusterState, Gpu, Node
from collector.store import StoreStatus

pytestmark = pytest.mark.anyio


async def test_the_fleet_is_counted_and_what_is_wrong_is_said(client: httpx.AsyncClient, visit: Any) -> None:
    page = await visit(client, "/")
    assert "5 GPUs in 3 nodes of 2 clusters" in page.text
    assert "prod-b cannot be reached since 2025-11-24T16:00:00Z ( 10 minutes ago )" in page.text
    assert "https://10.0.0.1:6443: connection refused" in page.text
    assert "prod-a misses 13 GPUs in 2 nodes" in page.text
    assert "/clusters/prod-a?show=missing" in page.links


async def test_a_fleet_without_trouble_is_said_to_be_so(site: Any, serving: Any, visit: Any) -> None:
    site.cluster("prod-b")
    for node in ("n1", "n2"):
        site.read("prod-a", node, Gpu(uuid=f"GPU-{node}"), capacity=1)
    site.read("prod-b", "n3", Gpu(uuid="GPU-3"), capacity=None)
    async with serving(site) as client:
        page = await visit(client, "/")
    assert "Nothing is wrong: every cluster is up" in page.text


async def test_nodes_that_were_never_read_and_conflicts_are_said(site: Any, serving: Any, visit: Any) -> None:
    site.inventory.set_node("prod-a", Node(name="new", capacity=8))
    for time, node in enumerate(("n1", "n2", "n1")):
        site.read("prod-a", node, Gpu(uuid="GPU-twice"), time=1764000001.0 + time)
    async with serving(site) as client:
        page = await visit(client, "/")
    assert "prod-a has 1 GPU confirmed in two places at once" in page.text
    assert "prod-a has 1 node that was never read" in page.text
    assert page.text.index("confirmed in two places") < page.text.index("never read")


async def test_a_store_that_takes_nothing_is_said_first(site: Any, serving: Any, visit: Any) -> None:
    status = StoreStatus(up=False, since=1764000540.0, message="store /data/gpuid.db: no room left")
    site.context = dataclasses.replace(site.context, recording=lambda: status)
    async with serving(site) as client:
        text = (await visit(client, "/")).text
    assert (
        "What is wrong The store takes nothing new: what happens is only in memory until it does "
        "since 2025-11-24T16:09:00Z ( 60 seconds ago ) store /data/gpuid.db: no room left" in text
    )


async def test_models_are_counted_for_who_plans(client: httpx.AsyncClient, visit: Any) -> None:
    page = await visit(client, "/")
    assert "NVIDIA H100 3 JSON NVIDIA GB200 2 JSON" in page.text
    assert "/api/v1/gpus?model=NVIDIA+H100" in page.links


async def test_the_latest_changes_are_there_without_a_script(client: httpx.AsyncClient, visit: Any) -> None:
    page = await visit(client, "/")
    assert "appeared 2 GPUs in n3 of prod-b 10 minutes ago 2025-11-24T16:00:00Z" in page.text
    assert "appeared GPU 100 in n1 of prod-a" in page.text


async def test_what_programs_ask_for_is_linked(client: httpx.AsyncClient, visit: Any) -> None:
    page = await visit(client, "/")
    wanted = {"/metrics", "/sd", "/readyz?verbose", "/healthz", "/api/v1/clusters", "/api/v1/nodes", "/api/v1/gpus"}
    assert wanted <= set(page.links)


async def test_many_clusters_come_in_parts(site: Any, serving: Any, visit: Any) -> None:
    for number in range(150):
        site.cluster(f"zone-{number:03d}", ClusterState.STARTING)
    async with serving(site) as client:
        first, second = await visit(client, "/"), await visit(client, "/?page=2")
    assert "1–100 of 152 clusters" in first.text
    assert "101–152 of 152 clusters" in second.text
    assert "/?page=2" in first.links
    assert "/clusters/zone-149" in second.links


async def test_without_clusters_it_says_how_to_get_some(site: Any, serving: Any, visit: Any) -> None:
    site.statuses.clear()
    async with serving(site) as client:
        assert "No cluster is configured. gpuid init writes" in (await visit(client, "/")).text
