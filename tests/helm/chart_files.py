"""What the chart says of the code, as files: `python -m tests.helm.chart_files` writes them, and a test compares them.

The schema of its values has the keys of gpuid.toml, `keys.json` those that a given gpuid.toml may have, `presets.json`
the sources of the presets, `policies.json` the admission policies of `gpuid grant`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec

from collector.config import Config, Duration, Size
from collector.config.sinks import SinkSettings
from collector.config.sources import DEFAULT_COMMAND, PRESETS, PodSource
from collector.config.values import Listen
from collector.grant.policy import _HAS_COMMAND, _ONE_GPU, exec_policy, label_policy
from collector.sharding import MAX_SHARDS

CHART = Path(__file__).parents[2] / "config" / "helm" / "gpuid"
SCHEMA = CHART / "values.schema.json"

Json = dict[str, Any]

STRING: Json = {"type": "string"}
TEXT: Json = {"type": "string", "minLength": 1}
BOOL: Json = {"type": "boolean"}
LIST: Json = {"type": "array", "items": {"type": "object"}}
MAP: Json = {"type": "object"}
TEXTS: Json = {"type": "array", "items": TEXT}
NAMES: Json = {"type": "object", "additionalProperties": STRING}
OWN_LABELS = [f"app.kubernetes.io/{one}" for one in ("name", "instance", "version", "managed-by")]
LABELS: Json = NAMES | {"properties": dict.fromkeys([*OWN_LABELS, "helm.sh/chart", "gpuid/set"], False)}
PATH: Json = {"type": "string", "pattern": "^/"}
LENGTH: Json = {"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"}


def table(**properties: Json) -> Json:
    """Return the schema of a table that has no other keys."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


def whole(**properties: Json) -> Json:
    """Return the schema of a table that has all of these keys: `--set KEY=null` removes one, which has a default."""
    return table(**properties) | {"required": list(properties)}


SECRET_KEY: Json = whole(secretName=TEXT, key=TEXT)

# The chart's files other than gpuid.toml.
OTHER_VALUES: Json = {
    "image": whole(
        repository={"type": "string", "pattern": "^[^@]+$"},  # its digest is a value of its own
        tag=STRING,
        digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
        pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
    ),
    "imagePullSecrets": LIST,
    "nameOverride": STRING,
    "fullnameOverride": STRING,
    "gpuidToml": STRING,
    "kubeconfig": whole(secretNames=TEXTS, key=TEXT),
    "shards": {"type": "integer", "minimum": 1, "maximum": MAX_SHARDS},
    "replicas": {"type": "integer", "minimum": 1, "maximum": 5},
    "persistence": whole(size=TEXT, storageClassName=STRING, existingClaim=STRING, annotations=NAMES),
    "resources": MAP,
    "serviceAccount": whole(create=BOOL, name=STRING, annotations=NAMES),
    "rbac": whole(create=BOOL, admissionPolicy=BOOL),
    "service": whole(
        type={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        port={"type": "integer", "minimum": 1, "maximum": 65535},
        annotations=NAMES,
    ),
    "ingress": whole(enabled=BOOL, className=STRING, annotations=NAMES, hosts=TEXTS, path=PATH, tls=LIST),
    "gateway": whole(enabled=BOOL, annotations=NAMES, parentRefs=LIST, hostnames=TEXTS, path=PATH),
    "networkPolicy": whole(enabled=BOOL, **{"from": LIST}, egress=LIST),
    "podDisruptionBudget": whole(enabled=BOOL, maxUnavailable={"type": ["integer", "string"]}),
    "prometheus": whole(
        scrape={"enum": ["none", "serviceMonitor", "scrapeConfig"]},
        rules=BOOL,
        runbookUrl=STRING,
        labels=LABELS,
        interval=LENGTH,
        scrapeTimeout=LENGTH,
        basicAuth=MAP,
        authorization=MAP,
        tlsConfig=MAP,
    ),
    "dashboards": whole(enabled=BOOL, namespace=STRING, labels=LABELS, annotations=NAMES),
    "env": LIST,
    "envFrom": LIST,
    "extraVolumes": LIST,
    "extraVolumeMounts": LIST,
    "runAsUser": {"type": ["integer", "null"], "minimum": 1},
    "podAnnotations": NAMES,
    "podLabels": LABELS,
    "priorityClassName": STRING,
    "nodeSelector": NAMES,
    "tolerations": LIST,
    "affinity": MAP,
    "topologySpreadConstraints": LIST,
    "terminationGracePeriodSeconds": {"type": "integer", "minimum": 10},
    "global": MAP,  # helm sets it where the chart is a dependency
}
# Values that may be null.
OPTIONAL = {"global", "resources", "runAsUser"}


def values_schema() -> Json:
    """Return the schema of the chart's values."""
    config = _schema(msgspec.inspect.type_info(Config))
    values = {"config": config, **OTHER_VALUES}
    required = [key for key in values if key not in OPTIONAL]
    return {"$schema": "http://json-schema.org/draft-07/schema#", **table(**values), "required": required}


def known_keys() -> Json:
    """Return the tables of gpuid.toml; of those that the chart takes from a file, the keys."""
    tables: Json = _schema(msgspec.inspect.type_info(Config))["properties"]
    taken = {"clusters": tables["clusters"]["items"], "defaults": tables["defaults"]}
    return {name: sorted(taken[name]["properties"]) if name in taken else [] for name in tables}


def presets() -> Json:
    """Return the sources of each preset, as far as rights depend on them."""
    return {
        "command": list(DEFAULT_COMMAND),
        "presets": {
            name: [
                {"namespace": one.namespace, "container": one.container, "method": one.method.value}
                | ({"command": list(one.command)} if one.command else {})
                for one in sources
            ]
            for name, sources in PRESETS.items()
        },
    }


def policies() -> Json:
    """Return the policies in which the chart fills in the account and what its sources run."""
    source = PodSource(namespace="gpuid", selector="", container="gpuid", command=("nvidia-smi",))
    return {
        "exec": exec_policy("", [source]),
        "noExec": exec_policy("", []),
        "labels": label_policy(""),
        "oneGpu": _ONE_GPU,
        "hasCommand": _HAS_COMMAND,
    }


def text(document: Json) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def chart_files() -> dict[Path, str]:
    """Return what each generated file must hold."""
    return {
        SCHEMA: text(values_schema()),
        CHART / "files" / "keys.json": text(known_keys()),
        CHART / "files" / "presets.json": text(presets()),
        CHART / "files" / "policies.json": text(policies()),
    }


def _schema(info: Any, *, key: str = "") -> Json:
    """Return the schema of a type of the configuration; a path of a key that ends in _file may be that of a Secret."""
    inspect = msgspec.inspect
    if type(info) in SIMPLE:
        return SIMPLE[type(info)]
    match info:
        case inspect.StructType():
            return _struct(info)
        case inspect.DictType() if info.value_type == inspect.type_info(SinkSettings):
            return table() | {"patternProperties": {"^[A-Za-z0-9_-]+$": _sinks()}}
        case inspect.DictType():
            return {"type": "object", "additionalProperties": _schema(info.value_type)}
        case inspect.UnionType():
            kinds = [_schema(one, key=key) for one in info.types if not isinstance(one, inspect.NoneType)]
            return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
        case inspect.VarTupleType():
            return {"type": "array", "items": _schema(info.item_type)}
        case inspect.EnumType() | inspect.LiteralType():
            return {"enum": [one.value for one in info.cls] if hasattr(info, "cls") else list(info.values)}
        case inspect.CustomType():
            assert info.cls is not Path or key.endswith("_file"), key
            return CUSTOM[info.cls]
    raise NotImplementedError(info)


SIMPLE: Mapping[type, Json] = {
    msgspec.inspect.StrType: STRING,
    msgspec.inspect.BoolType: BOOL,
    msgspec.inspect.IntType: {"type": "integer"},
    msgspec.inspect.FloatType: {"type": "number"},
}
CUSTOM: Mapping[type, Json] = {
    Duration: {"type": "string", "pattern": f"^{Duration._FORM.pattern}$".replace(r"\d", "[0-9]")},
    Size: {"type": "string", "pattern": f"^{Size._FORM.pattern}$".replace(r"\d", "[0-9]")},
    Listen: {"enum": [":8080", "0.0.0.0:8080", "[::]:8080"]},  # the port of the container, and not only for itself
    Path: {"anyOf": [TEXT, SECRET_KEY]},
}


def _struct(info: Any) -> Json:
    fields = {one.encode_name: _schema(one.type, key=one.encode_name) for one in info.fields}
    if info.tag_field:
        fields = {info.tag_field: {"const": info.tag}} | fields
    required = [one.encode_name for one in info.fields if one.required]
    return table(**fields) | ({"required": required} if required else {})


def _sinks() -> Json:
    """Return the schema of one sink: that of its type, so that an error names the key."""
    kinds = [_schema(msgspec.inspect.type_info(one)) for one in get_args(SinkSettings)]
    tags = [one["properties"]["type"]["const"] for one in kinds]
    return {
        "type": "object",
        "properties": {"type": {"enum": tags}},
        "required": ["type"],
        "allOf": [
            {"if": {"properties": {"type": {"const": tag}}}, "then": kind}
            for tag, kind in zip(tags, kinds, strict=True)
        ],
    }


if __name__ == "__main__":
    for path, content in chart_files().items():
        path.write_text(content, encoding="utf-8")
