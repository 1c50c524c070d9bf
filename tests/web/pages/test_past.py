"""The pages of another time than now."""

from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.anyio

BEFORE = "2025-11-24T16:02:00Z"
AT_TEXT = "2025-11-24T16:02:00Z"
AT = AT_TEXT.replace(":", "%3A")


async def test_the_fleet_shows_the_clusters_of_that_time(past_client: httpx.AsyncClient, visit: Any) -> None:
    page = await visit(past_client, f"/?at={BEFORE}")
    assert "As of 2025-11-24T16:02:00Z ( 8 minutes ago )" in page.text
    assert "7 GPUs on 4 nodes across 3 clusters" in page.text
    assert "old no longer configured 1 2 2 × H200" in page.text
    assert "prod-a 2 3 3 × H100" in page.text
    assert "/clusters/old?at=2025-11-24T16%3A02%3A00Z" in page.links
    now = (await visit(past_client, "/?at=now")).text
    assert "old no longer configured" not in now
    assert "6 GPUs on 4 nodes across 2 clusters" in now


async def test_a_cluster_shows_its_nodes_of_that_time(past_client: httpx.AsyncClient, visit: Any) -> None:
    page = await visit(past_client, f"/clusters/old?at={BEFORE}")
    assert "old no longer configured 2 GPUs on 1 node (2 × H200)." in page.text
    assert "n7 2 2 × H200 i-n7" in page.text
    assert "/clusters/old/nodes/n7?at=2025-11-24T16%3A02%3A00Z" in page.links


async def test_a_node_shows_its_gpus_of_that_time(past_client: httpx.AsyncClient, visit: Any) -> None:
    before = (await visit(past_client, f"/clusters/old/nodes/n7?at={BEFORE}")).text
    assert "1 701 GPU-c1 healthy – 2025-11-24T16:01:00Z" in before
    after = (await visit(past_client, "/clusters/old/nodes/n7?at=2025-11-24T16:03:30Z")).text
    assert "1 701 GPU-c1 needs a reset or drain row remapping pending" in after


@pytest.mark.parametrize("name", ["GPU-c1", "gpu-C1"])
async def test_a_gpu_is_shown_at_its_former_place(past_client: httpx.AsyncClient, visit: Any, name: str) -> None:
    before = (await visit(past_client, f"/gpus/{name}?at={BEFORE}")).text
    assert "Node n7 old" in before
    assert "There since 2025-11-24T16:01:00Z Until 2025-11-24T16:04:00Z" in before
    after = (await visit(past_client, f"/gpus/{name}?at=2025-11-24T16:05:00Z")).text
    assert "Node n10 prod-a" in after
    assert "Until still there" in after


async def test_a_serial_redirects_to_the_gpu_of_that_time(past_client: httpx.AsyncClient) -> None:
    answer = await past_client.get("/gpus/701", params={"at": BEFORE})
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/gpus/GPU-c1?at={BEFORE}")


async def test_a_chassis_has_the_gpus_that_were_in_it(past_client: httpx.AsyncClient, visit: Any) -> None:
    page = await visit(past_client, f"/chassis/C7?at={BEFORE}")
    assert "As of 2025-11-24T16:02:00Z" in page.text
    assert "2 GPUs on 1 node" in page.text
    assert "701 GPU-c1 module 1 n7 ( old ) NVIDIA H200 healthy 2025-11-24T16:01:00Z" in page.text
    assert f"/gpus/GPU-c1?at={AT}" in page.links


@pytest.mark.parametrize(
    "path", ["/", "/clusters/old", "/clusters/old/nodes/n7", "/gpus/GPU-c1", "/chassis/C7", "/search", "/search?q=70"]
)
async def test_navigation_and_search_keep_the_time(past_client: httpx.AsyncClient, visit: Any, path: str) -> None:
    page = await visit(past_client, f"{path}{'&' if '?' in path else '?'}at={BEFORE}")
    assert page.status == 200
    assert {f"/?at={AT}", f"/changes?until={AT}", "/gpus", "/nodes", "/health"} <= set(page.links)
    assert '<input type="hidden" name="at" value="2025-11-24T16:02:00Z">' in page.answer.text
    kinds = ("/clusters/", "/gpus/", "/chassis/")
    own = path if path.startswith(kinds) else None  # the way back to now
    assert [one for one in page.links if one.startswith(kinds) and "at=" not in one and one != own] == []


@pytest.mark.parametrize(
    ("path", "where", "gpus"),
    [
        ("/", "", 7),
        ("/clusters/old", "cluster=old&", 2),
        ("/clusters/old/nodes/n7", "cluster=old&node=n7&", 2),
        ("/gpus/GPU-c1", "uuid=GPU-c1&", 1),
        ("/chassis/C7", "chassis=C7&", 2),
    ],
)
async def test_a_page_of_the_past_links_to_its_data(
    past_client: httpx.AsyncClient, visit: Any, path: str, where: str, gpus: int
) -> None:
    page = await visit(past_client, f"{path}?at={BEFORE}")
    csv = f"/api/v1/gpus?{where}at={AT}&format=csv"
    assert {csv, *(f"/api/v1/{name}?at={AT}" for name in ("clusters", "nodes", "gpus"))} <= set(page.links)
    assert "page made at" in page.text
    assert "· as of" not in page.text
    rows = (await past_client.get(csv)).text.splitlines()
    assert len(rows) == 1 + gpus


async def test_a_page_of_the_past_says_that_it_counts_virtual_gpus(past_client: httpx.AsyncClient, visit: Any) -> None:
    page = await visit(past_client, f"/?at={BEFORE}")
    assert "This includes virtual GPUs, which the history does not distinguish." in page.text


@pytest.mark.parametrize(
    ("term", "target"), [("701", "/gpus/GPU-c1"), ("n10", "/clusters/prod-a/nodes/n10"), ("prod-a", "/clusters/prod-a")]
)
async def test_search_results_are_of_that_time(past_client: httpx.AsyncClient, term: str, target: str) -> None:
    answer = await past_client.get("/search", params={"q": term, "at": BEFORE})
    assert (answer.status_code, answer.headers["Location"]) == (303, f"{target}?at={AT_TEXT}")


async def test_results_link_to_that_time(past_client: httpx.AsyncClient, visit: Any) -> None:
    for term in ("GPU-c", "701,702"):
        page = await visit(past_client, f"/search?q={term}&at={BEFORE}")
        assert f"the links show the state at {AT_TEXT}" in page.text, term
        assert f"/gpus/GPU-c1?at={AT}" in page.links, term


@pytest.mark.parametrize("path", ["/gpus", "/nodes", "/clusters", "/models", "/problems", "/lookup", "/scan"])
async def test_a_current_page_is_not_presented_as_past(past_client: httpx.AsyncClient, path: str) -> None:
    answer = await past_client.get(path, params={"at": BEFORE})
    assert answer.status_code == 400
    assert answer.text.startswith("at: this page shows only the current state")


@pytest.mark.parametrize(
    ("path", "at", "status", "text"),
    [
        ("/", "2025-11-24T15:59:59Z", 404, "The history begins at 2025-11-24T16:00:00.000Z"),
        ("/", "2025-11-25", 400, "at: expected a time in the past"),
        ("/", "soon", 400, "at: expected a time such as"),
        ("/clusters/nope", BEFORE, 404, "No GPU was in a cluster named “nope”"),
        ("/clusters/old/nodes/nope", BEFORE, 404, "No GPU was on a node “nope”"),
        ("/chassis/nope", BEFORE, 404, "No GPU was recorded in a chassis “nope”"),
        ("/search", "soon", 400, "at: expected a time such as"),
        ("/gpus/GPU-nope", BEFORE, 404, "No GPU with the UUID “GPU-nope”"),
    ],
)
async def test_an_unknown_past_is_mentioned(
    past_client: httpx.AsyncClient, path: str, at: str, status: int, text: str
) -> None:
    answer = await past_client.get(path, params={"at": at})
    assert (answer.status_code, answer.text.count("\n")) == (status, 1)
    assert text in answer.text


async def test_an_error_about_the_past_links_to_now(past_client: httpx.AsyncClient, visit: Any) -> None:
    page = await visit(past_client, f"/clusters/nope?at={BEFORE}")
    assert page.status == 404
    assert {"/clusters/nope", "/"} <= set(page.links)
    assert "data-live" not in page.answer.text


async def test_without_a_time_the_present_is_shown(past_client: httpx.AsyncClient) -> None:
    answer = await past_client.get("/clusters/prod-a", params={"at": ""})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/clusters/prod-a")


async def test_without_a_store_there_is_no_past(site: Any, serving: Any) -> None:
    async with serving(site) as client:
        answer = await client.get("/", params={"at": BEFORE})
        assert (answer.status_code, answer.text) == (
            404,
            "This collector keeps no history: its configuration has no [store].\n",
        )
        assert "Look back" not in (await client.get("/", headers={"Accept": "text/html"})).text
