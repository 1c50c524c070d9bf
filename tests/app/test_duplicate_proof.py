"""Contexts that show the same nodes: only proof that they reach one API server lets one of them be skipped.

A mirror is another simulation of the same seed: its nodes have the same uids, and its GPUs the same UUIDs.
"""

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import yaml

from collector.app import Service, load
from collector.checks.clusters import check_clusters
from collector.config import ClusterSettings
from collector.model import Change, ClusterState
from collector.simulator import Simulator
from tests.support.kubernetes import Authority, Pair
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

UP, DUPLICATE = ClusterState.UP, ClusterState.DUPLICATE
GPUS = 6


class World:
    """A cluster, its mirror, and a configuration with contexts that reach them in different ways."""

    def __init__(self, folder: Path, simulator: Simulator, mirror: Simulator) -> None:
        self._folder, self.simulator, self.mirror = folder, simulator, mirror
        self._contexts: dict[str, tuple[dict[str, Any], str]] = {}
        self.changes: list[Change] = []  # of the collector that runs, or ran last

    def entry(self, simulator: Simulator) -> dict[str, Any]:
        """Return what the simulator's kubeconfig says of its cluster."""
        document = json.loads(simulator.kubeconfig.read_text())
        entry: dict[str, Any] = document["clusters"][0]["cluster"]
        return entry

    def add(self, name: str, simulator: Simulator, **cluster: Any) -> None:
        """Add a context; None removes a key of its cluster's entry."""
        entry = {key: value for key, value in (self.entry(simulator) | cluster).items() if value is not None}
        self._contexts[name] = (entry, simulator.clusters["sim-0"].token)

    @property
    def config(self) -> Path:
        kubeconfig = self._folder / "kubeconfig"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": entry} for name, (entry, _) in self._contexts.items()],
            "users": [{"name": name, "user": {"token": token}} for name, (_, token) in self._contexts.items()],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}} for name in self._contexts],
        }
        kubeconfig.write_text(yaml.safe_dump(document))
        path = self._folder / "gpuid.toml"
        text = f'[server]\nlisten = "127.0.0.1:0"\n[store]\nurl = "sqlite://{self._folder}/gpuid.db"\n'
        text += f'[defaults]\nkubeconfig = "{kubeconfig}"\n'
        path.write_text(text + "".join(f'[[clusters]]\ncontext = "{name}"\n' for name in self._contexts))
        return path

    @contextlib.asynccontextmanager
    async def collecting(self) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
        self.changes.clear()
        service = Service(load(self.config), listeners=[self.changes.append])
        ready: list[str] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: service.run(ready=ready.append))
            await eventually(lambda: ready)
            async with httpx.AsyncClient(base_url=ready[0]) as client:
                yield service, client
            tasks.cancel_scope.cancel()

    @property
    def settings(self) -> list[ClusterSettings]:
        return list(load(self.config).clusters)


@contextlib.asynccontextmanager
async def front(
    simulator: Simulator, pair: Pair | None, is_open: Callable[[], bool] = lambda: True
) -> AsyncIterator[str]:
    """Open another route to a cluster: it terminates TLS with its own certificate, or uses no TLS."""
    upstream = ssl.create_default_context()
    upstream.check_hostname, upstream.verify_mode = False, ssl.CERT_NONE
    server = httpx.URL(simulator.clusters["sim-0"].url)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not is_open():
            writer.close()
            return
        with contextlib.suppress(OSError):
            back_reader, back_writer = await asyncio.open_connection(server.host, server.port, ssl=upstream)
            await asyncio.gather(pump(reader, back_writer), pump(back_reader, writer))

    context = None
    if pair is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pair.chain, pair.key)
    listener = await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    try:
        yield f"{'http' if pair is None else 'https'}://127.0.0.1:{port}"
    finally:
        listener.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with (
        Simulator(clusters=1, nodes=3, gpus=2, directory=tmp_path / "simulator") as simulator,
        Simulator(clusters=1, nodes=3, gpus=2, directory=tmp_path / "mirror") as mirror,
    ):
        yield World(tmp_path, simulator, mirror)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "authority").mkdir()
    return Authority(tmp_path / "authority", "authority")


def states(service: Service) -> dict[str, ClusterState]:
    return {name: status.state for name, status in service.clusters.statuses.items()}


def counts(service: Service) -> dict[str, int]:
    return {name: service.inventory.count(name) for name in service.clusters.statuses}


def resemblances(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "resembles" in record.getMessage()]


@pytest.mark.parametrize("order", [["hostile", "honest"], ["honest", "hostile"]])
@pytest.mark.parametrize("way", ["own authority", "insecure", "plain"])
async def test_a_copy_of_a_cluster_does_not_silence_the_original(
    world: World, caplog: pytest.LogCaptureFixture, order: list[str], way: str
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        changes: dict[str, Any] = {}
        if way == "insecure":
            changes = {"insecure-skip-tls-verify": True, "certificate-authority-data": None}
        elif way == "plain":
            url = await stack.enter_async_context(front(world.mirror, None))
            changes = {"server": url, "certificate-authority-data": None}
        for name in order:
            if name == "hostile":
                world.add(name, world.mirror, **changes)
            else:
                world.add(name, world.simulator)
        with caplog.at_level(logging.WARNING):
            async with world.collecting() as (service, client):
                await eventually(lambda: states(service) == dict.fromkeys(order, UP))
                await eventually(lambda: counts(service) == dict.fromkeys(order, GPUS))
                await eventually(lambda: service.clusters.resemblances("honest") == ["hostile"])

                async def published() -> int:  # rendered a little after the inventory knows the GPUs
                    return (await client.get("/metrics")).text.count("gpuid_gpu_info{")

                await eventually(published, 2 * GPUS)
                metrics = (await client.get("/metrics")).text
                rows = {row["cluster"]: row for row in (await client.get("/api/v1/clusters")).json()["clusters"]}
                page = (await client.get("/problems")).text
    assert 'gpuid_cluster_resemblances{cluster="honest"} 1.0\n' in metrics
    assert 'gpuid_cluster_resemblances{cluster="hostile"} 1.0\n' in metrics
    assert (rows["honest"]["resembles"], rows["hostile"]["resembles"]) == (["hostile"], ["honest"])
    assert "there is no proof that they are one cluster" in page
    (warning,) = resemblances(caplog)
    assert warning.startswith(f'cluster resembles another one: it resembles "{order[0]}" (node gpu-000')
    assert "remove one from the configuration" in warning


async def test_two_insecure_contexts_of_one_cluster_only_resemble_each_other(world: World) -> None:
    for name in ("admin", "dev"):
        world.add(name, world.simulator, **{"insecure-skip-tls-verify": True, "certificate-authority-data": None})
    async with world.collecting() as (service, _):
        await eventually(lambda: service.clusters.resemblances("admin") == ["dev"])
        await eventually(lambda: counts(service) == {"admin": GPUS, "dev": GPUS})
        await eventually(lambda: states(service) == {"admin": UP, "dev": UP})


async def test_a_tls_terminating_proxy_proves_nothing_about_its_backend(world: World, authority: Authority) -> None:
    async with front(world.simulator, authority.issue("rancher", "127.0.0.1")) as url:
        world.add("direct", world.simulator)
        world.add("proxied", world.simulator, server=url, **{"certificate-authority-data": authority.data})
        async with world.collecting() as (service, _):
            await eventually(lambda: service.clusters.resemblances("direct") == ["proxied"])
            await eventually(lambda: counts(service) == {"direct": GPUS, "proxied": GPUS})


async def test_two_names_of_one_server_are_one_cluster(world: World) -> None:
    world.add("admin", world.simulator)
    url = world.entry(world.simulator)["server"]
    world.add("dev", world.simulator, server=url.replace("127.0.0.1", "localhost"))
    async with world.collecting() as (service, _):
        await eventually(lambda: states(service) == {"admin": UP, "dev": DUPLICATE})
        await eventually(lambda: counts(service) == {"admin": GPUS, "dev": 0})


async def test_servers_with_different_keys_under_one_ca_only_resemble(
    world: World, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        front(world.simulator, authority.issue("one", "127.0.0.1")) as one,
        front(world.simulator, authority.issue("two", "127.0.0.1")) as two,
    ):
        trust = {"certificate-authority-data": authority.data}
        world.add("admin", world.simulator, server=one, **trust)
        world.add("dev", world.simulator, server=two, **trust)
        async with world.collecting() as (service, _):
            await eventually(lambda: service.clusters.resemblances("admin") == ["dev"])
            await eventually(lambda: states(service) == {"admin": UP, "dev": UP})
            await eventually(lambda: counts(service) == {"admin": GPUS, "dev": GPUS})
    (warning,) = resemblances(caplog)
    assert "have both verify the API server at the same address" in warning


async def test_after_a_restart_the_second_replaces_an_unreachable_first(world: World, authority: Authority) -> None:
    is_open, pair = True, authority.issue("one", "127.0.0.1")
    async with front(world.simulator, pair, lambda: is_open) as url:
        trust = {"certificate-authority-data": authority.data}
        async with front(world.simulator, pair) as other:
            world.add("admin", world.simulator, server=url, **trust)
            world.add("dev", world.simulator, server=other, **trust)
            async with world.collecting() as (service, _):
                await eventually(lambda: states(service) == {"admin": UP, "dev": DUPLICATE})
                await eventually(lambda: counts(service) == {"admin": GPUS, "dev": 0})
            is_open = False
            async with world.collecting() as (service, _):
                await eventually(lambda: counts(service) == {"admin": GPUS, "dev": GPUS})
                await eventually(lambda: states(service)["dev"] is UP)
                is_open = True
                await eventually(lambda: states(service) == {"admin": UP, "dev": DUPLICATE})
                await eventually(lambda: counts(service) == {"admin": GPUS, "dev": 0})
                await eventually(lambda: service.inventory.claims("admin") == 0)
    assert world.changes == []


async def test_a_copy_does_not_affect_a_real_duplicate(world: World) -> None:
    world.add("hostile", world.mirror)
    world.add("admin", world.simulator)
    world.add("dev", world.simulator)
    async with world.collecting() as (service, _):
        await eventually(lambda: states(service) == {"hostile": UP, "admin": UP, "dev": DUPLICATE})
        await eventually(lambda: counts(service) == {"hostile": GPUS, "admin": GPUS, "dev": 0})


async def test_the_check_reports_a_resemblance(world: World) -> None:
    world.add("hostile", world.mirror)
    world.add("honest", world.simulator)
    hostile, honest = await check_clusters(world.settings, 30.0)
    (problem,) = honest.problems
    assert hostile.ok
    assert problem.text.startswith('it resembles "hostile" (node gpu-000')
    assert problem.hint.startswith("if they are the same cluster, remove one")
