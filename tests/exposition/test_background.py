"""The text is kept up to date even if nobody scrapes."""

from typing import Any

import anyio
import pytest

from collector.exposition import exposition
from collector.model import Gpu
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


async def test_a_scrape_does_not_stop_the_background_compression(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refreshed: list[None] = []
    original = exposition.Exposition.refresh

    async def refresh(self: exposition.Exposition) -> None:
        await original(self)
        refreshed.append(None)

    async with anyio.create_task_group() as tasks:
        await bench.text()
        tasks.start_soon(bench.exposition.run)
        await anyio.wait_all_tasks_blocked()  # it waits for a change
        await bench.exposition.refresh()  # as a scrape does
        monkeypatch.setattr(exposition.Exposition, "refresh", refresh)
        bench.read("prod", "n1", Gpu(uuid="GPU-a"))
        await eventually(lambda: refreshed)
        tasks.cancel_scope.cancel()


async def test_a_scrape_says_how_old_its_text_is(bench: Any) -> None:
    async def age() -> float:
        lines = [line for line in (await bench.text()).splitlines() if line.startswith("gpuid_exposition_age_seconds ")]
        return float(lines[0].split()[1])

    held, released = anyio.Event(), anyio.Event()

    async def hold() -> None:  # as a refresh that gets no turn does
        async with bench.exposition._lock:
            held.set()
            await released.wait()

    async with anyio.create_task_group() as tasks:
        assert await age() == 0
        tasks.start_soon(bench.exposition.run)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(hold)
        await held.wait()
        bench.read("prod", "n1", Gpu(uuid="GPU-late"))
        assert 0 < await age() < 600
        assert "GPU-late" not in await bench.text()
        released.set()
        await eventually(lambda: bench.exposition._behind_since, None)
        assert await age() == 0
        assert "GPU-late" in await bench.text()
        tasks.cancel_scope.cancel()


async def test_nothing_is_refreshed_while_nothing_changes(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refreshed: list[None] = []
    original = exposition.Exposition.refresh

    async def refresh(self: exposition.Exposition) -> None:
        refreshed.append(None)
        await original(self)

    monkeypatch.setattr(exposition.Exposition, "refresh", refresh)
    monkeypatch.setattr(exposition, "_REFRESH_INTERVAL_SECONDS", 0.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.exposition.run)
        await anyio.wait_all_tasks_blocked()
        assert not refreshed
        bench.read("prod", "n1", Gpu(uuid="GPU-a"))
        await eventually(lambda: bench.exposition._behind_since, None)
        await anyio.wait_all_tasks_blocked()
        assert len(refreshed) == 1
        tasks.cancel_scope.cancel()


async def test_changes_in_quick_succession_are_refreshed_together(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "_REFRESH_INTERVAL_SECONDS", 600.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bench.exposition.run)
        bench.read("prod", "n1", Gpu(uuid="GPU-a"))
        await eventually(lambda: bench.exposition._behind_since, None)
        await anyio.wait_all_tasks_blocked()
        bench.read("prod", "n2", Gpu(uuid="GPU-b"))
        await anyio.wait_all_tasks_blocked()
        assert bench.exposition._behind_since is not None  # only a scrape asks sooner
        assert "GPU-b" in await bench.text()
        tasks.cancel_scope.cancel()
