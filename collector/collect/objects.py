"""Pods and nodes as the Kubernetes API sends them, decoded from the bytes: only the fields that are used."""

import re
import sys
from collections.abc import Callable, Collection, Mapping

import msgspec

from collector.kube.wire import decode
from collector.model import NodeInfo
from collector.text import printable

__all__ = ["Container", "NodeObject", "PodObject", "decode_pod", "node_decoder"]

# What GPU feature discovery and GKE write on nodes that offer shares of GPUs (time-slicing, MPS), or MIG instances.
# `nvidia.com/mig.strategy` proves nothing: it is there with MIG off, too.
_REPLICA_LABELS = ("nvidia.com/gpu.replicas", "cloud.google.com/gke-max-shared-clients-per-gpu")
_INSTANCE_LABEL_PREFIXES = ("nvidia.com/gpu.slices.gi", "nvidia.com/mig-", "cloud.google.com/gke-gpu-partition-size")

_QUANTITY = re.compile(r"([0-9]{1,18})(k|M|Ki|Mi)?")
_MULTIPLIERS = {None: 1, "k": 1000, "M": 1000_000, "Ki": 1 << 10, "Mi": 1 << 20}


class Container(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The status of one container of a pod."""

    name: str
    id: str = ""
    ready: bool = False
    restarts: int = 0


class PodObject(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A pod, as far as choosing and reading one needs it."""

    key: str  # `namespace/name`
    uid: str
    version: str  # the resource version
    node: str = ""  # empty until it is scheduled
    created: str = ""  # RFC 3339 in UTC, which sorts as it is
    running: bool = False
    terminating: bool = False
    containers: tuple[Container, ...] = ()

    @property
    def namespace(self) -> str:
        """The namespace that it is in."""
        return self.key.partition("/")[0]

    @property
    def name(self) -> str:
        """Its name in the namespace."""
        return self.key.partition("/")[2]


class NodeObject(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A node: its version in the API, and what the rest of the program knows about it."""

    version: str
    facts: NodeInfo

    @property
    def key(self) -> str:
        """Its name."""
        return self.facts.name


def decode_pod(raw: msgspec.Raw) -> PodObject:
    """Return one pod; raises MalformedError."""
    pod = decode(_POD_DECODER, raw)
    return PodObject(
        key=printable(f"{pod.metadata.namespace}/{pod.metadata.name}"),
        uid=pod.metadata.uid,
        version=pod.metadata.version,
        node=sys.intern(printable(pod.spec.node)),
        created=pod.metadata.created or "",
        running=pod.status.phase == "Running",
        terminating=pod.metadata.deleted is not None,
        containers=tuple(
            Container(name=sys.intern(one.name), id=one.id, ready=one.ready, restarts=one.restarts)
            for one in pod.status.containers or ()
        ),
    )


def node_decoder(labels: Collection[str] = ()) -> Callable[[msgspec.Raw], NodeObject]:
    """Return a decoder of nodes that keeps the named labels; it raises MalformedError."""
    wanted = sorted(set(labels))

    def decode_node(raw: msgspec.Raw) -> NodeObject:
        node = decode(_NODE_DECODER, raw)
        has = node.metadata.labels or {}
        shares = _shares(has)
        capacity, allocatable = _amount(node.status.capacity), _amount(node.status.allocatable)
        return NodeObject(
            version=node.metadata.version,
            facts=NodeInfo(
                name=sys.intern(printable(node.metadata.name)),
                uid=node.metadata.uid,
                provider_id=printable(node.spec.provider_id),
                boot_id=node.status.info.boot_id,
                capacity=_gpus(capacity, shares),
                allocatable=_gpus(allocatable, shares),
                advertised=(capacity, allocatable),
                ready=not any(one.type == "Ready" and one.status != "True" for one in node.status.conditions or ()),
                labels=tuple((name, sys.intern(printable(has[name]))) for name in wanted if name in has),
            ),
        )

    return decode_node


# The objects as they are on the wire. Kubernetes leaves out what is empty, and now and then writes null.


class _Meta(msgspec.Struct, frozen=True, gc=False):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    version: str = msgspec.field(name="resourceVersion", default="")
    created: str | None = msgspec.field(name="creationTimestamp", default=None)
    deleted: str | None = msgspec.field(name="deletionTimestamp", default=None)


class _LabelledMeta(_Meta, frozen=True, gc=False):
    labels: dict[str, str] | None = None


class _PodSpec(msgspec.Struct, frozen=True, gc=False):
    node: str = msgspec.field(name="nodeName", default="")


class _ContainerStatus(msgspec.Struct, frozen=True, gc=False):
    name: str
    id: str = msgspec.field(name="containerID", default="")
    ready: bool = False
    restarts: int = msgspec.field(name="restartCount", default=0)


class _PodStatus(msgspec.Struct, frozen=True, gc=False):
    phase: str = ""
    containers: list[_ContainerStatus] | None = msgspec.field(name="containerStatuses", default=None)


class _Pod(msgspec.Struct, frozen=True, gc=False):
    metadata: _Meta
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()


class _NodeSpec(msgspec.Struct, frozen=True, gc=False):
    provider_id: str = msgspec.field(name="providerID", default="")


class _NodeInfo(msgspec.Struct, frozen=True, gc=False):
    boot_id: str = msgspec.field(name="bootID", default="")


class _Amounts(msgspec.Struct, frozen=True, gc=False):
    gpus: str | int | None = msgspec.field(name="nvidia.com/gpu", default=None)
    shared: str | int | None = msgspec.field(name="nvidia.com/gpu.shared", default=None)  # with `renameByDefault`


class _Condition(msgspec.Struct, frozen=True, gc=False):
    type: str = ""
    status: str = ""


class _NodeStatus(msgspec.Struct, frozen=True, gc=False):
    conditions: list[_Condition] | None = None
    info: _NodeInfo = msgspec.field(name="nodeInfo", default=_NodeInfo())
    capacity: _Amounts | None = None
    allocatable: _Amounts | None = None


class _Node(msgspec.Struct, frozen=True, gc=False):
    metadata: _LabelledMeta
    spec: _NodeSpec = _NodeSpec()
    status: _NodeStatus = _NodeStatus()


_POD_DECODER = msgspec.json.Decoder(_Pod)
_NODE_DECODER = msgspec.json.Decoder(_Node)


def _amount(amounts: _Amounts | None) -> int | None:
    """Return a node's amount of `nvidia.com/gpu` under both its names; one no longer in use stays there with 0."""
    found = [_quantity(each) for each in (amounts.gpus, amounts.shared)] if amounts is not None else []
    counts = [each for each in found if each is not None]
    return sum(counts) if counts else None


def _quantity(text: str | int | None) -> int | None:
    """Return a count; Kubernetes writes whole numbers as "8" and may write round ones as "1k"."""
    found = _QUANTITY.fullmatch(str(text))
    return int(found[1]) * _MULTIPLIERS[found[2]] if found else None


def _gpus(amount: int | None, shares: int) -> int | None:
    return amount // shares if amount is not None and shares and amount % shares == 0 else None


def _shares(labels: Mapping[str, str]) -> int:
    """Return how many units of capacity are one GPU; 0 where capacity does not count GPUs, or not all of them."""
    if any(name.startswith(_INSTANCE_LABEL_PREFIXES) for name in labels):
        return 0
    return _quantity(next((labels[name] for name in _REPLICA_LABELS if name in labels), "1")) or 0
