"""The latest changes of the fleet, a cluster or a node, for pages and `gpuid top`."""

import itertools
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from collector.model import CHANGE_EVENTS, Change, Event, Gpu, Place
from collector.store import ChangeFilter
from collector.views.alterations import as_field_changes
from collector.views.change_list import fold_first_sights, list_changes
from collector.views.collector_view import CollectorView
from collector.views.counting import fold_counting
from collector.views.recent_changes import ChangeGroup, Folded, grouped
from collector.views.replacements import replaced

__all__ = ["groups_of_rows", "latest_changes"]

MAX_CHANGES = 12
READ_GROUPS = 60  # some of which may be merged


async def latest_changes(
    view: CollectorView, *, cluster: str | None = None, node: str | None = None, limit: int = MAX_CHANGES
) -> list[ChangeGroup]:
    """Return the latest changes, newest first; those of only the same GPUs' counters are merged."""
    part = await list_changes(view, ChangeFilter(cluster=cluster, node=node), limit=max(READ_GROUPS, limit))
    return fold_counting(part.groups, limit)


def groups_of_rows(rows: Iterable[Mapping[str, Any]]) -> list[ChangeGroup]:
    """Return API rows of changes, given oldest first, grouped like on the page, newest first."""
    groups: list[ChangeGroup] = []
    ids = itertools.count(1)
    for _, ones in itertools.groupby(rows, key=lambda row: (row["time"], row["cluster"], row["node"])):
        reading = list(ones)
        for first in (False, True):
            found = grouped([_change(row) for row in reading if bool(row.get("first_sight")) is first], ids)
            groups += (msgspec.structs.replace(one, event=Folded.FIRST_SEEN) if first else one for one in found)
    return fold_first_sights(replaced(groups[::-1]))


def _change(row: Mapping[str, Any]) -> Change:
    event, previous = row["event"], row.get("previous_node")
    return Change(
        event=Event(event) if event in CHANGE_EVENTS else Event.ALTERED,  # of a newer collector
        time=datetime.fromisoformat(row["time"]).timestamp(),
        gpu=Gpu(uuid=row["uuid"], serial=row.get("serial")),
        place=Place(row["cluster"], row["node"]),
        machine="",
        source="",
        previous=None if previous is None else Place(row.get("previous_cluster") or "", previous),
        changes=as_field_changes(row.get("changes")),
    )
