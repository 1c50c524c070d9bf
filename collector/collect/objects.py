"""Pods and nodes of the Kubernetes API, decoded from the bytes: only the fields that are used."""

import functools
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Protocol, TypeVar

import msgspec

from collector.collect.gpu_signs import find_sign
from collector.collect.node_labels import own_labels
from collector.collect.sharing import GpuLabels, count_gpus, units_per_gpu
from collector.kube.wire import MalformedError, decode
from collector.model import NodeInfo
from collector.redaction import Secrets
from collector.text import one_line, printable

__all__ = ["Container", "NodeObject", "PodObject", "decode_pod", "node_decoder", "without_echoes"]

# Two names of one resource: `.shared` is what `renameByDefault` of the device plugin's sharing makes of it.
_GPU_RESOURCES = ("nvidia.com/gpu", "nvidia.com/gpu.shared")

# What GPU feature discovery and GKE write on nodes that offer shares of GPUs (time-slicing, MPS), or MIG instances.
# `nvidia.com/mig.strategy` proves nothing: it is there with MIG off, too.
_REPLICA_LABELS = ("nvidia.com/gpu.replicas", "cloud.google.com/gke-max-shared-clients-per-gpu")
_INSTANCE_LABEL_PREFIXES = ("nvidia.com/gpu.slices.gi", "nvidia.com/mig-", "cloud.google.com/gke-gpu-partition-size")

# Number of GPUs of the node's instance type: Karpenter on AWS (pkg/apis/v1/labels.go of karpenter-provider-aws),
# EKS Auto Mode, and Karpenter on Azure. `nvidia.com/gpu.count` is not among them: with MIG's strategy `single` it
# counts instances.
_MACHINE_LABELS = (
    "karpenter.k8s.aws/instance-gpu-count",
    "eks.amazonaws.com/instance-gpu-count",
    "karpenter.azure.com/sku-gpu-count",
)

# As the API server accepts them (pkg/util/validation/validation.go of apimachinery): DNS1123SubdomainMaxLength,
# DNS1123LabelMaxLength and LabelValueMaxLength. The limit of provider IDs is our own, so that they can be read.
_MAX_NAME_LENGTH = 253
_MAX_NAMESPACE_LENGTH = 63
_MAX_LABEL_LENGTH = 63
_MAX_PROVIDER_ID_LENGTH = 1000

_QUANTITY = re.compile(r"([0-9]{1,18})(k|M|Ki|Mi)?")
_MULTIPLIERS = {None: 1, "k": 1000, "M": 1000_000, "Ki": 1 << 10, "Mi": 1 << 20}


class Container(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The status of one container of a pod."""

    name: str
    id: str = ""
    ready: bool = False
    restarts: int = 0


class PodObject(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A pod, with the fields needed to choose and read one."""

    key: str  # `namespace/name`; empty for one without a name, which cannot be requested
    uid: str
    version: str  # the resource version
    node: str = ""  # empty until it is scheduled
    created: str = ""  # RFC 3339 in UTC, which sorts as text
    running: bool = False
    terminating: bool = False
    ready: bool = True  # from its own condition, which also changes when its node's kubelet is gone
    containers: tuple[Container, ...] = ()

    def published(self) -> Iterable[str]:
        """Return the texts that gpuid publishes."""
        return (self.key, self.node)

    @property
    def namespace(self) -> str:
        """The namespace that it is in."""
        return self.key.partition("/")[0]

    @property
    def name(self) -> str:
        """Its name in the namespace."""
        return self.key.partition("/")[2]


class NodeObject(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A node: its API version, the info for the rest of the program, and what is needed to classify it."""

    version: str
    facts: NodeInfo  # capacity and allocatable as far as known from labels
    created: float = 0.0  # Unix seconds; 0 if unknown
    labels: GpuLabels = GpuLabels()
    own_labels: tuple[tuple[str, str], ...] = ()  # those that name its GPUs; empty unless gpuid writes them

    @property
    def key(self) -> str:
        """Its name."""
        return self.facts.name

    def published(self) -> Iterable[str]:
        """Return the texts that gpuid publishes."""
        facts = self.facts
        return (facts.name, facts.provider_id, facts.uid, facts.boot_id, *(value for _, value in facts.labels))


class _Publishable(Protocol):
    def published(self) -> Iterable[str]: ...


T = TypeVar("T", bound=_Publishable)


def without_echoes(decode: Callable[[msgspec.Raw], T], secrets: Secrets) -> Callable[[msgspec.Raw], T]:
    """Return a decoder that raises MalformedError for an object with a secret in its published texts."""

    def decode_unless_echo(raw: msgspec.Raw) -> T:
        found = decode(raw)
        if any(map(secrets.repeated_in, found.published())):
            raise MalformedError("it repeats one of gpuid's credentials")
        return found

    return decode_unless_echo


def decode_pod(raw: msgspec.Raw) -> PodObject:
    """Return one pod; raises MalformedError."""
    pod = decode(_POD_DECODER, raw)
    name = _name(pod.metadata.name, "metadata.name", _MAX_NAME_LENGTH)
    namespace = _name(pod.metadata.namespace, "metadata.namespace", _MAX_NAMESPACE_LENGTH)
    statuses = pod.status.containers or ()
    containers = [
        Container(name=sys.intern(one.name), id=one.id, ready=one.ready, restarts=one.restarts) for one in statuses
    ]
    if len(containers) < len(declared := pod.spec.containers or ()):  # the kubelet has not reported them all yet
        reported = {container.name for container in containers}
        containers += [Container(name=sys.intern(one.name)) for one in declared if one.name not in reported]
    return PodObject(
        key=f"{namespace}/{name}" if pod.metadata.name else "",
        uid=pod.metadata.uid,
        version=pod.metadata.version,
        node=sys.intern(_name(pod.spec.node, "spec.nodeName", _MAX_NAME_LENGTH)),
        created=pod.metadata.created or "",
        running=pod.status.phase == "Running",
        terminating=pod.metadata.deleted is not None,
        ready=_is_ready(pod.status.conditions),
        containers=tuple(containers),
    )


def node_decoder(labels: Collection[str] = (), *, with_own_labels: bool = False) -> Callable[[msgspec.Raw], NodeObject]:
    """Return a decoder of nodes that keeps the named labels, and if asked to those of gpuid; raises MalformedError."""
    wanted = sorted(set(labels))

    def decode_node(raw: msgspec.Raw) -> NodeObject:
        node = decode(_NODE_DECODER, raw)
        has = node.metadata.labels or {}
        capacity, allocatable = _amount(node.status.capacity), _amount(node.status.allocatable)
        told = _gpu_labels(has)
        units = units_per_gpu(capacity, told)
        return NodeObject(
            version=node.metadata.version,
            facts=NodeInfo(
                name=sys.intern(_name(node.metadata.name, "metadata.name", _MAX_NAME_LENGTH)),
                uid=node.metadata.uid,
                provider_id=_provider_id(node.spec.provider_id),
                boot_id=node.status.info.boot_id,
                capacity=count_gpus(capacity, units),
                allocatable=count_gpus(allocatable, units),
                advertised=(capacity, allocatable),
                ready=_is_ready(node.status.conditions),
                labels=tuple(
                    (name, sys.intern(_name(has[name], f"the label {name}", _MAX_LABEL_LENGTH)))
                    for name in wanted
                    if name in has
                ),
                gpu_sign=find_sign(node.status.capacity or (), has),
            ),
            created=_unix_seconds(node.metadata.created),
            labels=told,
            own_labels=own_labels(has) if with_own_labels else (),
        )

    return decode_node


# The objects as on the wire. Kubernetes omits empty values, and occasionally writes null.


class _Meta(msgspec.Struct, frozen=True, gc=False):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    version: str = msgspec.field(name="resourceVersion", default="")
    created: str | None = msgspec.field(name="creationTimestamp", default=None)
    deleted: str | None = msgspec.field(name="deletionTimestamp", default=None)


class _LabelledMeta(_Meta, frozen=True, gc=False):
    labels: dict[str, str] | None = None


class _DeclaredContainer(msgspec.Struct, frozen=True, gc=False):
    name: str = ""


class _PodSpec(msgspec.Struct, frozen=True, gc=False):
    node: str = msgspec.field(name="nodeName", default="")
    containers: list[_DeclaredContainer] | None = None


class _ContainerStatus(msgspec.Struct, frozen=True, gc=False):
    name: str
    id: str = msgspec.field(name="containerID", default="")
    ready: bool = False
    restarts: int = msgspec.field(name="restartCount", default=0)


class _Condition(msgspec.Struct, frozen=True, gc=False):
    type: str = ""
    status: str = ""


class _PodStatus(msgspec.Struct, frozen=True, gc=False):
    phase: str = ""
    conditions: list[_Condition] | None = None
    containers: list[_ContainerStatus] | None = msgspec.field(name="containerStatuses", default=None)


class _Pod(msgspec.Struct, frozen=True, gc=False):
    metadata: _Meta
    spec: _PodSpec = _PodSpec()
    status: _PodStatus = _PodStatus()


class _NodeSpec(msgspec.Struct, frozen=True, gc=False):
    provider_id: str = msgspec.field(name="providerID", default="")


class _NodeInfo(msgspec.Struct, frozen=True, gc=False):
    boot_id: str = msgspec.field(name="bootID", default="")


# Amounts stay raw: they may have any form, and only few are used.
_Amounts = dict[str, msgspec.Raw]


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


def _name(text: str, what: str, longest: int) -> str:
    """Return a name without unprintable characters; raises MalformedError for one that no API server accepts."""
    if len(text) > longest:
        raise MalformedError(f"{what} is longer than {longest} characters")
    return printable(text)


def _provider_id(text: str) -> str:
    return printable(text) if len(text) <= _MAX_PROVIDER_ID_LENGTH else one_line(text, _MAX_PROVIDER_ID_LENGTH)


def _is_ready(conditions: Iterable[_Condition] | None) -> bool:
    """Return whether the condition `Ready` is true; an absent one counts as unknown."""
    return not any(one.type == "Ready" and one.status != "True" for one in conditions or ())


def _amount(amounts: _Amounts | None) -> int | None:
    """Return a node's amount of `nvidia.com/gpu` under both names; a name no longer in use remains with 0."""
    if amounts is None:
        return None
    total = None
    for name in _GPU_RESOURCES:
        if name in amounts and (count := _quantity(bytes(amounts[name]).decode("latin-1").strip('"'))) is not None:
            total = (total or 0) + count
    return total


def _quantity(text: str) -> int | None:
    """Return a count; Kubernetes writes whole numbers as "8" and may write round ones as "1k"."""
    found = _QUANTITY.fullmatch(text)
    return int(found[1]) * _MULTIPLIERS[found[2]] if found else None


def _unix_seconds(text: str | None) -> float:
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _gpu_labels(labels: Mapping[str, str]) -> GpuLabels:
    """Return what a node's labels reveal about how its capacity counts GPUs."""
    shares, machine = 1, 0
    for name in _REPLICA_LABELS:
        if name in labels:
            shares = _quantity(labels[name]) or 0
            break
    for name in _MACHINE_LABELS:
        if name in labels:
            machine = _quantity(labels[name]) or 0
            break
    return _known_labels(any(name.startswith(_INSTANCE_LABEL_PREFIXES) for name in labels), shares, machine)


@functools.lru_cache(maxsize=1024)
def _known_labels(instances: bool, shares: int, machine: int) -> GpuLabels:
    """Return one object for all nodes with the same labels."""
    return GpuLabels(instances=instances, shares=shares, machine=machine)
