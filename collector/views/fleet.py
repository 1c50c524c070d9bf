"""Walks and filters the nodes and GPUs of all clusters."""

from collections.abc import AsyncIterator, Container, Mapping, Sequence

from collector.inventory import Inventory
from collector.model import Gpu, NodeState, Placement
from collector.views.collector_view import CollectorView
from collector.views.cooperative import yielding

__all__ = ["Filters", "admits", "filter_gpus", "filter_nodes", "walk_nodes"]

Filters = Mapping[str, frozenset[str]]  # by column: the values that are admitted; all of them must hold

_INDEXED = ("uuid", "serial", "chassis")  # what the inventory finds without a walk
_CONDITIONS = ("degraded", "reason", "level", "mark")  # what a GPU is judged or marked to be
_COMMON = ("model", "board_part_number", "gpu_part_number")  # what many GPUs share


async def walk_nodes(inventory: Inventory, clusters: Container[str] | None = None) -> AsyncIterator[NodeState]:
    """Yield the nodes of all clusters, or of some, by cluster and name, giving other tasks their turn."""
    for cluster in sorted(inventory.clusters()):
        if clusters is not None and cluster not in clusters:
            continue
        nodes = inventory.nodes(cluster)
        async for entry in yielding([nodes[name] for name in sorted(nodes)]):
            yield entry


async def filter_nodes(inventory: Inventory, filters: Filters) -> list[NodeState]:
    """Return the nodes that the filters (cluster, node, machine, chassis) admit, by cluster and name."""
    return [
        entry
        async for entry in _admitted_nodes(inventory, filters)
        if "chassis" not in filters or filters["chassis"].intersection(entry.chassis.split(","))
    ]


async def filter_gpus(view: CollectorView, filters: Filters, *, offset: int, limit: int) -> tuple[list[Placement], int]:
    """Return `limit` of the GPUs that the filters admit, from `offset` on, and how many there are in all.

    The filters are cluster, node, machine, serial, uuid, model, chassis, board_part_number and gpu_part_number, and of
    a GPU's condition: degraded ("true" or "false"), reason, level and mark.
    """
    inventory, now = view.inventory, view.now()
    if (key := next((key for key in _INDEXED if key in filters), None)) is not None:
        found = [placement for value in sorted(filters[key]) for placement in inventory.find(**{key: value})]
        admitted = [
            placement
            for placement in found
            if _admits_gpu(inventory, filters, placement) and _admits_condition(view, filters, placement, now)
        ]
        return admitted[offset : offset + limit], len(admitted)
    window: list[Placement] = []
    total = 0
    judged = any(key in filters for key in _CONDITIONS)
    async for entry in _admitted_nodes(inventory, filters):
        matching = [
            index
            for index, gpu in enumerate(entry.gpus)
            if _admits_all(filters, gpu, _COMMON)
            and (not judged or _admits_condition(view, filters, entry.placement(gpu, entry.since[index]), now))
        ]
        shown = matching[max(0, offset - total) : max(0, offset + limit - total)]
        window += [entry.placement(entry.gpus[index], entry.since[index]) for index in shown]
        total += len(matching)
    return window, total


def admits(filters: Filters, key: str, value: str) -> bool:
    """Return whether the filters admit a value of one column."""
    return key not in filters or value in filters[key]


def _admits_all(filters: Filters, gpu: Gpu, keys: Sequence[str]) -> bool:
    return all(admits(filters, key, getattr(gpu, key) or "") for key in keys if key in filters)


async def _admitted_nodes(inventory: Inventory, filters: Filters) -> AsyncIterator[NodeState]:
    async for entry in walk_nodes(inventory, filters.get("cluster")):
        if admits(filters, "node", entry.place.node) and admits(filters, "machine", entry.node.machine):
            yield entry


def _admits_gpu(inventory: Inventory, filters: Filters, placement: Placement) -> bool:
    entry, gpu = inventory.node(placement.place), placement.gpu
    return (
        admits(filters, "cluster", placement.place.cluster)
        and admits(filters, "node", placement.place.node)
        and admits(filters, "machine", entry.node.machine if entry else "")
        and _admits_all(filters, gpu, ("serial", "chassis", *_COMMON))
        and ("uuid" not in filters or gpu.uuid.lower() in {value.lower() for value in filters["uuid"]})
    )


def _admits_condition(view: CollectorView, filters: Filters, placement: Placement, now: float) -> bool:
    gpu = placement.gpu
    if "mark" in filters:
        mark = view.marks.of(gpu.uuid, gpu.serial, now)
        if mark is None or mark.kind not in filters["mark"]:
            return False
    if filters.keys().isdisjoint(("degraded", "reason", "level")):
        return True
    reasons = placement.degradations
    return (
        admits(filters, "degraded", "true" if reasons else "false")
        and ("reason" not in filters or not filters["reason"].isdisjoint(reasons))
        and ("level" not in filters or (placement.level or "") in filters["level"])
    )
