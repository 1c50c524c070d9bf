"""The JSON API's look back: where a GPU was, what sat in a node, and what changed."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import web

from collector.store import HistoricChange, History, PastPlacement, Position
from collector.timestamps import rfc3339
from collector.web.context import CONTEXT
from collector.web.rows import check_parameters, json_answer, paging

__all__ = ["change_row", "changes", "gpu", "node", "placement_row"]


async def gpu(request: web.Request) -> web.Response:
    """Answer every place of the GPUs with a UUID or serial or in a chassis: the present one first, then the newest.

    `next` of one page is `after` of the next one.
    """
    limit, after = _limit(request, frozenset({"after"})), _position(request.query)
    return _placements(await _history(request).where(request.match_info["id"], after=after, limit=limit), limit)


async def node(request: web.Request) -> web.Response:
    """Answer all that ever sat in a node; `?cluster=` chooses among nodes of one name."""
    limit, after = _limit(request, frozenset({"cluster", "after"})), _position(request.query)
    name, cluster = request.match_info["node"], request.query.get("cluster")
    return _placements(await _history(request).node(name, cluster, after=after, limit=limit), limit)


async def changes(request: web.Request) -> web.Response:
    """Answer what happened, oldest first; `next` of one page is `after` of the next one."""
    limit = _limit(request, frozenset({"since", "until", "cluster", "after"}))
    after = request.query.get("after")
    if after is not None and not (after.isascii() and after.isdigit() and len(after) < 19):
        raise web.HTTPBadRequest(text="after: expected the number that the page before gave as next")
    found = await _history(request).changes(
        since=_time(request.query, "since"),
        until=_time(request.query, "until"),
        cluster=request.query.get("cluster"),
        after=None if after is None else int(after),
        limit=limit,
    )
    return json_answer(
        {"changes": [change_row(change) for change in found], "next": found[-1].id if len(found) == limit else None}
    )


def placement_row(placement: PastPlacement) -> dict[str, Any]:
    """Describe one GPU's time in one place."""
    times = {name: rfc3339(getattr(placement, name)) for name in ("since", "until", "confirmed")}
    return msgspec.structs.asdict(placement) | times


def change_row(change: HistoricChange) -> dict[str, Any]:
    """Describe one change."""
    row = msgspec.structs.asdict(change) | {"time": rfc3339(change.time)}
    previous = row.pop("previous")
    return row | {
        "previous_cluster": previous.cluster if previous else None,
        "previous_node": previous.node if previous else None,
    }


def _history(request: web.Request) -> History:
    history = request.app[CONTEXT].history
    if history is None:
        raise web.HTTPNotFound(text="this collector keeps no history: its configuration has no [store]")
    return history


def _placements(found: list[PastPlacement], limit: int) -> web.Response:
    return json_answer(
        {
            "placements": [placement_row(placement) for placement in found],
            "next": str(found[-1].position) if len(found) == limit else None,
        }
    )


def _position(query: Mapping[str, str]) -> Position | None:
    try:
        return None if (text := query.get("after")) is None else Position.parse(text)
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"after: {error}") from None


def _limit(request: web.Request, known: frozenset[str]) -> int:
    check_parameters(request, known | {"limit"})
    return paging(request)[0]


def _time(query: Mapping[str, str], key: str) -> float | None:
    text = query.get(key)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise web.HTTPBadRequest(text=f"{key}: expected a time such as 2026-11-24T12:00:00Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
