"""Typed configuration: one TOML file in, frozen settings or one clear line of error out."""

import difflib
import json
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import msgspec

from collector.model import GpuidError

__all__ = [
    "PRESETS",
    "Cluster",
    "Config",
    "ConfigError",
    "Defaults",
    "Duration",
    "Listen",
    "Metrics",
    "Server",
    "Source",
    "load",
    "parse",
]


class ConfigError(GpuidError):
    """The configuration cannot be used; the text names the file, the key and what was expected."""


class Duration(float):
    """A length of time in seconds, written `30s`, `5m`, `1h30m`, `1d` or `50ms`."""

    _UNITS: ClassVar = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    _FORM = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?(?:ms|s|m|h|d))+", re.ASCII)
    _PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read a duration; ValueError tells the expected form."""
        if not isinstance(text, str) or not cls._FORM.fullmatch(text):
            raise ValueError(f'expected a duration such as "30s", "5m" or "1h", got {_shown(text)}')
        return cls(sum(float(number) * cls._UNITS[unit] for number, unit in cls._PART.findall(text)))


class Listen(str):
    """An address to serve on, `host:port`, `[v6]:port` or `:port`; an empty host means every interface."""

    _FORM = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([^:\s\[\]]*)):(\d{1,5})", re.ASCII)

    @classmethod
    def parse(cls, text: object) -> Self:
        """Check the form; ValueError tells the expected one."""
        form = cls._FORM.fullmatch(text) if isinstance(text, str) else None
        if form is None or int(form[3]) > 65535:
            raise ValueError(f'expected an address such as "0.0.0.0:8080" or "[::]:8080", got {_shown(text)}')
        return cls(text)

    @property
    def host(self) -> str:
        """The host without brackets; empty for every interface."""
        return self.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The TCP port; 0 lets the system choose."""
        return int(self.rpartition(":")[2])


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Pods that can see a node's GPUs: where to find them and which container to ask."""

    namespace: str
    selector: str  # Kubernetes label selector; empty selects every pod of the namespace
    container: str

    def __post_init__(self) -> None:
        """Refuse a source that can name no container."""
        for key in ("namespace", "container"):
            if not getattr(self, key):
                raise ValueError(f"{key}: expected a name")


PRESETS: dict[str, Source] = {
    "gpu-operator": Source(
        namespace="gpu-operator", selector="app=nvidia-device-plugin-daemonset", container="nvidia-device-plugin"
    ),
    "device-plugin": Source(
        namespace="kube-system", selector="name=nvidia-device-plugin-ds", container="nvidia-device-plugin-ctr"
    ),
    "gke": Source(
        namespace="kube-system", selector="k8s-app=nvidia-gpu-device-plugin", container="nvidia-gpu-device-plugin"
    ),
}


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """What every cluster may set, and `[defaults]` sets for all of them."""

    kubeconfig: str | None = None  # path, or paths joined by ":"; None is $KUBECONFIG, then ~/.kube/config
    preset: str = "gpu-operator"  # a key of PRESETS
    sources: tuple[Source, ...] = ()  # instead of the preset; on one node the first source with a ready pod is read
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
                raise ValueError(f"{key}: expected a finite value above zero")
        if self.preset not in PRESETS:
            raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {_shown(self.preset)}")
        if not self.command:
            raise ValueError("command: expected at least the program's name")
        if self.kubeconfig is not None and not self.kubeconfig.strip(os.pathsep):
            raise ValueError("kubeconfig: expected a path")

    @property
    def watched(self) -> tuple[Source, ...]:
        """The sources in force: the given ones, else the preset's."""
        return self.sources or (PRESETS[self.preset],)


class Cluster(Defaults, frozen=True, kw_only=True):
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


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how HTTP is served."""

    listen: Listen = Listen("0.0.0.0:8080")
    tls_cert: Path | None = None  # PEM chain; turns HTTPS on together with tls_key; read again when it changes
    tls_key: Path | None = None
    client_ca: Path | None = None  # PEM; clients must then show a certificate that it signed
    basic_auth: dict[str, str] = {}  # user name -> bcrypt hash
    bearer_token_file: Path | None = None  # its content is the token that clients must send

    def __post_init__(self) -> None:
        """Hold the rules between the keys."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("expected tls_cert and tls_key together")
        if self.client_ca is not None and self.tls_cert is None:
            raise ValueError("client_ca: expected tls_cert and tls_key beside it")
        for user, digest in self.basic_auth.items():
            if not re.fullmatch(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}", digest):
                raise ValueError(f"basic_auth.{user}: expected a bcrypt hash")


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """How the series are labelled."""

    cluster_label: str = "cluster"
    node_labels: tuple[str, ...] = ()  # Kubernetes node labels that gpuid_node_info carries as label_…

    def __post_init__(self) -> None:
        """Refuse a label name that Prometheus or another label of ours would clash with."""
        if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", self.cluster_label) or self.cluster_label.startswith("__"):
            raise ValueError(f"cluster_label: expected a Prometheus label name, got {_shown(self.cluster_label)}")
        if self.cluster_label in _OWN_LABELS:
            raise ValueError(f'cluster_label: "{self.cluster_label}" is a label that gpuid sets itself')


_OWN_LABELS = frozenset(
    {"node", "serial", "uuid", "model", "chassis", "machine", "provider_id", "driver_version", "cuda_version"}
    | {"state", "reason", "resource", "sink", "le"}
)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """All settings of one collector."""

    clusters: tuple[Cluster, ...] = ()
    defaults: Defaults = Defaults()
    server: Server = Server()
    metrics: Metrics = Metrics()

    def __post_init__(self) -> None:
        """Refuse what cannot be told apart later."""
        seen: set[str] = set()
        for cluster in self.clusters:
            if cluster.name in seen:
                raise ValueError(
                    f"clusters: two clusters are named {_shown(cluster.name)}; give one of them another name"
                )
            seen.add(cluster.name)


def load(path: Path) -> Config:
    """Read the configuration file at `path`; raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows put a byte order mark in front
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or 'expected UTF-8 text'}") from error
    return parse(text, path)


def parse(text: str, path: Path) -> Config:
    """Turn TOML text into a Config; `path` is for messages and for resolving relative paths. Raises ConfigError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: arrays or tables nested too deep") from error
    for key, name, known in _unknown_keys(document, Config, ""):
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        raise ConfigError(f'{path}: {key}: unknown key; did you mean "{nearest[0]}"?')
    try:
        _convert(document.get("defaults", {}), Defaults, "defaults")
        if {"preset", "sources"} <= document.get("defaults", {}).keys():
            raise ValueError("defaults: expected either preset or sources, not both")
        clusters = _convert(document.get("clusters", []), list[dict[str, Any]], "clusters")
        for index, cluster in enumerate(clusters):
            _convert(cluster, Cluster, f"clusters[{index}]")
            if {"preset", "sources"} <= cluster.keys():
                raise ValueError(f"clusters[{index}]: expected either preset or sources, not both")
            clusters[index] = _inherit(document.get("defaults", {}), cluster)
        config = _convert(document | {"clusters": clusters}, Config, "")
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not config.clusters:
        raise ConfigError(f"{path}: clusters: expected at least one [[clusters]] table")
    try:
        return _resolved(config, path.resolve().parent)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def _inherit(defaults: Mapping[str, Any], cluster: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a cluster over the defaults; a preset and sources replace each other."""
    named = {"preset", "sources"} if {"preset", "sources"} & cluster.keys() else set()
    return {key: value for key, value in defaults.items() if key not in named} | dict(cluster)


def _unknown_keys(value: object, kind: Any, at: str) -> Iterator[tuple[str, str, list[str]]]:
    """Walk a document beside the struct that it must fit; yields (full key, key, the known keys)."""
    info = msgspec.inspect.type_info(kind) if isinstance(kind, type) else kind
    if isinstance(info, msgspec.inspect.StructType) and isinstance(value, Mapping):
        fields = {field.encode_name: field.type for field in info.fields}
        for name, inner in value.items():
            shown = name if re.fullmatch(r"[\w-]+", name) else _shown(name)
            key = f"{at}.{shown}" if at else shown
            if name not in fields:
                yield key, name, list(fields)
            else:
                yield from _unknown_keys(inner, fields[name], key)
    elif isinstance(info, msgspec.inspect.VarTupleType) and isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _unknown_keys(inner, info.item_type, f"{at}[{index}]")


def _convert(value: object, kind: Any, at: str) -> Any:
    """Convert to `kind`; raises ValueError as `key: expected …`."""
    try:
        return msgspec.convert(value, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        key = (at + where.rstrip("`").replace("[...]", ".*")).lstrip(".")
        message = re.sub(r"^Object missing required field `(\w+)`", r'expected a key "\1" in the table', message)
        message = _TYPE_NAME.sub(lambda found: _TYPE_NAMES.get(found[1], found[0]), message[:1].lower() + message[1:])
        joint = "." if re.match(r"[a-z_.A-Z]+: ", message) else ": "  # a rule between keys already names its own key
        raise ValueError(f"{key}{joint if key else ''}{message}") from error


# msgspec names Python's types; whoever writes TOML knows TOML's.
_TYPE_NAME = re.compile(r"`(\w+)(?: \| null)?`")
_TYPE_NAMES = {
    "array": "an array",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "object": "a table",
    "str": "a string",
}


def _decode(kind: Any, value: object) -> object:
    """Read the types that TOML does not have."""
    if kind is Duration or kind is Listen:
        return kind.parse(value)
    if kind is Path:
        if not isinstance(value, str):
            raise ValueError(f"expected a path, got {_shown(value)}")
        return Path(value)
    raise NotImplementedError(kind)


def _shown(value: object) -> str:
    """Write a value as TOML would, in one short line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _resolved(config: Config, base: Path) -> Config:
    """Make every path absolute: `~` is the home directory, anything else is relative to the configuration file."""

    def absolute(path: Path, key: str) -> Path:
        try:
            return base / path.expanduser()
        except RuntimeError as error:
            raise ValueError(
                f"{key}: expected a path of a user with a home directory, got {_shown(str(path))}"
            ) from error

    server = msgspec.structs.replace(
        config.server,
        **{
            key: absolute(path, f"server.{key}")
            for key in ("tls_cert", "tls_key", "client_ca", "bearer_token_file")
            if (path := getattr(config.server, key)) is not None
        },
    )
    clusters = tuple(
        msgspec.structs.replace(
            cluster,
            kubeconfig=os.pathsep.join(
                str(absolute(Path(part), f"clusters[{index}].kubeconfig"))
                for part in cluster.kubeconfig.split(os.pathsep)
                if part
            ),
        )
        if cluster.kubeconfig
        else cluster
        for index, cluster in enumerate(config.clusters)
    )
    return msgspec.structs.replace(config, server=server, clusters=clusters)
