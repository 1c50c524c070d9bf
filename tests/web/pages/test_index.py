"""The first page."""

import re
from typing import Any

import httpx
import pytest

from collector.config import PRESETS
from collector.health import Health
from collector.model import ClusterState, Gpu, NodeInfo, ReadFailure, Uncovered
from collector.store import LeadStatus, SinkBacklog, StoreStatus

pytestmark = pytest.mark.anyio


async def test_it_shows_the_counts_and_the_problems(client: httpx.AsyncClient, visit: Any) -> None:
    page = await visit(client, "/")
    assert "5 GPUs on 3 nodes across 2 clusters" in page.text
    assert "prod-b is unreachable critical 10 minutes ago 2025-11-24T16:00:00Z" in page.text
    assert "https://10.0.0.1:6443: connection refused" in page.text
    assert "19 GPUs missing on 3 nodes across 2 clusters" in page.text
    assert "/problems#gpu_missing" in page.links


async def test_each_of_the_worst_problems_is_one_line(site: Any, serving: Any) -> None:
    for number in range(45):
        site.cluster(f"down-{number}", ClusterState.UNREACHABLE, f"https://10.0.0.{number}:6443: connection refused")
        site.read("prod-a", f"f{number}", Gpu(uuid=f"GPU-f{number}"), capacity=1)
        site.fail("prod-a", f"f{number}", list(ReadFailure)[number % len(ReadFailure)])
    async with serving(site) as client:
        text = (await client.get("/")).text
    _, problems, _ = re.split(r'<ul class="problems lines">|</ul>', text)
    assert problems.count("<li ") == 5
    assert problems.count("<p title=") == 5
    assert 'class="members"' not in text


async def test_virtual_gpus_are_distinguished(whole: Any, serving: Any, visit: Any) -> None:
    whole.read("prod-a", "n4", Gpu(uuid="GPU-v", virtual=True), capacity=None)
    async with serving(whole) as client:
        assert "3 GPUs and 1 virtual GPU on 4 nodes" in (await visit(client, "/")).text


@pytest.fixture
def whole(site: Any) -> Any:
    """A fleet without problems."""
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
        "All good Every cluster is up and synced, all 3 GPU nodes were read in time, no GPU is missing, "
        "degraded or in conflict, and every sink accepts its records." in text
    )


async def test_unreadable_nodes_are_shown_with_their_reasons(whole: Any, serving: Any, visit: Any) -> None:
    whole.fail("prod-a", "n1", ReadFailure.CONNECTION, 1764000480.0)
    whole.fail("prod-a", "n1", ReadFailure.EXIT_STATUS, 1764000540.0)
    whole.fail("prod-a", "n2", ReadFailure.EXIT_STATUS, 1764000540.0)
    whole.fail("prod-b", "n3", ReadFailure.FORBIDDEN)
    whole.read("prod-a", "n4", Gpu(uuid="GPU-4"), capacity=1)
    async with serving(whole) as client:
        page = await visit(client, "/")
    assert "All good" not in page.text
    assert "1 of 4 GPU nodes read; 3 unread: 2 nvidia-smi exited with an error, 1 permission missing." in page.text
    assert (
        "2 nodes of prod-a are unreadable: nvidia-smi exited with an error warning 2 minutes ago "
        "2025-11-24T16:08:00Z the command exited with an error" in page.text
    )
    assert (
        "prod-b has no GPU node that can be read: permission missing critical 60 seconds ago "
        "2025-11-24T16:09:00Z permission for pods/exec or pods/log is missing" in page.text
    )
    assert "/clusters/prod-a?show=failing" in page.links


async def test_a_node_that_recovers_is_no_longer_failing(whole: Any, serving: Any, visit: Any) -> None:
    whole.fail("prod-a", "n1", ReadFailure.TIMEOUT)
    whole.read("prod-a", "n1", Gpu(uuid="GPU-n1"), capacity=1, time=1764000590.0)
    async with serving(whole) as client:
        assert "All good" in (await visit(client, "/")).text


class TestWhatHasNotBeenSeen:
    """Absence is not health: "All good" needs every GPU node that the clusters report to have been read."""

    async def seen(self, site: Any, serving: Any, visit: Any) -> str:
        async with serving(site) as client:
            text: str = (await visit(client, "/")).text
        return text

    async def test_a_gpu_node_without_a_pod_is_shown(self, whole: Any, serving: Any, visit: Any) -> None:
        for node in ("bare-1", "bare-2"):
            whole.add("prod-a", node)
            whole.uncover("prod-a", node, Uncovered.NO_POD)
        text = await self.seen(whole, serving, visit)
        assert "All good" not in text
        assert "3 of 5 GPU nodes read; 2 unread: no GPU pod." in text
        assert "2 nodes of prod-a are unreadable: no GPU pod warning 5 minutes ago 2025-11-24T16:05:00Z" in text
        assert "prod-a up 4 2 0 2 18 0 0 0" in text

    async def test_a_pod_that_is_not_ready_is_shown(self, whole: Any, serving: Any, visit: Any) -> None:
        whole.uncover("prod-a", "n1", Uncovered.POD_NOT_READY)
        text = await self.seen(whole, serving, visit)
        assert "All good" not in text
        assert "2 of 3 GPU nodes read; 1 unread: GPU pod not ready." in text
        whole.uncover("prod-a", "n1", None)
        assert "All good" in await self.seen(whole, serving, visit)

    async def test_pods_without_the_container_are_shown(self, whole: Any, serving: Any, visit: Any) -> None:
        whole.add("prod-a", "gfd")
        whole.uncover("prod-a", "gfd", ReadFailure.NO_CONTAINER)
        assert "3 of 4 GPU nodes read; 1 unread: no container with the configured name." in await self.seen(
            whole, serving, visit
        )

    async def test_nodes_awaiting_their_first_reading_are_shown(self, whole: Any, serving: Any, visit: Any) -> None:
        whole.add("prod-a", "new")
        text = await self.seen(whole, serving, visit)
        assert "All good" not in text
        assert "new (prod-a) waits for the first reading" in text

    async def test_a_source_that_matches_nothing_is_shown(self, site: Any, serving: Any, visit: Any) -> None:
        site.cluster("prod-c")
        site.add("prod-c", "n1")
        site.uncover("prod-c", "n1", Uncovered.NO_POD)
        site.collector.pods = (0,)
        async with serving(site) as client:
            text = (await visit(client, "/clusters/prod-c")).text
        assert (
            "prod-c has no GPU pods critical since 2025-11-24T16:05:00Z ( 5 minutes ago ) nothing matches "
            '"app=nvidia-device-plugin-daemonset" in namespace gpu-operator' in text
        )
        assert "prod-c up 0 of 1 node read 1 1 0 0" in await self.seen(site, serving, visit)

    async def test_one_of_two_sources_without_matches_is_shown(self, whole: Any, serving: Any, visit: Any) -> None:
        whole.collector.pod_sources = (*PRESETS["gpu-operator"], *PRESETS["gke"])
        whole.collector.pods = (5, 0)
        assert "All good" in await self.seen(whole, serving, visit)
        whole.add("prod-a", "bare")
        whole.uncover("prod-a", "bare", Uncovered.NO_POD)
        expected = "The source kube-system/k8s-app=nvidia-gpu-device-plugin has no pods in prod-a"
        assert expected in await self.seen(whole, serving, visit)

    async def test_a_cluster_whose_nodes_all_fail_is_shown(self, whole: Any, serving: Any, visit: Any) -> None:
        whole.fail("prod-b", "n3", ReadFailure.FORBIDDEN)
        text = await self.seen(whole, serving, visit)
        assert "prod-b has no GPU node that can be read" in text
        assert "prod-b up 0 of 1 node read 1 1 1" in text

    async def test_a_cluster_not_listed_yet_is_shown(self, whole: Any, serving: Any, visit: Any) -> None:
        whole.collector.listed_nodes = None
        text = await self.seen(whole, serving, visit)
        assert "prod-a and prod-b have not been listed completely yet" in text
        assert "All good" not in text

    async def test_a_stale_view_is_shown(self, whole: Any, serving: Any, visit: Any) -> None:
        whole.collector.synced_at = whole.collector.time - 1000
        text = await self.seen(whole, serving, visit)
        assert "prod-a and prod-b have not been confirmed as current warning" in text
        assert "All good" not in text

    async def test_a_selector_without_matching_nodes_is_shown(self, whole: Any, serving: Any, visit: Any) -> None:
        whole.collector.listed_nodes, whole.collector.selector = 0, "gpu=yes"
        assert 'no node matches node_selector "gpu=yes"' in await self.seen(whole, serving, visit)

    async def test_a_cluster_without_gpu_nodes_is_healthy_and_says_so(
        self, whole: Any, serving: Any, visit: Any
    ) -> None:
        whole.cluster("prod-c")
        text = await self.seen(whole, serving, visit)
        assert "every sink accepts its records. No GPU nodes in prod-c." in text
        assert "prod-c up no GPU nodes 0" in text

    async def test_a_fleet_without_gpu_nodes_is_not_called_healthy(self, site: Any, serving: Any, visit: Any) -> None:
        site.publish(site.inventory.remove_cluster("prod-a", 1764000001.0))
        site.publish(site.inventory.remove_cluster("prod-b", 1764000001.0))
        site.cluster("prod-b")
        text = await self.seen(site, serving, visit)
        assert "All good" not in text
        assert "No GPU nodes: every cluster is up and was listed completely" in text

    async def test_gpus_without_known_capacity_are_not_compared(self, whole: Any, serving: Any, visit: Any) -> None:
        whole.read("prod-a", "mig", *(Gpu(uuid=f"GPU-m{n}") for n in range(7)), capacity=None)
        async with serving(whole) as client:
            fleet, cluster = [(await visit(client, path)).text for path in ("/", "/clusters/prod-a")]
        assert "prod-a up 3 0 0 9 9 0" in fleet
        assert "GPUs 9 capacity 9 nodes 3" in cluster


async def test_overdue_nodes_are_shown_if_the_cluster_is_up(whole: Any, serving: Any, visit: Any) -> None:
    whole.collector.refresh_seconds = 30.0
    whole.cluster("prod-b", ClusterState.UNREACHABLE)
    whole.read("prod-a", "n2", Gpu(uuid="GPU-n2"), capacity=1, time=1764000500.0)
    async with serving(whole) as client:
        page = await visit(client, "/")
    assert "n1 (prod-a) is overdue for a reading" in page.text
    assert "/clusters/prod-a/nodes/n1" in page.links
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
        "The sink hook is failing warning 3 minutes ago 2025-11-24T16:07:00Z "
        "timeout; 1,325 records waiting, the oldest since 2025-11-24T16:05:00Z" in text
    )
    assert "1 record waiting, the oldest since 2025-11-24T15:50:00Z" in text
    assert "The sink lake is behind" in text
    assert "The sink table has 2 dead letters warning" in text
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
    assert "5 GPUs on 5 nodes across 2 clusters" in text
    assert "All clusters 3 2 5" in text
    assert "1 GPU is reported by two clusters, and counted in both rows below." in text


async def test_unread_nodes_and_conflicts_are_shown(site: Any, serving: Any, visit: Any) -> None:
    site.publish(site.inventory.set_node("prod-a", NodeInfo(name="new", capacity=8)))
    site.conflict("prod-a", ("n1", "n2"), Gpu(uuid="GPU-twice"))
    async with serving(site) as client:
        page, listed = await visit(client, "/"), await visit(client, "/gpus")
    assert "1 GPU confirmed in two places at once: 2 nodes of prod-a" in page.text
    assert "3 GPUs on" in page.text
    assert "counted in both" not in page.text, "a cluster counts it once"
    assert "3 GPUs 1 GPU is reported by two nodes, and listed on both: 4 rows." in listed.text
    assert "conflicts 1" in page.text
    assert page.text.index("confirmed in two places") < page.text.index("new (prod-a) waits for the first reading")


async def test_a_claim_counts_once_and_is_no_severe_problem(site: Any, serving: Any, visit: Any) -> None:
    moving = Gpu(uuid="GPU-a1", serial="100", model="NVIDIA H100")
    site.read("prod-b", "n9", moving, time=1764000001.0, capacity=1, both=True)
    async with serving(site) as client:
        page = await visit(client, "/")
    assert "5 GPUs on 4 nodes across 2 clusters" in page.text
    assert "All clusters 3 2 5" in page.text
    assert "1 GPU reported by two nodes, being verified: 2 nodes across 2 clusters info" in page.text
    assert page.text.index("prod-b is unreachable") < page.text.index("being verified")


async def test_a_failing_store_is_shown_first(site: Any, serving: Any, visit: Any) -> None:
    status = StoreStatus(up=False, since=1764000540.0, message="store /data/gpuid.db: no room left")
    site.collector.store_status = status
    async with serving(site) as client:
        text = (await visit(client, "/")).text
    assert (
        "The store does not accept writes; changes are held in memory critical "
        "60 seconds ago 2025-11-24T16:09:00Z store /data/gpuid.db: no room left" in text
    )


async def test_a_standby_says_who_leads(site: Any, serving: Any, visit: Any) -> None:
    site.collector.lead_status = LeadStatus(leads=False, holder="gpuid-<0> (pid 1)")
    async with serving(site) as client:
        text = (await visit(client, "/")).text
    assert "This collector is a standby: gpuid-<0> (pid 1) records the history and delivers to the sinks." in text
    assert "No collector records" not in text


async def test_a_store_without_a_leader_is_a_problem(site: Any, serving: Any, visit: Any) -> None:
    site.collector.lead_status = LeadStatus(leads=False, has_leader=False, holder="gpuid-0 (pid 1)")
    async with serving(site) as client:
        text = (await visit(client, "/")).text
    assert "No collector is recording to the store or delivering to the sinks" in text
    assert "gpuid-0 (pid 1) was the last leader" in text
    assert "stands by" not in text


async def test_gpus_are_counted_by_model(client: httpx.AsyncClient, visit: Any) -> None:
    page = await visit(client, "/")
    assert "Cluster H100 GB200 All prod-a 3 0 3 prod-b 0 2 2 All clusters 3 2 5" in page.text
    assert {"/gpus?model=NVIDIA+H100", "/gpus?cluster=prod-a&model=NVIDIA+H100"} <= set(page.links)


async def test_the_latest_changes_are_shown_without_scripts(client: httpx.AsyncClient, visit: Any) -> None:
    page = await visit(client, "/")
    assert "10 minutes ago 2025-11-24T16:00:00Z first seen 2 GPUs on n3 ( prod-b )" in page.text
    assert "first seen 3 GPUs on 2 nodes ( prod-a )" in page.text


async def test_the_urls_for_programs_are_linked(client: httpx.AsyncClient, visit: Any) -> None:
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


async def test_it_counts_the_degraded_gpus_and_the_share_of_healthy_ones(site: Any, serving: Any, visit: Any) -> None:
    site.cluster("prod-b")
    conditions = [Health(row_remap_failure=True), Health(row_remap_pending=True)]
    site.read("prod-a", "w1", *(Gpu(uuid=f"GPU-{n}", serial=f"S-{n}", health=one) for n, one in enumerate(conditions)))
    async with serving(site) as client:
        page = await visit(client, "/")
    assert "healthy of 32 known GPUs 15.6 %" in page.text
    assert "degraded 2" in page.text
    assert "1 GPU on w1 (prod-a) needs replacement" in page.text
    assert "row remapping failed" in page.text
    assert {"/health", "/health?cluster=prod-a"} <= set(page.links)
