"""Node labels on a real API server: written with the rights for it and no others, under our name, and removed again."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.control_plane.conftest import Planes
from tests.control_plane.plane import ControlPlane
from tests.control_plane.test_rights import MANIFESTS, PATHS
from tests.support.processes import CollectorProcess
from tests.support.waiting import until

TWO = [
    ("1650122000002", "GPU-00000000-0000-0000-0000-000000000002"),
    ("1650122000001", "GPU-00000000-0000-0000-0000-000000000001"),
]
LABELS = {"gpuid.github.com/gpu-0": "1650122000001", "gpuid.github.com/gpu-1": "1650122000002"}
NODE = "/api/v1/nodes/gpu-1"

Run = Callable[[], CollectorProcess]


def grant(plane: ControlPlane, file: str) -> None:
    for manifest in yaml.safe_load_all((MANIFESTS / "watched-cluster" / file).read_text()):
        plane.apply(manifest, PATHS[manifest["kind"]].format(**manifest["metadata"]))


def labels(plane: ControlPlane) -> dict[str, str]:
    found = plane.http.get(NODE).json()["metadata"]["labels"]
    return {key: value for key, value in found.items() if key.startswith("gpuid.")}


def patch(plane: ControlPlane, metadata: dict[str, Any], manager: str = "somebody") -> tuple[int, dict[str, Any]]:
    response = plane.http.patch(
        NODE,
        content=json.dumps({"metadata": metadata}),
        params={"fieldManager": manager},
        headers={"Content-Type": "application/strategic-merge-patch+json"},
    )
    return response.status_code, response.json()


@pytest.fixture
def east(planes: Planes) -> Iterator[ControlPlane]:
    plane = planes["east"]
    grant(plane, "rbac.yaml")
    plane.add_node("gpu-1", TWO)
    yield plane
    plane.http.delete("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/gpuid-labels")


@pytest.fixture
def run(east: ControlPlane, tmp_path: Path) -> Iterator[Run]:
    """Start a collector that has no rights but those of the service account."""
    path = "/api/v1/namespaces/gpuid/serviceaccounts/gpuid/token"
    token = east.create(path, {"spec": {"expirationSeconds": 3600}})["status"]["token"]
    kubeconfig = east.write_kubeconfig("gpuid", token=token)
    collector = CollectorProcess(tmp_path)

    def start() -> CollectorProcess:
        collector.configure({"east": kubeconfig}, before="[defaults]\nlabels = true")
        collector.start()
        return collector

    yield start
    collector.stop(signal.SIGKILL)


def test_labels_are_written_under_our_name_and_stale_ones_removed(east: ControlPlane, run: Run) -> None:
    stale = {"gpuid.github.com/gpu-7": "7", "gpuid.github.com/chassis": "8", "gpuid.github.com/owner": "ada"}
    assert patch(east, {"labels": stale})[0] == 200
    grant(east, "labels.yaml")
    collector = run()
    until(lambda: labels(east), LABELS | {"gpuid.github.com/owner": "ada"})
    node = east.http.get(NODE).json()
    (entry,) = [one for one in node["metadata"]["managedFields"] if one["manager"] == "gpuid"]
    assert (entry["operation"], entry["fieldsV1"]) == (
        "Update",
        {"f:metadata": {"f:labels": {f"f:{key}": {} for key in LABELS}}},
    )
    until(lambda: collector.total("gpuid_node_label_writes_total", cluster="east"), 1.0)
    assert collector.total("gpuid_read_success_total", cluster="east") == 1

    east.replace_pod("gpu-1", TWO[:1])
    until(lambda: labels(east), {"gpuid.github.com/gpu-0": "1650122000002", "gpuid.github.com/owner": "ada"})
    until(lambda: collector.total("gpuid_node_label_writes_total", cluster="east"), 2.0)
    assert collector.total("gpuid_node_label_failures_total", cluster="east") == 0


def test_a_missing_patch_right_is_one_problem_until_granted(east: ControlPlane, run: Run) -> None:
    collector = run()
    until(lambda: collector.total("gpuid_node_label_failures_total", cluster="east", reason="forbidden"))
    assert "Labels that cannot be written on " in collector.text("/problems")
    assert collector.logged("label write failed: ", cluster="east", reason="forbidden") == 1
    assert labels(east) == {}
    grant(east, "labels.yaml")
    until(lambda: labels(east), LABELS)
    until(lambda: "Labels that cannot be written" not in collector.text("/problems"))


def test_a_patch_with_another_nodes_uid_changes_nothing(east: ControlPlane) -> None:
    status, answer = patch(east, {"uid": "of-another-node", "labels": {"a": "b"}})
    assert (status, answer["reason"]) == (422, "Invalid")
    assert answer["message"] == (
        'Node "gpu-1" is invalid: metadata.uid: Invalid value: "of-another-node": field is immutable'
    )
    assert "a" not in east.http.get(NODE).json()["metadata"]["labels"]
