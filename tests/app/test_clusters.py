"""Which clusters run after a change of the configuration, whatever the clusters report meanwhile."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from collector.app import clusters as module
from collector.app.clusters import Clusters
from collector.app.collected import CollectedClusters
from collector.app.observer import CollectObserver
from collector.app.publisher import Publisher
from collector.config import ClusterSettings
from collector.exposition import Exposition, Metrics
from collector.inventory import Inventory
from collector.kube.identity import Proof, ProofKind
from collector.model import NodeInfo, Survey
from collector.views.recent_changes import RecentChanges

pytestmark = pytest.mark.anyio

NODE = NodeInfo(name="n", uid="u1")


class Running:
    """The clusters of a service, whose watchers do nothing but end slowly."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at_the_end: dict[str, Callable[[], None]] = {}
        running = self

        class Watcher:
            def __init__(self, settings: ClusterSettings, *_: Any, **__: Any) -> None:
                self._name = settings.name

            async def run(self) -> None:
                try:
                    await anyio.sleep_forever()
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.lowlevel.checkpoint()
                        running.at_the_end.get(self._name, lambda: None)()

        monkeypatch.setattr(module, "ClusterWatcher", Watcher)
        metrics = Metrics()
        self.inventory = Inventory()
        self.collected = CollectedClusters()
        publisher = Publisher(Exposition(metrics), metrics, RecentChanges())
        self.observer = CollectObserver(self.collected, self.inventory, publisher, metrics)
        self.clusters = Clusters(self.collected, self.inventory, publisher, metrics, self.observer)

    def list(self, cluster: str) -> None:
        """Report the one node of a cluster, and that there is no other."""
        self.observer.on_proof(cluster, frozenset({Proof(ProofKind.KEY, "1")}))
        self.observer.on_node(cluster, NODE)
        self.observer.on_survey(cluster, Survey(nodes=1, pods=(1,)))


async def test_a_node_can_be_deleted_while_two_clusters_are_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = Running(monkeypatch)
    settings = [ClusterSettings(context=name) for name in ("a", "b", "c")]
    async with anyio.create_task_group() as tasks:
        await running.clusters.reconcile(settings, tasks)
        await anyio.wait_all_tasks_blocked()
        for cluster in ("a", "b"):
            running.list(cluster)
        assert running.collected.is_duplicate("b")
        running.at_the_end["c"] = lambda: running.observer.on_node_gone("a", "n", 1.0)
        await running.clusters.reconcile(settings[:1], tasks)
        assert list(running.collected) == ["a"]
        assert dict(running.inventory.nodes("a")) == {}
        tasks.cancel_scope.cancel()


async def test_removing_a_cluster_does_not_skip_another(monkeypatch: pytest.MonkeyPatch) -> None:
    running = Running(monkeypatch)
    settings = [ClusterSettings(context=name) for name in ("a", "b")]
    async with anyio.create_task_group() as tasks:
        await running.clusters.reconcile(settings, tasks)
        await anyio.wait_all_tasks_blocked()
        running.list("b")
        running.at_the_end["a"] = lambda: running.list("a")
        await running.clusters.reconcile(settings[1:], tasks)
        assert not running.collected.is_duplicate("b")
        assert list(running.inventory.nodes("b")) == ["n"]
        tasks.cancel_scope.cancel()
