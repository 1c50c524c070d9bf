"""A collector's HTTP side over a small inventory, served for real on a free port."""

import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from collector.config import Listen, ServerSettings
from collector.exposition import Exposition, Metrics
from collector.inventory import Inventory
from collector.model import ClusterState, ClusterStatus, Fingerprint, Gpu, NodeInfo, Place, ReadFailure, Reading, Step
from collector.store import Store, StoreSettings
from collector.web import CollectorView, serve

Serving = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


class Site:
    """The state that the handlers look at."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.steps: list[Step] = []
        self.store: Store | None = None
        self.synced = 1764000000.0
        self.now = 1764000600.0  # ten minutes after everything
        self.refresh = 3600.0
        self.inventory = Inventory()
        self.exposition = Exposition(self.inventory, self.metrics)
        self.statuses: dict[str, ClusterStatus] = {}
        self.context = CollectorView(
            inventory=self.inventory,
            exposition=self.exposition,
            statuses=self.statuses,
            clusters=self.statuses.keys,
            synced=lambda name: self.synced if self.statuses[name].up else None,
            clock=lambda: self.now,
            refresh=lambda _cluster: self.refresh,
        )

    def cluster(self, name: str, state: ClusterState = ClusterState.UP, message: str = "") -> None:
        self.metrics.add_cluster(name)
        self.statuses[name] = ClusterStatus(cluster=name, state=state, message=message, since=self.synced)

    def read(
        self,
        cluster: str,
        node: str,
        *gpus: Gpu,
        time: float = 1764000000.0,
        capacity: int | None = 8,
        machine: str = "",
    ) -> None:
        reading = Reading(
            cluster=cluster,
            node=NodeInfo(name=node, provider_id=f"aws:///us-east-1a/{machine or f'i-{node}'}", capacity=capacity),
            source="gpu-operator/p",
            fingerprint=Fingerprint(pod_uid="p", container_id="c", restarts=0, boot_id="b", capacity=8),
            time=time,
            driver_version="570.148.08",
            cuda_version="12.8",
            gpus=gpus,
        )
        self.publish(self.inventory.apply(reading))

    def fail(self, cluster: str, node: str, reason: ReadFailure, time: float = 1764000540.0) -> None:
        self.publish(self.inventory.read_failed(Place(cluster, node), reason, time))

    def remove(self, cluster: str, node: str, time: float) -> None:
        self.publish(self.inventory.remove_node(Place(cluster, node), time))

    def keep(self, store: Store) -> None:
        """Record what happened so far, and from now on, as the service does."""
        self.store = store
        self.context = dataclasses.replace(
            self.context, history=store.history, durable=lambda: store.history_writer.flushed(1.0)
        )
        for step in self.steps:
            store.history_writer.append(step)

    def break_store(self) -> None:
        """Let the store's file be one that cannot be read, as a failing disk does."""
        assert self.store is not None
        path = Path(str(self.store.database.location))
        for file in (path, path.with_name(path.name + "-wal")):
            file.write_bytes(b"x" * 4096)

    def publish(self, step: Step) -> None:
        for place in step.nodes:
            self.exposition.changed(place)
        self.context.latest.add(step.changes)
        self.steps.append(step)
        if self.store is not None:
            self.store.history_writer.append(step)


@pytest.fixture
def site() -> Site:
    """Two clusters, one of them down, with three nodes."""
    site = Site()
    site.cluster("prod-a")
    site.cluster("prod-b", ClusterState.UNREACHABLE, "https://10.0.0.1:6443: connection refused")
    site.read("prod-a", "n1", Gpu(uuid="GPU-a1", serial="100", model="NVIDIA H100", chassis=None))
    site.read("prod-a", "n2", *(Gpu(uuid=f"GPU-a{n}", serial=f"10{n}", model="NVIDIA H100") for n in (2, 3)))
    site.read("prod-b", "n3", *(Gpu(uuid=f"GPU-b{n}", serial="900", model="NVIDIA GB200", chassis="C1") for n in "12"))
    return site


@pytest.fixture
def serving() -> Serving:
    """Serve a site; gives a client for it."""

    @asynccontextmanager
    async def run(
        site: Site, *, verify: Any = True, cert: Any = None, **settings: Any
    ) -> AsyncIterator[httpx.AsyncClient]:
        url: list[str] = []
        bound = anyio.Event()

        def ready(address: str) -> None:
            url.append(address)
            bound.set()

        async def run_server() -> None:
            await serve(site.context, ServerSettings(listen=Listen("127.0.0.1:0"), **settings), ready=ready)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_server)
            with anyio.fail_after(25):
                await bound.wait()
            async with httpx.AsyncClient(base_url=url[0], verify=verify, cert=cert) as client:
                yield client
            tasks.cancel_scope.cancel()

    return run


@pytest.fixture
async def client(site: Site, serving: Serving) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the site with default settings."""
    async with serving(site) as client:
        yield client


@pytest.fixture
async def kept(site: Site, tmp_path: Path) -> AsyncIterator[Store]:
    """The site's own store, which commits in the background."""
    async with keeping(site, tmp_path) as store:
        yield store


@pytest.fixture(params=[False, True], ids=["memory", "store"])
async def perhaps_kept(request: pytest.FixtureRequest, site: Site, tmp_path: Path) -> AsyncIterator[bool]:
    """The site once without a store and once with one; tells which."""
    if request.param:
        async with keeping(site, tmp_path):
            yield True
    else:
        yield False


@asynccontextmanager
async def keeping(site: Site, folder: Path) -> AsyncIterator[Store]:
    """Give the site a store in a folder, which commits in the background."""
    async with (
        Store.open(StoreSettings(url=f"sqlite://{folder}/gpuid.db")) as store,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(store.run)
        site.keep(store)
        yield store
        tasks.cancel_scope.cancel()
