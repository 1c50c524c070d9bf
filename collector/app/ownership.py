"""Which clusters this shard reads and records: takes those assigned to it, and releases those that no longer are.

Each shard has the whole fleet in its inventory: its own clusters from readings, and all others as their owners recorded
them (`collector.app.mirror`). So a cluster changes hands without being read again. The new owner first takes the
cluster's row in the store, after which no other shard can record anything about it; then loads what the previous owner
had recorded by then; and then starts to read what has changed since.

If another process holds a shard's lease, this process mirrors all clusters and reads none, unlike a standby without
shards. So each cluster has one reader, and no inventory has to be reconciled: a take-over works like a start.

A GPU that moves between shards causes two changes: the shard that it left records `vanished`, and the new one records
`moved`. The first could be omitted only if a shard knew what another one is about to record.
"""

import logging
from collections.abc import Callable, Collection, Sequence

import anyio
from anyio.abc import TaskGroup

from collector.app.cluster_reports import ClusterReports
from collector.app.clusters import Clusters
from collector.app.collected import CollectedClusters
from collector.app.mirror import Mirror
from collector.app.publisher import Publisher
from collector.app.shard_fleet import ShardFleet
from collector.app.shard_leases import ShardLeases
from collector.config import ClusterSettings
from collector.exposition import Exposition
from collector.inventory import MirroringInventory
from collector.model import Place
from collector.store import LostLeadershipError, ShardStore, Store, StoreError
from collector.text import counted

__all__ = ["Ownership"]

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0  # between two polls for news
CLUSTERS_AT_ONCE = 50  # clusters taken in one transaction


class Ownership:
    """The loop of a shard; what fails because of the store is retried."""

    def __init__(
        self,
        store: Store,
        shards: ShardStore,
        fleet: ShardFleet,
        mirror: Mirror,
        *,
        clusters: Clusters,
        collected: CollectedClusters,
        inventory: MirroringInventory,
        publisher: Publisher,
        exposition: Exposition,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._shards = shards
        self._fleet = fleet
        self._mirror = mirror
        self._clusters = clusters
        self._collected = collected
        self._inventory = inventory
        self._publisher = publisher
        self._exposition = exposition
        self._clock = clock
        self._tasks: TaskGroup | None = None  # for the clusters
        self._working = anyio.Lock()
        self._token = ""  # of the lease under which the clusters were taken
        self._outdated = False  # a collector without shards has recorded meanwhile, which numbers nothing
        self._to_load: set[str] = set()  # clusters of which all is to be taken from the store
        self._leaving: set[str] = set()  # own clusters that the configuration has no more, while that is recorded
        self._leases = ShardLeases(store, shards.shard, on_idle=mirror.questions.wanted.set)
        self._reports = ClusterReports(shards, collected)

    async def configure(self, clusters: Sequence[ClusterSettings], tasks: TaskGroup) -> None:
        """Set the clusters of the installation; those that this shard reads run in `tasks`."""
        async with self._working:
            is_first, self._tasks = self._tasks is None, tasks
            before = self._fleet.configured
            self._fleet.configured = {one.name: one for one in clusters}
            gone, new = before.keys() - self._fleet.configured.keys(), self._fleet.configured.keys() - before.keys()
            if not is_first:  # otherwise they are loaded
                self._to_load |= new - self._shards.owned
            self._leaving = (self._leaving | (gone & self._shards.owned)) - new
            # A process that ends before it has recorded that they are gone leaves that to the next one of its shard.
            self._mirror.orphans |= {name for name in gone - self._shards.owned if self._shards.shard.reads(name)}
            self._mirror.orphans -= new
            await self._run_clusters()
            for name in gone - self._shards.owned:
                self._publisher.publish(self._inventory.remove_cluster(name, self._clock()))

    def found(self, recorded: Collection[str], *, by_unsharded: bool) -> None:
        """Note of which clusters something is recorded: this shard ends those of its own that are not configured.

        `by_unsharded` says whether a collector without shards still records.
        """
        self._outdated = by_unsharded
        self._mirror.orphans = {
            name for name in recorded if self._shards.shard.reads(name)
        } - self._fleet.configured.keys()

    async def run(self) -> None:
        """Own clusters until cancelled."""
        async with anyio.create_task_group() as tasks:
            # Separate, because loading from the store can take longer than a lease lasts.
            tasks.start_soon(self._leases.run, name="shard: leases")
            while True:
                try:
                    async with self._working:
                        await self._work()
                    self._store.health.succeeded("shards")
                except LostLeadershipError:
                    log.debug("lost the shard's lease to another process")
                except StoreError as error:
                    self._store.health.failed("shards", str(error))
                self._mirror.questions.wanted.clear()
                with anyio.move_on_after(POLL_SECONDS):
                    await self._mirror.questions.wanted.wait()

    async def _work(self) -> None:
        leadership, shards = self._store.leadership, self._shards
        if not leadership.recording or leadership.token != self._token:
            await self._lose(set(shards.owned))  # another process of the shard may have had them in the meantime
        await self._load()
        if leadership.held and (not leadership.recording or leadership.token != self._token):
            self._token = leadership.token
            self._store.history_writer.begin({})
        await self._mirror.poll()
        await self._follow_unsharded()
        taken_away = {name for name in shards.owned if not self._is_own(name)}
        await self._lose((shards.lost | taken_away) & shards.owned)
        shards.lost.clear()
        await self._load()
        if leadership.held and leadership.recording:
            await self._take()
            await self._end()
            await self._reports.send()
        await self._mirror.questions.send()

    async def _load(self) -> None:
        """Take from the store all that is recorded of the clusters that are to be loaded."""
        if self._to_load:
            await self._mirror.load(self._to_load)
            self._to_load.clear()

    async def _follow_unsharded(self) -> None:
        """Load what a collector without shards has recorded, once it has ended: nothing of that could be mirrored."""
        if self._fleet.unsharded_leads:
            self._outdated = True
        elif self._outdated:
            await self._mirror.load_all()
            self._outdated = False

    def _is_own(self, cluster: str) -> bool:
        row, leadership = self._fleet.rows.get(cluster), self._store.leadership
        return row is not None and (row.lease, row.token) == (leadership.name, leadership.token)

    async def _take(self) -> None:
        """Take the clusters that are assigned to this shard and have no other owner."""
        free = [
            name
            for name in (*self._fleet.configured, *self._mirror.orphans)
            if name not in self._shards.owned and self._shards.shard.reads(name) and self._fleet.may_take(name)
        ]
        for start in range(0, len(free), CLUSTERS_AT_ONCE):
            if taken := await self._shards.take(free[start : start + CLUSTERS_AT_ONCE]):
                await self._mirror.poll()  # what the previous owner had recorded by then
                await self._mirror.load(taken & self._mirror.orphans)
                await self._mirror.questions.take(taken)
                for name in taken:
                    self._own(name)
                await self._run_clusters()
                log.info("reading %s", counted(len(taken), "more cluster"), extra={"shard": self._shards.shard.index})
        for name in self._mirror.orphans & self._shards.owned:
            self._mirror.orphans.discard(name)
            self._leaving.add(name)
            self._publisher.publish(self._inventory.remove_cluster(name, self._clock()))

    def _own(self, cluster: str) -> None:
        """Record a cluster from now on, after all its records have been loaded."""
        self._shards.owned.add(cluster)
        self._reports.forget(cluster)
        self._publisher.publish(self._inventory.forget_unread(cluster))
        self._exposition.update({Place(cluster, name): node for name, node in self._inventory.nodes(cluster).items()})

    async def _lose(self, clusters: Collection[str]) -> None:
        """Stop reading and recording some clusters; their state is then what others record."""
        if not clusters:
            return
        self._shards.owned.difference_update(clusters)
        self._leaving.difference_update(clusters)
        self._store.history_writer.lose(set(clusters))
        self._to_load.update(clusters & self._fleet.configured.keys())
        await self._run_clusters()
        for name in clusters:
            self._exposition.withdraw(name, list(self._inventory.nodes(name)))
        log.warning("lost %s to another process", counted(len(clusters), "cluster"))

    async def _run_clusters(self) -> None:
        """Run exactly the clusters that this shard owns."""
        if self._tasks is not None:
            own = [one for name, one in self._fleet.configured.items() if name in self._shards.owned]
            await self._clusters.release([name for name in self._collected if name not in self._shards.owned])
            await self._clusters.reconcile(own, self._tasks)

    async def _end(self) -> None:
        """Release the clusters that are no longer configured, once their removal is recorded."""
        if self._leaving and await self._store.history_writer.flushed(POLL_SECONDS):
            await self._shards.release(self._leaving)
            self._shards.owned.difference_update(self._leaving)
            self._leaving.clear()
