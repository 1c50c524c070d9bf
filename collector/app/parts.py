"""The parts of a collector that need neither a store nor a task, and how they are connected."""

import functools
from collections.abc import Callable, Sequence

from collector.app.clusters import Clusters
from collector.app.collected import CollectedClusters
from collector.app.labels import NodeLabels
from collector.app.observer import CollectObserver
from collector.app.publisher import Publisher
from collector.app.round import Round
from collector.app.shard_fleet import ShardFleet
from collector.config import Config, ConfigError
from collector.exposition import Exposition, Metrics
from collector.inventory import Inventory, MirroringInventory
from collector.marks import Marks
from collector.model import Change
from collector.sharding import Shard
from collector.store import Store
from collector.views.marks import marked_gpus
from collector.views.recent_changes import RecentChanges
from collector.views.sink_status import SinkStatuses

__all__ = ["Parts"]


class Parts:
    """The fleet in memory, what fills it and what publishes it.

    `listeners` get every change of the inventory. With `once`, the clusters are read for one round.
    """

    def __init__(
        self,
        config: Config,
        shard: Shard,
        listeners: Sequence[Callable[[Change], None]] = (),
        once: Round | None = None,
    ) -> None:
        self.shard = shard
        self.owned: set[str] = set()  # with several shards: the clusters that this one reads and records
        self.inventory: Inventory = Inventory()
        if shard.sharded:
            if config.store is None:
                raise ConfigError("store: shards require a shared store; set store.url to a PostgreSQL database")
            self.inventory = MirroringInventory(is_mirrored=lambda cluster: cluster not in self.owned)
        self.marks = Marks()
        self.metrics = Metrics(cluster_label=config.metrics.cluster_label)
        self.exposition = Exposition(
            self.metrics, cluster_label=config.metrics.cluster_label, node_labels=config.metrics.node_labels
        )
        self.clusters = CollectedClusters()
        self.recent = RecentChanges()
        self.sink_statuses = SinkStatuses()
        listeners = listeners if once is None else (*listeners, once.note_change)
        self.publisher = Publisher(self.exposition, self.metrics, self.recent, listeners)
        self.observer = CollectObserver(
            self.clusters,
            self.inventory,
            self.publisher,
            self.metrics,
            on_read=(lambda _place: None) if once is None else once.note_read,
        )
        self.labels = NodeLabels(self.clusters, self.inventory, self.metrics)
        self.cluster_tasks = Clusters(
            self.clusters,
            self.inventory,
            self.publisher,
            self.metrics,
            self.observer,
            node_labels=config.metrics.node_labels,
            labels=self.labels,
            read_all=once is not None,
        )
        self.publisher.verify_with(self.cluster_tasks.verify)
        self.publisher.label_with(self.labels.on_step)
        self.fleet = ShardFleet(shard, self.owned) if shard.sharded else None  # of all shards
        if self.fleet is not None:
            self.exposition.renders = self.owned.__contains__
            self.publisher.compare_with(self.clusters.look_alikes.on_step)
            self.metrics.register_shard(shard, self.fleet.unowned)

    def register_store(self, store: Store) -> None:
        """Publish the store's state as metrics."""
        self.exposition.marks.register(self.marks, functools.partial(marked_gpus, self.inventory, self.marks))
        self.metrics.register_store(
            up=lambda: store.health.status.up,
            pending=lambda: store.history_writer.pending,
            lost=lambda: store.health.status.lost,
            leader=lambda: store.leadership.leads,
            has_leader=lambda: store.leadership.status.has_leader,
            set_aside=lambda: store.health.status.set_aside.files,
        )
