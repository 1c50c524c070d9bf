"""Where GPUs are read: the pods of a source, and presets for common ways to install the device plugin."""

import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

import msgspec

from collector.config.selector import parse_selector
from collector.config.values import quote

__all__ = ["DEFAULT_COMMAND", "OTHER_SOURCES", "PRESETS", "PodSource", "SourceMethod", "check_selector"]

DEFAULT_COMMAND = ("nvidia-smi", "-q", "-x")

_PLUGIN_CONTAINER = "nvidia-device-plugin-ctr"  # of NVIDIA's device plugin, in its manifests and in its chart


class SourceMethod(StrEnum):
    """How the pods of a source are read."""

    EXEC = "exec"  # run a command in them
    LOG = "log"  # read their logs


class PodSource(msgspec.Struct, frozen=True, kw_only=True):
    """Pods that see their node's GPUs: where they are and how they are read."""

    namespace: str
    selector: str  # Kubernetes label selector; empty selects every pod of the namespace
    container: str  # where the command runs, or whose log is read
    method: SourceMethod = SourceMethod.EXEC
    command: tuple[str, ...] = ()  # run by exec; empty: that of the cluster

    def __post_init__(self) -> None:
        """Reject names and selectors that Kubernetes does not allow, and commands that would not be run."""
        for key in ("namespace", "container"):
            if not re.fullmatch(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?", getattr(self, key)):
                raise ValueError(f"{key}: expected a valid Kubernetes name, got {quote(getattr(self, key))}")
        check_selector("selector", self.selector)
        if self.command and not self.command[0]:
            raise ValueError("command: expected at least a program name")
        if self.command and self.method is SourceMethod.LOG:
            raise ValueError('command: expected only with method = "exec"; with "log", the pod itself runs it')

    @property
    def name(self) -> str:
        """Its name in metrics, problems and the log: `namespace/selector`."""
        return f"{self.namespace}/{self.selector}"


def check_selector(key: str, text: str) -> None:
    """Reject an invalid label selector with a ValueError that begins with `key`."""
    try:
        parse_selector(text)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


# Each preset uses one namespace, so that it needs no rights in others, which may not exist; several presets may be
# listed. docs/clusters.md says what each is for and what was tried.
PRESETS: Mapping[str, tuple[PodSource, ...]] = MappingProxyType(
    {
        # NVIDIA/gpu-operator, assets/state-device-plugin/0500_daemonset.yaml (v26.7.0, a22dbf6): labels, container, and
        # NVIDIA_VISIBLE_DEVICES=all in a privileged container; the same since v1.11.0. The namespace is the one of
        # NVIDIA's instructions.
        "gpu-operator": (
            PodSource(
                namespace="gpu-operator",
                selector="app=nvidia-device-plugin-daemonset",
                container="nvidia-device-plugin",
                command=DEFAULT_COMMAND,
            ),
        ),
        # The same DaemonSet in the namespace that OpenShift suggests: operatorframework.io/suggested-namespace in
        # bundle/manifests/gpu-operator-certified.clusterserviceversion.yaml, ocpSuggestedNamespace in
        # controllers/state_manager.go (v26.7.0, a22dbf6).
        "openshift": (
            PodSource(
                namespace="nvidia-gpu-operator",
                selector="app=nvidia-device-plugin-daemonset",
                container="nvidia-device-plugin",
                command=DEFAULT_COMMAND,
            ),
        ),
        # NVIDIA/k8s-device-plugin, deployments/static/nvidia-device-plugin.yml, and the one for the CPU manager there
        # (v0.20.0, 1b826ac); deployments/container/Dockerfile sets NVIDIA_VISIBLE_DEVICES=all. The third manifest,
        # nvidia-device-plugin-privileged-with-service-account.yml, has the namespace nvidia-device-plugin.
        "device-plugin": (
            PodSource(
                namespace="kube-system",
                selector="name=nvidia-device-plugin-ds",
                container=_PLUGIN_CONTAINER,
                command=DEFAULT_COMMAND,
            ),
        ),
        # NVIDIA/k8s-device-plugin, deployments/helm/nvidia-device-plugin/templates (v0.20.0, 1b826ac), in the namespace
        # of its README. The label is also that of the chart's pods of GPU feature discovery and of the MPS control
        # daemon, which have no such container.
        "helm": (
            PodSource(
                namespace="nvidia-device-plugin",
                selector="app.kubernetes.io/name=nvidia-device-plugin",
                container=_PLUGIN_CONTAINER,
                command=DEFAULT_COMMAND,
            ),
        ),
        # Microsoft's "Use GPUs on AKS" (articles/aks of azure-aks-docs): the static manifest in its own namespace.
        "aks": (
            PodSource(
                namespace="gpu-resources",
                selector="name=nvidia-device-plugin-ds",
                container=_PLUGIN_CONTAINER,
                command=DEFAULT_COMMAND,
            ),
        ),
        # GoogleCloudPlatform/container-engine-accelerators, cmd/nvidia_gpu/device-plugin.yaml and Dockerfile (992db81).
        # The image is distroless and $PATH lacks the driver, which is mounted at /usr/local/nvidia; the manifest sets
        # LD_LIBRARY_PATH for it. GKE's own manifest may differ: the file says that it is not the source of truth.
        "gke": (
            PodSource(
                namespace="kube-system",
                selector="k8s-app=nvidia-gpu-device-plugin",
                container="nvidia-gpu-device-plugin",
                command=("/usr/local/nvidia/bin/nvidia-smi", "-q", "-x"),
            ),
        ),
        # NVIDIA/gpu-operator (v26.7.0, a22dbf6): assets/state-driver/0500_daemonset.yaml of a ClusterPolicy and
        # manifests/state-driver/0500_daemonset.yaml of an NVIDIADriver have this label and this container; their `app`
        # differs. So since v23.9.0. The container's own startup probe runs `nvidia-smi`
        # (assets/state-driver/0400_configmap.yaml).
        "driver": (
            PodSource(
                namespace="gpu-operator",
                selector="app.kubernetes.io/component=nvidia-driver",
                container="nvidia-driver-ctr",
                command=DEFAULT_COMMAND,
            ),
        ),
        # kubernetes-sigs/dra-driver-nvidia-gpu, deployments/helm/dra-driver-nvidia-gpu/templates/kubeletplugin.yaml and
        # deployments/container/Dockerfile (0.5.0-dev, 9593204), in the namespace of its instructions: a privileged
        # container with busybox, runc instead of NVIDIA's runtime, and the driver's root file system at /driver-root.
        # The driver itself runs nvidia-smi there by chroot (disableGPUPersistenceMode in cmd/gpu-kubelet-plugin).
        "dra": (
            PodSource(
                namespace="dra-driver-nvidia-gpu",
                selector="dra-driver-nvidia-gpu-component=kubelet-plugin",
                container="gpus",
                command=("chroot", "/driver-root", "nvidia-smi", "-q", "-x"),
            ),
        ),
        # config/kubernetes/reader of this repository.
        "reader": (
            PodSource(
                namespace="gpuid",
                selector="app.kubernetes.io/name=gpuid-reader",
                container="reader",
                method=SourceMethod.LOG,
            ),
        ),
    }
)

# Pods of other installations, in namespaces that no preset has: `gpuid init` and `gpuid check` also look for them.
OTHER_SOURCES = (
    # NVIDIA/gpu-operator before v1.11.0 (assets/state-device-plugin/0400_device_plugin.yml of v1.8.2 and v1.10.1); from
    # v1.9.0 on, in the operator's namespace.
    PodSource(
        namespace="gpu-operator-resources",
        selector="app=nvidia-device-plugin-daemonset",
        container=_PLUGIN_CONTAINER,
        command=DEFAULT_COMMAND,
    ),
    # kubernetes-sigs/dra-driver-nvidia-gpu, deployments/helm/nvidia-dra-driver-gpu (v25.3.0 to v25.12.0), and what was
    # upgraded from there by site/content/docs/upgrade.md, with nameOverride. Images (deployments/container/Dockerfile):
    # of 25.3 cuda:…-base-ubi9, then distroless/cc:…-dev, which has busybox.
    PodSource(
        namespace="nvidia-dra-driver-gpu",
        selector="nvidia-dra-driver-gpu-component=kubelet-plugin",
        container="gpus",
        command=("chroot", "/driver-root", "nvidia-smi", "-q", "-x"),
    ),
    # NVIDIA/gpu-operator, manifests/state-dra-driver/0500_daemonset.yaml (v26.7.0, a22dbf6) of a GPUCluster: its
    # /driver-root is that of the driver container, whose preset goes first; a driver of the host is under /host.
    PodSource(
        namespace="gpu-operator",
        selector="app=nvidia-dra-driver-kubelet-plugin",
        container="gpus",
        command=("chroot", "/host", "nvidia-smi", "-q", "-x"),
    ),
)
