"""Which resources and labels make a node a GPU node."""

import json
from typing import Any

import msgspec
import pytest

from collector.collect.gpu_signs import find_sign
from collector.collect.objects import node_decoder
from tests.support.gpu_labels import GPU_LABELS


@pytest.mark.parametrize(
    ("capacity", "sign"),
    [
        ({"nvidia.com/gpu": "8"}, "nvidia.com/gpu"),
        ({"nvidia.com/gpu.shared": "80"}, "nvidia.com/gpu.shared"),
        ({"nvidia.com/gpu": "0"}, "nvidia.com/gpu"),  # its device plugin is gone
        ({"nvidia.com/mig-1g.10gb": "7"}, "nvidia.com/mig-*"),
        ({"nvidia.com/mig-3g.20gb.shared": "4"}, "nvidia.com/mig-*"),
        ({"cpu": "8", "memory": "1Ti", "amd.com/gpu": "8", "nvidia.com/gpumem": "1"}, ""),
        ({}, ""),
    ],
)
def test_resources_are_a_sign(capacity: dict[str, str], sign: str) -> None:
    assert find_sign(capacity, {}) == sign


@pytest.mark.parametrize("label", GPU_LABELS)
def test_labels_are_a_sign(label: tuple[str, str]) -> None:
    assert find_sign({"cpu": "8"}, dict([label, ("zone", "a")])) == label[0]


@pytest.mark.parametrize(
    "labels",
    [
        {"nvidia.com/gpu.present": "false"},
        {"nvidia.com/gpu.count": "0"},
        {"nvidia.com/gpu.count": ""},
        {"nvidia.com/gpu.deploy.driver": "true"},
        {"nvidia.com/mig.strategy": "single"},
        {"feature.node.kubernetes.io/pci-1002.present": "true"},
        {"cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice"},
        {"karpenter.k8s.aws/instance-gpu-manufacturer": "amd", "karpenter.k8s.aws/instance-gpu-count": "1"}
        | {"karpenter.k8s.aws/instance-gpu-name": "radeon-pro-v520"},
        {"karpenter.k8s.aws/instance-gpu-count": "0"},
        {"karpenter.k8s.aws/instance-accelerator-manufacturer": "aws"},
        {"kubernetes.azure.com/accelerator": "amd"},
        {"accelerator": "tpu"},
        {"node.kubernetes.io/instance-type": "p5.48xlarge"},
    ],
)
def test_other_labels_are_not_a_sign(labels: dict[str, str]) -> None:
    assert find_sign({}, labels) == ""


def test_the_resource_is_named_before_a_label() -> None:
    assert find_sign({"nvidia.com/gpu": "8"}, {"nvidia.com/gpu.present": "true"}) == "nvidia.com/gpu"


@pytest.mark.parametrize(
    ("amounts", "sign", "advertised"),
    [
        ({"nvidia.com/gpu": "8", "nvidia.com/gpu.shared": "16"}, "nvidia.com/gpu", 24),
        ({"nvidia.com/mig-1g.10gb": "7"}, "nvidia.com/mig-*", None),
        ({"nvidia.com/gpu": None}, "nvidia.com/gpu", None),
        ({"nvidia.com/gpu": {"a": [1, {"b": "nvidia.com/mig-1g.5gb"}]}, "cpu": 1.5}, "nvidia.com/gpu", None),
        (None, "", None),
    ],
)
def test_an_amount_in_any_form_is_accepted(amounts: Any, sign: str, advertised: int | None) -> None:
    raw = msgspec.Raw(json.dumps({"metadata": {"name": "n"}, "status": {"capacity": amounts}}).encode())
    facts = node_decoder()(raw).facts
    assert (facts.gpu_sign, facts.advertised[0]) == (sign, advertised)
