"""The GPUs that the DRA driver lists on each node, from the ResourceSlices of `gpu.nvidia.com`. No I/O.

The driver publishes one pool for each node, under the node's name, in one slice or (with dynamic MIG) in one for each
GPU (cmd/gpu-kubelet-plugin/driver.go of kubernetes-sigs/dra-driver-nvidia-gpu). Its devices are

- `gpu`: a whole GPU, by `uuid`;
- `mig`: an instance, made or not, of the GPU `parentUUID`; a GPU in MIG mode may have no other device;
- `vfio`: a GPU that can be, or is, given to a virtual machine as a whole. Its `uuid` is made up from its bus address,
  and nvidia-smi does not see it while no device `gpu` is listed with it.

A pool changes as a whole: only its slices of the highest generation count, and only once all of them are present
(`resourceSliceCount`). Until then, its previous state is valid. A pool with no slices left means nothing: the kubelet
deletes the slices of a removed driver, while the GPUs may still be there.

Slices for different nodes never belong to one pool, whatever its name: a kubelet may publish anything as long as
`nodeName` is its own (NodeRestriction), and must not thereby change what is known about another node.

A tainted device is still listed, so its GPU counts; with a taint that keeps pods away it is not allocatable. Only
`gpu.nvidia.com/gpu-lost` means the same as a missing device: the driver no longer reaches the GPU.
"""

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Annotated

import msgspec

from collector.collect.sharing import MAX_GPUS
from collector.kube.wire import MalformedError, decode
from collector.model import GpuRef, canonical_bus_id, canonical_uuid
from collector.text import printable

__all__ = ["DRIVER", "Board", "NodeDevices", "SliceBook", "SliceObject", "decode_slice"]

DRIVER = "gpu.nvidia.com"
MAX_SLICE_DEVICES = 128  # ResourceSliceMaxDevices of the API
MAX_POOL_BOARDS = 4096  # a pool of more says nothing; one of the driver has those of one node
MAX_POOL_SLICES = 1024  # a pool of more says nothing; the driver needs one for each GPU, and one
MAX_NODE_POOLS = 64  # likewise for a node that is in more pools

_LOST_TAINT = f"{DRIVER}/gpu-lost"  # TaintKeyGPULost of the driver's device_health.go
_REPELLING_EFFECTS = frozenset({"NoSchedule", "NoExecute"})
_MAX_NAME_LENGTH = 253  # PoolNameMaxLength and the names of objects and nodes
_MAX_TEXT_LENGTH = 64  # DeviceAttributeMaxValueLength

_Place = tuple[str, str]  # a pool: the node that its slices are for, empty for none or several, and its name


class Board(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One GPU according to the devices of one slice."""

    node: str
    uuid: str | None  # None: no more is known than its address, since it is given to virtual machines
    bus: str | None  # as `canonical_bus_id` writes it
    lost: bool = False  # the driver no longer reaches it
    usable: bool = True  # pods may have it, or a part of it

    @property
    def ref(self) -> GpuRef:
        """Which GPU it is."""
        return GpuRef(self.uuid, self.bus)


class SliceObject(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A ResourceSlice, with the fields that identify GPUs."""

    key: str  # its name
    version: str
    pool: str
    node: str  # that it is for as a whole, empty for one that is for none or several
    generation: int
    count: int  # slices of the pool's generation
    boards: tuple[Board, ...]  # of nodes alone: a device that is everywhere or by a selector is none of a node's

    @property
    def place(self) -> _Place:
        """The pool that it is of."""
        return self.node, self.pool

    def published(self) -> Iterator[str]:
        """Yield the texts that gpuid publishes."""
        yield self.node
        for board in self.boards:
            yield from (board.node, board.uuid or "", board.bus or "")


class NodeDevices(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The GPUs of a node from the complete pools that name it."""

    listed: tuple[GpuRef, ...]  # sorted; without those that the driver no longer reaches
    gpus: int  # managed by the driver, reachable or not
    usable: int  # of them, that pods may have
    passed: int  # others, passed to virtual machines, so that nvidia-smi does not see them


class SliceBook:
    """Keeps the slices of a cluster, and reports a node's devices whenever they change.

    `on_devices(node, devices)`: None if no pool names the node any more, or its pools exceed the limits.
    """

    def __init__(self, on_devices: Callable[[str, NodeDevices | None], None]) -> None:
        self._on_devices = on_devices
        self._slices: dict[_Place, dict[str, SliceObject]] = {}  # by pool and name
        self._complete: dict[_Place, Mapping[str, tuple[Board, ...]]] = {}  # by pool and node
        self._pools: dict[str, set[_Place]] = {}  # by node
        self._reported: dict[str, NodeDevices] = {}

    def apply(self, before: SliceObject | None, after: SliceObject | None) -> None:
        """Apply a change of a slice."""
        if before is not None and (after is None or after.place != before.place):
            self._slices.get(before.place, {}).pop(before.key, None)
            self._refresh(before.place)
        if after is not None:
            self._slices.setdefault(after.place, {})[after.key] = after
            self._refresh(after.place)

    def _refresh(self, pool: _Place) -> None:
        slices = self._slices.get(pool)
        found: Mapping[str, tuple[Board, ...]] | None = {}
        if slices:
            found = _complete(slices.values())
        else:
            self._slices.pop(pool, None)
        if found is None:
            return
        before = self._complete.pop(pool, {})
        if found:
            self._complete[pool] = found
        for node in before.keys() | found.keys():
            if node in found:
                self._pools.setdefault(node, set()).add(pool)
            elif pools := self._pools.get(node):
                pools.discard(pool)
            if before.get(node) != found.get(node):
                self._report(node)

    def _report(self, node: str) -> None:
        pools = self._pools.get(node, set())
        devices = None
        if not pools:
            self._pools.pop(node, None)
        elif len(pools) <= MAX_NODE_POOLS:
            devices = _devices(board for pool in sorted(pools) for board in self._complete[pool][node])
        if devices == self._reported.get(node):
            return
        if devices is None:
            del self._reported[node]
        else:
            self._reported[node] = devices
        self._on_devices(node, devices)


def decode_slice(raw: msgspec.Raw) -> SliceObject:
    """Return one slice of any version of the API; raises MalformedError."""
    one = decode(_SLICE_DECODER, raw)
    ours = one.spec.driver == DRIVER  # or the server ignored the field selector
    if len(one.spec.devices or ()) > MAX_SLICE_DEVICES:
        raise MalformedError(f"a ResourceSlice has more than {MAX_SLICE_DEVICES} devices")
    return SliceObject(
        key=_text(one.metadata.name, "metadata.name", _MAX_NAME_LENGTH),
        version=one.metadata.version,
        pool=sys.intern(_text(one.spec.pool.name, "spec.pool.name", _MAX_NAME_LENGTH)) if ours else "",
        node=sys.intern(_text(one.spec.node, "spec.nodeName", _MAX_NAME_LENGTH)) if ours else "",
        generation=one.spec.pool.generation,
        count=one.spec.pool.count,
        boards=tuple(_boards(one.spec)) if ours else (),
    )


def _complete(slices: Collection[SliceObject]) -> Mapping[str, tuple[Board, ...]] | None:
    """Return a pool's boards by node; None while its newest generation is incomplete."""
    if len(slices) > MAX_POOL_SLICES or sum(len(one.boards) for one in slices) > MAX_POOL_BOARDS:
        return None
    newest = max(one.generation for one in slices)
    current = [one for one in slices if one.generation == newest]
    if any(one.count != len(current) for one in current):
        return None
    nodes: dict[str, list[Board]] = {}
    for one in sorted(current, key=lambda one: one.key):
        if one.node:
            nodes.setdefault(one.node, [])  # which may have no GPU left
        for board in one.boards:
            nodes.setdefault(board.node, []).append(board)
    return {node: tuple(boards) for node, boards in nodes.items()}


def _devices(boards: Iterable[Board]) -> NodeDevices | None:
    """Return the GPUs of a node; None for more than a node can have."""
    gpus: dict[str, Board] = {}
    passed: dict[str, Board] = {}
    for board in boards:
        if board.uuid is None:
            passed[board.bus or ""] = board
        elif (known := gpus.get(board.uuid)) is None:
            gpus[board.uuid] = board
        else:
            gpus[board.uuid] = _merged(known, board)
    for board in gpus.values():
        passed.pop(board.bus or "", None)
    if len(gpus) + len(passed) > MAX_GPUS:
        return None
    listed = [board.ref for board in gpus.values() if not board.lost]
    listed.sort()
    return NodeDevices(
        listed=(*listed, *(passed[bus].ref for bus in sorted(passed))),
        gpus=len(gpus),
        usable=sum(board.usable for board in gpus.values()),
        passed=len(passed),
    )


def _boards(spec: "_Spec") -> Iterable[Board]:
    """Return the GPUs that the devices of a slice belong to."""
    found: dict[tuple[str, str], Board] = {}
    for device in spec.devices or ():
        inner = device.basic or device
        attributes, node = inner.attributes or _Attributes(), spec.node or inner.node
        kind, bus = _value(attributes.type, "type"), _value(attributes.bus, "pciBusID")
        uuid = _value(attributes.parent if kind == "mig" else attributes.uuid, "uuid") if kind != "vfio" else ""
        if not node or not (uuid or (kind == "vfio" and bus)):
            continue
        taints = inner.taints or ()
        board = Board(
            node=sys.intern(_text(node, "nodeName", _MAX_NAME_LENGTH)),
            uuid=canonical_uuid(uuid) if uuid else None,
            bus=sys.intern(canonical_bus_id(bus)) if bus else None,  # every machine of a model has the same ones
            lost=any(taint.key == _LOST_TAINT for taint in taints),
            usable=not any(taint.effect in _REPELLING_EFFECTS for taint in taints),
        )
        key = (board.node, board.uuid or board.bus or "")
        found[key] = _merged(found[key], board) if key in found else board
    return found.values()


def _merged(one: Board, other: Board) -> Board:
    """Return one GPU from two of its devices: a single part of it may be tainted."""
    if one == other:
        return one
    return msgspec.structs.replace(
        one, bus=one.bus or other.bus, lost=one.lost or other.lost, usable=one.usable or other.usable
    )


def _value(attribute: "_Attribute | None", what: str) -> str:
    text = attribute.string if attribute is not None else None
    return _text(text or "", f"the attribute {what}", _MAX_TEXT_LENGTH)


def _text(text: str, what: str, longest: int) -> str:
    if len(text) > longest:
        raise MalformedError(f"{what} is longer than {longest} characters")
    return printable(text)


# The objects as on the wire. Up to v1beta1, a device's attributes are in its `basic`.


class _Meta(msgspec.Struct, frozen=True, gc=False):
    name: str = ""
    version: str = msgspec.field(name="resourceVersion", default="")


_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Pool(msgspec.Struct, frozen=True, gc=False):
    name: str = ""
    generation: _Int64 = 0
    count: _Int64 = msgspec.field(name="resourceSliceCount", default=0)


class _Attribute(msgspec.Struct, frozen=True, gc=False):
    string: str | None = None


class _Attributes(msgspec.Struct, frozen=True, gc=False):
    type: _Attribute | None = None
    uuid: _Attribute | None = None
    parent: _Attribute | None = msgspec.field(name="parentUUID", default=None)
    bus: _Attribute | None = msgspec.field(name="resource.kubernetes.io/pciBusID", default=None)


class _Taint(msgspec.Struct, frozen=True, gc=False):
    key: str = ""
    effect: str = ""


class _Inner(msgspec.Struct, frozen=True, gc=False):
    attributes: _Attributes | None = None
    taints: list[_Taint] | None = None
    node: str = msgspec.field(name="nodeName", default="")


class _Device(_Inner, frozen=True, gc=False):
    basic: _Inner | None = None


class _Spec(msgspec.Struct, frozen=True, gc=False):
    driver: str = ""
    pool: _Pool = _Pool()
    node: str = msgspec.field(name="nodeName", default="")
    devices: list[_Device] | None = None


class _Slice(msgspec.Struct, frozen=True, gc=False):
    metadata: _Meta
    spec: _Spec = _Spec()


_SLICE_DECODER = msgspec.json.Decoder(_Slice)
