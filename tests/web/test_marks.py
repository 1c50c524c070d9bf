"""Marks over HTTP: who may set them, what is refused, and what everybody sees of them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest

from collector.model import Gpu
from collector.store import Store

pytestmark = pytest.mark.anyio

HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
PATH = "/api/v1/gpus/100/mark"
RMA = {"kind": "rma", "note": "row remap failure", "ticket": "https://tickets/1", "until": "2126-01-01T00:00:00Z"}


@pytest.fixture
async def client(site: Any, serving: Any, kept: Store) -> AsyncIterator[httpx.AsyncClient]:
    """An authenticated client of a site with a store."""
    assert await kept.history_writer.flushed(10)
    async with serving(site, basic_auth={"sre": HASH}) as client:
        client.auth = httpx.BasicAuth("sre", "secret")
        yield client


class TestSetting:
    async def test_a_mark_has_its_author_and_applies_immediately(self, site: Any, client: httpx.AsyncClient) -> None:
        answer = await client.put(PATH, json=RMA)
        assert answer.status_code == 200
        body = answer.json()
        assert (body["seen"], body["warning"], body["former"]) == (True, None, None)
        mark = body["mark"]
        assert (mark["uuid"], mark["serial"], mark["kind"], mark["set_by"]) == ("GPU-a1", "100", "rma", "sre")
        assert (mark["note"], mark["until"]) == ("row remap failure", "2126-01-01T00:00:00.000Z")
        assert site.collector.marks.of("GPU-a1", "100", site.collector.now()).ticket == "https://tickets/1"
        (gpu,) = (await client.get("/api/v1/gpus?mark=rma")).json()["gpus"]
        assert (gpu["uuid"], gpu["mark"]["set_by"]) == ("GPU-a1", "sre")

    async def test_another_mark_ends_it(self, client: httpx.AsyncClient) -> None:
        await client.put(PATH, json=RMA)
        body = (await client.put("/api/v1/gpus/gpu-a1/mark", json={"kind": "watch"})).json()
        assert body["former"]["kind"] == "rma"
        marks = (await client.get("/api/v1/marks")).json()
        assert [mark["kind"] for mark in marks["marks"]] == ["watch"]
        both = (await client.get("/api/v1/marks?all=true&gpu=100")).json()["marks"]
        assert [(mark["kind"], mark["removed_by"]) for mark in both] == [("watch", None), ("rma", "sre")]

    async def test_a_gpu_never_seen_is_marked_with_a_warning(self, client: httpx.AsyncClient) -> None:
        body = (await client.put("/api/v1/gpus/S9/mark", json={"kind": "rma"})).json()
        assert (body["seen"], body["mark"]["serial"], body["mark"]["uuid"]) == (False, "S9", None)
        assert body["warning"].startswith("no GPU with this serial or UUID was ever seen")

    async def test_a_gpu_known_only_to_the_inventory_is_known(
        self, site: Any, client: httpx.AsyncClient, kept: Store
    ) -> None:
        site.collector.store = None  # nothing is recorded from now on
        site.read("prod-a", "n9", Gpu(uuid="GPU-a9", serial="109"))
        site.collector.store = kept
        assert (await client.put("/api/v1/gpus/109/mark", json={"kind": "rma"})).json()["mark"]["uuid"] == "GPU-a9"

    async def test_a_bearer_token_is_accepted(self, site: Any, serving: Any, kept: Store, tmp_path: Path) -> None:
        token = tmp_path / "token"
        token.write_text("t0ken")
        async with serving(site, bearer_token_file=token) as client:
            answer = await client.put(PATH, json=RMA, headers={"Authorization": "Bearer t0ken"})
        assert (answer.status_code, answer.json()["mark"]["set_by"]) == (200, "bearer token")


class TestRemoving:
    async def test_a_mark_ends(self, site: Any, client: httpx.AsyncClient) -> None:
        await client.put(PATH, json=RMA)
        answer = await client.delete("/api/v1/gpus/GPU-a1/mark")
        assert (answer.status_code, answer.json()["mark"]["kind"]) == (200, "rma")
        assert list(site.collector.marks) == []

    async def test_an_unmarked_gpu_is_not_found(self, client: httpx.AsyncClient) -> None:
        answer = await client.delete(PATH)
        assert (answer.status_code, answer.json()["detail"]) == (404, "100 is not marked")


class TestWhoMay:
    @pytest.mark.parametrize("method", ["PUT", "DELETE"])
    async def test_without_authentication_nobody_may_mark(
        self, site: Any, serving: Any, kept: Store, method: str
    ) -> None:
        async with serving(site) as client:
            answer = await client.request(method, PATH, json=RMA)
            assert answer.status_code == 403
            assert "configure server.basic_auth or server.bearer_token_file" in answer.json()["detail"]
            assert (await client.get("/api/v1/marks")).json() == {"marks": [], "next": None}

    @pytest.mark.parametrize("method", ["PUT", "DELETE"])
    async def test_without_the_password_nobody_may_mark(self, client: httpx.AsyncClient, method: str) -> None:
        answer = await client.request(method, PATH, json=RMA, auth=("sre", "wrong"))
        assert answer.status_code == 401

    @pytest.mark.parametrize("method", ["PUT", "DELETE"])
    @pytest.mark.parametrize(
        "headers",
        [
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": "https://["},
        ],
    )
    async def test_pages_of_another_site_may_not_mark(
        self, client: httpx.AsyncClient, method: str, headers: dict[str, str]
    ) -> None:
        await client.put(PATH, json={"kind": "watch"})
        answer = await client.request(method, PATH, json=RMA, headers=headers)
        assert (answer.status_code, answer.json()["detail"]) == (403, "cross-site requests are not allowed")
        assert [mark["kind"] for mark in (await client.get("/api/v1/marks")).json()["marks"]] == ["watch"]

    async def test_pages_of_this_site_may_mark(self, client: httpx.AsyncClient) -> None:
        host = client.base_url.netloc.decode()
        for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": f"http://{host}"}):
            assert (await client.put(PATH, json=RMA, headers=headers)).status_code == 200

    @pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
    async def test_forms_may_not_mark(self, client: httpx.AsyncClient, kind: str) -> None:
        answer = await client.put(PATH, content=b'{"kind": "rma"}', headers={"Content-Type": kind})
        assert (answer.status_code, answer.json()["detail"]) == (415, "expected Content-Type: application/json")

    async def test_other_methods_are_refused(self, client: httpx.AsyncClient) -> None:
        for method in ("GET", "POST", "PATCH", "OPTIONS"):
            answer = await client.request(method, PATH)
            assert (answer.status_code, answer.headers["Allow"]) == (405, "DELETE,PUT")


class TestBadInput:
    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            ({}, "missing required field `kind`"),
            ({"kind": "scrap"}, "Invalid enum value 'scrap'"),
            ({"kind": "rma", "by": "me"}, "unknown field `by`"),
            ({"kind": "rma", "note": "x" * 501}, "note: expected at most 500 characters"),
            ({"kind": "rma", "note": "a\nb"}, "note: expected one line without control characters"),
            ({"kind": "rma", "ticket": "javascript:alert(1)"}, "ticket: expected an http or https URL"),
            ({"kind": "rma", "ticket": "https://me:pw@tickets/1"}, "ticket: expected an http or https URL"),
            ({"kind": "rma", "until": "soon"}, "until: expected a duration such as"),
            ({"kind": "rma", "until": "2001-01-01"}, "until: expected a time in the future"),
            ([], "Expected `object`"),
        ],
    )
    async def test_a_bad_body_is_one_line(self, client: httpx.AsyncClient, body: Any, reason: str) -> None:
        answer = await client.put(PATH, json=body)
        assert answer.status_code == 400
        assert reason in answer.json()["detail"]
        assert "\n" not in answer.json()["detail"]

    @pytest.mark.parametrize("body", [b"", b"\xff", b"{", b"[" * 5000])
    async def test_a_body_that_is_not_json_is_refused(self, client: httpx.AsyncClient, body: bytes) -> None:
        answer = await client.put(PATH, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400

    async def test_a_large_body_is_refused(self, client: httpx.AsyncClient) -> None:
        answer = await client.put(PATH, json={"kind": "rma", "note": "x" * 10_000})
        assert (answer.status_code, answer.json()["detail"]) == (413, "expected a body of at most 8192 bytes")

    async def test_a_compressed_body_is_refused(self, client: httpx.AsyncClient) -> None:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        assert (await client.put(PATH, content=b"{}", headers=headers)).status_code in (400, 415)

    @pytest.mark.parametrize("name", ["%20", "a%20b", "a%0Ab", "a,b"])
    async def test_a_bad_name_is_refused(self, client: httpx.AsyncClient, name: str) -> None:
        answer = await client.put(f"/api/v1/gpus/{name}/mark", json=RMA)
        assert answer.status_code == 400
        assert "serial or UUID" in answer.json()["detail"]

    async def test_a_name_that_is_too_long_is_refused(self, client: httpx.AsyncClient) -> None:
        answer = await client.put(f"/api/v1/gpus/{'x' * 200}/mark", json=RMA)
        assert (answer.status_code, answer.json()["detail"]) == (400, "id: expected at most 128 characters")

    async def test_a_serial_of_two_gpus_asks_for_the_uuid(self, client: httpx.AsyncClient) -> None:
        answer = await client.put("/api/v1/gpus/900/mark", json=RMA)
        assert answer.status_code == 409
        assert answer.json()["detail"] == "900: 2 GPUs have this serial (GPU-b1, GPU-b2); use the UUID"


class TestTheStore:
    async def test_without_a_store_there_are_no_marks(self, site: Any, serving: Any) -> None:
        async with serving(site, basic_auth={"sre": HASH}) as client:
            client.auth = httpx.BasicAuth("sre", "secret")
            for answer in (
                await client.put(PATH, json=RMA),
                await client.delete(PATH),
                await client.get("/api/v1/marks"),
            ):
                assert answer.status_code == 404
                assert answer.json()["detail"] == "this collector keeps no marks: its configuration has no [store]"

    async def test_a_failing_store_is_unavailable(self, site: Any, client: httpx.AsyncClient) -> None:
        site.break_store()
        for answer in (await client.put(PATH, json=RMA), await client.delete(PATH), await client.get("/api/v1/marks")):
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")

    async def test_a_busy_store_does_not_block_requests(
        self, site: Any, kept: Store, client: httpx.AsyncClient
    ) -> None:
        site.collector.history_seconds = 0.05
        async with kept.database.write():
            answer = await client.put(PATH, json=RMA)
        assert answer.status_code == 503

    async def test_pages_continue_where_the_last_ended(self, client: httpx.AsyncClient) -> None:
        for name in ("S1", "S2", "S3"):
            await client.put(f"/api/v1/gpus/{name}/mark", json=RMA)
        first = (await client.get("/api/v1/marks?limit=2")).json()
        rest = (await client.get(f"/api/v1/marks?limit=2&after={first['next']}")).json()
        assert [mark["serial"] for mark in (*first["marks"], *rest["marks"])] == ["S3", "S2", "S1"]
        assert rest["next"] is None
