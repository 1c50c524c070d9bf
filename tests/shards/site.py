"""A fleet that several `gpuid run` share: simulated clusters, one PostgreSQL and one webhook."""

import itertools
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import httpx
from anyio.from_thread import BlockingPortal

from collector.sharding import shard_of
from collector.simulator import Simulator
from collector.store import HistoricChange, OpenMode, Store, StoreSettings
from tests.support.processes import CollectorProcess
from tests.support.receiver import Receiver
from tests.support.waiting import until

__all__ = ["CLUSTERS", "GPUS_OF_A_NODE", "NODES", "Move", "ShardProcess", "Site"]

CLUSTERS = tuple(f"sim-{number}" for number in range(6))
NODES, GPUS_OF_A_NODE = 3, 8
QUIET_SECONDS = 5.0  # without a reading, after which none is under way
LOAD_SECONDS = 0.5  # between two moves

Place = tuple[str, str, str]  # cluster, node and UUID of a GPU


class Move(NamedTuple):
    """A GPU, or a board of two, that went to another node."""

    uuids: list[str]
    source: tuple[str, str]
    target: tuple[str, str]


class ShardProcess(CollectorProcess):
    """One process; shard `shard` of `total`, or without shards where that is None."""

    def __init__(self, site: "Site", name: str, shard: int | None, total: int) -> None:
        super().__init__(site.folder, name)
        self.shard, self.total_shards = shard, total
        if shard is not None:
            self.command += ["--shard", str(shard), "--total-shards", str(total)]
        self.configure(
            CLUSTERS,
            before=f'[defaults]\nkubeconfig = "{site.simulator.kubeconfig}"\n',
            after=f'[store]\nurl = "{site.store}"\n'
            f'[sinks.hook]\ntype = "webhook"\nurl = "{site.receiver.url}"\nbatch_age = "50ms"\n',
        )

    @property
    def hashed(self) -> set[str]:
        """The clusters that it has if all shards run."""
        return {name for name in CLUSTERS if shard_of(name, self.total_shards) == (self.shard or 0)}

    def series_of(self) -> set[str]:
        """Return the clusters that its series are of."""
        return set(self.up())

    def targets(self) -> set[str | None]:
        """Return the clusters that it lists for scrapers."""
        return {one["labels"].get("cluster") for one in self.api("/sd")}

    def seen(self) -> set[Place]:
        """Return every GPU that its API has, in the whole fleet."""
        rows = (self.api("/api/v1/gpus?limit=1000") or {}).get("gpus", ())
        return {(row["cluster"], row["node"], row["uuid"]) for row in rows if not row.get("claim")}

    def states(self) -> dict[str, tuple[str, int | None]]:
        """Return the state of each cluster, and which shard reads it."""
        rows = (self.api("/api/v1/clusters") or {}).get("clusters", ())
        return {row["cluster"]: (row["state"], row.get("shard")) for row in rows}

    def expected_states(self) -> dict[str, tuple[str, int | None]]:
        """Return what `states` is if all shards run and all clusters are up."""
        return {name: ("up", None if self.shard is None else shard_of(name, self.total_shards)) for name in CLUSTERS}

    def unowned(self) -> set[str]:
        """Return the clusters that no shard reads, as it sees it."""
        return {name for name, state in self.states().items() if state == ("unowned", None)}

    def problems(self) -> list[str]:
        """Return the titles of its problems."""
        return [one["title"] for one in (self.api("/api/v1/problems") or {}).get("problems", ())]

    def ready(self) -> bool:
        """Return whether it is ready."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=30).status_code == 200
        except httpx.TransportError:
            assert self.running, self.tail()
            return False

    def api(self, path: str) -> Any:
        """Return what a path answers as JSON; None while nobody listens."""
        try:
            return httpx.get(f"{self.url}{path}", timeout=30).json()
        except httpx.TransportError:
            assert self.running, self.tail()
            return None


class Site:
    """The clusters, the store and the receiver, and the processes."""

    def __init__(
        self, folder: Path, simulator: Simulator, portal: BlockingPortal, receiver: Receiver, store: str
    ) -> None:
        self.folder, self.simulator, self.receiver, self.store = folder, simulator, receiver, store
        self.processes: list[ShardProcess] = []
        self.moves: list[Move] = []
        self._portal = portal
        self._settled: dict[tuple[str, str], list[str]] = {}  # the GPUs of each node that have not moved
        for one in sorted(simulator.fleet.expected()):
            self._settled.setdefault((one.cluster, one.node), []).append(one.uuid)

    def start(self, shard: int | None = None, total: int = 1, *, name: str = "") -> ShardProcess:
        """Start a process, and return it at once."""
        process = ShardProcess(self, name or f"p{len(self.processes)}-{shard}-of-{total}", shard, total)
        self.processes.append(process)
        process.start()
        return process

    def start_all(self, total: int) -> list[ShardProcess]:
        """Start all shards, and wait until each has its clusters and knows the fleet."""
        shards = [self.start(shard, total) for shard in range(total)]
        self.settled(shards)
        return shards

    def roll(self, running: Sequence[ShardProcess], total: int) -> list[ShardProcess]:
        """Change the number of shards (1: none) as a StatefulSet does: from the last one on, each once it is ready."""
        started: list[ShardProcess] = []
        for old in reversed(running[total:]):
            assert old.stop(signal.SIGTERM, seconds=30) == 0
        for shard in reversed(range(total)):
            if shard < len(running):
                assert running[shard].stop(signal.SIGTERM, seconds=30) == 0
            started.insert(0, self.start(shard if total > 1 else None, total))
            until(started[0].ready)
        return started

    def settled(self, shards: Sequence[ShardProcess]) -> None:
        """Wait until each has only its own clusters, and all of them know the place of every GPU."""
        for one in shards:
            until(one.series_of, one.hashed)
        for one in shards:
            until(lambda: one.seen() ^ self.expected(), set())  # noqa: B023  used at once
            until(one.states, one.expected_states())

    def move(self, cluster: str, node: str, to_cluster: str, to_node: str) -> Move:
        """Move a GPU (or a board of two) that has not moved before; the nodes reboot."""
        uuid = self._settled[cluster, node].pop()
        done = self._portal.call(self.simulator.clusters[cluster].move_gpu, node, to_node, to_cluster, uuid)
        self._settled[cluster, node] = [one for one in self._settled[cluster, node] if one not in done.gpus]
        move = Move(list(done.gpus), (cluster, node), (to_cluster, to_node))
        self.moves.append(move)
        return move

    def double(self, cluster: str, node: str, to_cluster: str, to_node: str) -> list[str]:
        """Let a node of another cluster report a GPU as well, from its next reading on."""
        return self._portal.call(self.simulator.fleet.double, cluster, node, to_cluster, to_node)

    def restart_pod(self, cluster: str, node: str) -> None:
        """Have a node read again."""
        self._portal.call(self.simulator.clusters[cluster].restart_pod, node)

    @contextmanager
    def load(self) -> Iterator[None]:
        """Move one GPU after the other during the block, each of them once and most of them to other shards."""
        ended = threading.Event()

        def run() -> None:
            for source, target in _routes():
                if ended.wait(LOAD_SECONDS) or len(self._settled[source]) <= 2:
                    return  # a board of two stays in each node
                self.move(*source, *target)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def expected(self) -> set[Place]:
        """Return the placement of every GPU."""
        return {(one.cluster, one.node, one.uuid) for one in self.simulator.fleet.expected()}

    def execs(self) -> Counter[tuple[str, str]]:
        """Return how often each node has been read."""
        return Counter(
            {
                (name, node): count
                for name, cluster in self.simulator.clusters.items()
                for node, count in cluster.counters.execs.items()
            }
        )

    def quiet_execs(self) -> Counter[tuple[str, str]]:
        """Return how often each node has been read, once none has been for some seconds."""
        last = self.execs()

        def unchanged() -> bool:
            nonlocal last
            time.sleep(QUIET_SECONDS)
            before, last = last, self.execs()
            return before == last

        until(unchanged)
        return last

    def most_at_once(self) -> int:
        """Return how often any node was read at the same time, at most."""
        return max(cluster.counters.peak_execs_per_node for cluster in self.simulator.clusters.values())

    def recorded(self) -> list[HistoricChange]:
        """Return every change of the history, the oldest first."""

        async def changes() -> list[HistoricChange]:
            async with Store.open(StoreSettings(url=self.store), OpenMode.READER) as store:
                return await store.history.changes(limit=100_000)

        return anyio.run(changes)

    def told(self) -> Counter[tuple[str, str]]:
        """Count where each GPU came from and went, without its absence between its two nodes."""
        later: dict[str, str] = {}  # what happened next to each GPU
        found: Counter[tuple[str, str]] = Counter()
        places = [change for change in self.recorded() if change.event in ("appeared", "moved", "vanished")]
        for change in reversed(places):
            if (change.event, later.get(change.uuid)) != ("vanished", "moved"):
                found[change.event, change.uuid] += 1
            later[change.uuid] = change.event
        return found

    def moved(self) -> Counter[tuple[str, str]]:
        """Return what `told` should return: each GPU appeared once, and moved as often as it did."""
        appeared = {("appeared", uuid): 1 for _cluster, _node, uuid in self.expected()}
        return Counter(appeared) + Counter(("moved", uuid) for move in self.moves for uuid in move.uuids)

    def all_is_told_once(self) -> None:
        """Wait until the history has every move once, and the receiver has the history."""
        until(lambda: _differences(self.told(), self.moved()), {})
        changes = Counter((one.event, one.uuid, one.cluster, one.node) for one in self.recorded())
        until(lambda: _differences(self.delivered(), changes), {})
        self.keys_stand_for_their_records()

    def delivered(self) -> Counter[tuple[str, str, str, str]]:
        """Count the records that the receiver accepted, each batch once however often it came."""
        batches = {request.key: request.records for request in self.receiver.accepted}
        return Counter(
            (one["event"], one["uuid"], one["cluster"], one["node"]) for records in batches.values() for one in records
        )

    def keys_stand_for_their_records(self) -> None:
        """Check that a batch which came again was the same one."""
        batches: dict[str, list[dict[str, str]]] = {}
        for request in self.receiver.accepted:
            assert batches.setdefault(request.key, request.records) == request.records

    def expire(self, *leases: str) -> None:
        """Let the time of these leases be over, as it is some seconds after their holder was killed."""

        async def expire() -> None:
            settings = StoreSettings(url=self.store)
            async with Store.open(settings, OpenMode.OPERATOR) as store, store.database.write() as connection:
                for lease in leases:
                    await connection.exec_driver_sql(f"UPDATE gpuid_leases SET expires = 0 WHERE name = '{lease}'")

        anyio.run(expire)


def _routes() -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Yield from where to where GPUs go, again and again: from each node to one of the next cluster."""
    for number in itertools.count():
        cluster, node = number % len(CLUSTERS), number // len(CLUSTERS) % NODES
        yield (CLUSTERS[cluster], f"gpu-{node:04d}"), (CLUSTERS[(cluster + 1) % len(CLUSTERS)], f"gpu-{node:04d}")


def _differences(found: Counter[Any], wanted: Counter[Any]) -> dict[Any, tuple[int, int]]:
    """Return what is not as it should be, as (found, wanted)."""
    return {key: (found[key], wanted[key]) for key in found | wanted if found[key] != wanted[key]}
