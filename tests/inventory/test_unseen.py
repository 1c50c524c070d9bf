"""What remains known of a GPU that a reading does not find, or finds lost."""

from typing import Any

import msgspec
import pytest

from collector.health import Health
from collector.inventory import Inventory
from collector.inventory.unseen import also_lost, silent_gpus, unseen_gpus
from collector.model import Fingerprint, Gpu, GpuRef, NodeInfo, NodeState, Place, Reading, SilentGpu, Unseen

ONE, TWO = (Gpu(uuid=f"GPU-{number}", pci_bus_id=f"00000000:0{number}:00.0") for number in (1, 2))


def fingerprint(boot: str = "b") -> Fingerprint:
    return Fingerprint(pod_uid="p", container_id="c", restarts=0, boot_id=boot, capacity=8)


def node(*gpus: Gpu, time: float | None = 10.0) -> NodeState:
    return NodeState(
        place=Place("prod", "n"),
        node=NodeInfo(name="n", boot_id="b"),
        time=time,
        gpus=gpus,
        since=(5.0,) * len(gpus),
        fingerprint=fingerprint(),
    )


def reading(*gpus: Gpu, boot: str = "b", time: float = 20.0, **facts: Any) -> Reading:
    return Reading(
        cluster="prod",
        node=NodeInfo(name="n", boot_id=boot),
        source="x/y",
        fingerprint=fingerprint(boot),
        time=time,
        driver_version="570",
        cuda_version="12.8",
        gpus=gpus,
        **facts,
    )


@pytest.mark.parametrize(
    ("before", "confirmed"),
    [(node(ONE), 10.0), (node(TWO), 20.0), (node(ONE, time=None), 20.0)],
    ids=["read before", "new", "never read"],
)
def test_a_lost_gpu_that_is_still_listed_was_last_found_before(before: NodeState, confirmed: float) -> None:
    found = unseen_gpus(before, reading(ONE, TWO, lost=(GpuRef("GPU-9"), GpuRef("GPU-1"))))
    assert found == (Unseen("GPU-1", confirmed, lost=True, lost_since=20.0),)


def test_nothing_stays_on_a_node_that_was_never_read() -> None:
    assert unseen_gpus(node(ONE, time=None), reading(unread=(GpuRef("GPU-1"),))) == ()


def test_an_unreadable_node_has_each_gpu_that_did_not_respond() -> None:
    lost = also_lost(node(ONE, TWO), (GpuRef("GPU-1"), GpuRef("GPU-2")), 30.0)
    assert [(one.uuid, one.confirmed, one.lost_since) for one in lost] == [("GPU-1", 10.0, 30.0), ("GPU-2", 10.0, 30.0)]


def test_an_address_is_silent_whatever_else_is_lost() -> None:
    bus = "00000000:07:00.0"
    lost = reading(lost=(GpuRef("GPU-9"), GpuRef(pci_bus_id=bus)))
    assert silent_gpus(node(), lost, (), ()) == (SilentGpu(bus, 20.0, "b"),)


@pytest.mark.parametrize(("capacity", "stays"), [(None, True), (3, True), (2, True), (1, False), (0, False)])
def test_a_silent_gpu_that_is_no_longer_named_stays_while_there_is_room(capacity: int | None, stays: bool) -> None:
    silent = SilentGpu("00000000:07:00.0", 8.0, "b")
    before = msgspec.structs.replace(node(ONE), silent=(silent,))
    after = reading(ONE)
    after = msgspec.structs.replace(after, node=msgspec.structs.replace(after.node, capacity=capacity))
    assert silent_gpus(before, after, (ONE,), ()) == ((silent,) if stays else ())


def test_a_machine_where_one_address_has_another_gpu_is_another_one() -> None:
    other = Gpu(uuid="GPU-3", pci_bus_id=TWO.pci_bus_id)
    gone = Gpu(uuid="GPU-4", pci_bus_id="00000000:04:00.0")
    before = node(ONE, TWO, gone)
    lost = (GpuRef(pci_bus_id=gone.pci_bus_id),)
    assert unseen_gpus(before, reading(ONE, other, boot="c", lost=lost)) == ()
    (same,) = unseen_gpus(before, reading(ONE, TWO, boot="c", lost=lost))
    assert (same.uuid, same.lost) == ("GPU-4", True)


@pytest.mark.parametrize(("first", "second", "kept"), [("a", "b", None), ("", "b", True), ("a", "", True)])
def test_what_waits_for_a_reset_ends_with_a_known_reboot(first: str, second: str, kept: bool | None) -> None:
    inventory = Inventory()
    for time, boot, health in (
        (10.0, first, Health(row_remap_pending=True, ecc_dram_uncorrectable=0)),
        (20.0, second, Health(ecc_dram_uncorrectable=0)),
    ):
        inventory.apply(reading(Gpu(uuid="GPU-1", health=health), boot=boot, time=time))
    (placement,) = inventory.find(uuid="GPU-1")
    assert placement.gpu.health is not None
    assert placement.gpu.health.row_remap_pending is kept
