"""The settings of one collector: frozen, each with its unit, its rules held when it is made."""

import math
import os
import re
from pathlib import Path

import msgspec

from collector.config.selector import is_label_key, parse_selector
from collector.config.sinks import SinkSettings
from collector.config.store import StoreSettings
from collector.config.values import Duration, Listen, quote

__all__ = ["PRESETS", "ClusterSettings", "Config", "DefaultSettings", "MetricsSettings", "PodSource", "ServerSettings"]


class PodSource(msgspec.Struct, frozen=True, kw_only=True):
    """Pods that can see a node's GPUs: where to find them and which container to ask."""

    namespace: str
    selector: str  # Kubernetes label selector; empty selects every pod of the namespace
    container: str

    def __post_init__(self) -> None:
        """Refuse a source that can name no container."""
        for key in ("namespace", "container"):
            if not re.fullmatch(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?", getattr(self, key)):
                raise ValueError(f"{key}: expected a name as Kubernetes allows it, got {quote(getattr(self, key))}")
        _check_selector("selector", self.selector)


def _check_selector(key: str, text: str) -> None:
    try:
        parse_selector(text)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


PRESETS: dict[str, PodSource] = {
    "gpu-operator": PodSource(
        namespace="gpu-operator", selector="app=nvidia-device-plugin-daemonset", container="nvidia-device-plugin"
    ),
    "device-plugin": PodSource(
        namespace="kube-system", selector="name=nvidia-device-plugin-ds", container="nvidia-device-plugin-ctr"
    ),
    "gke": PodSource(
        namespace="kube-system", selector="k8s-app=nvidia-gpu-device-plugin", container="nvidia-gpu-device-plugin"
    ),
}


class DefaultSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every cluster may set, and `[defaults]` sets for all of them."""

    kubeconfig: str | None = None  # path, or paths joined by ":"; None is $KUBECONFIG, then ~/.kube/config
    preset: str = "gpu-operator"  # a key of PRESETS
    sources: tuple[PodSource, ...] = ()  # instead of the preset; on one node the first source with a ready pod is read
    refresh: Duration = Duration(3600)  # a reading older than this is made anew
    grace: Duration = Duration(600)  # how long a node without a GPU pod keeps its series
    command: tuple[str, ...] = ("nvidia-smi", "-q", "-x")
    exec_timeout: Duration = Duration(30)  # from opening the exec to its exit status
    exec_concurrency: int = 16  # execs at once in one cluster
    request_rate: float = 100.0  # API requests per second to one server, falling on 429
    request_burst: int = 200  # API requests that may go out at once after a pause
    node_selector: str = ""  # which nodes to watch; empty watches all

    def __post_init__(self) -> None:
        """Refuse values that no cluster could run with."""
        for key in ("exec_concurrency", "request_burst", "request_rate", "refresh", "exec_timeout"):
            if not 0 < getattr(self, key) < math.inf:  # written so that it is false of nan
                raise ValueError(f"{key}: expected a finite value above zero, got {getattr(self, key):g}")
        if self.preset not in PRESETS:
            raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {quote(self.preset)}")
        _check_selector("node_selector", self.node_selector)
        if not self.command:
            raise ValueError("command: expected at least the program's name")
        if self.kubeconfig is not None and not self.kubeconfig.strip(os.pathsep):
            raise ValueError("kubeconfig: expected a path")

    @property
    def watched(self) -> tuple[PodSource, ...]:
        """The sources in force: the given ones, else the preset's."""
        return self.sources or (PRESETS[self.preset],)


class ClusterSettings(DefaultSettings, frozen=True, kw_only=True):
    """One cluster to watch."""

    name: str = ""  # the `cluster` label; default: the context's name
    context: str | None = None  # None only together with in_cluster
    in_cluster: bool = False  # use the service account of the pod that gpuid runs in

    def __post_init__(self) -> None:
        """Hold the rules between the keys and settle the name."""
        super().__post_init__()
        if self.in_cluster == (self.context is not None):
            raise ValueError('expected either context = "…" or in_cluster = true')
        if self.context == "":
            raise ValueError("context: expected the name of a context")
        if not self.name:
            if self.context is None:
                raise ValueError("name: expected a name, because an in_cluster cluster has no context to take it from")
            msgspec.structs.force_setattr(self, "name", self.context)
        if not self.name.isprintable():
            raise ValueError(f"name: expected printable letters in one line, got {quote(self.name)}")


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how HTTP is served."""

    listen: Listen = Listen("0.0.0.0:8080")
    cert_file: Path | None = None  # PEM chain; turns HTTPS on together with key_file; read again when it changes
    key_file: Path | None = None
    client_ca_file: Path | None = None  # PEM; clients must show a certificate that it signed; read again too
    basic_auth: dict[str, str] = {}  # user name -> bcrypt hash
    bearer_token_file: Path | None = None  # its content is the token that clients must send

    def __post_init__(self) -> None:
        """Hold the rules between the keys."""
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("expected cert_file and key_file together")
        if self.client_ca_file is not None and self.cert_file is None:
            raise ValueError("client_ca_file: expected cert_file and key_file beside it")
        for user, digest in self.basic_auth.items():
            if not re.fullmatch(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}", digest):
                raise ValueError(f"basic_auth.{user}: expected a bcrypt hash")


class MetricsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the series are labelled."""

    cluster_label: str = "cluster"
    node_labels: tuple[str, ...] = ()  # Kubernetes node labels that gpuid_node_info carries as label_…

    def __post_init__(self) -> None:
        """Refuse a label name that Prometheus or another label of ours would clash with."""
        if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", self.cluster_label) or self.cluster_label.startswith("__"):
            raise ValueError(f"cluster_label: expected a Prometheus label name, got {quote(self.cluster_label)}")
        if self.cluster_label in _OWN_LABELS or self.cluster_label.startswith("label_"):
            raise ValueError(f'cluster_label: "{self.cluster_label}" is a label that gpuid sets itself')
        for label in self.node_labels:
            if not is_label_key(label):
                raise ValueError(f"node_labels: expected names of Kubernetes labels, got {quote(label)}")


_OWN_LABELS = frozenset(
    {"node", "serial", "uuid", "model", "chassis", "machine", "provider_id", "driver_version", "cuda_version"}
    | {"state", "reason", "resource", "sink", "le", "encoding", "version"}
    | {"generation", "implementation", "major", "minor", "patchlevel"}  # of Python's own metrics
)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of one collector."""

    clusters: tuple[ClusterSettings, ...] = ()
    defaults: DefaultSettings = DefaultSettings()
    server: ServerSettings = ServerSettings()
    metrics: MetricsSettings = MetricsSettings()
    store: StoreSettings | None = None  # None keeps everything in memory alone, and allows no sinks
    sinks: dict[str, SinkSettings] = {}

    def __post_init__(self) -> None:
        """Refuse what cannot be told apart later."""
        seen: set[str] = set()
        for cluster in self.clusters:
            if cluster.name in seen:
                raise ValueError(
                    f"clusters: two clusters are named {quote(cluster.name)}; give one of them another name"
                )
            seen.add(cluster.name)
        if self.sinks and self.store is None:
            raise ValueError(
                "sinks: expected a [store] beside them, where what they are owed is kept until they have it"
            )
        for name in self.sinks:
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
                raise ValueError(f"sinks: expected names of letters, digits, - and _, got {quote(name)}")
