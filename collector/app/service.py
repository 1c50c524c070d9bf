"""The composition root: builds everything from a configuration and runs it in one task group."""

import functools
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from collector import config as configuration
from collector import gc_freeze
from collector.collect.duplicates import Duplicate, DuplicateDetector
from collector.collect.supervisor import ClusterSupervisor
from collector.collect.watcher import ClusterWatcher
from collector.config import Config, ConfigError, following
from collector.delivery.delivery import Delivery
from collector.delivery.reconciler import SinkFollower
from collector.exposition import Exposition, Metrics
from collector.inventory import Inventory, NodeSnapshot
from collector.kube import kubeconfig
from collector.model import (
    Change,
    ClusterState,
    ClusterStatus,
    Event,
    NodeInfo,
    Place,
    ReadFailure,
    Reading,
    WatchRestart,
)
from collector.store import Backlog, Store, StoreStatus
from collector.views.recent_changes import RecentChanges, as_change
from collector.views.sink_status import SinkStatuses
from collector.web import CollectorView, serve

__all__ = ["Service", "load"]

log = logging.getLogger(__name__)

_FIXED = ("server", "metrics", "store")  # what is settled when the service starts
_LATEST = 1000  # changes of the history that the page shows after a restart
_DURABLE = 1.0  # seconds that an answer waits for what it says to be committed


def load(path: Path) -> Config:
    """Read a configuration and prove that its contexts exist; raises ConfigError."""
    config = configuration.load(path)
    try:
        kubeconfig.check(config.clusters)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


class Service:
    """One collector: the clusters of a configuration, their inventory, its history, the sinks, and HTTP.

    `listeners` are told of every change of the inventory; they are called on the event loop and must return at once.
    """

    def __init__(self, config: Config, *, listeners: Sequence[Callable[[Change], None]] = ()) -> None:
        self._config = config
        self._listeners = tuple(listeners)
        self._watches: dict[str, ClusterSupervisor] = {}
        self._touched: set[Place] = set()  # by the step of the inventory that is under way
        self._store: Store | None = None
        self._delivery: Delivery | None = None
        self._sinks: SinkFollower | None = None
        self._started = anyio.Event()  # once the first configuration is in force
        self._reloading = anyio.Lock()
        self._synced: dict[str, float] = {}  # Unix seconds
        self._identities = DuplicateDetector()
        self._latest = RecentChanges()
        self._sink_states = SinkStatuses()
        self.statuses: dict[str, ClusterStatus] = {}
        self.metrics = Metrics(cluster_label=config.metrics.cluster_label)
        self.inventory = Inventory(on_node=self._node_changed)
        self.exposition = Exposition(
            self.inventory,
            self.metrics,
            cluster_label=config.metrics.cluster_label,
            node_labels=config.metrics.node_labels,
        )

    async def run(self, *, ready: Callable[[str], None], reload_from: Path | None = None) -> None:
        """Serve until cancelled; `ready` is given the URL once HTTP answers.

        With `reload_from`, clusters follow that file whenever it changes. Raises ConfigError when HTTP cannot start.
        """
        async with AsyncExitStack() as stack:
            if self._config.store is not None:
                await self._remember(await stack.enter_async_context(Store.open(self._config.store)))
            context = CollectorView(
                inventory=self.inventory,
                exposition=self.exposition,
                statuses=self.statuses,
                clusters=self._watches.keys,
                synced=self._synced.get,
                refresh=self._refresh,
                cluster_label=self._config.metrics.cluster_label,
                history=self._store.history if self._store else None,
                durable=self._durable,
                recording=self._recording,
                latest=self._latest,
                sinks=self._sink_states,
            )
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(gc_freeze.run, name="garbage")
                self._tasks.start_soon(self.exposition.run, name="exposition")
                if self._store is not None and self._delivery is not None and self._sinks is not None:
                    self._tasks.start_soon(self._store.run, name="store")
                    self._tasks.start_soon(self._store.lead, self.inventory, self._adopt, name="store: lead")
                    self._tasks.start_soon(self._delivery.run, name="delivery")
                    self._tasks.start_soon(self._sinks.run, name="sinks: configuration")
                await self._follow(self._config.clusters)
                self._started.set()
                if reload_from is not None:
                    self._tasks.start_soon(self._reload_on_change, reload_from, name="configuration")
                try:
                    await serve(context, self._config.server, ready=ready)
                finally:
                    self._tasks.cancel_scope.cancel()

    async def reload(self, path: Path) -> None:
        """Put the clusters and sinks of the file at `path` in force; a bad file is refused and the old ones stay."""
        await self._started.wait()
        async with self._reloading:  # a signal and a changed file may come at once
            try:
                config = await anyio.to_thread.run_sync(load, path)
            except ConfigError as error:
                log.error("the new configuration is refused, the old one stays in force: %s", error)  # noqa: TRY400
                return
            if self._sinks is not None:
                await self._sinks.follow(config.sinks)
            if any(getattr(config, table) != getattr(self._config, table) for table in _FIXED):
                log.warning("changes of [server], [metrics] and [store] take effect at the next start")
            await self._follow(config.clusters)
            log.info("the configuration was read again", extra={"config": str(path)})

    # What the clusters tell (collector.collect.observer.Observer)

    def on_reading(self, reading: Reading, seconds: float) -> None:
        """Put a node's reading into the inventory."""
        if reading.cluster in self._identities.duplicates:  # it was on its way
            return
        self.metrics.read_succeeded(reading.cluster, seconds)
        before = self.inventory.node(Place(reading.cluster, reading.node.name))
        if before is not None and before.time is not None and before.time > reading.time:
            # It is the newest all the same: the clock was set back.
            reading = msgspec.structs.replace(reading, time=before.time)
        self._hand_on(self.inventory.apply(reading), reading)

    def on_read_failure(self, cluster: str, node: str, reason: ReadFailure) -> None:
        """Count a reading that failed, and keep that it did until the node's next one."""
        self.metrics.read_failed(cluster, reason)  # without the node: a label for each would not be bounded
        self.inventory.read_failed(Place(cluster, node), reason, time.time())

    def on_node(self, cluster: str, node: NodeInfo) -> None:
        """Keep what Kubernetes says of a node, unless it shows that its cluster is another one once more."""
        if cluster in self._identities.duplicates:
            return
        before = self.inventory.node(Place(cluster, node.name))
        if before is not None and before.node.uid != node.uid:
            self._release(self._identities.release(cluster, before.node))
        duplicate = self._identities.claim(cluster, node)
        if duplicate is not None:
            self._leave(duplicate)
        if duplicate is None or duplicate.cluster != cluster:
            self.inventory.set_node(cluster, node)
            self._hand_on(())

    def on_node_gone(self, cluster: str, node: str, time: float) -> None:
        """Take a node out of the inventory."""
        if (entry := self.inventory.node(Place(cluster, node))) is not None:
            self._release(self._identities.release(cluster, entry.node))
        self._hand_on(self.inventory.remove_node(Place(cluster, node), time))

    def on_status(self, status: ClusterStatus) -> None:
        """Publish how a cluster is."""
        if status.cluster in self._identities.duplicates and status.state is not ClusterState.DUPLICATE:
            return
        self.statuses[status.cluster] = status
        self.metrics.cluster_state(status.cluster, status.state)

    def on_synced(self, cluster: str, time: float) -> None:
        """Publish the last proof that a cluster's view is current."""
        if cluster in self._identities.duplicates:
            return
        self._synced[cluster] = time
        self.metrics.synced(cluster, time)

    def on_watch_restart(self, cluster: str, resource: str, reason: WatchRestart) -> None:
        """Count a reflector that had to start over."""
        self.metrics.watch_restarted(cluster, resource, reason)

    # What the sinks tell (collector.delivery.delivery.DeliveryObserver)

    def on_exported(self, sink: str, records: Mapping[str, int]) -> None:
        """Count the records that a sink took."""
        self.metrics.exported(sink, records)
        self._sink_states.exported(sink)

    def on_export_failure(self, sink: str, records: Mapping[str, int], reason: str) -> None:
        """Count the records that a sink did not take."""
        self.metrics.export_failed(sink, records, reason)
        self._sink_states.failed(sink, reason, time.time())

    def on_backlog(self, sink: str, backlog: Backlog) -> None:
        """Publish what a sink is owed."""
        self.metrics.backlog(sink, backlog.records, backlog.oldest, backlog.dead_letters)
        self._sink_states.owed(sink, backlog)

    # What follows from it

    async def _remember(self, store: Store) -> None:
        """Take up where the last run ended; clusters that are no longer configured end now, if it is ours to say."""
        configured = {cluster.name for cluster in self._config.clusters}
        with gc_freeze.frozen_after():
            remembered = await store.load()
            ghosts = {uuid: place for uuid, place in remembered.ghosts.items() if place.cluster in configured}
            nodes = [node for node in remembered.nodes if store.leads or node.place.cluster in configured]
            self.inventory.restore(nodes, ghosts)
            await self.exposition.refresh()  # before a hundred clusters' first requests, and so before the first scrape
        self._touched.clear()
        self._latest.add([as_change(change) for change in reversed(await store.history.latest_changes(limit=_LATEST))])
        self._store = store
        self.metrics.watch_store(
            up=lambda: store.recorder.status.up,
            pending=lambda: store.recorder.pending,
            lost=lambda: store.recorder.status.lost,
            leader=lambda: store.leads,
        )
        self._delivery = Delivery(store, self)
        await self._delivery.follow(self._config.sinks)
        self._sinks = SinkFollower(self._delivery, self._keep_sinks)
        for cluster in set(self.inventory.clusters()) - configured:
            self._drop(cluster)
        for cluster in self.inventory.clusters():
            for entry in self.inventory.nodes(cluster).values():
                self._identities.recall(cluster, entry.node)

    def _adopt(self, nodes: Sequence[NodeSnapshot]) -> None:
        """Take over what the collector that led recorded and this one has not seen yet."""
        unseen = set()
        for recorded in nodes:
            cluster = recorded.place.cluster
            if cluster in self._watches and cluster not in self._identities.duplicates:
                if self.inventory.node(recorded.place) is None:
                    unseen.add(cluster)
                    self._identities.recall(cluster, recorded.node)
                self._hand_on(self.inventory.adopt(recorded))
        for cluster in unseen:
            self._watches[cluster].renew()

    def _keep_sinks(self, sinks: Collection[str]) -> None:
        self.metrics.keep_sinks(sinks)
        self._sink_states.keep(sinks)

    async def _durable(self) -> None:
        """Wait until what was published is committed and no restart takes it back; not for a store in trouble."""
        if self._store is not None:
            await self._store.recorder.durable(_DURABLE)

    def _refresh(self, cluster: str) -> float:
        """Tell after how many seconds a cluster's readings are renewed; never while it is being removed."""
        watch = self._watches.get(cluster)
        return math.inf if watch is None else watch.cluster.refresh

    def _recording(self) -> StoreStatus:
        return StoreStatus() if self._store is None else self._store.recorder.status

    def _node_changed(self, place: Place) -> None:
        self.exposition.changed(place)
        self._touched.add(place)

    def _drop(self, cluster: str) -> None:
        """Take a cluster and all that is in it out of the inventory."""
        changes = self.inventory.remove_cluster(cluster, time.time())
        if changes:
            log.info("%d GPUs are published no more", len(changes), extra={"cluster": cluster})
        self._hand_on(changes, level=logging.DEBUG)
        if self._store is not None:
            self._store.recorder.forget_ghosts(cluster)

    def _hand_on(self, changes: Sequence[Change], reading: Reading | None = None, *, level: int = logging.INFO) -> None:
        """Hand on what one step of the inventory did: to the history with its outbox, to the log and to listeners."""
        touched, self._touched = self._touched, set()
        if self._store is not None and touched:
            self._store.recorder.record({place: self.inventory.snapshot(place) for place in touched}, changes, reading)
        if not changes:
            return
        self._latest.add(changes)
        for change in changes:
            if change.event is Event.MOVED:
                self.metrics.moved(change.place.cluster)
            _log_change(change, level)
            for listener in self._listeners:
                listener(change)

    # Which clusters are followed

    def _leave(self, duplicate: Duplicate) -> None:
        """Stop reading a cluster that is another one once more; what was published of it is the other one's to say."""
        name = duplicate.cluster
        self._watches[name].pause()
        self._synced.pop(name, None)
        self._drop(name)
        fields = {"cluster": name, "state": ClusterState.DUPLICATE.value}
        log.warning("the cluster is not read: %s", duplicate, extra=fields)
        self.on_status(
            ClusterStatus(cluster=name, state=ClusterState.DUPLICATE, message=str(duplicate), since=time.time())
        )

    def _release(self, clusters: Collection[str]) -> None:
        """Look at clusters anew that were duplicates."""
        for name in clusters:
            self._watches[name].resume()

    def _new_watcher(self, cluster: configuration.ClusterSettings) -> ClusterWatcher:
        """Make a watcher that takes up what is known of its cluster.

        Nodes that were never read are left for it to find again: nobody else would tell that one of them is gone.
        """
        for node, entry in list(self.inventory.nodes(cluster.name).items()):
            if entry.time is None:
                self._hand_on(self.inventory.remove_node(Place(cluster.name, node), time.time()))
        known = self.inventory.known(cluster.name)
        return ClusterWatcher(cluster, self, known=known, node_labels=self._config.metrics.node_labels)

    async def _follow(self, clusters: Collection[configuration.ClusterSettings]) -> None:
        wanted = {cluster.name: cluster for cluster in clusters}
        freed = self._identities.set_order(list(wanted))
        for name in self._watches.keys() - wanted.keys():
            await self._watches.pop(name).stop()
            log.info("cluster removed from the configuration", extra={"cluster": name})
            self._drop(name)
            self.statuses.pop(name, None)
            self._synced.pop(name, None)
            self.metrics.remove_cluster(name)
        self._release(freed)  # what the removed ones published is gone: nothing seems to move
        for name, cluster in wanted.items():
            watch = self._watches.get(name)
            if watch is not None and watch.cluster == cluster:
                continue
            if watch is None:
                self.metrics.add_cluster(
                    name,
                    conflicts=functools.partial(self.inventory.conflicts, name),
                    failing=functools.partial(self.inventory.failing, name),
                )
                self.on_status(ClusterStatus(cluster=name, state=ClusterState.STARTING, since=time.time()))
            else:
                await watch.stop()
                self._identities.duplicates.pop(name, None)
                log.info("cluster changed in the configuration", extra={"cluster": name})
            self._watches[name] = ClusterSupervisor(cluster, self._new_watcher, self.on_status)
            self._tasks.start_soon(self._watches[name].run, name=f"cluster {name}")

    async def _reload_on_change(self, path: Path) -> None:
        async for _ in following.changes(path, self._config):
            await self.reload(path)


def _log_change(change: Change, level: int) -> None:
    fields = {"cluster": change.place.cluster, "node": change.place.node, "uuid": change.gpu.uuid}
    if change.gpu.serial:
        fields["serial"] = change.gpu.serial
    if change.previous is not None:
        fields |= {"from_cluster": change.previous.cluster, "from_node": change.previous.node}
    # A first inventory makes thousands of GPUs appear; what a person wants to read is what happens to them later.
    log.log(logging.DEBUG if change.event is Event.APPEARED else level, "GPU %s", change.event, extra=fields)
