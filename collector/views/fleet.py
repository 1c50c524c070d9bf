"""Iterates over, filters and pages the nodes and GPUs of all clusters."""

import functools
from collections.abc import AsyncIterator, Callable, Container, Iterator, Mapping, Sequence

from collector.inventory import Inventory
from collector.model import Gpu, NodeState, Placement
from collector.text import natural_key
from collector.views.collector_view import CollectorView
from collector.views.columns import PresenceState
from collector.views.cooperative import yielding
from collector.views.listing import Cursor, Listed, Sort, Value, Window, row_key
from collector.views.node_conditions import node_test, nodes_at_odds
from collector.views.rows import numbered

__all__ = ["GPU_SORT_KEYS", "NODE_SORT_KEYS", "Filters", "admits", "list_gpus", "list_nodes", "walk_nodes", "words_of"]

Filters = Mapping[str, frozenset[str]]  # allowed values by column; all columns must match

_INDEXED = ("uuid", "serial", "chassis")  # indexed in the inventory
_CONDITIONS = ("degraded", "reason", "level", "mark", "state")  # a GPU's condition and mark
_COMMON = ("model", "board_part_number", "gpu_part_number")  # shared by many GPUs
_SEARCHED = ("uuid", "serial", "chassis", "pci_bus_id", *_COMMON)
_BY_PLACE = Sort("")


async def walk_nodes(inventory: Inventory, clusters: Container[str] | None = None) -> AsyncIterator[NodeState]:
    """Yield the nodes of all or some clusters in natural order, letting other tasks run."""
    for cluster in sorted(inventory.clusters(), key=natural_key):
        if clusters is not None and cluster not in clusters:
            continue
        nodes = inventory.nodes(cluster)
        async for entry in yielding([nodes[name] for name in sorted(nodes, key=natural_key)]):
            yield entry


def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a search, all of which must match."""
    return tuple(text.lower().split())


async def list_nodes(
    view: CollectorView,
    filters: Filters,
    *,
    words: Sequence[str] = (),
    sort: Sort = _BY_PLACE,
    after: Cursor | None = None,
    limit: int,
) -> Listed[NodeState]:
    """Return one page of the nodes that match the filters and search words; ValueError for a bad cursor.

    The filters are cluster, node, machine, chassis, driver_version, model, condition and state.
    """
    window: Window[NodeState] = Window(sort, after, limit)
    clusters, conditions = filters.get("cluster", ()), filters.get("condition", ())
    passes = node_test(view, conditions, nodes_at_odds(view, clusters))
    total, value = 0, NODE_SORT_KEYS[sort.key]
    async for entry in _admitted_nodes(view.inventory, filters):
        if "chassis" in filters and not filters["chassis"].intersection(entry.chassis.split(",")):
            continue
        if "state" in filters and _node_state(entry) not in filters["state"]:
            continue
        if "model" in filters and not any(admits(filters, "model", gpu.model or "") for gpu in entry.gpus):
            continue
        if not passes(entry):
            continue
        if not _has_words(words, _node_texts(entry)):
            continue
        total += 1
        window.add(value(entry), entry.place, functools.partial(_itself, entry))
    return window.page(total)


async def list_gpus(
    view: CollectorView,
    filters: Filters,
    *,
    words: Sequence[str] = (),
    sort: Sort = _BY_PLACE,
    after: Cursor | None = None,
    limit: int,
) -> Listed[Placement]:
    """Return one page of the GPUs that match the filters and search words; ValueError for a bad cursor.

    The filters are cluster, node, machine, driver_version, serial, uuid, model, chassis, board_part_number and
    gpu_part_number, and for a GPU's condition degraded ("true" or "false"), reason, level, mark and state.
    """
    window: Window[Placement] = Window(sort, after, limit)
    total, now, value = 0, view.now(), GPU_SORT_KEYS[sort.key]
    start = None if after is None or sort.key else row_key(after.row[:2])
    judged = any(key in filters for key in _CONDITIONS)
    async for entry, gpus in _admitted_gpus(view.inventory, filters):
        if words:
            gpus = _with_words(words, entry, gpus)
        if judged:
            gpus = [index for index in gpus if _admits_condition(view, filters, _placement(entry, index), now)]
        total += len(gpus)
        if not sort.key and (window.full or (start is not None and row_key(entry.place) < start)):
            continue  # by place: the page's contents are known without another lookup
        for index in gpus:
            make = functools.partial(_placement, entry, index)
            rank = value(make(), entry) if sort.key else None
            window.add(rank, (*entry.place, entry.gpus[index].pci_bus_id or "", entry.gpus[index].uuid), make)
    return window.page(total)


def _itself(entry: NodeState) -> NodeState:
    return entry


def admits(filters: Filters, key: str, value: str) -> bool:
    """Return whether a value of one column matches the filters."""
    return key not in filters or value in filters[key]


def _placement(entry: NodeState, index: int) -> Placement:
    return entry.placement(entry.gpus[index], entry.since[index])


async def _admitted_nodes(inventory: Inventory, filters: Filters) -> AsyncIterator[NodeState]:
    async for entry in walk_nodes(inventory, filters.get("cluster")):
        if _admits_node(filters, entry):
            yield entry


def _admits_node(filters: Filters, entry: NodeState) -> bool:
    return (
        admits(filters, "node", entry.place.node)
        and admits(filters, "machine", entry.node.machine)
        and admits(filters, "driver_version", entry.driver_version or "")
    )


async def _admitted_gpus(inventory: Inventory, filters: Filters) -> AsyncIterator[tuple[NodeState, list[int]]]:
    """Yield nodes with the indexes of their GPUs that match the filters, ignoring their condition."""
    if (key := next((key for key in _INDEXED if key in filters), None)) is None:
        common = [key for key in _COMMON if key in filters]
        async for entry in _admitted_nodes(inventory, filters):
            yield entry, [index for index, gpu in enumerate(entry.gpus) if not common or _has(filters, gpu, common)]
        return
    places = {one.place for value in filters[key] for one in inventory.find(**{key: value})}
    uuids = {value.lower() for value in filters.get("uuid", ())}
    async for place in yielding(sorted(places, key=row_key)):
        found = inventory.node(place)
        if found is None or not admits(filters, "cluster", place.cluster) or not _admits_node(filters, found):
            continue
        gpus = [
            index
            for index, gpu in enumerate(found.gpus)
            if _has(filters, gpu, ("serial", "chassis", *_COMMON)) and (not uuids or gpu.uuid.lower() in uuids)
        ]
        yield found, gpus


def _has(filters: Filters, gpu: Gpu, keys: Sequence[str]) -> bool:
    return all(admits(filters, key, getattr(gpu, key) or "") for key in keys if key in filters)


def _admits_condition(view: CollectorView, filters: Filters, placement: Placement, now: float) -> bool:
    gpu = placement.gpu
    if "state" in filters and _gpu_state(placement) not in filters["state"]:
        return False
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


def _with_words(words: Sequence[str], entry: NodeState, gpus: list[int]) -> list[int]:
    node = _node_texts(entry)
    left = [word for word in words if not _has_words([word], node)]
    return [index for index in gpus if _has_words(left, list(_gpu_texts(entry.gpus[index])))] if left else gpus


def _has_words(words: Sequence[str], texts: Sequence[str]) -> bool:
    return all(any(word in text for text in texts) for word in words)


def _node_texts(entry: NodeState) -> tuple[str, ...]:
    return entry.place.cluster.lower(), entry.place.node.lower(), entry.node.machine.lower()


def _gpu_texts(gpu: Gpu) -> Iterator[str]:
    return (text.lower() for name in _SEARCHED if (text := getattr(gpu, name)))


def _gpu_state(placement: Placement) -> PresenceState:
    return PresenceState.LOST if placement.lost else PresenceState.FOUND


def _node_state(entry: NodeState) -> PresenceState:
    return PresenceState.LOST if entry.lost else PresenceState.FOUND


# Sort keys of lists and their values; empty: by place.
NODE_SORT_KEYS: Mapping[str, Callable[[NodeState], Value]] = {
    "": lambda _entry: None,
    "cluster": lambda entry: entry.place.cluster,
    "node": lambda entry: entry.place.node,
    "machine": lambda entry: entry.node.machine,
    "chassis": lambda entry: entry.chassis or None,
    "driver_version": lambda entry: entry.driver_version,
    "cuda_version": lambda entry: entry.cuda_version,
    "state": _node_state,
    "found": lambda entry: entry.found,
    "lost": lambda entry: entry.lost,
    "capacity": lambda entry: entry.node.capacity,
    "allocatable": lambda entry: entry.node.allocatable,
    "read_at": lambda entry: entry.time,
    "unread_reason": lambda entry: entry.unread.reason if entry.unread else None,
    "unread_since": lambda entry: entry.unread.since if entry.unread else None,
    "failing_reason": lambda entry: entry.failing.reason if entry.failing else None,
    "failing_since": lambda entry: entry.failing.since if entry.failing else None,
}
GPU_SORT_KEYS: Mapping[str, Callable[[Placement, NodeState], Value]] = {
    "": lambda _one, _entry: None,
    "cluster": lambda one, _entry: one.place.cluster,
    "node": lambda one, _entry: one.place.node,
    "machine": lambda _one, entry: entry.node.machine,
    "uuid": lambda one, _entry: one.gpu.uuid,
    "serial": lambda one, _entry: one.gpu.serial,
    "model": lambda one, _entry: one.gpu.model,
    "architecture": lambda one, _entry: one.gpu.architecture,
    "chassis": lambda one, _entry: one.gpu.chassis,
    "slot": lambda one, _entry: numbered(one.gpu.slot),
    "tray": lambda one, _entry: numbered(one.gpu.tray),
    "host": lambda one, _entry: numbered(one.gpu.host),
    "module": lambda one, _entry: numbered(one.gpu.module),
    "pci_bus_id": lambda one, _entry: one.gpu.pci_bus_id,
    "board_part_number": lambda one, _entry: one.gpu.board_part_number,
    "gpu_part_number": lambda one, _entry: one.gpu.gpu_part_number,
    "minor_number": lambda one, _entry: one.gpu.minor_number,
    "vbios": lambda one, _entry: one.gpu.vbios,
    "mig": lambda one, _entry: one.gpu.mig,
    "since": lambda one, _entry: one.since,
    "confirmed_at": lambda one, _entry: one.confirmed,
    "claim": lambda one, _entry: one.claim,
    "state": lambda one, _entry: _gpu_state(one),
    "level": lambda one, _entry: one.level,
}
