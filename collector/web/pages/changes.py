"""The page of the changes: all of them where there is a history, else the latest that memory holds."""

import functools
import itertools
from typing import NamedTuple

from aiohttp import web

from collector.model import Event
from collector.store import HistoricChange, History
from collector.views.history_query import query_history
from collector.views.recent_changes import ChangeGroup, RecentChanges, as_change, grouped
from collector.web.keys import COLLECTOR
from collector.web.pages.paging import PAGE_ROWS
from collector.web.pages.rendering import page
from collector.web.params import choice, row_id

__all__ = ["changes"]

HISTORY_PAGE_SIZE = 500  # changes of the history on one page, before they are grouped
EVENT_CHOICES = {
    "": "everything",
    Event.MOVED: "moved",
    Event.VANISHED: "vanished",
    Event.HEALTH: "health",
    Event.ALTERED: "altered",
    Event.APPEARED: "appeared",
}


class _Part(NamedTuple):
    """Some of the changes, newest first."""

    groups: list[ChangeGroup]
    older: int | None  # where the next part begins, None at the end


async def changes(request: web.Request) -> web.Response:
    """Show the changes, newest first; `event` and `cluster` choose, `before` is where the part before ended."""
    collector = request.app[COLLECTOR]
    event = choice(request, "event", list(EVENT_CHOICES))
    cluster = request.query.get("cluster") or None
    before = row_id(request, "before", "the position of an older page") if request.query.get("before") else None
    history = await query_history(collector, functools.partial(_recorded, event or None, cluster, before))
    if history.available:
        part = _from_history(history.rows)
    else:
        part = _from_memory(collector.recent_changes, Event(event) if event else None, cluster, before)
    return await page(
        request,
        "changes.html",
        groups=part.groups,
        older=part.older,
        newest=before is None,
        history=history,
        event=event,
        cluster=cluster or "",
        events=EVENT_CHOICES,
        clusters=sorted(collector.clusters()),
    )


async def _recorded(
    event: str | None, cluster: str | None, before: int | None, history: History
) -> list[HistoricChange]:
    return await history.latest_changes(event=event, cluster=cluster, before=before, limit=HISTORY_PAGE_SIZE)


def _from_history(rows: list[HistoricChange]) -> _Part:
    groups = list(grouped([as_change(row) for row in rows], itertools.count(1)))
    return _Part(groups, rows[-1].id if len(rows) == HISTORY_PAGE_SIZE else None)


def _from_memory(recent: RecentChanges, event: Event | None, cluster: str | None, before: int | None) -> _Part:
    admitted = (
        group
        for group in recent.newest(event)
        if (before is None or group.id < before)
        and (cluster is None or cluster in (group.place.cluster, group.previous.cluster if group.previous else None))
    )
    groups = list(itertools.islice(admitted, PAGE_ROWS + 1))
    return _Part(groups[:PAGE_ROWS], groups[PAGE_ROWS - 1].id if len(groups) > PAGE_ROWS else None)
