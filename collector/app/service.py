"""Builds a collector from a configuration and runs it in one task group."""

import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from collector import gc_freeze
from collector.app.clusters import Clusters
from collector.app.collected import CollectedClusters
from collector.app.expiry import SinkExpiry
from collector.app.labels import NodeLabels
from collector.app.marks import MarkFollower
from collector.app.mirror import Mirror
from collector.app.observer import CollectObserver
from collector.app.once import Outcome, Round, complete_round
from collector.app.ownership import Ownership
from collector.app.publisher import Publisher
from collector.app.reload import Reloader
from collector.app.restart import restore
from collector.app.shard_fleet import ShardFleet
from collector.app.sinks import SinkObserver
from collector.app.take_over import TakeOver
from collector.app.view import LiveCollector
from collector.config import Config, ConfigError
from collector.delivery.delivery import Delivery
from collector.delivery.reconciler import SinkReconciler
from collector.end_deadline import EndDeadline
from collector.exposition import Exposition, Metrics
from collector.inventory import Inventory, MirroringInventory
from collector.marks import Marks
from collector.model import Change
from collector.sharding import UNSHARDED, Shard
from collector.store import Store, StoreError, Unstored
from collector.views.marks import marked_gpus
from collector.views.recent_changes import RecentChanges
from collector.views.sink_status import SinkStatuses
from collector.web import serve

__all__ = ["Service"]


class Service:
    """One collector: the configured clusters, their inventory, its history, the sinks, and HTTP.

    `listeners` get every change of the inventory; they are called on the event loop and must return immediately.
    With `once`, the collector is for `run_once`.
    """

    def __init__(
        self,
        config: Config,
        *,
        shard: Shard = UNSHARDED,
        listeners: Sequence[Callable[[Change], None]] = (),
        once: Round | None = None,
    ) -> None:
        self.end = EndDeadline()
        self._owned: set[str] = set()  # with several shards: the clusters that this one reads and records
        self.inventory: Inventory = Inventory()
        if shard.sharded:
            if config.store is None:
                raise ConfigError("store: shards require a shared store; set store.url to a PostgreSQL database")
            self.inventory = MirroringInventory(is_mirrored=lambda cluster: cluster not in self._owned)
        self.marks = Marks()
        self.metrics = Metrics(cluster_label=config.metrics.cluster_label)
        self.exposition = Exposition(
            self.metrics,
            cluster_label=config.metrics.cluster_label,
            node_labels=config.metrics.node_labels,
        )
        self.clusters = CollectedClusters()
        self._config = config
        self._shard = shard
        self._recent = RecentChanges()
        self._sink_statuses = SinkStatuses()
        self._round = Round() if once is None else once
        listeners = listeners if once is None else (*listeners, once.note_change)
        self._publisher = Publisher(self.exposition, self.metrics, self._recent, listeners)
        self.observer = CollectObserver(
            self.clusters,
            self.inventory,
            self._publisher,
            self.metrics,
            on_read=(lambda _place: None) if once is None else once.note_read,
        )
        self._labels = NodeLabels(self.clusters, self.inventory, self.metrics)
        self._cluster_tasks = Clusters(
            self.clusters,
            self.inventory,
            self._publisher,
            self.metrics,
            self.observer,
            node_labels=config.metrics.node_labels,
            labels=self._labels,
            read_all=once is not None,
        )
        self._publisher.verify_with(self._cluster_tasks.verify)
        self._publisher.label_with(self._labels.on_step)
        self._fleet = ShardFleet(shard, self._owned) if shard.sharded else None
        self._ownership: Ownership | None = None
        self._mirror: Mirror | None = None
        if self._fleet is not None:
            self.exposition.renders = self._owned.__contains__
            self._publisher.compare_with(self.clusters.look_alikes.on_step)
            self.metrics.register_shard(shard, self._fleet.unowned)
        self._store: Store | None = None
        self._mark_follower: MarkFollower | None = None
        self._delivery: Delivery | None = None
        self._sinks: SinkReconciler | None = None
        self._sink_expiry = SinkExpiry(self.metrics)
        self._reloader = Reloader(config, self._apply)
        self.metrics.register_config(
            successful=lambda: self._reloader.status.ok,
            loaded=lambda: self._reloader.status.loaded,
            restart_required=lambda: bool(self._reloader.status.restart),
        )

    async def run(self, *, ready: Callable[[str], None], reload_from: Path | None = None) -> None:
        """Serve until cancelled; `ready` gets the URL once HTTP is up.

        With `reload_from`, clusters and sinks are reloaded whenever that file changes. Raises ConfigError if HTTP
        cannot start, and StoreError if the store cannot be opened.
        """
        async with self._collecting():
            self._tasks.start_soon(self.exposition.run, name="exposition")
            if reload_from is not None:
                self._tasks.start_soon(self._reloader.run, reload_from, name="configuration")
            await serve(
                self._view(),
                self._config.server,
                ready=ready,
                on_certificate=self.metrics.server_certificate,
                end=self.end,
            )

    async def run_once(self, *, timeout: float) -> Outcome:
        """Read every node of every cluster, record and deliver the changes, and return the outcome.

        After `timeout` seconds, everything not yet read or delivered is abandoned. Raises StoreError if the store
        cannot be opened.
        """
        async with self._collecting():
            return await complete_round(
                self._round,
                self.clusters,
                self.inventory,
                store=self._store,
                delivery=self._delivery,
                sinks=self._sink_statuses,
                timeout=timeout,
            )

    @asynccontextmanager
    async def _collecting(self) -> AsyncIterator[None]:
        """Collect, record and deliver during the block."""
        async with AsyncExitStack() as stack:
            store_tasks: list[tuple[Callable[[], Coroutine[Any, Any, None]], str]] = []
            if self._config.store is not None:
                store = await stack.enter_async_context(
                    Store.open(self._config.store, end=self.end, shard=self._shard, owned=self._owned)
                )
                store_tasks = await self._start_store(store)
            async with anyio.create_task_group() as self._tasks:
                self._tasks.start_soon(gc_freeze.run, name="garbage collection")
                for task, name in store_tasks:
                    self._tasks.start_soon(task, name=name)
                await self._run_clusters(self._config)
                self._reloader.ready.set()
                try:
                    yield
                finally:
                    self.end.begin()
                    self._tasks.cancel_scope.cancel()

    async def reload(self, path: Path) -> None:
        """Apply the clusters and sinks of the file at `path`; an invalid one is rejected and the current ones stay."""
        await self._reloader.reload(path)

    def unstored(self) -> tuple[Unstored, str]:
        """Return what has happened and is not in the store, and the reason if known."""
        if self._store is None:
            return Unstored(), ""
        return self._store.history_writer.unstored, self._store.health.status.message

    async def _start_store(self, store: Store) -> list[tuple[Callable[[], Coroutine[Any, Any, None]], str]]:
        """Restore the state of the last run; returns the tasks that record and deliver from now on, by name."""
        lead = await self._share(store) or TakeOver(store, self.inventory, self._cluster_tasks.adopt).run
        await restore(
            store,
            configured={cluster.name for cluster in self._config.clusters},
            inventory=self.inventory,
            exposition=self.exposition,
            publisher=self._publisher,
            recent=self._recent,
            now=time.time(),
            mirror=self._mirror,
        )
        self._store = store
        self._mark_follower = marks = MarkFollower(store, self.marks)
        await marks.try_refresh()
        store.history_writer.marks = self.marks
        self.exposition.marks.register(self.marks, functools.partial(marked_gpus, self.inventory, self.marks))
        self._labels.write_while(lambda: store.leadership.leads)
        self.metrics.register_store(
            up=lambda: store.health.status.up,
            pending=lambda: store.history_writer.pending,
            lost=lambda: store.health.status.lost,
            leader=lambda: store.leadership.leads,
            has_leader=lambda: store.leadership.status.has_leader,
            set_aside=lambda: store.health.status.set_aside.files,
        )
        sink_observer = SinkObserver(self.metrics, self._sink_statuses)
        self._delivery = delivery = Delivery(store, sink_observer)
        self._sinks = SinkReconciler(delivery, sink_observer.keep)
        self._sink_expiry.watch(self._config.sinks)
        try:
            await delivery.reconcile(self._config.sinks)
        except StoreError as error:
            if not store.survives(error):
                raise
            await self._sinks.reconcile(self._config.sinks)
        return [
            (store.run, "store"),
            (lead, "store: lead"),
            (marks.run, "store: marks"),
            (delivery.run, "delivery"),
            (self._sinks.run, "sinks: configuration"),
            (self._sink_expiry.run, "sinks: credentials"),
        ]

    async def _share(self, store: Store) -> Callable[[], Coroutine[Any, Any, None]] | None:
        """Prepare to run as one of several shards; returns the task for that, or None if there is only one."""
        inventory, fleet, shards = self.inventory, self._fleet, store.shards
        if shards is None or fleet is None or not isinstance(inventory, MirroringInventory):
            return None
        verify = self._cluster_tasks.verify
        self._mirror = Mirror(store, shards, inventory, self._publisher, fleet, self._recent, verify)
        self._cluster_tasks.ask_with(self._mirror.ask)
        self._ownership = Ownership(
            store,
            shards,
            fleet,
            self._mirror,
            clusters=self._cluster_tasks,
            collected=self.clusters,
            inventory=inventory,
            publisher=self._publisher,
            exposition=self.exposition,
            clock=time.time,
        )
        fleet.configured = {cluster.name: cluster for cluster in self._config.clusters}
        by_unsharded = await shards.unsharded_leads()  # before what it has recorded is restored
        self._ownership.found(await shards.recorded_clusters(), by_unsharded=by_unsharded)
        return self._ownership.run

    async def _apply(self, config: Config) -> None:
        if self._sinks is not None:
            await self._sinks.reconcile(config.sinks)
            self._sink_expiry.watch(config.sinks)
        await self._run_clusters(config)

    async def _run_clusters(self, config: Config) -> None:
        if self._ownership is None:
            await self._cluster_tasks.reconcile(config.clusters, self._tasks)
        else:
            await self._ownership.configure(config.clusters, self._tasks)

    def _view(self) -> LiveCollector:
        return LiveCollector(
            inventory=self.inventory,
            marks=self.marks,
            exposition=self.exposition,
            clusters=self.clusters,
            recent_changes=self._recent,
            sink_statuses=self._sink_statuses,
            store=self._store,
            mark_follower=self._mark_follower,
            cluster_label=self._config.metrics.cluster_label,
            config_status=lambda: self._reloader.status,
            shard=self._shard,
            fleet=self._fleet,
        )
