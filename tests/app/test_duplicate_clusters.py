"""Two names for one real cluster in one configuration: its fleet is published once, under the first."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest

from collector.app import Service, load
from collector.collect.watcher import ClusterWatcher
from collector.config import ClusterSettings
from collector.model import Change, ClusterState, Event
from collector.simulator import Simulator
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


class World:
    """One simulated cluster, a configuration that names it as often as it likes, and collectors of it."""

    def __init__(self, folder: Path, simulator: Simulator) -> None:
        self._folder, self._simulator = folder, simulator
        self.config = folder / "gpuid.toml"
        self.changes: list[Change] = []

    def write(self, *names: str, labelled: str = "") -> None:
        text = f'[server]\nlisten = "127.0.0.1:0"\n[store]\nurl = "sqlite://{self._folder}/gpuid.db"\n'
        text += f'[defaults]\nkubeconfig = "{self._simulator.kubeconfig}"\n'
        for name in names:
            text += f'[[clusters]]\nname = "{name}"\ncontext = "sim-0"\nlabels = {str(name == labelled).lower()}\n'
        self.config.write_text(text)

    @asynccontextmanager
    async def collecting(self) -> AsyncIterator[Service]:
        self.changes = []
        service = Service(load(self.config), listeners=[self.changes.append])
        ready: list[str] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: service.run(ready=ready.append))
            await eventually(lambda: ready)
            self.url = ready[0]
            yield service
            tasks.cancel_scope.cancel()

    def published_as(self, service: Service, name: str) -> bool:
        """Whether all of the fleet is published, under this name alone."""
        found = {
            (cluster, node, gpu.uuid)
            for cluster in service.inventory.clusters()
            for node, entry in service.inventory.nodes(cluster).items()
            for gpu in entry.gpus
        }
        return found == {(name, gpu.node, gpu.uuid) for gpu in self._simulator.fleet.expected()}

    @property
    def moves(self) -> list[Change]:
        return [change for change in self.changes if change.event is Event.MOVED]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with Simulator(clusters=1, nodes=3, gpus=4, directory=tmp_path / "simulator") as simulator:
        yield World(tmp_path, simulator)


def settled(service: Service, **states: ClusterState) -> bool:
    return {name: status.state for name, status in service.clusters.statuses.items()} == states


@pytest.mark.parametrize("labelled", ["admin", "dev"])
async def test_labels_configured_only_for_the_duplicate_are_reported(world: World, labelled: str) -> None:
    world.write("admin", "dev", labelled=labelled)
    async with world.collecting() as service:
        await eventually(lambda: settled(service, admin=ClusterState.UP, dev=ClusterState.DUPLICATE))
        said = '; its `labels = true` has no effect, set it for "admin"' in service.clusters.statuses["dev"].message
        assert said == (labelled == "dev")


async def test_the_fleet_is_published_once_and_the_duplicate_explained(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.write("admin", "dev")
    with caplog.at_level(logging.WARNING):
        async with world.collecting() as service, httpx.AsyncClient(base_url=world.url) as client:
            await eventually(lambda: settled(service, admin=ClusterState.UP, dev=ClusterState.DUPLICATE))
            await eventually(lambda: world.published_as(service, "admin"))
            metrics = (await client.get("/metrics")).text
            ready = (await client.get("/readyz?verbose")).text
            synced = {
                row["cluster"]: row["synced_at"] for row in (await client.get("/api/v1/clusters")).json()["clusters"]
            }
            service.observer.on_synced("dev", time.time())  # it was on its way
            assert (await client.get("/metrics")).text.count("\ngpuid_cluster_synced_timestamp_seconds{") == 1
    assert (synced["admin"] is None, synced["dev"]) == (False, None)
    assert 'gpuid_cluster_up{cluster="admin"} 1.0\n' in metrics
    assert 'gpuid_cluster_up{cluster="dev"} 0.0\n' in metrics
    assert metrics.count("\ngpuid_gpu_info{") == 12
    assert ready.startswith('[+]admin up\n[-]dev duplicate: it is the same cluster as "admin" (node gpu-000')
    assert world.moves == []
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.getMessage()[:59] for record in warnings] == [
        'skipping cluster: it is the same cluster as "admin" (node g'
    ]


async def test_a_restart_publishes_the_same_and_records_nothing(world: World) -> None:
    world.write("admin", "dev")
    async with world.collecting() as service:
        await eventually(lambda: world.published_as(service, "admin"))
    async with world.collecting() as service:
        await eventually(lambda: settled(service, admin=ClusterState.UP, dev=ClusterState.DUPLICATE))
        assert world.published_as(service, "admin")
    assert world.changes == []


async def test_the_second_replaces_the_first_until_the_first_returns(
    world: World,
) -> None:
    world.write("admin", "dev")
    async with world.collecting() as service:
        await eventually(lambda: settled(service, admin=ClusterState.UP, dev=ClusterState.DUPLICATE))
        world.write("dev")
        await service.reload(world.config)
        await eventually(lambda: settled(service, dev=ClusterState.UP) and world.published_as(service, "dev"))
        world.write("admin", "dev")
        await service.reload(world.config)
        await eventually(lambda: settled(service, admin=ClusterState.UP, dev=ClusterState.DUPLICATE))
        await eventually(lambda: world.published_as(service, "admin"))
    assert world.moves == []


async def test_removing_the_second_does_not_affect_the_first(world: World) -> None:
    world.write("admin", "dev")
    async with world.collecting() as service:
        await eventually(lambda: settled(service, admin=ClusterState.UP, dev=ClusterState.DUPLICATE))
        await eventually(lambda: world.published_as(service, "admin"))
        world.changes.clear()
        world.write("admin")
        await service.reload(world.config)
        assert settled(service, admin=ClusterState.UP)
    assert world.changes == []


async def test_a_duplicate_paused_again_immediately_is_not_read(world: World) -> None:
    world.write("admin", "dev")
    async with world.collecting() as service:
        await eventually(lambda: settled(service, admin=ClusterState.UP, dev=ClusterState.DUPLICATE))
        watch = service.clusters["dev"].supervisor
        started: list[str] = []
        new_watcher = watch._new_watcher

        def note(cluster: ClusterSettings) -> ClusterWatcher:
            started.append(cluster.name)
            return new_watcher(cluster)

        watch._new_watcher = note
        watch.resume()
        watch.pause()
        await anyio.wait_all_tasks_blocked()
        assert started == []
        watch.resume()
        await eventually(lambda: started == ["dev"])
