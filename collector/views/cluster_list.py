"""Lists the clusters as rows, in pages."""

import functools
from collections.abc import Mapping, Sequence

from collector.health import Level
from collector.text import natural_key
from collector.views.collector_view import CollectorView
from collector.views.columns import ClusterRow
from collector.views.cooperative import yielding
from collector.views.fleet import Filters, admits
from collector.views.listing import Cursor, Listed, Sort, Window
from collector.views.rows import cluster_row

__all__ = ["list_clusters"]


async def list_clusters(
    view: CollectorView,
    degraded: Mapping[str, Mapping[Level, int]],
    filters: Filters,
    *,
    words: Sequence[str] = (),
    sort: Sort,
    after: Cursor | None = None,
    limit: int,
) -> Listed[ClusterRow]:
    """Return one page of the clusters; `degraded` has the numbers of degraded GPUs. ValueError for a bad cursor.

    The only filter is cluster.
    """
    window: Window[ClusterRow] = Window(sort, after, limit)
    names = [
        name
        for name in sorted(view.clusters(), key=natural_key)
        if admits(filters, "cluster", name) and all(word in name.lower() for word in words)
    ]
    async for name in yielding(names):
        if window.full and not sort.key:
            break
        make = functools.partial(cluster_row, view, name, degraded.get(name))
        window.add(getattr(make(), sort.key) if sort.key else None, (name,), make)
    return window.page(len(names))
