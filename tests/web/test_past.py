"""The API of another time than now."""

from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from collector.store import Store, StoreSettings
from tests.web.conftest import READ_AT, past_gpu

pytestmark = pytest.mark.anyio

BEFORE = {"at": "2025-11-24T16:02:00Z"}


async def test_the_clusters_of_a_time_have_their_counts(past_client: httpx.AsyncClient) -> None:
    answer = (await past_client.get("/api/v1/clusters", params=BEFORE)).json()
    assert (answer["total"], answer["next"]) == (3, None)
    rows = [(row["cluster"], row["nodes"], row["gpus"], row["state"]) for row in answer["clusters"]]
    assert rows == [("old", 1, 2, None), ("prod-a", 2, 3, None), ("prod-b", 1, 2, None)]
    one = (await past_client.get("/api/v1/clusters/old", params=BEFORE)).json()
    assert (one["cluster"], one["gpus"]) == ("old", 2)


async def test_a_gpu_is_described_as_it_was(past_client: httpx.AsyncClient) -> None:
    for name in ("GPU-C1", "701"):
        row = (await past_client.get(f"/api/v1/gpus/{name}", params=BEFORE)).json()
        assert (row["cluster"], row["node"], row["serial"], row["module"]) == ("old", "n7", "701", 1)
        assert (row["state"], row["degraded"], row["level"]) == ("found", [], None)
        assert (row["since"], row["until"]) == ("2025-11-24T16:01:00.000Z", None)  # that it left later is not the past
        assert (row["vbios"], row["claim"], row["health"]) == (None, None, {"row_remap_pending": False})
    row = (await past_client.get("/api/v1/gpus/701", params={"at": "2025-11-24T16:03:30Z"})).json()
    assert (row["degraded"], row["level"]) == (["row_remap_pending"], "reset")
    row = (await past_client.get("/api/v1/gpus/701", params={"at": "6m"})).json()
    assert (row["cluster"], row["until"]) == ("prod-a", None)


async def test_lists_come_in_pages_of_one_time(past_client: httpx.AsyncClient) -> None:
    found: list[str] = []
    params: dict[str, Any] = {"at": "8m", "limit": 2, "fields": "uuid"}
    while True:
        answer = (await past_client.get("/api/v1/gpus", params=params)).json()
        assert answer["total"] == 7
        found += [row["uuid"] for row in answer["gpus"]]
        if answer["next"] is None:
            break
        params["after"] = answer["next"]
    assert found == ["GPU-c1", "GPU-c2", "GPU-a1", "GPU-a2", "GPU-a3", "GPU-b1", "GPU-b2"]


@pytest.mark.parametrize(
    ("path", "params", "expected"),
    [
        ("gpus", {"cluster": "old", "at": "2025-11-24T16:03:30Z", "degraded": "true"}, ["GPU-c1"]),
        ("gpus", {"cluster": ["old", "prod-b"], "degraded": "false", **BEFORE}, ["GPU-c1", "GPU-b1", "GPU-b2"]),
        ("gpus", {"q": "h200 n7", **BEFORE}, ["GPU-c1", "GPU-c2"]),
        ("gpus", {"serial": ["100", "702"], **BEFORE}, ["GPU-c2", "GPU-a1"]),
        ("gpus", {"state": "lost", **BEFORE}, []),
        ("nodes", {"q": "n", "cluster": "prod-a", **BEFORE}, ["n1", "n2"]),
        ("nodes", {"machine": "i-n7", **BEFORE}, ["n7"]),
    ],
)
async def test_lists_are_filtered(past_client: httpx.AsyncClient, path: str, params: Any, expected: Any) -> None:
    answer = (await past_client.get(f"/api/v1/{path}", params=params)).json()
    assert [row["uuid" if path == "gpus" else "node"] for row in answer[path]] == expected


async def test_the_past_state_of_a_node_is_not_included(past_client: httpx.AsyncClient) -> None:
    answer = (await past_client.get("/api/v1/nodes", params={"state": "present", **BEFORE})).json()
    assert {row["state"] for row in answer["nodes"]} == {None}


async def test_a_list_can_be_csv(past_client: httpx.AsyncClient) -> None:
    params = {**BEFORE, "format": "csv", "fields": "cluster,node,found"}
    text = (await past_client.get("/api/v1/nodes", params=params)).text
    assert text.splitlines() == ["cluster,node,found", "old,n7,2", "prod-a,n1,1", "prod-a,n2,2", "prod-b,n3,2"]


@pytest.mark.parametrize(
    ("path", "params", "status", "code", "detail"),
    [
        ("gpus", {"at": "2024-01-01"}, 404, "not_recorded", "the history begins at 2025-11-24T16:00:00.000Z"),
        ("gpus", {"at": "2099-01-01"}, 400, "invalid_parameter", "at: expected a time in the past"),
        ("gpus", {"at": "x" * 1000}, 400, "invalid_parameter", "at: expected a time such as"),
        ("gpus", {"sort": "node", **BEFORE}, 400, "invalid_parameter", "sort: not allowed with `at`"),
        ("gpus", {"state": "gone", **BEFORE}, 400, "invalid_parameter", "state: expected present, found or lost"),
        ("nodes", {"state": "found", **BEFORE}, 400, "invalid_parameter", "state: expected present with `at`"),
        ("gpus", {"gpu_part_number": "9", **BEFORE}, 400, "invalid_parameter", "gpu_part_number: not allowed"),
        ("gpus", {"after": "x", **BEFORE}, 400, "invalid_parameter", "after: expected the `next` value"),
        ("gpus/GPU-none", BEFORE, 404, "not_found", 'no GPU with the UUID or serial "GPU-none" was on a node at'),
        ("gpus/900", BEFORE, 409, "ambiguous", "2 GPUs had this serial"),
        ("clusters/none", BEFORE, 404, "not_found", 'no GPU was in a cluster "none" at'),
        ("clusters/old/nodes/none", BEFORE, 404, "not_found", 'no GPU was on a node "none" in the cluster "old" at'),
    ],
)
async def test_an_unanswerable_request_is_a_problem_document(
    past_client: httpx.AsyncClient, path: str, params: Any, status: int, code: str, detail: str
) -> None:
    answer = await past_client.get(f"/api/v1/{path}", params=params)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code)
    assert problem["detail"].startswith(detail)
    assert len(problem["detail"]) < 300


async def test_without_a_store_there_is_no_past(site: Any, serving: Any) -> None:
    async with serving(site) as client:
        problem = (await client.get("/api/v1/gpus", params=BEFORE)).json()
    assert problem["code"] == "no_store"


@pytest.mark.parametrize("fraction", [0.0, 0.4905, 0.9999])
async def test_a_printed_start_time_can_be_queried(site: Any, serving: Any, tmp_path: Path, fraction: float) -> None:
    time = READ_AT + fraction  # of which an answer has the milliseconds, and a page the seconds
    settings = StoreSettings(url=f"sqlite://{tmp_path}/gpuid.db")
    async with Store.open(settings, clock=lambda: time) as store, anyio.create_task_group() as run:
        run.start_soon(store.run)
        site.keep(store)
        site.read("prod-a", "n7", past_gpu(1), time=time)
        site.read("prod-a", "n8", past_gpu(2), time=time + 60)
        async with serving(site) as client:
            for uuid in ("GPU-c1", "GPU-c2"):
                since = (await client.get(f"/api/v1/gpus/{uuid}")).json()["since"]
                for at in (since, f"{since[:19]}Z"):
                    row = (await client.get(f"/api/v1/gpus/{uuid}", params={"at": at})).json()
                    assert (row["uuid"], row["since"]) == (uuid, since)
                    page = await client.get(f"/gpus/{uuid}", params={"at": at}, headers={"Accept": "text/html"})
                    assert page.status_code == 200
                    assert at[:19] in page.text.partition("As of")[2][:200]
            for change in (await client.get("/api/v1/changes")).json()["changes"]:
                there = await client.get(f"/api/v1/gpus/{change['uuid']}", params={"at": change["time"]})
                assert there.status_code == 200
        run.cancel_scope.cancel()
