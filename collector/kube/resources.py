"""What Kubernetes sends about pods and nodes, decoded from the bytes: only the fields that are used."""

import re
import sys
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import msgspec

from collector.model import NodeInfo

__all__ = [
    "Container",
    "LineSplitter",
    "MalformedError",
    "NodeObject",
    "Page",
    "PodObject",
    "Status",
    "WatchEvent",
    "decode_event",
    "decode_page",
    "decode_pod",
    "decode_status",
    "decode_version",
    "node_decoder",
]


class MalformedError(ValueError):
    """The API server sent what is not the JSON of its own interface."""


class Container(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One container of a pod, as its status tells."""

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
    """A node: its version in the API, and what the rest of the program knows of it."""

    version: str
    facts: NodeInfo

    @property
    def key(self) -> str:
        """Its name."""
        return self.facts.name


class Page(msgspec.Struct, frozen=True, gc=False):
    """One page of a list; `next` is the token of the following one, empty on the last."""

    version: str
    next: str
    items: Collection[msgspec.Raw]


class WatchEvent(msgspec.Struct, frozen=True, gc=False):
    """One line of a watch; what `object` is depends on `type`, so it is decoded in a second step."""

    type: str
    object: msgspec.Raw


class Status(msgspec.Struct, frozen=True, gc=False):
    """How the API server tells of a failure."""

    code: int = 0
    reason: str = ""
    message: str = ""


def decode_page(body: bytes) -> Page:
    """Take a list apart without decoding its items; raises Malformed."""
    page = _decode(_PAGE, body)
    return Page(page.metadata.version, page.metadata.next or "", page.items or ())


def decode_event(line: bytes) -> WatchEvent:
    """Take a watch's line apart; raises Malformed."""
    return _decode(_EVENT, line)


def decode_version(raw: msgspec.Raw) -> str:
    """Find the resource version of any object, which is all that a bookmark has; raises Malformed."""
    return _decode(_VERSION, raw).metadata.version


def decode_status(raw: msgspec.Raw) -> Status:
    """Decode the status that an ERROR event carries; raises Malformed."""
    return _decode(_STATUS, raw)


def decode_pod(raw: msgspec.Raw) -> PodObject:
    """Decode one pod; raises Malformed."""
    pod = _decode(_POD, raw)
    return PodObject(
        key=f"{pod.metadata.namespace}/{pod.metadata.name}",
        uid=pod.metadata.uid,
        version=pod.metadata.version,
        node=sys.intern(pod.spec.node),
        created=pod.metadata.created or "",
        running=pod.status.phase == "Running",
        terminating=pod.metadata.deleted is not None,
        containers=tuple(
            Container(name=sys.intern(one.name), id=one.id, ready=one.ready, restarts=one.restarts)
            for one in pod.status.containers or ()
        ),
    )


def node_decoder(labels: Collection[str] = ()) -> Callable[[msgspec.Raw], NodeObject]:
    """Make a decoder of nodes that keeps the named labels; it raises Malformed."""
    wanted = sorted(set(labels))

    def decode_node(raw: msgspec.Raw) -> NodeObject:
        node = _decode(_NODE, raw)
        has = node.metadata.labels or {}
        shares = _shares(has)
        capacity, allocatable = _amount(node.status.capacity), _amount(node.status.allocatable)
        return NodeObject(
            version=node.metadata.version,
            facts=NodeInfo(
                name=sys.intern(node.metadata.name),
                uid=node.metadata.uid,
                provider_id=node.spec.provider_id,
                boot_id=node.status.info.boot_id,
                capacity=_gpus(capacity, shares),
                allocatable=_gpus(allocatable, shares),
                advertised=(capacity, allocatable),
                labels=tuple((name, sys.intern(has[name])) for name in wanted if name in has),
            ),
        )

    return decode_node


class LineSplitter:
    """Cuts a stream of chunks into lines; a line may span any number of chunks, up to `limit` bytes."""

    def __init__(self, limit: int = 64 << 20) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []  # of the line that is not complete yet; joined once, when it is
        self._length = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that `chunk` completes, without their ends, none empty; raises Malformed past the limit."""
        *lines, rest = chunk.split(b"\n")
        if lines:
            self._pieces.append(lines[0])
            lines[0] = b"".join(self._pieces)
            self._pieces, self._length = [], 0
        if rest:
            self._pieces.append(rest)
            self._length += len(rest)
            if self._length > self._limit:
                raise MalformedError(f"a line is longer than {self._limit} bytes")
        return [line for line in lines if line]


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


class _Versioned(msgspec.Struct, frozen=True, gc=False):
    metadata: _Meta = _Meta()


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


class _NodeStatus(msgspec.Struct, frozen=True, gc=False):
    info: _NodeInfo = msgspec.field(name="nodeInfo", default=_NodeInfo())
    capacity: _Amounts | None = None
    allocatable: _Amounts | None = None


class _Node(msgspec.Struct, frozen=True, gc=False):
    metadata: _LabelledMeta
    spec: _NodeSpec = _NodeSpec()
    status: _NodeStatus = _NodeStatus()


class _ListMeta(msgspec.Struct, frozen=True, gc=False):
    version: str = msgspec.field(name="resourceVersion", default="")
    next: str | None = msgspec.field(name="continue", default=None)


class _List(msgspec.Struct, frozen=True, gc=False):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


_PAGE = msgspec.json.Decoder(_List)
_EVENT = msgspec.json.Decoder(WatchEvent)
_VERSION = msgspec.json.Decoder(_Versioned)
_STATUS = msgspec.json.Decoder(Status)
_POD = msgspec.json.Decoder(_Pod)
_NODE = msgspec.json.Decoder(_Node)


_T = TypeVar("_T")


def _decode(decoder: "msgspec.json.Decoder[_T]", text: bytes | msgspec.Raw) -> _T:
    try:
        return decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedError(str(error)) from error


_QUANTITY = re.compile(r"([0-9]{1,18})(k|M|Ki|Mi)?")
_SUFFIX = {None: 1, "k": 1000, "M": 1000_000, "Ki": 1 << 10, "Mi": 1 << 20}


def _amount(amounts: _Amounts | None) -> int | None:
    """Read what a node has of `nvidia.com/gpu`, under either name; a name that is not in use any more stays, with 0."""
    found = [_quantity(each) for each in (amounts.gpus, amounts.shared)] if amounts is not None else []
    counts = [each for each in found if each is not None]
    return sum(counts) if counts else None


def _quantity(text: str | int | None) -> int | None:
    """Read a count; Kubernetes writes whole numbers as "8" and, when they are round, may write "1k"."""
    found = _QUANTITY.fullmatch(str(text))
    return int(found[1]) * _SUFFIX[found[2]] if found else None


def _gpus(amount: int | None, shares: int) -> int | None:
    return amount // shares if amount is not None and shares and amount % shares == 0 else None


# What GPU feature discovery and GKE write on nodes that offer shares of GPUs (time-slicing, MPS), or MIG instances.
# `nvidia.com/mig.strategy` tells nothing: it is there with MIG off, too.
_REPLICAS = ("nvidia.com/gpu.replicas", "cloud.google.com/gke-max-shared-clients-per-gpu")
_INSTANCES = ("nvidia.com/gpu.slices.gi", "nvidia.com/mig-", "cloud.google.com/gke-gpu-partition-size")


def _shares(labels: Mapping[str, str]) -> int:
    """Tell how many of what Kubernetes counts are one GPU; 0 where it does not count GPUs, or not all of them."""
    if any(name.startswith(_INSTANCES) for name in labels):
        return 0
    return _quantity(next((labels[name] for name in _REPLICAS if name in labels), "1")) or 0
