"""On which nodes the reader runs: on all of which labels say that they have GPUs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.gpu_labels import GPU_LABELS

READER = Path(__file__).parents[2] / "config" / "kubernetes" / "reader"
MATCHES = {
    "In": lambda value, values: value in values,
    "Exists": lambda value, _values: value is not None,
    "Gt": lambda value, values: value is not None and value.isdecimal() and int(value) > int(values[0]),
}


def terms(affinity: dict[str, Any]) -> Any:
    return affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]


def selected(labels: dict[str, str]) -> bool:
    daemonset = yaml.safe_load((READER / "base" / "daemonset.yaml").read_text())
    return any(
        all(MATCHES[one["operator"]](labels.get(one["key"]), one.get("values")) for one in term["matchExpressions"])
        for term in terms(daemonset["spec"]["template"]["spec"]["affinity"])
    )


@pytest.mark.parametrize("label", [one for one in GPU_LABELS if not one[0].startswith("cloud.google.com/")])
def test_it_runs_where_labels_indicate_gpus(label: tuple[str, str]) -> None:
    key, value = label
    family, found, _what = key.partition("gpu-")
    manufacturer = {f"{family}gpu-manufacturer": "nvidia"} if found else {}  # Karpenter never names one without it
    assert selected({key: value, **manufacturer})


@pytest.mark.parametrize(
    "labels",
    [
        {"nvidia.com/gpu.present": "false", "nvidia.com/gpu.count": "0"},
        {"eks.amazonaws.com/instance-gpu-manufacturer": "amd", "eks.amazonaws.com/instance-gpu-count": "1"},
        {"accelerator": "tpu"},
        {"kubernetes.io/os": "linux"},
    ],
)
def test_it_does_not_run_on_other_nodes(labels: dict[str, str]) -> None:
    assert not selected(labels)
