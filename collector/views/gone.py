"""Rows of GPUs and nodes that are gone, from the history or, without a store, from memory."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from collector.health import Condition
from collector.marks import Mark
from collector.model import Gpu, Place, canonical_uuid, last_known_object
from collector.store import GoneNode, PastPlacement
from collector.timestamps import rfc3339
from collector.views.collector_view import CollectorView
from collector.views.columns import GpuRow, NodeRow, PresenceState
from collector.views.cooperative import yielding
from collector.views.fleet import Filters
from collector.views.listing import Cursor, Listed
from collector.views.placements import last_condition
from collector.views.rows import condition_columns, mark_summary, recorded_columns

__all__ = ["gone_gpu", "gone_node", "list_gone_gpus", "list_gone_nodes"]

_PAGE_ROWS = 1000  # requested from the store at a time
_RECORDED = ("cluster", "node", "machine", "uuid", "serial", "model", "chassis")  # filters applied by the store
_ORDER = "gone"  # in a cursor, instead of the sort column
_NAMES = (*_RECORDED, "board_part_number", "gpu_part_number")

_T = TypeVar("_T", GpuRow, NodeRow)


async def list_gone_gpus(
    view: CollectorView, filters: Filters, *, words: Sequence[str] = (), after: Cursor | None = None, limit: int
) -> Listed[GpuRow]:
    """Return one page of the GPUs on no node, by UUID; raises StoreError, and ValueError for a bad cursor."""
    start = None if after is None else after.named(1, _ORDER)[0]
    found = (_remembered if view.history is None else _recorded)(view, filters, start)
    return await _page(found, filters, words, limit, lambda row: (row.uuid,))


async def list_gone_nodes(
    view: CollectorView, filters: Filters, *, words: Sequence[str] = (), after: Cursor | None = None, limit: int
) -> Listed[NodeRow]:
    """Return one page of the nodes that had GPUs and are gone, by cluster and node; raises like `list_gone_gpus`."""
    start = None if after is None else Place(*after.named(2, _ORDER))
    return await _page(_nodes(view, filters, start), filters, words, limit, lambda row: (row.cluster, row.node))


async def gone_gpu(view: CollectorView, name: str) -> list[GpuRow]:
    """Return the GPUs on no node with a UUID or serial, in their last state; raises StoreError."""
    found: dict[str, GpuRow] = {}
    for column in ("uuid", "serial"):
        page = await list_gone_gpus(view, {column: frozenset([name])}, limit=_PAGE_ROWS)
        found |= {row.uuid: row for row in page.rows}
    return list(found.values())


async def gone_node(view: CollectorView, place: Place) -> NodeRow | None:
    """Return a node that had GPUs and is gone; None if unknown; raises StoreError."""
    filters = {"cluster": frozenset([place.cluster]), "node": frozenset([place.node])}
    return next(iter((await list_gone_nodes(view, filters, limit=1)).rows), None)


async def _page(
    rows: AsyncIterator[_T], filters: Filters, words: Sequence[str], limit: int, named: Callable[[_T], tuple[str, ...]]
) -> Listed[_T]:
    found: list[_T] = []
    async for row in rows:
        if _admits(filters, row) and _has_words(words, row):
            found.append(row)
            if len(found) > limit:
                return Listed(found[:limit], Cursor(_ORDER, None, named(found[limit - 1])), None)
    return Listed(found, None, None)


async def _recorded(view: CollectorView, filters: Filters, after: str | None) -> AsyncIterator[GpuRow]:
    history = view.history  # all queries share its deadline
    if history is None:
        return
    await view.wait_committed()
    where = {name: filters[name] for name in _RECORDED if name in filters}
    if "uuid" in where:
        where["uuid"] = frozenset(map(canonical_uuid, where["uuid"]))
    while page := await history.gone(where, after=after, limit=_PAGE_ROWS):
        absent = [one for one in page if not view.inventory.find(uuid=one.uuid)]
        unknown = [one.uuid for one in absent if last_condition(view, one.uuid) is None]
        conditions = await history.conditions(unknown) if unknown else {}
        async for one in yielding(absent):
            condition = last_condition(view, one.uuid) or conditions.get(one.uuid)
            yield _row(one, view.inventory.facts(one.uuid), condition, _mark(view, one.uuid, one.serial))
        if len(page) < _PAGE_ROWS:
            return
        after = page[-1].uuid


async def _remembered(view: CollectorView, filters: Filters, after: str | None) -> AsyncIterator[GpuRow]:
    wanted = {one.lower() for one in filters.get("uuid", ())}
    async for uuid, place in yielding(sorted(view.inventory.absent().items())):
        if (after is not None and uuid <= after) or (wanted and uuid.lower() not in wanted):
            continue
        if (gone := view.inventory.absent_gpu(uuid)) is None:
            continue
        gpu = gone.facts or Gpu(uuid=uuid)
        yield _of_gpu(gpu, place, gone.time, view.inventory.last_condition(uuid), _mark(view, uuid, gpu.serial))


async def _nodes(view: CollectorView, filters: Filters, after: Place | None) -> AsyncIterator[NodeRow]:
    history = view.history
    if history is None:
        left: dict[Place, float] = {}
        async for uuid, place in yielding(view.inventory.absent().items()):
            if view.inventory.node(place) is None and (gone := view.inventory.absent_gpu(uuid)) is not None:
                left[place] = max(left.get(place, 0.0), gone.time)
        for place in sorted(left):
            if after is None or place > after:
                yield _node_row(GoneNode(place, "", left[place], None))
        return
    await view.wait_committed()
    where = {name: filters[name] for name in ("cluster", "node", "machine", "chassis") if name in filters}
    while page := await history.gone_nodes(where, after=after, limit=_PAGE_ROWS):
        async for one in yielding(page):
            if view.inventory.node(one.place) is None:
                yield _node_row(one)
        if len(page) < _PAGE_ROWS:
            return
        after = page[-1].place


def _row(placement: PastPlacement, known: Gpu | None, condition: Condition | None, mark: Mark | None) -> GpuRow:
    gpu = known or Gpu(uuid=placement.uuid)
    return GpuRow(
        cluster=placement.cluster,
        node=placement.node,
        machine=placement.machine,
        **recorded_columns(placement),
        architecture=gpu.architecture,
        board_part_number=gpu.board_part_number,
        gpu_part_number=gpu.gpu_part_number,
        until=rfc3339(placement.until),
        confirmed_at=rfc3339(placement.confirmed),
        state=PresenceState.GONE,
        **condition_columns(condition),
        mark=mark_summary(mark),
    )


def _of_gpu(gpu: Gpu, place: Place, until: float, condition: Condition | None, mark: Mark | None) -> GpuRow:
    return GpuRow(
        cluster=place.cluster,
        node=place.node,
        uuid=gpu.uuid,
        serial=gpu.serial,
        model=gpu.model,
        architecture=gpu.architecture,
        chassis=gpu.chassis,
        board_part_number=gpu.board_part_number,
        gpu_part_number=gpu.gpu_part_number,
        last_known=last_known_object(gpu.last_known),
        until=rfc3339(until) if until else None,
        state=PresenceState.GONE,
        **condition_columns(condition),
        mark=mark_summary(mark),
    )


def _node_row(node: GoneNode) -> NodeRow:
    return NodeRow(
        cluster=node.place.cluster,
        node=node.place.node,
        machine=node.machine or None,
        state=PresenceState.GONE,
        read_at=rfc3339(node.confirmed),
        until=rfc3339(node.until),
    )


def _mark(view: CollectorView, uuid: str, serial: str | None) -> Mark | None:
    return view.marks.of(uuid, serial, view.now())


def _admits(filters: Filters, row: GpuRow | NodeRow) -> bool:
    """Return whether a row matches the filters; UUIDs (in any case) and a node's GPUs were checked before."""
    if not filters.keys().isdisjoint(("driver_version", "condition")):  # of what is there
        return False
    if isinstance(row, NodeRow):
        return all(getattr(row, name) in filters[name] for name in ("cluster", "node", "machine") if name in filters)
    reasons = row.degraded or []
    return (
        all((getattr(row, name) or "") in filters[name] for name in _NAMES if name in filters and name != "uuid")
        and ("degraded" not in filters or ("true" if reasons else "false") in filters["degraded"])
        and ("reason" not in filters or not filters["reason"].isdisjoint(reasons))
        and ("level" not in filters or (row.level or "") in filters["level"])
        and ("mark" not in filters or (row.mark is not None and row.mark.kind in filters["mark"]))
    )


def _has_words(words: Sequence[str], row: GpuRow | NodeRow) -> bool:
    names = ("cluster", "node", "machine") if isinstance(row, NodeRow) else (*_NAMES, "pci_bus_id")
    texts = [str(getattr(row, name) or "").lower() for name in names] if words else []
    return all(any(word in text for text in texts) for word in words)
