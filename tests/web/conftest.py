"""The HTTP server of a collector with a small inventory, on a free port."""

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from collector.app.marks import MarkFollower
from collector.config import PRESETS, Listen, PodSource, ServerSettings
from collector.exposition import Exposition, Metrics
from collector.health import Health
from collector.inventory import Inventory
from collector.marks import Marks
from collector.model import (
    ClusterState,
    ClusterStatus,
    Fingerprint,
    Gpu,
    GpuRef,
    LabelTrouble,
    NodeInfo,
    Place,
    ReadFailure,
    Reading,
    SliceStatus,
    Step,
    Survey,
    UnreadReason,
)
from collector.sharding import UNSHARDED, Shard
from collector.store import (
    ClusterOwner,
    History,
    LeadStatus,
    MarkStore,
    Past,
    ShardLease,
    Store,
    StoreSettings,
    StoreStatus,
)
from collector.tls import Validity
from collector.views.collector_view import CollectorView
from collector.views.config_status import ConfigStatus
from collector.views.recent_changes import RecentChanges
from collector.views.sink_status import SinkStatuses
from collector.web import serve
from collector.web.limits import DEFAULT_LIMITS, HttpLimits
from tests.support.moves import let_go

Serving = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@dataclass
class FakeCollector:
    """A CollectorView of plain values; clusters are those with a status, unless others are configured."""

    inventory: Inventory
    exposition: Exposition
    statuses: dict[str, ClusterStatus] = field(default_factory=dict)
    configured: Collection[str] | None = None
    synced_at: float | None = None  # of the clusters that are up
    refresh_seconds: float = 3600.0
    pods: Sequence[int] = (1,)  # of each source
    listed_nodes: int | None = 10  # in each cluster; None before it has been listed
    pod_sources: Sequence[PodSource] = PRESETS["gpu-operator"]
    selector: str = ""  # of nodes
    slice_statuses: dict[str, SliceStatus] = field(default_factory=dict)
    similar: dict[str, list[str]] = field(default_factory=dict)  # clusters that resemble each other
    label_troubles: dict[str, LabelTrouble] = field(default_factory=dict)
    time: float = 1764000600.0
    cluster_label: str = "cluster"
    config_status: ConfigStatus = field(default_factory=ConfigStatus)
    marks: Marks = field(default_factory=Marks)
    recent_changes: RecentChanges = field(default_factory=RecentChanges)
    sink_statuses: SinkStatuses = field(default_factory=SinkStatuses)
    store: Store | None = None
    history_seconds: float = 60.0  # for one answer
    store_status: StoreStatus = field(default_factory=StoreStatus)
    lead_status: LeadStatus | None = None
    shard: Shard = UNSHARDED
    owners: dict[str, ClusterOwner] = field(default_factory=dict)  # of a sharded installation
    leases: Sequence[ShardLease] = ()

    @property
    def history(self) -> History | None:
        return None if self.store is None else self.store.history.within(self.history_seconds)

    @property
    def past(self) -> Past | None:
        return None if self.store is None else self.store.past.within(self.history_seconds)

    @property
    def mark_store(self) -> MarkStore | None:
        return None if self.store is None else self.store.marks.within(self.history_seconds)

    async def refresh_marks(self) -> None:
        if self.store is not None:
            await MarkFollower(self.store, self.marks).try_refresh()

    def clusters(self) -> Collection[str]:
        return self.statuses.keys() if self.configured is None else self.configured

    def own_clusters(self) -> Collection[str]:
        return [name for name in self.clusters() if name not in self.owners or self.owners[name].own]

    def owner(self, cluster: str) -> ClusterOwner | None:
        return self.owners.get(cluster)

    def shards(self) -> Sequence[ShardLease]:
        return self.leases

    def synced(self, cluster: str) -> float | None:
        return self.synced_at if cluster in self.statuses and self.statuses[cluster].up else None

    def survey(self, cluster: str) -> Survey | None:
        if self.listed_nodes is None or cluster not in self.statuses:
            return None
        return Survey(self.listed_nodes, tuple(self.pods))

    def slices(self, cluster: str) -> SliceStatus | None:
        return self.slice_statuses.get(cluster)

    def sources(self, _cluster: str) -> Sequence[PodSource]:
        return self.pod_sources

    def label_trouble(self, cluster: str) -> LabelTrouble | None:
        return self.label_troubles.get(cluster)

    def resembles(self, cluster: str) -> Collection[str]:
        return self.similar.get(cluster, [])

    def node_selector(self, _cluster: str) -> str:
        return self.selector

    def refresh(self, _cluster: str) -> float:
        return self.refresh_seconds

    async def wait_committed(self) -> None:
        if self.store is not None:
            await self.store.history_writer.flushed(10.0)

    def now(self) -> float:
        return self.time


class Site:
    """A collector, and the events that tests cause."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.steps: list[Step] = []
        self.inventory = Inventory()
        self.collector = FakeCollector(self.inventory, Exposition(self.metrics))
        self.collector.synced_at = 1764000000.0
        self.collector.time = 1764000600.0  # ten minutes after everything

    def cluster(self, name: str, state: ClusterState = ClusterState.UP, message: str = "") -> None:
        self.metrics.add_cluster(name)
        since = self.collector.synced_at or 0.0
        self.collector.statuses[name] = ClusterStatus(cluster=name, state=state, message=message, since=since)

    def read(
        self,
        cluster: str,
        node: str,
        *gpus: Gpu,
        time: float = 1764000000.0,
        capacity: int | None = 8,
        machine: str = "",
        both: bool = False,
        lost: tuple[GpuRef, ...] = (),
    ) -> None:
        """Read a node; the nodes that had its GPUs no longer have them, unless `both` leaves that unsettled."""
        reading = Reading(
            cluster=cluster,
            node=NodeInfo(name=node, provider_id=f"aws:///us-east-1a/{machine or f'i-{node}'}", capacity=capacity),
            source="gpu-operator/p",
            fingerprint=Fingerprint(pod_uid="p", container_id="c", restarts=0, boot_id="b", capacity=8),
            time=time,
            driver_version="570.148.08",
            cuda_version="12.8",
            gpus=gpus,
            lost=lost,
        )
        step = self.inventory.apply(reading)
        self.publish(step)
        if not both:
            for settled in let_go(self.inventory, step):
                self.publish(settled)

    def conflict(self, cluster: str, nodes: tuple[str, str], *gpus: Gpu, capacity: int | None = 8) -> None:
        """Let two nodes confirm that they have the same GPUs: the claim, and an answer of each to it."""
        for number, node in enumerate((*nodes, *nodes)):
            self.read(cluster, node, *gpus, time=1764000001.0 + number, capacity=capacity, both=True)

    def fail(self, cluster: str, node: str, reason: ReadFailure, time: float = 1764000540.0) -> None:
        self.publish(self.inventory.read_failed(Place(cluster, node), reason, time))

    def add(self, cluster: str, node: str, *, capacity: int | None = 8, sign: str = "nvidia.com/gpu") -> None:
        """Let Kubernetes say that a cluster has a GPU node."""
        info = NodeInfo(name=node, provider_id=f"aws:///us-east-1a/i-{node}", capacity=capacity, gpu_sign=sign)
        self.publish(self.inventory.set_node(cluster, info))

    def uncover(self, cluster: str, node: str, reason: UnreadReason | None, time: float = 1764000300.0) -> None:
        """Let no ready pod cover a node, for a reason, or let one cover it again."""
        self.publish(self.inventory.set_uncovered(Place(cluster, node), reason, time))

    def remove(self, cluster: str, node: str, time: float) -> None:
        self.publish(self.inventory.remove_node(Place(cluster, node), time))

    def keep(self, store: Store) -> None:
        """Record what happened so far, and from now on, as the service does."""
        self.collector.store = store
        for step in self.steps:
            store.history_writer.append(step)

    def break_store(self) -> None:
        """Let the store's file be one that cannot be read, as a failing disk does."""
        assert self.collector.store is not None
        path = Path(str(self.collector.store.database.location))
        for file in (path, path.with_name(path.name + "-wal")):
            file.write_bytes(b"x" * 4096)

    def publish(self, step: Step) -> None:
        """Publish the result of a step, as the app does."""
        self.collector.exposition.update(step.nodes)
        self.collector.recent_changes.add(step.changes)
        self.steps.append(step)
        if self.collector.store is not None:
            self.collector.store.history_writer.append(step)


@pytest.fixture
def site() -> Site:
    """Two clusters, one of them down, with three nodes."""
    return make_site()


def make_site() -> Site:
    """Return two clusters, one of them down, with three nodes."""
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
    return serve_site


@asynccontextmanager
async def serve_site(
    site: Site,
    *,
    verify: Any = True,
    cert: Any = None,
    limits: HttpLimits = DEFAULT_LIMITS,
    on_certificate: Callable[[Validity | None], None] = lambda _validity: None,
    **settings: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """Serve a site; gives a client for it."""
    url: list[str] = []
    bound = anyio.Event()

    def ready(address: str) -> None:
        url.append(address)
        bound.set()

    async def run_server() -> None:
        view: CollectorView = site.collector
        server = ServerSettings(listen=Listen("127.0.0.1:0"), **settings)
        await serve(view, server, ready=ready, limits=limits, on_certificate=on_certificate)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_server)
        with anyio.fail_after(25):
            await bound.wait()
        async with httpx.AsyncClient(base_url=url[0], verify=verify, cert=cert, timeout=60) as client:
            yield client
        tasks.cancel_scope.cancel()


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
    """The site, once without a store and once with one; returns which."""
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


READ_AT = 1764000000.0  # 2025-11-24T16:00:00Z
WELL, WORN = Health(row_remap_pending=False), Health(row_remap_pending=True)


def past_gpu(number: int, health: Health = WELL) -> Gpu:
    uuid, serial, module = f"GPU-c{number}", f"70{number}", str(number)
    return Gpu(uuid=uuid, serial=serial, model="NVIDIA H200", chassis="C7", module=module, health=health)


@pytest.fixture
async def past_client(site: Any, serving: Any, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A fleet with a cluster that is no longer configured, and one of whose GPUs moved after it became degraded."""
    async with (
        Store.open(StoreSettings(url=f"sqlite://{tmp_path}/gpuid.db"), clock=lambda: READ_AT) as store,
        anyio.create_task_group() as run,
    ):
        run.start_soon(store.run)
        site.keep(store)
        site.read("old", "n7", past_gpu(1), past_gpu(2), time=READ_AT + 60)
        site.read("old", "n7", past_gpu(1, WORN), past_gpu(2), time=READ_AT + 180)
        site.read("prod-a", "n10", past_gpu(1, WORN), time=READ_AT + 240)
        site.publish(site.inventory.remove_cluster("old", READ_AT + 300))
        async with serving(site) as client:
            yield client
        run.cancel_scope.cancel()
