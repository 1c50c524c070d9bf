"""The few latest changes of the fleet, a cluster or a node, as a page of it lists them."""

from collector.store import ChangeFilter
from collector.views.change_list import list_changes
from collector.views.collector_view import CollectorView
from collector.views.counting import fold_counting
from collector.views.recent_changes import ChangeGroup

__all__ = ["latest_changes"]

MAX_CHANGES = 12
READ_GROUPS = 60  # of which some may be one row


async def latest_changes(
    view: CollectorView, *, cluster: str | None = None, node: str | None = None, limit: int = MAX_CHANGES
) -> list[ChangeGroup]:
    """Return the latest changes, newest first; those of mere counters of the same GPUs are one."""
    part = await list_changes(view, ChangeFilter(cluster=cluster, node=node), limit=max(READ_GROUPS, limit))
    return fold_counting(part.groups, limit)
