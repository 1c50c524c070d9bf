"""Where GPUs are read: the pods of a source, and the presets for the usual ways to install the device plugin."""

import re
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

import msgspec

from collector.config.selector import parse_selector
from collector.config.values import quote

__all__ = ["DEFAULT_COMMAND", "PRESETS", "PodSource", "SourceMethod", "check_selector"]

DEFAULT_COMMAND = ("nvidia-smi", "-q", "-x")


class SourceMethod(Enum):
    """How the pods of a source are read."""

    EXEC = "exec"  # by running a command in them
    LOG = "log"  # from what they print


class PodSource(msgspec.Struct, frozen=True, kw_only=True):
    """Pods that see the GPUs of their node: where they are, and how they are read."""

    namespace: str
    selector: str  # Kubernetes label selector; empty selects every pod of the namespace
    container: str  # in which the command runs, or whose log is read
    method: SourceMethod = SourceMethod.EXEC
    command: tuple[str, ...] = ()  # that exec runs; empty is that of the cluster

    def __post_init__(self) -> None:
        """Reject names and selectors that Kubernetes does not allow, and a command that nothing would run."""
        for key in ("namespace", "container"):
            if not re.fullmatch(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?", getattr(self, key)):
                raise ValueError(f"{key}: expected a name that Kubernetes allows, got {quote(getattr(self, key))}")
        check_selector("selector", self.selector)
        if self.command and self.method is SourceMethod.LOG:
            raise ValueError('command: expected only with method = "exec"; with "log", the pod runs it itself')

    @property
    def name(self) -> str:
        """What it is called in metrics, problems and the log: `namespace/selector`."""
        return f"{self.namespace}/{self.selector}"


def check_selector(key: str, text: str) -> None:
    """Reject what is no label selector: raises ValueError that begins with `key`."""
    try:
        parse_selector(text)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


PRESETS: Mapping[str, tuple[PodSource, ...]] = MappingProxyType(
    {
        "gpu-operator": (
            PodSource(
                namespace="gpu-operator",
                selector="app=nvidia-device-plugin-daemonset",
                container="nvidia-device-plugin",
                command=DEFAULT_COMMAND,
            ),
        ),
        "device-plugin": (
            PodSource(
                namespace="kube-system",
                selector="name=nvidia-device-plugin-ds",
                container="nvidia-device-plugin-ctr",
                command=DEFAULT_COMMAND,
            ),
        ),
        "gke": (
            PodSource(
                namespace="kube-system",
                selector="k8s-app=nvidia-gpu-device-plugin",
                container="nvidia-gpu-device-plugin",
                command=("/usr/local/nvidia/bin/nvidia-smi", "-q", "-x"),
            ),
        ),
    }
)
