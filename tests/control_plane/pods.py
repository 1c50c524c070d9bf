"""The pod of a workload that a real API server holds, run as a kubelet would: volumes, environment, service account."""

import base64
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.control_plane.plane import ControlPlane
from tests.support.container import Mount, contained
from tests.support.processes import CollectorProcess
from tests.support.volume import write_volume

__all__ = ["Pod", "kubectl"]

NAMESPACE = "gpuid"
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
CORE = f"/api/v1/namespaces/{NAMESPACE}"


def kubectl(plane: ControlPlane, *arguments: str | Path, stdin: str | None = None) -> str:
    """Run kubectl as the cluster's administrator and return what it prints."""
    command = ["kubectl", "--kubeconfig", plane.kubeconfig, *arguments]
    done = subprocess.run(command, capture_output=True, input=stdin, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Pod(CollectorProcess):
    """A pod of a workload, admitted by the API server; its configuration must have it listen on `port`.

    `workload` is `deployments` or `statefulsets` for that named `gpuid`, or `statefulsets/NAME`. `claims` has a folder
    for each PersistentVolumeClaim, `hosts` the addresses of what it reaches by name.
    """

    def __init__(
        self,
        plane: ControlPlane,
        workload: str,
        folder: Path,
        port: int,
        *,
        name: str = "gpuid-0",
        claims: Path | None = None,
        hosts: Mapping[str, str] = {},
    ) -> None:
        folder = folder / name
        folder.mkdir(parents=True)
        super().__init__(folder, name)
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self._plane, self._volumes, self._claims = plane, folder / "volumes", claims
        self.spec = self._admitted(workload, name)
        (container,) = self.spec["containers"]
        assert "command" not in container, "the image's entrypoint is gpuid"
        server = plane.http.base_url
        env = {"KUBERNETES_SERVICE_HOST": server.host, "KUBERNETES_SERVICE_PORT": str(server.port)}
        env |= {one["name"]: one["value"] for one in container.get("env", ())}
        self._container: dict[str, Any] = {
            "mounts": list(self._mounts(container)),
            "env": env,
            "hosts": hosts,
            "hostname": name,
        }
        self._programs = 0
        self.command = self._contained(container.get("args", ()))

    def sync(self) -> None:
        """Bring the volumes up to date with ConfigMaps and Secrets, as the kubelet does every minute or so."""
        for volume in self.spec["volumes"]:
            if volume.keys() & {"configMap", "secret", "projected"}:
                write_volume(self._volumes / volume["name"], dict(self._files(volume)), mode=0o440)

    def execute(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of gpuid in the container, as `kubectl exec` does."""
        return subprocess.run(self._contained(arguments), capture_output=True, text=True, timeout=120)

    # Private, in the order of use

    def _contained(self, arguments: Iterable[str]) -> list[str]:
        self._programs += 1
        folder = self.folder / f"container-{self._programs}"
        return [
            str(part) for part in contained([sys.executable, "-m", "collector", *arguments], folder, **self._container)
        ]

    def _admitted(self, workload: str, name: str) -> dict[str, Any]:
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/{workload if '/' in workload else f'{workload}/gpuid'}"
        template = self._plane.http.get(path).raise_for_status().json()["spec"]["template"]
        pod = {"metadata": template["metadata"] | {"name": name}, "spec": template["spec"]}
        created = self._plane.create(f"{CORE}/pods", pod, dryRun="All", fieldValidation="Strict")
        spec: dict[str, Any] = created["spec"]
        return spec

    def _mounts(self, container: Mapping[str, Any]) -> Iterator[Mount]:
        volumes = {volume["name"]: volume for volume in self.spec["volumes"]}
        for mount in container["volumeMounts"]:
            volume = volumes[mount["name"]]
            folder = self._volumes / mount["name"]
            if claim := volume.get("persistentVolumeClaim"):
                assert self._claims is not None
                folder = self._claims / claim["claimName"]
            folder.mkdir(parents=True, exist_ok=True)
            for other in container["volumeMounts"]:  # the kubelet makes the places of mounts within a volume
                if other["mountPath"].startswith(f"{mount['mountPath']}/"):
                    (folder / Path(other["mountPath"]).relative_to(mount["mountPath"])).mkdir(exist_ok=True)
            yield Mount(folder, mount["mountPath"], mount.get("readOnly", False))
        self.sync()
        if self.spec.get("automountServiceAccountToken", True):
            yield Mount(self._account(), ACCOUNT)

    def _files(self, volume: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
        for one in volume["projected"]["sources"] if "projected" in volume else [volume]:
            source = one.get("configMap") or one["secret"]
            kind, name = ("configmaps" if "configMap" in one else "secrets"), source.get("name") or source["secretName"]
            answer = self._plane.http.get(f"{CORE}/{kind}/{name}")
            if answer.status_code == 404 and source.get("optional"):
                continue
            data = answer.raise_for_status().json().get("data", {})
            paths = {item["key"]: item["path"] for item in source.get("items", ())} or {key: key for key in data}
            for key, path in paths.items():
                yield path, data[key].encode() if kind == "configmaps" else base64.b64decode(data[key])

    def _account(self) -> Path:
        account = self.spec.get("serviceAccountName", "default")
        token = self._plane.create(f"{CORE}/serviceaccounts/{account}/token", {"spec": {"expirationSeconds": 3607}})
        authority = (self._plane.folder / "certs" / "apiserver.crt").read_bytes()
        folder = self._volumes / "service-account"
        write_volume(
            folder, {"token": token["status"]["token"].encode(), "ca.crt": authority, "namespace": b"gpuid"}, mode=0o440
        )
        return folder
