"""The lists of clusters, models, nodes and GPUs."""

import csv
import io
from typing import Any

import httpx
import pytest

from collector.health import Health
from collector.marks import Mark, MarkKind
from collector.model import Gpu, GpuRef

pytestmark = pytest.mark.anyio


@pytest.fixture
def mixed(site: Any) -> Any:
    """Two clusters with GPUs in every condition."""
    worn = Gpu(uuid="GPU-w", serial="W-1", model="NVIDIA H100", health=Health(row_remap_failure=True))
    site.read("prod-a", "n10", worn, Gpu(uuid="GPU-l", serial="L-1", model="NVIDIA A100"), capacity=4)
    site.read("prod-a", "n10", worn, capacity=4, lost=(GpuRef("GPU-l"),), time=1764000100.0)
    site.collector.marks.replace([Mark(uuid="GPU-a1", kind=MarkKind.WATCH, set_at=1.0, set_by="ann")])
    return site


def serials(links: list[str]) -> list[str]:
    return [link.removeprefix("/gpus/") for link in links if link.startswith("/gpus/")]


@pytest.mark.parametrize(
    ("query", "uuids"),
    [
        ("q=n10", ["GPU-l", "GPU-w"]),
        ("q=w-1", ["GPU-w"]),
        ("q=n10+w-1", ["GPU-w"]),
        ("state=lost", ["GPU-l"]),
        ("level=replace", ["GPU-w"]),
        ("model=NVIDIA+A100", ["GPU-l"]),
        ("mark=watch", ["GPU-a1"]),
        ("cluster=prod-b&sort=-serial", ["GPU-c2", "GPU-c1"]),
        ("driver_version=1.2", []),
        ("q=n10&page=7", ["GPU-l", "GPU-w"]),
    ],
)
async def test_gpus_are_filtered_and_their_csv_is_the_same(
    mixed: Any, serving: Any, visit: Any, query: str, uuids: list[str]
) -> None:
    async with serving(mixed) as client:
        page = await visit(client, f"/gpus?{query}")
        address = next(link for link in page.links if link.startswith("/api/v1/gpus?"))
        rows = list(csv.DictReader(io.StringIO((await client.get(address)).text)))
    if "cluster" not in query:
        assert sorted(serials(page.links)) == uuids
    assert [row["uuid"] for row in rows] == serials(page.links)
    assert page.status == 200


@pytest.mark.parametrize(
    ("query", "nodes"),
    [
        ("", ["n1", "n2", "n10", "n3"]),
        ("sort=-node", ["n10", "n3", "n2", "n1"]),
        ("show=degraded", ["n10"]),
        ("show=missing&cluster=prod-a", ["n1", "n2", "n10"]),
        ("model=NVIDIA+A100", ["n10"]),
        ("name=N1", ["n1", "n10"]),
    ],
)
async def test_nodes_are_filtered_and_their_csv_is_the_same(
    mixed: Any, serving: Any, visit: Any, query: str, nodes: list[str]
) -> None:
    async with serving(mixed) as client:
        page = await visit(client, f"/nodes?{query}")
        address = next(link for link in page.links if link.startswith("/api/v1/nodes?"))
        rows = list(csv.DictReader(io.StringIO((await client.get(address)).text)))
    shown = [link.rpartition("/")[2] for link in page.links if "/nodes/" in link]
    assert shown == nodes
    assert sorted(row["node"] for row in rows) == sorted(nodes)


async def test_lists_link_to_each_other(client: httpx.AsyncClient, visit: Any) -> None:
    assert {"/gpus", "/nodes"} <= set((await visit(client, "/")).links)
    clusters = await visit(client, "/clusters?sort=-gpus&name=prod")
    assert clusters.text.index("prod-a up") < clusters.text.index("prod-b unreachable")
    assert "/api/v1/clusters?q=prod&format=csv" in clusters.links
    models = await visit(client, "/models")
    assert "/gpus?cluster=prod-a&model=NVIDIA+H100" in models.links


@pytest.mark.parametrize("path", ["/gpus", "/nodes", "/clusters"])
async def test_an_empty_result_links_back_to_all(client: httpx.AsyncClient, visit: Any, path: str) -> None:
    page = await visit(client, f"{path}?{'q' if path == '/gpus' else 'name'}=nothing")
    assert "No matching" in page.text
    assert path in page.links


@pytest.mark.parametrize(
    "question", ["gpus?sort=size", "gpus?level=bad", "nodes?show=bad", "clusters?sort=x", "gpus?page=0"]
)
async def test_a_bad_query_is_refused(client: httpx.AsyncClient, question: str) -> None:
    answer = await client.get(f"/{question}")
    assert answer.status_code == 400
    assert "expected" in answer.text


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/clusters", "/clusters/prod-a", "/clusters/prod-a/nodes/n1", "/nodes", "/gpus", "/gpus/GPU-a1"),
        *("/models", "/problems", "/search", "/lookup", "/scan", "/chassis/none", "/health", "/changes"),
    ],
)
async def test_an_unknown_parameter_is_refused(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path, params={"bogus": "1"})
    assert (answer.status_code, answer.text.count("\n")) == (400, 1)
    assert answer.text.startswith('unknown parameter "bogus"; expected ')
