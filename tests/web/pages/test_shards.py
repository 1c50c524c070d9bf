"""The page of one shard of several."""

from typing import Any

import pytest

from collector.model import ClusterState
from collector.sharding import Shard
from collector.store import ClusterOwner, ShardLease

pytestmark = pytest.mark.anyio


async def test_the_first_page_says_which_shard_it_is_and_which_are_not_running(
    site: Any, serving: Any, visit: Any
) -> None:
    site.collector.shard = Shard(1, 3)
    site.collector.leases = [
        ShardLease(shard=1, holder="gpuid-1 (pid 8)", held=True),
        ShardLease(shard=2, holder="gpuid-<2> (pid 9)", held=False),
    ]
    async with serving(site) as client:
        text = (await visit(client, "/")).text
    assert (
        "This is shard 1 of 3, with the whole fleet. Shard 0 is not running."
        " Shard 2 is not running; the last one was gpuid-<2> (pid 9)." in text
    )


async def test_many_shards_that_are_not_running_are_counted(site: Any, serving: Any, visit: Any) -> None:
    site.collector.shard = Shard(4, 9)
    site.collector.leases = [ShardLease(shard=4, holder="gpuid-4 (pid 8)", held=True)]
    async with serving(site) as client:
        text = (await visit(client, "/")).text
    assert (
        "Shard 0 is not running. Shard 1 is not running. Shard 2 is not running. 5 more shards are not running." in text
    )


async def test_a_collector_without_shards_does_not_mention_them(site: Any, serving: Any, visit: Any) -> None:
    async with serving(site) as client:
        for path in ("/", "/clusters/prod-a"):
            page = await visit(client, path)
            assert "hard" not in page.text
    assert "/metrics?cluster=prod-a" in page.links


async def test_the_page_of_a_cluster_says_which_shard_reads_it(site: Any, serving: Any, visit: Any) -> None:
    site.collector.shard = Shard(1, 3)
    site.cluster("prod-c", ClusterState.UNOWNED, "gpuid-2 (pid 9) read it last")
    site.collector.owners = {
        "prod-a": ClusterOwner(shard=1, holder="gpuid-1 (pid 8)", own=True),
        "prod-b": ClusterOwner(shard=0, holder="gpuid-<0> (pid 7)"),
        "prod-c": ClusterOwner(holder="gpuid-2 (pid 9)"),
    }
    async with serving(site) as client:
        own = await visit(client, "/clusters/prod-a")
        other = await visit(client, "/clusters/prod-b")
        unowned = await visit(client, "/clusters/prod-c")
    assert "Read by shard 1, this one (gpuid-1 (pid 8))." in own.text
    assert "/metrics?cluster=prod-a" in own.links
    assert "Read by shard 0 (gpuid-<0> (pid 7))." in other.text
    assert "/metrics?cluster=prod-b" not in other.links
    assert "prod-c is read by no shard" in unowned.text
    assert "gpuid-2 (pid 9) read it last" in unowned.text
