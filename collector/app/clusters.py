"""Runs the configured clusters, each in its own task."""

import functools
import logging
import time
from collections.abc import Callable, Collection, Sequence

from anyio.abc import TaskGroup

from collector.app.collected import CollectedCluster, CollectedClusters
from collector.app.labels import NodeLabels
from collector.app.publisher import Publisher
from collector.collect.observer import Observer
from collector.collect.supervisor import ClusterSupervisor
from collector.collect.watcher import ClusterWatcher
from collector.config import ClusterSettings
from collector.exposition import Metrics
from collector.inventory import Inventory
from collector.kube.connector import HandedOver
from collector.model import ClusterState, ClusterStatus, NodeState, Place

__all__ = ["Clusters"]

log = logging.getLogger(__name__)


class Clusters:
    """Starts, changes and stops the clusters' tasks; those unchanged by a new configuration keep running."""

    def __init__(
        self,
        collected: CollectedClusters,
        inventory: Inventory,
        publisher: Publisher,
        metrics: Metrics,
        observer: Observer,
        *,
        node_labels: Sequence[str] = (),
        labels: NodeLabels | None = None,
        read_all: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._collected = collected
        self._inventory = inventory
        self._publisher = publisher
        self._metrics = metrics
        self._observer = observer
        self._node_labels = node_labels
        self._labels = labels
        self._read_all = read_all
        self._clock = clock
        self._ask: Callable[[Place, float], None] | None = None
        self._credentials: HandedOver = {}  # a renewed token outlives the task that renewed it

    async def reconcile(self, clusters: Collection[ClusterSettings], tasks: TaskGroup) -> None:
        """Run exactly these clusters, in `tasks`."""
        wanted = {cluster.name: cluster for cluster in clusters}
        freed = self._collected.order(list(wanted))  # first: a removed one must not cause a skip
        for name in [name for name in self._collected if name not in wanted]:
            await self._remove(name)
        self._collected.resume(freed)  # the removed clusters' data is gone, so nothing seems to move
        for name, settings in wanted.items():
            known = self._collected.get(name)
            if known is not None and known.settings == settings:
                continue
            if known is None:
                self._metrics.add_cluster(
                    name,
                    conflicts=functools.partial(self._inventory.conflicts, name),
                    claims=functools.partial(self._inventory.claims, name),
                    failing=functools.partial(self._inventory.failing, name),
                    unread=functools.partial(self._inventory.unread, name),
                    nodes=functools.partial(self._count_nodes, name),
                    resemblances=functools.partial(self._count_resemblances, name),
                )
                status = ClusterStatus(cluster=name, state=ClusterState.STARTING, since=self._clock())
            else:
                await known.supervisor.stop()
                status = known.status
                log.info("cluster changed in the configuration", extra={"cluster": name})
            self._metrics.keep_label_series(name, keep=settings.labels)
            supervisor = ClusterSupervisor(settings, self._new_watcher, self._observer.on_status)
            self._collected.add(CollectedCluster(settings, supervisor, status, known.synced if known else None))
            if known is None:
                self._observer.on_status(status)
            tasks.start_soon(supervisor.run, name=f"cluster {name}")

    async def release(self, clusters: Collection[str]) -> None:
        """Stop clusters but keep their data: another shard reads them from now on."""
        for name in clusters:
            await self._collected[name].supervisor.stop()
            self._collected.new_session(name)
            self._collected.pop(name)
            self._metrics.remove_cluster(name)

    def ask_with(self, ask: Callable[[Place, float], None]) -> None:
        """Call `ask` when nodes of another shard's clusters must be read again."""
        self._ask = ask

    def verify(self, place: Place, delay: float) -> None:
        """Have a node read again in `delay` seconds; if that is not possible, the inventory decides without it."""
        collected = self._collected.get(place.cluster)
        if collected is None and self._ask is not None:
            self._ask(place, delay)
        elif collected is None or not collected.supervisor.verify(place.node, delay):
            self._publisher.publish(self._inventory.cannot_verify(place))

    def adopt(self, nodes: Sequence[NodeState]) -> None:
        """Take over what the previous leader recorded and this collector has not seen yet."""
        unseen = set()
        for recorded in nodes:
            cluster = recorded.place.cluster
            if cluster in self._collected and not self._collected.is_duplicate(cluster):
                if self._inventory.node(recorded.place) is None:
                    unseen.add(cluster)
                step = self._inventory.adopt(recorded)
                # GPUs that were only confirmed are in the history; those that moved since are new to it.
                self._publisher.publish(step, record=bool(step.changes))
        for cluster in unseen:
            self._collected[cluster].supervisor.renew()

    def _count_nodes(self, cluster: str) -> int:
        return len(self._inventory.nodes(cluster))

    def _count_resemblances(self, cluster: str) -> int:
        return len(self._collected.resemblances(cluster))

    async def _remove(self, name: str) -> None:
        await self._collected[name].supervisor.stop()
        log.info("cluster removed from the configuration", extra={"cluster": name})
        self._publisher.publish(self._inventory.remove_cluster(name, self._clock()))
        self._collected.pop(name)
        self._metrics.remove_cluster(name)

    def _new_watcher(self, settings: ClusterSettings) -> ClusterWatcher:
        """Return a watcher that starts from what is known about its cluster.

        Nodes that were never read are left for it to find again: nothing else would notice if one of them is gone.
        """
        name = settings.name
        for node, state in list(self._inventory.nodes(name).items()):
            if state.time is None:
                self._publisher.publish(self._inventory.unlist_node(Place(name, node), self._clock()))
        claimed = self._inventory.nodes_in_claim(name)
        known = {node: one for node, one in self._inventory.known(name).items() if node not in claimed}
        return ClusterWatcher(
            settings,
            self._observer,
            known=known,
            node_labels=self._node_labels,
            labels=self._labels,
            handed_over=self._credentials,
            read_all=self._read_all,
        )
