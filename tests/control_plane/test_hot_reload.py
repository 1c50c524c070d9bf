"""ConfigMaps and Secrets that change under a running collector: each takes effect without a restart or changes nothing.

They are objects of a real API server, and reach the collector's volumes as a kubelet writes them.
"""

import base64
import json
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.control_plane.conftest import Planes
from tests.control_plane.plane import ControlPlane
from tests.control_plane.rights import RBAC, finish_namespace
from tests.support.processes import CollectorProcess
from tests.support.receiver import Receiver, receiving
from tests.support.volume import write_volume
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
CORE = "/api/v1/namespaces/gpuid"


class Deployment:
    """A collector whose configuration, kubeconfig and secrets are volumes of objects in the cluster `east`."""

    def __init__(self, folder: Path, planes: Planes, receiver: Receiver) -> None:
        self.planes, self.east, self.receiver = planes, planes["east"], receiver
        self.tokens: dict[str, str] = {}
        self.collector = CollectorProcess(folder)
        self.collector.config = folder / "etc" / "gpuid" / "gpuid.toml"
        self.collector.command[-1] = str(self.collector.config)
        self._folder = folder
        self._volumes = {
            "configmaps/gpuid": (self.collector.config.parent, 0o644),
            "secrets/gpuid-secrets": (self.collector.config.parent / "secrets", 0o440),
            "secrets/gpuid-kubeconfig": (folder / "etc" / "gpuid-kubeconfig", 0o440),
        }

    def configure(self, *clusters: str, more: str = "") -> None:
        text = (
            f'[server]\nlisten = "127.0.0.1:{self.collector.port}"\n[store]\nurl = "sqlite://{self._folder}/gpuid.db"\n'
            f'[defaults]\nkubeconfig = "../gpuid-kubeconfig/config"\nrefresh = "1h"\n{more}'
            f'[sinks.hook]\ntype = "webhook"\nurl = "{self.receiver.url}"\ntoken_file = "secrets/hook"\n'
            'batch_age = "50ms"\n'
        )
        text += "".join(f'[[clusters]]\ncontext = "{name}"\n' for name in clusters)
        self._apply("configmaps", "ConfigMap", "gpuid", {"data": {"gpuid.toml": text}})

    def set_secret(self, name: str, key: str, value: str) -> None:
        data = {key: base64.b64encode(value.encode()).decode()}
        self._apply("secrets", "Secret", name, {"data": data})

    def set_kubeconfig(self, user: str) -> None:
        """Give the collector the tokens of a user's service account in each cluster, made if it is not there."""
        document: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", "clusters": [], "users": [], "contexts": []}
        for name, plane in self.planes.items():
            admin = json.loads(plane.kubeconfig.read_text())["clusters"][0]["cluster"]
            cluster = {"server": admin["server"], "certificate-authority": admin["certificate-authority"]}
            document["clusters"].append({"name": name, "cluster": cluster})
            document["users"].append({"name": name, "user": {"token": self._token(plane, user)}})
            document["contexts"].append({"name": name, "context": {"cluster": name, "user": name}})
        self.set_secret("gpuid-kubeconfig", "config", yaml.safe_dump(document))

    def delivered(self, event: str) -> set[str]:
        """Return what the receiver was shown with records of an event."""
        requests = self.receiver.accepted
        return {one.headers["Authorization"] for one in requests if event in {row["event"] for row in one.records}}

    def delete_user(self, user: str) -> None:
        """Delete a user's service accounts, which makes their tokens worthless."""
        for plane in self.planes.values():
            assert plane.http.delete(f"{CORE}/serviceaccounts/{user}").is_success

    def _token(self, plane: ControlPlane, user: str) -> str:
        plane.http.post("/api/v1/namespaces", json={"metadata": {"name": "gpuid"}})  # it may be there
        plane.create(f"{CORE}/serviceaccounts", {"metadata": {"name": user}})
        subjects = [{"kind": "ServiceAccount", "namespace": "gpuid", "name": user}]
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
        labels = {"app.kubernetes.io/managed-by": "gpuid"}
        binding = {"metadata": {"name": f"hot-{user}", "labels": labels}, "roleRef": role, "subjects": subjects}
        plane.create(f"{RBAC}/clusterrolebindings", binding)
        request = {"spec": {"expirationSeconds": 7200}}
        token: str = plane.create(f"{CORE}/serviceaccounts/{user}/token", request)["status"]["token"]
        return token

    def _apply(self, kind: str, name: str, object_name: str, content: Mapping[str, Any]) -> None:
        manifest = {"apiVersion": "v1", "kind": name, "metadata": {"name": object_name, "namespace": "gpuid"}}
        self.east.apply({**manifest, **content}, f"{CORE}/{kind}/{object_name}")
        self._sync(f"{kind}/{object_name}")

    def _sync(self, volume: str) -> None:
        """Do what a kubelet does within a minute or so: bring a volume in line with its object."""
        folder, mode = self._volumes[volume]
        data = self.east.http.get(f"{CORE}/{volume}").raise_for_status().json()["data"]
        decode = base64.b64decode if volume.startswith("secrets/") else str.encode
        assert write_volume(folder, {name: decode(value) for name, value in data.items()}, mode=mode)


@pytest.fixture
def deployment(planes: Planes, tmp_path: Path) -> Iterator[Deployment]:
    with receiving() as receiver:
        deployment = Deployment(tmp_path, planes, receiver)
        yield deployment
        deployment.collector.stop(signal.SIGKILL)
    for plane in planes.values():
        selector = {"labelSelector": "app.kubernetes.io/managed-by=gpuid"}
        plane.http.delete(f"{RBAC}/clusterrolebindings", params=selector)
        for kind in ("configmaps", "secrets", "serviceaccounts"):
            plane.http.delete(f"{CORE}/{kind}")
        finish_namespace(plane)


def test_every_volume_can_change_while_the_collector_runs(deployment: Deployment, planes: Planes) -> None:
    collector, east, west = deployment.collector, planes["east"], planes["west"]
    east.add_node("gpu-1", [("1650122000001", "GPU-00000000-0000-0000-0000-000000000001")])
    west.add_node("gpu-1", [("1650122000002", "GPU-00000000-0000-0000-0000-000000000002")])
    deployment.set_kubeconfig("first")
    deployment.set_secret("gpuid-secrets", "hook", "sesame-1")
    deployment.configure("east")
    collector.start()
    until(lambda: [placed.cluster for placed in collector.gpus()], ["east"], seconds=120)
    until(lambda: len(deployment.receiver.accepted), 1)

    # A configuration with another cluster: that one is read, and no other one again.
    deployment.configure("east", "west")
    until(collector.up, {"east": 1, "west": 1}, seconds=120)
    until(lambda: len(collector.gpus()), 2)
    assert collector.total("gpuid_read_success_total", cluster="east") == 1

    # A broken one: nothing changes but what says so.
    deployment.configure("east", more='refrehs = "2h"\n')
    until(lambda: collector.logged("rejected the new configuration"))
    assert "refrehs" in collector.text("/readyz?verbose")
    assert collector.total("gpuid_config_last_reload_successful") == 0
    assert collector.up() == {"east": 1, "west": 1}
    deployment.configure("east", "west", more='grace = "11m"\n')
    until(lambda: collector.total("gpuid_config_last_reload_successful"), 1)
    until(collector.up, {"east": 1, "west": 1}, seconds=120)

    # A broken kubeconfig: the tokens stay in use.
    deployment.set_secret("gpuid-kubeconfig", "config", "contexts: [")
    east.add_node("gpu-2", [("1650122000003", "GPU-00000000-0000-0000-0000-000000000003")])
    until(lambda: len(collector.gpus()), 3)
    assert collector.up() == {"east": 1, "west": 1}

    # The end of these tokens, before there are others. The API server trusts one that it has just seen for ten seconds.
    deployment.delete_user("first")

    def read_in_vain() -> int:
        west.replace_pod("gpu-1", [("1650122000002", "GPU-00000000-0000-0000-0000-000000000002")])
        return collector.logged("ignoring changed kubeconfig files", cluster="west")

    until(read_in_vain)
    assert len(collector.gpus()) == 3
    deployment.set_kubeconfig("second")
    west.add_node("gpu-2", [("1650122000004", "GPU-00000000-0000-0000-0000-000000000004")])
    until(lambda: len(collector.gpus()), 4, seconds=120)
    until(collector.up, {"east": 1, "west": 1}, seconds=120)

    # Another password for a sink: from the next delivery on.
    until(lambda: deployment.delivered("appeared"), {"Bearer sesame-1"})
    until(lambda: sum(len(request.records) for request in deployment.receiver.accepted), 4)
    deployment.set_secret("gpuid-secrets", "hook", "sesame-2")
    east.delete_node("gpu-2")
    until(lambda: deployment.delivered("vanished"), {"Bearer sesame-2"})
    assert deployment.receiver.rejected == []
    assert not any("sesame" in str(event) for event in collector.events())
    assert collector.stop() == 0


def test_the_cron_job_of_the_documentation_is_accepted(east: ControlPlane) -> None:
    (manifest,) = re.findall(
        r"<!-- manifest -->\n```yaml\n(.*?)```", (ROOT / "docs/run-once.md").read_text(), re.DOTALL
    )
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    east.create("/api/v1/namespaces", {"metadata": {"name": "restricted", "labels": labels}})
    job = yaml.safe_load(manifest)
    job["metadata"]["namespace"] = "restricted"
    path = "/apis/batch/v1/namespaces/restricted/cronjobs"
    answer = east.http.post(path, json=job, params={"dryRun": "All", "fieldValidation": "Strict"})
    assert (answer.status_code, answer.headers.get_list("Warning")) == (201, [])
    pod = {"metadata": {"name": "gpuid"}, "spec": job["spec"]["jobTemplate"]["spec"]["template"]["spec"]}
    answer = east.http.post("/api/v1/namespaces/restricted/pods", json=pod, params={"dryRun": "All"})
    assert answer.status_code == 201, answer.text
    namespace = east.http.delete("/api/v1/namespaces/restricted").json()
    east.http.put("/api/v1/namespaces/restricted/finalize", json=namespace | {"spec": {"finalizers": []}})
