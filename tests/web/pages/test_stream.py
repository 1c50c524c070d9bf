"""The changes as they happen, as server-sent events."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import bcrypt
import httpx
import pytest

from collector.config import Listen, ServerSettings
from collector.health import Health
from collector.model import Gpu
from collector.web import serve
from collector.web.limits import HttpLimits

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def following(client: httpx.AsyncClient, query: str = "", **headers: str) -> AsyncIterator[AsyncIterator[str]]:
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
        async with client.stream("GET", f"/changes/stream{query}", headers=headers) as answer:
            assert answer.status_code == 200
            assert answer.headers["Content-Type"] == "text/event-stream"
            assert answer.headers["Cache-Control"] == "no-store"
            told = events(answer.aiter_lines())
            assert await anext(told) == "retry: 3000"
            yield told


async def test_a_change_is_sent_when_it_has_happened(site: Any, client: httpx.AsyncClient) -> None:
    async with following(client) as events:
        site.read("prod-a", "n7", Gpu(uuid="GPU-new", serial="777"))
        event = await anext(events)
    assert event.startswith("id: ")
    assert "\ndata: <li " in event
    assert 'href="/gpus/GPU-new">777</a>' in event
    assert all(line.startswith(("id: ", "data: ")) for line in event.splitlines())


async def test_changes_of_one_reading_have_different_keys(site: Any, client: httpx.AsyncClient) -> None:
    newest = next(site.collector.recent_changes.newest()).id
    site.read("prod-a", "n9", *(Gpu(uuid=f"GPU-{name}") for name in ("b2", "a2", "a1")), time=1764000300.0)
    async with following(client, f"?after={newest}") as events:
        keys = [re.findall(r'data-key="(.*?)"', await anext(events)) for _ in range(3)]
    assert keys == [
        ["moved 1764000300.000 prod-a n9 GPU-b2"],
        ["moved 1764000300.000 prod-a n9 GPU-a2"],
        ["moved 1764000300.000 prod-a n9 GPU-a1"],
    ]


async def test_what_was_missed_is_sent_oldest_first(site: Any, client: httpx.AsyncClient) -> None:
    newest = next(site.collector.recent_changes.newest()).id
    site.read("prod-a", "n7", Gpu(uuid="GPU-7"))
    site.read("prod-a", "n8", Gpu(uuid="GPU-8"))
    for query, headers in ((f"?after={newest}", {}), ("?after=1", {"Last-Event-ID": str(newest)})):
        async with following(client, query, **headers) as events:
            assert "GPU-7" in await anext(events)
            assert "GPU-8" in await anext(events)


async def test_after_a_long_time_only_the_newest_are_sent(site: Any, client: httpx.AsyncClient) -> None:
    for number in range(200):
        site.read("prod-a", f"gpu-{number}", Gpu(uuid=f"GPU-{number}"))
    async with following(client, "?after=1") as events:
        assert "GPU-150<" in await anext(events)


async def test_those_of_one_event_come_alone(site: Any, client: httpx.AsyncClient) -> None:
    async with following(client, "?event=health") as events:
        for time, pending in ((1764000100.0, False), (1764000200.0, True)):
            worn = Gpu(uuid="GPU-w", serial="W-1", health=Health(row_remap_pending=pending))
            site.read("prod-a", "w1", worn, time=time)
        with anyio.fail_after(25):
            event = await anext(events)
    assert "row remapping pending no → yes" in event
    assert "needs a reset or drain: row remapping pending" in event
    assert (await client.get("/changes/stream?event=born")).status_code == 400


async def test_a_line_break_in_a_name_begins_no_event(site: Any, client: httpx.AsyncClient) -> None:
    async with following(client) as events:
        site.read("prod-a", "n7\n\nevent: evil\rid: 0\ndata: x", Gpu(uuid="GPU-\r\n\r\ndata: y", serial="\n\nretry: 1"))
        event = await anext(events)
    assert all(line.startswith(("id: ", "data: ")) for line in event.splitlines())


async def test_credentials_are_asked_for(site: Any, serving: Any) -> None:
    hashed = bcrypt.hashpw(b"p", bcrypt.gensalt(4)).decode()
    async with serving(site, basic_auth={"sre": hashed}) as client:
        assert (await client.get("/changes/stream")).status_code == 401


async def test_there_are_not_too_many_of_them(site: Any, serving: Any) -> None:
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


async def test_all_end_cleanly_when_the_server_stops(site: Any) -> None:
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
