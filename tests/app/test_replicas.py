"""Two `gpuid run` of the same clusters on one PostgreSQL and one webhook: nothing is lost, doubled or falsely gone."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from collector.simulator import Simulator
from collector.store import HistoricChange, OpenMode, PastPlacement, Store, StoreSettings
from tests.support.postgres import postgres_server
from tests.support.processes import CollectorProcess
from tests.support.receiver import Receiver, receiving
from tests.support.waiting import until

__all__ = ["postgres_server"]

FOLLOWED_SECONDS = 20.0
SLOW_MACHINE_SECONDS = 10.0  # more, for a machine that has other work
CLUSTERS, GPUS = ("sim-0", "sim-1"), 16


class Replica(CollectorProcess):
    """One collector of a site."""

    def __init__(self, site: "Site", name: str, clusters: tuple[str, ...]) -> None:
        super().__init__(site.folder, name)
        self.configure(
            clusters,
            before=f'[defaults]\nkubeconfig = "{site.simulator.kubeconfig}"\n',
            after=f'[store]\nurl = "{site.store}"\n'
            f'[sinks.hook]\ntype = "webhook"\nurl = "{site.receiver.url}"\nbatch_age = "50ms"\n',
        )

    def published(self) -> tuple[float | None, float | None, float | None]:
        """Return whether it leads, how many clusters are up, and how many GPUs there are."""
        return self.total("gpuid_store_leader"), self.total("gpuid_cluster_up"), self.total("gpuid_gpu_info")


class Site:
    """Two simulated clusters, a webhook receiver, and a store."""

    def __init__(
        self, folder: Path, simulator: Simulator, portal: BlockingPortal, receiver: Receiver, store: str
    ) -> None:
        self.folder, self.simulator, self.receiver, self.store = folder, simulator, receiver, store
        self.replicas: list[Replica] = []
        self._portal = portal

    def start(self, name: str, clusters: tuple[str, ...] = CLUSTERS) -> Replica:
        replica = Replica(self, name, clusters)
        self.replicas.append(replica)
        replica.start()
        return replica

    def move(self, cluster: str, node: str, to_node: str) -> None:
        self._portal.call(self.simulator.clusters[cluster].move_gpu, node, to_node)

    def delete(self, cluster: str, node: str) -> None:
        self._portal.call(self.simulator.clusters[cluster].delete_node, node)

    def delivered(self) -> list[tuple[str, str]]:
        """Return event and UUID of each record that the receiver accepted, each batch once.

        A leader that was killed before it could acknowledge a batch is followed by one that sends it again.
        """
        batches = {request.key: request.records for request in self.receiver.accepted}
        return [(record["event"], record["uuid"]) for records in batches.values() for record in records]

    def recorded(self) -> list[HistoricChange]:
        async def changes() -> list[HistoricChange]:
            async with Store.open(StoreSettings(url=self.store), OpenMode.READER) as store:
                return await store.history.changes(limit=100_000)

        return anyio.run(changes)

    def expire(self) -> None:
        """Let the time of the lease be over, as it is some seconds after its holder was killed."""

        async def expire() -> None:
            settings = StoreSettings(url=self.store)
            async with Store.open(settings, OpenMode.OPERATOR) as store, store.database.write() as connection:
                await connection.exec_driver_sql("UPDATE gpuid_leases SET expires = 0")

        anyio.run(expire)

    def present(self) -> list[tuple[str, str, str]]:
        """Every open placement as (cluster, node, UUID)."""

        async def placements() -> list[PastPlacement]:
            async with Store.open(StoreSettings(url=self.store), OpenMode.READER) as store:
                found = await store.load()
                names = sorted({node.place.node for node in found.nodes})
                return [one for name in names for one in await store.history.node(name)]

        return sorted((one.cluster, one.node, one.uuid) for one in anyio.run(placements) if one.until is None)

    def expected(self, clusters: tuple[str, ...] = CLUSTERS) -> list[tuple[str, str, str]]:
        found = self.simulator.fleet.expected()
        return sorted((one.cluster, one.node, one.uuid) for one in found if one.cluster in clusters)


@pytest.fixture
def site(tmp_path: Path, postgres_server: object, request: pytest.FixtureRequest) -> Iterator[Site]:
    store = str(request.getfixturevalue("postgres_server").new_database())
    simulator = Simulator(clusters=2, nodes=2, gpus=4, latency=0.01, directory=tmp_path / "simulator")
    with (
        receiving() as receiver,
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(simulator),
    ):
        site = Site(tmp_path, simulator, portal, receiver, store)
        try:
            yield site
        finally:
            for replica in site.replicas:
                replica.stop(signal.SIGKILL)


def one_leads(*replicas: Replica) -> None:
    """Wait until all have read everything and one of the two leads."""
    until(lambda: sorted(map(Replica.published, replicas), key=str), [(0.0, 2.0, GPUS), (1.0, 2.0, GPUS)])


def all_is_told_once(site: Site, *, moves: int) -> None:
    """Wait until the history has these moves after the first inventory, and the receiver has the same changes."""

    def told() -> list[str]:
        """What happened, without a GPU's absence between its two nodes' readings."""
        later: dict[str, str] = {}  # what happened next to each GPU
        found = []
        for change in reversed(site.recorded()[GPUS:]):
            if (change.event, later.get(change.uuid)) != ("vanished", "moved"):
                found.append(change.event)
            later[change.uuid] = change.event
        return found

    until(told, ["moved"] * moves)
    until(lambda: len(site.delivered()), len(site.recorded()))
    assert sorted(site.delivered()) == sorted((change.event, change.uuid) for change in site.recorded())
    assert site.present() == site.expected()


def test_when_the_leader_is_killed_the_standby_takes_over(site: Site) -> None:
    first = site.start("first")
    until(first.published, (1.0, 2.0, GPUS))
    second = site.start("second")
    until(second.published, (0.0, 2.0, GPUS))
    site.move("sim-0", "gpu-0000", "gpu-0001")
    all_is_told_once(site, moves=1)
    first.stop(signal.SIGKILL)
    site.move("sim-1", "gpu-0000", "gpu-0001")
    until(second.published, (1.0, 2.0, GPUS))
    all_is_told_once(site, moves=2)
    first = site.start("first")
    until(first.published, (0.0, 2.0, GPUS))
    site.move("sim-1", "gpu-0001", "gpu-0000")
    all_is_told_once(site, moves=3)
    second.stop(signal.SIGKILL)
    site.expire()
    until(first.published, (1.0, 2.0, GPUS))
    all_is_told_once(site, moves=3)


def test_a_frozen_leader_is_replaced_and_writes_nothing_on_resuming(site: Site) -> None:
    first = site.start("first")
    until(first.published, (1.0, 2.0, GPUS))
    second = site.start("second")
    until(second.published, (0.0, 2.0, GPUS))
    until(lambda: "standing by" in second.tail())
    site.move("sim-0", "gpu-0000", "gpu-0001")
    all_is_told_once(site, moves=1)
    first.send(signal.SIGSTOP)
    start = time.monotonic()
    site.move("sim-1", "gpu-0000", "gpu-0001")
    until(second.published, (1.0, 2.0, GPUS))
    assert time.monotonic() - start < FOLLOWED_SECONDS + SLOW_MACHINE_SECONDS
    all_is_told_once(site, moves=2)
    first.send(signal.SIGCONT)
    site.move("sim-0", "gpu-0001", "gpu-0000")
    until(first.published, (0.0, 2.0, GPUS))
    until(lambda: first.total("gpuid_store_has_leader"), 1.0)
    assert "[+]store leader: " in first.text("/readyz?verbose")
    assert "This collector is a standby: " in first.text("/")
    all_is_told_once(site, moves=3)
    assert site.delivered() == [(change.event, change.uuid) for change in site.recorded()]  # in order
    second.stop(signal.SIGTERM, seconds=30)
    start = time.monotonic()
    until(first.published, (1.0, 2.0, GPUS))
    assert time.monotonic() - start < SLOW_MACHINE_SECONDS  # at once: the lease was given back
    all_is_told_once(site, moves=3)


def test_a_rolling_update_changes_nothing(site: Site) -> None:
    old = site.start("old")
    until(old.published, (1.0, 2.0, GPUS))
    for number in range(3):
        new = site.start(f"new-{number}")
        until(new.published, (0.0, 2.0, GPUS))
        assert old.stop(signal.SIGTERM, seconds=30) == 0
        old = new
        until(old.published, (1.0, 2.0, GPUS))
        all_is_told_once(site, moves=0)
    site.move("sim-0", "gpu-0000", "gpu-0001")
    all_is_told_once(site, moves=1)


def test_killed_leaders_lose_and_duplicate_nothing(site: Site) -> None:
    one, other = site.start("one"), site.start("other")
    one_leads(one, other)
    until(lambda: len(site.recorded()), GPUS)
    there, back = "gpu-0000", "gpu-0001"
    for _ in range(3):
        leader = one if one.total("gpuid_store_leader") else other
        site.move("sim-0", there, back)
        leader.stop(signal.SIGKILL)
        site.expire()
        site.move("sim-1", there, back)
        there, back = back, there
        one, other = (other if leader is one else one), site.start("other" if leader is other else "one")
        one_leads(one, other)
    all_is_told_once(site, moves=6)


def test_a_standby_with_other_clusters_erases_nothing_before_leading(site: Site) -> None:
    first = site.start("first")
    until(first.published, (1.0, 2.0, GPUS))
    fewer = site.start("fewer", CLUSTERS[:1])
    until(fewer.published, (0.0, 1.0, GPUS / 2))
    all_is_told_once(site, moves=0)
    first.stop()
    until(fewer.published, (1.0, 1.0, GPUS / 2))
    until(lambda: [change.event for change in site.recorded()[GPUS:]], ["vanished"] * (GPUS // 2))
    assert site.present() == site.expected(CLUSTERS[:1])
