"""The order in which a collector starts."""

import resource
import threading
from pathlib import Path

import pytest

from collector.app import Service, load, service
from collector.simulator import Simulator
from tests.app.world import ConfiguredService
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


def test_with_little_memory_everything_is_imported_before_threads_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imports: list[str] = []
    monkeypatch.setattr(service, "_import_store_and_page", lambda: imports.append("all"))
    (tmp_path / "gpuid.toml").write_text('[[clusters]]\ncontext = "sim-0"\n')
    config = load(tmp_path / "gpuid.toml")
    for limit, expected in ((resource.RLIM_INFINITY, []), (300 << 20, ["all"])):
        monkeypatch.setattr(resource, "getrlimit", lambda _kind, limit=limit: (limit, limit))
        Service(config)
        assert imports == expected


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
