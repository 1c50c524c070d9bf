"""What every answer carries, and how refusals look to whom."""

from typing import Any

import bcrypt
import httpx
import pytest

from collector.model import Gpu
from tests.web.pages.conftest import BROWSER

pytestmark = pytest.mark.anyio


async def test_an_error_is_a_page_only_for_browsers(client: httpx.AsyncClient) -> None:
    page = await client.get("/nothing", headers=BROWSER)
    assert page.status_code == 404
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "<h1>Not Found</h1>" in page.text
    assert 'role="search"' in page.text
    line = await client.get("/nothing")
    assert (line.status_code, line.text) == (404, "404: Not Found\n")
    below_api = await client.get("/api/v1/nothing", headers=BROWSER)
    assert (below_api.status_code, below_api.json()["code"]) == (404, "unknown_path")


async def test_the_credentials_page_discloses_nothing(site: Any, serving: Any) -> None:
    hashed = bcrypt.hashpw(b"p", bcrypt.gensalt(4)).decode()
    async with serving(site, basic_auth={"sre": hashed}) as client:
        for path in ("/", "/gpus/GPU-a1", "/search?q=100", "/changes", "/clusters/prod-a"):
            answer = await client.get(path, headers=BROWSER)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == 'Basic realm="gpuid", charset="UTF-8"'
            assert "prod-a" not in answer.text


async def test_a_refused_method_is_answered_with_the_allowed_ones(client: httpx.AsyncClient) -> None:
    answer = await client.post("/", headers=BROWSER)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET,HEAD")


async def test_pages_may_load_only_packaged_files(client: httpx.AsyncClient) -> None:
    answer = await client.get("/", headers=BROWSER)
    assert answer.headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert answer.headers["Cache-Control"] == "no-store"
    for inline in ("style=", "<style", "onclick=", "javascript:", "<script>"):
        assert inline not in answer.text


async def test_static_files_are_cached_by_their_content(client: httpx.AsyncClient) -> None:
    text = (await client.get("/")).text
    for name in ("page.css", "page.js", "icon.svg"):
        address = text[text.index(f"/static/{name}?v=") :].partition('"')[0]
        answer = await client.get(address)
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"


async def test_nothing_hostile_becomes_markup(site: Any, serving: Any) -> None:
    evil = "\"'><script>alert(1)</script>&lt;"
    site.cluster(evil)
    site.read(evil, evil, Gpu(uuid=evil, serial=evil, chassis=evil, model=evil))
    async with serving(site) as client:
        for path in ("/", "/search", "/changes"):
            answer = await client.get(path, params={"q": evil}, headers=BROWSER)
            assert "<script>" not in answer.text


class TestSlowStore:
    """A store that does not respond in time keeps nobody waiting."""

    @pytest.mark.parametrize(
        "path", ["/api/v1/changes", "/api/v1/gpus/GPU-a1/history", "/api/v1/nodes/n1/history", "/gpus/GPU-no"]
    )
    async def test_history_requests_are_temporarily_refused(
        self, site: Any, kept: Any, client: httpx.AsyncClient, path: str
    ) -> None:
        site.collector.history_seconds = -10.0
        answer = await client.get(path)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert "timed out reading the file" in answer.text

    @pytest.mark.parametrize("path", ["/gpus/GPU-a1", "/clusters/prod-a/nodes/n1", "/search?q=100", "/changes"])
    async def test_a_page_shows_everything_else(
        self, site: Any, kept: Any, client: httpx.AsyncClient, path: str
    ) -> None:
        site.collector.history_seconds = -10.0
        answer = await client.get(path, headers={"Accept": "text/html"}, follow_redirects=True)
        assert answer.status_code == 200
        assert "prod-a" in answer.text
