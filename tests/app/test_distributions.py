"""`gpuid run` over one cluster of each distribution, with nothing configured but its preset."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from collector.config import PRESETS
from collector.simulator import Placed, Simulator
from tests.support.processes import CollectorProcess
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

DISTRIBUTIONS = list(PRESETS)
NODES = 2  # of each cluster


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[Simulator]:
    async with Simulator(
        clusters=len(DISTRIBUTIONS),
        nodes=NODES,
        gpus=2,
        latency=0.001,
        directory=tmp_path / "sim",
        shapes=DISTRIBUTIONS,
    ) as simulator:
        yield simulator


@pytest.fixture
async def collector(simulator: Simulator, tmp_path: Path) -> AsyncIterator[CollectorProcess]:
    collector = CollectorProcess(tmp_path)
    text = f'[server]\nlisten = "127.0.0.1:{collector.port}"\n[defaults]\nkubeconfig = "{simulator.kubeconfig}"\n'
    for context, cluster in simulator.clusters.items():
        text += f'[[clusters]]\ncontext = "{context}"\npreset = "{cluster.shape.name}"\n'
    collector.config.write_text(text)
    collector.start()
    yield collector
    await anyio.to_thread.run_sync(collector.stop)


async def test_every_gpu_of_every_distribution_is_listed(simulator: Simulator, collector: CollectorProcess) -> None:
    def seen() -> tuple[set[Placed], dict[str, float], dict[str, float], list[Any]]:
        samples = collector.scrape()
        gpus = {
            Placed(**{key: labels[key] for key in Placed._fields})
            for name, labels, _ in samples
            if name == "gpuid_gpu_info"
        }
        nodes, pods = (
            {labels["cluster"]: value for name, labels, value in samples if name == wanted}
            for wanted in ("gpuid_gpu_nodes", "gpuid_source_pods")
        )
        return gpus, nodes, pods, [labels for name, labels, value in samples if name == "gpuid_unread_nodes" and value]

    each = dict.fromkeys(simulator.clusters, float(NODES))
    expected: tuple[object, ...] = (simulator.fleet.expected(), each, each, [])
    await eventually(lambda: anyio.to_thread.run_sync(seen), expected)
