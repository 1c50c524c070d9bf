"""What tells an open page that something has changed, as server-sent events."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import bcrypt
import httpx
import pytest

from collector.config import Listen, ServerSettings
from collector.model import Gpu
from collector.web import serve
from collector.web.limits import HttpLimits

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def following(client: httpx.AsyncClient, **headers: str) -> AsyncIterator[AsyncIterator[str]]:
    """Open the stream and give its events, each as its lines."""

    async def events(lines: AsyncIterator[str]) -> AsyncIterator[str]:
        event: list[str] = []
        async for line in lines:
            if line:
                event.append(line)
            else:
                yield "\n".join(event)
                event.clear()

    with anyio.fail_after(30):
        async with client.stream("GET", "/changes/stream", headers=headers) as answer:
            assert answer.status_code == 200
            assert answer.headers["Content-Type"] == "text/event-stream"
            assert answer.headers["Cache-Control"] == "no-store"
            told = events(answer.aiter_lines())
            assert await anext(told) == "retry: 3000"
            yield told


async def test_a_change_is_announced_when_it_has_happened(site: Any, client: httpx.AsyncClient) -> None:
    async with following(client) as events:
        site.read("prod-a", "n7", Gpu(uuid="GPU-new", serial="777"))
        event = await anext(events)
    assert event == f"id: {site.collector.recent_changes.last_id}\ndata: changed"


async def test_many_changes_are_announced_together(site: Any, client: httpx.AsyncClient) -> None:
    async with following(client) as events:
        for number in range(200):
            site.read("prod-a", f"gpu-{number}", Gpu(uuid=f"GPU-{number}"))
        event = await anext(events)
    assert event == f"id: {site.collector.recent_changes.last_id}\ndata: changed"


async def test_a_reconnecting_client_gets_missed_changes(site: Any, client: httpx.AsyncClient) -> None:
    newest = site.collector.recent_changes.last_id
    site.read("prod-a", "n7", Gpu(uuid="GPU-7"))
    async with following(client, **{"Last-Event-ID": str(newest)}) as events:
        assert await anext(events) == f"id: {site.collector.recent_changes.last_id}\ndata: changed"


@pytest.mark.parametrize("known", ["9" * 18, "9" * 19, "-1", "x"])
async def test_heartbeats_are_sent_without_changes(site: Any, serving: Any, known: str) -> None:
    limits = HttpLimits(stream_heartbeat=0.1)
    async with serving(site, limits=limits) as client, following(client, **{"Last-Event-ID": known}) as events:
        assert await anext(events) == f"id: {site.collector.recent_changes.last_id}\ndata: changed"


async def test_credentials_are_required(site: Any, serving: Any) -> None:
    hashed = bcrypt.hashpw(b"p", bcrypt.gensalt(4)).decode()
    async with serving(site, basic_auth={"sre": hashed}) as client:
        assert (await client.get("/changes/stream")).status_code == 401


async def test_the_number_of_streams_is_limited(site: Any, serving: Any) -> None:
    async with serving(site, limits=HttpLimits(max_streams=1)) as client:
        async with following(client):
            answer = await client.get("/changes/stream")
            assert (answer.status_code, answer.text) == (503, "too many live streams (limit 1); try again later\n")
        with anyio.fail_after(30):
            while True:
                async with client.stream("GET", "/changes/stream") as again:
                    if again.status_code == 200:
                        break
                await anyio.sleep(0.01)


async def test_a_stream_ends_so_that_access_is_checked_again(site: Any, serving: Any) -> None:
    async with serving(site, limits=HttpLimits(max_stream_time=0.1)) as client, following(client) as events:
        assert [event async for event in events] == []


async def test_all_streams_end_cleanly_when_the_server_stops(site: Any) -> None:
    urls: list[str] = []
    bound = anyio.Event()

    def ready(url: str) -> None:
        urls.append(url)
        bound.set()

    stop = anyio.CancelScope()

    async def run() -> None:
        with stop:
            await serve(site.collector, ServerSettings(listen=Listen("127.0.0.1:0")), ready=ready)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await bound.wait()
        async with httpx.AsyncClient(base_url=urls[0]) as client, following(client) as events:
            stop.cancel()
            # A stream that is cut off, as at the end of the drain time, would raise RemoteProtocolError here.
            assert [event async for event in events] == []
