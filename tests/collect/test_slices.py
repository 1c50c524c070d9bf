"""What ResourceSlices say of a node, however they come: in parts, in any order, and from a hostile server."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.collect.slices import (
    MAX_NODE_POOLS,
    MAX_POOL_BOARDS,
    MAX_POOL_SLICES,
    MAX_SLICE_DEVICES,
    NodeDevices,
    SliceBook,
    SliceObject,
    decode_slice,
)
from collector.kube.wire import MalformedError
from collector.model import GpuRef

A, B, C = (f"GPU-{letter * 8}-0000-0000-0000-000000000000" for letter in "abc")
PCI = "resource.kubernetes.io/pciBusID"


def gpu(uuid: str, bus: str = "", **more: Any) -> dict[str, Any]:
    attributes: dict[str, Any] = {"type": {"string": "gpu"}, "uuid": {"string": uuid}}
    if bus:
        attributes[PCI] = {"string": bus}
    attributes |= {"driverVersion": {"version": "570.1.0"}, "numa": {"int": 1}, "x": {"bool": True}}
    return {"name": f"gpu-{uuid[4:6]}", "attributes": attributes, "capacity": {"memory": {"value": "80Gi"}}} | more


def mig(parent: str, **more: Any) -> dict[str, Any]:
    return {"name": "m", "attributes": {"type": {"string": "mig"}, "parentUUID": {"string": parent}}} | more


def vfio(bus: str) -> dict[str, Any]:
    return {
        "name": "v",
        "attributes": {"type": {"string": "vfio"}, "uuid": {"string": "made-up"}, PCI: {"string": bus}},
    }


def slice_of(
    *devices: dict[str, Any],
    name: str = "s",
    generation: int = 1,
    count: int = 1,
    pool: str = "n",
    node: str | None = "n",
    beta: bool = False,
) -> SliceObject:
    if beta:
        devices = tuple({"name": one["name"], "basic": one} for one in devices)
    spec: dict[str, Any] = {
        "driver": "gpu.nvidia.com",
        "pool": {"name": pool, "generation": generation, "resourceSliceCount": count},
        "devices": list(devices),
    }
    if node is not None:
        spec["nodeName"] = node
    document = {"metadata": {"name": name, "resourceVersion": "7"}, "spec": spec}
    return decode_slice(msgspec.Raw(msgspec.json.encode(document)))


_KEYS = (
    *("metadata", "name", "resourceVersion", "spec", "pool", "generation", "resourceSliceCount", "nodeName"),
    *(
        "driver",
        "devices",
        "basic",
        "attributes",
        "type",
        "uuid",
        "parentUUID",
        PCI,
        "string",
        "taints",
        "key",
        "effect",
    ),
)


class Book:
    """A book, the slices in it, and what it said last of each node."""

    def __init__(self) -> None:
        self.said: dict[str, NodeDevices | None] = {}
        self.reports = 0
        self._book = SliceBook(self._note)
        self._slices: dict[str, SliceObject] = {}

    def _note(self, node: str, devices: NodeDevices | None) -> None:
        self.said[node] = devices
        self.reports += 1

    def put(self, *slices: SliceObject) -> None:
        for one in slices:
            self._book.apply(self._slices.get(one.key), one)
            self._slices[one.key] = one

    def delete(self, *names: str) -> None:
        for name in names:
            self._book.apply(self._slices.pop(name), None)

    def uuids(self, node: str = "n") -> list[str | None] | None:
        devices = self.said.get(node)
        return None if devices is None else [ref.uuid for ref in devices.listed]


@pytest.fixture
def book() -> Book:
    return Book()


class TestDevices:
    @pytest.mark.parametrize("beta", [False, True])
    def test_each_gpu_is_listed_with_its_address(self, book: Book, beta: bool) -> None:
        book.put(slice_of(gpu(B, "0000:3b:00.0"), gpu(A.upper().replace("GPU", "gpu"), "0000:1b:00.0"), beta=beta))
        listed = (GpuRef(A, "00000000:1B:00.0"), GpuRef(B, "00000000:3B:00.0"))
        assert book.said == {"n": NodeDevices(listed=listed, gpus=2, usable=2, passed=0)}

    @pytest.mark.parametrize("beta", [False, True])
    def test_instances_count_as_their_gpu(self, book: Book, beta: bool) -> None:
        book.put(slice_of(*[mig(A)] * 7, gpu(B), mig(B), beta=beta))
        assert (book.uuids(), book.said["n"].gpus) == ([A, B], 2)  # type: ignore[union-attr]

    def test_a_gpu_of_a_virtual_machine_is_listed_by_address(self, book: Book) -> None:
        book.put(slice_of(gpu(A, "0000:1b:00.0"), vfio("0000:1b:00.0"), vfio("0000:3b:00.0")))
        listed = (GpuRef(A, "00000000:1B:00.0"), GpuRef(None, "00000000:3B:00.0"))
        assert book.said["n"] == NodeDevices(listed=listed, gpus=1, usable=1, passed=1)

    @pytest.mark.parametrize("beta", [False, True])
    def test_a_tainted_gpu_counts_although_pods_cannot_use_it(self, book: Book, beta: bool) -> None:
        xid: dict[str, Any] = {"taints": [{"key": "gpu.nvidia.com/xid", "value": "79", "effect": "NoSchedule"}]}
        note: dict[str, Any] = {"taints": [{"key": "gpu.nvidia.com/unmonitored", "effect": "None"}]}
        book.put(slice_of(gpu(A, **xid), gpu(B, **note), beta=beta))
        assert (book.uuids(), book.said["n"].usable) == ([A, B], 1)  # type: ignore[union-attr]

    def test_a_gpu_the_driver_calls_lost_counts_but_is_unlisted(self, book: Book) -> None:
        book.put(slice_of(gpu(A, taints=[{"key": "gpu.nvidia.com/gpu-lost", "effect": "NoSchedule"}]), gpu(B)))
        assert book.said["n"] == NodeDevices(listed=(GpuRef(B, None),), gpus=2, usable=1, passed=0)

    def test_a_device_may_name_its_node_itself(self, book: Book) -> None:
        book.put(slice_of(gpu(A, nodeName="m"), gpu(B), node=None))  # as with perDeviceNodeSelection
        assert book.said.keys() == {"m"}

    def test_a_slice_without_gpus_says_that_there_are_none(self, book: Book) -> None:
        book.put(slice_of(gpu(A)))
        book.put(slice_of(generation=2))
        assert book.said == {"n": NodeDevices(listed=(), gpus=0, usable=0, passed=0)}
        book.delete("s")
        assert book.said == {"n": None}


class TestPools:
    def test_a_pool_counts_once_all_its_slices_are_there(self, book: Book) -> None:
        book.put(slice_of(gpu(A), name="s1", count=2))
        assert book.said == {}
        book.put(slice_of(gpu(B), name="s2", count=2))
        assert book.uuids() == [A, B]

    def test_an_incomplete_generation_changes_nothing(self, book: Book) -> None:
        book.put(slice_of(gpu(A), name="s1", count=2), slice_of(gpu(B), name="s2", count=2))
        book.put(slice_of(gpu(A), name="s1", count=2, generation=2))
        assert book.uuids() == [A, B]
        book.put(slice_of(gpu(C), name="s2", count=2, generation=2))
        assert book.uuids() == [A, C]

    def test_slices_of_an_older_generation_do_not_count(self, book: Book) -> None:
        book.put(slice_of(gpu(A), name="s1", count=2), slice_of(gpu(B), name="s2", count=2))
        book.put(slice_of(gpu(A), name="s1", count=1, generation=2))
        assert book.uuids() == [A]

    def test_a_pool_that_lost_a_slice_changes_nothing(self, book: Book) -> None:
        book.put(slice_of(gpu(A), name="s1", count=2), slice_of(gpu(B), name="s2", count=2))
        book.delete("s2")
        assert book.uuids() == [A, B]
        book.delete("s1")
        assert book.said == {"n": None}

    def test_a_generation_with_the_same_gpus_changes_nothing(self, book: Book) -> None:
        book.put(slice_of(gpu(A)), slice_of(gpu(A), generation=2))
        assert book.reports == 1

    def test_two_pools_of_a_node_are_added_up(self, book: Book) -> None:
        book.put(slice_of(gpu(A), name="s1"), slice_of(gpu(A), gpu(B), name="s2", pool="other"))
        assert book.uuids() == [A, B]
        book.delete("s2")
        assert book.uuids() == [A]

    def test_a_slice_may_change_its_pool(self, book: Book) -> None:
        book.put(slice_of(gpu(A)), slice_of(gpu(B), pool="other"))
        assert book.uuids() == [B]

    def test_a_slice_may_change_its_node(self, book: Book) -> None:
        book.put(slice_of(gpu(A)), slice_of(gpu(B), node="m"))
        assert (book.uuids(), book.uuids("m")) == (None, [B])


class TestHostileNodes:
    """A kubelet may publish slices whose `nodeName` is its own node, whatever pool and devices they name."""

    @pytest.mark.parametrize(("generation", "count"), [(999, 1), (1, 1), (1, 2), (0, 1)])
    def test_a_slice_of_another_node_in_the_same_pool_changes_nothing(
        self, book: Book, generation: int, count: int
    ) -> None:
        book.put(slice_of(gpu(A), gpu(B)))
        book.put(slice_of(gpu(C), name="evil", node="m", generation=generation, count=count))
        assert book.uuids() == [A, B]
        book.put(slice_of(gpu(A), generation=2))
        assert book.uuids() == [A]
        book.delete("evil")
        assert book.uuids() == [A]

    def test_an_earlier_slice_of_another_node_changes_nothing(self, book: Book) -> None:
        book.put(slice_of(name="evil", node="m", generation=999), slice_of(gpu(A)))
        assert book.uuids() == [A]

    def test_a_slice_without_a_node_changes_nothing(self, book: Book) -> None:
        book.put(slice_of(gpu(A)), slice_of(gpu(B, nodeName="m"), name="other", node=None, generation=999))
        assert (book.uuids(), book.uuids("m")) == ([A], [B])

    def test_devices_belong_to_the_node_of_their_slice(self, book: Book) -> None:
        book.put(slice_of(gpu(A)), slice_of(gpu(B, nodeName="n"), name="evil", node="m", pool="m"))
        assert (book.uuids(), book.uuids("m")) == ([A], [B])


class TestHostileServers:
    @pytest.mark.parametrize(
        "spec",
        [
            {"pool": {"name": "p" * 254}},
            {"nodeName": "n" * 254, "devices": [gpu(A)]},
            {"nodeName": "n", "devices": [gpu("GPU-" + "a" * 61)]},
            {"devices": "none"},
            {"nodeName": "n", "devices": [gpu(A)] * (MAX_SLICE_DEVICES + 1)},
            {"pool": {"generation": 1e99}},
            {"pool": {"generation": 2**63}},
            {"pool": {"resourceSliceCount": 2**64 - 1}},
        ],
    )
    def test_values_no_api_server_accepts_are_refused(self, spec: dict[str, Any]) -> None:
        with pytest.raises(MalformedError):
            decode_slice(
                msgspec.Raw(
                    msgspec.json.encode({"metadata": {"name": "s"}, "spec": {"driver": "gpu.nvidia.com"} | spec})
                )
            )

    @pytest.mark.parametrize("spec", [{}, {"devices": None, "pool": {}}, {"devices": [{}, {"basic": None}]}])
    def test_empty_or_null_values_list_nothing(self, spec: dict[str, Any]) -> None:
        assert decode_slice(msgspec.Raw(msgspec.json.encode({"metadata": {}, "spec": spec}))).boards == ()

    @pytest.mark.parametrize("driver", ["", "gpu.example.com"])
    def test_slices_of_other_drivers_are_ignored(self, book: Book, driver: str) -> None:
        spec = {"driver": driver, "nodeName": "n", "devices": [gpu(A)], "pool": {"name": "n", "resourceSliceCount": 1}}
        foreign = decode_slice(msgspec.Raw(msgspec.json.encode({"metadata": {"name": "f"}, "spec": spec})))
        book.put(foreign)
        assert book.said == {}
        book.put(slice_of(gpu(B)))
        assert book.uuids() == [B]
        book.delete("f")
        assert book.uuids() == [B]

    def test_a_pool_with_too_many_devices_changes_nothing(self, book: Book) -> None:
        devices = [gpu(f"GPU-{number:08d}", nodeName=f"n{number}") for number in range(MAX_SLICE_DEVICES)]
        count = MAX_POOL_BOARDS // MAX_SLICE_DEVICES + 1
        book.put(*(slice_of(*devices, name=f"s{at}", count=count, node=None) for at in range(count)))
        assert book.said == {}

    def test_unprintable_characters_are_removed(self) -> None:
        (board,) = slice_of(gpu(A), node="n\x1b[2J").boards
        assert "\x1b" not in board.node

    def test_an_impossible_number_of_gpus_is_ignored(self, book: Book) -> None:
        uuids = [f"GPU-{number:08d}" for number in range(257)]
        parts = [uuids[:100], uuids[100:200], uuids[200:]]
        book.put(*(slice_of(*map(gpu, part), name=f"s{at}", count=3) for at, part in enumerate(parts)))
        assert book.said == {}
        parts[2].pop()
        book.put(*(slice_of(*map(gpu, part), name=f"s{at}", count=3, generation=2) for at, part in enumerate(parts)))
        assert len(book.uuids() or ()) == 256

    def test_a_pool_with_too_many_slices_changes_nothing(self, book: Book) -> None:
        count = MAX_POOL_SLICES + 1
        book.put(*(slice_of(gpu(A), name=f"s{at}", count=count) for at in range(count)))
        assert book.said == {}

    def test_a_node_in_too_many_pools_is_ignored(self, book: Book) -> None:
        book.put(*(slice_of(gpu(A), name=f"s{at}", pool=f"p{at}") for at in range(MAX_NODE_POOLS + 1)))
        assert book.said == {"n": None}
        book.delete("s0")
        assert book.uuids() == [A]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=6),
    max_leaves=30,
)


@given(st.dictionaries(st.sampled_from(_KEYS), _JSON))
def test_any_document_is_a_slice_or_malformed(document: dict[str, Any]) -> None:
    try:
        one = decode_slice(msgspec.Raw(msgspec.json.encode({"metadata": {}, "spec": {}} | document)))
    except MalformedError:
        return
    assert all(board.node and (board.uuid or board.bus) for board in one.boards)
    Book().put(one)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"),  # name
            st.sampled_from("pq"),  # pool
            st.integers(1, 3),  # generation
            st.integers(1, 3),  # count
            st.sampled_from("nm"),  # node
            st.lists(st.sampled_from([A, B, C]), max_size=2),
        ),
        max_size=20,
    ),
    st.randoms(use_true_random=False),
)
def test_the_order_of_slices_does_not_matter(changes: list[Any], rng: random.Random) -> None:
    """A book into which slices come once says what one says that saw them change, where every pool is complete."""
    history, fresh = Book(), Book()
    last = {}
    for name, pool, generation, count, node, uuids in changes:
        last[name] = slice_of(*map(gpu, uuids), name=name, pool=pool, generation=generation, count=count, node=node)
        history.put(last[name])
    shuffled = list(last.values())
    rng.shuffle(shuffled)
    fresh.put(*shuffled)
    for node in "nm":
        if fresh.said.get(node) is not None and _all_complete(last.values()):
            assert history.said.get(node) == fresh.said.get(node)
    history.delete(*last)
    assert all(devices is None for devices in history.said.values())


def _all_complete(slices: Any) -> bool:
    pools: dict[tuple[str, str], list[SliceObject]] = {}
    for one in slices:
        pools.setdefault((one.node, one.pool), []).append(one)
    for members in pools.values():
        newest = [one for one in members if one.generation == max(each.generation for each in members)]
        if any(one.count != len(newest) for one in newest):
            return False
    return True
