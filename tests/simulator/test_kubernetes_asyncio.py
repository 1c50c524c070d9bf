"""The Kubernetes client of Python against the simulation."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from kubernetes_asyncio import client, config, watch
from kubernetes_asyncio.stream import WsApiClient

from collector.collect import nvidia_smi
from collector.simulator import Simulator

pytestmark = pytest.mark.anyio


@pytest.fixture
async def settings(simulator: Simulator) -> client.Configuration:
    settings = client.Configuration()
    await config.load_kube_config(str(simulator.kubeconfig), "sim-2", settings, persist_config=False)
    return settings


@pytest.fixture
async def core(settings: client.Configuration) -> AsyncIterator[client.CoreV1Api]:
    async with client.ApiClient(settings) as api:
        yield client.CoreV1Api(api)


async def test_it_lists_pods_and_nodes(core: client.CoreV1Api) -> None:
    pods = await core.list_namespaced_pod("gpu-operator", label_selector="app=nvidia-device-plugin-daemonset")
    nodes = await core.list_node()
    assert {pod.spec.node_name for pod in pods.items} == {"gpu-0000", "gpu-0001", "gpu-0002", "gpu-0003"}
    assert len(nodes.items) == 6


async def test_it_lists_in_pages(core: client.CoreV1Api) -> None:
    names: list[str] = []
    following: dict[str, Any] = {}
    while True:
        page = await core.list_node(limit=2, **following)
        names += [node.metadata.name for node in page.items]
        if not page.metadata._continue:
            break
        following = {"_continue": page.metadata._continue}
    assert names == ["cpu-0000", "cpu-0001", "gpu-0000", "gpu-0001", "gpu-0002", "gpu-0003"]


async def test_it_watches(core: client.CoreV1Api, simulator: Simulator) -> None:
    version = (await core.list_node()).metadata.resource_version
    simulator.clusters["sim-2"].delete_node("gpu-0002")
    async with watch.Watch() as watching:
        async for event in watching.stream(core.list_node, resource_version=version, timeout_seconds=5):
            assert (event["type"], event["object"].metadata.name) == ("DELETED", "gpu-0002")
            break


async def test_it_runs_commands(settings: client.Configuration, simulator: Simulator) -> None:
    namespace, name = simulator.clusters["sim-2"].pod("gpu-0001").split("/")
    command: Any = ["nvidia-smi", "-q", "-x"]  # the generated signature says str, of which there may be several
    async with WsApiClient(settings) as api:
        output = await client.CoreV1Api(api).connect_get_namespaced_pod_exec(
            name, namespace, container="nvidia-device-plugin", command=command, stdout=True
        )
    assert {gpu.uuid for gpu in nvidia_smi.parse(output.encode()).gpus} == {
        gpu.uuid for gpu in simulator.fleet.expected("sim-2") if gpu.node == "gpu-0001"
    }


async def test_it_holds_leases(settings: client.Configuration) -> None:
    async with client.ApiClient(settings) as api:
        leases = client.CoordinationV1Api(api)
        body = client.V1Lease(metadata=client.V1ObjectMeta(name="a"), spec=client.V1LeaseSpec(holder_identity="me"))
        created = await leases.create_namespaced_lease("gpuid", body)
        created.spec.holder_identity = "you"
        updated = await leases.replace_namespaced_lease("a", "gpuid", created)
        assert updated.spec.holder_identity == "you"
        with pytest.raises(client.ApiException) as refused:
            await leases.replace_namespaced_lease("a", "gpuid", created)
        assert refused.value.status == 409
