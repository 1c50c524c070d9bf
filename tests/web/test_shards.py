"""One shard of several over HTTP: its own clusters for scrapers, all of them for people and programs."""

from typing import Any

import pytest

from collector.model import ClusterState
from collector.sharding import Shard
from collector.store import ClusterOwner, ShardLease

pytestmark = pytest.mark.anyio


@pytest.fixture
def shard(site: Any) -> Any:
    """Shard 1 of 3, which reads prod-a; shard 0 reads prod-b, and no shard reads prod-c, which was shard 2's."""
    site.cluster("prod-c", ClusterState.UNOWNED, "gpuid-2 (pid 9) read it last")
    collector = site.collector
    collector.shard = Shard(1, 3)
    collector.owners = {
        "prod-a": ClusterOwner(shard=1, holder="gpuid-1 (pid 8)", own=True),
        "prod-b": ClusterOwner(shard=0, holder="gpuid-0 (pid 7)"),
        "prod-c": ClusterOwner(holder="gpuid-2 (pid 9)"),
    }
    collector.leases = [
        ShardLease(shard=0, holder="gpuid-0 (pid 7)", held=True),
        ShardLease(shard=1, holder="gpuid-1 (pid 8)", held=True),
        ShardLease(shard=2, holder="gpuid-2 (pid 9)", held=False),
        ShardLease(shard=3, holder="gpuid-3 (pid 9)", held=False),  # of an earlier number of shards
        ShardLease(shard=4, holder="gpuid-4 (pid 9)", held=True),
    ]
    return site


async def test_discovery_has_only_its_own_clusters(shard: Any, serving: Any) -> None:
    async with serving(shard) as client:
        answer = (await client.get("/sd")).json()
    assert [one["labels"].get("cluster") for one in answer] == ["prod-a", None]


@pytest.mark.parametrize(
    ("cluster", "text"),
    [
        ("prod-b", 'cluster "prod-b" is read by shard 0\n'),
        ("prod-c", 'cluster "prod-c" is read by no shard\n'),
        ("prod-x", 'unknown cluster "prod-x"\n'),
    ],
)
async def test_the_series_of_another_cluster_are_not_found(shard: Any, serving: Any, cluster: str, text: str) -> None:
    async with serving(shard) as client:
        assert (await client.get(f"/metrics?cluster=prod-a&cluster={cluster}")).text == text


async def test_the_api_has_all_clusters_and_says_which_shard_reads_each(shard: Any, serving: Any) -> None:
    async with serving(shard) as client:
        rows = (await client.get("/api/v1/clusters")).json()["clusters"]
    assert [(row["cluster"], row["state"], row.get("shard")) for row in rows] == [
        ("prod-a", "up", 1),
        ("prod-b", "unreachable", 0),
        ("prod-c", "unowned", None),
    ]


async def test_a_cluster_that_no_shard_reads_is_a_problem(shard: Any, serving: Any) -> None:
    async with serving(shard) as client:
        problems = (await client.get("/api/v1/problems")).json()["problems"]
    (found,) = [one for one in problems if one["kind"] == "cluster_unowned"]
    assert (found["severity"], found["title"], found["reason"], found["clusters"]) == (
        "critical",
        "prod-c is read by no shard",
        "gpuid-2 (pid 9) read it last",
        ["prod-c"],
    )


async def test_it_is_not_ready_until_its_own_clusters_answer(site: Any, serving: Any) -> None:
    names = [f"prod-{number}" for number in range(9)]
    for name in names:
        site.cluster(name, ClusterState.STARTING)
    site.collector.shard = shard = Shard(1, 3)
    own = [name for name in names if shard.reads(name)]
    assert 0 < len(own) < len(names)
    async with serving(site) as client:
        text = (await client.get("/readyz")).text
        for name in own:
            site.cluster(name)
        answer = await client.get("/readyz")
    assert text.splitlines()[-1] == f"not ready: {len(own)} of 11 clusters are starting"
    assert (answer.status_code, answer.text) == (200, "ok\n")


async def test_readiness_does_not_depend_on_other_shards(shard: Any, serving: Any) -> None:
    async with serving(shard) as client:
        answer = await client.get("/readyz?verbose")
    assert (answer.status_code, answer.text.splitlines()) == (
        200,
        [
            "[+]shard 0 is gpuid-0 (pid 7)",
            "[+]shard 1 is gpuid-1 (pid 8) (this collector)",
            "[-]shard 2 is not running; the last one was gpuid-2 (pid 9)",
            "[+]shard 4 is gpuid-4 (pid 9)",
            "[+]prod-a up",
            "[-]prod-b unreachable: https://10.0.0.1:6443: connection refused",
            "[-]prod-c unowned: gpuid-2 (pid 9) read it last",
            "ok",
        ],
    )
