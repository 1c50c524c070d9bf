"""The modes of the chart: the values of each, and the objects that it must have."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["ALWAYS", "IN_CLUSTER", "MODES", "POSTGRES", "TLS", "Values", "write_values"]

ROOT = Path(__file__).parents[2]

Values = Mapping[str, Any]

POSTGRES = {"url": "postgresql://gpuid@db.example.com:5432/gpuid"}
IN_CLUSTER = {"in_cluster": True, "name": "here"}
TLS = {
    "cert_file": {"secretName": "gpuid-tls", "key": "tls.crt"},
    "key_file": {"secretName": "gpuid-tls", "key": "tls.key"},
}

MODES: dict[str, tuple[Values, set[str]]] = {
    "single": ({"config": {"clusters": [{"context": "a"}]}}, {"Deployment gpuid", "PersistentVolumeClaim gpuid"}),
    "memory": ({"config": {"store": None}}, {"Deployment gpuid"}),
    "ha": ({"config": {"store": POSTGRES}, "replicas": 2}, {"Deployment gpuid", "PodDisruptionBudget gpuid"}),
    "sharded": (
        {"config": {"store": POSTGRES}, "shards": 3},
        {"StatefulSet gpuid-a", "Service gpuid-shards", "PodDisruptionBudget gpuid"},
    ),
    "sharded-ha": (
        {"config": {"store": POSTGRES}, "shards": 2, "replicas": 2},
        {"StatefulSet gpuid-a", "StatefulSet gpuid-b", "Service gpuid-shards", "PodDisruptionBudget gpuid"},
    ),
    "in-cluster": (
        {"config": {"clusters": [IN_CLUSTER]}},
        {"Deployment gpuid", "PersistentVolumeClaim gpuid"}
        | {f"{kind}{suffix} gpuid.gpuid" for kind in ("ClusterRole", "Role") for suffix in ("", "Binding")}
        | {f"ValidatingAdmissionPolicy{suffix} gpuid.gpuid-exec" for suffix in ("", "Binding")},
    ),
    "published": (
        {
            "ingress": {"enabled": True, "hosts": ["gpuid.example.com"], "className": "nginx"},
            "gateway": {"enabled": True, "parentRefs": [{"name": "public"}]},
            "prometheus": {"scrape": "serviceMonitor", "rules": True},
            "dashboards": {"enabled": True},
        },
        {"Deployment gpuid", "PersistentVolumeClaim gpuid", "Ingress gpuid", "HTTPRoute gpuid"}
        | {"ServiceMonitor gpuid", "PrometheusRule gpuid"}
        | {f"ConfigMap gpuid-dashboard-{one.stem}" for one in (ROOT / "grafana" / "dashboards").glob("*.json")},
    ),
    "one target per cluster": (
        {"prometheus": {"scrape": "scrapeConfig"}},
        {"Deployment gpuid", "PersistentVolumeClaim gpuid", "ScrapeConfig gpuid"},
    ),
    "not isolated": (
        {"networkPolicy": {"enabled": False}, "serviceAccount": {"create": False}, "config": {"store": None}},
        {"Deployment gpuid"},
    ),
}
ALWAYS = {
    *("ConfigMap gpuid", "Service gpuid", "ServiceAccount gpuid-collector", "NetworkPolicy gpuid"),
    "Pod gpuid-test",  # of `helm test`
}


def write_values(folder: Path, values: Values) -> Path:
    """Write a file of values, with one cluster if they have none."""
    file = folder / "values.yaml"
    given = {"clusters": [{"context": "far"}]} | values.get("config", {})
    file.write_text(json.dumps({**values, "config": given}, ensure_ascii=False))
    return file
