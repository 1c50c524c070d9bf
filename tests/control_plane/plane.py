"""Real Kubernetes control planes on this machine: etcd, kube-apiserver, and kwok in the kubelet's place."""

import contextlib
import datetime
import ipaddress
import json
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.processes import Process, free_ports
from tests.support.waiting import until

__all__ = ["MODEL", "READER_LABELS", "READER_NAMESPACE", "ControlPlane", "binaries"]

NAMESPACE = "gpu-operator"
READER_NAMESPACE = "gpuid"
READER_LABELS = {"app.kubernetes.io/name": "gpuid-reader"}
CONTAINER = "nvidia-device-plugin"
MODEL = "NVIDIA H100 80GB HBM3"
PROGRAMS = ("etcd", "kube-apiserver", "kwok")
GENERATIONS = "abc"  # how often one node's pod can be replaced: kwok wants every pod's exec declared beforehand

# What kwok runs for `nvidia-smi -q -x`: the file of the pod's name, and failure where there is none.
NVIDIA_SMI = """#!/bin/sh
[ "$*" = "-q -x" ] || { echo "unexpected arguments: $*" >&2; exit 2; }
echo "a warning that is none of the output" >&2
cat "$OUTPUTS/$POD.xml"
"""


def binaries() -> Path | None:
    """The folder with the programs, as envtest finds it: $KUBEBUILDER_ASSETS, else the cache that `build` fills."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    folder = Path(os.environ.get("KUBEBUILDER_ASSETS") or cache / "gpuid" / "control-plane")
    return folder if all(os.access(folder / program, os.X_OK) for program in PROGRAMS) else None


class ControlPlane:
    """One cluster; `nodes` are the names that device-plugin pods can be placed on, `flags` more of the API server's."""

    def __init__(self, name: str, folder: Path, programs: Path, nodes: Iterable[str], *flags: str) -> None:
        self.name, self.folder, self._programs = name, folder, programs
        self._nodes = tuple(nodes)
        self._etcd_port, peer, self._port, self._kubelet_port = free_ports(4)
        for inner in ("bin", "outputs", "certs", "logs"):
            (folder / inner).mkdir(parents=True)
        self.kubeconfig = self.write_kubeconfig("admin", token="admin")
        self._write_files()
        here = "127.0.0.1"
        etcd = f"http://{here}:{self._etcd_port}"
        self.etcd = self._process(
            "etcd",
            *("--data-dir", folder / "etcd", "--listen-client-urls", etcd, "--advertise-client-urls", etcd),
            *("--listen-peer-urls", f"http://{here}:{peer}", "--unsafe-no-fsync", "--log-level", "warn"),
        )
        self.apiserver = self._process(
            "kube-apiserver",
            *flags,
            *(f"--etcd-servers={etcd}", f"--bind-address={here}", f"--secure-port={self._port}"),
            *(f"--cert-dir={folder / 'certs'}", "--service-cluster-ip-range=10.0.0.0/24", "--allow-privileged"),
            f"--token-auth-file={folder / 'tokens.csv'}",
            *("--authorization-mode=RBAC", "--service-account-issuer=https://kubernetes.default.svc"),
            f"--service-account-signing-key-file={folder / 'sa.key'}",
            f"--service-account-key-file={folder / 'sa.key'}",
            # No controller manager makes default service accounts here, so pods must do without one.
            *("--disable-admission-plugins=ServiceAccount", "--kubelet-preferred-address-types=InternalIP"),
        )
        self.kwok = self._process(
            "kwok",
            *("--kubeconfig", self.kubeconfig, "--manage-all-nodes", "--node-name", "kwok", "--node-ip", here),
            *("--server-address", f"{here}:{self._kubelet_port}", "--node-port", str(self._kubelet_port)),
            *("--tls-cert-file", folder / "kubelet.crt", "--tls-private-key-file", folder / "kubelet.key"),
            *("--config", Path(__file__).with_name("kwok.yaml"), "--config", folder / "execs.yaml"),
            *("--config", folder / "logs.yaml"),
            env={"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"},  # kwok looks commands up on its own PATH
        )
        self.http = httpx.Client(
            base_url=f"https://{here}:{self._port}",
            headers={"Authorization": "Bearer admin"},
            verify=False,  # the certificate is made by the server at its first start
            timeout=30,
        )
        self._outputs: dict[str, str] = {}
        self._readers: list[str] = []

    # The servers

    @contextlib.contextmanager
    def running(self) -> Iterator["ControlPlane"]:
        """Start all servers without waiting for them; stops them at the end, whatever happened."""
        try:
            for server in (self.etcd, self.apiserver):
                server.start()
            yield self
        finally:
            self.http.close()
            for server in (self.kwok, self.apiserver, self.etcd):
                server.stop(signal.SIGKILL)

    def wait_ready(self) -> None:
        """Return once the API server answers, kwok too; the namespace of the device plugin exists then."""
        until(self._is_ready, seconds=120)
        if not self.kwok.running:
            self.kwok.start()
        if self.http.get(f"/api/v1/namespaces/{NAMESPACE}").status_code == 404:
            self.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})

    def stop_apiserver(self) -> None:
        """Take the API server away, with every connection."""
        self.apiserver.stop(signal.SIGKILL)

    def start_apiserver(self) -> None:
        """Bring the API server back."""
        self.apiserver.start()
        self.wait_ready()

    def compact(self) -> None:
        """Make etcd forget every version but the present one."""
        etcd = f"http://127.0.0.1:{self._etcd_port}/v3/kv"
        revision = httpx.post(f"{etcd}/range", json={"key": "AA=="}).raise_for_status().json()["header"]["revision"]
        httpx.post(f"{etcd}/compaction", json={"revision": revision, "physical": True}).raise_for_status()

    def write_kubeconfig(self, user: str, *, token: str) -> Path:
        """A kubeconfig of one context, named as the plane is."""
        path = self.folder / f"{user}.kubeconfig"
        cluster = {
            "server": f"https://127.0.0.1:{self._port}",
            "certificate-authority": str(self.folder / "certs" / "apiserver.crt"),
        }
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": self.name, "cluster": cluster}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": self.name, "context": {"cluster": self.name, "user": user}}],
            "current-context": self.name,
        }
        path.write_text(json.dumps(document))
        return path

    # Its objects

    def create(self, path: str, body: Mapping[str, Any], **params: str) -> dict[str, Any]:
        """POST an object."""
        return self._checked(self.http.post(path, json=dict(body), params=params))

    def apply(self, manifest: Mapping[str, Any], path: str, **params: str) -> dict[str, Any]:
        """Server-side apply of an object to its path."""
        return self._checked(
            self.http.patch(
                path,
                content=json.dumps(manifest),
                params={"fieldManager": "test", "force": "true", "fieldValidation": "Strict", **params},
                headers={"Content-Type": "application/apply-patch+yaml"},
            )
        )

    def add_node(self, node: str, gpus: Iterable[tuple[str, str]], *, plugin: bool = True) -> None:
        """A node and its GPU pod; `gpus` are the (serial, UUID) that its nvidia-smi prints.

        Without `plugin` Kubernetes does not count them, as where a DRA driver manages GPUs.
        """
        capacity = {"cpu": "64", "memory": "512Gi", "pods": "110"}
        if plugin:
            capacity["nvidia.com/gpu"] = str(len(gpus := list(gpus)))
        self.create(
            "/api/v1/nodes",
            {
                "metadata": {"name": node, "labels": {"nvidia.com/gpu.present": "true"} if plugin else {}},
                "spec": {"providerID": f"aws:///us-east-1a/i-{self.name}-{node}"},
                "status": {
                    "capacity": capacity,
                    "allocatable": capacity,
                    "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                    "daemonEndpoints": {"kubeletEndpoint": {"Port": self._kubelet_port}},
                    "nodeInfo": dict.fromkeys(_NODE_INFO, "") | {"bootID": f"boot-{node}-1"},
                },
            },
        )
        self.add_pod(node, gpus)

    def add_pod(self, node: str, gpus: Iterable[tuple[str, str]]) -> str:
        """The node's device-plugin pod, under a name that no earlier pod of the node has now."""
        pod = next(name for letter in GENERATIONS if (name := f"{node}-{letter}") != self._outputs.get(node))
        self._outputs[node] = pod
        self.print_gpus(pod, gpus)
        self.create(
            f"/api/v1/namespaces/{NAMESPACE}/pods",
            {
                "metadata": {"name": pod, "labels": {"app": "nvidia-device-plugin-daemonset"}},
                "spec": {"nodeName": node, "containers": [{"name": CONTAINER, "image": "k8s-device-plugin"}]},
            },
        )
        return pod

    def add_reader(self, node: str) -> str:
        """The node's pod that prints, in its own namespace, with a log in which nothing is yet."""
        self.http.post("/api/v1/namespaces", json={"metadata": {"name": READER_NAMESPACE}})  # it may be there
        pod = f"{node}-reader"
        self.log(node).write_bytes(b"")
        self.create(
            f"/api/v1/namespaces/{READER_NAMESPACE}/pods",
            {
                "metadata": {"name": pod, "labels": READER_LABELS},
                "spec": {"nodeName": node, "containers": [{"name": "reader", "image": "reader"}]},
            },
        )
        self._readers.append(pod)
        return pod

    def log(self, node: str) -> Path:
        """The file with what the node's reader has printed, as a container runtime writes it."""
        return self.folder / "logs" / f"{node}.log"

    def print_document(self, node: str, gpus: Iterable[tuple[str, str]], at: float) -> None:
        """Have the node's reader print a document, a line in a microsecond, at some time in Unix seconds."""
        with self.log(node).open("a") as file:
            for number, line in enumerate(_nvidia_smi_output(gpus).replace("<gpu", "\n<gpu").splitlines()):
                moment = datetime.datetime.fromtimestamp(at + number / 1e6, datetime.UTC)
                file.write(f"{moment:%Y-%m-%dT%H:%M:%S.%f}000Z stdout F {line}\n")

    def print_gpus(self, pod: str, gpus: Iterable[tuple[str, str]]) -> None:
        """Say what nvidia-smi prints in a pod from now on."""
        (self.folder / "outputs" / f"{pod}.xml").write_text(_nvidia_smi_output(gpus))

    def replace_pod(self, node: str, gpus: Iterable[tuple[str, str]]) -> None:
        """Delete the node's pod, wait until it is gone and make another."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{self._outputs[node]}"
        self._checked(self.http.delete(path))
        until(lambda: self.http.get(path).status_code, 404)
        self.add_pod(node, gpus)

    def restart_container(self, node: str) -> None:
        """Report of the node's pod what the kubelet does after its container crashed."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{self._outputs[node]}"
        until(lambda: self.http.get(path).json()["status"]["phase"], "Running")
        (container,) = self.http.get(path).json()["status"]["containerStatuses"]
        container |= {"containerID": container["containerID"] + "-2", "restartCount": container["restartCount"] + 1}
        self._patch(f"{path}/status", {"status": {"containerStatuses": [container]}})

    def reboot(self, node: str) -> None:
        """Report of the node what the kubelet does after a reboot that its pods survived."""
        path = f"/api/v1/nodes/{node}"
        info = self.http.get(path).json()["status"]["nodeInfo"]
        self._patch(f"{path}/status", {"status": {"nodeInfo": info | {"bootID": info["bootID"] + "-next"}}})

    def delete_node(self, node: str) -> None:
        """Delete the node and its pod, as the pod garbage collector would."""
        self._checked(self.http.delete(f"/api/v1/nodes/{node}"))
        pod = f"/api/v1/namespaces/{NAMESPACE}/pods/{self._outputs.pop(node)}"
        self.http.delete(pod, params={"gracePeriodSeconds": "0"})

    def clear(self) -> None:
        """Delete every node and pod."""
        for node in list(self._outputs):
            self.delete_node(node)
        while self._readers:
            pod = f"/api/v1/namespaces/{READER_NAMESPACE}/pods/{self._readers.pop()}"
            self.http.delete(pod, params={"gracePeriodSeconds": "0"})

    # Private, in the order of use

    def _process(self, program: str, *arguments: str | Path, env: Mapping[str, str] = {}) -> Process:
        return Process([self._programs / program, *arguments], self.folder / f"{program}.log", env)

    def _is_ready(self) -> bool:
        for server in (self.etcd, self.apiserver):
            assert server.running, server.tail()
        with contextlib.suppress(httpx.TransportError):
            return self.http.get("/readyz").status_code == 200
        return False

    def _patch(self, path: str, patch: Mapping[str, Any]) -> None:
        headers = {"Content-Type": "application/merge-patch+json"}
        self._checked(self.http.patch(path, content=json.dumps(patch), headers=headers))

    @staticmethod
    def _checked(response: httpx.Response) -> dict[str, Any]:
        assert response.is_success, response.text
        body: dict[str, Any] = response.json()
        return body

    def _write_files(self) -> None:
        (self.folder / "tokens.csv").write_text("admin,admin,1,system:masters\n")
        (self.folder / "sa.key").write_bytes(_pem(rsa.generate_private_key(65537, 2048)))
        key = ec.generate_private_key(ec.SECP256R1())
        (self.folder / "kubelet.key").write_bytes(_pem(key))
        (self.folder / "kubelet.crt").write_bytes(_certificate(key))
        program = self.folder / "bin" / "nvidia-smi"
        program.write_text(NVIDIA_SMI)
        program.chmod(0o755)
        pods = [f"{node}-{letter}" for node in self._nodes for letter in GENERATIONS]
        (self.folder / "execs.yaml").write_text(yaml.safe_dump_all(self._exec(pod) for pod in pods))
        (self.folder / "logs.yaml").write_text(yaml.safe_dump_all(map(self._logs, self._nodes)))

    def _logs(self, node: str) -> dict[str, Any]:
        return {
            "apiVersion": "kwok.x-k8s.io/v1alpha1",
            "kind": "Logs",
            "metadata": {"name": f"{node}-reader", "namespace": READER_NAMESPACE},
            "spec": {"logs": [{"containers": ["reader"], "logsFile": str(self.log(node)), "follow": False}]},
        }

    def _exec(self, pod: str) -> dict[str, Any]:
        envs = [{"name": "POD", "value": pod}, {"name": "OUTPUTS", "value": str(self.folder / "outputs")}]
        return {
            "apiVersion": "kwok.x-k8s.io/v1alpha1",
            "kind": "Exec",
            "metadata": {"name": pod, "namespace": NAMESPACE},
            "spec": {"execs": [{"containers": [CONTAINER], "local": {"envs": envs}}]},
        }


_NODE_INFO = (
    *("architecture", "bootID", "containerRuntimeVersion", "kernelVersion", "kubeProxyVersion"),
    *("kubeletVersion", "machineID", "operatingSystem", "osImage", "systemUUID"),
)


def _nvidia_smi_output(gpus: Iterable[tuple[str, str]]) -> str:
    """A log as the driver writes it, of H100 cards."""
    cards = "".join(
        f'<gpu id="00000000:{0x10 + index:02X}:00.0"><product_name>{MODEL}</product_name>'
        f"<serial>{serial}</serial><uuid>{uuid}</uuid><minor_number>{index}</minor_number></gpu>"
        for index, (serial, uuid) in enumerate(gpus)
    )
    return (
        '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n<nvidia_smi_log>'
        f"<driver_version>570.86.15</driver_version><cuda_version>12.8</cuda_version>{cards}</nvidia_smi_log>\n"
    )


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _certificate(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kwok")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - datetime.timedelta(hours=1),
        not_valid_after=now + datetime.timedelta(days=1),
    ).add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
