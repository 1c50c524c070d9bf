"""The page of what happened: all of it where there is a history, else the latest that memory holds."""

import functools
import itertools
from typing import NamedTuple

from aiohttp import web

from collector.model import Event
from collector.store import HistoricChange, History
from collector.views.recent_changes import ChangeGroup, as_change, grouped
from collector.web.context import CONTEXT, CollectorView
from collector.web.pages.paging import ROWS, chosen
from collector.web.pages.past import look_back
from collector.web.pages.rendering import page

__all__ = ["changes"]

_READ = 500  # changes of the history on one page, before they are grouped
_EVENTS = {
    "": "everything",
    Event.MOVED: "moved",
    Event.VANISHED: "vanished",
    Event.ALTERED: "altered",
    Event.APPEARED: "appeared",
}


class _Part(NamedTuple):
    """Some of the changes, newest first."""

    groups: list[ChangeGroup]
    older: int | None  # where the next part begins, None at the end


async def changes(request: web.Request) -> web.Response:
    """Show what happened, the newest first; `event` and `cluster` choose, `before` is where the part before ended."""
    context = request.app[CONTEXT]
    event = chosen(request, "event", list(_EVENTS))
    cluster = request.query.get("cluster") or None
    text = request.query.get("before") or None
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 19):
        raise web.HTTPBadRequest(text="before: expected the number that the page before gave")
    before = None if text is None else int(text)
    last = next((group.id for group in context.latest.newest()), 0)  # what comes while the history is asked is streamed
    past = await look_back(context, functools.partial(_recorded, event or None, cluster, before))
    if past.kept and not past.trouble:
        part = _from_history(past.rows)
    else:
        part = _from_memory(context, Event(event) if event else None, cluster, before)
    return await page(
        request,
        "changes.html",
        groups=part.groups,
        older=part.older,
        newest=before is None,
        live=before is None and not event and cluster is None,
        past=past,
        event=event,
        cluster=cluster or "",
        events=_EVENTS,
        clusters=sorted(context.clusters()),
        last=last,
    )


async def _recorded(
    event: str | None, cluster: str | None, before: int | None, history: History
) -> list[HistoricChange]:
    return await history.latest_changes(event=event, cluster=cluster, before=before, limit=_READ)


def _from_history(rows: list[HistoricChange]) -> _Part:
    groups = list(grouped([as_change(row) for row in rows], itertools.count(1)))
    return _Part(groups, rows[-1].id if len(rows) == _READ else None)


def _from_memory(context: CollectorView, event: Event | None, cluster: str | None, before: int | None) -> _Part:
    admitted = (
        group
        for group in context.latest.newest(event)
        if (before is None or group.id < before)
        and (cluster is None or cluster in (group.place.cluster, group.previous.cluster if group.previous else None))
    )
    groups = list(itertools.islice(admitted, ROWS + 1))
    return _Part(groups[:ROWS], groups[ROWS - 1].id if len(groups) > ROWS else None)
