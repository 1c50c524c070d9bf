"""The chart on a real API server: each mode is accepted; helm installs, upgrades, rolls back and removes it."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from collector.grant.contexts import make_secret
from collector.grant.documents import dump
from tests.control_plane.plane import ControlPlane
from tests.control_plane.releases import CORE, PATHS, Release, admit, hub, objects, release
from tests.helm.chart_files import CHART
from tests.helm.modes import MODES, POSTGRES, TLS, Values, write_values
from tests.support.helm import Helm, documents

__all__ = ["hub", "release"]

EVERYTHING: Values = {
    "config": {
        "clusters": [{"context": "east"}, {"in_cluster": True, "name": "here", "labels": True}],
        "server": TLS
        | {"client_ca_file": {"secretName": "gpuid-tls", "key": "ca.crt"}}
        | {"bearer_token_file": {"secretName": "gpuid-token", "key": "token"}},
        "store": POSTGRES | {"password_file": {"secretName": "gpuid-store", "key": "password"}},
        "sinks": {
            "log": {"type": "stdout"},
            "hook": {"type": "webhook", "url": "https://x", "token_file": {"secretName": "hook", "key": "token"}},
        },
    },
    "kubeconfig": {"secretNames": ["one", "two"], "key": "config"},
    "shards": 3,
    "replicas": 2,
    "image": {"repository": "registry.example.com/gpuid", "tag": "1", "digest": "sha256:" + "0" * 64},
    "imagePullSecrets": [{"name": "registry"}],
    "serviceAccount": {"name": "collector", "annotations": {"eks.amazonaws.com/role-arn": "arn"}},
    "service": {"type": "NodePort", "port": 80, "annotations": {"a": "b"}},
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "annotations": {"a": "b"},
        "hosts": ["a.example.com", "b.example.com"],
        "tls": [{"secretName": "gpuid-tls", "hosts": ["a.example.com"]}],
    },
    "gateway": {
        "enabled": True,
        "annotations": {"a": "b"},
        "parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "https"}],
        "hostnames": ["a.example.com"],
    },
    "networkPolicy": {
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "egress": [{"ports": [{"port": 443}, {"port": 53, "protocol": "UDP"}]}],
    },
    "podDisruptionBudget": {"maxUnavailable": "50%"},
    "prometheus": {
        "scrape": "scrapeConfig",
        "tlsConfig": {
            "cert": {"secret": {"name": "scraper", "key": "tls.crt"}},
            "keySecret": {"name": "scraper", "key": "tls.key"},
        },
        "rules": True,
        "runbookUrl": "https://wiki.example.org",
        "labels": {"release": "stack"},
        "interval": "30s",
    },
    "dashboards": {"enabled": True, "labels": {"dashboards": "yes"}},
    "env": [{"name": "GPUID_LOG_LEVEL", "value": "debug"}],
    "envFrom": [{"secretRef": {"name": "aws"}}],
    "extraVolumes": [{"name": "authorities", "configMap": {"name": "authorities"}}],
    "extraVolumeMounts": [{"name": "authorities", "mountPath": "/etc/authorities"}],
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "gpu"},
    "priorityClassName": "system-cluster-critical",
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "gpuid"}},
        }
    ],
    "terminationGracePeriodSeconds": 60,
}


@pytest.mark.parametrize("mode", [*MODES, "everything"])
def test_the_api_server_accepts_each_mode(helm: Helm, hub: ControlPlane, tmp_path: Path, mode: str) -> None:
    file = write_values(tmp_path, EVERYTHING if mode == "everything" else MODES[mode][0])
    for one in documents(helm("template", "gpuid", CHART, "--namespace", "gpuid", "--values", file).stdout):
        hub.apply(one, f"{PATHS[one['kind']]}/{one['metadata']['name']}", dryRun="All")  # no unknown or doubled field
        if one["kind"] in ("Deployment", "StatefulSet"):
            admit(hub, one)  # under the standard `restricted`


def test_it_is_installed_upgraded_rolled_back_and_removed(hub: ControlPlane, release: Release) -> None:
    toml = """
        [server]
        listen = "127.0.0.1:8080"
        external_url = "https://x"
        [store]
        url = "sqlite:gpuid.db"
        [[clusters]]
        context = "near"
    """
    said = release("install", values={"gpuidToml": toml})
    assert "gpuid grant --all --apply --secret" in said
    assert "set them below config: server.external_url." in said
    installed = objects(hub)
    claim = installed["PersistentVolumeClaim gpuid"]["metadata"]["uid"]
    assert installed["Deployment gpuid"]["spec"]["strategy"] == {"type": "Recreate"}

    upgrades: tuple[Values, ...] = (
        {"config": {"store": POSTGRES}, "replicas": 2},
        EVERYTHING,
        {"config": {"store": POSTGRES}, "shards": 2},
    )
    for values in upgrades:
        release("upgrade", values=values)
        now = objects(hub)
        kinds = [name.split()[0] for name in now]
        assert ("Deployment" in kinds) == ("shards" not in values)
        assert kinds.count("StatefulSet") == (values.get("replicas", 1) if "shards" in values else 0)
        for name, one in now.items():
            if name.startswith(("Deployment", "StatefulSet")):
                admit(hub, one)
        assert now["PersistentVolumeClaim gpuid"]["metadata"]["uid"] == claim

    release("rollback", "1")
    back = objects(hub)
    assert back.keys() == installed.keys()
    assert back["PersistentVolumeClaim gpuid"]["metadata"]["uid"] == claim
    for name, one in back.items():
        if "PersistentVolumeClaim" not in name and "Service" not in name:  # of these, the server allots something
            assert one.get("spec") == installed[name].get("spec")
            assert one.get("data") == installed[name].get("data")

    release("uninstall")
    assert objects(hub).keys() == {"PersistentVolumeClaim gpuid"}  # the history
    release("install", values={})
    assert objects(hub)["PersistentVolumeClaim gpuid"]["metadata"]["uid"] == claim


def test_the_notes_name_a_command_for_each_kubeconfig(hub: ControlPlane, helm: Helm, tmp_path: Path) -> None:
    values = write_values(tmp_path, {"kubeconfig": {"secretNames": ["mine"], "key": "kube"}})
    said = helm(
        *("install", "gpuid", CHART, "--namespace", "obs", "--values", values),
        *("--dry-run=server", "--kubeconfig", hub.kubeconfig),
    ).stdout
    (command,) = re.findall("gpuid grant --all --apply --secret (.*) kubectl apply --server-side -f -", said)
    assert command.startswith("| sed ")
    secret = dump([make_secret([])])
    done = subprocess.run(
        ["sh", "-c", command.removeprefix("| ").removesuffix(" |")], input=secret, capture_output=True, text=True
    )
    (made,) = yaml.safe_load_all(done.stdout)
    assert made["metadata"]["namespace"] == "obs"
    assert made["metadata"]["name"] == "mine"
    assert made["stringData"].keys() == {"kube"}


def test_a_claim_stays_as_it_is_whatever_the_values_say(hub: ControlPlane, release: Release) -> None:
    path = f"{CORE}/persistentvolumeclaims/gpuid"
    release("install", values={"persistence": {"size": "50Gi", "storageClassName": "fast"}})
    bound = hub.http.get(path).raise_for_status().json()
    bound["spec"]["volumeName"] = "pv"
    bound = hub.http.put(path, json=bound).raise_for_status().json()
    bound["status"] = {"phase": "Bound", "capacity": {"storage": "50Gi"}, "accessModes": ["ReadWriteOnce"]}
    spec = hub.http.put(f"{path}/status", json=bound).raise_for_status().json()["spec"]

    def now() -> dict[str, Any]:
        found: dict[str, Any] = hub.http.get(path).raise_for_status().json()["spec"]
        return found

    for values in (
        {"config": {"store": POSTGRES}, "replicas": 2},
        {"config": {"store": POSTGRES}, "persistence": {"size": "90Gi", "storageClassName": "slow"}},
        {"persistence": {"storageClassName": "slow"}},
        {"persistence": {"existingClaim": "gpuid"}},
    ):
        release("upgrade", values=values)
        assert now() == spec
    with pytest.raises(AssertionError, match="fullnameOverride: the history of this release is in the"):
        release("upgrade", values={"fullnameOverride": "other"})
    assert objects(hub).keys() >= {"Deployment gpuid", "PersistentVolumeClaim gpuid"}
    release("uninstall")
    release("install", values={})
    assert now() == spec
