"""Lists of the fleet at a past time, paged and filtered like those of the present."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from collector.model import Place
from collector.store import GpuPosition
from collector.views.columns import ClusterRow, GpuRow, NodeRow
from collector.views.fleet import Filters
from collector.views.listing import Cursor, Listed, row_key
from collector.views.past import LookBack
from collector.views.past_rows import past_cluster_row, past_gpu_row, past_node_row

__all__ = ["cursor_time", "list_past_clusters", "list_past_gpus", "list_past_nodes"]

ROWS_PER_QUERY = 1000  # processed without yielding
ORDER = "past"  # in a cursor, instead of the sort column

_GPU_COLUMNS = ("cluster", "node", "machine", "chassis", "serial", "uuid", "model")  # filters applied by the store
_NODE_COLUMNS = ("cluster", "node", "machine", "chassis")
_GPU_NAMES = (*_GPU_COLUMNS, "pci_bus_id")
_T = TypeVar("_T", GpuRow, NodeRow)


def cursor_time(after: Cursor, now: float) -> float:
    """Return the time (Unix seconds) of the previous page, which the following ones share; raises ValueError."""
    if after.sort != ORDER or not isinstance(after.value, int | float) or not 0 <= after.value <= now:
        raise ValueError("expected the `next` value of a page with `at`")
    return float(after.value)


async def list_past_clusters(
    then: LookBack, filters: Filters, *, words: Sequence[str] = (), after: Cursor | None = None, limit: int
) -> Listed[ClusterRow]:
    """Return one page of the clusters that had GPUs, configured now or not; raises StoreError and ValueError."""
    counts = await then.counts()
    found = [
        name
        for name in sorted(counts, key=lambda name: row_key((name,)))
        if ("cluster" not in filters or name in filters["cluster"]) and all(word in name.lower() for word in words)
    ]
    start = 0 if after is None else sum(row_key((name,)) <= row_key(after.named(1, ORDER)) for name in found)
    shown = found[start : start + limit]
    more = start + limit < len(found)
    cursor = Cursor(ORDER, then.time, (shown[-1],)) if more else None
    return Listed([past_cluster_row(name, counts[name]) for name in shown], cursor, len(found))


async def list_past_nodes(
    then: LookBack, filters: Filters, *, words: Sequence[str] = (), after: Cursor | None = None, limit: int
) -> Listed[NodeRow]:
    """Return one page of the nodes that had GPUs, by cluster and node; raises StoreError and ValueError."""
    where = {name: filters[name] for name in _NODE_COLUMNS if name in filters}
    start = None if after is None else Place(*after.named(2, ORDER))

    async def page(start: Place | None, most: int) -> list[NodeRow]:
        return [past_node_row(one) for one in await then.nodes(where, after=start, limit=most)]

    def admits(row: NodeRow) -> bool:
        return _has_words(words, row, ("cluster", "node", "machine"))

    rows = _rows(page, start, lambda row: Place(row.cluster, row.node), ROWS_PER_QUERY if words else limit + 1)
    total = None if words else await then.total_nodes(where)
    return await _page(then, rows, admits, lambda row: (row.cluster, row.node), limit, total)


async def list_past_gpus(
    then: LookBack, filters: Filters, *, words: Sequence[str] = (), after: Cursor | None = None, limit: int
) -> Listed[GpuRow]:
    """Return one page of the GPUs, by cluster, node and UUID; raises StoreError and ValueError.

    A GPU whose condition is unknown matches no condition filter.
    """
    where = {name: filters[name] for name in _GPU_COLUMNS if name in filters}
    start = None if after is None else GpuPosition(*after.named(3, ORDER))

    async def page(start: GpuPosition | None, most: int) -> list[GpuRow]:
        return [past_gpu_row(one) for one in await then.gpus(where, after=start, limit=most)]

    def admits(row: GpuRow) -> bool:
        return _is_so(filters, row) and _has_words(words, row, _GPU_NAMES)

    counted = not words and where.keys() == filters.keys()  # the store does all filtering
    most = limit + 1 if counted else ROWS_PER_QUERY
    rows = _rows(page, start, lambda row: GpuPosition(row.cluster, row.node, row.uuid), most)
    total = await then.total_gpus(where) if counted else None
    return await _page(then, rows, admits, lambda row: (row.cluster, row.node, row.uuid), limit, total)


async def _rows(
    page: Callable[[Any, int], Awaitable[list[_T]]], start: Any, position: Callable[[_T], Any], most: int
) -> AsyncIterator[_T]:
    """Yield rows page by page, with at most this many per page."""
    most = min(most, ROWS_PER_QUERY)
    while rows := await page(start, most):
        for row in rows:
            yield row
        if len(rows) < most:
            return
        start = position(rows[-1])


async def _page(
    then: LookBack,
    rows: AsyncIterator[_T],
    admits: Callable[[_T], bool],
    named: Callable[[_T], tuple[str, ...]],
    limit: int,
    total: int | None,
) -> Listed[_T]:
    found: list[_T] = []
    async for row in rows:
        if admits(row):
            found.append(row)
            if len(found) > limit:
                return Listed(found[:limit], Cursor(ORDER, then.time, named(found[limit - 1])), total)
    return Listed(found, None, total)


def _is_so(filters: Filters, row: GpuRow) -> bool:
    """Return whether a GPU's condition and mark match the filters."""
    degraded = "" if row.degraded is None else "true" if row.degraded else "false"
    return (
        ("degraded" not in filters or degraded in filters["degraded"])
        and ("reason" not in filters or not filters["reason"].isdisjoint(row.degraded or ()))
        and ("level" not in filters or (row.level or "") in filters["level"])
        and ("mark" not in filters or (row.mark is not None and row.mark.kind in filters["mark"]))
        and ("state" not in filters or row.state in filters["state"])
    )


def _has_words(words: Sequence[str], row: GpuRow | NodeRow, names: Sequence[str]) -> bool:
    texts = [str(getattr(row, name) or "").lower() for name in names] if words else []
    return all(any(word in text for text in texts) for word in words)
