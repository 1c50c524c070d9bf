"""The history in the JSON API: where a GPU was, what was in a node, and what changed."""

from collections.abc import Collection, Sequence

from aiohttp import web

from collector.model import CHANGE_EVENTS
from collector.store import ChangeFilter, History, PastPlacement, Position
from collector.views.placements import last_condition
from collector.views.rows import change_row, placement_row
from collector.web.answers import json_answer
from collector.web.keys import COLLECTOR
from collector.web.params import check_parameters, check_values, paging, row_id, timestamp

__all__ = ["changes", "gpu", "node"]

CHOOSING = ("cluster", "node", "uuid", "serial", "text")  # of changes
EXPECTED_NEXT = "the `next` value of the previous page"


async def gpu(request: web.Request) -> web.Response:
    """Return every place of the GPUs with a UUID or serial or in a chassis: the present one first, then the newest.

    `next` of one page is `after` of the following one.
    """
    limit, after = _limit(request, {"after"}), _position(request)
    found = await _history(request).where(request.match_info["id"], after=after, limit=limit)
    return _placements(request, found, limit)


async def node(request: web.Request) -> web.Response:
    """Return every GPU that was ever in a node; `?cluster=` chooses among nodes of one name."""
    limit, after = _limit(request, {"cluster", "after"}), _position(request)
    name, cluster = request.match_info["node"], request.query.get("cluster")
    return _placements(request, await _history(request).node(name, cluster, after=after, limit=limit), limit)


async def changes(request: web.Request) -> web.Response:
    """Return the changes, of all events or some, oldest first; `next` of one page is `after` of the following one."""
    limit = _limit(request, {"since", "until", "event", "after", *CHOOSING}, repeatable={"event"})
    check_values(request, "event", CHANGE_EVENTS)
    wanted = ChangeFilter(
        since=timestamp(request, "since"),
        until=timestamp(request, "until", future=True),
        events=request.query.getall("event", ()),
        cluster=request.query.get("cluster"),
        node=request.query.get("node"),
        uuid=request.query.get("uuid"),
        serial=request.query.get("serial"),
        text=request.query.get("text"),
    )
    found = await _history(request).changes(wanted, after=row_id(request, "after", EXPECTED_NEXT), limit=limit)
    return json_answer(
        {"changes": [change_row(change) for change in found], "next": found[-1].id if len(found) == limit else None}
    )


def _history(request: web.Request) -> History:
    history = request.app[COLLECTOR].history
    if history is None:
        raise web.HTTPNotFound(text="this collector keeps no history: its configuration has no [store]")
    return history


def _placements(request: web.Request, found: Sequence[PastPlacement], limit: int) -> web.Response:
    view, now = request.app[COLLECTOR], request.app[COLLECTOR].now()
    return json_answer(
        {
            "placements": [
                placement_row(one, last_condition(view, one.uuid), view.marks.of(one.uuid, one.serial, now))
                for one in found
            ],
            "next": str(found[-1].position) if len(found) == limit else None,
        }
    )


def _position(request: web.Request) -> Position | None:
    try:
        return None if (text := request.query.get("after")) is None else Position.parse(text)
    except ValueError:
        raise web.HTTPBadRequest(text=f"after: expected {EXPECTED_NEXT}") from None


def _limit(request: web.Request, known: set[str], *, repeatable: Collection[str] = ()) -> int:
    check_parameters(request, known | {"limit"}, repeatable=repeatable)
    return paging(request).limit
