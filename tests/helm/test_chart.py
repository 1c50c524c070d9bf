"""What the chart renders from its values: a configuration that gpuid accepts, and matching manifests."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from collector.config import Config, Duration, load
from collector.config.sources import PRESETS
from collector.grant.manifests import make_manifests
from tests.benchmarks.sizing import memory_mib
from tests.helm.chart_files import CHART, chart_files
from tests.helm.modes import ALWAYS, IN_CLUSTER, MODES, POSTGRES, TLS, Values, write_values
from tests.support.helm import Helm, by_name, documents
from tests.support.http import served

ROOT = Path(__file__).parents[2]
FULL = ROOT / "config" / "gpuid.full.toml"

NOTHING: Values = {}
EXAMPLES = [
    block.replace("$2b$12$…", "$2b$12$" + "a" * 53).replace("postgresql://…", POSTGRES["url"])
    for block in re.findall(
        r"^```yaml\n(.*?)^```", (ROOT / "docs" / "deploying.md").read_text(), re.MULTILINE | re.DOTALL
    )
]

Objects = dict[str, dict[str, Any]]
Template = Callable[..., Objects]


@pytest.fixture
def template(helm: Helm, tmp_path: Path) -> Template:
    """Render the chart with one cluster as the release `gpuid` in the namespace `gpuid`, by `Kind name`."""

    def render(values: Values = NOTHING, *, name: str = "gpuid", chart: Path = CHART) -> Objects:
        file = write_values(tmp_path, values)
        rendered = documents(helm("template", name, chart, "--namespace", "gpuid", "--values", file).stdout)
        objects = by_name(rendered)
        assert len(objects) == len(rendered) - sum(one["kind"] in ("Role", "RoleBinding") for one in rendered) + len(
            {one["kind"] for one in rendered} & {"Role", "RoleBinding"}
        )
        return objects

    return render


def toml(objects: Objects, name: str = "gpuid") -> str:
    text: str = objects[f"ConfigMap {name}"]["data"]["gpuid.toml"]
    return text


def config(objects: Objects, folder: Path) -> Config:
    """Return the configuration as gpuid loads it."""
    file = folder / "gpuid.toml"
    file.write_text(toml(objects))
    return load(file)


def pod(objects: Objects) -> dict[str, Any]:
    (workload, *_) = (one for one in objects.values() if one["kind"] in ("Deployment", "StatefulSet"))
    template: dict[str, Any] = workload["spec"]["template"]
    return template


def mounted(objects: Objects) -> list[str]:
    """Return the paths of the files of Secrets below /etc/gpuid."""
    (volume,) = (one for one in pod(objects)["spec"]["volumes"] if one["name"] == "config")
    secrets = [one["secret"] for one in volume["projected"]["sources"] if "secret" in one]
    return sorted(item["path"] for secret in secrets for item in secret["items"])


def test_values_taken_from_the_code_are_current() -> None:
    for path, text in chart_files().items():
        assert path.read_text(encoding="utf-8") == text, "run python -m tests.helm.chart_files"


def test_it_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == version("gpuid-collector")


class TestConfiguration:
    def test_every_key_reaches_gpuid_unchanged(self, template: Template, tmp_path: Path) -> None:
        uncommented = re.sub(r"^# (\w+ = )", r"\1", FULL.read_text(), flags=re.MULTILINE)
        uncommented = re.sub(r"^# sources = .*\n(#.*\n)*", "", uncommented, flags=re.MULTILINE)
        document = tomllib.loads(re.sub(r"^(sources = .*\n(#.*\n)*)", "", uncommented, flags=re.MULTILINE))
        document["server"]["basic_auth"] = {"a.b": "$2b$12$" + "a" * 53}
        del document["store"]["strict"]  # not with PostgreSQL
        document["store"]["url"] = POSTGRES["url"]
        objects = template({"config": document})
        assert tomllib.loads(toml(objects)) == document
        loaded = config(objects, tmp_path)
        assert loaded.clusters[0].max_objects == 30_000

    def test_text_is_quoted(self, template: Template) -> None:
        odd = 'a "b" \\ <&> é 🙂 = # \t'
        cluster = {
            "context": odd,
            "node_selector": "",
            "sources": [{"namespace": "a", "selector": "", "container": "b"}],
        }
        objects = template({"config": {"clusters": [cluster]}})
        assert tomllib.loads(toml(objects))["clusters"] == [cluster]
        assert "\\u" not in toml(objects)

    def test_large_and_fractional_numbers_are_unchanged(self, template: Template, tmp_path: Path) -> None:
        cluster = {"context": "a", "max_gpus": 12_345_678, "request_rate": 0.5, "loop_share": 1}
        loaded = config(template({"config": {"clusters": [cluster]}}), tmp_path).clusters[0]
        assert (loaded.max_gpus, loaded.request_rate, loaded.loop_share) == (12_345_678, 0.5, 1.0)

    def test_clusters_may_come_from_a_file_that_init_wrote(self, template: Template, tmp_path: Path) -> None:
        text = """
            [defaults]
            kubeconfig = "~/.kube/config"
            refresh = "2h"
            grace = "1m"
            [server]
            listen = "127.0.0.1:8080"
            [store]
            url = "sqlite:gpuid.db"
            [[clusters]]
            context = "near"
            kubeconfig = "near"
            max_objects = 40_000
            preset = ["reader", "gke"]
            [[clusters]]
            in_cluster = true
            name = "here"
        """
        objects = template({"gpuidToml": text, "config": {"defaults": {"grace": "3m"}}})
        loaded = config(objects, tmp_path)
        assert [one.name for one in loaded.clusters] == ["near", "here", "far"]
        near = loaded.clusters[0]
        assert (near.max_objects, near.presets) == (40_000, ("reader", "gke"))
        assert (near.refresh, near.grace) == (Duration(7200), Duration(180))
        assert near.kubeconfig == "/etc/gpuid-kubeconfig/gpuid-kubeconfig/config"
        assert "server" not in toml(objects)
        assert "ClusterRole gpuid.gpuid" in objects

    def test_the_kubeconfigs_are_where_they_are_mounted(self, template: Template, tmp_path: Path) -> None:
        values = {"config": {"clusters": [{"context": "a"}]}, "kubeconfig": {"secretNames": ["one", "two"], "key": "k"}}
        objects = template(values)
        folders = [
            one["mountPath"]
            for one in pod(objects)["spec"]["containers"][0]["volumeMounts"]
            if one["name"].startswith("kubeconfig")
        ]
        assert config(objects, tmp_path).clusters[0].kubeconfig == ":".join(f"{folder}/k" for folder in folders)

    def test_only_kubeconfigs_of_clusters_are_mounted(self, template: Template) -> None:
        objects = template({"config": {"clusters": [IN_CLUSTER]}})
        assert "kubeconfig" not in toml(objects)
        assert "kubeconfig" not in json.dumps(pod(objects))

    def test_a_secret_key_is_mounted_where_gpuid_looks(self, template: Template, tmp_path: Path) -> None:
        sinks = {
            "hook": {"type": "webhook", "url": "https://x", "token_file": {"secretName": "hook", "key": "token"}},
            "again": {"type": "webhook", "url": "https://x", "token_file": {"secretName": "hook", "key": "token"}},
            "log": {"type": "stdout"},
        }
        store = POSTGRES | {"password_file": {"secretName": "db", "key": "password"}}
        objects = template({"config": {"server": TLS, "store": store, "sinks": sinks}})
        loaded = config(objects, tmp_path)
        named = [loaded.server.cert_file, loaded.server.key_file, loaded.sinks["hook"].token_file]  # type: ignore[union-attr]
        assert loaded.store is not None
        named.append(loaded.store.password_file)
        assert mounted(objects) == sorted(str(one.relative_to(tmp_path)) for one in named if one is not None)

    def test_only_changes_that_need_a_restart_replace_the_pods(self, template: Template) -> None:
        def annotations(**tables: Any) -> Any:
            return pod(template({"config": {"store": POSTGRES, "clusters": [{"context": "a"}], **tables}}))

        before = annotations()
        assert annotations(clusters=[{"context": "b"}], defaults={"refresh": "2h"}) == before
        assert annotations(sinks={"log": {"type": "stdout"}}) == before
        assert annotations(server={"max_connections": 7}) != before
        assert annotations(metrics={"node_labels": ["zone"]}) != before
        assert annotations(store=POSTGRES | {"retention": "7d"}) != before


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_has_its_objects(helm: Helm, template: Template, tmp_path: Path, mode: str) -> None:
    values, wanted = MODES[mode]
    objects = template(values)
    always = {"ConfigMap gpuid", "Service gpuid", "Pod gpuid-test"} if mode == "not isolated" else ALWAYS
    assert objects.keys() == wanted | always
    helm("lint", "--strict", CHART, "--namespace", "gpuid", "--values", tmp_path / "values.yaml")
    config(objects, tmp_path)
    for one in objects.values():
        labels = one["metadata"]["labels"]
        name = "gpuid-test" if one["kind"] == "Pod" else "gpuid"
        assert (labels["app.kubernetes.io/name"], labels["app.kubernetes.io/instance"]) == (name, "gpuid")
        if "selector" in one["spec"] if "spec" in one else False:
            selector = one["spec"]["selector"]
            matched = selector.get("matchLabels", selector)
            if one["kind"] == "ServiceMonitor":
                assert matched.items() <= objects["Service gpuid"]["metadata"]["labels"].items()
            else:
                assert matched.items() <= pod(objects)["metadata"]["labels"].items() or one["kind"] == "StatefulSet"


class TestPods:
    def test_a_store_in_a_file_has_one_pod_at_a_time(self, template: Template) -> None:
        objects = template()
        assert objects["Deployment gpuid"]["spec"]["strategy"] == {"type": "Recreate"}
        claim = objects["PersistentVolumeClaim gpuid"]["metadata"]
        assert claim["annotations"]["helm.sh/resource-policy"] == "keep"
        volumes = {one["name"]: one for one in pod(objects)["spec"]["volumes"]}
        assert volumes["data"]["persistentVolumeClaim"]["claimName"] == claim["name"]

    def test_an_existing_claim_is_used(self, template: Template) -> None:
        objects = template({"persistence": {"existingClaim": "mine"}})
        assert "PersistentVolumeClaim gpuid" not in objects
        assert '"claimName": "mine"' in json.dumps(pod(objects))

    def test_shards_take_their_number_from_the_pods(self, template: Template) -> None:
        objects = template({"config": {"store": POSTGRES}, "shards": 4, "replicas": 2})
        sets = [one["spec"] for one in objects.values() if one["kind"] == "StatefulSet"]
        assert [one["replicas"] for one in sets] == [4, 4]
        assert {one["serviceName"] for one in sets} == {"gpuid-shards"}
        selectors = [json.dumps(one["selector"]) for one in sets]
        assert len(set(selectors)) == 2
        for one in sets:
            assert one["selector"]["matchLabels"].items() <= one["template"]["metadata"]["labels"].items()
            (container,) = one["template"]["spec"]["containers"]
            assert container["env"] == [
                {"name": "GPUID_SHARD", "value": "auto"},
                {"name": "GPUID_TOTAL_SHARDS", "value": "4"},
            ]

    def test_a_single_process_gets_no_shard(self, template: Template) -> None:
        assert "GPUID_" not in json.dumps(pod(template()))

    def test_probes_follow_what_the_server_asks_of_clients(self, template: Template) -> None:
        def probe(**server: Any) -> Any:
            (container,) = pod(template({"config": {"server": server}}))["spec"]["containers"]
            return container["readinessProbe"]

        assert probe()["httpGet"] == {"path": "/readyz", "port": "http"}
        assert probe(**TLS)["httpGet"]["scheme"] == "HTTPS"
        authority = {"client_ca_file": {"secretName": "gpuid-tls", "key": "ca.crt"}}
        assert probe(**TLS, **authority)["httpGet"] == {"path": "/readyz", "port": "http", "scheme": "HTTPS"}

    def test_session_affinity_keeps_a_client_on_one_pod(self, template: Template) -> None:
        assert "sessionAffinity" not in template()["Service gpuid"]["spec"]
        for several in ({"replicas": 2}, {"shards": 2}):
            service = template({"config": {"store": POSTGRES}, **several})["Service gpuid"]
            assert service["spec"]["sessionAffinity"] == "ClientIP"

    def test_the_cluster_may_choose_the_user(self, template: Template) -> None:
        context = pod(template({"runAsUser": None}))["spec"]["securityContext"]
        assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}

    def test_it_requests_what_the_documented_fleets_need(self, template: Template) -> None:
        (container,) = pod(template())["spec"]["containers"]
        memory = {key: container["resources"][key]["memory"] for key in ("requests", "limits")}
        assert memory == {"requests": "512Mi", "limits": "1Gi"}
        assert memory_mib(50, 10_000) <= 512  # as values.yaml says
        assert memory_mib(50, 50_000) * 1.5 <= 1024

    def test_a_token_is_mounted_only_for_its_own_cluster(self, template: Template) -> None:
        assert pod(template())["spec"]["automountServiceAccountToken"] is False
        assert pod(template({"config": {"clusters": [IN_CLUSTER]}}))["spec"]["automountServiceAccountToken"] is True

    def test_two_releases_share_a_namespace(self, template: Template) -> None:
        values = {"config": {"clusters": [IN_CLUSTER]}, "dashboards": {"enabled": True}}
        one, other = template(values), template(values, name="other")
        assert not one.keys() & other.keys()
        assert "Deployment other-gpuid" in other


class TestPrometheus:
    def test_the_rules_are_those_of_the_repository(self, template: Template) -> None:
        file = ROOT / "config" / "kubernetes" / "collector" / "prometheusrule.yaml"
        spec = yaml.safe_load(file.read_text())["spec"]
        values = {"prometheus": {"rules": True, "labels": {"release": "stack"}}}
        rule = template(values)["PrometheusRule gpuid"]
        assert rule["spec"] == spec
        assert rule["metadata"]["labels"]["release"] == "stack"

        values = {"prometheus": {"rules": True, "runbookUrl": "https://wiki.example.org/gpuid/"}}
        text = json.dumps(template(values)["PrometheusRule gpuid"])
        assert "https://wiki.example.org/gpuid/runbook.md#gpuidabsent" in text
        assert "https://gpuid.example.com" not in text

    def test_the_dashboards_are_those_of_the_repository(self, template: Template) -> None:
        objects = template({"dashboards": {"enabled": True}})
        for file in (ROOT / "grafana" / "dashboards").glob("*.json"):
            one = objects[f"ConfigMap gpuid-dashboard-{file.stem}"]
            assert json.loads(one["data"][file.name]) == json.loads(file.read_text(encoding="utf-8"))
            assert one["metadata"]["labels"]["grafana_dashboard"] == "1"

    def test_the_job_is_what_the_alerts_expect(self, template: Template) -> None:
        for name in ("gpuid", "other"):
            monitor, service = (
                template({"prometheus": {"scrape": "serviceMonitor"}}, name=name)[f"{kind} {full}"]
                for kind in ("ServiceMonitor", "Service")
                for full in ["gpuid" if name == "gpuid" else "other-gpuid"]
            )
            assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "gpuid"
        assert template({"prometheus": {"scrape": "scrapeConfig"}})["ScrapeConfig gpuid"]["spec"]["jobName"] == "gpuid"

    def test_each_pod_of_shards_is_one_target(self, template: Template) -> None:
        values = {"config": {"store": POSTGRES}, "shards": 2, "prometheus": {"scrape": "serviceMonitor"}}
        objects = template(values)
        selector = objects["ServiceMonitor gpuid"]["spec"]["selector"]
        (excluded,) = selector["matchExpressions"]
        selected = [
            name
            for name, one in objects.items()
            if one["kind"] == "Service"
            and selector["matchLabels"].items() <= one["metadata"]["labels"].items()
            and excluded["key"] not in one["metadata"]["labels"]
        ]
        assert selected == ["Service gpuid"]

    def test_the_targets_of_every_shard_are_discovered(self, template: Template) -> None:
        values = {"config": {"store": POSTGRES}, "shards": 2, "replicas": 2, "prometheus": {"scrape": "scrapeConfig"}}
        found = template(values)["ScrapeConfig gpuid"]["spec"]["httpSDConfigs"]
        assert [one["url"] for one in found] == [
            f"http://gpuid-{letter}-{shard}.gpuid-shards.gpuid.svc:8080/sd" for letter in "ab" for shard in (0, 1)
        ]

    @pytest.mark.parametrize("way", ["serviceMonitor", "scrapeConfig"])
    def test_it_authenticates_as_the_server_asks(self, template: Template, way: str) -> None:
        token = {"bearer_token_file": {"secretName": "gpuid-token", "key": "token"}}
        objects = template({"config": {"server": TLS | token}, "prometheus": {"scrape": way}})
        spec = objects[f"{way[0].upper()}{way[1:]} gpuid"]["spec"]
        (inner,) = spec["endpoints"] if "endpoints" in spec else spec["httpSDConfigs"]
        for one in (inner,) if "endpoints" in spec else (inner, spec):
            assert one["authorization"] == {"credentials": {"name": "gpuid-token", "key": "token"}}
            assert one["tlsConfig"] == {
                "ca": {"secret": {"name": "gpuid-tls", "key": "ca.crt"}},
                "serverName": "gpuid.gpuid.svc",
            }
        scheme = spec.get("scheme") or inner["scheme"]
        assert scheme.lower() == "https"

        login = {"username": {"name": "scraper", "key": "user"}, "password": {"name": "scraper", "key": "password"}}
        spec = template({"prometheus": {"scrape": way, "basicAuth": login}})[f"{way[0].upper()}{way[1:]} gpuid"]["spec"]
        (inner,) = spec["endpoints"] if "endpoints" in spec else spec["httpSDConfigs"]
        assert inner["basicAuth"] == login


RIGHTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # [defaults], and the cluster
    **{name: ({}, {"preset": name}) for name in PRESETS},
    "several presets": ({}, {"preset": ["gpu-operator", "reader"], "labels": True}),
    "a default preset": ({"preset": "aks", "labels": True}, {}),
    "no labels after all": ({"labels": True}, {"labels": False}),
    "a command": ({"command": ["/opt/nvidia-smi", "-q", "-x"]}, {"preset": "gke"}),
    "a shell": ({}, {"preset": "gke", "command": ["sh", "-c", "nvidia-smi -q -x"]}),
    "one GPU": ({}, {"preset": "gke", "command": ["nvidia-smi", "-q", "-x", "-i0"]}),
    "sources": (
        {"preset": "aks", "command": ["nvidia-smi", "-x", "-q"]},
        {
            "sources": [
                {"namespace": "a", "selector": "app=smi", "container": "smi"},
                {"namespace": "a", "selector": "app=other", "container": "smi", "command": ["my smi", "<&>é"]},
                {"namespace": "b", "selector": "app=log", "container": "reader", "method": "log"},
            ]
        },
    ),
    "default sources": ({"sources": [{"namespace": "a", "selector": "", "container": "smi"}]}, {}),
    "a preset instead of sources": (
        {"sources": [{"namespace": "a", "selector": "", "container": "smi"}]},
        {"preset": "helm"},
    ),
}


@pytest.mark.parametrize("case", RIGHTS)
def test_the_rights_are_those_that_gpuid_grants(helm: Helm, tmp_path: Path, case: str) -> None:
    defaults, cluster = RIGHTS[case]
    document = {"defaults": defaults, "clusters": [{"context": "far", "preset": "openshift"}, IN_CLUSTER | cluster]}
    file = write_values(tmp_path, {"config": document, "serviceAccount": {"name": "gpuid"}})
    rendered = documents(helm("template", "gpuid", CHART, "--namespace", "gpuid", "--values", file).stdout)
    (settings,) = (one for one in config(by_name(rendered), tmp_path).clusters if one.in_cluster)
    granted = make_manifests(settings, renewal=False)
    assert comparable(rendered) == comparable(granted)


def comparable(manifests: Any) -> dict[tuple[str, str], Any]:
    """Return what roles and policies say, with the rules of a role in one order."""
    found: dict[tuple[str, str], Any] = {}
    for one in manifests:
        kind, namespace = one["kind"], one["metadata"].get("namespace", "")
        suffix = one["metadata"]["name"].rpartition("-")[2]
        if kind in ("Role", "ClusterRole"):
            found[kind, namespace] = sorted(
                (group, resource, verb)
                for rule in one["rules"]
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
            )
        elif kind in ("RoleBinding", "ClusterRoleBinding"):
            found[kind, namespace] = one["subjects"]
        elif kind == "ValidatingAdmissionPolicy":
            spec = json.loads(json.dumps(one["spec"]))
            for rule in spec["validations"]:
                rule.pop("message")  # a shell's quotes are in one of them
            found[kind, suffix] = spec
        elif kind == "ValidatingAdmissionPolicyBinding":
            assert one["spec"]["policyName"] == one["metadata"]["name"]
            found[kind, suffix] = one["spec"]["validationActions"]
    return found


WRONG: dict[str, tuple[Values, str]] = {
    "no clusters": ({"config": {"clusters": []}}, "config.clusters: expected at least one"),
    "no TOML": ({"gpuidToml": "[[clusters"}, "gpuidToml: "),
    "an unknown value": ({"replicaCount": 2}, "replicaCount"),
    "an unknown key of gpuid.toml": ({"config": {"server": {"listne": "x"}}}, "listne"),
    "an unknown key of a sink": ({"config": {"sinks": {"a": {"type": "stdout", "uri": "x"}}}}, "uri"),
    "an unknown sink": ({"config": {"sinks": {"a": {"type": "kafka"}}}}, "/config/sinks/a/type"),
    "a duration": ({"config": {"defaults": {"refresh": 60}}}, "/config/defaults/refresh"),
    "a port that is not the container's": ({"config": {"server": {"listen": ":9090"}}}, "/config/server/listen"),
    "half a Secret": ({"config": {"store": {"password_file": {"secretName": "a"}}}}, "password_file"),
    "replicas of a file": ({"replicas": 2}, "need a shared store"),
    "shards in memory": ({"shards": 2, "config": {"store": None}}, "need a shared store"),
    "sinks in memory": ({"config": {"store": None, "sinks": {"a": {"type": "stdout"}}}}, "need a config.store"),
    "a file on a read-only disk": ({"config": {"store": {"url": "sqlite:///data/a.db"}}}, "below /var/lib/gpuid"),
    "a password in the store": (
        {"config": {"store": {"url": "postgresql://gpuid:S3CRET@db/gpuid"}}},
        "config.store.url: contains a password",
    ),
    "a password in a sink": (
        {"config": {"sinks": {"a": {"type": "postgres", "url": "postgresql://u:S3CRET@db/w"}}}},
        "config.sinks.a.url: contains a password",
    ),
    "a password as a parameter": (
        {"config": {"store": {"url": "postgresql://gpuid@db/gpuid?sslmode=require&password=S3CRET"}}},
        "config.store.url: contains a password",
    ),
    "the password of a key": (
        {"config": {"store": {"url": "postgresql://gpuid@db/gpuid?sslPassword=S3CRET"}}},
        "config.store.url: contains a password",
    ),
    "a password in another form of URL": (
        {"config": {"store": {"url": "postgresql+psycopg://gpuid:S3CRET@db/gpuid"}}},
        "config.store.url: contains a password",
    ),
    "a proxy's password": (
        {"config": {"sinks": {"a": {"type": "webhook", "url": "https://x", "proxy": "HTTP://u:S3CRET@proxy:3128"}}}},
        "config.sinks.a.proxy: contains a password",
    ),
    "a password of S3": (
        {"config": {"sinks": {"a": {"type": "s3", "bucket": "b", "endpoint_url": "https://u:S3CRET@minio"}}}},
        "config.sinks.a.endpoint_url: contains a password",
    ),
    "a password deep down": (
        {"config": {"defaults": {"sources": [{"namespace": "a", "selector": "", "container": "http://u:S3CRET@x"}]}}},
        "config.defaults.sources[0].container: contains a password",
    ),
    "a password in the TOML": (
        {"gpuidToml": '[[clusters]]\ncontext = "http://u:S3CRET@x"\n'},
        "gpuidToml: clusters[0].context: contains a password",
    ),
    "a password that is not hashed": (
        {"config": {"server": {"basic_auth": {"ops": "S3CRET"}}}},
        "config.server.basic_auth.ops: expected a bcrypt hash",
    ),
    "an address that nothing reaches": (
        {"config": {"server": {"listen": "127.0.0.1:8080"}}},
        "/config/server/listen",
    ),
    "a sink's name": ({"config": {"sinks": {"my.lake": {"type": "stdout"}}}}, "my.lake"),
    "clusters that are none": ({"gpuidToml": 'clusters = "a"'}, "gpuidToml: clusters: expected [[clusters]]"),
    "a cluster that is none": ({"gpuidToml": "clusters = [1]"}, "gpuidToml: clusters: expected [[clusters]]"),
    "defaults that are none": ({"gpuidToml": "defaults = 1"}, "gpuidToml: defaults: expected a table"),
    "an unknown key of a cluster in the TOML": (
        {"gpuidToml": '[[clusters]]\ncontext = "a"\nbogus = 2\n'},
        "gpuidToml: clusters[0].bogus: is unknown",
    ),
    "an unknown default in the TOML": (
        {"gpuidToml": "[defaults]\nbogus = 2\n"},
        "gpuidToml: defaults.bogus: is unknown",
    ),
    "one cluster in both": (
        {"gpuidToml": '[[clusters]]\ncontext = "a"\n', "config": {"clusters": [{"context": "b", "name": "a"}]}},
        'gpuidToml: clusters[0]: the name "a" is also that of config.clusters[0]',
    ),
    "a cluster twice": (
        {"config": {"clusters": [{"context": "a"}] * 2}},
        'config.clusters[1]: the name "a" is also that of config.clusters[0]',
    ),
    "its own cluster without a name": ({"config": {"clusters": [{"in_cluster": True}]}}, "config.clusters[0].name"),
    "a cluster without a context": ({"config": {"clusters": [{"name": "a"}]}}, "config.clusters[0].context"),
    "its own cluster with a context": (
        {"config": {"clusters": [IN_CLUSTER | {"context": "a"}]}},
        "config.clusters[0]: in_cluster and context exclude each other",
    ),
    "an unknown preset": (
        {"config": {"clusters": [IN_CLUSTER | {"preset": "nonsense"}]}},
        "preset: expected one of aks, ",
    ),
    "a name that no Service can have": ({"fullnameOverride": "1x"}, "fullnameOverride: expected"),
    "a label of its own": ({"podLabels": {"app.kubernetes.io/name": "x"}}, "/podLabels/app.kubernetes.io"),
    "scraping without a password": (
        {
            "config": {"server": {"basic_auth": {"ops": "$2b$12$" + "a" * 53}}},
            "prometheus": {"scrape": "serviceMonitor"},
        },
        "prometheus.basicAuth: ",
    ),
    "scraping without a token": (
        {"config": {"server": {"bearer_token_file": "/token"}}, "prometheus": {"scrape": "scrapeConfig"}},
        "prometheus.authorization: ",
    ),
    "scraping without a certificate": (
        {
            "config": {"server": TLS | {"client_ca_file": {"secretName": "a", "key": "ca.crt"}}},
            "prometheus": {"scrape": "scrapeConfig"},
        },
        "prometheus.tlsConfig: ",
    ),
    "no number of replicas": ({"replicas": None}, "missing property 'replicas'"),
    "no image": ({"image": None}, "missing property 'image'"),
    "no port": ({"service": {"port": None}}, "missing property 'port'"),
    "a digest in the name of the image": ({"image": {"repository": "a@sha256:0"}}, "/image/repository"),
    "a path without a URL": ({"ingress": {"enabled": True, "path": "/gpuid"}}, "config.server.external_url"),
    "a route without a Gateway": ({"gateway": {"enabled": True}}, "gateway.parentRefs"),
    "contexts without a kubeconfig": (
        {"config": {"clusters": [{"context": "a"}]}, "kubeconfig": {"secretNames": []}},
        "kubeconfig.secretNames",
    ),
    "rules of another label": (
        {"config": {"metrics": {"cluster_label": "k8s"}}, "prometheus": {"rules": True}},
        "cluster_label",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_invalid_value_is_named(helm: Helm, tmp_path: Path, case: str) -> None:
    values, named = WRONG[case]
    refused = helm("template", "gpuid", CHART, "--values", write_values(tmp_path, values), check=False)
    assert refused.returncode == 1
    assert named in refused.stderr
    assert "S3CRET" not in refused.stderr


def test_names_that_look_like_numbers_stay_text(helm: Helm, tmp_path: Path) -> None:
    password = {"secretName": "2e3", "key": "1"}
    values: Values = {
        "config": {"server": {"bearer_token_file": password, "external_url": "https://x/a"}},
        "kubeconfig": {"secretNames": ["1e3"]},
        "persistence": {"existingClaim": "5"},
        "serviceAccount": {"name": "yes"},
        "priorityClassName": "123",
        "ingress": {"enabled": True, "path": "/a: b", "className": "1"},
    }
    file = write_values(tmp_path, values)
    rendered = documents(helm("template", "true", CHART, "--namespace", "123", "--values", file).stdout)
    assert {one["metadata"]["namespace"] for one in rendered} == {"123"}
    text = json.dumps(rendered)
    for one in ("1e3", "5", "yes", "123", "/a: b", "1", "2e3", "true"):
        assert f'"{one}"' in text
    assert {one["metadata"]["labels"]["app.kubernetes.io/instance"] for one in rendered} == {"true"}
    (deployment,) = (one for one in rendered if one["kind"] == "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    assert (spec["serviceAccountName"], spec["priorityClassName"]) == ("yes", "123")


def test_targets_are_scraped_inside_the_cluster(template: Template) -> None:
    server = {"external_url": "https://gpu.example.com/gpu", **TLS}
    spec = template({"config": {"server": server}, "prometheus": {"scrape": "scrapeConfig"}})["ScrapeConfig gpuid"][
        "spec"
    ]
    (source,) = spec["httpSDConfigs"]
    found = {"__meta_url": source["url"], "__address__": "gpu.example.com", "__metrics_path__": "/gpu/metrics"}
    for rule in spec["relabelings"]:
        value = ";".join(found[name] for name in rule.get("sourceLabels", []))
        matched = re.fullmatch(rule.get("regex", "(.*)"), value)
        assert matched is not None
        found[rule["targetLabel"]] = rule.get("replacement", "$1").replace("$1", matched[1])
    assert {name: found[name] for name in ("__scheme__", "__address__", "__metrics_path__")} == {
        "__scheme__": "https",
        "__address__": "gpuid.gpuid.svc:8080",
        "__metrics_path__": "/metrics",
    }


def test_an_old_api_server_is_named(helm: Helm, tmp_path: Path) -> None:
    values: Values = {"config": {"clusters": [IN_CLUSTER]}}

    def template(version: str, values: Values) -> str:
        file = write_values(tmp_path, values)
        done = helm("template", "x", CHART, "--kube-version", version, "--values", file, check=False)
        return done.stderr if done.returncode else ""

    assert "rbac.admissionPolicy: needs Kubernetes 1.30" in template("1.29.9", values)
    assert not template("1.30.0-eks-1", values)
    assert not template("1.29.9", {**values, "rbac": {"admissionPolicy": False}})
    assert not template("0.0.0-master", values)  # of a build that does not know its version


class TestHelmTest:
    def test_it_asks_the_service(self, template: Template) -> None:
        objects = template({"service": {"port": 80}, "image": {"repository": "r.example.com/gpuid", "tag": "1"}})
        test = objects["Pod gpuid-test"]
        assert test["metadata"]["annotations"]["helm.sh/hook"] == "test"
        (container,) = test["spec"]["containers"]
        assert container["image"] == "r.example.com/gpuid:1" == pod(objects)["spec"]["containers"][0]["image"]
        assert container["args"] == ["health", "--timeout", "10s", "--url", "http://gpuid.gpuid.svc:80"]
        assert not objects["Service gpuid"]["spec"]["selector"].items() <= test["metadata"]["labels"].items()

    def test_the_network_policy_admits_it(self, template: Template) -> None:
        peers: list[Any] = [{"namespaceSelector": {}}]
        objects = template({"networkPolicy": {"from": peers}})
        ((*given, own),) = (rule["from"] for rule in objects["NetworkPolicy gpuid"]["spec"]["ingress"])
        assert given == peers
        labels = objects["Pod gpuid-test"]["metadata"]["labels"]
        assert own["podSelector"]["matchLabels"].items() <= labels.items()

    @pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
    def test_with_a_certificate_a_program_asks_that_does_not_verify_it(
        self, template: Template, status: int, code: int
    ) -> None:
        (container,) = template({"config": {"server": TLS}})["Pod gpuid-test"]["spec"]["containers"]
        *program, url = container["command"]
        assert url == "https://gpuid.gpuid.svc:8080/healthz"
        with served(lambda _headers, _body: (status, b"")) as address:
            done = subprocess.run(
                [sys.executable, *program[1:], f"http://{address}/healthz"], capture_output=True, check=False
            )
        assert done.returncode == code, done.stderr


def test_a_command_may_have_several_lines(template: Template) -> None:
    cluster = IN_CLUSTER | {"command": ["sh", "-c", "a\nb"]}
    spec = template({"config": {"clusters": [cluster]}})["ValidatingAdmissionPolicy gpuid.gpuid-exec"]["spec"]
    assert "a b" in spec["validations"][1]["message"]
    assert not any("\n" in one["message"] for one in spec["validations"])


def test_equal_release_names_do_not_share_cluster_objects(helm: Helm, tmp_path: Path) -> None:
    """Objects outside of the release's namespace."""
    values = {"config": {"clusters": [IN_CLUSTER]}, "dashboards": {"enabled": True, "namespace": "monitoring"}}
    file = write_values(tmp_path, values)

    def elsewhere(name: str, namespace: str) -> set[tuple[str, str, str]]:
        rendered = documents(helm("template", name, CHART, "--namespace", namespace, "--values", file).stdout)
        found = {(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]) for one in rendered}
        return {one for one in found if one[1] != namespace}

    assert len(elsewhere("gpuid", "a")) > 10
    assert not elsewhere("gpuid", "a") & elsewhere("gpuid", "b")
    assert not elsewhere("c-gpuid", "a-b") & elsewhere("b-c-gpuid", "a")


def test_the_packaged_chart_is_the_same(helm: Helm, template: Template, tmp_path: Path) -> None:
    values = MODES["published"][0]
    helm("package", CHART, "--destination", tmp_path)
    (package,) = tmp_path.glob("gpuid-*.tgz")
    assert template(values, chart=package) == template(values)


def test_every_value_has_an_effect(helm: Helm, tmp_path: Path) -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    templates = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    for key in defaults:
        assert f".Values.{key}" in templates or f'"{key}"' in templates, key


def test_every_sink_type_is_supported(template: Template, tmp_path: Path) -> None:
    sinks = {
        "a": {"type": "webhook", "url": "https://x", "batch_records": 7},
        "b": {"type": "s3", "bucket": "lake"},
        "c": {"type": "postgres", "url": "postgresql://u@db/w"},
        "d": {"type": "stdout", "emit": "readings"},
    }
    loaded = config(template({"config": {"sinks": sinks}}), tmp_path)
    assert sorted(loaded.sinks) == list("abcd")


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_documented_values_are_valid(template: Template, tmp_path: Path, number: int) -> None:
    config(template(yaml.safe_load(EXAMPLES[number])), tmp_path)


def test_the_documentation_has_examples() -> None:
    assert len(EXAMPLES) >= 5
