"""What a shard costs: its mirror of the clusters that others read, its poll, and what PostgreSQL carries.

A real `gpuid run --shard 0 --total-shards 2` owns no cluster here: all that it needs beyond a collector with an empty
store is for the mirror. This process is shard 1: it records a fleet, and then reads its nodes again at a steady rate.
"""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
import asyncpg
import httpx
import msgspec
import tomli_w

from collector.model import Event, NodeState, Place, Step
from collector.sharding import Shard, shard_of
from collector.store import Store, StoreSettings
from tests.benchmarks.history import GPUS, change, gpu, state
from tests.benchmarks.processes import running, usage, wait
from tests.benchmarks.table import Row, amount, duration
from tests.support.postgres import postgres_running
from tests.support.processes import free_ports

SHARDS, OWN_NODES, OTHER_NODES = 10, 100_000, 900_000  # of 1,000 clusters × 1,000 nodes
RATE = 300  # nodes a second: a million, each once an hour
PATIENCE_SECONDS = 900.0
BATCH = 1_000  # nodes of one commit, more or less


class Load(NamedTuple):
    """What a process and the database do, on average."""

    cpu: float  # cores
    transactions: float  # a second
    rows: float  # that are read a second, indexes or not

    @property
    def database(self) -> str:
        return f"{self.transactions:.1f} transactions and {self.rows:,.0f} rows read a second"


def rows(*, small: bool = False) -> Iterator[Row]:
    """Run every case."""
    clusters, nodes = (2, 5) if small else (20, 1_000)
    with tempfile.TemporaryDirectory() as folder, postgres_running() as server:
        yield from anyio.run(_measure, Path(folder), (server.new_database(), server.new_database()), clusters, nodes)


async def _measure(folder: Path, urls: tuple[str, str], clusters: int, nodes: int) -> Sequence[Row]:
    empty, url = urls
    small = clusters * nodes < BATCH
    names = [name for name in (f"bench-{number}" for number in range(4 * clusters + 20)) if shard_of(name, 2) == 1]
    names = names[:clusters]
    fleet = list(_fleet(names, nodes))
    what = f"{clusters} clusters × {nodes:,} nodes × {GPUS} GPUs of another shard"
    found: list[Row] = []

    def add(name: str, ours: str, peer: str = "") -> None:
        found.append(Row(name, ours, peer, ""))

    with _shard_0(folder, empty, names) as (process, client):
        await anyio.to_thread.run_sync(_until_shown, process, client, 0)
        base = _memory(process.pid)
    async with _shard_1(url, names) as store:
        started = time.perf_counter()
        await _record(store, fleet)
        rate = len(fleet) * GPUS / (time.perf_counter() - started)
        add("changes of a shard into the history and the outbox, PostgreSQL", f"{rate:,.0f} a second")
        with _shard_0(folder, url, names) as (process, client):
            took = await anyio.to_thread.run_sync(_until_shown, process, client, len(fleet) * GPUS)
            add(f"{what}: start until all of it is shown", duration(took))
            mirror = (_memory(process.pid) - base) / len(fleet)
            add(f"{what}: memory of the mirror for each node", amount(mirror))
            seconds = 1.0 if small else 20.0
            quiet = await _load(process.pid, url, seconds)
            add(f"{what}: CPU of the mirror while nothing happens", f"{quiet.cpu:.1%} of one core")
            add(f"{what}: PostgreSQL while nothing happens", quiet.database)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_confirm, store, fleet, RATE)
                await anyio.sleep(1.0 if small else 5.0)
                busy = await _load(process.pid, url, seconds)
                tasks.cancel_scope.cancel()
            add(f"{what}, {RATE} read again each second: CPU of the mirror", f"{busy.cpu:.1%} of one core")
            add(f"{what}, {RATE} read again each second: PostgreSQL", busy.database)
    add(
        f"1,000 clusters × 1,000 nodes × {GPUS} GPUs on {SHARDS} shards: memory for the mirror in each, estimated",
        amount(OTHER_NODES * mirror),
    )
    return found


def _fleet(names: Sequence[str], nodes: int) -> Iterator[NodeState]:
    for index, name in enumerate(names):
        for number in range(nodes):
            first = (index * nodes + number) * GPUS
            gpus = [gpu(first + offset) for offset in range(GPUS)]
            yield state(Place(name, f"gpu-node-{number:04}"), gpus, time.time())


async def _record(store: Store, fleet: Sequence[NodeState]) -> None:
    for number, node in enumerate(fleet):
        changes = tuple(change(Event.APPEARED, one, node.place, node.time or 0.0) for one in node.gpus)
        store.history_writer.append(Step(nodes={node.place: node}, changes=changes))
        if number % BATCH == BATCH - 1:
            await store.history_writer.flushed(PATIENCE_SECONDS)
    assert await store.history_writer.flushed(PATIENCE_SECONDS)


async def _confirm(store: Store, fleet: Sequence[NodeState], rate: int) -> None:
    """Read this many nodes a second again, and find what was there."""
    started, done = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - started) * rate)
        for number in range(done, due):
            node = msgspec.structs.replace(fleet[number % len(fleet)], time=time.time())
            store.history_writer.append(Step(nodes={node.place: node}))
        done = due
        await anyio.sleep(0.1)


@asynccontextmanager
async def _shard_1(url: str, names: Sequence[str]) -> AsyncIterator[Store]:
    """Be the other shard, which owns all clusters."""
    async with (
        Store.open(StoreSettings(url=url), shard=Shard(1, 2), owned=set(names)) as store,
        anyio.create_task_group() as tasks,
    ):
        assert store.shards is not None
        assert await store.leadership.ask()
        await store.shards.take(names)
        store.history_writer.begin({})
        tasks.start_soon(store.run)
        tasks.start_soon(_keep_lease, store)
        yield store
        tasks.cancel_scope.cancel()


async def _keep_lease(store: Store) -> None:
    while True:
        await store.leadership.ask()
        await anyio.sleep(3.0)


@contextmanager
def _shard_0(folder: Path, url: str, names: Sequence[str]) -> Iterator[tuple["subprocess.Popen[Any]", httpx.Client]]:
    """Run the shard that is measured."""
    (port,) = free_ports(1)
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text('{"apiVersion": "v1", "kind": "Config"}')
    clusters = [{"context": name, "kubeconfig": str(kubeconfig)} for name in names]
    settings = {"server": {"listen": f"127.0.0.1:{port}"}, "store": {"url": url}, "clusters": clusters}
    (folder / "gpuid.toml").write_text(tomli_w.dumps(settings))
    command = [sys.executable, "-m", "collector", "run", "-c", folder / "gpuid.toml", "--log-level", "error"]
    command += ["--shard", "0", "--total-shards", "2"]
    with running(command) as process, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        yield process, client


def _until_shown(process: "subprocess.Popen[Any]", client: httpx.Client, gpus: int) -> float:
    """Wait until the API has all GPUs; returns the seconds that it took."""

    def shown() -> bool:
        answer = client.get("/api/v1/gpus", params={"limit": 1})
        return answer.status_code == 200 and answer.json()["total"] == gpus

    return wait(process, shown, seconds=PATIENCE_SECONDS)


async def _load(pid: int, url: str, seconds: float) -> Load:
    connection = await asyncpg.connect(url)
    try:
        before, cpu, started = await _counters(connection), usage(pid)[0], time.monotonic()
        await anyio.sleep(seconds)
        took = time.monotonic() - started
        after = await _counters(connection)
        return Load((usage(pid)[0] - cpu) / took, (after[0] - before[0]) / took, (after[1] - before[1]) / took)
    finally:
        await connection.close()


async def _counters(connection: "asyncpg.Connection[Any]") -> tuple[int, int]:
    query = "SELECT xact_commit, tup_returned + tup_fetched FROM pg_stat_database WHERE datname = current_database()"
    row = await connection.fetchrow(query)
    assert row is not None
    return row[0], row[1]


def _memory(pid: int) -> int:
    """Return the memory that a process has now."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
