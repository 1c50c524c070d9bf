"""What is seen of the server through a proxy: `/sd` and the page's links."""

import re
from typing import Any

import httpx
import pytest

from tests.web.pages.conftest import BROWSER

pytestmark = pytest.mark.anyio


async def target(client: httpx.AsyncClient, path: str = "/sd", **headers: str) -> tuple[str | None, str, str]:
    """Scheme, address and path of the first target."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await client.get(path, headers={"Host": "gpuid:8080", **given})
    assert answer.headers["Cache-Control"] == "no-store"
    group = answer.json()[0]
    return group["labels"].get("__scheme__"), group["targets"][0], group["labels"]["__metrics_path__"]


async def test_without_proxy_headers_the_scheme_is_the_connections(client: httpx.AsyncClient) -> None:
    assert await target(client) == (None, "gpuid:8080", "/metrics")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X_Forwarded_Proto": "https"}, ("https", "gpuid:8080", "/metrics")),
        ({"X_Forwarded_Proto": "HTTPS, http"}, ("https", "gpuid:8080", "/metrics")),
        ({"X_Forwarded_Proto": "http"}, ("http", "gpuid:8080", "/metrics")),
        ({"X_Forwarded_Host": "gpu.example.com, inner"}, (None, "gpu.example.com", "/metrics")),
        ({"X_Forwarded_Prefix": "/gpuid/"}, (None, "gpuid:8080", "/gpuid/metrics")),
        ({"Forwarded": "for=10.0.0.1;proto=https;host=gpu.example.com"}, ("https", "gpu.example.com", "/metrics")),
    ],
)
async def test_forwarded_headers_are_used(
    client: httpx.AsyncClient, headers: dict[str, str], expected: tuple[str | None, str, str]
) -> None:
    assert await target(client, **headers) == expected


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Forwarded_Proto": "javascript"},
        {"X_Forwarded_Host": "user@evil/path"},
        {"X_Forwarded_Prefix": "//evil.example.com"},
        {"X_Forwarded_Prefix": 'x"><script>'},
        {"X_Forwarded_Prefix": "/a/../..//b"},
        {"Forwarded": "proto=ftp"},
    ],
)
async def test_invalid_headers_are_ignored(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    assert await target(client, **headers) == (None, "gpuid:8080", "/metrics")


async def test_the_configured_url_takes_precedence(site: Any, serving: Any) -> None:
    async with serving(site, external_url="https://gpu.example.com/gpuid/") as client:
        expected = ("https", "gpu.example.com", "/gpuid/metrics")
        assert await target(client, X_Forwarded_Host="other", X_Forwarded_Prefix="/other") == expected
        assert await target(client, "/gpuid/sd") == expected, "a proxy may leave the prefix in the path"
        for path in ("/gpuid", "/gpuid/", "/", "/gpuid/healthz", "/healthz", "/gpuid/api/v1/gpus", "/gpuid/metrics"):
            assert (await client.get(path)).status_code == 200


async def test_the_api_document_is_under_the_prefix(site: Any, serving: Any) -> None:
    path = "/api/v1/openapi.json"
    async with serving(site) as client:
        assert (await client.get(path)).json()["servers"] == [{"url": "/"}]
        answer = await client.get(path, headers={"X-Forwarded-Prefix": "/p"})
        assert answer.json()["servers"] == [{"url": "/p"}]
    async with serving(site, external_url="https://gpu.example.com/gpuid/") as client:
        assert (await client.get(path)).json()["servers"] == [{"url": "/gpuid"}]


async def test_the_problem_pages_are_under_the_prefix(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/api/v1/problems", headers={"X-Forwarded-Prefix": "/p"})).json()
    assert {row["url"][:3] for row in answer["problems"] if row["url"]} == {"/p/"}


@pytest.mark.parametrize("configured", [True, False])
async def test_every_link_of_every_page_is_under_the_prefix(site: Any, serving: Any, configured: bool) -> None:
    settings = {"external_url": "https://gpu.example.com/p"} if configured else {}
    headers = BROWSER if configured else {**BROWSER, "X-Forwarded-Prefix": "/p"}
    site.read("prod-a", "n1", *(site.inventory.find(uuid="GPU-b1")[0].gpu,), both=True)
    async with serving(site, **settings) as client:
        for path in (
            "/",
            "/changes",
            "/clusters/prod-a",
            "/clusters/prod-b/nodes/n3",
            "/gpus/GPU-b1",
            "/search?q=G",
            "/no",
        ):
            text = (await client.get(path, headers=headers)).text
            links = re.findall(r'(?:href|src|action|data-live)="(/[^"]*)"', text)
            assert len(links) > 10
            assert [link for link in links if not link.startswith("/p/")] == []
        answer = await client.get("/search?q=GPU-a2", headers=headers)
        assert answer.headers["Location"] == "/p/gpus/GPU-a2"


async def test_credentials_are_required_under_the_prefix(site: Any, serving: Any, tmp_path: Any) -> None:
    (tmp_path / "token").write_text("t")
    settings = {"external_url": "https://gpu.example.com/p", "bearer_token_file": tmp_path / "token"}
    async with serving(site, **settings) as client:
        statuses = {
            path: (await client.get(path)).status_code
            for path in ("/p/metrics", "/metrics", "/p/healthz", "/p/p/healthz")
        }
    assert statuses == {"/p/metrics": 401, "/metrics": 401, "/p/healthz": 200, "/p/p/healthz": 401}


async def test_a_proxy_may_keep_its_prefix_in_the_path(client: httpx.AsyncClient) -> None:
    headers = {"X-Forwarded-Prefix": "/gpuid/"}
    assert await target(client, "/gpuid/sd", **headers) == (None, "gpuid:8080", "/gpuid/metrics")
    for path in (
        "/gpuid",
        "/gpuid/",
        "/gpuid/metrics",
        "/gpuid/healthz",
        "/gpuid/api/v1/gpus?limit=1",
        "/gpuid/clusters/prod%2Da",
        "/gpuid/gpus/GPU-a2",
        "/gpuid/search?q=G",
    ):
        there = await client.get(path, headers=headers)
        assert (path, there.status_code) == (path, 200)
        same = await client.get(path.removeprefix("/gpuid") or "/", headers=headers)
        assert there.headers["Content-Type"] == same.headers["Content-Type"]
    assert (await client.head("/gpuid/metrics", headers=headers)).status_code == 200
    assert (await client.post("/gpuid/metrics", headers=headers)).status_code == 405
    for path in ("/gpuid/no", "/gpuidmetrics", "/gpuid/gpuid/metrics", "/other/metrics"):
        assert (await client.get(path, headers=headers)).status_code == 404
    refused = await client.get("/gpuid/api/v1/gpus?no=1", headers=headers)
    assert refused.json() == (await client.get("/api/v1/gpus?no=1")).json()


async def test_links_have_the_prefix_only_once(client: httpx.AsyncClient) -> None:
    headers = {**BROWSER, "X-Forwarded-Prefix": "/gpuid"}
    text = (await client.get("/gpuid/clusters/prod-a", headers=headers)).text
    links = re.findall(r'(?:href|src|action|data-live)="(/[^"]*)"', text)
    assert links
    assert [link for link in links if not re.match(r"/gpuid/(?!gpuid)|/gpuid$", link)] == []


async def test_a_prefix_header_does_not_bypass_authentication(site: Any, serving: Any, tmp_path: Any) -> None:
    (tmp_path / "token").write_text("t")
    async with serving(site, bearer_token_file=tmp_path / "token") as client:
        for prefix, path, status in (
            ("/p", "/p/metrics", 401),
            ("/p", "/p/healthz", 200),
            ("/p", "/p/no", 401),
            ("/gpus", "/gpus/healthz", 401),
            ("/metrics", "/metrics", 401),
            ("/static", "/static/healthz", 401),
        ):
            answer = await client.get(path, headers={"X-Forwarded-Prefix": prefix})
            assert (path, answer.status_code) == (path, status)
