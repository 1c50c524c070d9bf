"""The settings of a collector: frozen, and validated on creation."""

import functools
import math
import os
import re
from pathlib import Path

import msgspec

from collector.config.selector import is_label_key
from collector.config.sinks import SinkSettings
from collector.config.sources import DEFAULT_COMMAND, PRESETS, PodSource, SourceMethod, check_selector
from collector.config.store import StoreSettings
from collector.config.values import Duration, Listen, Size, quote, shown_key

__all__ = ["ClusterSettings", "Config", "DefaultSettings", "MetricsSettings", "ServerSettings"]

_OWN_LABELS = frozenset(  # a test compares them with the families and rules
    {"node", "serial", "uuid", "model", "chassis", "machine", "provider_id", "driver_version", "cuda_version"}
    | {"state", "reason", "resource", "sink", "source", "field", "le", "encoding", "version", "mark", "ticket"}
    | {"level", "kind", "cause", "memory"}
    | {"generation", "implementation", "major", "minor", "patchlevel"}  # of Python's own metrics
)

_PROMETHEUS_LABELS = frozenset({"job", "instance", "alertname", "severity"})  # of targets, and of our alerts

# PromQL keywords, in any case: some cannot be labels at all, the others would make rules hard to read.
_PROMQL_WORDS = frozenset(
    {"and", "or", "unless", "atan2", "inf", "nan", "sum", "avg", "count", "min", "max", "group", "stddev", "stdvar"}
    | {"topk", "bottomk", "count_values", "quantile", "limitk", "limit_ratio", "offset", "smoothed", "anchored", "by"}
    | {"without", "on", "ignoring", "group_left", "group_right", "fill", "fill_left", "fill_right", "bool"}
    | {"start", "end", "step", "range"}
)

_POSITIVE_KEYS = (  # of a cluster
    "exec_concurrency",
    "request_burst",
    "request_rate",
    "refresh",
    "exec_timeout",
    "max_answer_size",
    "max_error_size",
    "max_list_pages",
    "max_objects",
    "max_object_size",
    "max_kept_size",
    "max_gpus",
    "max_exec_size",
    "max_exec_frames",
    "max_log_size",
    "loop_share",
)

_POSITIVE_SERVER_KEYS = (
    "header_timeout",
    "idle_timeout",
    "write_timeout",
    "max_header_size",
    "max_connections",
    "max_connections_per_client",
)
_EXTERNAL_URL = re.compile(
    r"https?://(?:[\w.-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?"  # scheme, host and port
    r"(?:/[\w.~%!$&'()*+,;=:@-]+)*/?",  # path
    re.ASCII,
)


class DefaultSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The keys that every cluster may set and `[defaults]` sets for all of them."""

    kubeconfig: str | None = None  # path, or paths separated by ":"; None: $KUBECONFIG, then ~/.kube/config
    preset: str | tuple[str, ...] = "gpu-operator"  # keys of PRESETS, whose sources are used in this order
    sources: tuple[PodSource, ...] = ()  # instead of the preset; on each node, the first with a ready pod is used
    refresh: Duration = Duration(3600)  # a node is read again when its reading is older (logs: as they are printed)
    grace: Duration = Duration(600)  # how long a node without a GPU pod keeps its series, and a new one may lack it
    command: tuple[str, ...] | None = None  # for sources without a command; None: that of the preset
    exec_timeout: Duration = Duration(30)  # from opening the exec to its exit status, or for reading a log
    exec_concurrency: int = 16  # nodes of one cluster read at the same time
    request_rate: float = 100.0  # API requests per second to one server; reduced on 429
    request_burst: int = 200  # API requests that may be sent in one burst
    node_selector: str = ""  # which nodes to watch; empty watches all
    labels: bool = False  # name each node's GPUs in its labels, gpuid.github.com/…
    # Limits on what one API server may send and make us keep. Above a limit of a list or watch, the cluster is down
    # (limit_exceeded); above one of an exec or log, that reading fails. The defaults suffice for 10,000 nodes.
    max_answer_size: Size = Size(32 << 20)  # a response, decompressed; pages of lists have 100 to 500 objects
    max_error_size: Size = Size(64 << 10)  # read of an error's body
    max_list_pages: int = 1000
    max_objects: int = 30_000  # nodes, pods of each source, and ResourceSlices
    max_object_size: Size = Size(4 << 20)  # a node, pod or slice as sent
    max_kept_size: Size = Size(32 << 20)  # kept of all nodes, of each source's pods, and of all slices
    max_gpus: int = 200_000
    max_exec_size: Size = Size(8 << 20)  # sent by an exec, on all channels
    max_exec_frames: int = 100_000  # sent by an exec, including empty ones and pings
    max_log_size: Size = Size(8 << 20)  # read of a pod's log at a time
    loop_share: float = 0.25  # average share of the event loop's time for one API server's data

    def __post_init__(self) -> None:
        """Reject values that no cluster can run with."""
        for key in _POSITIVE_KEYS:
            if not 0 < getattr(self, key) < math.inf:  # false for NaN too
                raise ValueError(f"{key}: expected a finite value above zero, got {getattr(self, key):g}")
        if self.loop_share > 1:
            raise ValueError(f"loop_share: expected at most 1, got {self.loop_share:g}")
        if not self.presets:
            raise ValueError("preset: expected at least one")
        for name in self.presets:
            if name not in PRESETS:
                raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {quote(name)}")
        check_selector("node_selector", self.node_selector)
        if self.command is not None and not any(self.command[:1]):
            raise ValueError("command: expected at least a program name")
        if self.kubeconfig is not None and not self.kubeconfig.strip(os.pathsep):
            raise ValueError("kubeconfig: expected a path")

    @property
    def presets(self) -> tuple[str, ...]:
        """The names of the presets."""
        return (self.preset,) if isinstance(self.preset, str) else self.preset

    @property
    def active_sources(self) -> tuple[PodSource, ...]:
        """The configured sources, or else those of the presets, each with its command.

        A configured source's own command takes precedence over the cluster's; in a preset it is the other way round,
        because configured values take precedence over built-in ones.
        """
        if self.sources:
            return tuple(_with_command(source, source.command or self.command) for source in self.sources)
        sources = dict.fromkeys(source for name in self.presets for source in PRESETS[name])
        return tuple(_with_command(source, self.command or source.command) for source in sources)

    @property
    def scope(self) -> tuple[object, ...]:
        """Which nodes and pods are watched; equal for two settings of a cluster that watch the same."""
        pods = ((source.namespace, source.selector, source.container, source.method) for source in self.active_sources)
        return (self.node_selector, *pods)


@functools.lru_cache(maxsize=1024)  # cached: used after every step of the inventory
def _with_command(source: PodSource, command: tuple[str, ...] | None) -> PodSource:
    if source.method is not SourceMethod.EXEC:
        return source
    return msgspec.structs.replace(source, command=command or DEFAULT_COMMAND)


class ClusterSettings(DefaultSettings, frozen=True, kw_only=True):
    """One cluster to watch."""

    name: str = ""  # the `cluster` label; default: the context's name
    context: str | None = None  # None only together with in_cluster
    in_cluster: bool = False  # use the service account of the pod that gpuid runs in

    def __post_init__(self) -> None:
        """Check combinations of keys, and set the default name."""
        super().__post_init__()
        if self.in_cluster == (self.context is not None):
            raise ValueError('expected either context = "…" or in_cluster = true')
        if self.context == "":
            raise ValueError("context: expected a context name")
        if not self.name:
            if self.context is None:
                raise ValueError("name: required with in_cluster, which has no context to name the cluster after")
            msgspec.structs.force_setattr(self, "name", self.context)
        if not self.name.isprintable():
            raise ValueError(f"name: expected printable characters in one line, got {quote(self.name)}")


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The HTTP server."""

    listen: Listen = Listen("0.0.0.0:8080")
    cert_file: Path | None = None  # PEM chain; enables HTTPS together with key_file; reloaded when it changes
    key_file: Path | None = None
    client_ca_file: Path | None = None  # PEM; clients other than probes need a certificate signed by it; reloaded too
    basic_auth: dict[str, str] = {}  # user name -> bcrypt hash
    bearer_token_file: Path | None = None  # contains the token that clients must send
    external_url: str | None = None  # where a proxy publishes it: scheme, host and path prefix
    header_timeout: Duration = Duration(10)  # from the first byte of a request, or the connection, to its last header
    idle_timeout: Duration = Duration(120)  # for which an idle connection is kept open
    write_timeout: Duration = Duration(30)  # over which a client must read a response at 16 KiB/s or more
    max_header_size: Size = Size(32 << 10)  # of the request line and all headers of one request
    max_connections: int = 500  # capped at half of the process's file descriptors
    max_connections_per_client: int = 250  # of one IPv4 address or IPv6 /64 network

    def __post_init__(self) -> None:
        """Check values and combinations of keys."""
        for key in _POSITIVE_SERVER_KEYS:
            if getattr(self, key) <= 0:
                raise ValueError(f"{key}: expected a value above zero")
        if self.external_url is not None and not _EXTERNAL_URL.fullmatch(self.external_url):
            raise ValueError(
                'external_url: expected a URL such as "https://gpuid.example.com/prefix", without user, query and '
                f"fragment, got {quote(self.external_url)}"
            )
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("expected cert_file and key_file together")
        if self.client_ca_file is not None and self.cert_file is None:
            raise ValueError("client_ca_file: requires cert_file and key_file")
        for user, digest in self.basic_auth.items():
            if not re.fullmatch(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}", digest):
                raise ValueError(f"basic_auth.{shown_key(user)}: expected a bcrypt hash")


class MetricsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The labels of the series."""

    cluster_label: str = "cluster"
    node_labels: tuple[str, ...] = ()  # Kubernetes node labels added to gpuid_node_info as label_…

    def __post_init__(self) -> None:
        """Reject invalid label names and those that gpuid sets itself."""
        if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", self.cluster_label) or self.cluster_label.startswith("__"):
            raise ValueError(f"cluster_label: expected a Prometheus label name, got {quote(self.cluster_label)}")
        if self.cluster_label in _OWN_LABELS or self.cluster_label.startswith("label_"):
            raise ValueError(f'cluster_label: "{self.cluster_label}" is a label that gpuid sets itself')
        if self.cluster_label in _PROMETHEUS_LABELS:
            raise ValueError(f'cluster_label: "{self.cluster_label}" is a label that Prometheus sets itself')
        if self.cluster_label.lower() in _PROMQL_WORDS:
            raise ValueError(f'cluster_label: "{self.cluster_label}" is a PromQL keyword')
        for label in self.node_labels:
            if not is_label_key(label):
                raise ValueError(f"node_labels: expected Kubernetes label keys, got {quote(label)}")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of one collector."""

    clusters: tuple[ClusterSettings, ...] = ()
    defaults: DefaultSettings = DefaultSettings()
    server: ServerSettings = ServerSettings()
    metrics: MetricsSettings = MetricsSettings()
    store: StoreSettings | None = None  # None keeps everything in memory only, and allows no sinks
    sinks: dict[str, SinkSettings] = {}

    def __post_init__(self) -> None:
        """Check the names of clusters and sinks, and that sinks have a store."""
        seen: set[str] = set()
        for cluster in self.clusters:
            if cluster.name in seen:
                raise ValueError(f"clusters: two clusters are named {quote(cluster.name)}; rename one of them")
            seen.add(cluster.name)
        if self.sinks and self.store is None:
            raise ValueError("sinks: require a [store], which buffers records until they are delivered")
        for name in self.sinks:
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
                raise ValueError(f"sinks: expected names of letters, digits, - and _, got {quote(name)}")
