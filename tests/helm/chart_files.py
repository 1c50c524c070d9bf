"""What the chart says of the code, as files: `python -m tests.helm.chart_files` writes them, and a test compares them.

The schema of its values has the keys of gpuid.toml, `presets.json` the sources of the presets, `policies.json` the
admission policies of `gpuid grant`.
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
PATH: Json = {"type": "string", "pattern": "^/"}
LENGTH: Json = {"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"}


def table(**properties: Json) -> Json:
    """Return the schema of a table that has no other keys."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


SECRET_KEY: Json = table(secretName=TEXT, key=TEXT) | {"required": ["secretName", "key"]}

# What the chart has beside gpuid.toml.
OTHER_VALUES: Json = {
    "image": table(
        repository=TEXT,
        tag=STRING,
        digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
        pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
    ),
    "imagePullSecrets": LIST,
    "nameOverride": STRING,
    "fullnameOverride": STRING,
    "gpuidToml": STRING,
    "kubeconfig": table(secretNames=TEXTS, key=TEXT),
    "shards": {"type": "integer", "minimum": 1, "maximum": MAX_SHARDS},
    "replicas": {"type": "integer", "minimum": 1, "maximum": 5},
    "persistence": table(size=TEXT, storageClassName=STRING, existingClaim=STRING, annotations=NAMES),
    "resources": MAP,
    "serviceAccount": table(create=BOOL, name=STRING, annotations=NAMES),
    "rbac": table(create=BOOL, admissionPolicy=BOOL),
    "service": table(
        type={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        port={"type": "integer", "minimum": 1, "maximum": 65535},
        annotations=NAMES,
    ),
    "ingress": table(enabled=BOOL, className=STRING, annotations=NAMES, hosts=TEXTS, path=PATH, tls=LIST),
    "gateway": table(enabled=BOOL, annotations=NAMES, parentRefs=LIST, hostnames=TEXTS, path=PATH),
    "networkPolicy": table(enabled=BOOL, **{"from": LIST}, egress=LIST),
    "podDisruptionBudget": table(enabled=BOOL, maxUnavailable={"type": ["integer", "string"]}),
    "prometheus": table(
        scrape={"enum": ["none", "serviceMonitor", "scrapeConfig"]},
        rules=BOOL,
        runbookUrl=STRING,
        labels=NAMES,
        interval=LENGTH,
        scrapeTimeout=LENGTH,
        basicAuth=MAP,
        authorization=MAP,
        tlsConfig=MAP,
    ),
    "dashboards": table(enabled=BOOL, namespace=STRING, labels=NAMES, annotations=NAMES),
    "env": LIST,
    "envFrom": LIST,
    "extraVolumes": LIST,
    "extraVolumeMounts": LIST,
    "runAsUser": {"type": ["integer", "null"], "minimum": 1},
    "podAnnotations": NAMES,
    "podLabels": NAMES,
    "priorityClassName": STRING,
    "nodeSelector": NAMES,
    "tolerations": LIST,
    "affinity": MAP,
    "topologySpreadConstraints": LIST,
    "terminationGracePeriodSeconds": {"type": "integer", "minimum": 10},
    "global": MAP,  # helm sets it where the chart is a dependency
}


def values_schema() -> Json:
    """Return the schema of the chart's values."""
    config = _schema(msgspec.inspect.type_info(Config))
    document = table(config=config, **OTHER_VALUES)
    return {"$schema": "http://json-schema.org/draft-07/schema#", **document}


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
            return {"type": "object", "additionalProperties": _sinks()}
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
    Listen: {"type": "string", "pattern": ":8080$"},  # the port of the container
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
