"""Lists in pages of a real API server."""

from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes_asyncio.client import CoreV1Api

from collector.collect.objects import decode_pod
from collector.config import ClusterSettings
from collector.kube.client import ApiClient
from collector.kube.lister import Resource, list_all
from collector.kube.session import Session
from tests.control_plane.conftest import Planes
from tests.control_plane.plane import ControlPlane

pytestmark = pytest.mark.anyio

NAMESPACE = "lists"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
NAMES = [f"pod-{number:03}" for number in range(320)]


@pytest.fixture
def east(planes: Planes) -> Iterator[ControlPlane]:
    """A control plane with pods that no node runs."""
    plane = planes["east"]
    plane.http.post("/api/v1/namespaces", json={"metadata": {"name": NAMESPACE}})  # it may be there
    for name in NAMES:
        plane.create(PODS, {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "none"}]}})
    yield plane
    plane.http.delete(PODS, params={"gracePeriodSeconds": "0"}).raise_for_status()


async def test_growing_pages_have_every_object_exactly_once(east: ControlPlane) -> None:
    limits: list[int | None] = []
    listed: list[str] = []

    async with ApiClient(Session(ClusterSettings(context="east", kubeconfig=str(east.kubeconfig)))) as client:

        async def method(**arguments: Any) -> Any:
            limits.append(arguments.get("limit"))
            return await CoreV1Api(client).list_namespaced_pod(NAMESPACE, **arguments)

        def decode(raw: Any) -> Any:
            listed.append((pod := decode_pod(raw)).name)
            return pod

        pods, _ = await list_all(client, Resource(name="pods", method=method, decode=decode))

    assert limits == [100, 200, 400]
    assert listed == NAMES
    assert sorted(pod.name for pod in pods.values()) == NAMES
