"""The search."""

from typing import Any

import httpx
import pytest

from collector.model import Gpu
from collector.store import Store

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("term", "target"),
    [
        ("100", "/gpus/GPU-a1"),
        ("GPU-a1", "/gpus/GPU-a1"),
        ("gpu-A1", "/gpus/GPU-a1"),
        (" 1 00 ", "/gpus/GPU-a1"),
        ("n2", "/clusters/prod-a/nodes/n2"),
        ("N2", "/clusters/prod-a/nodes/n2"),
        ("i-n3", "/clusters/prod-b/nodes/n3"),
        ("prod-a", "/clusters/prod-a"),
    ],
)
async def test_one_exact_hit_leads_straight_to_it(client: httpx.AsyncClient, term: str, target: str) -> None:
    answer = await client.get("/search", params={"q": term})
    assert (answer.status_code, answer.headers["Location"]) == (303, target)


@pytest.mark.parametrize("term", ["900", "C1", "c1"])
async def test_several_hits_are_listed(client: httpx.AsyncClient, visit: Any, term: str) -> None:
    page = await visit(client, f"/search?q={term}")
    assert f"2 hits for “ {term} ”" in page.text
    assert {"/gpus/GPU-b1", "/gpus/GPU-b2"} <= set(page.links)


async def test_nodes_of_one_name_in_several_clusters_are_listed(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-b", "n1", Gpu(uuid="GPU-b9"))
    async with serving(site) as client:
        page = await visit(client, "/search?q=n1")
    assert "2 nodes" in page.text
    assert {"/clusters/prod-a/nodes/n1", "/clusters/prod-b/nodes/n1"} <= set(page.links)


async def test_part_of_a_number_is_enough_when_nothing_is_exact(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-a", "n7", Gpu(uuid="GPU-x", serial="1652923034028"))
    async with serving(site) as client:
        page = await visit(client, "/search?q=4028")
    assert "Nothing is exactly “4028”; these contain it." in page.text
    assert "/gpus/GPU-x" in page.links


async def test_nothing_found_says_what_was_looked_for_and_what_can_be(client: httpx.AsyncClient, visit: Any) -> None:
    page = await visit(client, "/search?q=x")
    assert page.status == 200
    assert "Nothing is known of “x”" in page.text
    assert "A serial is the number on the sticker" in page.text
    assert "With a [store] in its configuration, GPUs that are gone would be found too." in page.text


async def test_nothing_asked_says_what_can_be(client: httpx.AsyncClient, visit: Any) -> None:
    assert "What are you looking for?" in (await visit(client, "/search?q=+")).text


async def test_a_gpu_that_is_only_in_the_history_is_found(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    site.read("prod-a", "n2", time=1764000300.0)
    site.read("prod-b", "n3", time=1764000300.0)
    async with serving(site) as client:
        one = await client.get("/search?q=102")
        two = await visit(client, "/search?q=900")
    assert (one.status_code, one.headers["Location"]) == (303, "/gpus/GPU-a2")
    assert "2 GPUs in the history" in two.text
    assert "900 GPU-b1 n3 of prod-b 5 minutes ago 2025-11-24T16:05:00Z nowhere" in two.text


async def test_a_store_in_trouble_leaves_what_is_present(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    site.break_store()
    async with serving(site) as client:
        assert (await client.get("/search?q=100")).headers["Location"] == "/gpus/GPU-a1"
        page = await visit(client, "/search?q=102000")
    assert page.status == 200
    assert "The history cannot be read now, so only what is present was searched." in page.text


async def test_many_hits_come_in_parts(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-a", "big", *(Gpu(uuid=f"GPU-{number:03d}", chassis="C8") for number in range(150)))
    async with serving(site) as client:
        page = await visit(client, "/search?q=C8&page=2")
    assert "150 hits for “ C8 ”" in page.text
    assert "101–150 of 150 hits" in page.text
    assert "/gpus/GPU-149" in page.links
