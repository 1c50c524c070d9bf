"""The look-up over HTTP: the API, the page, and suggestions."""

import csv
import io
from typing import Any

import httpx
import pytest

from collector.model import Gpu
from collector.store import Store

pytestmark = pytest.mark.anyio

TEXT = {"Content-Type": "text/plain"}


async def test_json_ids_each_have_a_result_in_order(client: httpx.AsyncClient) -> None:
    ids = ["S/N: 100", "none, such", "900", "100"]
    answer = (await client.post("/api/v1/gpus/lookup", json={"ids": ids})).json()
    assert [one["id"] for one in answer["results"]] == ids
    assert [(one["found"], one["kind"], one["total"]) for one in answer["results"]] == [
        (True, "serial", 1),
        (False, None, 0),
        (True, "serial", 2),
        (True, "serial", 1),
    ]
    assert (answer["found"], answer["not_found"]) == (3, 1)
    assert answer["results"][0]["matches"][0] | {"since": "", "confirmed_at": ""} == {
        **dict.fromkeys(("chassis", "tray", "slot", "module", "pci_bus_id", "until", "mark", "ticket", "last_known")),
        "id": "S/N: 100",
        "kind": "serial",
        "state": "found",
        "cluster": "prod-a",
        "node": "n1",
        "machine": "i-n1",
        "serial": "100",
        "uuid": "GPU-a1",
        "model": "NVIDIA H100",
        "claim": False,
        "note": "",
        "since": "",
        "confirmed_at": "",
    }
    assert answer["results"][1]["note"].startswith(answer["searched"]["text"])
    assert (answer["searched"]["gpus"], answer["searched"]["history"]) == (5, False)
    assert answer["searched"]["clusters_down"] == ["prod-b"]


async def test_text_is_answered_as_csv(client: httpx.AsyncClient, site: Any) -> None:
    site.read("prod-a", "n9", Gpu(uuid="GPU-f", serial="=1+1", chassis="C9"))
    body = "Serial\n100\nnone\nC9\n"
    wanted = {**TEXT, "Accept": "text/csv"}
    answers = [
        await client.post("/api/v1/gpus/lookup", content=body, headers=wanted),
        await client.post("/api/v1/gpus/lookup?format=csv", content=body, headers=TEXT),
        await client.post("/lookup", data={"ids": body, "format": "csv"}),
    ]
    assert {answer.headers["Content-Type"] for answer in answers} == {"text/csv; charset=utf-8"}
    assert {answer.headers["Content-Disposition"] for answer in answers} == {'attachment; filename="gpuid-lookup.csv"'}
    first, *others = [list(csv.DictReader(io.StringIO(answer.text))) for answer in answers]
    assert others == [first, first]
    assert [(row["id"], row["state"], row["node"], row["serial"]) for row in first] == [
        ("100", "found", "n1", "100"),
        ("none", "not_found", "", ""),
        ("C9", "found", "n9", "'=1+1"),
    ]


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        ({"json": {"ids": [str(number) for number in range(10_001)]}}, 400, "at most 10,000 ids at once, got 10,001"),
        ({"content": "1\n" * 10_001, "headers": TEXT}, 400, "at most 10,000 ids at once, got more"),
        ({"content": " ,\n", "headers": TEXT}, 400, "expected at least one id"),
        ({"json": {"ids": []}}, 400, "expected at least one id"),
        ({"json": {"ids": ["1", "2" * 501]}}, 400, 'id 2 ("2222222222222222222…"): expected at most 500 characters'),
        ({"json": {"ids": ["1"], "more": 1}}, 400, "unknown field `more`"),
        ({"json": {"ids": [1]}}, 400, "Expected `str`, got `int`"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "body: "),
        ({"content": b"\xff", "headers": TEXT}, 400, "expected UTF-8 text"),
        ({"content": b"x" * (4 << 20) + b"xx", "headers": TEXT}, 413, "expected a body of at most 4194304 bytes"),
        ({"content": b"1", "headers": {"Content-Type": "image/png"}}, 415, "expected Content-Type"),
        ({"content": b"1", "headers": {**TEXT, "Content-Encoding": "gzip"}}, 415, "without Content-Encoding"),
        ({"content": b"1", "headers": TEXT, "params": {"no": "1"}}, 400, "unknown parameter"),
        ({"content": b"1", "headers": TEXT, "params": {"format": "xml"}}, 400, "format: expected one of json, csv"),
    ],
)
async def test_an_invalid_request_is_one_clear_problem(
    client: httpx.AsyncClient, request_: dict[str, Any], status: int, text: str
) -> None:
    answer = await client.post("/api/v1/gpus/lookup", **request_)
    assert answer.status_code == status
    assert text in (answer.json() if status == 400 else {"detail": answer.text})["detail"]


async def test_ten_thousand_ids_are_answered(client: httpx.AsyncClient, site: Any, kept: Store) -> None:
    serials = [str(1652923000000 + number) for number in range(10_000)]
    for start in range(0, 4000, 8):
        gpus = [Gpu(uuid=f"GPU-{serial}", serial=serial) for serial in serials[start : start + 8]]
        site.read("prod-a", f"big-{start}", *gpus)
    answer = (await client.post("/api/v1/gpus/lookup", json={"ids": serials}, timeout=60)).json()
    assert [one["id"] for one in answer["results"]] == serials
    assert (answer["found"], answer["not_found"]) == (4000, 6000)


async def test_the_lookup_requires_credentials(site: Any, serving: Any, tmp_path: Any) -> None:
    (tmp_path / "token").write_text("t")
    async with serving(site, bearer_token_file=tmp_path / "token") as client:
        for path in ("/api/v1/gpus/lookup", "/lookup"):
            assert (await client.post(path, json={"ids": ["100"]})).status_code == 401
        assert (await client.get("/api/v1/suggest?q=100")).status_code == 401


async def test_the_page_takes_many_ids_without_a_script(client: httpx.AsyncClient, visit: Any) -> None:
    empty = await visit(client, "/lookup")
    assert '<form class="lookup" method="post" action="/lookup">' in empty.answer.text
    answer = await client.post("/lookup", data={"ids": "100\nno-<such>\nC1"}, headers={"Accept": "text/html"})
    assert answer.status_code == 200
    assert "2 ids found, 1 not found" in answer.text
    assert answer.text.count("no-&lt;such&gt;") == 2, "in the box, and as a row"
    assert 'href="/gpus/GPU-a1"' in answer.text
    assert "\n100\nno-&lt;such&gt;\nC1\n".lstrip("\n") in answer.text, "each id keeps its line"
    nothing = await client.post("/lookup", data={"ids": " ,"}, headers={"Accept": "text/html"})
    assert "No ids found in this text" in nothing.text
    refused = await client.post("/lookup", data={"ids": "1\n" * 10_001})
    assert (refused.status_code, refused.text) == (
        400,
        "expected at most 10,000 ids at once, got more; split them into several requests\n",
    )


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("10", {"text": "NVIDIA H100", "kind": "model", "detail": "model", "url": "/gpus?model=NVIDIA+H100"}),
        ("100", {"text": "100", "kind": "serial", "detail": "NVIDIA H100 on n1 (prod-a)", "url": "/gpus/GPU-a1"}),
        ("prod", {"text": "prod-a", "kind": "cluster", "detail": "cluster", "url": "/clusters/prod-a"}),
        ("N1", {"text": "prod-a/n1", "kind": "node", "url": "/clusters/prod-a/nodes/n1"}),
        ("prod-a/n", {"text": "prod-a/n1", "kind": "node", "url": "/clusters/prod-a/nodes/n1"}),
        ("i-n3", {"text": "prod-b/n3", "kind": "node", "detail": "node in prod-b, machine i-n3"}),
        ("gb20", {"text": "NVIDIA GB200", "kind": "model", "url": "/gpus?model=NVIDIA+GB200"}),
        ("gpu-a2", {"text": "GPU-a2", "kind": "uuid", "url": "/gpus/GPU-a2"}),
        ("x", None),
        ("", None),
    ],
)
async def test_suggestions_are_given(client: httpx.AsyncClient, text: str, first: dict[str, str] | None) -> None:
    found = (await client.get("/api/v1/suggest", params={"q": text})).json()["suggestions"]
    assert (found[0] if found else None) == (None if first is None else found[0] | first)
    assert len(found) <= 10


async def test_suggestions_are_limited_and_under_the_prefix(site: Any, serving: Any) -> None:
    site.read("prod-a", "big", *(Gpu(uuid=f"GPU-{number:03d}", serial=f"77700{number:03d}") for number in range(150)))
    async with serving(site, external_url="https://gpu.example.com/p") as client:
        found = (await client.get("/p/api/v1/suggest?q=777")).json()["suggestions"]
        long = await client.get("/api/v1/suggest", params={"q": "1" * 501})
    assert len(found) == 10
    assert all(one["url"].startswith("/p/gpus/GPU-") for one in found)
    assert long.status_code == 400


async def test_only_the_scanner_may_use_the_camera(site: Any, serving: Any) -> None:
    async with serving(site, external_url="https://gpu.example.com/p") as client:
        policies = {
            path: (await client.get(path)).headers["Permissions-Policy"].split(",")[0]
            for path in ("/scan", "/p/scan", "/", "/lookup", "/gpus/GPU-a1", "/scan/", "/no")
        }
    assert policies == {
        "/scan": "camera=(self)",
        "/p/scan": "camera=(self)",
        **dict.fromkeys(("/", "/lookup", "/gpus/GPU-a1", "/scan/", "/no"), "camera=()"),
    }


async def test_a_refused_text_stays_in_the_form(client: httpx.AsyncClient) -> None:
    page = {"Accept": "text/html"}
    for text, why in (("1\n" * 10_001, "at most 10,000 ids at once, got more"), ("2" * 501, "at most 500 characters")):
        refused = await client.post("/lookup", data={"ids": text}, headers=page)
        assert refused.status_code == 400
        assert why in refused.text
        assert text.splitlines()[0] in refused.text, "what was pasted can be corrected"
        assert refused.text.count("data-live") == 0, "a renewal would show an empty form in place of the error"
    empty = await client.post("/lookup", data={"ids": " ,"}, headers=page)
    assert (empty.status_code, empty.text.count("data-live")) == (200, 0)


async def test_error_pages_are_not_refreshed(client: httpx.AsyncClient) -> None:
    page = {"Accept": "text/html"}
    wrong_type = await client.post("/lookup", json={}, headers=page)
    absent = await client.get("/nowhere", headers=page)
    assert [(one.status_code, one.text.count("data-live")) for one in (wrong_type, absent)] == [(415, 0), (404, 0)]
    assert (await client.get("/", headers=page)).text.count("data-live") == 1


async def test_a_last_known_serial_is_marked(client: httpx.AsyncClient, site: Any) -> None:
    site.read("prod-a", "n1", Gpu(uuid="GPU-a1", model="NVIDIA H100", module="1"))
    answer = (await client.post("/api/v1/gpus/lookup", json={"ids": ["100", "102"]})).json()
    (hidden,), (reported,) = (one["matches"] for one in answer["results"])
    assert set(hidden["last_known"]) == {"serial"}
    assert reported["last_known"] is None
    page = await client.post("/lookup", data={"ids": "100\n102"}, headers={"Accept": "text/html"})
    node = await client.get("/clusters/prod-a/nodes/n1", headers={"Accept": "text/html"})
    assert page.text.count("(last known)") == 1
    assert node.text.count("(last known)") == 2, "in its tile and in the table"
