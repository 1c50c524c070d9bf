"""`gpuid run` where something is not there: pods, a source's pods, readings, GPU nodes, labels of sharing."""

import functools
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest

from collector.simulator import SimulatedCluster, Simulator
from tests.support import waiting
from tests.support.processes import CollectorProcess

pytestmark = pytest.mark.anyio

NODES = ("gpu-0000", "gpu-0001", "gpu-0002")
SOURCE = "gpu-operator/app=nvidia-device-plugin-daemonset"


class World:
    """Two simulated clusters of three nodes with four GPUs, and a collector of them."""

    def __init__(self, folder: Path, simulator: Simulator) -> None:
        self.simulator = simulator
        self.folder = folder
        self.collector = CollectorProcess(folder)
        self.sim: SimulatedCluster = simulator.clusters["sim-0"]

    async def start(self, defaults: str = "", more: str = "") -> None:
        """Start the collector."""
        head = f'[defaults]\nkubeconfig = "{self.simulator.kubeconfig}"\n{defaults}\n'
        self.collector.configure(list(self.simulator.clusters), before=head, after=more)
        self.collector.start()
        await self.eventually(self.collector.up, dict.fromkeys(self.simulator.clusters, 1.0))

    async def restart(self) -> None:
        await anyio.to_thread.run_sync(self.collector.stop, signal.SIGTERM)
        self.collector.start()
        await self.eventually(self.collector.up, dict.fromkeys(self.simulator.clusters, 1.0))

    async def eventually(self, answer: Callable[[], object], expected: object) -> None:
        """Wait for an answer of the collector, asked in a thread: the simulator runs in this one's event loop."""
        await waiting.eventually(functools.partial(anyio.to_thread.run_sync, answer), expected)

    async def logs(self, text: str, **fields: str) -> None:
        await waiting.eventually(lambda: self.collector.logged(text, **fields) >= 1)

    async def says(self, path: str, *wanted: str, unwanted: str = "no such text") -> None:
        """Wait until a page says all of this, and not the other."""

        def differences() -> tuple[set[str], bool]:
            text = httpx.get(f"{self.collector.url}{path}", headers={"Accept": "text/html"}, timeout=30).text
            return {words for words in wanted if words not in text}, unwanted in text

        await self.eventually(differences, (set(), False))

    def unread(self, cluster: str = "sim-0") -> dict[str, float]:
        """Return how many nodes of a cluster are unread, by reason."""
        samples = self.collector.samples("gpuid_unread_nodes")
        return {labels["reason"]: value for labels, value in samples if labels["cluster"] == cluster and value}

    def gpus(self, cluster: str = "sim-0") -> dict[str, tuple[float | None, float | None]]:
        """Return how many GPUs were found on each node, and its capacity."""
        counts: dict[str, dict[str, float]] = {}
        for labels, value in self.collector.samples("gpuid_node_gpus"):
            if labels["cluster"] == cluster:
                counts.setdefault(labels["node"], {})[labels["state"]] = value
        return {node: (states.get("found"), states.get("capacity")) for node, states in counts.items()}

    def row(self, kind: str, **filters: str) -> dict[str, Any]:
        """Return the only row that the API has."""
        answer = httpx.get(f"{self.collector.url}/api/v1/{kind}", params=filters, timeout=30).json()
        (row,) = answer[kind]
        return row


Opening = Callable[..., Any]


@pytest.fixture
def opened(tmp_path: Path) -> Opening:
    """Return what opens a simulation with a collector that has not been started."""

    @asynccontextmanager
    async def opened(*, nodes: int = 3) -> AsyncIterator[World]:
        async with Simulator(
            clusters=2, nodes=nodes, gpus=4, latency=0.01, directory=tmp_path / "simulator"
        ) as simulator:
            world = World(tmp_path, simulator)
            yield world
            await anyio.to_thread.run_sync(world.collector.stop, signal.SIGKILL)

    return opened


@pytest.fixture
async def world(opened: Opening) -> AsyncIterator[World]:
    async with opened() as world:
        yield world


async def test_a_gpu_node_without_a_pod_is_unread_until_it_has_one(world: World) -> None:
    world.sim.remove_pod("gpu-0001")
    await world.start()
    await world.eventually(world.unread, {"no_pod": 1.0})
    assert world.collector.total("gpuid_gpu_nodes", cluster="sim-0") == 3.0
    await world.says("/", "5 of 6 GPU nodes read; 1 unread: no GPU pod", unwanted="All good")
    await world.says("/clusters/sim-0", "gpu-0001 (sim-0) is unreadable: no GPU pod", "unread: no pod")
    await world.says("/clusters/sim-0/nodes/gpu-0001", "no pod of a configured source runs on it", "nvidia.com/gpu")
    node, cluster = world.row("nodes", node="gpu-0001", cluster="sim-0"), world.row("clusters", cluster="sim-0")
    assert (node["unread_reason"], node["gpu_sign"], node["found"]) == ("no_pod", "nvidia.com/gpu", None)
    assert (cluster["nodes"], cluster["nodes_read"], cluster["unread_reasons"]) == (3, 2, {"no_pod": 1})
    await world.logs("GPU node without a ready pod", cluster="sim-0", node="gpu-0001", reason="no_pod")
    world.sim.restore_pod("gpu-0001")
    await world.eventually(world.unread, {})
    await world.says("/", "All good", "all 6 GPU nodes were read in time")
    await world.logs("GPU node covered by a ready pod", cluster="sim-0", node="gpu-0001")
    assert world.collector.logged("GPU node without a ready pod", level="warning") == 1


async def test_a_gpu_node_is_known_by_a_label_alone(world: World) -> None:
    world.sim.remove_pod("gpu-0001")
    world.sim.withdraw_gpus("gpu-0001", forget=True)
    world.sim.remove_pod("gpu-0002")
    world.sim.withdraw_gpus("gpu-0002", forget=True)
    world.sim.label_node(
        {"nvidia.com/gpu.present": None, "nvidia.com/gpu.count": None, "cloud.google.com/gke-accelerator": "nvidia-l4"},
        "gpu-0002",
    )
    await world.start()
    await world.eventually(world.unread, {"no_pod": 2.0})
    signs = [world.row("nodes", node=node, cluster="sim-0")["gpu_sign"] for node in NODES[1:]]
    assert signs == ["nvidia.com/gpu.present", "cloud.google.com/gke-accelerator"]


async def test_a_source_that_matches_nothing_is_a_problem(world: World) -> None:
    world.sim.relabel_pods("another")
    await world.start()
    await world.eventually(world.unread, {"no_pod": 3.0})
    assert world.collector.total("gpuid_source_pods", cluster="sim-0", source=SOURCE) == 0.0
    await world.says(
        "/", "has no GPU pods", "nothing matches", "3 of 6 GPU nodes read; 3 unread: no GPU pod", unwanted="All good"
    )
    assert world.row("clusters", cluster="sim-0")["sources"][0]["pods"] == 0
    await world.logs(f"no pod matches the source {SOURCE}", cluster="sim-0", level="warning")
    assert world.collector.logged("GPU node without a ready pod") == 0  # said once for all
    world.sim.relabel_pods("nvidia-device-plugin-daemonset")
    await world.eventually(world.unread, {})
    await world.logs(f"pods match the source {SOURCE}", cluster="sim-0")


async def test_a_wrong_preset_is_a_problem_in_every_cluster(world: World) -> None:
    await world.start('preset = "gke"')
    await world.eventually(world.unread, {"no_pod": 3.0})
    await world.says("/", "0 GPUs on 6 nodes", "0 of 6 GPU nodes read; 6 unread: no GPU pod", unwanted="All good")


async def test_a_cluster_whose_nodes_all_fail_is_a_problem(world: World) -> None:
    world.sim.deny("create", "pods/exec")
    await world.start()
    await world.eventually(world.unread, {"forbidden": 3.0})
    await world.eventually(lambda: world.collector.total("gpuid_read_failing_nodes", cluster="sim-0"), 3.0)
    await world.says("/", "has no GPU node that can be read", "0 of 3 nodes read", unwanted="All good")
    await world.logs("none of 3 GPU nodes can be read", cluster="sim-0", level="warning")
    world.sim.allow()
    await world.eventually(world.unread, {})
    await world.logs("GPU nodes can be read again", cluster="sim-0")


async def test_clusters_without_gpu_nodes_say_so_and_have_no_problem(opened: Opening) -> None:
    async with opened(nodes=0) as world:
        await world.start()
        await world.says("/", "No GPU nodes: every cluster is up and was listed completely", unwanted="All good")
        await world.says("/clusters/sim-0", "none of its 2 nodes has a GPU resource, a GPU label or a GPU pod")
        row = world.row("clusters", cluster="sim-0")
        assert (row["nodes"], row["nodes_listed"], row["unread_reasons"]) == (0, 2, {})
        assert world.collector.total("gpuid_gpu_nodes", cluster="sim-0") == 0.0
        await world.logs("no GPU nodes among 2 nodes", cluster="sim-0")


async def test_pods_without_the_container_are_ignored(world: World) -> None:
    world.sim.rename_container("gpu-0000", "gpu-feature-discovery")
    await world.start()
    await world.eventually(world.unread, {"no_container": 1.0})
    assert world.sim.counters.execs["gpu-0000"] == 0
    assert world.collector.total("gpuid_read_failure_total", cluster="sim-0") == 0.0


@pytest.mark.parametrize(
    ("stop", "start"),
    [
        (lambda sim: sim.set_ready("gpu-0000", ready=False), lambda sim: sim.set_ready("gpu-0000", ready=True)),
        (lambda sim: sim.set_kubelet("gpu-0000", reports=False), lambda sim: sim.set_kubelet("gpu-0000", reports=True)),
    ],
    ids=["container", "kubelet"],
)
async def test_a_pod_that_becomes_unready_makes_its_node_unreadable(
    world: World, stop: Callable[[SimulatedCluster], object], start: Callable[[SimulatedCluster], object]
) -> None:
    await world.start()
    await world.eventually(world.collector.gpus, world.simulator.fleet.expected())
    stop(world.sim)
    await world.eventually(world.unread, {"pod_not_ready": 1.0})
    await world.says(
        "/clusters/sim-0/nodes/gpu-0000", "unread: pod not ready", "its pod is not ready", unwanted="pill good"
    )
    assert world.collector.gpus() == world.simulator.fleet.expected()
    start(world.sim)
    await world.eventually(world.unread, {})


async def test_gpus_of_a_node_without_a_pod_end_after_the_grace(world: World) -> None:
    await world.start('grace = "1s"')
    await world.eventually(world.collector.gpus, world.simulator.fleet.expected())
    world.sim.remove_pod("gpu-0000")
    world.sim.remove_pod("gpu-0001")
    world.sim.withdraw_gpus("gpu-0001", forget=True)
    world.sim.label_node({"nvidia.com/gpu.present": None, "nvidia.com/gpu.count": None}, "gpu-0001")
    left = {
        placed
        for placed in world.simulator.fleet.expected()
        if (placed.cluster, placed.node) not in {("sim-0", "gpu-0000"), ("sim-0", "gpu-0001")}
    }
    await world.eventually(world.collector.gpus, left)
    await world.eventually(world.unread, {"no_pod": 1.0})
    await world.eventually(lambda: world.collector.total("gpuid_gpu_nodes", cluster="sim-0"), 2.0)
    world.sim.restore_pod()
    await world.eventually(world.collector.gpus, world.simulator.fleet.expected())


@pytest.mark.parametrize(
    "share",
    [
        lambda sim: sim.share_gpus("gpu-0000", 4, label=0),
        lambda sim: sim.share_gpus("gpu-0000", 10, label=0),
        lambda sim: sim.share_gpus("gpu-0000", 4, label=1),
        lambda sim: sim.share_gpus("gpu-0000", 4, label=2),
        lambda sim: sim.share_gpus("gpu-0000", 4),
        lambda sim: sim.set_mig("gpu-0000", labelled=False),
    ],
    ids=["time-slicing", "HAMi", "label of 1", "label of 2", "label", "MIG"],
)
async def test_shares_are_counted_as_gpus_and_a_lost_one_is_missing(
    world: World, share: Callable[[SimulatedCluster], object], tmp_path: Path
) -> None:
    await world.start(more=f'[store]\nurl = "sqlite://{tmp_path}/gpuid.db"\n')
    await world.eventually(world.gpus, dict.fromkeys(NODES, (4.0, 4.0)))
    share(world.sim)
    await world.eventually(lambda: world.row("nodes", node="gpu-0000", cluster="sim-0")["allocatable"], 4)
    await world.eventually(world.gpus, dict.fromkeys(NODES, (4.0, 4.0)))
    gone = world.sim.lose_gpu("gpu-0000").gpus[0]
    lost = dict.fromkeys(NODES, (4.0, 4.0)) | {"gpu-0000": (3.0, 4.0)}
    await world.eventually(world.gpus, lost)
    await world.restart()
    await world.eventually(world.gpus, lost)
    (gpu,) = world.row("problems")["gpus"]  # the store has kept which one, and where it sat
    assert (gpu["node"], gpu["uuid"], bool(gpu["pci_bus_id"])) == ("gpu-0000", gone, True)
    await world.says("/", "1 GPU missing on gpu-0000 (sim-0)", unwanted="All good")
    world.sim.reboot_node("gpu-0000")
    await world.eventually(world.gpus, dict.fromkeys(NODES, (4.0, 4.0)))
    await world.says("/", "All good")


async def test_each_reason_has_a_series_that_is_0_when_all_is_well(world: World) -> None:
    await world.start()
    await world.eventually(world.collector.gpus, world.simulator.fleet.expected())
    samples = world.collector.samples("gpuid_unread_nodes")
    assert {value for _, value in samples} == {0.0}
    reasons = {labels["reason"] for labels, _ in samples}
    assert {"pending", "no_pod", "pod_not_ready", "no_container", "exit_status", "timeout", "forbidden"} <= reasons
    assert len(samples) == 2 * len(reasons)


async def test_a_restart_keeps_why_a_node_is_unread(world: World, tmp_path: Path) -> None:
    world.sim.remove_pod("gpu-0002")
    await world.start(more=f'[store]\nurl = "sqlite://{tmp_path}/gpuid.db"\n')
    await world.eventually(world.unread, {"no_pod": 1.0})
    await world.restart()
    await world.eventually(world.unread, {"no_pod": 1.0})
    assert world.collector.total("gpuid_gpu_nodes", cluster="sim-0") == 3.0
