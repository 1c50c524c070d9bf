"""Releases of the chart on a real API server: a namespace for one, helm, and what the API server has of it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.control_plane.conftest import Planes
from tests.control_plane.crds import KINDS, install_crds
from tests.control_plane.plane import ControlPlane
from tests.control_plane.pods import Pod
from tests.control_plane.rights import finish_namespace, remove_rights
from tests.helm.chart_files import CHART
from tests.helm.modes import Values, write_values
from tests.support.helm import Helm

__all__ = ["CORE", "LISTEN", "PATHS", "ChartPod", "Release", "admit", "hub", "objects", "release"]

CORE = "/api/v1/namespaces/gpuid"
APPS = "/apis/apps/v1/namespaces/gpuid"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"

# Where the objects of a release are, but for those with a namespace of their own.
PATHS = {
    "ConfigMap": f"{CORE}/configmaps",
    "PersistentVolumeClaim": f"{CORE}/persistentvolumeclaims",
    "Service": f"{CORE}/services",
    "ServiceAccount": f"{CORE}/serviceaccounts",
    "Pod": f"{CORE}/pods",  # only that of `helm test` has the chart's label
    "Deployment": f"{APPS}/deployments",
    "StatefulSet": f"{APPS}/statefulsets",
    "Ingress": "/apis/networking.k8s.io/v1/namespaces/gpuid/ingresses",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/gpuid/networkpolicies",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/gpuid/poddisruptionbudgets",
    "ClusterRole": f"{RBAC}/clusterroles",
    "ClusterRoleBinding": f"{RBAC}/clusterrolebindings",
    "Role": f"{RBAC}/namespaces/gpu-operator/roles",
    "RoleBinding": f"{RBAC}/namespaces/gpu-operator/rolebindings",
    "ValidatingAdmissionPolicy": f"{ADMISSION}/validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": f"{ADMISSION}/validatingadmissionpolicybindings",
    **{kind: f"/apis/{group}/{version}/namespaces/gpuid/{plural}" for group, version, kind, plural in KINDS},
}

LISTEN = "0.0.0.0:8080"  # in values: the pods of all tests share this machine's network

Release = Callable[..., str]


class ChartPod(Pod):
    """A pod of the chart, which listens on a port of its own in place of the container's."""

    def _files(self, volume: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
        own = f"127.0.0.1:{self.port}"
        for path, content in super()._files(volume):
            if path == "gpuid.toml" and b"[server]" not in content:
                yield path, content + f'\n[server]\nlisten = "{own}"\n'.encode()
            else:
                yield path, content.replace(LISTEN.encode(), own.encode())


@pytest.fixture
def hub(planes: Planes) -> Iterator[ControlPlane]:
    """The cluster in which gpuid runs, with a restricted namespace for it, which is gone again at the end."""
    plane = planes["east"]
    install_crds(plane)
    remove_rights(plane)  # of tests before
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gpuid", "labels": labels}}
    plane.apply(namespace, "/api/v1/namespaces/gpuid")
    yield plane
    for path in (*PATHS.values(), f"{CORE}/secrets"):
        selector = {} if path.endswith("/secrets") else {"labelSelector": "helm.sh/chart"}
        for one in plane.http.get(path, params=selector).raise_for_status().json()["items"]:
            at = f"{path}/{one['metadata']['name']}"
            if one["metadata"].pop("finalizers", None):  # no controller looks whether a claim is in use
                plane.http.put(at, json=one).raise_for_status()
            plane.http.delete(at).raise_for_status()
    remove_rights(plane)
    finish_namespace(plane)


@pytest.fixture
def release(helm: Helm, hub: ControlPlane, tmp_path: Path) -> Release:
    """Run a verb of helm on the release `gpuid`, with values where they are given."""

    def run(verb: str, *arguments: str, values: Values | None = None) -> str:
        given: list[str | Path] = [verb, "gpuid", *arguments]
        if values is not None:
            given += [CHART, "--values", write_values(tmp_path, values)]
        return helm(*given, "--namespace", "gpuid", "--kubeconfig", hub.kubeconfig).stdout

    return run


def objects(hub: ControlPlane) -> dict[str, Any]:
    """Return what the API server has of the release, by `Kind name`."""
    return {
        f"{kind} {one['metadata']['name']}": one
        for kind, path in PATHS.items()
        for one in hub.http.get(path, params={"labelSelector": "app.kubernetes.io/instance=gpuid"})
        .raise_for_status()
        .json()["items"]
    }


def admit(hub: ControlPlane, workload: Mapping[str, Any]) -> dict[str, Any]:
    """Create a pod of a workload, as its controller would, without keeping it."""
    template = workload["spec"]["template"]
    pod = {"metadata": template["metadata"] | {"generateName": "gpuid-"}, "spec": template["spec"]}
    return hub.create(f"{CORE}/pods", pod, dryRun="All", fieldValidation="Strict")
