"""The marks of GPUs in the JSON API: current and former ones, set and removed by authenticated users."""

import logging
from collections.abc import Iterator
from urllib.parse import urlsplit

import msgspec
from aiohttp import hdrs, web

from collector.inventory import Inventory
from collector.marks import MAX_WHO_LENGTH, Mark, NewMark, check_id, parse_until
from collector.store import KnownGpu, MarkStore, RefusedMarkError
from collector.text import one_line
from collector.views.columns import MarkRow
from collector.views.cooperative import yielding
from collector.views.listing import Listed
from collector.views.rows import mark_row
from collector.web import operations
from collector.web.answers import answer, asked, json_answer
from collector.web.auth import USER
from collector.web.bodies import read_body
from collector.web.keys import COLLECTOR
from collector.web.messages import MarkBody, MarkRemoved, MarkSet
from collector.web.problem import Code, InvalidParameterError, NoStoreError, coded
from collector.web.public_url import public_url

__all__ = ["marks", "remove_mark", "set_mark"]

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 8 << 10
NEVER_SEEN = "no GPU with this serial or UUID was ever seen; the mark applies when one appears"


async def marks(request: web.Request) -> web.StreamResponse:
    """Return current marks, or all with `all=true`, newest first; `gpu` selects by UUID or serial."""
    query = asked(request, operations.LIST_MARKS)

    async def page(after: int | None, limit: int) -> Listed[MarkRow]:
        found = await _store(request).page(
            ended=query["all"] == "true", gpu=query["gpu"], before=after, limit=limit + 1
        )
        rows = [mark_row(one) async for one in yielding(found[:limit])]
        return Listed(rows, found[limit - 1].id if len(found) > limit else None, None)

    return await answer(request, query, operations.LIST_MARKS, page)


async def set_mark(request: web.Request) -> web.Response:
    """Mark a GPU by UUID or serial, replacing any mark it has."""
    name, who = _admitted(request)
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="expected Content-Type: application/json")
    view, store = request.app[COLLECTOR], _store(request)
    new = _new_mark(await _body(request), view.now())
    try:
        (done,) = await store.set([name], new, by=who, known=_known(view.inventory, name))
    except RefusedMarkError as error:
        raise web.HTTPConflict(text=str(error)) from None
    await view.refresh_marks()
    if not done.unchanged:
        _log("GPU marked", done.mark, who)
    return json_answer(
        MarkSet(
            mark=mark_row(done.mark),
            former=None if done.former is None else mark_row(done.former),
            unchanged=done.unchanged,
            seen=done.seen,
            warning=None if done.seen else NEVER_SEEN,
        )
    )


async def remove_mark(request: web.Request) -> web.Response:
    """Remove the mark of a GPU by UUID or serial."""
    name, who = _admitted(request)
    view = request.app[COLLECTOR]
    try:
        (done,) = await _store(request).remove([name], by=who, known=_known(view.inventory, name))
    except RefusedMarkError as error:
        raise web.HTTPConflict(text=str(error)) from None
    if done.mark is None:
        raise web.HTTPNotFound(text=f"{name} is not marked")
    await view.refresh_marks()
    _log("GPU unmarked", done.mark, who)
    still = None if done.still is None else mark_row(done.still)
    return json_answer(MarkRemoved(mark=mark_row(done.mark), still=still))


def _admitted(request: web.Request) -> tuple[str, str]:
    """Return the GPU and the user if the client may write; raises an HTTP error otherwise."""
    asked(request, operations.SET_MARK if request.method == hdrs.METH_PUT else operations.REMOVE_MARK)
    who = request.get(USER)
    if not who:
        raise web.HTTPForbidden(
            text="setting marks over HTTP requires authentication: configure server.basic_auth or "
            "server.bearer_token_file, or use `gpuid mark` with the store's configuration"
        )
    _check_same_origin(request)
    try:
        return check_id(request.match_info["id"]), one_line(who, MAX_WHO_LENGTH)
    except ValueError as error:
        raise InvalidParameterError("id", str(error)) from None


def _check_same_origin(request: web.Request) -> None:
    """Reject requests that another site's page makes a browser send, which adds the password automatically."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is None and origin is not None:
        try:
            host = urlsplit(origin).netloc
        except ValueError:
            host = ""
        site = "same-origin" if host and host in (public_url(request).host, request.host) else "cross-site"
    if site not in (None, "same-origin", "none"):
        raise web.HTTPForbidden(text="cross-site requests are not allowed")


async def _body(request: web.Request) -> MarkBody:
    try:
        return msgspec.json.decode(await read_body(request, MAX_BODY_BYTES), type=MarkBody)
    except (ValueError, RecursionError) as error:
        raise coded(web.HTTPBadRequest(text=one_line(f"body: {error}", 300)), Code.INVALID_BODY) from None


def _new_mark(body: MarkBody, now: float) -> NewMark:
    try:
        until = None if body.until is None else parse_until(body.until, now)
        new = NewMark(kind=body.kind, note=body.note or "", ticket=body.ticket or "", until=until)
        new.check_until(now)
    except ValueError as error:
        raise coded(web.HTTPBadRequest(text=str(error)), Code.INVALID_BODY) from None
    return new


def _known(inventory: Inventory, name: str) -> Iterator[KnownGpu]:
    """Yield GPUs of this name from the inventory, which the history may not know yet."""
    for one in (*inventory.find(uuid=name), *inventory.find(serial=name)):
        yield KnownGpu(one.gpu.uuid, one.gpu.serial)
    if (absent := inventory.facts(name)) is not None:
        yield KnownGpu(absent.uuid, absent.serial)


def _store(request: web.Request) -> MarkStore:
    store = request.app[COLLECTOR].mark_store
    if store is None:
        raise NoStoreError("marks")
    return store


def _log(event: str, mark: Mark, who: str) -> None:
    fields = {"uuid": mark.uuid, "serial": mark.serial, "mark": mark.kind.value, "by": who}
    log.info(event, extra={name: value for name, value in fields.items() if value is not None})
