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


def test_it_is_named_with_where_it_sat_and_when_it_was_seen(site: Site) -> None:
    site.read("prod-a", "n1", *GPUS[:3], capacity=4, time=20.0)
    (one,) = missing_from(site.inventory, entry(site.inventory))
    seat = ("S-4", "GPU-4", "4", "00000000:4D:00.0", 4)
    assert (one.gpu.serial, one.gpu.uuid, one.gpu.module, one.gpu.pci_bus_id, one.gpu.minor_number) == seat
    assert (one.last_seen, one.left) == (10.0, 20.0)


def test_one_that_came_back_or_is_elsewhere_is_not(site: Site) -> None:
    site.read("prod-a", "n1", *GPUS[:3], capacity=4, time=20.0)
    site.read("prod-a", "n2", GPUS[3], capacity=4, time=30.0)
    assert missing_from(site.inventory, entry(site.inventory)) == []


def test_one_whose_seat_another_has_taken_was_replaced_and_is_not_missing(site: Site) -> None:
    new = msgspec.structs.replace(GPUS[3], uuid="GPU-9", serial="S-9")
    site.read("prod-a", "n1", *GPUS[:3], new, capacity=4, time=20.0)
    site.read("prod-a", "n1", *GPUS[1:3], new, capacity=4, time=30.0)
    assert [one.gpu.uuid for one in missing_from(site.inventory, entry(site.inventory))] == ["GPU-1"]


def test_no_more_are_named_than_are_missing_the_last_to_leave_first(site: Site) -> None:
    site.read("prod-a", "n1", *GPUS[:3], capacity=4, time=20.0)
    site.read("prod-a", "n1", *GPUS[:2], capacity=3, time=30.0)
    assert [one.gpu.uuid for one in missing_from(site.inventory, entry(site.inventory))] == ["GPU-3"]


def test_a_node_that_was_never_read_misses_nothing(site: Site) -> None:
    site.remove("prod-a", "n1", 20.0)
    site.add("prod-a", "n1")
    assert missing_from(site.inventory, entry(site.inventory)) == []


def test_the_store_keeps_where_it_sat() -> None:
    facts, lost = decode_facts("GPU-4", encode_facts(GPUS[3], 10.0, lost=True))
    assert facts is not None
    assert (facts.serial, facts.module, facts.pci_bus_id, facts.minor_number) == ("S-4", "4", "00000000:4D:00.0", 4)
    assert lost
