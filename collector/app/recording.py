"""What a collector does only with a store: record, lead or own clusters, follow the marks, and deliver to the sinks."""

import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from anyio.abc import TaskGroup

from collector.app.expiry import SinkExpiry
from collector.app.marks import MarkFollower
from collector.app.mirror import Mirror
from collector.app.ownership import Ownership
from collector.app.parts import Parts
from collector.app.restart import restore
from collector.app.sinks import SinkObserver
from collector.app.take_over import TakeOver
from collector.config import ClusterSettings, Config
from collector.delivery.delivery import Delivery
from collector.delivery.reconciler import SinkReconciler
from collector.inventory import MirroringInventory
from collector.store import Store, StoreError

__all__ = ["Recording"]


class Recording:
    """An open store and everything that works with it."""

    def __init__(self, store: Store, parts: Parts) -> None:
        self.store = store
        self.mark_follower = MarkFollower(store, parts.marks)
        sink_observer = SinkObserver(parts.metrics, parts.sink_statuses)
        self.delivery = Delivery(store, sink_observer)
        self._parts = parts
        self._sinks = SinkReconciler(self.delivery, sink_observer.keep)
        self._sink_expiry = SinkExpiry(parts.metrics)
        self._ownership: Ownership | None = None  # with several shards
        self._take_over = TakeOver(store, parts.inventory, parts.cluster_tasks.adopt)

    async def start(self, config: Config) -> None:
        """Restore the state of the last run, and record everything that is published from now on."""
        parts, store = self._parts, self.store
        mirror = await self._share(config.clusters)
        await restore(
            store,
            configured={cluster.name for cluster in config.clusters},
            inventory=parts.inventory,
            exposition=parts.exposition,
            publisher=parts.publisher,
            recent=parts.recent,
            now=time.time(),
            mirror=mirror,
        )
        await self.mark_follower.try_refresh()
        store.history_writer.marks = parts.marks
        parts.register_store(store)
        parts.labels.write_while(lambda: store.leadership.leads)
        self._sink_expiry.watch(config.sinks)
        try:
            await self.delivery.reconcile(config.sinks)
        except StoreError as error:
            if not store.survives(error):
                raise
            await self._sinks.reconcile(config.sinks)

    @property
    def tasks(self) -> list[tuple[Callable[[], Coroutine[Any, Any, None]], str]]:
        """The tasks that record and deliver, by name."""
        return [
            (self.store.run, "store"),
            ((self._ownership or self._take_over).run, "store: lead"),
            (self.mark_follower.run, "store: marks"),
            (self.delivery.run, "delivery"),
            (self._sinks.run, "sinks: configuration"),
            (self._sink_expiry.run, "sinks: credentials"),
        ]

    async def reconcile_sinks(self, config: Config) -> None:
        """Deliver to exactly these sinks."""
        await self._sinks.reconcile(config.sinks)
        self._sink_expiry.watch(config.sinks)

    async def reconcile_clusters(self, clusters: Sequence[ClusterSettings], tasks: TaskGroup) -> None:
        """Run exactly these clusters in `tasks`; with several shards, those of them that this one owns."""
        if self._ownership is None:
            await self._parts.cluster_tasks.reconcile(clusters, tasks)
        else:
            await self._ownership.configure(clusters, tasks)

    async def _share(self, clusters: Sequence[ClusterSettings]) -> Mirror | None:
        """Prepare to run as one of several shards; returns its exchange with the others, or None if it is alone."""
        parts, store = self._parts, self.store
        inventory, fleet, shards = parts.inventory, parts.fleet, store.shards
        if shards is None or fleet is None or not isinstance(inventory, MirroringInventory):
            return None
        verify = parts.cluster_tasks.verify
        mirror = Mirror(store, shards, inventory, parts.publisher, fleet, parts.recent, verify)
        parts.cluster_tasks.ask_with(mirror.questions.ask)
        self._ownership = Ownership(
            store,
            shards,
            fleet,
            mirror,
            clusters=parts.cluster_tasks,
            collected=parts.clusters,
            inventory=inventory,
            publisher=parts.publisher,
            exposition=parts.exposition,
            clock=time.time,
        )
        fleet.configured = {cluster.name: cluster for cluster in clusters}
        by_unsharded = await shards.unsharded_leads()  # before what it has recorded is restored
        self._ownership.found(await shards.recorded_clusters(), by_unsharded=by_unsharded)
        return mirror
