"""A cluster's page."""

from typing import Any

import httpx
import pytest

from collector.model import Gpu, NodeInfo, ReadFailure

pytestmark = pytest.mark.anyio


@pytest.fixture
def troubled(site: Any) -> Any:
    """A cluster in which each kind of trouble is in one node."""
    site.cluster("z")
    site.read("z", "whole", Gpu(uuid="GPU-w", chassis="C9"), capacity=1)
    site.read("z", "short", Gpu(uuid="GPU-s"), capacity=4)
    site.publish(site.inventory.set_node("z", NodeInfo(name="unread", capacity=8)))
    site.read("z", "failing", Gpu(uuid="GPU-f"), capacity=1)
    site.fail("z", "failing", ReadFailure.NO_BINARY)
    site.read("z", "overdue", Gpu(uuid="GPU-o"), capacity=1, time=1763990000.0)
    site.conflict("z", ("one", "two"), Gpu(uuid="GPU-twice"), capacity=1)
    return site


def listed(links: list[str]) -> list[str]:
    """Return the nodes of the table, whose heads sort it."""
    start = max(number for number, link in enumerate(links) if "sort=" in link)
    prefix = "/clusters/z/nodes/"
    return [link.removeprefix(prefix) for link in links[start:] if link.startswith(prefix)]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ["failing", "one", "overdue", "short", "two", "unread", "whole"]),
        ("?show=wrong", ["failing", "one", "overdue", "short", "two", "unread"]),
        ("?show=missing", ["short"]),
        ("?show=unread", ["failing", "unread"]),
        ("?show=failing", ["failing"]),
        ("?show=overdue", ["overdue"]),
        ("?show=conflict", ["one", "two"]),
        ("?name=o", ["one", "overdue", "short", "two", "whole"]),
        ("?sort=-node", ["whole", "unread", "two", "short", "overdue", "one", "failing"]),
        ("?sort=-missing&show=wrong", ["short", "unread", "two", "overdue", "one", "failing"]),
        ("?sort=read", ["unread", "overdue", "failing", "short", "whole", "one", "two"]),
        ("?sort=chassis&name=whole&show=", ["whole"]),
    ],
)
async def test_nodes_are_filtered_and_sorted(
    troubled: Any, serving: Any, visit: Any, query: str, names: list[str]
) -> None:
    async with serving(troubled) as client:
        page = await visit(client, f"/clusters/z{query}")
    assert listed(page.links) == names


async def test_the_problem_of_a_node_is_shown_in_its_row(troubled: Any, serving: Any, visit: Any) -> None:
    async with serving(troubled) as client:
        text = (await visit(client, "/clusters/z")).text
    assert "short 3 missing 1 of 4 i-short" in text
    assert "unread pending ? of 8" in text
    assert "two conflict 1 of 1" in text
    assert "failing cannot be read 1 of 1" in text
    assert "overdue overdue 1 of 1" in text
    assert "whole complete 1 of 1 i-whole C9 570.148.08 10 minutes ago 2025-11-24T16:00:00Z" in text


async def test_claimed_gpus_are_shown_with_their_nodes(troubled: Any, serving: Any, visit: Any) -> None:
    troubled.read("z", "whole", Gpu(uuid="GPU-s"), Gpu(uuid="GPU-w", chassis="C9"), capacity=2, both=True)
    async with serving(troubled) as client:
        page = await visit(client, "/clusters/z?show=claim")
    assert "1 GPU reported by two nodes, being verified: 2 nodes of z" in page.text
    assert listed(page.links) == ["short", "whole"]
    assert "whole being verified 2 of 2" in page.text
    assert "GPUs 5 capacity" in page.text


async def test_problems_are_above_the_nodes(troubled: Any, serving: Any, visit: Any) -> None:
    async with serving(troubled) as client:
        page = await visit(client, "/clusters/z")
    assert "GPUs 5 capacity" in page.text
    assert "failing (z) is unreadable: nvidia-smi not found in the container warning since" in page.text
    assert "overdue (z) is overdue for a reading" in page.text
    assert "unread (z) waits for the first reading" in page.text
    assert "3 GPUs missing on short (z)" in page.text
    assert "All good" not in page.text


async def test_an_unreachable_cluster_has_a_reason_and_a_time(client: httpx.AsyncClient, visit: Any) -> None:
    text = (await visit(client, "/clusters/prod-b")).text
    assert "prod-b unreachable" in text
    assert "prod-b is unreachable critical since 2025-11-24T16:00:00Z ( 10 minutes ago )" in text
    assert "https://10.0.0.1:6443: connection refused" in text
    assert "Never synced." in text


async def test_many_nodes_come_in_parts_that_keep_the_filter(site: Any, serving: Any, visit: Any) -> None:
    for number in range(250):
        site.read("prod-a", f"gpu-{number:04d}", Gpu(uuid=f"GPU-{number}"))
    async with serving(site) as client:
        page = await visit(client, "/clusters/prod-a?name=gpu&sort=-node&page=2")
        beyond = await visit(client, "/clusters/prod-a?name=gpu&page=99")
    assert "101–200 of 250 nodes" in page.text
    assert "/clusters/prod-a/nodes/gpu-0149" in page.links
    assert "/clusters/prod-a?name=gpu&sort=-node&page=3" in page.links
    assert "/clusters/prod-a?name=gpu&sort=-node" in page.links
    assert "201–250 of 250 nodes" in beyond.text


async def test_a_cluster_of_any_name_has_its_page(site: Any, serving: Any, visit: Any) -> None:
    name = "arn:aws:eks:us-east-1:111122223333:cluster/prod 100%2F"
    site.cluster(name)
    site.read(name, "n/1?#", Gpu(uuid="GPU-x"))
    async with serving(site) as client:
        index = await visit(client, "/")
        (link,) = {
            link for link in index.links if link.startswith("/clusters/arn") and "nodes" not in link and "?" not in link
        }
        page = await visit(client, link)
        assert f"{name} up" in page.text
        (node,) = {link for link in page.links if "/nodes/" in link}
        assert "n/1?# 7 missing" in (await visit(client, node)).text


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("sort=size", "sort: expected one of node, cluster, machine, chassis, gpus"),
        (
            "show=all",
            "show: expected one of wrong, failing, unread, missing, lost, degraded, rma, conflict, claim, overdue",
        ),
        ("page=0", "page: expected a whole number of at least 1"),
        ("page=-1", "page: expected a whole number of at least 1"),
    ],
)
async def test_a_bad_query_says_what_was_expected(client: httpx.AsyncClient, query: str, error: str) -> None:
    answer = await client.get(f"/clusters/prod-a?{query}")
    assert answer.status_code == 400
    assert answer.text.startswith(error)


async def test_a_cluster_that_is_not_configured_is_not_found(client: httpx.AsyncClient, visit: Any) -> None:
    page = await visit(client, "/clusters/none")
    assert page.status == 404
    assert "No cluster named “none” is configured." in page.text
