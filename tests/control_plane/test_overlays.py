"""The overlays of config/kubernetes on a real API server: applied by kubectl, and their pods run as a kubelet would."""

import contextlib
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from collector.cli import gpuid as command
from collector.config import parse
from collector.simulator import Placed
from tests.control_plane.conftest import Planes
from tests.control_plane.crds import KINDS, install_crds
from tests.control_plane.plane import MODEL, ControlPlane
from tests.control_plane.pods import Pod, kubectl
from tests.control_plane.rights import finish_namespace, remove_rights
from tests.support.postgres import new_database, postgres_server
from tests.support.processes import free_ports
from tests.support.waiting import until

__all__ = ["new_database", "postgres_server"]

ROOT = Path(__file__).parents[2]
DATABASE_HOST = "postgresql.example.com"  # as the overlays name it
PLACED = {
    Placed(plane, "gpu-1", f"GPU-00000000-0000-0000-0000-00000000000{number}", f"165012200000{number}", "", MODEL)
    for plane, number in (("east", 1), ("west", 2))
}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
OVERLAYS = ("single", "ha", "sharded", "in-cluster")
# What an overlay may leave behind in its namespace, which no controller empties here.
NAMESPACED = (
    *("apps/v1/deployments", "apps/v1/statefulsets", "policy/v1/poddisruptionbudgets"),
    *("networking.k8s.io/v1/ingresses", "networking.k8s.io/v1/networkpolicies"),
    *(f"{group}/{version}/{plural}" for group, version, _, plural in KINDS),
)

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on PATH")


class Installation:
    """A user's copy of the manifests, and the cluster that they are applied to."""

    def __init__(self, hub: ControlPlane, folder: Path, stack: contextlib.ExitStack) -> None:
        self.hub, self._folder, self._stack = hub, folder, stack
        self.manifests = folder / "config" / "kubernetes"
        shutil.copytree(ROOT / "config" / "kubernetes", self.manifests)
        self.ports = free_ports(3)

    def edit(self, overlay: str, *changes: tuple[str, str]) -> None:
        """Replace texts in an overlay's gpuid.toml, all of which must be there."""
        file = self.manifests / "overlays" / overlay / "gpuid.toml"
        text = file.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        file.write_text(text)

    def apply(self, overlay: str, *how: str) -> str:
        return kubectl(self.hub, "apply", *how, "-k", self.manifests / "overlays" / overlay)

    def listen(self, number: int) -> None:
        """Have the next pod listen on a port of its own: all pods share the network of this machine."""
        patch = f'[server]\nlisten = "127.0.0.1:{self.ports[number]}"\n'
        path = "/api/v1/namespaces/gpuid/configmaps/gpuid"
        data = self.hub.http.get(path).raise_for_status().json()["data"]
        text = re.sub(r"\n*\[server\]\nlisten = .*\n", "", data["gpuid.toml"]) + f"\n{patch}"
        self.hub.http.patch(
            path, json={"data": {"gpuid.toml": text}}, headers={"Content-Type": "application/merge-patch+json"}
        ).raise_for_status()

    def start(self, workload: str, number: int = 0) -> Pod:
        """Run one of the workload's pods, with the volumes that the pods before it had."""
        self.listen(number)
        run = len(list(self._folder.glob("run-*")))
        pod = Pod(
            self.hub,
            workload,
            self._folder / f"run-{run}",
            self.ports[number],
            name=f"gpuid-{number}",
            claims=self._folder / "claims",
            hosts={DATABASE_HOST: "127.0.0.1"},
        )
        self._stack.callback(pod.stop, signal.SIGKILL)
        pod.start()
        return pod

    def get(self, path: str) -> Any:
        return self.hub.http.get(path).raise_for_status().json()


@pytest.fixture
def installation(planes: Planes, tmp_path: Path) -> Iterator[Installation]:
    """A hub, `east`, of which and of `west` each has a node with a GPU."""
    for number, plane in enumerate(planes.values(), start=1):
        remove_rights(plane)
        plane.add_node("gpu-1", [(f"165012200000{number}", f"GPU-00000000-0000-0000-0000-00000000000{number}")])
    hub = planes["east"]
    with contextlib.ExitStack() as stack:
        yield Installation(hub, tmp_path, stack)
    for resource in NAMESPACED:
        group, version, plural = resource.split("/")
        hub.http.delete(
            f"/apis/{group}/{version}/namespaces/gpuid/{plural}"
        )  # some are only there once a test made them
    claims = "/api/v1/namespaces/gpuid/persistentvolumeclaims"
    for one in hub.http.get(claims).raise_for_status().json()["items"]:
        one["metadata"].pop("finalizers", None)  # no controller looks whether a claim is in use
        hub.http.put(f"{claims}/{one['metadata']['name']}", json=one).raise_for_status()
    for plural in ("configmaps", "secrets", "persistentvolumeclaims"):
        hub.http.delete(f"/api/v1/namespaces/gpuid/{plural}").raise_for_status()
    for service in ("gpuid", "gpuid-shards"):
        hub.http.delete(f"/api/v1/namespaces/gpuid/services/{service}")
    for plane in planes.values():
        remove_rights(plane)
    finish_namespace(hub)


@pytest.fixture
def two_clusters(installation: Installation, planes: Planes, tmp_path: Path) -> Installation:
    """The same with the rights in both clusters and the kubeconfig's Secret, as `gpuid grant` makes them."""
    clusters = "".join(f'[[clusters]]\ncontext = "{name}"\n' for name in planes)
    for overlay in ("single", "ha", "sharded"):
        installation.edit(overlay, ('[[clusters]]\ncontext = "prod-us-east"\n', clusters))
    admin = tmp_path / "admin.toml"
    admin.write_text(
        "".join(
            f'[[clusters]]\ncontext = "{name}"\nkubeconfig = "{plane.kubeconfig}"\n' for name, plane in planes.items()
        )
    )
    kubectl(installation.hub, "create", "namespace", "gpuid")
    granted = CliRunner().invoke(command, ["grant", "-c", str(admin), "--all", "--apply", "--secret"])
    assert granted.exit_code == 0, granted.output
    kubectl(installation.hub, "apply", "--server-side", "-f", "-", stdin=granted.stdout)
    return installation


@pytest.fixture
def database(two_clusters: Installation, new_database: Callable[[], str]) -> None:
    """A database where the overlays expect it, with its password in the Secret."""
    url = new_database()
    shipped = f"postgresql://gpuid@{DATABASE_HOST}:5432/gpuid"
    for overlay in ("ha", "sharded"):
        two_clusters.edit(overlay, (shipped, url.replace("127.0.0.1", DATABASE_HOST)))
    kubectl(
        two_clusters.hub,
        *("--namespace", "gpuid", "create", "secret", "generic", "gpuid-secrets"),
        "--from-literal=store-password=secret",
    )


def test_single_reads_all_clusters_and_keeps_their_history(two_clusters: Installation, tmp_path: Path) -> None:
    two_clusters.apply("single")
    pod = two_clusters.start("deployments")
    until(pod.gpus, PLACED, seconds=120)
    assert "1650122000001" in pod.text("/gpus")
    assert pod.stop(signal.SIGTERM) == 0
    (database,) = (tmp_path / "claims" / "gpuid").glob("gpuid.db")
    again = two_clusters.start("deployments")
    until(again.gpus, PLACED)
    assert database.stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("database")
def test_single_becomes_ha_and_one_of_two_leads(two_clusters: Installation) -> None:
    two_clusters.apply("single")
    two_clusters.apply("ha")
    deployment = two_clusters.get("/apis/apps/v1/namespaces/gpuid/deployments/gpuid")["spec"]
    assert (deployment["replicas"], deployment["strategy"]["type"]) == (2, "RollingUpdate")
    assert (
        two_clusters.get("/apis/policy/v1/namespaces/gpuid/poddisruptionbudgets/gpuid")["spec"]["maxUnavailable"] == 1
    )
    pods = [two_clusters.start("deployments", number) for number in range(2)]
    for pod in pods:
        until(pod.gpus, PLACED, seconds=120)
    until(lambda: sorted(pod.total("gpuid_store_leader") or 0 for pod in pods), [0, 1])
    leader, standby = sorted(pods, key=lambda pod: pod.total("gpuid_store_leader") or 0, reverse=True)
    leader.stop(signal.SIGTERM)
    until(lambda: standby.total("gpuid_store_leader"), 1)

    two_clusters.apply("single")
    deployment = two_clusters.get("/apis/apps/v1/namespaces/gpuid/deployments/gpuid")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})


@pytest.mark.usefixtures("database")
def test_ha_becomes_shards_which_read_each_cluster_once_and_show_all(two_clusters: Installation) -> None:
    two_clusters.apply("ha")
    before = two_clusters.start("deployments")
    until(before.gpus, PLACED, seconds=120)
    until(lambda: before.total("gpuid_store_leader"), 1)
    two_clusters.apply("sharded")
    pods = [two_clusters.start("statefulsets", number) for number in (1, 2)]
    for pod in pods:
        until(lambda: pod.total("gpuid_store_leader"), 0, seconds=120)  # noqa: B023
    kubectl(two_clusters.hub, "--namespace", "gpuid", "delete", "deployment", "gpuid")
    assert before.stop(signal.SIGTERM) == 0
    pods.append(two_clusters.start("statefulsets", 0))
    until(lambda: sorted(cluster for pod in pods for cluster in pod.up()), ["east", "west"], seconds=120)
    until(lambda: sorted(one for pod in pods for one in pod.gpus()), sorted(PLACED), seconds=120)
    assert sum(pod.total("gpuid_read_success_total") or 0 for pod in pods) == 0, "what was fresh has been read again"
    for pod in pods:
        for one in PLACED:
            until(lambda: one.serial in pod.text(f"/gpus?q={one.serial}"), seconds=120)  # noqa: B023


def test_in_cluster_reads_its_own_cluster_with_its_service_account(installation: Installation) -> None:
    installation.edit("in-cluster", ('name = "prod-us-east"', 'name = "east"'))
    installation.apply("in-cluster")
    pod = installation.start("deployments")
    until(pod.gpus, {one for one in PLACED if one.cluster == "east"}, seconds=120)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_component_works_with_the_prometheus_operator(installation: Installation, overlay: str) -> None:
    install_crds(installation.hub)
    base = installation.manifests / "collector" / "kustomization.yaml"
    base.write_text(base.read_text().replace("  # - ", "  - "))
    file = installation.manifests / "overlays" / overlay / "kustomization.yaml"
    text = file.read_text().replace("# components:", "components:")
    file.write_text(re.sub(r"^(#   |  # )- ", "  - ", text, flags=re.MULTILINE))
    applied = installation.apply(overlay)
    for one in ("ingress.networking.k8s.io", "networkpolicy.networking.k8s.io", "httproute.gateway.networking.k8s.io"):
        assert f"{one}/gpuid created" in applied
    for one in ("servicemonitor", "prometheusrule"):
        assert f"{one}.monitoring.coreos.com/gpuid created" in applied
    kind = "statefulset" if overlay == "sharded" else "deployment"
    assert f"{kind}.apps/gpuid created" in applied
    workload = installation.get(f"/apis/apps/v1/namespaces/gpuid/{kind}s/gpuid")["spec"]
    (container,) = workload["template"]["spec"]["containers"]
    assert {container[probe]["httpGet"]["scheme"] for probe in PROBES} == {"HTTPS"}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts["/etc/gpuid/tls"] == "tls"
    assert ("/var/lib/gpuid" in mounts) is (overlay in {"single", "in-cluster"})
    assert ("/etc/gpuid-kubeconfig" in mounts) is (overlay != "in-cluster")
    again = installation.apply(overlay)
    assert {line.rpartition(" ")[2] for line in again.splitlines()} <= {"unchanged", "configured"}
    namespace = installation.get("/api/v1/namespaces/gpuid")["metadata"]
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("how", [(), ("--server-side",)], ids=["client-side", "server-side"])
def test_one_overlay_can_replace_another(installation: Installation, how: tuple[str, ...]) -> None:
    path = "/apis/apps/v1/namespaces/gpuid"
    for overlay in ("single", "ha", "single", "sharded", "ha", "in-cluster", "single"):
        installation.apply(overlay, *how)
        if overlay == "sharded":
            assert installation.get(f"{path}/statefulsets/gpuid")["spec"]["replicas"] == 3
            continue
        deployment = installation.get(f"{path}/deployments/gpuid")["spec"]
        expected = {"ha": (2, "RollingUpdate")}.get(overlay, (1, "Recreate"))
        assert (deployment["replicas"], deployment["strategy"]["type"]) == expected
        account = "gpuid" if overlay == "in-cluster" else "default"
        assert deployment["template"]["spec"]["serviceAccountName"] == account
    (container,) = deployment["template"]["spec"]["containers"]
    assert "/etc/gpuid-kubeconfig" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_the_dashboards_are_accepted(installation: Installation) -> None:
    installation.apply("single")
    applied = kubectl(installation.hub, "apply", "-k", ROOT / "grafana")
    assert applied.count("configmap/gpuid-dashboard-") == len(list((ROOT / "grafana" / "dashboards").glob("*.json")))


def test_the_number_of_shards_equals_the_number_of_pods() -> None:
    (workload,) = (one for one in rendered("sharded") if one["kind"] == "StatefulSet")
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    env = {one["name"]: one["value"] for one in container["env"]}
    assert env == {"GPUID_SHARD": "auto", "GPUID_TOTAL_SHARDS": str(workload["spec"]["replicas"])}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_configuration_names_only_files_that_are_mounted(overlay: str) -> None:
    objects = rendered(overlay)
    (text,) = (one["data"]["gpuid.toml"] for one in objects if one["kind"] == "ConfigMap")
    every = re.sub(r"^# (?=\[|\w+ = )", "", text, flags=re.MULTILINE)  # what is commented out included
    config = parse(every, Path("/etc/gpuid/gpuid.toml"))
    (workload,) = (one for one in objects if one["kind"] in {"Deployment", "StatefulSet"})
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {port["containerPort"] for port in container["ports"]} == {config.server.listen.port}
    assert config.store is not None
    named = [config.store.password_file, *(getattr(sink, "token_file", None) for sink in config.sinks.values())]
    named += [Path(cluster.kubeconfig) for cluster in config.clusters if cluster.kubeconfig]
    if not config.store.url.startswith("postgresql:"):
        named.append(Path(config.store.url.removeprefix("sqlite://")))
    assert {str(path.parent) for path in named if path} <= mounted


def test_the_server_finds_the_certificate_of_the_tls_component() -> None:
    file = ROOT / "config" / "kubernetes" / "components" / "tls" / "kustomization.yaml"
    lines = re.findall(r"^#   (.*)$", file.read_text(), re.MULTILINE)
    server = parse("\n".join([*lines, '[[clusters]]\ncontext = "east"']), Path("/etc/gpuid/gpuid.toml")).server
    (patch,) = yaml.safe_load(file.read_text())["patches"]
    added = {one["path"]: one["value"] for one in yaml.safe_load(patch["patch"])}
    assert added["/spec/template/spec/volumes/-"]["secret"]["secretName"] == "gpuid-tls"
    folder = Path(added["/spec/template/spec/containers/0/volumeMounts/-"]["mountPath"])
    # The keys of a Secret of the type kubernetes.io/tls.
    assert (server.cert_file, server.key_file) == (folder / "tls.crt", folder / "tls.key")


def rendered(overlay: str) -> list[dict[str, Any]]:
    folder = ROOT / "config" / "kubernetes" / "overlays" / overlay
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, check=True, text=True, timeout=60)
    return [one for one in yaml.safe_load_all(done.stdout) if one]
