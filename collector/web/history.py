"""The history in the JSON API: a GPU's places, a node's GPUs, and changes."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from collector.store import ChangeFilter, ChangePosition, History, PastPlacement, Position
from collector.views.columns import ChangeRow, PlacementRow
from collector.views.cooperative import yielding
from collector.views.listing import Listed
from collector.views.placements import last_condition
from collector.views.rows import change_row, placement_row
from collector.web import operations
from collector.web.answers import answer, asked
from collector.web.cursors import ChangeCursor
from collector.web.keys import COLLECTOR
from collector.web.operation import Operation
from collector.web.problem import InvalidParameterError, NoStoreError
from collector.web.query import Query

__all__ = ["changes", "gpu", "node"]


async def gpu(request: web.Request) -> web.StreamResponse:
    """Return every place of the GPUs with a UUID or serial or in a chassis, current ones first, then newest first."""
    query = asked(request, operations.GPU_HISTORY)

    async def found(after: Position | None, limit: int) -> list[PastPlacement]:
        return await _history(request).where(query["id"], after=after, limit=limit)

    return await _placements(request, query, operations.GPU_HISTORY, found)


async def node(request: web.Request) -> web.StreamResponse:
    """Return every GPU that was ever in a node; `?cluster=` selects among nodes of the same name."""
    query = asked(request, operations.NODE_HISTORY)

    async def found(after: Position | None, limit: int) -> list[PastPlacement]:
        return await _history(request).node(query["node"], query["cluster"], after=after, limit=limit)

    return await _placements(request, query, operations.NODE_HISTORY, found)


async def changes(request: web.Request) -> web.StreamResponse:
    """Return the changes, of all events or some: oldest first, or newest first with `order=desc`."""
    query = asked(request, operations.LIST_CHANGES)
    if None not in (query["since"], query["until"]) and query["until"] <= query["since"]:
        raise InvalidParameterError("until", "expected a later time than since")
    wanted = ChangeFilter(
        since=query["since"],
        until=query["until"],
        events=query.all("event"),
        cluster=query["cluster"],
        node=query["node"],
        uuid=query["uuid"],
        serial=query["serial"],
        text=query["q"],
    )

    async def page(after: ChangeCursor | None, limit: int) -> Listed[ChangeRow]:
        if query["order"] == "desc":
            before = None if after is None else ChangePosition(after.moment, after.id)
            found = await _history(request).latest_changes(wanted, before=before, limit=limit + 1)
        else:
            found = await _history(request).changes(wanted, after=None if after is None else after.id, limit=limit + 1)
        rows = [change_row(one) async for one in yielding(found[:limit])]
        last = found[limit - 1] if len(found) > limit else None
        return Listed(rows, None if last is None else ChangeCursor(last.id, last.time), None)

    return await answer(request, query, operations.LIST_CHANGES, page)


def _history(request: web.Request) -> History:
    history = request.app[COLLECTOR].history  # its time begins here
    if history is None:
        raise NoStoreError("history")
    return history


async def _placements(
    request: web.Request,
    query: Query,
    operation: Operation,
    find: Callable[[Position | None, int], Awaitable[list[PastPlacement]]],
) -> web.StreamResponse:
    view, now = request.app[COLLECTOR], request.app[COLLECTOR].now()

    async def page(after: Position | None, limit: int) -> Listed[PlacementRow]:
        found = await find(after, limit + 1)
        rows = [
            placement_row(one, last_condition(view, one.uuid), view.marks.of(one.uuid, one.serial, now))
            async for one in yielding(found[:limit])
        ]
        return Listed(rows, found[limit - 1].position if len(found) > limit else None, None)

    return await answer(request, query, operation, page)
