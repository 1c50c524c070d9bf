"""Two shards in this process on one PostgreSQL: what each reads and records, and what both know."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import pytest

from collector.app import Service, load
from collector.config import Config
from collector.model import ClusterState
from collector.sharding import UNSHARDED, Shard, shard_of
from collector.simulator import Simulator
from collector.store import HistoricChange, OpenMode, Store, StoreSettings
from tests.support.postgres import postgres_server
from tests.support.waiting import eventually

__all__ = ["postgres_server"]

pytestmark = pytest.mark.anyio

CLUSTERS = ("sim-0", "sim-1")  # the first is read by shard 0 of two, the second by shard 1
GPUS = 16
SECONDS = 60.0


class Site:
    """Two simulated clusters, and the store of the shards that read them."""

    def __init__(self, folder: Path, simulator: Simulator, url: str) -> None:
        self.simulator = simulator
        self.url = url
        self._path = folder / "gpuid.toml"
        self._path.write_text(
            f'[server]\nlisten = "127.0.0.1:0"\n[store]\nurl = "{url}"\n'
            f'[defaults]\nkubeconfig = "{simulator.kubeconfig}"\n'
            + "".join(f'[[clusters]]\ncontext = "{name}"\n' for name in CLUSTERS)
        )

    def without(self, cluster: str) -> Path:
        """Return the path of a configuration that does not have one of the clusters."""
        path = self._path.with_suffix(".less.toml")
        path.write_text(self._path.read_text().replace(f'[[clusters]]\ncontext = "{cluster}"\n', ""))
        return path

    @property
    def config(self) -> Config:
        return load(self._path)

    @asynccontextmanager
    async def running(self, shard: Shard, ends: anyio.CancelScope | None = None) -> AsyncIterator[Service]:
        """Run a process until the end of the block, or until `ends` is cancelled."""
        service = Service(self.config, shard=shard)

        async def run() -> None:
            with ends or anyio.CancelScope():
                await service.run(ready=lambda _url: None)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            yield service
            tasks.cancel_scope.cancel()

    async def recorded(self) -> list[HistoricChange]:
        async with Store.open(StoreSettings(url=self.url), OpenMode.READER) as store:
            return await store.history.changes(limit=10_000)

    async def events(self) -> list[tuple[str, str, str | None]]:
        """Return what was recorded after the first inventory: event, cluster, and the cluster before."""
        return [
            (change.event, change.cluster, change.previous and change.previous.cluster)
            for change in (await self.recorded())[GPUS:]
        ]

    async def present(self) -> list[tuple[str, str, str]]:
        """Return every open placement as (cluster, node, UUID)."""
        async with Store.open(StoreSettings(url=self.url), OpenMode.READER) as store:
            names = sorted({node.place.node for node in (await store.load()).nodes})
            found = [one for name in names for one in await store.history.node(name)]
        return sorted((one.cluster, one.node, one.uuid) for one in found if one.until is None)

    def expected(self) -> list[tuple[str, str, str]]:
        return sorted((one.cluster, one.node, one.uuid) for one in self.simulator.fleet.expected())


@pytest.fixture
async def site(tmp_path: Path, postgres_server: object, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    url = str(request.getfixturevalue("postgres_server").new_database())
    async with Simulator(clusters=2, nodes=2, gpus=4, latency=0.01, directory=tmp_path / "simulator") as simulator:
        yield Site(tmp_path, simulator, url)


@pytest.fixture
async def two(site: Site) -> AsyncIterator[tuple[Service, Service]]:
    async with AsyncExitStack() as stack:
        shards = [await stack.enter_async_context(site.running(Shard(index, 2))) for index in range(2)]
        await eventually(lambda: [fleet(shard) for shard in shards], [site.expected()] * 2, seconds=SECONDS)
        yield shards[0], shards[1]


def fleet(shard: Service) -> list[tuple[str, str, str]]:
    """Return the placements known to a shard: cluster, node and UUID."""
    inventory = shard.inventory
    return sorted(
        (cluster, name, gpu.uuid)
        for cluster in list(inventory.clusters())
        for name, node in inventory.nodes(cluster).items()
        for gpu in node.gpus
    )


def stands_by(service: Service) -> bool:
    """Return whether a process knows which other one records instead of it."""
    status = service.view().lead_status
    return status is not None and not status.leads and status.holder != ""


def is_settled(site: Site, shards: tuple[Service, ...]) -> Callable[[], bool]:
    """Return whether all shards know where each GPU is, and nobody claims one."""

    def settled() -> bool:
        expected = site.expected()
        return all(fleet(one) == expected and not any(map(one.inventory.claims, CLUSTERS)) for one in shards)

    return settled


async def test_each_shard_reads_its_own_clusters_and_knows_the_whole_fleet(site: Site, two: tuple[Service, Service]):
    assert [shard_of(name, 2) for name in CLUSTERS] == [0, 1]
    assert [list(one.clusters) for one in two] == [["sim-0"], ["sim-1"]]
    assert await site.present() == site.expected()
    assert len(await site.recorded()) == GPUS
    text = [b"".join((await one.exposition.scrape()).chunks).decode() for one in two]
    for own, other in ((0, 1), (1, 0)):
        assert text[own].count(f'gpuid_gpu_info{{cluster="sim-{own}"') == GPUS / 2
        assert f'cluster="sim-{other}"' not in text[own]


async def test_a_gpu_that_moves_between_shards_moves_once(site: Site, two: tuple[Service, Service]):
    site.simulator.clusters["sim-0"].move_gpu(to_cluster="sim-1")
    await eventually(is_settled(site, two), True, seconds=SECONDS)
    await eventually(site.present, site.expected(), seconds=SECONDS)
    events = await site.events()
    assert events.count(("moved", "sim-1", "sim-0")) == 1
    assert set(events) <= {("moved", "sim-1", "sim-0"), ("vanished", "sim-0", None)}
    times = [change.time for change in (await site.recorded())[GPUS:]]
    assert times == sorted(times)


async def test_a_gpu_in_two_shards_is_in_conflict_for_both(site: Site, two: tuple[Service, Service]):
    first, second = (site.simulator.clusters[name] for name in CLUSTERS)
    site.simulator.fleet.double("sim-0", first.nodes[0], "sim-1", second.nodes[0])
    second.reboot_node(second.nodes[0])
    await eventually(
        lambda: [[one.inventory.conflicts(name) for name in CLUSTERS] for one in two], [[1, 1]] * 2, seconds=SECONDS
    )
    # The GPU that was in its place there is gone.
    assert await site.events() == [("vanished", "sim-1", None), ("appeared", "sim-1", None)]


async def test_a_shard_that_stops_leaves_its_clusters_unowned(site: Site):
    async with site.running(Shard(0, 2)) as first:
        async with site.running(Shard(1, 2)):
            await eventually(lambda: fleet(first), site.expected(), seconds=SECONDS)
            await eventually(lambda: first.view().statuses["sim-1"].state, ClusterState.UP, seconds=SECONDS)
        await eventually(lambda: first.view().statuses["sim-1"].state, ClusterState.UNOWNED, seconds=SECONDS)
        owner = first.view().owner("sim-1")
        assert owner is not None
        assert owner.shard is None


async def test_a_restarted_shard_ends_clusters_no_longer_configured(site: Site):
    ends = anyio.CancelScope()
    async with site.running(Shard(1, 2), ends) as first:
        await eventually(lambda: len(fleet(first)), GPUS // 2, seconds=SECONDS)
        await eventually(site.present, [one for one in site.expected() if one[0] == "sim-1"], seconds=SECONDS)
        async with site.running(Shard(1, 2)) as standby:
            await eventually(lambda: stands_by(standby), True, seconds=SECONDS)
            await standby.reload(site.without("sim-1"))
            assert await site.present()
            ends.cancel()  # before it has read the new configuration
            await eventually(site.present, [], seconds=SECONDS)


async def test_only_its_new_shard_records_a_transferred_cluster(site: Site, two: tuple[Service, Service]):
    before = len(await site.recorded())
    settings = StoreSettings(url=site.url)
    async with Store.open(settings, shard=Shard(2, 3)) as thief:
        assert thief.shards is not None
        assert await thief.shards.take({"sim-1"}) == set()  # its owner's lease is good
        async with thief.database.write() as connection:
            await connection.exec_driver_sql("UPDATE gpuid_leases SET expires = 0 WHERE name = 'shard-1'")
        while not (taken := await thief.shards.take({"sim-1"})):  # the owner renews its lease all the time
            async with thief.database.write() as connection:
                await connection.exec_driver_sql("UPDATE gpuid_leases SET expires = 0 WHERE name = 'shard-1'")
        assert taken == {"sim-1"}
        site.simulator.clusters["sim-1"].move_gpu()
        await eventually(lambda: [len(one.clusters) for one in two], [1, 0], seconds=SECONDS)
        assert len(await site.recorded()) == before
        assert two[0].view().statuses["sim-1"].state in (ClusterState.UP, ClusterState.STARTING)
    # The other shard is gone, and the cluster is its own again.
    await eventually(lambda: [len(one.clusters) for one in two], [1, 1], seconds=SECONDS)
    await eventually(is_settled(site, two), True, seconds=SECONDS)
    await eventually(site.present, site.expected(), seconds=SECONDS)
    assert {event for event, _, _ in await site.events()} <= {"moved", "vanished"}


async def test_a_collector_can_become_sharded_and_unsharded(site: Site):
    ends = anyio.CancelScope()
    async with site.running(UNSHARDED, ends) as alone:
        await eventually(lambda: fleet(alone), site.expected(), seconds=SECONDS)
        await eventually(site.present, site.expected(), seconds=SECONDS)
        async with site.running(Shard(0, 2)) as first:
            await eventually(lambda: stands_by(first), True, seconds=SECONDS)
            assert not list(first.clusters)  # the other one still reads and records everything
            site.simulator.clusters["sim-1"].move_gpu(to_cluster="sim-0")
            await eventually(lambda: fleet(alone), site.expected(), seconds=SECONDS)
            await eventually(site.present, site.expected(), seconds=SECONDS)
            ends.cancel()
            # It knows of the other shard's cluster, which nobody reads yet, what the store has.
            await eventually(lambda: fleet(first), site.expected(), seconds=SECONDS)
            assert not any(map(first.inventory.conflicts, CLUSTERS))
    async with AsyncExitStack() as stack:
        two = [await stack.enter_async_context(site.running(Shard(index, 2))) for index in range(2)]
        await eventually(lambda: [len(one.clusters) for one in two], [1, 1], seconds=SECONDS)
        site.simulator.clusters["sim-0"].move_gpu(to_cluster="sim-1")
        await eventually(is_settled(site, tuple(two)), True, seconds=SECONDS)
    async with site.running(UNSHARDED) as alone:
        site.simulator.clusters["sim-1"].move_gpu(to_cluster="sim-0")
        await eventually(lambda: fleet(alone), site.expected(), seconds=SECONDS)
        await eventually(site.present, site.expected(), seconds=SECONDS)
    moved = [event for event in await site.events() if event[0] == "moved"]
    assert moved == [("moved", "sim-0", "sim-1"), ("moved", "sim-1", "sim-0"), ("moved", "sim-0", "sim-1")]
