"""An inventory with an exposition on top, and readings to fill it with."""

import gzip
from collections.abc import Callable, Collection
from typing import Any

import pytest

from collector.exposition import Exposition, Metrics
from collector.inventory import Inventory
from collector.model import Fingerprint, Gpu, NodeInfo, Reading, Step


class Bench:
    """An inventory, its metrics and its exposition, wired as the service wires them."""

    def __init__(self, **options: Any) -> None:
        self.metrics = Metrics(cluster_label=options.get("cluster_label", "cluster"))
        self.inventory = Inventory()
        self.exposition = Exposition(self.metrics, **options)

    def read(
        self, cluster: str, node: str, *gpus: Gpu, time: float = 1764000000.5, labels: tuple[tuple[str, str], ...] = ()
    ) -> Step:
        """Apply a reading of a node."""
        facts = NodeInfo(
            name=node, provider_id=f"aws:///us-east-1a/i-{node}", boot_id="b", capacity=8, allocatable=7, labels=labels
        )
        fingerprint = Fingerprint(pod_uid="p", container_id="c", restarts=0, boot_id="b", capacity=8)
        return self.publish(
            self.inventory.apply(
                Reading(
                    cluster=cluster,
                    node=facts,
                    source="gpu-operator/p",
                    fingerprint=fingerprint,
                    time=time,
                    driver_version="570.148.08",
                    cuda_version="12.8",
                    gpus=gpus,
                )
            )
        )

    def publish(self, step: Step) -> Step:
        """Notify the exposition of the nodes that a step touched."""
        self.exposition.update(step.nodes)
        return step

    async def text(self, *, clusters: Collection[str] | None = None, openmetrics: bool = False) -> str:
        """Scrape both ways; the results must be equal."""
        plain = await self.exposition.scrape(clusters=clusters, openmetrics=openmetrics)
        zipped = await self.exposition.scrape(clusters=clusters, openmetrics=openmetrics, gzip=True)
        body, compressed = b"".join(plain.chunks), b"".join(zipped.chunks)
        assert (len(body), len(compressed)) == (plain.length, zipped.length)
        assert only_nodes(gzip.decompress(compressed).decode()) == only_nodes(body.decode())
        return body.decode()


def only_nodes(text: str) -> list[str]:
    """The samples of nodes and GPUs, which do not change from one scrape to the next by themselves."""
    return [line for line in text.splitlines() if line.startswith(("gpuid_gpu_info", "gpuid_node_"))]


@pytest.fixture
def bench() -> Bench:
    """An empty one with default settings."""
    return Bench()


@pytest.fixture
def make_bench() -> Callable[..., Bench]:
    """For other settings."""
    return Bench
