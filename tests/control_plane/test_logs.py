"""GPUs read from logs on a real API server, by an account that may not exec: kwok serves logs as kubelets do."""

import time
from pathlib import Path

import pytest

from collector.simulator import Placed
from tests.control_plane.conftest import Collect, Planes
from tests.control_plane.plane import MODEL, READER_NAMESPACE, ControlPlane
from tests.support.waiting import until

ONE = [(f"165012200000{number}", f"GPU-00000000-0000-0000-0000-00000000000{number}") for number in range(1, 9)]
TWO = [(f"165012200001{number}", f"GPU-00000000-0000-0000-0000-00000000001{number}") for number in range(1, 9)]
SOURCE = f"""[[clusters.sources]]
namespace = "{READER_NAMESPACE}"
selector = "app.kubernetes.io/name=gpuid-reader"
container = "reader"
method = "log"
"""
RBAC = "/apis/rbac.authorization.k8s.io/v1"
LISTED = ["list", "watch"]


@pytest.fixture
def kubeconfig(planes: Planes) -> Path:
    """A kubeconfig of an account that may list nodes, list the reader's pods and read their logs, and nothing else."""
    plane = planes["east"]
    plane.http.post("/api/v1/namespaces", json={"metadata": {"name": READER_NAMESPACE}})
    name = {"metadata": {"name": "log-reader"}}
    subjects = [{"kind": "ServiceAccount", "name": "log-reader", "namespace": READER_NAMESPACE}]
    accounts = f"/api/v1/namespaces/{READER_NAMESPACE}/serviceaccounts"
    plane.apply({"apiVersion": "v1", "kind": "ServiceAccount", **name}, f"{accounts}/log-reader")
    rules = {
        "ClusterRole": [{"apiGroups": [""], "resources": ["nodes"], "verbs": LISTED}],
        "Role": [
            {"apiGroups": [""], "resources": ["pods"], "verbs": LISTED},
            {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        ],
    }
    for kind, where in (("ClusterRole", RBAC), ("Role", f"{RBAC}/namespaces/{READER_NAMESPACE}")):
        version = {"apiVersion": "rbac.authorization.k8s.io/v1"}
        plane.apply({**version, "kind": kind, **name, "rules": rules[kind]}, f"{where}/{kind.lower()}s/log-reader")
        role = {"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "log-reader"}}
        binding = {**version, "kind": f"{kind}Binding", **name, "subjects": subjects, **role}
        plane.apply(binding, f"{where}/{kind.lower()}bindings/log-reader")
    token = plane.create(f"{accounts}/log-reader/token", {"spec": {"expirationSeconds": 3600}})["status"]["token"]
    return plane.write_kubeconfig("log-reader", token=token)


def rows(node: str, gpus: list[tuple[str, str]]) -> set[Placed]:
    return {Placed("east", node, uuid, serial, chassis="", model=MODEL) for serial, uuid in gpus}


def may_exec(plane: ControlPlane, kubeconfig: Path) -> bool:
    review = {
        "spec": {
            "user": f"system:serviceaccount:{READER_NAMESPACE}:log-reader",
            "resourceAttributes": {"verb": "create", "resource": "pods", "subresource": "exec"},
        }
    }
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    return bool(plane.create(path, review)["status"]["allowed"])


def test_every_gpu_is_found_without_the_right_to_exec(planes: Planes, kubeconfig: Path, collect: Collect) -> None:
    east, now = planes["east"], time.time()
    for node, gpus in (("gpu-1", ONE), ("gpu-2", TWO)):
        east.add_node(node, gpus)
        east.add_reader(node)
        for ago in (600, 300, 1):
            east.print_document(node, gpus if ago == 1 else gpus[:3], now - ago)
    assert not may_exec(east, kubeconfig)
    collector = collect({})
    collector.configure({"east": kubeconfig}, after=SOURCE)
    until(collector.gpus, rows("gpu-1", ONE) | rows("gpu-2", TWO), seconds=120)
    assert collector.total("gpuid_read_failing_nodes", cluster="east") == 0
    read = {labels["node"]: value for labels, value in collector.samples("gpuid_node_read_timestamp_seconds")}
    assert read == pytest.approx({"gpu-1": now - 1, "gpu-2": now - 1}, abs=2)

    # A document that the file's rotation has cut, and nothing whole: then the next one that is printed.
    lines = east.log("gpu-2").read_bytes().splitlines(keepends=True)
    east.log("gpu-2").write_bytes(b"".join(lines[-5:]))
    east.print_document("gpu-2", TWO[:7], time.time() + 25)
    east.reboot("gpu-2")  # so that it is read again
    until(collector.gpus, rows("gpu-1", ONE) | rows("gpu-2", TWO[:7]), seconds=120)


def test_a_pod_without_useful_output_is_reported(planes: Planes, kubeconfig: Path, collect: Collect) -> None:
    east = planes["east"]
    east.add_node("gpu-3", ONE)
    east.add_reader("gpu-3")
    east.log("gpu-3").write_text("2026-10-06T00:17:09.669794202Z stderr F sh: 1: nvidia-smi: not found\n")
    collector = collect({})
    collector.configure({"east": kubeconfig}, after=SOURCE)
    until(lambda: collector.total("gpuid_read_failing_nodes", cluster="east", reason="bad_output"), 1, seconds=120)
    assert "in the log: sh: 1: nvidia-smi: not found" in collector.tail()
