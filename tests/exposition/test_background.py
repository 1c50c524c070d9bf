"""The text is kept up to date whether anybody scrapes or not."""

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
