"""The manifests in config/kubernetes against a real API server: they are valid, and the rights they give are enough."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from collector.simulator import Placed
from tests.control_plane.conftest import Collect, Planes
from tests.control_plane.plane import MODEL, ControlPlane
from tests.support.waiting import until

MANIFESTS = Path(__file__).parents[2] / "config" / "kubernetes"
GPUS = [("1650122000001", "GPU-00000000-0000-0000-0000-000000000001")]
PLACED = Placed(
    "east", "gpu-1", "GPU-00000000-0000-0000-0000-000000000001", serial="1650122000001", chassis="", model=MODEL
)

POLICIES = "/apis/admissionregistration.k8s.io/v1"
# Where the objects of each kind live.
PATHS = {
    "Namespace": "/api/v1/namespaces/{name}",
    "ConfigMap": "/api/v1/namespaces/{namespace}/configmaps/{name}",
    "Secret": "/api/v1/namespaces/{namespace}/secrets/{name}",
    "Service": "/api/v1/namespaces/{namespace}/services/{name}",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts/{name}",
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/{name}",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles/{name}",
    "ValidatingAdmissionPolicy": f"{POLICIES}/validatingadmissionpolicies/{{name}}",
    "ValidatingAdmissionPolicyBinding": f"{POLICIES}/validatingadmissionpolicybindings/{{name}}",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings/{name}",
}


def manifests(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text()))


def apply(plane: ControlPlane, manifest: Mapping[str, Any], **params: str) -> None:
    plane.apply(manifest, PATHS[manifest["kind"]].format(**manifest["metadata"]), **params)


@pytest.fixture
def east(planes: Planes) -> ControlPlane:
    """A control plane with one node of one GPU and with the rights of a watched cluster granted."""
    plane = planes["east"]
    for manifest in manifests(MANIFESTS / "watched-cluster" / "rbac.yaml"):
        apply(plane, manifest)
    plane.add_node("gpu-1", GPUS)
    return plane


@pytest.fixture
def kubeconfig(east: ControlPlane) -> Path:
    """A kubeconfig with a token of the service account and no other right."""
    path = "/api/v1/namespaces/gpuid/serviceaccounts/gpuid/token"
    token = east.create(path, {"spec": {"expirationSeconds": 3600}})["status"]["token"]
    return east.write_kubeconfig("gpuid", token=token)


def test_the_read_only_rights_are_enough(east: ControlPlane, kubeconfig: Path, collect: Collect) -> None:
    collector = collect({"east": kubeconfig})
    until(collector.gpus, {PLACED})
    assert collector.total("gpuid_cluster_up", cluster="east") == 1


def test_without_the_right_to_exec_readings_fail_as_forbidden(
    east: ControlPlane, kubeconfig: Path, collect: Collect
) -> None:
    (role,) = [
        one
        for one in manifests(MANIFESTS / "watched-cluster" / "rbac.yaml")
        if one["metadata"]["name"] == "gpuid" and one["kind"] == "Role"
    ]
    apply(east, role | {"rules": [rule for rule in role["rules"] if rule["resources"] != ["pods/exec"]]})
    collector = collect({"east": kubeconfig})
    until(lambda: (collector.total("gpuid_read_failure_total", cluster="east", reason="forbidden") or 0) > 0)
    assert collector.total("gpuid_cluster_up", cluster="east") == 1
    apply(east, role)
    until(collector.gpus, {PLACED})


def test_without_the_right_to_list_the_cluster_is_down(
    planes: Planes,
    east: ControlPlane,
    kubeconfig: Path,
    collect: Collect,
) -> None:
    binding = "/apis/rbac.authorization.k8s.io/v1/namespaces/gpu-operator/rolebindings/gpuid"
    east.http.delete(binding).raise_for_status()
    planes["west"].add_node("gpu-1", GPUS)
    collector = collect({"east": kubeconfig, "west": planes["west"].kubeconfig})
    until(collector.gpus, {PLACED._replace(cluster="west")})
    assert collector.total("gpuid_cluster_up", cluster="east") == 0
    assert collector.total("gpuid_cluster_up", cluster="west") == 1


@pytest.mark.parametrize(
    "file",
    [
        path
        for folder in ("collector", "watched-cluster")  # test_reader.py has those of the reader
        for path in sorted((MANIFESTS / folder).rglob("*.yaml"))
        if path.name != "kustomization.yaml"
    ],
    ids=lambda path: path.name,
)
def test_the_api_server_accepts_every_manifest(planes: Planes, file: Path) -> None:
    for manifest in manifests(MANIFESTS / "collector" / "namespace.yaml"):
        apply(planes["east"], manifest)
    for manifest in manifests(file):
        if not manifest["apiVersion"].startswith("monitoring.coreos.com/"):  # unknown to a bare API server
            apply(planes["east"], manifest, dryRun="All")


def test_the_prometheus_operator_keeps_the_labels_of_the_series() -> None:
    (monitor,) = manifests(MANIFESTS / "collector" / "servicemonitor.yaml")
    assert all(endpoint["honorLabels"] for endpoint in monitor["spec"]["endpoints"])
    (config,) = manifests(MANIFESTS / "collector" / "scrapeconfig.yaml")
    assert config["spec"]["honorLabels"]


def test_the_kustomization_lists_the_manifests_that_exist() -> None:
    folder = MANIFESTS / "collector"
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert [name for name in kustomization["resources"] if not (folder / name).is_file()] == []
