"""The ResourceSlices of a simulated cluster, as published by the NVIDIA DRA driver, and their API."""

import time
from collections.abc import Sequence
from typing import Literal

import msgspec

from collector.simulator.fleet import MODELS, Card, Fleet
from collector.simulator.objects import Document, ObjectFactory, Resource
from collector.simulator.storage import Storage
from collector.timestamps import rfc3339

__all__ = ["SliceVersion", "Slices"]

SliceVersion = Literal["v1", "v1beta2", "v1beta1"]

_DRIVER = "gpu.nvidia.com"
_MIG_INSTANCES_PER_GPU = 7


class Slices:
    """The slices of one cluster; nothing is served until `publish`."""

    def __init__(self, cluster: str, fleet: Fleet, storage: Storage, factory: ObjectFactory) -> None:
        self.resource: Resource | None = None
        self._cluster = cluster
        self._fleet = fleet
        self._storage = storage
        self._factory = factory
        self._split = False
        self._generations: dict[str, int] = {}  # of each node's pool
        self._names: dict[str, list[str]] = {}  # of each node's slices

    def publish(self, version: SliceVersion, *, split: bool = False) -> None:
        """Serve one version of the API, and publish the GPUs of every node; `split`: one slice per GPU."""
        fields = ("metadata.name", "spec.driver", "spec.nodeName")
        self.resource = Resource(
            "resource.k8s.io", "resourceslices", "ResourceSlice", False, ("get", "list", "watch"), fields, "", version
        )
        self._split = split
        for node in self._fleet.nodes(self._cluster):
            self.update(node)

    def update(self, node: str) -> None:
        """Publish a node's current GPUs as a new generation of its pool, if anything is published."""
        if self.resource is None:
            return
        self._generations[node] = generation = self._generations.get(node, 0) + 1
        cards = self._fleet.cards(self._cluster, node)
        parts = [[card] for card in cards] if self._split else [cards]
        names = [self._factory.pod_name(f"{node}-{_DRIVER}-", "slice", node, part) for part in range(len(parts))]
        for name, part in zip(names, parts, strict=True):
            document = self._document(self.resource, node, name, part, generation, len(parts))
            self._storage.put(self.resource, document)
        for name in self._names.get(node, ())[len(names) :]:
            self._storage.delete(self.resource, name)
        self._names[node] = names

    def delete(self, node: str) -> None:
        """Delete the slices of a node, as the kubelet does when the driver is gone."""
        if self.resource is not None:
            for name in self._names.pop(node, ()):
                self._storage.delete(self.resource, name)

    def group(self) -> Document | None:
        """Return the API group as discovery has it; None while there is none."""
        if self.resource is None:
            return None
        version = {"groupVersion": self.resource.api_version, "version": self.resource.version}
        return {"name": self.resource.group, "versions": [version], "preferredVersion": version}

    def discovery(self, path: str) -> bytes | None:
        """Return the document of the group or its version at `path` as JSON; None for any other path."""
        if self.resource is None or (group := self.group()) is None:
            return None
        path = path.rstrip("/")
        if path == f"/apis/{self.resource.group}":
            return msgspec.json.encode(group | {"kind": "APIGroup", "apiVersion": "v1"})
        if path != f"/apis/{self.resource.api_version}":
            return None
        served = {
            "name": self.resource.plural,
            "singularName": "resourceslice",
            "namespaced": False,
            "kind": self.resource.kind,
            "verbs": list(self.resource.verbs),
        }
        version = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": self.resource.api_version}
        return msgspec.json.encode(version | {"resources": [served]})

    def _document(
        self, resource: Resource, node: str, name: str, cards: Sequence[Card], generation: int, count: int
    ) -> Document:
        devices = [device for card in cards for device in _devices(card)]
        if resource.version == "v1beta1":
            devices = [{"name": device.pop("name"), "basic": device} for device in devices]
        return {
            "kind": "ResourceSlice",
            "apiVersion": resource.api_version,
            "metadata": {
                "name": name,
                "generateName": name[:-5],
                "uid": self._factory.uid("slice", name),
                "resourceVersion": "",
                "generation": generation,
                "creationTimestamp": rfc3339(time.time(), "seconds"),
            },
            "spec": {
                "driver": _DRIVER,
                "nodeName": node,
                "pool": {"name": node, "generation": generation, "resourceSliceCount": count},
                "devices": devices,
            },
        }


def _devices(card: Card) -> list[Document]:
    """Return the devices that the driver publishes for a GPU: one, or with MIG one for each possible instance."""
    facts = {
        "productName": {"string": MODELS[card.kind]},
        "brand": {"string": "Nvidia"},
        "driverVersion": {"version": "570.124.6"},
        "resource.kubernetes.io/pciBusID": {"string": card.bus_id[4:].lower()},
    }
    taint = {"key": f"{_DRIVER}/gpu-lost", "effect": "NoSchedule"}
    taints = {"taints": [taint]} if card.lost or card.silent else {}
    if card.mig:
        attributes = facts | {"type": {"string": "mig"}, "parentUUID": {"string": card.uuid}}
        return [
            {"name": f"gpu-{card.minor}-mig-1g10gb-19-{at}", "attributes": attributes} | taints
            for at in range(_MIG_INSTANCES_PER_GPU)
        ]
    attributes = facts | {"type": {"string": "gpu"}, "uuid": {"string": card.uuid}}
    return [{"name": f"gpu-{card.minor}", "attributes": attributes, "capacity": {"memory": {"value": "80Gi"}}} | taints]
