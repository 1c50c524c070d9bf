"""What `gpuid init` and `check` find out about a real API server, with all rights and with those of a collector."""

import contextlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from collector.cli import gpuid
from collector.config import PRESETS
from tests.control_plane.conftest import Planes
from tests.control_plane.plane import NAMESPACE, ControlPlane
from tests.control_plane.test_rights import MANIFESTS, apply, manifests
from tests.support.waiting import until

CHART = "/api/v1/namespaces/nvidia/pods"


@pytest.fixture
def east(planes: Planes) -> Iterator[ControlPlane]:
    """A node with a pod of the GPU operator, and one with a pod of the chart in a namespace that no preset names."""
    plane = planes["east"]
    for number, node in enumerate(("gpu-1", "gpu-2")):
        plane.add_node(node, [(f"165012200000{number}", f"GPU-00000000-0000-0000-0000-00000000000{number}")])
    plane.http.delete(f"/api/v1/namespaces/{NAMESPACE}/pods/gpu-2-a", params={"gracePeriodSeconds": "0"})
    apply(plane, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "nvidia"}})
    source = PRESETS["helm"][0]
    key, _, value = source.selector.partition("=")
    spec = {"nodeName": "gpu-2", "containers": [{"name": source.container, "image": "k8s-device-plugin"}]}
    plane.create(CHART, {"metadata": {"name": "nvdp-a", "labels": {key: value}}, "spec": spec})
    until(lambda: plane.http.get(f"{CHART}/nvdp-a").json()["status"]["phase"], "Running")
    yield plane
    with contextlib.suppress(OSError):
        plane.http.delete(f"{CHART}/nvdp-a", params={"gracePeriodSeconds": "0"})


def init(kubeconfig: Path) -> tuple[dict[str, Any], str]:
    """Return the one cluster of the configuration, and what the comments before it say."""
    result = CliRunner().invoke(gpuid, ["init", "--kubeconfig", str(kubeconfig), "-f", "-"])
    assert result.exit_code == 0, result.output
    (cluster,) = tomllib.loads(result.stdout)["clusters"]
    comments = result.stdout.partition("dashboards.\n")[2].partition("[[clusters]]")[0]
    return cluster, " ".join(line.removeprefix("# ") for line in comments.splitlines() if line)


def test_all_namespaces_are_searched(east: ControlPlane, tmp_path: Path) -> None:
    cluster, comments = init(east.kubeconfig)
    assert [source["namespace"] for source in cluster["sources"]] == [NAMESPACE, "nvidia"]
    assert comments == (
        "2 of 2 GPU nodes covered by pods of nvidia-device-plugin in namespace gpu-operator and pods of"
        " nvidia-device-plugin-ctr in namespace nvidia. Make sure that only administrators can create pods in namespace"
        " nvidia, which no preset uses: its pods determine which GPUs are reported."
    )
    config = tmp_path / "gpuid.toml"
    config.write_text(f'[[clusters]]\ncontext = "east"\nkubeconfig = "{east.kubeconfig}"\npreset = "aks"\n')
    checked = CliRunner().invoke(gpuid, ["check", "-c", str(config)])
    assert checked.exit_code == 1
    assert "fits: 2 of 2 GPU nodes covered by pods of nvidia-device-plugin in namespace gpu-operator" in checked.output


def test_with_collector_rights_only_its_namespace_is_searched(east: ControlPlane) -> None:
    for manifest in manifests(MANIFESTS / "watched-cluster" / "rbac.yaml"):
        apply(east, manifest)
    path = "/api/v1/namespaces/gpuid/serviceaccounts/gpuid/token"
    token = east.create(path, {"spec": {"expirationSeconds": 3600}})["status"]["token"]
    cluster, comments = init(east.write_kubeconfig("gpuid", token=token))
    assert cluster["preset"] == "gpu-operator"
    assert comments.startswith("1 of 2 GPU nodes covered by pods of nvidia-device-plugin in namespace gpu-operator.")
    assert "1 GPU node without a known GPU pod seen: gpu-2." in comments
    assert comments.endswith("May not list pods in all namespaces: searched only gpu-operator.")


@pytest.mark.parametrize("pods", [True, False])
def test_with_rights_in_one_namespace_that_is_searched(east: ControlPlane, pods: bool) -> None:
    """An account that may list nodes and namespaces, and, or not, the pods of one namespace."""
    group, name = "rbac.authorization.k8s.io", "visitor"
    subjects = [{"kind": "ServiceAccount", "name": name, "namespace": "nvidia"}]
    apply(east, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "nvidia"}})
    for kind, resources in (("ClusterRole", ["nodes", "namespaces"]), ("Role", ["pods"] if pods else [])):
        metadata = {"name": name} | ({"namespace": "nvidia"} if kind == "Role" else {})
        rules = [{"apiGroups": [""], "resources": resources, "verbs": ["list"]}] if resources else []
        apply(east, {"apiVersion": f"{group}/v1", "kind": kind, "metadata": metadata, "rules": rules})
        role = {"apiGroup": group, "kind": kind, "name": name}
        binding = {"metadata": metadata, "roleRef": role, "subjects": subjects}
        apply(east, {"apiVersion": f"{group}/v1", "kind": f"{kind}Binding", **binding})
    path = f"/api/v1/namespaces/nvidia/serviceaccounts/{name}/token"
    token = east.create(path, {"spec": {"expirationSeconds": 3600}})["status"]["token"]
    kubeconfig = east.write_kubeconfig(name, token=token)
    said = "1 of 2 GPU nodes covered by pods of nvidia-device-plugin-ctr" if pods else "2 GPU nodes with unknown pods."
    until(lambda: init(kubeconfig)[1].startswith(said), True)  # once the API server goes by the new rights
    cluster, comments = init(kubeconfig)
    assert [source["namespace"] for source in cluster.get("sources", ())] == ["nvidia"] * pods
    assert "apply the reader" not in comments
    assert "To search other namespaces, run gpuid check or gpuid init as a user who" in comments
