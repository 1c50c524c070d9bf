"""Which GPUs a mark counts for."""

import pytest

from collector.inventory import Inventory
from collector.marks import Mark, MarkKind, Marks
from collector.model import Fingerprint, Gpu, NodeInfo, Reading
from collector.views.marks import placements_of


@pytest.fixture
def inventory() -> Inventory:
    """A board of two GPUs with one serial."""
    inventory = Inventory()
    inventory.apply(
        Reading(
            cluster="prod",
            node=NodeInfo(name="n1"),
            source="gpu/p",
            fingerprint=Fingerprint(pod_uid="p", container_id="c", restarts=0, boot_id="b", capacity=2),
            time=1.0,
            driver_version=None,
            cuda_version=None,
            gpus=tuple(Gpu(uuid=f"GPU-{number}", serial="board") for number in "12"),
        )
    )
    return inventory


def test_a_serial_mark_applies_to_gpus_without_their_own(inventory: Inventory) -> None:
    of_serial = Mark(serial="board", kind=MarkKind.RMA, set_at=1.0, set_by="ann")
    of_uuid = Mark(uuid="GPU-1", serial="board", kind=MarkKind.WATCH, set_at=2.0, set_by="bob")

    def uuids(marks: Marks, mark: Mark) -> list[str]:
        return sorted(one.gpu.uuid for one in placements_of(inventory, marks, mark, 3.0))

    assert uuids(Marks([of_serial]), of_serial) == ["GPU-1", "GPU-2"]
    both = Marks([of_serial, of_uuid])
    assert (uuids(both, of_serial), uuids(both, of_uuid)) == (["GPU-2"], ["GPU-1"])
