"""A kubeconfig or context that cannot be used costs its own cluster, at the start and at a reload, and no other."""

import math
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from collector.app import Service, load
from collector.model import ClusterState
from collector.simulator import Simulator
from collector.tls import Validity
from tests.app.world import ConfiguredService
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


class World(ConfiguredService):
    """Two simulated clusters, and a configuration of them, each by a kubeconfig of its own."""

    def __init__(self, folder: Path, simulator: Simulator) -> None:
        super().__init__(folder)
        self.folder = folder
        self.good = simulator.kubeconfig

    def write(self, *clusters: tuple[str, str, Path]) -> None:
        text = f'[server]\nlisten = "127.0.0.1:0"\n[store]\nurl = "sqlite://{self.folder}/gpuid.db"\n'
        for name, context, kubeconfig in clusters:
            text += f'[[clusters]]\nname = "{name}"\ncontext = "{context}"\nkubeconfig = "{kubeconfig}"\n'
        self.replace_config(text)

    def bad(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with Simulator(clusters=2, nodes=1, gpus=1, directory=tmp_path / "simulator") as simulator:
        yield World(tmp_path, simulator)


def states(service: Service) -> dict[str, ClusterState]:
    return {name: status.state for name, status in service.clusters.statuses.items()}


async def test_bad_contexts_do_not_affect_others_and_can_be_repaired(world: World) -> None:
    broken = world.bad("broken", "clusters: [")
    entry = world.bad("entry", "contexts: [{name: x, context: {namespace: 5}}]")
    world.write(
        ("absent", "x", world.folder / "absent-file"),
        ("unknown", "sim-9", world.good),
        ("broken", "sim-1", broken),
        ("entry", "x", entry),
        ("good", "sim-0", world.good),
    )
    service = Service(load(world.config))
    async with world.running(service):
        bad = dict.fromkeys(("absent", "unknown", "broken", "entry"), ClusterState.BAD_CONTEXT)
        await eventually(lambda: states(service) == {**bad, "good": ClusterState.UP})
        messages = {name: status.message for name, status in service.clusters.statuses.items()}
        assert messages["absent"] == f"{world.folder}/absent-file: no such file or directory"
        assert messages["unknown"].startswith(f'no context "sim-9" in {world.good}; there are: sim-')
        assert messages["broken"] == f"{broken}: not valid YAML (line 2)"
        assert messages["entry"] == (
            f'context "x" in {entry}: context "x": namespace: expected text, got a number; put it in quotes'
        )
        await eventually(lambda: world.urls)
        async with httpx.AsyncClient(base_url=world.urls[0], timeout=60) as client:
            metrics = (await client.get("/metrics")).text
        assert 'gpuid_cluster_state{cluster="broken",state="bad_context"} 1' in metrics
        broken.write_text(world.good.read_text())
        await eventually(lambda: states(service)["broken"] is ClusterState.UP)


async def test_pipes_in_place_of_files_do_not_affect_other_clusters(world: World) -> None:
    pipe = world.folder / "pipe"
    os.mkfifo(pipe)
    server = "cluster: {server: 'https://127.0.0.1:1', certificate-authority: pipe}"
    entries = (
        "clusters: [{name: c, %s}], users: [{name: u, user: {%s}}],"
        " contexts: [{name: x, context: {cluster: c, user: u}}]"
    )
    world.write(
        ("kubeconfig", "x", pipe),
        ("authority", "x", world.bad("authority", f"{{{entries % (server, 'token: t')}}}")),
        ("token", "x", world.bad("token", f"{{{entries % ('cluster: {server: x}', 'tokenFile: pipe')}}}")),
        ("good", "sim-0", world.good),
    )
    service = Service(load(world.config))
    async with world.running(service):
        bad = dict.fromkeys(("kubeconfig", "authority", "token"), ClusterState.BAD_CONTEXT)
        await eventually(lambda: states(service) == {**bad, "good": ClusterState.UP})
        for name in bad:
            assert service.clusters.statuses[name].message.endswith(f"{pipe}: not a regular file")


async def test_a_reload_with_a_bad_context_takes_effect(world: World) -> None:
    world.write(("good", "sim-0", world.good))
    service = Service(load(world.config))
    async with world.running(service):
        await eventually(lambda: states(service) == {"good": ClusterState.UP})
        world.write(("good", "sim-0", world.good), ("bad", "x", world.bad("html", "<html>")))
        await eventually(lambda: states(service).get("bad") is ClusterState.BAD_CONTEXT)
        assert states(service)["good"] is ClusterState.UP


async def test_the_expiry_of_credentials_is_published(world: World) -> None:
    world.write(("good", "sim-0", world.good))
    service = Service(load(world.config))
    series = 'gpuid_credential_expiry_timestamp_seconds{cluster="good"}'
    async with world.running(service):
        await eventually(lambda: states(service) == {"good": ClusterState.UP})
        await eventually(lambda: world.urls)
        async with httpx.AsyncClient(base_url=world.urls[0], timeout=60) as client:
            assert series not in (await client.get("/metrics")).text  # the simulator's tokens do not end
            service.observer.on_credential_expiry("good", Validity(1.9e9, 2e9))
            text = (await client.get("/metrics")).text
            assert f"{series} 2e+09" in text
            assert 'gpuid_credential_lifetime_seconds{cluster="good"} 1e+08' in text
            service.observer.on_credential_expiry("good", Validity(-math.inf, 2e9))
            assert "gpuid_credential_lifetime_seconds{" not in (await client.get("/metrics")).text
            service.observer.on_credential_expiry("good", None)
            assert series not in (await client.get("/metrics")).text
