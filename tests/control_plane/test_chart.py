"""The chart on a real API server: each mode is accepted; helm installs, upgrades, rolls back and removes it."""

from pathlib import Path

import pytest

from tests.control_plane.plane import ControlPlane
from tests.control_plane.releases import PATHS, Release, admit, hub, objects, release
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
def test_the_api_server_takes_each_mode_as_it_is(helm: Helm, hub: ControlPlane, tmp_path: Path, mode: str) -> None:
    file = write_values(tmp_path, EVERYTHING if mode == "everything" else MODES[mode][0])
    for one in documents(helm("template", "gpuid", CHART, "--namespace", "gpuid", "--values", file).stdout):
        hub.apply(one, f"{PATHS[one['kind']]}/{one['metadata']['name']}", dryRun="All")  # no unknown or doubled field
        if one["kind"] in ("Deployment", "StatefulSet"):
            admit(hub, one)  # under the standard `restricted`


def test_it_is_installed_upgraded_rolled_back_and_removed(hub: ControlPlane, release: Release) -> None:
    said = release("install", values={"gpuidToml": '[server]\n[store]\n[[clusters]]\ncontext = "near"\n'})
    assert "gpuid grant --all --apply --secret" in said
    assert "set them below config: server, store." in said
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
