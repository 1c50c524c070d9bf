"""Creates the Kubernetes objects of a simulated cluster, nodes and pods, as documents."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from collector.simulator import smi
from collector.simulator.fleet import MODELS
from collector.simulator.shapes import DaemonSet, Shape
from collector.timestamps import rfc3339

__all__ = [
    "KUBERNETES_VERSION",
    "LEASES",
    "NODES",
    "PODS",
    "READER_LABELS",
    "READER_NAMESPACE",
    "RESOURCES",
    "Document",
    "ObjectFactory",
    "Resource",
]

Document = dict[str, Any]
KUBERNETES_VERSION = "v1.34.2"

READER_NAMESPACE = "gpuid"
READER_LABELS = {"app.kubernetes.io/name": "gpuid-reader"}  # of pods that print what nvidia-smi reports

_NAME_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
_ZONES = ("us-east-1a", "us-east-1b", "us-east-1c")
_ARCHITECTURE = {"h100": "amd64", "gb200": "arm64"}
_SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_IMAGES = (
    ("registry.example/nvidia", "driver:570.124.06-ubuntu24.04"),
    ("registry.example/nvidia", "k8s-device-plugin:v0.17.4"),
    ("registry.example/nvidia/cloud-native", "gpu-operator-validator:v25.3.4"),
    ("registry.example/nvidia/k8s", "dcgm-exporter:4.2.3-4.1.3-ubuntu22.04"),
    ("registry.example", "kube-proxy:v1.34.2"),
    ("registry.example", "pause:3.10"),
)


class Resource(NamedTuple):
    """A resource that the API serves."""

    group: str
    plural: str
    kind: str
    namespaced: bool
    verbs: tuple[str, ...]
    fields: tuple[str, ...]  # allowed in field selectors
    short: str  # name for kubectl
    version: str = "v1"

    @property
    def api_version(self) -> str:
        """The apiVersion of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version


PODS = Resource(
    "", "pods", "Pod", True, ("get", "list", "watch"),
    ("metadata.name", "metadata.namespace", "spec.nodeName", "status.phase"), "po",
)  # fmt: skip
NODES = Resource("", "nodes", "Node", False, ("get", "list", "patch", "watch"), ("metadata.name",), "no")
LEASES = Resource(
    "coordination.k8s.io", "leases", "Lease", True,
    ("create", "delete", "get", "list", "patch", "update", "watch"), ("metadata.name", "metadata.namespace"), "",
)  # fmt: skip
RESOURCES = {(resource.group, resource.plural): resource for resource in (PODS, NODES, LEASES)}


class ObjectFactory:
    """Creates the documents of one cluster; the same arguments give the same document."""

    def __init__(self, cluster: str, kind: str, shape: Shape, seed: int, born: float, driver: str) -> None:
        self.cluster = cluster
        self.kind = kind
        self.shape = shape
        self.driver = driver  # the form of the driver of its machines, a key of DRIVER_FORMS
        self._salt = f"{seed}/{cluster}/"
        self._born = rfc3339(born, "seconds")

    def uid(self, *what: object) -> str:
        """Return a UUID derived from the name of the object."""
        digits = self._digest(*what)
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:32]}"

    def pod_name(self, prefix: str, *what: object) -> str:
        """Return a generated name: the prefix and five characters."""
        digits = self._digest("name", *what)
        return prefix + "".join(_NAME_ALPHABET[int(digits[2 * at : 2 * at + 2], 16) % 27] for at in range(5))

    def node(self, name: str, number: int, gpus: int, *, generation: int = 0, since: float | None = None) -> Document:
        """Return a ready node with some GPUs or none; a new `generation` is a new VM under an old name."""
        created = rfc3339(since, "seconds") if since is not None else self._born
        address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        zone = _ZONES[number % len(_ZONES)]
        platform = self.shape.platform
        machine = platform.machines[self.kind if gpus else ""]
        labels = {
            "beta.kubernetes.io/arch": _ARCHITECTURE[self.kind],
            "beta.kubernetes.io/os": "linux",
            "failure-domain.beta.kubernetes.io/region": zone[:-1],
            "failure-domain.beta.kubernetes.io/zone": zone,
            "kubernetes.io/arch": _ARCHITECTURE[self.kind],
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "node.kubernetes.io/instance-type": machine,
            "topology.kubernetes.io/region": zone[:-1],
            "topology.kubernetes.io/zone": zone,
        }
        amounts = {
            "cpu": "192" if gpus else "4",
            "ephemeral-storage": "3840755982336",
            "hugepages-2Mi": "0",
            "memory": "2097152000Ki" if gpus else "16073724Ki",
            "pods": "110",
        }
        if gpus:
            driver = smi.driver_version(self.kind, self.driver).partition(".")[0]
            facts = {"product": MODELS[self.kind].replace(" ", "-"), "gpus": gpus, "driver": driver}
            labels |= {name: value.format_map(facts) for name, value in self.shape.node_labels.items()}
            if self.shape.resource:
                amounts[self.shape.resource] = str(gpus)
        return {
            "kind": "Node",
            "apiVersion": "v1",
            "metadata": {
                "name": name,
                "uid": self.uid("node", name, generation),
                "resourceVersion": "",
                "creationTimestamp": created,
                "labels": labels,
                "annotations": {
                    "node.alpha.kubernetes.io/ttl": "0",
                    "volumes.kubernetes.io/controller-managed-attach-detach": "true",
                },
            },
            "spec": {
                "podCIDR": f"10.244.{number & 255}.0/24",
                "providerID": platform.provider_id.format(
                    zone=zone, machine=self._digest("machine", name, generation)[:16]
                ),
            },
            "status": {
                "capacity": amounts,
                "allocatable": dict(amounts),
                "conditions": [
                    _condition("MemoryPressure", "False", "KubeletHasSufficientMemory", created),
                    _condition("DiskPressure", "False", "KubeletHasNoDiskPressure", created),
                    _condition("PIDPressure", "False", "KubeletHasSufficientPID", created),
                    _condition("Ready", "True", "KubeletReady", created),
                ],
                "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
                "nodeInfo": {
                    "machineID": self._digest("machine-id", name, generation)[:32],
                    "systemUUID": self.uid("system", name, generation),
                    "bootID": self.uid("boot", name, generation, 0),
                    "kernelVersion": platform.kernel,
                    "osImage": platform.os_image,
                    "containerRuntimeVersion": "containerd://2.1.4",
                    "kubeletVersion": KUBERNETES_VERSION,
                    "kubeProxyVersion": "",
                    "operatingSystem": "linux",
                    "architecture": _ARCHITECTURE[self.kind],
                },
                "images": [
                    {"names": [f"{registry}/{image}"], "sizeBytes": 104_857_600 + 1_048_576 * len(image)}
                    for registry, image in _IMAGES
                ],
            },
        }

    def daemon_pod(self, of: DaemonSet, node: str, generation: int = 0, since: float | None = None) -> Document:
        """Return the pod of a DaemonSet on a node; a new `generation` is a new pod."""
        return self.pod(
            self.shape.namespace,
            self.pod_name(of.prefix, node, generation),
            node,
            of.labels,
            tuple(of.containers),
            of.image,
            owner=("DaemonSet", of.name),
            since=since,
        )

    def reader_pod(self, node: str, generation: int, since: float) -> Document:
        """Return the pod of a node that prints the output of nvidia-smi."""
        return self.pod(
            READER_NAMESPACE,
            self.pod_name("gpuid-reader-", "reader", node, generation),
            node,
            READER_LABELS,
            ("reader",),
            "registry.example/debian:stable-slim",
            owner=("DaemonSet", "gpuid-reader"),
            since=since,
        )

    def pod(
        self,
        namespace: str,
        name: str,
        node: str,
        labels: Mapping[str, str],
        containers: tuple[str, ...],
        image: str,
        *,
        owner: tuple[str, str],
        since: float | None = None,
    ) -> Document:
        """Return a running and ready pod, all of whose containers have one image."""
        started = rfc3339(since, "seconds") if since is not None else self._born
        uid = self.uid("pod", namespace, name)
        address = f"10.244.{int(uid[:2], 16)}.{int(uid[2:4], 16)}"
        return {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {
                "name": name,
                "generateName": name[:-5],
                "namespace": namespace,
                "uid": uid,
                "resourceVersion": "",
                "creationTimestamp": started,
                "labels": dict(labels),
                "ownerReferences": [
                    {
                        "apiVersion": "apps/v1",
                        "kind": owner[0],
                        "name": owner[1],
                        "uid": self.uid(*owner),
                        "controller": True,
                        "blockOwnerDeletion": True,
                    }
                ],
            },
            "spec": {
                "containers": [
                    {
                        "name": container,
                        "image": image,
                        "command": ["bash", "-c"],
                        "args": ["/bin/entrypoint.sh"],
                        "env": [
                            {"name": "PASS_DEVICE_SPECS", "value": "true"},
                            {"name": "FAIL_ON_INIT_ERROR", "value": "true"},
                            {"name": "DEVICE_LIST_STRATEGY", "value": "envvar,cdi-annotations"},
                            {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"},
                            {"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "all"},
                        ],
                        "resources": {},
                        "volumeMounts": [
                            {"name": "device-plugin", "mountPath": "/var/lib/kubelet/device-plugins"},
                            {"name": "kube-api-access", "readOnly": True, "mountPath": _SERVICE_ACCOUNT},
                        ],
                        "terminationMessagePath": "/dev/termination-log",
                        "terminationMessagePolicy": "File",
                        "imagePullPolicy": "IfNotPresent",
                        "securityContext": {"privileged": True},
                    }
                    for container in containers
                ],
                "restartPolicy": "Always",
                "terminationGracePeriodSeconds": 30,
                "dnsPolicy": "ClusterFirst",
                "serviceAccountName": owner[1],
                "nodeName": node,
                "schedulerName": "default-scheduler",
                "tolerations": [{"operator": "Exists"}],
                "priority": 2_000_001_000,
                "priorityClassName": "system-node-critical",
                "enableServiceLinks": True,
                "preemptionPolicy": "PreemptLowerPriority",
            },
            "status": {
                "phase": "Running",
                "conditions": [
                    _condition("PodReadyToStartContainers", "True", "", started),
                    _condition("Initialized", "True", "", started),
                    _condition("Ready", "True", "", started),
                    _condition("ContainersReady", "True", "", started),
                    _condition("PodScheduled", "True", "", started),
                ],
                "hostIP": "10.0.0.1",
                "podIP": address,
                "podIPs": [{"ip": address}],
                "startTime": started,
                "containerStatuses": [
                    {
                        "name": container,
                        "state": {"running": {"startedAt": started}},
                        "lastState": {},
                        "ready": True,
                        "restartCount": 0,
                        "image": image,
                        "imageID": f"{image.partition(':')[0]}@sha256:{self._digest('image', image, wide=True)}",
                        "containerID": self.container_id(uid, container, 0),
                        "started": True,
                    }
                    for container in containers
                ],
                "qosClass": "BestEffort",
            },
        }

    def container_id(self, pod_uid: str, container: str, restarts: int) -> str:
        """Return the ID that the runtime gives to a container after some restarts."""
        return f"containerd://{self._digest('container', pod_uid, container, restarts, wide=True)}"

    def _digest(self, *what: object, wide: bool = False) -> str:
        text = self._salt + "/".join(map(str, what))
        return hashlib.blake2b(text.encode(), digest_size=32 if wide else 16).hexdigest()


def _condition(kind: str, status: str, reason: str, since: str) -> Document:
    condition = {"type": kind, "status": status, "lastTransitionTime": since}
    if reason:
        condition |= {"lastHeartbeatTime": since, "reason": reason, "message": f"kubelet reports {reason}"}
    return condition
