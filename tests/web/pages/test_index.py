"""The first page."""

from typing import Any

import httpx
import pytest

from collector.model import ClusterState, Gpu, NodeInfo, ReadFailure
from collector.store import SinkBacklog, StoreStatus

pytestmark = pytest.mark.anyio


async def test_it_has_the_counts_and_the_problems(client: httpx.AsyncClient, visit: Any) -> None:
    page = await visit(client, "/")
    assert "5 GPUs in 3 nodes of 2 clusters" in page.text
    assert "prod-b is unreachable since 2025-11-24T16:00:00Z ( 10 minutes ago )" in page.text
    assert "https://10.0.0.1:6443: connection refused" in page.text
    assert "prod-a is missing 13 GPUs on 2 nodes" in page.text
    assert "/clusters/prod-a?show=missing" in page.links


@pytest.fixture
def whole(site: Any) -> Any:
    """A fleet without trouble."""
    site.cluster("prod-b")
    for node in ("n1", "n2"):
        site.read("prod-a", node, Gpu(uuid=f"GPU-{node}"), capacity=1)
    site.read("prod-b", "n3", Gpu(uuid="GPU-3"), capacity=None)
    return site


async def test_without_problems_it_says_so(whole: Any, serving: Any, visit: Any) -> None:
    whole.collector.sink_statuses.failed("lake", "timeout", 1764000300.0)
    whole.collector.sink_statuses.delivered("lake")
    whole.collector.sink_statuses.set_backlog("lake", SinkBacklog(records=40, oldest=1764000590.0))
    async with serving(whole) as client:
        text = (await visit(client, "/")).text
    assert (
        "Nothing is wrong: every cluster is up, every node was read in time, no GPU is missing or "
        "in conflict, and every sink accepts its records." in text
    )


async def test_unreadable_nodes_are_shown_with_their_reasons(whole: Any, serving: Any, visit: Any) -> None:
    whole.fail("prod-a", "n1", ReadFailure.CONNECTION, 1764000480.0)
    whole.fail("prod-a", "n1", ReadFailure.EXIT_STATUS, 1764000540.0)
    whole.fail("prod-a", "n2", ReadFailure.EXIT_STATUS, 1764000540.0)
    whole.fail("prod-b", "n3", ReadFailure.FORBIDDEN)
    async with serving(whole) as client:
        page = await visit(client, "/")
    assert "Nothing is wrong" not in page.text
    assert (
        "prod-a has 2 nodes that cannot be read since 2025-11-24T16:08:00Z ( 2 minutes ago ) "
        "the command exited with an error (2 nodes)" in page.text
    )
    assert (
        "prod-b has 1 node that cannot be read since 2025-11-24T16:09:00Z ( 60 seconds ago ) "
        "permission to create or get pods/exec is missing (1 node)" in page.text
    )
    assert "/clusters/prod-a?show=failing" in page.links


async def test_a_node_that_is_read_again_fails_no_more(whole: Any, serving: Any, visit: Any) -> None:
    whole.fail("prod-a", "n1", ReadFailure.TIMEOUT)
    whole.read("prod-a", "n1", Gpu(uuid="GPU-n1"), capacity=1, time=1764000590.0)
    async with serving(whole) as client:
        assert "Nothing is wrong" in (await visit(client, "/")).text


async def test_overdue_nodes_are_shown_if_the_cluster_is_up(whole: Any, serving: Any, visit: Any) -> None:
    whole.collector.refresh_seconds = 30.0
    whole.cluster("prod-b", ClusterState.UNREACHABLE)
    whole.read("prod-a", "n2", Gpu(uuid="GPU-n2"), capacity=1, time=1764000500.0)
    async with serving(whole) as client:
        page = await visit(client, "/")
    assert "prod-a has 1 node whose reading is overdue" in page.text
    assert "/clusters/prod-a?show=overdue" in page.links
    assert "prod-b has" not in page.text


async def test_sinks_in_trouble_are_shown(whole: Any, serving: Any, visit: Any) -> None:
    sinks = whole.collector.sink_statuses
    sinks.failed("hook", "connection", 1764000420.0)
    sinks.failed("hook", "timeout", 1764000480.0)
    sinks.set_backlog("hook", SinkBacklog(records=1325, oldest=1764000300.0))
    sinks.set_backlog("lake", SinkBacklog(records=1, oldest=1763999400.0))
    sinks.set_backlog("table", SinkBacklog(records=0, oldest=None, dead_letters=2))
    sinks.set_backlog("gone", SinkBacklog(records=9, oldest=1763999400.0))
    sinks.retain(["hook", "lake", "table"])
    async with serving(whole) as client:
        text = (await visit(client, "/")).text
    assert (
        "The sink hook is failing since 2025-11-24T16:07:00Z ( 3 minutes ago ) "
        "last failure: timeout; 1,325 records waiting, the oldest since 2025-11-24T16:05:00Z" in text
    )
    assert "The sink lake is behind: 1 record waiting, the oldest since 2025-11-24T15:50:00Z" in text
    assert "The sink table has 2 dead letters batches that it rejected: gpuid outbox ls lists them" in text
    assert "The sink gone" not in text


async def test_a_gpu_in_conflict_and_claimed_elsewhere_counts_once(site: Any, serving: Any, visit: Any) -> None:
    places = [("prod-a", "n1"), ("prod-b", "n9"), ("prod-a", "n1"), ("prod-b", "n9"), ("prod-a", "n8")]
    for time, (cluster, node) in enumerate(places):
        twice = Gpu(uuid="GPU-a1", serial="100", model="NVIDIA H100")
        site.read(cluster, node, twice, time=1764000001.0 + time, capacity=1, both=True)
    assert [(site.inventory.conflicts(name), site.inventory.claims(name)) for name in ("prod-a", "prod-b")] == [
        (1, 1),
        (1, 1),
    ]
    async with serving(site) as client:
        text = (await visit(client, "/")).text
    assert "5 GPUs in 5 nodes of 2 clusters" in text
    assert "NVIDIA H100 3 JSON" in text


async def test_unread_nodes_and_conflicts_are_shown(site: Any, serving: Any, visit: Any) -> None:
    site.publish(site.inventory.set_node("prod-a", NodeInfo(name="new", capacity=8)))
    site.conflict("prod-a", ("n1", "n2"), Gpu(uuid="GPU-twice"))
    async with serving(site) as client:
        page = await visit(client, "/")
    assert "prod-a has 1 GPU confirmed in two places at once" in page.text
    assert "prod-a has 1 node that has never been read" in page.text
    assert page.text.index("confirmed in two places") < page.text.index("never been read")


async def test_a_claim_counts_once_and_is_no_severe_problem(site: Any, serving: Any, visit: Any) -> None:
    moving = Gpu(uuid="GPU-a1", serial="100", model="NVIDIA H100")
    site.read("prod-b", "n9", moving, time=1764000001.0, capacity=1, both=True)
    async with serving(site) as client:
        page = await visit(client, "/")
    assert "5 GPUs in 4 nodes of 2 clusters" in page.text
    assert "NVIDIA H100 3 JSON" in page.text
    for name in ("prod-a", "prod-b"):
        assert f"{name} has 1 GPU reported by two nodes, being verified" in page.text
    assert page.text.index("prod-b is unreachable") < page.text.index("being verified")


async def test_a_failing_store_is_shown_first(site: Any, serving: Any, visit: Any) -> None:
    status = StoreStatus(up=False, since=1764000540.0, message="store /data/gpuid.db: no room left")
    site.collector.store_status = status
    async with serving(site) as client:
        text = (await visit(client, "/")).text
    assert (
        "Problems The store is not accepting writes; changes are held in memory "
        "since 2025-11-24T16:09:00Z ( 60 seconds ago ) store /data/gpuid.db: no room left" in text
    )


async def test_gpus_are_counted_by_model(client: httpx.AsyncClient, visit: Any) -> None:
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


async def test_without_clusters_it_says_how_to_add_some(site: Any, serving: Any, visit: Any) -> None:
    site.collector.statuses.clear()
    async with serving(site) as client:
        assert "No clusters are configured. Run gpuid init to create" in (await visit(client, "/")).text
