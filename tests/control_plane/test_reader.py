"""The reader's manifests and chart on a real API server, which admits them as far as they say."""

import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from collector.config.sources import PRESETS, PodSource, SourceMethod
from tests.control_plane.conftest import Planes
from tests.control_plane.plane import ControlPlane
from tests.support.helm import Helm
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
CHART = ROOT / "config" / "helm" / "gpuid-reader"
READER = ROOT / "config" / "kubernetes" / "reader"
# By the Pod Security Standard that their namespace enforces.
VARIANTS = {
    **dict.fromkeys(("base", "default-runtime", "gpu-operator", "dra"), "restricted"),
    **dict.fromkeys(("bottlerocket", "gke"), "privileged"),
}
PATHS = {
    "ConfigMap": "/api/v1/namespaces/gpuid/configmaps/{name}",
    "DaemonSet": "/apis/apps/v1/namespaces/gpuid/daemonsets/{name}",
    "Namespace": "/api/v1/namespaces/{name}",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/gpuid/networkpolicies/{name}",
    "ResourceClaimTemplate": "/apis/resource.k8s.io/v1/namespaces/gpuid/resourceclaimtemplates/{name}",
}
PODS = "/api/v1/namespaces/gpuid/pods"

Objects = dict[str, dict[str, Any]]


def by_kind(text: str) -> Objects:
    objects = [one for one in yaml.safe_load_all(text) if one]
    assert len(objects) == len({one["kind"] for one in objects})
    return {one["kind"]: one for one in objects}


def kustomize(folder: Path) -> Objects:
    command = ["kubectl", "kustomize", str(folder)]
    return by_kind(subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout)


needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on PATH")


@pytest.fixture
def plane(planes: Planes) -> Iterator[ControlPlane]:
    """A control plane with a RuntimeClass as the GPU operator makes it, and without the reader again at the end."""
    plane = planes["east"]
    runtime_class = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}}
    plane.apply(runtime_class | {"handler": "nvidia"}, "/apis/node.k8s.io/v1/runtimeclasses/nvidia")
    yield plane
    for path in ("DaemonSet", "ConfigMap", "NetworkPolicy", "ResourceClaimTemplate"):
        plane.http.delete(PATHS[path].format(name="")).raise_for_status()
    plane.http.delete(PODS, params={"gracePeriodSeconds": "0"}).raise_for_status()


def label(plane: ControlPlane, namespace: dict[str, Any], standard: str | None = None) -> None:
    """Apply the reader's namespace, as it is or with another standard."""
    labels = namespace["metadata"]["labels"]
    enforced = {"pod-security.kubernetes.io/enforce": standard} if standard else {}
    plane.apply(
        namespace | {"metadata": {"name": "gpuid", "labels": labels | enforced}},
        PATHS["Namespace"].format(name="gpuid"),
    )


def create_pod(plane: ControlPlane, daemonset: dict[str, Any]) -> Any:
    """Ask for a pod of the DaemonSet, as its controller would; return the answer, an object of the API."""
    template = daemonset["spec"]["template"]
    pod = {"metadata": template["metadata"] | {"generateName": "gpuid-reader-"}, "spec": template["spec"]}
    return plane.http.post(PODS, json=pod, params={"dryRun": "All", "fieldValidation": "Strict"}).json()


def violates(plane: ControlPlane, daemonset: dict[str, Any], standard: str) -> bool:
    return f'violates PodSecurity "{standard}:latest"' in create_pod(plane, daemonset).get("message", "")


@needs_kubectl
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_is_admitted_with_only_its_stated_privileges(plane: ControlPlane, variant: str) -> None:
    objects = kustomize(READER / variant)
    assert objects["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == VARIANTS[variant]
    for kind in ("Namespace", "ConfigMap", "NetworkPolicy", "ResourceClaimTemplate", "DaemonSet"):
        if kind in objects:
            applied = plane.apply(objects[kind], PATHS[kind].format(**objects[kind]["metadata"]))
    assert applied["metadata"]["generation"] == 1
    pod = create_pod(plane, objects["DaemonSet"])
    assert pod["kind"] == "Pod", pod
    if VARIANTS[variant] == "privileged":
        for standard in ("baseline", "restricted"):
            label(plane, objects["Namespace"], standard)
            until(functools.partial(violates, plane, objects["DaemonSet"], standard))  # the plugin watches the label


@needs_kubectl
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_preset_selects_its_pods(variant: str) -> None:
    (source,) = PRESETS["reader"]
    daemonset = kustomize(READER / variant)["DaemonSet"]
    template = daemonset["spec"]["template"]
    assert source == PodSource(
        namespace=daemonset["metadata"]["namespace"],
        selector=",".join(f"{key}={value}" for key, value in template["metadata"]["labels"].items()),
        container="".join(container["name"] for container in template["spec"]["containers"]),
        method=SourceMethod.LOG,
    )


@needs_kubectl
def test_bottlerocket_needs_one_host_path(plane: ControlPlane) -> None:
    objects = kustomize(READER / "bottlerocket")
    label(plane, objects["Namespace"], "restricted")
    message = create_pod(plane, objects["DaemonSet"])["message"]
    violations = message.partition('"restricted:latest": ')[2]
    assert violations == 'restricted volume types (volume "all-gpus" uses restricted volume type "hostPath")'


@needs_kubectl
def test_admin_access_needs_the_label_of_the_namespace(plane: ControlPlane) -> None:
    objects = kustomize(READER / "dra")
    plane.apply(kustomize(READER)["Namespace"], PATHS["Namespace"].format(name="gpuid"))
    claim = objects["ResourceClaimTemplate"]
    claims = PATHS["ResourceClaimTemplate"].format(name="").rstrip("/")
    refused = plane.http.post(claims, json=claim).json()
    assert "resource.kubernetes.io/admin-access: true" in refused["message"]
    label(plane, objects["Namespace"])
    (request,) = plane.create(claims, claim)["spec"]["spec"]["devices"]["requests"]
    assert request["exactly"]["adminAccess"] is True  # not dropped: on by default


@needs_kubectl
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_chart_and_the_kustomization_are_the_same(helm: Helm, variant: str) -> None:
    helm("lint", "--strict", CHART, "--set", f"variant={variant}")
    chart = by_kind(
        helm("template", "gpuid-reader", CHART, "--namespace", "gpuid", "--set", f"variant={variant}").stdout
    )
    folder = kustomize(READER / variant)
    assert chart.keys() == folder.keys() - {"Namespace"}
    for objects in (chart, folder):
        (scripts, *_) = objects["DaemonSet"]["spec"]["template"]["spec"]["volumes"]
        assert scripts["configMap"].pop("name") == objects["ConfigMap"]["metadata"].pop("name")
    for kind, one in chart.items():
        other = folder[kind]
        assert one.keys() == other.keys()
        assert {key: one[key] for key in one if key != "metadata"} == {
            key: other[key] for key in other if key != "metadata"
        }
        assert one["metadata"].get("name") == other["metadata"].get("name")
        assert one["metadata"]["namespace"] == other["metadata"]["namespace"] == "gpuid"
        assert other["metadata"].get("labels", {}).items() <= one["metadata"]["labels"].items()
    assert chart["ConfigMap"]["data"] == {
        name: (CHART / "files" / name).read_text() for name in ("reader.sh", "cut.awk")
    }


@needs_kubectl
def test_the_folder_itself_is_the_base() -> None:
    assert kustomize(READER) == kustomize(READER / "base")


def test_helm_installs_upgrades_and_removes_it(plane: ControlPlane, helm: Helm) -> None:
    context = ("--kubeconfig", plane.kubeconfig, "--namespace", "gpuid")
    plane.apply(
        yaml.safe_load((READER / "base" / "namespace.yaml").read_text()), PATHS["Namespace"].format(name="gpuid")
    )
    installed = helm("install", "gpuid-reader", CHART, *context)
    assert "pod-security.kubernetes.io/enforce=restricted" in installed.stdout
    daemonset = plane.http.get(PATHS["DaemonSet"].format(name="gpuid-reader")).json()
    assert create_pod(plane, daemonset)["kind"] == "Pod"

    values = (
        "--set",
        "variant=gke",
        "--set",
        "intervalSeconds=60",
        "--set",
        "image.repository=registry.example.com/debian",
    )
    upgraded = helm("upgrade", "gpuid-reader", CHART, *context, *values)
    assert "pod-security.kubernetes.io/enforce=privileged" in upgraded.stdout
    daemonset = plane.http.get(PATHS["DaemonSet"].format(name="gpuid-reader")).json()
    (container,) = daemonset["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith("registry.example.com/debian:")
    assert {"name": "INTERVAL_SECONDS", "value": "60"} in container["env"]
    assert "violates PodSecurity" in create_pod(plane, daemonset)["message"]

    helm("uninstall", "gpuid-reader", *context)
    for kind in ("DaemonSet", "ConfigMap", "NetworkPolicy"):
        assert plane.http.get(PATHS[kind].format(name="")).json()["items"] == []


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("variant=eks", "/variant"),
        ("intervalSeconds=29", "/intervalSeconds"),
        ("timeoutSeconds=61", "/timeoutSeconds"),
        ("interval=5", "interval"),
    ],
)
def test_the_chart_names_an_invalid_value(helm: Helm, value: str, named: str) -> None:
    refused = helm("template", CHART, "--set", value, check=False)
    assert refused.returncode == 1
    assert named in refused.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_resources_are_optional(helm: Helm, variant: str) -> None:
    daemonset = by_kind(helm("template", CHART, "--set", f"resources=null,variant={variant}").stdout)["DaemonSet"]
    (container,) = daemonset["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == ({"claims": [{"name": "gpus"}]} if variant == "dra" else None)


def test_pods_may_have_a_priority(helm: Helm) -> None:
    assert "priorityClassName" not in helm("template", CHART).stdout
    assert "priorityClassName: high\n" in helm("template", CHART, "--set", "priorityClassName=high").stdout


def test_the_cluster_may_choose_the_user(helm: Helm) -> None:
    text = helm("template", CHART, "--set", "runAsUser=null").stdout
    assert "runAsNonRoot: true" in text
    assert "runAsUser" not in text
