"""ResourceSlices of a real API server, with the rights of config/kubernetes and no others."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.control_plane.conftest import Collect, Planes
from tests.control_plane.plane import NAMESPACE, ControlPlane
from tests.support.processes import CollectorProcess
from tests.support.waiting import until

RIGHTS = Path(__file__).parents[2] / "config" / "kubernetes" / "watched-cluster" / "rbac.yaml"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
ROLES = "/apis/rbac.authorization.k8s.io/v1"
A, B, C, D = (f"GPU-{number:08d}-0000-0000-0000-000000000000" for number in range(1, 5))


class Driver:
    """The DRA driver of a cluster, and the administrator of its rights."""

    def __init__(self, plane: ControlPlane, version: str) -> None:
        self.plane = plane
        self._version = version
        self._slices = f"/apis/resource.k8s.io/{version}/resourceslices"
        self._generations: dict[str, int] = {}
        self._intruders: list[str] = []

    def apply_rights(self, *, with_slices: bool = True) -> None:
        for manifest in yaml.safe_load_all(RIGHTS.read_text()):
            if manifest["kind"] == "ClusterRole" and not with_slices:
                manifest["rules"] = [rule for rule in manifest["rules"] if rule["resources"] != ["resourceslices"]]
            self.plane.apply(manifest, self._path(manifest))

    def kubeconfig(self) -> Path:
        """A kubeconfig with a token of the service account and no other right."""
        path = "/api/v1/namespaces/gpuid/serviceaccounts/gpuid/token"
        token = self.plane.create(path, {"spec": {"expirationSeconds": 3600}})["status"]["token"]
        return self.plane.write_kubeconfig("gpuid", token=token)

    def add_node(self, node: str, *uuids: str) -> None:
        """A node that no device plugin counts the GPUs of, and its pod."""
        self.plane.add_node(node, [(f"165{uuid[9:12]}", uuid) for uuid in uuids], plugin=False)
        self.publish(node, *uuids)

    def publish(self, node: str, *uuids: str) -> None:
        """Publish the GPUs of a node, as a new generation."""
        self._generations[node] = generation = self._generations.get(node, 0) + 1
        spec = {
            "driver": "gpu.nvidia.com",
            "nodeName": node,
            "pool": {"name": node, "generation": generation, "resourceSliceCount": 1},
            "devices": [self._device(at, uuid) for at, uuid in enumerate(uuids)],
        }
        if generation == 1:
            self.plane.create(self._slices, {"metadata": {"name": f"{node}-gpu"}, "spec": spec})
            return
        headers = {"Content-Type": "application/merge-patch+json"}
        patch = json.dumps({"spec": spec})
        self.plane.http.patch(f"{self._slices}/{node}-gpu", content=patch, headers=headers).raise_for_status()

    def intrude(self, node: str, pool: str) -> None:
        """Publish an empty slice of a node in the pool of another one, as its kubelet may."""
        spec = {
            "driver": "gpu.nvidia.com",
            "nodeName": node,
            "pool": {"name": pool, "generation": 999, "resourceSliceCount": 1},
            "devices": [],
        }
        self._intruders.append(f"{node}-in-{pool}")
        self.plane.create(self._slices, {"metadata": {"name": self._intruders[-1]}, "spec": spec})

    def delete_pod(self, node: str) -> None:
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{node}-a"
        self.plane.http.delete(path, params={"gracePeriodSeconds": "0"}).raise_for_status()

    def clear(self) -> None:
        for name in (*(f"{node}-gpu" for node in self._generations), *self._intruders):
            self.plane.http.delete(f"{self._slices}/{name}").raise_for_status()

    def _device(self, at: int, uuid: str) -> Mapping[str, Any]:
        attributes = {
            "type": {"string": "gpu"},
            "uuid": {"string": uuid},
            "productName": {"string": "NVIDIA H100 80GB HBM3"},
            "cudaComputeCapability": {"version": "9.0.0"},
            "resource.kubernetes.io/pciBusID": {"string": f"0000:{uuid[11]}b:00.0"},
        }
        facts = {"attributes": attributes, "capacity": {"memory": {"value": "80Gi"}}}
        return {"name": f"gpu-{at}"} | ({"basic": facts} if self._version == "v1beta1" else facts)

    @staticmethod
    def _path(manifest: Mapping[str, Any]) -> str:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        namespaced = f"namespaces/{manifest['metadata'].get('namespace')}"
        return {
            "Namespace": f"/api/v1/namespaces/{name}",
            "ServiceAccount": f"/api/v1/{namespaced}/serviceaccounts/{name}",
            "Secret": f"/api/v1/{namespaced}/secrets/{name}",
            "ClusterRole": f"{ROLES}/clusterroles/{name}",
            "ClusterRoleBinding": f"{ROLES}/clusterrolebindings/{name}",
            "Role": f"{ROLES}/{namespaced}/roles/{name}",
            "ValidatingAdmissionPolicy": f"{ADMISSION}/validatingadmissionpolicies/{name}",
            "ValidatingAdmissionPolicyBinding": f"{ADMISSION}/validatingadmissionpolicybindings/{name}",
            "RoleBinding": f"{ROLES}/{namespaced}/rolebindings/{name}",
        }[kind]


@pytest.fixture
def driver(planes: Planes) -> Iterator[Driver]:
    driver = Driver(planes["east"], "v1")
    driver.apply_rights()
    yield driver
    driver.clear()
    driver.apply_rights()


def gpus(collector: CollectorProcess, node: str) -> dict[str, float]:
    """Return how many GPUs a node has, by state."""
    samples = collector.samples("gpuid_node_gpus")
    return {labels["state"]: value for labels, value in samples if labels["node"] == node}


def test_slices_reveal_gpus_and_their_loss_without_any_exec(driver: Driver, collect: Collect) -> None:
    driver.add_node("gpu-1", A, B)
    driver.add_node("gpu-2", C, D)
    driver.delete_pod("gpu-2")
    collector = collect({"east": driver.kubeconfig()})
    until(lambda: gpus(collector, "gpu-1"), {"found": 2, "capacity": 2, "allocatable": 2})
    until(lambda: gpus(collector, "gpu-2"), {"capacity": 2, "allocatable": 2})
    until(lambda: collector.total("gpuid_resource_slices_watched", cluster="east"), 1)
    assert collector.total("gpuid_cluster_up", cluster="east") == 1

    driver.publish("gpu-2", C)  # never read, so the other one is known by its address alone
    until(lambda: gpus(collector, "gpu-2"), {"capacity": 2, "allocatable": 1, "lost": 1})

    driver.intrude("gpu-2", "gpu-1")  # which changes nothing of what follows
    driver.delete_pod("gpu-1")  # nobody can ask there any more
    until(lambda: collector.total("gpuid_unread_nodes", cluster="east", reason="no_pod"), 1)
    driver.publish("gpu-1", A)
    until(lambda: gpus(collector, "gpu-1"), {"found": 1, "capacity": 2, "allocatable": 1, "lost": 1})
    assert collector.logged("is no longer listed by ResourceSlices", uuid=B) == 1
    driver.publish("gpu-1", A, B)
    until(lambda: gpus(collector, "gpu-1"), {"found": 2, "capacity": 2, "allocatable": 2})


def test_losing_a_uuid_causes_the_node_to_be_read(driver: Driver, collect: Collect) -> None:
    driver.add_node("gpu-1", A, B)
    collector = collect({"east": driver.kubeconfig()})
    until(lambda: gpus(collector, "gpu-1"), {"found": 2, "capacity": 2, "allocatable": 2})
    driver.plane.print_gpus("gpu-1-a", [("1650122000001", A)])
    driver.publish("gpu-1", A)
    until(lambda: gpus(collector, "gpu-1"), {"found": 1, "capacity": 2, "allocatable": 1})


def test_the_right_is_optional_and_can_change(driver: Driver, collect: Collect) -> None:
    driver.apply_rights(with_slices=False)
    driver.add_node("gpu-1", A, B)
    driver.delete_pod("gpu-1")
    collector = collect({"east": driver.kubeconfig()})
    until(lambda: collector.total("gpuid_resource_slices_watched", cluster="east"), 0)
    until(lambda: collector.total("gpuid_cluster_up", cluster="east"), 1)
    assert gpus(collector, "gpu-1") == {}

    driver.apply_rights()
    until(lambda: gpus(collector, "gpu-1"), {"capacity": 2, "allocatable": 2})
    until(lambda: collector.total("gpuid_resource_slices_watched", cluster="east"), 1)

    driver.apply_rights(with_slices=False)
    driver.plane.stop_apiserver()  # an open watch outlives its right
    driver.plane.start_apiserver()
    until(lambda: collector.total("gpuid_resource_slices_watched", cluster="east"), 0)
    until(lambda: collector.total("gpuid_cluster_up", cluster="east"), 1)
    assert gpus(collector, "gpu-1") == {"capacity": 2, "allocatable": 2}
    assert "ResourceSlices are no longer visible in east" in collector.text("/problems")


def test_a_server_with_only_an_older_version_is_supported(planes: Planes, collect: Collect) -> None:
    west = Driver(planes["west"], "v1beta1")
    west.add_node("gpu-1", A, B)
    try:
        collector = collect({"west": planes["west"].kubeconfig})
        until(lambda: gpus(collector, "gpu-1"), {"found": 2, "capacity": 2, "allocatable": 2})
    finally:
        west.clear()
