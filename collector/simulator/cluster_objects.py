"""Fills the storage of a cluster with nodes and pods, and changes them as Kubernetes would."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence

from collector.simulator.fleet import Fleet, SimulationError
from collector.simulator.objects import NODES, PODS, Document, ObjectFactory, Resource
from collector.simulator.shapes import DaemonSet
from collector.simulator.storage import Storage
from collector.timestamps import rfc3339

__all__ = ["CPU_NODES", "ClusterObjects"]

CPU_NODES = 2  # of each cluster
_MIG_INSTANCES_PER_GPU = 7
_AMOUNTS = ("capacity", "allocatable")


class ClusterObjects:
    """The nodes of one cluster and the pods on them."""

    def __init__(self, cluster: str, fleet: Fleet, storage: Storage, factory: ObjectFactory) -> None:
        self._cluster = cluster
        self._fleet = fleet
        self._storage = storage
        self._factory = factory
        self.shape = factory.shape
        self._pods: dict[str, str] = {}  # key of the GPU pod, by node
        self._readers: dict[str, str] = {}  # key of the additional pod that prints, by node
        self._generations: dict[str, int] = {}  # how often a name has been reused, by `node NAME` or `pod NODE`
        self._last_number = 0  # of a node
        self._units: dict[str, int] = {}  # `nvidia.com/gpu` per GPU, by node; 1 where missing
        for node in fleet.nodes(cluster):
            gpus = fleet.capacity(cluster, node)
            storage.seed(NODES, node, None, "", functools.partial(factory.node, node, self._number(), gpus))
        for node in fleet.nodes(cluster):
            self._pods[node] = self._seed_daemon(self.shape.gpu_pods, node)
            for other in self.shape.others:
                self._seed_daemon(other, node)
        self._add_other_objects()

    def pod(self, node: str) -> str:
        """Return the key of the GPU pod of a node: the one through which a preset reads it."""
        if node not in self._pods:
            raise SimulationError(f"{self._cluster}: no GPU pod on {node}")
        return self._pods[node]

    def node_object(self, node: str) -> bytes:
        """Return a node as JSON."""
        entry = self._storage.get(NODES, node)
        if entry is None:
            raise SimulationError(f"{self._cluster}: node {node} does not exist")
        return entry.body

    def add_node(self, node: str) -> None:
        """Create the node of a new VM, and its pods."""
        generation = self._next(f"node {node}")
        gpus = self._fleet.capacity(self._cluster, node)
        document = self._factory.node(node, self._number(), gpus, generation=generation, since=time.time())
        self._storage.put(NODES, document)
        self.add_pod(node)
        for other in self.shape.others:
            self._storage.put(PODS, self._factory.daemon_pod(other, node, generation, time.time()))

    def delete_node(self, node: str) -> None:
        """Delete a node and its pods."""
        if node in self._pods:
            self.delete_pod(node)
        generation = self._generations.get(f"node {node}", 0)
        for other in self.shape.others:
            self._storage.delete(PODS, self._daemon_key(other, node, generation))
        self.delete_reader(node)
        self._units.pop(node, None)
        self._storage.delete(NODES, node)

    def add_pod(self, node: str) -> None:
        """Create a pod as the DaemonSet does: first it is pending, then it runs."""
        generation = self._next(f"pod {node}")
        document = self._factory.daemon_pod(self.shape.gpu_pods, node, generation, time.time())
        self._pods[node] = f"{document['metadata']['namespace']}/{document['metadata']['name']}"
        status = document["status"]
        document["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
        self._storage.put(PODS, document)
        self._storage.put(PODS, document | {"status": status})

    def delete_pod(self, node: str) -> str:
        """Delete the pod of a node and return its key."""
        key = self.pod(node)
        del self._pods[node]
        self._storage.delete(PODS, key)
        return key

    def add_reader(self, node: str, since: float) -> None:
        """Create or replace the pod of a node that prints the output of nvidia-smi."""
        self.delete_reader(node)
        document = self._factory.reader_pod(node, self._next(f"reader {node}"), since)
        self._readers[node] = f"{document['metadata']['namespace']}/{document['metadata']['name']}"
        self._storage.put(PODS, document)

    def delete_reader(self, node: str) -> None:
        """Delete the pod of a node that prints, if there is one."""
        if (key := self._readers.pop(node, None)) is not None:
            self._storage.delete(PODS, key)

    def stop_pod(self, node: str, *, reason: str = "Completed") -> None:
        """Stop the container of the pod."""

        def change(document: Document) -> None:
            _set_ready(document, ready=False)
            for status in document["status"]["containerStatuses"]:
                started = status["state"].get("running", {}).get("startedAt")
                status["state"] = {"terminated": {"exitCode": 0, "reason": reason, "startedAt": started}}
                status["started"] = False

        self.edit(PODS, self.pod(node), change)

    def start_pod(self, node: str, *, new_sandbox: bool = False) -> None:
        """Start the container of the pod again, as a new container."""

        def change(document: Document) -> None:
            for status in document["status"]["containerStatuses"]:
                status["restartCount"] += 1
                status["lastState"] = status["state"]
                status["state"] = {"running": {"startedAt": rfc3339(time.time(), "seconds")}}
                status["started"] = True
                status["containerID"] = self._factory.container_id(
                    document["metadata"]["uid"], status["name"], status["restartCount"]
                )
            if new_sandbox:
                address = f"10.245.{self._next('address') >> 8 & 255}.{self._generations['address'] & 255}"
                document["status"] |= {"podIP": address, "podIPs": [{"ip": address}]}
            _set_ready(document, ready=True)

        self.edit(PODS, self.pod(node), change)

    def set_pod_ready(self, node: str, *, ready: bool) -> None:
        """Set whether the pod is ready."""
        self.edit(PODS, self.pod(node), lambda document: _set_ready(document, ready=ready))

    def set_kubelet(self, node: str, *, reports: bool) -> None:
        """Set whether the kubelet of a node reports, as the node lifecycle controller writes it.

        Nobody is there to write the statuses of containers, so they stay as they are.
        """
        status = "True" if reports else "Unknown"
        self.edit(NODES, node, lambda document: _write_condition(document, "Ready", status))
        self.edit(PODS, self.pod(node), lambda document: _set_condition(document, "Ready", ready=reports))

    def node_down(self, node: str) -> None:
        """Make a node not ready, as when its kubelet stops reporting."""
        self.edit(NODES, node, lambda document: _set_condition(document, "Ready", ready=False))

    def node_up(self, node: str) -> None:
        """Make a node ready after a boot, with the GPUs that the device plugin counts now."""
        boot = self._next(f"boot {node}")
        gpus = self._amount(node)

        def change(document: Document) -> None:
            uid = document["metadata"]["uid"]
            document["status"]["nodeInfo"]["bootID"] = self._factory.uid("boot", uid, boot)
            self._offer(document, gpus)
            _set_condition(document, "Ready", ready=True)

        self.edit(NODES, node, change)

    def set_allocatable(self, node: str) -> None:
        """Make only the GPUs that are found allocatable; the capacity stays."""
        gpus = self._amount(node)

        self.edit(NODES, node, lambda document: self._offer(document, gpus, ("allocatable",)))

    def share_gpus(self, node: str, replicas: int, *, label: int) -> None:
        """Offer every GPU `replicas` times, as time-slicing does; the label says `label`, or is absent if that is 0."""
        strategy = "time-slicing" if label > 1 else "none"
        labels = {"nvidia.com/gpu.replicas": str(label), "nvidia.com/gpu.sharing-strategy": strategy}
        self._divide(node, replicas, labels if label else dict.fromkeys(labels))

    def set_mig(self, node: str, *, enabled: bool, labelled: bool = True) -> None:
        """Offer MIG instances instead of GPUs, as with the strategy `single`, or GPUs again."""
        labels = {"nvidia.com/mig.strategy": "single", "nvidia.com/gpu.slices.gi": "1" if enabled else None}
        self._divide(node, _MIG_INSTANCES_PER_GPU if enabled else 1, labels if labelled else dict.fromkeys(labels))

    def has_pod(self, node: str) -> bool:
        """Return whether a node has its device-plugin pod."""
        return node in self._pods

    def relabel_pod(self, node: str, app: str) -> None:
        """Change the label `app` of a pod."""
        self.edit(PODS, self.pod(node), lambda document: _set_labels(document, {"app": app}))

    def rename_container(self, node: str, name: str) -> None:
        """Change the name of the container of a pod; of several, the last."""

        def change(document: Document) -> None:
            document["spec"]["containers"][-1]["name"] = name
            document["status"]["containerStatuses"][-1]["name"] = name

        self.edit(PODS, self.pod(node), change)

    def label_node(self, node: str, labels: Mapping[str, str | None]) -> None:
        """Set labels of a node; None removes one."""
        self.edit(NODES, node, lambda document: _set_labels(document, labels))

    def withdraw_gpus(self, node: str, *, forget: bool = False) -> None:
        """Make a node advertise 0 GPUs, as the kubelet does once its device plugin is gone, or omit the resource."""

        def change(document: Document) -> None:
            self._offer(document, "0")
            if forget:
                for amounts in _AMOUNTS:
                    document["status"][amounts].pop(self.shape.resource, None)

        self.edit(NODES, node, change)

    def edit(self, resource: Resource, key: str, change: Callable[[Document], None]) -> None:
        """Change the document of an object."""
        entry = self._storage.get(resource, key)
        if entry is None:
            raise SimulationError(f"{self._cluster}: {resource.kind.lower()} {key} does not exist")
        document = entry.document()
        change(document)
        self._storage.put(resource, document)

    def _offer(self, document: Document, gpus: str, where: Sequence[str] = _AMOUNTS) -> None:
        if self.shape.resource:
            for amounts in where:
                document["status"][amounts][self.shape.resource] = gpus

    def _divide(self, node: str, units: int, labels: Mapping[str, str | None]) -> None:
        self._units[node] = units
        gpus = self._amount(node)

        def change(document: Document) -> None:
            self._offer(document, gpus)
            _set_labels(document, labels)

        self.edit(NODES, node, change)

    def _amount(self, node: str) -> str:
        return str(self._fleet.capacity(self._cluster, node) * self._units.get(node, 1))

    def _add_other_objects(self) -> None:
        """Add nodes and pods without GPUs, so that selectors matter."""
        factory, pods = self._factory, []
        cpu_nodes = [f"cpu-{number:04d}" for number in range(CPU_NODES)]
        for node in cpu_nodes:
            self._storage.seed(NODES, node, None, "", functools.partial(factory.node, node, self._number(), 0))
            pods.append(("kube-system", "kube-proxy-", node, "kube-proxy", "DaemonSet"))
            pods.append(("kube-system", "coredns-674b8bbfcf-", node, "coredns", "ReplicaSet"))
        if controller := self.shape.controller:
            pods.append((self.shape.namespace, f"{controller}-6f7c9d8b54-", cpu_nodes[0], controller, "ReplicaSet"))
        for namespace, prefix, node, app, owner in pods:
            name = factory.pod_name(prefix, namespace, node)
            labels = {"app": app}
            make = functools.partial(
                factory.pod, namespace, name, node, labels, (app,), f"registry.example/{app}:v1", owner=(owner, app)
            )
            self._storage.seed(PODS, f"{namespace}/{name}", labels, node, make)
        for node in self._fleet.nodes(self._cluster)[:2]:
            for sparse in self.shape.sparse:
                self._seed_daemon(sparse, node)

    def _seed_daemon(self, of: DaemonSet, node: str) -> str:
        key = self._daemon_key(of, node, 0)
        self._storage.seed(PODS, key, of.labels, node, functools.partial(self._factory.daemon_pod, of, node))
        return key

    def _daemon_key(self, of: DaemonSet, node: str, generation: int) -> str:
        return f"{self.shape.namespace}/{self._factory.pod_name(of.prefix, node, generation)}"

    def _number(self) -> int:
        self._last_number += 1
        return self._last_number

    def _next(self, what: str) -> int:
        self._generations[what] = self._generations.get(what, 0) + 1
        return self._generations[what]


def _set_ready(document: Document, *, ready: bool) -> None:
    for status in document["status"]["containerStatuses"]:
        status["ready"] = ready
    for kind in ("Ready", "ContainersReady"):
        _set_condition(document, kind, ready=ready)


def _set_labels(document: Document, labels: Mapping[str, str | None]) -> None:
    merged = {**document["metadata"]["labels"], **labels}
    document["metadata"]["labels"] = {name: value for name, value in merged.items() if value is not None}


def _set_condition(document: Document, kind: str, *, ready: bool) -> None:
    _write_condition(document, kind, "True" if ready else "False")


def _write_condition(document: Document, kind: str, status: str) -> None:
    for condition in document["status"]["conditions"]:
        if condition["type"] == kind:
            condition |= {"status": status, "lastTransitionTime": rfc3339(time.time(), "seconds")}
