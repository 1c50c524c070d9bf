"""A configuration that changes while a collector starts, or while its store is in trouble."""

import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from collector.app import Service, load
from collector.simulator import Simulator
from tests.app.world import ConfiguredService
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


class World(ConfiguredService):
    """Two simulated clusters, and a configuration of some of them."""

    def __init__(self, folder: Path, simulator: Simulator) -> None:
        super().__init__(folder)
        self._simulator = simulator
        self.store = folder / "gpuid.db"

    def write(self, *clusters: str, more: str = "") -> None:
        text = f'[server]\nlisten = "127.0.0.1:0"\n[store]\nurl = "sqlite://{self.store}"\n{more}'
        text += f'[defaults]\nkubeconfig = "{self._simulator.kubeconfig}"\n'
        self.replace_config(text + "".join(f'[[clusters]]\ncontext = "{name}"\n' for name in clusters))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with Simulator(clusters=2, nodes=1, gpus=1, directory=tmp_path / "simulator") as simulator:
        yield World(tmp_path, simulator)


async def test_a_signal_before_the_store_is_loaded_waits_for_it(world: World) -> None:
    world.write("sim-0")
    service = Service(load(world.config))
    world.write("sim-0", "sim-1")
    async with world.running(service):
        await service.reload(world.config)
        assert set(service.clusters.statuses) == {"sim-0", "sim-1"}


async def test_an_edit_between_reading_and_watching_is_not_missed(world: World) -> None:
    world.write("sim-0")
    service = Service(load(world.config))
    world.write("sim-1")
    async with world.running(service):
        await eventually(lambda: set(service.clusters.statuses) == {"sim-1"})


async def test_an_unchanged_configuration_is_not_applied_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.write("sim-0")
    service = Service(load(world.config))
    with caplog.at_level(logging.INFO):
        async with world.running(service):
            await eventually(lambda: world.urls)
            world.write("sim-0", "sim-1")
            await eventually(lambda: "configuration reloaded" in caplog.text)
            await eventually(lambda: set(service.clusters.statuses) == {"sim-0", "sim-1"})
    assert caplog.text.count("configuration reloaded") == 1


async def test_a_store_in_trouble_delays_sinks_but_not_clusters(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.write("sim-0")
    service = Service(load(world.config))
    async with world.running(service):
        await eventually(lambda: world.urls)
        async with httpx.AsyncClient(base_url=world.urls[0], timeout=60) as client:
            with closing(sqlite3.connect(world.store, timeout=60, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                world.write("sim-0", "sim-1", more='[sinks.out]\ntype = "stdout"\n')
                await eventually(lambda: set(service.clusters.statuses) == {"sim-0", "sim-1"})
                await eventually(
                    lambda: "cannot update sinks while the store is unavailable; retrying: " in caplog.text
                )
                assert 'sink="out"' not in (await client.get("/metrics/collector")).text

            async def reported() -> bool:
                return 'gpuid_export_backlog_records{sink="out"}' in (await client.get("/metrics/collector")).text

            await eventually(reported)
