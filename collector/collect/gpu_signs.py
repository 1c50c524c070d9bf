"""Detects GPU nodes: the resources and labels by which Kubernetes shows that a node has NVIDIA GPUs.

A node without such a sign may still be one: if a source has a pod on it, that pod is read. ResourceSlices of
`gpu.nvidia.com` (DRA) are another sign; they are separate objects, and not examined here.
"""

from collections.abc import Callable, Collection, Mapping

__all__ = ["SLICE_SIGN", "find_sign"]

SLICE_SIGN = "resourceslices.resource.k8s.io"  # the sign of a node whose GPUs ResourceSlices list

# An amount of 0 is a sign, too. When a device plugin is gone, the kubelet sets its resource to 0 instead of removing
# it, "to indicate that the resource is managed by device plugin and had been registered before" (MachineInfo in
# pkg/kubelet/nodestatus/setters.go), and the NVIDIA plugin registers only where it has found a device
# (cmd/nvidia-device-plugin/main.go: "No devices found. Waiting indefinitely.").
_RESOURCES = ("nvidia.com/gpu", "nvidia.com/gpu.shared")
_INSTANCE_RESOURCE_PREFIX = "nvidia.com/mig-"  # internal/rm/rm.go of k8s-device-plugin, strategy `mixed`
_INSTANCE_SIGN = "nvidia.com/mig-*"  # one text for all profiles


def _is_true(value: str, _labels: Mapping[str, str]) -> bool:
    return value == "true"


def _is_nvidia(value: str, _labels: Mapping[str, str]) -> bool:
    return value.startswith("nvidia")  # "nvidia", "nvidia-tesla-t4"; not "amd"


def _counts_some(value: str, _labels: Mapping[str, str]) -> bool:
    return value.isdecimal() and value.strip("0") != ""


def _unless_made_by_another(prefix: str) -> Callable[[str, Mapping[str, str]], bool]:
    """Return a test for a label of Karpenter, which names other manufacturers' GPUs in the same way."""
    return lambda value, labels: (
        value.strip("0") != "" and labels.get(f"{prefix}gpu-manufacturer", "nvidia") == "nvidia"
    )


_LABELS: tuple[tuple[str, Callable[[str, Mapping[str, str]], bool]], ...] = (
    # Of the GPU operator ("false" where the GPUs are gone: controllers/nodelabeling_controller.go), and what the chart
    # of the stand-alone device plugin asks an administrator to set (daemonset affinity in its values.yaml).
    ("nvidia.com/gpu.present", _is_true),
    # Of GPU feature discovery (docs/gpu-feature-discovery/README.md of k8s-device-plugin).
    ("nvidia.com/gpu.count", _counts_some),
    # Of node feature discovery: the three that the GPU operator takes for a GPU (controllers/state_manager.go).
    ("feature.node.kubernetes.io/pci-10de.present", _is_true),
    ("feature.node.kubernetes.io/pci-0302_10de.present", _is_true),
    ("feature.node.kubernetes.io/pci-0300_10de.present", _is_true),
    # Of GKE, on every node with GPUs (GPULabel of the cluster-autoscaler's GCE provider).
    ("cloud.google.com/gke-accelerator", _is_nvidia),
    # Of Karpenter on AWS (pkg/apis/v1/labels.go and pkg/providers/instancetype/types.go of karpenter-provider-aws), of
    # EKS Auto Mode, which renames them, and of Karpenter on Azure (`computeRequirements` writes them for NVIDIA alone).
    *(
        (f"{prefix}{what}", _unless_made_by_another(prefix))
        for prefix in (
            "karpenter.k8s.aws/instance-",
            "eks.amazonaws.com/instance-",
            "karpenter.azure.com/sku-",
        )
        for what in ("gpu-manufacturer", "gpu-count", "gpu-name")
    ),
    # Of AKS ("Labels and selectors" of its node pools), and the older one that the cluster-autoscaler's Azure provider
    # and others know; likewise on AWS.
    ("kubernetes.azure.com/accelerator", _is_nvidia),
    ("accelerator", _is_nvidia),
    ("k8s.amazonaws.com/accelerator", _is_nvidia),
)


def find_sign(capacity: Collection[str], labels: Mapping[str, str]) -> str:
    """Return the resource or label that shows that a node has NVIDIA GPUs; empty if there is none.

    `capacity` has the names of its current and former resources.
    """
    for resource in _RESOURCES:
        if resource in capacity:
            return resource
    if any(resource.startswith(_INSTANCE_RESOURCE_PREFIX) for resource in capacity):
        return _INSTANCE_SIGN
    return next((label for label, holds in _LABELS if label in labels and holds(labels[label], labels)), "")
