"""Which GPUs a node lacks."""

import msgspec
import pytest

from collector.inventory import Inventory
from collector.model import Gpu, NodeState, Place
from collector.store.codec import decode_facts, encode_facts
from collector.views.missing import missing_from
from tests.web.conftest import Site

NODE = Place("prod-a", "n1")
GPUS = [
    Gpu(uuid=f"GPU-{n}", serial=f"S-{n}", module=str(n), pci_bus_id=f"00000000:{n}D:00.0", minor_number=n)
    for n in range(1, 5)
]


@pytest.fixture
def site() -> Site:
    site = Site()
    site.cluster("prod-a")
    site.read("prod-a", "n1", *GPUS, capacity=4, time=10.0)
    return site


def entry(inventory: Inventory) -> NodeState:
    found = inventory.node(NODE)
    assert found is not None
    return found


def test_a_missing_gpu_has_its_slot_and_last_time(site: Site) -> None:
    site.read("prod-a", "n1", *GPUS[:3], capacity=4, time=20.0)
    (one,) = missing_from(site.inventory, entry(site.inventory))
    seat = ("S-4", "GPU-4", "4", "00000000:4D:00.0", 4)
    assert (one.gpu.serial, one.gpu.uuid, one.gpu.module, one.gpu.pci_bus_id, one.gpu.minor_number) == seat
    assert (one.last_seen, one.left) == (10.0, 20.0)


def test_a_returned_or_moved_gpu_is_not_missing(site: Site) -> None:
    site.read("prod-a", "n1", *GPUS[:3], capacity=4, time=20.0)
    site.read("prod-a", "n2", GPUS[3], capacity=4, time=30.0)
    assert missing_from(site.inventory, entry(site.inventory)) == []


def test_a_replaced_gpu_is_not_missing(site: Site) -> None:
    new = msgspec.structs.replace(GPUS[3], uuid="GPU-9", serial="S-9")
    site.read("prod-a", "n1", *GPUS[:3], new, capacity=4, time=20.0)
    site.read("prod-a", "n1", *GPUS[1:3], new, capacity=4, time=30.0)
    assert [one.gpu.uuid for one in missing_from(site.inventory, entry(site.inventory))] == ["GPU-1"]


def test_the_last_to_leave_are_named_up_to_the_count(site: Site) -> None:
    site.read("prod-a", "n1", *GPUS[:3], capacity=4, time=20.0)
    site.read("prod-a", "n1", *GPUS[:2], capacity=3, time=30.0)
    assert [one.gpu.uuid for one in missing_from(site.inventory, entry(site.inventory))] == ["GPU-3"]


def test_an_unread_node_has_no_missing_gpus(site: Site) -> None:
    site.remove("prod-a", "n1", 20.0)
    site.add("prod-a", "n1")
    assert missing_from(site.inventory, entry(site.inventory)) == []


def test_the_store_keeps_the_slot() -> None:
    facts, lost = decode_facts("GPU-4", encode_facts(GPUS[3], 10.0, lost=True))
    assert facts is not None
    assert (facts.serial, facts.module, facts.pci_bus_id, facts.minor_number) == ("S-4", "4", "00000000:4D:00.0", 4)
    assert lost
