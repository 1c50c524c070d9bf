"""The shapes of simulated clusters: namespaces, pods, labels and images of each way to install NVIDIA software.

What is written here comes from the manifests that `config/sources.py` names, not from the presets, so that a preset
that does not fit its distribution fails in the simulation as it would there.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from collector.simulator.images import EMPTY_IMAGE, PATH, Image

__all__ = ["DEFAULT_SHAPE", "SHAPES", "DaemonSet", "Platform", "Shape"]


class DaemonSet(NamedTuple):
    """A DaemonSet whose pods run on the GPU nodes."""

    name: str
    labels: Mapping[str, str]  # of its pods
    containers: Mapping[str, Image]  # by name, in the order of the manifest
    image: str = "registry.example/nvidia/k8s-device-plugin:v0.17.4"

    @property
    def prefix(self) -> str:
        """The beginning of the names of its pods."""
        return f"{self.name}-"


class Platform(NamedTuple):
    """How a provider's machines describe themselves."""

    machines: Mapping[str, str]  # instance type, by kind of GPU
    provider_id: str  # with {zone} and {machine}
    os_image: str
    kernel: str


AWS = Platform(
    machines={"h100": "p5.48xlarge", "gb200": "p6e-gb200.36xlarge", "": "m7i.xlarge"},
    provider_id="aws:///{zone}/i-0{machine}",
    os_image="Ubuntu 24.04.2 LTS",
    kernel="6.8.0-1024-aws",
)


class Shape(NamedTuple):
    """One installation method of GPU software in a cluster."""

    name: str  # of the preset that reads it
    namespace: str
    gpu_pods: DaemonSet  # those through which the GPUs are read, one on each GPU node
    others: tuple[DaemonSet, ...] = ()  # with a pod on each GPU node, too
    sparse: tuple[DaemonSet, ...] = ()  # with pods on the first two GPU nodes alone
    controller: str = ""  # a Deployment in the namespace; its pod is on a node without GPUs
    node_labels: Mapping[str, str] = MappingProxyType({})  # of GPU nodes; with {product}, {gpus}, {driver}
    resource: str = "nvidia.com/gpu"  # that GPU nodes offer; empty with DRA, which offers none
    slices: bool = False  # a DRA driver publishes ResourceSlices
    platform: Platform = AWS

    def image(self, pod: str, container: str) -> Image:
        """Return the image of a container, in a pod whose name begins with that of its DaemonSet."""
        for one in (self.gpu_pods, *self.others, *self.sparse):
            if pod[:-5] == one.prefix:
                return one.containers.get(container, EMPTY_IMAGE)
        return EMPTY_IMAGE


_GCE = Platform(
    machines={"h100": "a3-highgpu-8g", "gb200": "a4x-highgpu-4g", "": "e2-standard-4"},
    provider_id="gce://acme/{zone}/gke-{machine}",
    os_image="Container-Optimized OS from Google",
    kernel="6.6.72+",
)
_AZURE = Platform(
    machines={"h100": "Standard_ND96isr_H100_v5", "gb200": "Standard_ND128isr_NDR_GB200_v6", "": "Standard_D4s_v5"},
    provider_id="azure:///subscriptions/0/resourceGroups/mc/providers/Microsoft.Compute/virtualMachines/{machine}",
    os_image="Ubuntu 22.04.5 LTS",
    kernel="5.15.0-1088-azure",
)
_OPENSHIFT = AWS._replace(
    os_image="Red Hat Enterprise Linux CoreOS 9.6.20250805-0", kernel="5.14.0-570.33.2.el9_6.x86_64"
)
_BOTTLEROCKET = AWS._replace(os_image="Bottlerocket OS 1.46.0 (aws-k8s-1.34-nvidia)", kernel="6.12.40")

_NVIDIA_SMI = "/usr/bin/nvidia-smi"  # where NVIDIA's container runtime mounts it

# NVIDIA/k8s-device-plugin, deployments/container/Dockerfile: distroless with busybox, whose folder is in $PATH.
_BUSYBOX = (*PATH, "/busybox")
_PLUGIN_IMAGE = Image(frozenset({_NVIDIA_SMI, "/bin/sh", "/busybox/sh", "/busybox/chroot"}), _BUSYBOX)
# An earlier one: the GPU operator's manifest of v25.3.4 starts it with bash.
_PLUGIN_IMAGE_WITH_BASH = Image(frozenset({_NVIDIA_SMI, "/bin/sh", "/bin/bash"}))
# GoogleCloudPlatform/container-engine-accelerators, Dockerfile: distroless/base, with neither a shell nor the driver's
# folder in $PATH.
_GKE_IMAGE = Image(frozenset({"/usr/bin/nvidia-gpu-device-plugin", "/usr/local/nvidia/bin/nvidia-smi"}))
_DRIVER_IMAGE = Image(frozenset({_NVIDIA_SMI, "/bin/sh", "/bin/bash", "/usr/sbin/chroot"}))
# kubernetes-sigs/dra-driver-nvidia-gpu, deployments/container/Dockerfile: distroless/cc:debug and bash. The runtime is
# runc (NVIDIA_VISIBLE_DEVICES=void), so nothing of the driver is mounted but its root file system.
_DRA_IMAGE = Image(
    frozenset({"/bin/bash", "/busybox/sh", "/busybox/chroot", f"/driver-root{_NVIDIA_SMI}", "/driver-root/bin/sh"}),
    _BUSYBOX,
)
_READER_IMAGE = Image(frozenset({_NVIDIA_SMI, "/bin/sh"}))

_GFD_LABELS = {
    "nvidia.com/gpu.present": "true",
    "nvidia.com/gpu.product": "{product}",
    "nvidia.com/gpu.count": "{gpus}",
    "nvidia.com/cuda.driver.major": "{driver}",
}
_NFD_LABELS = {"feature.node.kubernetes.io/pci-10de.present": "true"}
_HELM_LABELS = {"app.kubernetes.io/instance": "nvdp", "app.kubernetes.io/name": "nvidia-device-plugin"}
_DCGM = DaemonSet(
    "nvidia-dcgm-exporter",
    {"app": "nvidia-dcgm-exporter"},
    {"nvidia-dcgm-exporter": Image(frozenset({_NVIDIA_SMI, "/bin/sh", "/bin/bash"}))},
    "registry.example/nvidia-dcgm-exporter:v1",
)


def _daemon(labels: Mapping[str, str]) -> dict[str, str]:
    """Return labels with those that the DaemonSet controller adds."""
    return {**labels, "controller-revision-hash": "6d8f7b9c5d", "pod-template-generation": "1"}


_OPERATOR_PLUGIN = DaemonSet(
    "nvidia-device-plugin-daemonset",
    _daemon({"app": "nvidia-device-plugin-daemonset", "app.kubernetes.io/managed-by": "gpu-operator"}),
    {"nvidia-device-plugin": _PLUGIN_IMAGE_WITH_BASH},
)
# As an NVIDIADriver has it; with a ClusterPolicy, `app` is nvidia-driver-daemonset.
_DRIVER = DaemonSet(
    "nvidia-gpu-driver-ubuntu24.04-7f4b6c9d5",
    _daemon(
        {
            "app": "nvidia-gpu-driver-ubuntu24.04-7f4b6c9d5",
            "app.kubernetes.io/component": "nvidia-driver",
            "nvidia.com/node.os-version": "ubuntu24.04",
            "nvidia.com/precompiled": "false",
        }
    ),
    {"nvidia-driver-ctr": _DRIVER_IMAGE, "nvidia-peermem-ctr": _DRIVER_IMAGE.without("nvidia-smi")},
    "registry.example/nvidia/driver:570.124.06-ubuntu24.04",
)
_STATIC_PLUGIN = DaemonSet(
    "nvidia-device-plugin-daemonset",
    _daemon({"name": "nvidia-device-plugin-ds"}),
    {"nvidia-device-plugin-ctr": _PLUGIN_IMAGE},
    "nvcr.example/nvidia/k8s-device-plugin:v0.20.0",
)

DEFAULT_SHAPE = Shape(
    "gpu-operator",
    "gpu-operator",
    _OPERATOR_PLUGIN,
    sparse=(_DCGM,),
    controller="gpu-operator",
    node_labels=_GFD_LABELS,
)

SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        shape.name: shape
        for shape in (
            DEFAULT_SHAPE,
            DEFAULT_SHAPE._replace(
                name="openshift",
                namespace="nvidia-gpu-operator",
                node_labels=_GFD_LABELS | _NFD_LABELS | {"node.openshift.io/os_id": "rhel"},
                platform=_OPENSHIFT,
            ),
            Shape("device-plugin", "kube-system", _STATIC_PLUGIN),
            # With a configuration, which brings a sidecar, and with GPU feature discovery and MPS, whose pods have the
            # labels of the device plugin.
            Shape(
                "helm",
                "nvidia-device-plugin",
                DaemonSet(
                    "nvdp-nvidia-device-plugin",
                    _daemon(_HELM_LABELS),
                    {"nvidia-device-plugin-sidecar": _PLUGIN_IMAGE, "nvidia-device-plugin-ctr": _PLUGIN_IMAGE},
                    "nvcr.example/nvidia/k8s-device-plugin:v0.20.0",
                ),
                others=(
                    DaemonSet(
                        "nvdp-nvidia-device-plugin-gpu-feature-discovery",
                        _daemon(_HELM_LABELS),
                        {"gpu-feature-discovery-sidecar": _PLUGIN_IMAGE, "gpu-feature-discovery-ctr": _PLUGIN_IMAGE},
                    ),
                    DaemonSet(
                        "nvdp-nvidia-device-plugin-mps-control-daemon",
                        _daemon(_HELM_LABELS),
                        {"mps-control-daemon-sidecar": _PLUGIN_IMAGE, "mps-control-daemon-ctr": _PLUGIN_IMAGE},
                    ),
                ),
                node_labels=_GFD_LABELS | _NFD_LABELS,
            ),
            Shape(
                "aks",
                "gpu-resources",
                _STATIC_PLUGIN,
                node_labels={
                    "accelerator": "nvidia",
                    "kubernetes.azure.com/accelerator": "nvidia",
                    "kubernetes.azure.com/agentpool": "gpunp",
                },
                platform=_AZURE,
            ),
            Shape(
                "gke",
                "kube-system",
                DaemonSet(
                    "nvidia-gpu-device-plugin",
                    _daemon({"k8s-app": "nvidia-gpu-device-plugin"}),
                    {"nvidia-gpu-device-plugin": _GKE_IMAGE},
                    "gke.example/gke-release/nvidia-gpu-device-plugin:1.0",
                ),
                node_labels={
                    "cloud.google.com/gke-accelerator": "nvidia-h100-80gb",
                    "cloud.google.com/gke-accelerator-count": "{gpus}",
                    "cloud.google.com/gke-nodepool": "gpus",
                },
                platform=_GCE,
            ),
            DEFAULT_SHAPE._replace(name="driver", gpu_pods=_DRIVER, others=(_OPERATOR_PLUGIN,)),
            Shape(
                "dra",
                "dra-driver-nvidia-gpu",
                DaemonSet(
                    "dra-driver-nvidia-gpu-kubelet-plugin",
                    _daemon(
                        {
                            "app.kubernetes.io/instance": "dra-driver-nvidia-gpu",
                            "app.kubernetes.io/name": "dra-driver-nvidia-gpu",
                            "dra-driver-nvidia-gpu-component": "kubelet-plugin",
                        }
                    ),
                    {"compute-domains": _DRA_IMAGE, "gpus": _DRA_IMAGE},
                    "registry.example/dra-driver-nvidia/dra-driver-nvidia-gpu:v0.5.0",
                ),
                controller="dra-driver-nvidia-gpu-controller",
                node_labels=_NFD_LABELS,
                resource="",
                slices=True,
            ),
            # On EKS with Bottlerocket, whose device plugin is a service of the host.
            Shape(
                "reader",
                "gpuid",
                DaemonSet(
                    "gpuid-reader",
                    _daemon({"app.kubernetes.io/name": "gpuid-reader"}),
                    {"reader": _READER_IMAGE},
                    "registry.example/debian:12-slim",
                ),
                node_labels={"karpenter.k8s.aws/instance-gpu-manufacturer": "nvidia"},  # one that its DaemonSet takes
                platform=_BOTTLEROCKET,
            ),
        )
    }
)
