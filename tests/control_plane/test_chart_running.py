"""What the chart installs works: its pods, run as a kubelet would, read clusters and serve the page."""

import contextlib
import functools
import itertools
import signal
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from collector.cli import gpuid as command
from collector.sharding import shard_of
from tests.control_plane.conftest import Planes
from tests.control_plane.plane import ControlPlane
from tests.control_plane.pods import kubectl
from tests.control_plane.releases import CORE, LISTEN, ChartPod, Release, hub, objects, release
from tests.control_plane.rights import SMI, UPGRADE, exec_status, remove_rights
from tests.helm.modes import TLS
from tests.support.postgres import new_database, postgres_server
from tests.support.processes import free_ports
from tests.support.waiting import until
from tests.web.test_server import certificate

__all__ = ["hub", "new_database", "postgres_server", "release"]

SERIALS = {"east": "1650122000001", "west": "1650122000002"}
DATABASE_HOST = "db.example.com"
TOKENS = ("first-token", "second-token")

Start = Callable[[], ChartPod]
Client = Callable[..., httpx.Client]


@pytest.fixture
def start(hub: ControlPlane, tmp_path: Path) -> Iterator[Start]:
    """Run the pod of the Deployment."""
    with contextlib.ExitStack() as stack:

        def run() -> ChartPod:
            (port,) = free_ports(1)
            pod = ChartPod(hub, "deployments", tmp_path / f"pod-{port}", port, claims=tmp_path / "claims")
            stack.callback(pod.stop, signal.SIGKILL)
            pod.start()
            return pod

        yield run


@pytest.fixture
def client() -> Iterator[Client]:
    """Make clients that are closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(httpx.Client(timeout=30, **options))


@pytest.fixture
def clusters(planes: Planes, hub: ControlPlane, tmp_path: Path) -> Iterator[None]:
    """A GPU in each of two clusters, and the Secret with the kubeconfig for both that `gpuid grant` prints."""
    others = [plane for plane in planes.values() if plane is not hub]
    for plane in others:
        remove_rights(plane)
    lines = []
    for number, (name, plane) in enumerate(planes.items(), start=1):
        plane.add_node("gpu-1", [(SERIALS[name], f"GPU-00000000-0000-0000-0000-00000000000{number}")])
        lines.append(f'[[clusters]]\ncontext = "{name}"\nkubeconfig = "{plane.kubeconfig}"\n')
    admin = tmp_path / "admin.toml"
    admin.write_text("".join(lines))
    granted = CliRunner().invoke(command, ["grant", "-c", str(admin), "--all", "--apply", "--secret"])
    assert granted.exit_code == 0, granted.output
    kubectl(hub, "apply", "--server-side", "-f", "-", stdin=granted.stdout)
    yield
    for plane in others:
        remove_rights(plane)


def put_secret(hub: ControlPlane, name: str, **data: str) -> None:
    hub.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data},
        f"{CORE}/secrets/{name}",
    )


@pytest.mark.usefixtures("clusters")
def test_two_clusters_are_read_and_the_page_shows_them(
    hub: ControlPlane, release: Release, start: Start, client: Client, tmp_path: Path
) -> None:
    certificate_file, key_file = certificate(tmp_path, "gpuid")
    certificates = {"tls.crt": certificate_file, "ca.crt": certificate_file, "tls.key": key_file}
    put_secret(hub, "gpuid-tls", **{name: file.read_text() for name, file in certificates.items()})
    put_secret(hub, "gpuid-token", token=TOKENS[0])
    token = {"bearer_token_file": {"secretName": "gpuid-token", "key": "token"}}
    values = {"config": {"clusters": [{"context": "east"}], "server": {"listen": LISTEN, **TLS, **token}}}
    release("install", values=values)
    pod = start()
    trusted = ssl.create_default_context(cafile=certificate_file)
    web = client(base_url=f"https://127.0.0.1:{pod.port}", verify=trusted)

    def get(path: str, token: str = TOKENS[0]) -> httpx.Response | None:
        assert pod.running, pod.tail()
        with contextlib.suppress(httpx.ConnectError):
            return web.get(path, headers={"Authorization": f"Bearer {token}"})
        return None

    def shows(name: str) -> bool:
        return (answer := get("/gpus")) is not None and SERIALS[name] in answer.text

    until(lambda: shows("east"), seconds=120)
    assert not shows("west")
    (container,) = pod.spec["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["scheme"] == "HTTPS"
        assert web.get(asked["path"]).status_code == httpx.codes.OK  # without the token
    assert web.get("/metrics").status_code == httpx.codes.UNAUTHORIZED

    before = objects(hub)["Deployment gpuid"]["spec"]["template"]
    release("upgrade", values={"config": {**values["config"], "clusters": [{"context": "east"}, {"context": "west"}]}})
    assert objects(hub)["Deployment gpuid"]["spec"]["template"] == before  # the pod stays
    pod.sync()
    until(lambda: shows("west"), seconds=120)

    put_secret(hub, "gpuid-token", token=TOKENS[1])
    pod.sync()
    assert [(one := get("/metrics", token)) and one.status_code for token in TOKENS] == [401, 200]
    assert pod.stop(signal.SIGTERM) == 0
    assert (tmp_path / "claims" / "gpuid" / "gpuid.db").is_file()

    clients = {"client_ca_file": {"secretName": "gpuid-tls", "key": "ca.crt"}}
    release("upgrade", values={"config": values["config"] | {"server": {"listen": LISTEN, **TLS, **clients}}})
    pod = start()
    web = client(base_url=f"https://127.0.0.1:{pod.port}", verify=trusted)  # without a certificate, like the kubelet
    until(lambda: (one := get("/readyz")) and one.status_code, 200)
    assert (one := get("/metrics")) is not None
    assert one.status_code == httpx.codes.FORBIDDEN
    until(lambda: pod.execute("health").returncode, 0)


def test_its_own_cluster_is_read_with_no_more_rights_than_it_needs(
    hub: ControlPlane, release: Release, start: Start, client: Client
) -> None:
    hub.add_node("gpu-1", [(SERIALS["east"], "GPU-00000000-0000-0000-0000-000000000001")])
    cluster = {"in_cluster": True, "name": "here", "labels": True}
    release("install", values={"config": {"clusters": [cluster], "server": {"listen": LISTEN}}})
    pod = start()
    until(lambda: [one.serial for one in pod.gpus()], [SERIALS["east"]], seconds=120)
    label = "gpuid.github.com/gpu-0"
    until(lambda: hub.http.get("/api/v1/nodes/gpu-1").json()["metadata"]["labels"].get(label), SERIALS["east"])

    asked = hub.create(f"{CORE}/serviceaccounts/gpuid-collector/token", {"spec": {"expirationSeconds": 3600}})
    stolen = {"Authorization": f"Bearer {asked['status']['token']}"}
    thief = client(base_url=hub.http.base_url, headers=stolen, verify=False)
    until(lambda: exec_status(thief, ["sh"]), httpx.codes.FORBIDDEN)
    assert exec_status(thief, SMI) == UPGRADE
    assert exec_status(thief, [*SMI, "-i", "0"]) == UPGRADE
    assert thief.get(f"{CORE}/secrets").status_code == httpx.codes.FORBIDDEN
    patch = {"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}
    refused = thief.patch("/api/v1/nodes/gpu-1", json=patch, headers={"Content-Type": "application/merge-patch+json"})
    assert refused.status_code == httpx.codes.FORBIDDEN


def shows_all(pod: ChartPod) -> bool:
    page = pod.text("/gpus")
    return all(serial in page for serial in SERIALS.values())


@pytest.mark.usefixtures("clusters")
def test_one_pod_becomes_two_shards_that_divide_the_clusters(
    hub: ControlPlane, planes: Planes, release: Release, new_database: Callable[[], str], tmp_path: Path
) -> None:
    database = new_database().replace("127.0.0.1", DATABASE_HOST)
    put_secret(hub, "gpuid-store", password="any: the test's server trusts everybody")
    names = {shard: next(name for n in itertools.count() if shard_of(name := f"c{n}", 2) == shard) for shard in (0, 1)}
    config = {
        "clusters": [{"context": context, "name": names[shard]} for shard, context in enumerate(planes)],
        "server": {"listen": LISTEN},
        "store": {"url": database, "password_file": {"secretName": "gpuid-store", "key": "password"}},
    }
    with contextlib.ExitStack() as stack:

        def start(workload: str, name: str) -> ChartPod:
            (port,) = free_ports(1)
            pod = ChartPod(hub, workload, tmp_path, port, name=name, hosts={DATABASE_HOST: "127.0.0.1"})
            stack.callback(pod.stop, signal.SIGKILL)
            pod.start()
            return pod

        release("install", values={"config": config})
        single = start("deployments", "gpuid-0")
        until(single.up, dict.fromkeys(names.values(), 1.0), seconds=120)
        release("upgrade", values={"config": config, "shards": 2})
        shards = [start("statefulsets/gpuid-a", f"gpuid-a-{number}") for number in names]
        assert single.stop(signal.SIGTERM) == 0  # as the Deployment is gone
        for number, pod in enumerate(shards):
            until(pod.up, {names[number]: 1.0}, seconds=120)
        for pod in shards:
            until(functools.partial(shows_all, pod), seconds=120)
