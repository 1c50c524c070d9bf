"""What the chart installs works: its pods, run as a kubelet would, read clusters and serve the page."""

import contextlib
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from collector.cli import gpuid as command
from tests.control_plane.conftest import Planes
from tests.control_plane.plane import ControlPlane, binaries
from tests.control_plane.pods import Pod, kubectl
from tests.control_plane.releases import CORE, Release, hub, objects, release
from tests.control_plane.rights import SMI, UPGRADE, exec_status, remove_rights
from tests.helm.modes import TLS
from tests.support.processes import free_ports
from tests.support.waiting import until
from tests.web.test_server import certificate

__all__ = ["hub", "release"]

ROOT = Path(__file__).parents[2]
SERIALS = {"east": "1650122000001", "west": "1650122000002"}
LISTEN = "127.0.0.1:8080"  # in the values; the pods of all tests share this machine's network
TOKENS = ("first-token", "second-token")


class ChartPod(Pod):
    """A pod of the chart, which listens on a port of its own in place of the container's."""

    def _files(self, volume: Any) -> Iterator[tuple[str, bytes]]:
        own = f"127.0.0.1:{self.port}"
        for path, content in super()._files(volume):
            if path == "gpuid.toml" and b"[server]" not in content:
                yield path, content + f'\n[server]\nlisten = "{own}"\n'.encode()
            else:
                yield path, content.replace(LISTEN.encode(), own.encode())


Start = Callable[[], ChartPod]
Client = Callable[..., httpx.Client]


@pytest.fixture
def start(hub: ControlPlane, tmp_path: Path) -> Iterator[Start]:
    """Run the pod of the Deployment."""
    with contextlib.ExitStack() as stack:

        def run() -> ChartPod:
            (port,) = free_ports(1)
            pod = ChartPod(hub, "deployments", tmp_path / "pod", port, claims=tmp_path / "claims")
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
def nodes(planes: Planes, hub: ControlPlane) -> Iterator[None]:
    """A GPU in each of two clusters, of which nobody has been given rights."""
    others = [plane for plane in planes.values() if plane is not hub]
    for plane in others:
        remove_rights(plane)
    for number, (name, plane) in enumerate(planes.items(), start=1):
        plane.add_node("gpu-1", [(SERIALS[name], f"GPU-00000000-0000-0000-0000-00000000000{number}")])
    yield
    for plane in others:
        remove_rights(plane)


@pytest.fixture
def clusters(planes: Planes, hub: ControlPlane, nodes: None, tmp_path: Path) -> None:
    """The same with the rights, and the Secret with the kubeconfig for both that `gpuid grant` prints."""
    admin = tmp_path / "admin.toml"
    admin.write_text(
        "".join(
            f'[[clusters]]\ncontext = "{name}"\nkubeconfig = "{plane.kubeconfig}"\n' for name, plane in planes.items()
        )
    )
    granted = CliRunner().invoke(command, ["grant", "-c", str(admin), "--all", "--apply", "--secret"])
    assert granted.exit_code == 0, granted.output
    kubectl(hub, "apply", "--server-side", "-f", "-", stdin=granted.stdout)


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
    put_secret(hub, "gpuid-tls", **{"tls.crt": certificate_file.read_text(), "tls.key": key_file.read_text()})
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


@pytest.mark.usefixtures("nodes")
def test_the_documented_commands_install_it(planes: Planes, start: Start, client: Client, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    block = text.partition("```sh\n")[2].partition("```")[0]
    block = block.replace("create namespace gpuid", "get namespace gpuid")  # the fixture has made it
    block, _, forwarding = block.partition("kubectl --namespace gpuid port-forward")
    assert forwarding == " service/gpuid 8080\n"  # which kwok has no part in
    built, programs = binaries(), tmp_path / "bin"
    assert built is not None
    programs.mkdir()
    (programs / "gpuid").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m collector "$@"\n')
    (programs / "helm").symlink_to(built / "helm")
    (programs / "gpuid").chmod(0o755)
    for name in ("config", "grafana"):
        (tmp_path / name).symlink_to(ROOT / name)
    env = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "KUBECONFIG": ":".join(str(planes[name].kubeconfig) for name in ("east", "west")),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    pod = start()
    page = client(base_url=pod.url)

    def shown() -> set[str]:
        assert pod.running, pod.tail()
        with contextlib.suppress(httpx.ConnectError):
            text = page.get("/gpus").text
            return {name for name, serial in SERIALS.items() if serial in text}
        return set()

    until(shown, set(SERIALS), seconds=120)
