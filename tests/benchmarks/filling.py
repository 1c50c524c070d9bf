"""Fills a store with readings of every node of a simulated fleet, as if a collector had read them all.

`python -m tests.benchmarks.filling KUBECONFIG CLUSTERS NODES GPUS STORE`. The pods and nodes are the simulated API
servers' own, so that a collector that starts on the store finds nothing changed; only the 100,000 execs are left out.
"""

import sys
import time
from pathlib import Path

import anyio
import msgspec
import uvloop

from collector.collect import schedule
from collector.collect.schedule import Candidate
from collector.collect.watcher import nodes, pods
from collector.config import ClusterSettings
from collector.config.store import StoreSettings
from collector.inventory import Inventory
from collector.kube.client import ApiClient
from collector.kube.reflector import list_all
from collector.kube.session import Session
from collector.model import Reading
from collector.simulator.fleet import Fleet
from collector.store import Store
from tests.benchmarks.fleet import gpus_of

_BATCH = 1_000  # nodes of one commit, more or less


async def fill(kubeconfig: Path, fleet: Fleet, url: str) -> int:
    """List each cluster and record a reading of each of its nodes; returns how many GPUs that are."""
    inventory, gpus = Inventory(), 0
    async with Store.open(msgspec.convert({"url": url}, StoreSettings)) as store, anyio.create_task_group() as tasks:
        tasks.start_soon(store.history_writer.run)
        for cluster in fleet.clusters:
            for reading in await _readings(kubeconfig, fleet, cluster):
                gpus += len(reading.gpus)
                store.history_writer.append(inventory.apply(reading))
            while store.history_writer.pending > _BATCH * fleet.gpus_per_host:
                await store.history_writer.committed.wait()
        await store.history_writer.flushed(3600)
        tasks.cancel_scope.cancel()
    return gpus


async def _readings(kubeconfig: Path, fleet: Fleet, name: str) -> list[Reading]:
    cluster = ClusterSettings(context=name, kubeconfig=str(kubeconfig))
    (source,) = cluster.active_sources
    async with ApiClient(Session(cluster)) as client:
        facts = {node.key: node.facts for node in (await list_all(client, nodes(client, cluster)))[0].values()}
        found = (await list_all(client, pods(client, source)))[0].values()
    return [
        Reading(
            cluster=name,
            node=facts[pod.node],
            source=pod.key,
            fingerprint=schedule.fingerprint(Candidate(0, source, pod), facts[pod.node]),
            time=time.time(),
            driver_version="570.124.06",
            cuda_version="12.8",
            gpus=gpus_of(fleet, name, pod.node),
        )
        for pod in found
    ]


if __name__ == "__main__":
    path, *sizes, url = sys.argv[1:]
    clusters, per_cluster, gpus = map(int, sizes)
    print(uvloop.run(fill(Path(path), Fleet(clusters=clusters, nodes=per_cluster, gpus=gpus), url)))
