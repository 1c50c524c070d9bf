"""The chart and the overlays of config/kubernetes make the same of a mode."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.helm.chart_files import CHART
from tests.helm.modes import IN_CLUSTER, POSTGRES, Values, write_values
from tests.support.helm import Helm, by_name, documents

OVERLAYS = Path(__file__).parents[2] / "config" / "kubernetes" / "overlays"
MODES: dict[str, Values] = {
    "single": {},
    "ha": {"config": {"store": POSTGRES}, "replicas": 2},
    "sharded": {"config": {"store": POSTGRES}, "shards": 3},
    "in-cluster": {"config": {"clusters": [IN_CLUSTER]}},
}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on PATH")


def mode(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the two have to agree about, whatever they call it."""
    (workload,) = (one for one in objects if one["kind"] in ("Deployment", "StatefulSet"))
    spec, pod = workload["spec"], workload["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    named = by_name(objects)
    headless = [one["spec"] for one in objects if one["kind"] == "Service" and one["spec"].get("clusterIP") == "None"]
    budgets = [one["spec"] for one in objects if one["kind"] == "PodDisruptionBudget"]
    claims = [one["spec"] for one in objects if one["kind"] == "PersistentVolumeClaim"]
    return {
        "workload": workload["kind"],
        **{key: spec.get(key) for key in ("replicas", "strategy", "podManagementPolicy", "serviceName")},
        "affinity": named["Service gpuid"]["spec"].get("sessionAffinity"),
        "unready shards have addresses": [one.get("publishNotReadyAddresses") for one in headless],
        "budget": [{key: value for key, value in one.items() if key != "selector"} for one in budgets],
        "claims": [(one["accessModes"], one["resources"]) for one in claims],
        "probes": {probe: container[probe] for probe in PROBES},
        "resources": container["resources"],
        "security": (container["securityContext"], without_policy(pod["securityContext"])),
        "token": pod["automountServiceAccountToken"],
        "environment": [one["name"] for one in container.get("env", [])],
    }


def without_policy(context: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in context.items() if key != "fsGroupChangePolicy"}


@pytest.mark.parametrize("name", MODES)
def test_chart_and_overlay_agree_on_each_mode(helm: Helm, tmp_path: Path, name: str) -> None:
    file = write_values(tmp_path, MODES[name])
    of_chart = documents(helm("template", "gpuid", CHART, "--namespace", "gpuid", "--values", file).stdout)
    built = subprocess.run(["kubectl", "kustomize", OVERLAYS / name], capture_output=True, text=True, check=True)
    assert mode(of_chart) == mode(documents(built.stdout))


def test_every_overlay_is_compared() -> None:
    assert MODES.keys() == {path.name for path in OVERLAYS.iterdir()}
