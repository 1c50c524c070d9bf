"""The page of changes: all of them with a history, else the latest ones in memory."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from aiohttp import web

from collector.store import ChangeFilter, ChangePosition
from collector.views.change_list import EVENTS, list_changes
from collector.views.recent_changes import ChangeGroup
from collector.web.keys import COLLECTOR
from collector.web.pages.links import address
from collector.web.pages.rendering import page
from collector.web.params import check_parameters, choice, timestamp
from collector.web.public_url import public_url

__all__ = ["changes"]

PAGE_GROUPS = 100
FILTERS = ("event", "cluster", "node", "text", "since", "until")
DAY_SECONDS = 86400.0

_POSITION = re.compile(r"(\d{1,12}(?:\.\d{1,20})?)-(\d{1,18})", re.ASCII)


async def changes(request: web.Request) -> web.Response:
    """Show the changes, newest first, continuing at `before` and selected by FILTERS."""
    check_parameters(request, {*FILTERS, "before"})
    collector = request.app[COLLECTOR]
    chosen = {name: text for name in FILTERS if (text := request.query.get(name, "").strip())}
    event = choice(request, "event", ["", *EVENTS])
    before = _position(request)
    wanted = ChangeFilter(
        since=timestamp(request, "since") if "since" in chosen else None,
        until=timestamp(request, "until", future=True) if "until" in chosen else None,
        cluster=chosen.get("cluster"),
        node=chosen.get("node"),
        text=chosen.get("text"),
    )
    part = await list_changes(collector, wanted, event, before=before, limit=PAGE_GROUPS)
    return await page(
        request,
        "changes.html",
        days=list(_by_day(part.groups)),
        newest=before is None,
        history=part.history,
        chosen={name: chosen.get(name, "") for name in FILTERS},
        narrowed=bool(chosen),
        events=EVENTS,
        clusters=sorted(collector.clusters()),
        path=public_url(request).prefix + "/changes",
        older="" if part.older is None else f"{part.older.time!r}-{part.older.id}",
        csv=_csv_address(chosen),
    )


def _position(request: web.Request) -> ChangePosition | None:
    if (text := request.query.get("before")) is None:
        return None
    if (found := _POSITION.fullmatch(text)) is None:
        raise web.HTTPBadRequest(text="before: expected the position of an older page")
    return ChangePosition(float(found[1]), int(found[2]))


def _by_day(groups: Sequence[ChangeGroup]) -> Iterator[tuple[float, list[ChangeGroup]]]:
    """Yield days (in UTC, as Unix seconds of their start) with the changes of each."""
    for day, ones in itertools.groupby(groups, key=lambda group: group.time // DAY_SECONDS):
        yield day * DAY_SECONDS, list(ones)


def _csv_address(chosen: Mapping[str, str]) -> str:
    """Return the URL of the same changes as CSV, one row per GPU."""
    names = {"replaced": "", "first seen": "appeared"}
    query = {"event": names.get(chosen.get("event", ""), chosen.get("event")), "q": chosen.get("text")}
    rest = {name: chosen.get(name) for name in ("cluster", "node", "since", "until")}
    return address("/api/v1/changes", {**query, **rest, "order": "desc", "format": "csv"})
