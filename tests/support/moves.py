"""The service's verification of moves in miniature: every node that is asked no longer has what another one reports."""

from collector.inventory import Inventory
from collector.model import Place, Reading, Step

__all__ = ["let_go"]


def let_go(inventory: Inventory, step: Step) -> list[Step]:
    """Apply, for each node that a reading's step wants read again, one of the same time without that reading's GPUs."""
    if step.reading is None:
        return []
    uuids = {gpu.uuid for gpu in step.reading.gpus}
    readings = [_reading_without(inventory, place, uuids, step.reading.time) for place in step.verify]
    return [inventory.apply(reading) for reading in readings]


def _reading_without(inventory: Inventory, place: Place, uuids: set[str], time: float) -> Reading:
    """Return a reading of a node that was read before, which finds all its GPUs but some."""
    node = inventory.node(place)
    assert node is not None
    assert node.fingerprint is not None
    return Reading(
        cluster=place.cluster,
        node=node.node,
        source=node.source,
        fingerprint=node.fingerprint,
        time=time,
        driver_version=node.driver_version,
        cuda_version=node.cuda_version,
        gpus=tuple(gpu for gpu in node.gpus if gpu.uuid not in uuids),
    )
