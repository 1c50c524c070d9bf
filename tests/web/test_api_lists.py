"""How lists are asked for: order, columns, CSV, what is gone, single things, and answers that are sent only once."""

import csv
import gzip
import io
from typing import Any

import httpx
import pytest

from collector.model import Gpu
from collector.store import Store
from tests.web.conftest import Site

pytestmark = pytest.mark.anyio


async def get(client: httpx.AsyncClient, path: str, **headers: str) -> Any:
    answer = await client.get(f"/api/v1/{path}", headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def uuids(client: httpx.AsyncClient, query: str) -> list[str]:
    found: list[str] = []
    path = f"gpus?limit=2&{query}"
    while True:
        page = await get(client, path)
        found += [gpu["uuid"] for gpu in page["gpus"]]
        if page["next"] is None:
            return found
        path = f"gpus?limit=2&{query}&after={page['next']}"


class TestOrder:
    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("sort=serial", ["a1", "a2", "a3", "b1", "b2"]),
            ("sort=-serial", ["b2", "b1", "a3", "a2", "a1"]),
            ("sort=chassis&node=n1&node=n3", ["b1", "b2", "a1"]),
            ("sort=-chassis&node=n1&node=n3", ["b2", "b1", "a1"]),
            ("q=H100", ["a1", "a2", "a3"]),
            ("q=prod-b+gb200", ["b1", "b2"]),
            ("q=N1+102", []),
            ("state=lost", []),
            ("state=found&cluster=prod-b", ["b1", "b2"]),
        ],
    )
    async def test_gpus_are_sorted(self, client: httpx.AsyncClient, query: str, expected: list[str]) -> None:
        assert await uuids(client, query) == [f"GPU-{one}" for one in expected]

    async def test_sorting_is_natural(self, site: Site, client: httpx.AsyncClient) -> None:
        for node in ("n10", "n9"):
            site.read("prod-a", node, Gpu(uuid=f"GPU-{node}", serial="5"))
        nodes = (await get(client, "nodes?cluster=prod-a"))["nodes"]
        assert [node["node"] for node in nodes] == ["n1", "n2", "n9", "n10"]

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("condition=missing", ["n1", "n2", "n3"]),
            ("condition=lost", []),
            ("condition=wrong&cluster=prod-a", ["n1", "n2"]),
            ("model=NVIDIA+GB200", ["n3"]),
            ("driver_version=570.148.08&limit=2", ["n1", "n2"]),
            ("driver_version=1", []),
        ],
    )
    async def test_nodes_are_sorted_by_problems_and_contents(
        self, client: httpx.AsyncClient, query: str, expected: list[str]
    ) -> None:
        assert [node["node"] for node in (await get(client, f"nodes?{query}"))["nodes"]] == expected

    async def test_clusters_are_sorted(self, client: httpx.AsyncClient) -> None:
        assert [one["cluster"] for one in (await get(client, "clusters?sort=gpus"))["clusters"]] == ["prod-b", "prod-a"]
        assert [one["cluster"] for one in (await get(client, "clusters?q=B"))["clusters"]] == ["prod-b"]

    async def test_a_list_is_stable_while_the_fleet_changes(self, site: Site, client: httpx.AsyncClient) -> None:
        page = await get(client, "gpus?limit=2")
        site.read("prod-a", "n1", time=1764000100.0)  # a GPU of the first page leaves
        site.read("prod-a", "n0", Gpu(uuid="GPU-new"))  # and one before it appears
        rest = await get(client, f"gpus?after={page['next']}")
        assert [gpu["uuid"] for gpu in rest["gpus"]] == ["GPU-a3", "GPU-b1", "GPU-b2"]

    @pytest.mark.parametrize(
        ("query", "detail", "parameter"),
        [
            ("sort=health", "sort: expected one of cluster, node,", "sort"),
            ("fields=uuid,colour", 'fields: unknown column "colour"; expected some of cluster, node,', "fields"),
            ("after=x", "after: expected the `next` value of the previous page", "after"),
            ("state=gone&sort=node", "sort: not allowed with state=gone", "sort"),
            ("state=gone&driver_version=1", "driver_version: not allowed with at, state=gone", "driver_version"),
            ("at=1h&driver_version=1", "driver_version: not allowed with at, state=gone", "driver_version"),
            ("format=xml", "format: expected one of json, csv", "format"),
            ("q=" + "x" * 301, "q: expected at most 300 characters", "q"),
        ],
    )
    async def test_mistakes_are_refused(
        self, client: httpx.AsyncClient, query: str, detail: str, parameter: str
    ) -> None:
        answer = await client.get(f"/api/v1/gpus?{query}")
        problem = answer.json()
        assert answer.headers["Content-Type"].startswith("application/problem+json")
        assert problem["detail"].startswith(detail)
        assert (problem["type"], problem["title"], problem["status"]) == ("about:blank", "Bad Request", 400)
        assert (problem["code"], problem["parameter"]) == ("invalid_parameter", parameter)

    async def test_600_serials_fit_into_an_address(self, client: httpx.AsyncClient) -> None:
        query = "&".join(f"serial=16529220012{number:02}" for number in range(600)) + "&serial=100"
        assert [gpu["uuid"] for gpu in (await get(client, f"gpus?{query}"))["gpus"]] == ["GPU-a1"]

    async def test_a_query_too_long_gets_a_remedy(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/api/v1/gpus?" + "&".join(["serial=1652922001234"] * 2000))
        assert (answer.status_code, "POST them to /api/v1/gpus/lookup" in answer.text) == (431, True)


class TestColumns:
    async def test_fields_select_columns(self, client: httpx.AsyncClient) -> None:
        page = await get(client, "gpus?serial=100&fields=uuid,mark.kind,node")
        assert page["gpus"] == [{"uuid": "GPU-a1", "mark": None, "node": "n1"}]
        assert await get(client, "clusters/prod-a?fields=gpus,up") == {"gpus": 3, "up": True}

    async def test_csv_without_a_limit_is_complete(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/api/v1/gpus?fields=uuid,mark&sort=-uuid", headers={"Accept": "text/csv"})
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert [row["uuid"] for row in rows] == ["GPU-b2", "GPU-b1", "GPU-a3", "GPU-a2", "GPU-a1"]
        assert list(rows[0])[:3] == ["uuid", "mark.kind", "mark.note"]

    async def test_csv_with_a_limit_is_a_page(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/api/v1/nodes?format=csv&limit=1&fields=node")
        assert answer.text == "node\nn1\n"
        assert "after=" in answer.links["next"]["url"]

    async def test_a_head_has_no_body(self, client: httpx.AsyncClient) -> None:
        for path in ("/api/v1/gpus", "/api/v1/gpus?format=csv", "/api/v1/openapi.json", "/health.csv"):
            answer = await client.head(path)
            assert (answer.status_code, answer.content) == (200, b"")


class TestOneAlone:
    @pytest.mark.parametrize("name", ["100", "GPU-a1", "gpu-A1"])
    async def test_a_gpu_is_returned(self, client: httpx.AsyncClient, name: str) -> None:
        gpu = await get(client, f"gpus/{name}")
        assert gpu == (await get(client, "gpus?uuid=GPU-a1"))["gpus"][0]

    async def test_a_gpu_is_found_as_printed_on_a_sticker(self, client: httpx.AsyncClient) -> None:
        for name in ("S%2FN%3A%20100", "100,", "%20100"):
            assert (await get(client, f"gpus/{name}"))["serial"] == "100"

    @pytest.mark.parametrize(
        ("accepted", "kind"),
        [
            ("text/csv", "text/csv"),
            ("TEXT/CSV, */*;q=0.1", "text/csv"),
            ("application/json, text/csv;q=0.1", "application/json"),
            ("text/csv;q=0, application/json", "application/json"),
            ("text/csv;q=x", "application/json"),
        ],
    )
    async def test_the_preferred_format_is_sent(self, client: httpx.AsyncClient, accepted: str, kind: str) -> None:
        for query in ("", "?limit=1"):
            answer = await client.get(f"/api/v1/gpus{query}", headers={"Accept": accepted})
            assert answer.headers["Content-Type"].startswith(kind)
            assert answer.headers["Cache-Control"] == "private, no-cache"

    async def test_an_unaccepted_encoding_is_not_used(self, client: httpx.AsyncClient) -> None:
        for query in ("openapi.json", "gpus?format=csv"):
            answer = await client.get(f"/api/v1/{query}", headers={"Accept-Encoding": "gzip;q=0"})
            assert "Content-Encoding" not in answer.headers

    async def test_lookups_use_post(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/api/v1/gpus/lookup")
        assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
        assert (answer.json()["code"], answer.json()["detail"][:13]) == ("method_not_allowed", "expected POST")

    async def test_a_serial_of_several_gpus_lists_them(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/api/v1/gpus/900")
        assert (answer.status_code, answer.json()["code"]) == (409, "ambiguous")
        assert answer.json()["detail"].endswith("use the UUID of one of them: GPU-b1, GPU-b2")

    async def test_a_node_and_a_cluster_are_returned(self, client: httpx.AsyncClient) -> None:
        assert (await get(client, "clusters/prod-a/nodes/n2"))["found"] == 2
        assert (await get(client, "clusters/prod-b"))["state"] == "unreachable"

    @pytest.mark.parametrize(
        ("path", "said"),
        [
            ("gpus/nothing", "5 GPUs on 3 nodes across 2 clusters"),
            ("clusters/prod-a/nodes/n3", "5 GPUs on 3 nodes across 2 clusters"),
            ("clusters/lab", "there are: prod-a, prod-b"),
        ],
    )
    async def test_a_missing_object_says_what_was_searched(
        self, client: httpx.AsyncClient, path: str, said: str
    ) -> None:
        answer = await client.get(f"/api/v1/{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert said in answer.json()["detail"]


class TestWhatIsGone:
    @pytest.fixture(autouse=True)
    async def gone(self, site: Site, perhaps_kept: bool) -> None:
        """Let a GPU leave, and another one with its whole node."""
        site.read("prod-a", "n2", Gpu(uuid="GPU-a2", serial="102", model="NVIDIA H100"), time=1764000100.0)
        site.remove("prod-a", "n1", 1764000200.0)
        if (store := site.collector.store) is not None:
            assert await store.history_writer.flushed(10)

    async def test_a_departed_gpu_is_found(self, client: httpx.AsyncClient) -> None:
        assert await uuids(client, "") == ["GPU-a2", "GPU-b1", "GPU-b2"]
        assert await uuids(client, "state=gone") == ["GPU-a1", "GPU-a3"]
        assert await uuids(client, "state=all") == ["GPU-a2", "GPU-b1", "GPU-b2", "GPU-a1", "GPU-a3"]
        assert await uuids(client, "state=gone&serial=103") == ["GPU-a3"]
        assert await uuids(client, "state=gone&q=h100+n1") == ["GPU-a1"]
        assert await uuids(client, "state=gone&uuid=gpu-A3&cluster=prod-a") == ["GPU-a3"]
        assert await uuids(client, "state=gone&cluster=prod-b") == []

    async def test_a_departed_gpu_is_returned_alone(self, client: httpx.AsyncClient) -> None:
        gpu = await get(client, "gpus/103")
        assert (gpu["state"], gpu["cluster"], gpu["node"], gpu["serial"]) == ("gone", "prod-a", "n2", "103")
        assert gpu["until"] == "2025-11-24T16:01:40.000Z"
        node = await get(client, "clusters/prod-a/nodes/n1")
        assert (node["state"], node["until"]) == ("gone", "2025-11-24T16:03:20.000Z")

    async def test_departed_nodes_are_found(self, client: httpx.AsyncClient) -> None:
        for state, expected in (("gone", ["n1"]), ("all", ["n2", "n3", "n1"]), ("present", ["n2", "n3"])):
            page = await get(client, f"nodes?state={state}")
            assert [node["node"] for node in page["nodes"]] == expected

    async def test_departed_gpus_are_in_a_file(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/api/v1/gpus?state=all&format=csv&fields=uuid,state")
        assert answer.text.splitlines()[1:] == [
            *(f"GPU-{one},found" for one in ("a2", "b1", "b2")),
            *(f"GPU-{one},gone" for one in ("a1", "a3")),
        ]


class TestChanges:
    async def test_the_newest_changes_come_first(self, site: Site, kept: Store, client: httpx.AsyncClient) -> None:
        site.read("prod-a", "n1", time=1764000100.0)
        assert await kept.history_writer.flushed(10)
        oldest: list[int] = [row["id"] for row in (await get(client, "changes?since=2025-11-01"))["changes"]]
        found: list[int] = []
        path = "changes?order=desc&limit=2"
        while True:
            page = await get(client, path)
            found += [row["id"] for row in page["changes"]]
            if page["next"] is None:
                break
            path = f"changes?order=desc&limit=2&after={page['next']}"
        assert found == oldest[::-1]
        assert [row["event"] for row in (await get(client, "changes?q=n1&order=desc"))["changes"]] == [
            "vanished",
            "appeared",
        ]
        assert (await get(client, f"changes?after={oldest[-2]}"))["changes"][0]["id"] == oldest[-1]


class TestSentOnce:
    async def test_an_unchanged_answer_is_not_sent_again(self, site: Site, client: httpx.AsyncClient) -> None:
        first = await client.get("/api/v1/gpus")
        tag = first.headers["ETag"]
        again = await client.get("/api/v1/gpus", headers={"If-None-Match": f'"other", {tag}'})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
        assert first.headers["Cache-Control"] == "private, no-cache"
        site.read("prod-a", "n9", Gpu(uuid="GPU-new"))
        changed = await client.get("/api/v1/gpus", headers={"If-None-Match": tag})
        assert changed.status_code == 200
        assert changed.headers["ETag"] != tag

    async def test_a_large_answer_is_compressed(self, client: httpx.AsyncClient) -> None:
        async with client.stream("GET", "/api/v1/gpus", headers={"Accept-Encoding": "gzip"}) as answer:
            raw = b"".join([part async for part in answer.aiter_raw()])
        plain = await client.get("/api/v1/gpus", headers={"Accept-Encoding": "identity"})
        assert answer.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(raw) == plain.content
        assert answer.headers["ETag"] == plain.headers["ETag"]
        assert answer.headers["Vary"] == "Accept, Accept-Encoding"
        assert "Content-Encoding" not in plain.headers
