"""Clusters as each distribution makes them: their presets find the pods, and their images have what the presets run."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import yaml

from collector.config import PRESETS, SourceMethod
from collector.simulator import DEFAULT_SHAPE, SHAPES, SimulatedCluster, Simulator
from collector.simulator.images import start

pytestmark = pytest.mark.anyio

ALL = list(SHAPES)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def clusters() -> AsyncIterator[dict[str, SimulatedCluster]]:
    """One cluster of each shape, by the shape's name."""
    async with Simulator(clusters=len(ALL), nodes=1, gpus=2, latency=0.001, shapes=ALL) as simulator:
        yield {cluster.shape.name: cluster for cluster in simulator.clusters.values()}


async def listed(cluster: SimulatedCluster, path: str, selector: str = "") -> list[dict]:
    headers = {"Authorization": f"Bearer {cluster.token}"}
    async with (
        aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(ssl=False)) as session,
        session.get(f"{cluster.url}{path}", params={"labelSelector": selector}) as response,
    ):
        return (await response.json())["items"]


def test_there_is_one_for_each_preset() -> None:
    assert list(SHAPES) == list(PRESETS)
    assert {name: shape.name for name, shape in SHAPES.items()} == {name: name for name in PRESETS}


def test_the_default_is_that_of_the_configuration() -> None:
    assert next(iter(SHAPES.values())) is DEFAULT_SHAPE


@pytest.mark.parametrize("name", ALL)
async def test_a_preset_selects_a_pod_with_its_container_on_each_gpu_node(
    clusters: dict[str, SimulatedCluster], name: str
) -> None:
    [source] = PRESETS[name]
    pods = await listed(clusters[name], f"/api/v1/namespaces/{source.namespace}/pods", source.selector)
    candidates = [
        pod for pod in pods if source.container in {status["name"] for status in pod["status"]["containerStatuses"]}
    ]
    assert [pod["spec"]["nodeName"] for pod in candidates] == clusters[name].nodes
    assert len(pods) == (3 if name == "helm" else 1)


@pytest.mark.parametrize("name", [name for name in ALL if PRESETS[name][0].method is SourceMethod.EXEC])
def test_the_command_of_a_preset_is_found_in_the_image(name: str) -> None:
    [source] = PRESETS[name]
    image = SHAPES[name].gpu_pods.containers[source.container]
    assert start(image, source.command).program == "nvidia-smi"


@pytest.mark.parametrize(
    ("name", "container", "command", "said"),
    [
        ("gke", "nvidia-gpu-device-plugin", "nvidia-smi", "executable file not found in $PATH"),
        ("gke", "nvidia-gpu-device-plugin", "sh", "executable file not found in $PATH"),
        ("gke", "nvidia-gpu-device-plugin", "/usr/bin/nvidia-smi", "no such file or directory"),
        ("dra", "gpus", "nvidia-smi", "executable file not found in $PATH"),
        ("driver", "nvidia-peermem-ctr", "nvidia-smi", "executable file not found in $PATH"),
    ],
)
async def test_a_program_missing_from_the_image_is_not_found(
    clusters: dict[str, SimulatedCluster], name: str, container: str, command: str, said: str
) -> None:
    cluster = clusters[name]
    namespace, pod = cluster.pod(cluster.nodes[0]).split("/")
    query = f"container={container}&command={command}&stdout=true&stderr=true"
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {cluster.token}"}) as session,
        session.ws_connect(
            f"{cluster.url}/api/v1/namespaces/{namespace}/pods/{pod}/exec?{query}",
            protocols=("v5.channel.k8s.io",),
            ssl=False,
        ) as socket,
    ):
        messages = [message.data async for message in socket]
    assert said in messages[-1].decode()


async def test_the_reader_runs_on_the_nodes_of_its_shape(clusters: dict[str, SimulatedCluster]) -> None:
    manifest = Path(__file__).parents[2] / "config" / "kubernetes" / "reader" / "base" / "daemonset.yaml"
    affinity = yaml.safe_load(manifest.read_text())["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    for node in await listed(clusters["reader"], "/api/v1/nodes"):
        labels = node["metadata"]["labels"]
        fits = any(all(labels.get(one["key"]) in one["values"] for one in term["matchExpressions"]) for term in terms)
        assert fits == (node["metadata"]["name"] in clusters["reader"].nodes)


async def test_a_dra_node_offers_no_resource(clusters: dict[str, SimulatedCluster]) -> None:
    cluster = clusters["dra"]
    cluster.reboot_node()
    cluster.lose_gpu()
    for node in await listed(cluster, "/api/v1/nodes"):
        assert not [name for name in node["status"]["capacity"] | node["status"]["allocatable"] if "nvidia" in name]


@pytest.mark.parametrize("name", ["driver", "helm"])
async def test_a_node_comes_and_goes_with_all_its_pods(clusters: dict[str, SimulatedCluster], name: str) -> None:
    cluster = clusters[name]
    before = await listed(cluster, "/api/v1/pods")
    node = cluster.add_node().nodes[0]
    pods = [pod for pod in await listed(cluster, "/api/v1/pods") if pod["spec"]["nodeName"] == node]
    assert len(pods) == 1 + len(SHAPES[name].others)
    cluster.delete_node(node)
    assert len(await listed(cluster, "/api/v1/pods")) == len(before)
