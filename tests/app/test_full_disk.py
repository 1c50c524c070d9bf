"""`gpuid run` on a real full disk: it publishes, reports the problem, and catches up when there is room."""

import functools
import itertools
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from sqlalchemy import select

from collector.simulator import Placed, Simulator
from collector.store import OpenMode, Store, StoreSettings, schema
from tests.support import waiting
from tests.support.postgres import PostgresServer, postgres_on_small_disk
from tests.support.processes import CollectorProcess
from tests.support.small_disk import SmallDisk, small_disk

pytestmark = pytest.mark.anyio

SQLITE_MEGABYTES, POSTGRES_MEGABYTES = 4, 80  # an empty database of PostgreSQL is half of that
NODES, GPUS = 30, 8


@dataclass
class Site:
    """A store on a small disk, and the collector that records into it."""

    disk: SmallDisk
    url: str
    collector: CollectorProcess
    server: PostgresServer | None = None

    def configure(self, simulator: Simulator, *clusters: str) -> None:
        self.collector.configure(
            clusters,
            before=f'[defaults]\nkubeconfig = "{simulator.kubeconfig}"\n',
            after=f'[store]\nurl = "{self.url}"\n[sinks.log]\ntype = "stdout"\nbatch_age = "50ms"\n',
        )

    def make_room(self) -> None:
        """Also for PostgreSQL, which may have stopped: it must be able to write its log."""
        self.disk.make_room()
        if self.server is not None and not self.server.running:
            self.server.start()

    def store(self) -> tuple[float | None, float | None]:
        """Return whether it is up, and how many records wait for it."""
        return self.collector.total("gpuid_store_up"), self.collector.total("gpuid_store_pending_records")

    def _copy(self, folder: Path) -> None:
        for file in self.disk.seen_from_outside.glob("gpuid.db*"):
            (folder / file.name).write_bytes(file.read_bytes())

    async def recorded(self) -> list[tuple[str, str, str]]:
        """Return every open placement, from a copy where the test sees the file."""
        url = self.url
        with tempfile.TemporaryDirectory() as folder:
            if self.server is None:
                await anyio.to_thread.run_sync(self._copy, Path(folder))
                url = f"sqlite://{folder}/gpuid.db"
            async with (
                Store.open(StoreSettings(url=url), OpenMode.READER) as store,
                store.database.read() as connection,
            ):
                placed = schema.placements.c
                open_ones = select(placed.cluster, placed.node, placed.uuid).where(placed.until.is_(None))
                return list(map(tuple, await connection.execute(open_ones)))


@pytest.fixture(params=["sqlite", "postgres"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    collector = CollectorProcess(tmp_path)
    try:
        if request.param == "sqlite":
            with small_disk(tmp_path / "disk", megabytes=SQLITE_MEGABYTES) as disk:
                collector.command = disk.command(*collector.command)
                yield Site(disk, f"sqlite://{disk.path}/gpuid.db", collector)
                collector.stop(signal.SIGKILL)
        else:
            with postgres_on_small_disk(megabytes=POSTGRES_MEGABYTES) as (server, disk):
                yield Site(disk, server.new_database(), collector, server)
                collector.stop(signal.SIGKILL)
    finally:
        collector.stop(signal.SIGKILL)


async def eventually(answer: Callable[[], object], expected: object) -> None:
    """Wait until the collector answers this, asked in a thread: the simulator runs in this one's event loop."""
    await waiting.eventually(functools.partial(anyio.to_thread.run_sync, answer), expected)


def identities(placed: Sequence[Placed] | set[Placed]) -> list[tuple[str, str, str]]:
    return sorted((one.cluster, one.node, one.uuid) for one in placed)


async def test_everything_is_eventually_published_and_recorded(site: Site, tmp_path: Path) -> None:
    async with Simulator(
        clusters=3, nodes=NODES, gpus=GPUS, latency=0.01, directory=tmp_path / "simulator"
    ) as simulator:
        collector, expected = site.collector, simulator.fleet.expected
        site.configure(simulator, "sim-0")
        collector.start()
        await eventually(collector.gpus, expected("sim-0"))
        await eventually(site.store, (1.0, 0.0))

        await anyio.to_thread.run_sync(site.disk.fill)
        site.configure(simulator, "sim-0", "sim-1")  # some hundred changes more
        await eventually(collector.gpus, expected("sim-0", "sim-1"))
        nodes = itertools.cycle([("gpu-0001", "gpu-0002"), ("gpu-0002", "gpu-0001")])

        async def up_on_a_full_disk() -> float | None:
            await anyio.to_thread.run_sync(site.disk.fill)  # PostgreSQL gives up what it no longer needs
            simulator.clusters["sim-0"].move_gpu(*next(nodes))
            return (await anyio.to_thread.run_sync(site.store))[0]

        await waiting.eventually(up_on_a_full_disk, 0.0)
        await eventually(collector.gpus, expected("sim-0", "sim-1"))
        assert collector.logged("store unavailable")

        site.configure(simulator, *simulator.clusters)
        if site.server is None:  # PostgreSQL stops once it cannot write its log, and leaves nothing to start with
            assert collector.stop() == 0
            await anyio.to_thread.run_sync(site.disk.fill)  # what was given up may have left some room
            collector.start()
        await eventually(collector.gpus, expected())
        if site.server is None:  # PostgreSQL finds room in what it had begun to write
            await eventually(lambda: site.store()[0], 0.0)

        await anyio.to_thread.run_sync(site.make_room)
        await eventually(site.store, (1.0, 0.0))
        await eventually(lambda: {record["uuid"] for record in collector.records()}, {one.uuid for one in expected()})
        assert sorted(await site.recorded()) == identities(expected())
        assert await anyio.to_thread.run_sync(collector.gpus) == expected()
        assert collector.total("gpuid_store_damaged_files") == 0
