"""The order in which a collector starts."""

import threading
from pathlib import Path

import pytest

from collector.app import Service, load, service
from collector.simulator import Simulator
from tests.app.world import ConfiguredService
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


async def test_nodes_are_read_while_the_page_is_still_being_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = threading.Event()
    monkeypatch.setattr(service, "_import_store_and_page", imported.wait)
    async with Simulator(clusters=1, nodes=2, gpus=4, directory=tmp_path / "simulator") as simulator:
        world = ConfiguredService(tmp_path)
        cluster = f'[[clusters]]\ncontext = "sim-0"\nkubeconfig = "{simulator.kubeconfig}"\n'
        world.replace_config(f'[server]\nlisten = "127.0.0.1:0"\n{cluster}')
        starting = Service(load(world.config))
        async with world.running(starting):
            try:
                await eventually(lambda: sum(len(node.gpus) for node in starting.inventory.nodes("sim-0").values()), 8)
                assert world.urls == []
            finally:
                imported.set()
            await eventually(lambda: len(world.urls), 1)
