"""Reads request parameters; every mistake is an HTTPBadRequest that says what was expected."""

import functools
from collections.abc import Awaitable, Callable, Collection, Sequence

from aiohttp import web

from collector.timestamps import parse_time
from collector.web.keys import COLLECTOR

__all__ = ["accepting", "check_parameters", "choice", "timestamp"]


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def accepting(handler: Handler, *known: str) -> Handler:
    """Return a handler that rejects all other parameters."""

    @functools.wraps(handler)
    async def checked(request: web.Request) -> web.StreamResponse:
        if "at" in request.query and "at" not in known:  # the present must not be mistaken for the past
            raise web.HTTPBadRequest(
                text="at: this page shows only the current state; a fleet, cluster, node, chassis and GPU can be "
                "shown at a past time"
            )
        check_parameters(request, known)
        return await handler(request)

    return checked


def check_parameters(request: web.Request, known: Collection[str], *, repeatable: Collection[str] = ()) -> None:
    """Reject unknown parameters and those that must not be repeated."""
    for key in request.query:
        if key not in known:
            expected = f"expected one of {', '.join(sorted(known))}" if known else "expected none"
            raise web.HTTPBadRequest(text=f'unknown parameter "{key}"; {expected}')
        if key not in repeatable and len(request.query.getall(key)) > 1:
            raise web.HTTPBadRequest(text=f"{key}: expected one value")


def choice(request: web.Request, key: str, known: Sequence[str]) -> str:
    """Return one of the known values, by default the first one."""
    value = request.query.get(key) or known[0]
    if value not in known:
        raise web.HTTPBadRequest(text=f"{key}: expected one of {', '.join(name for name in known if name)}")
    return value


def timestamp(request: web.Request, key: str, *, future: bool = False, latest: bool = False) -> float | None:
    """Return a time in Unix seconds, as `parse_time` reads it; None if it is not given."""
    text = request.query.get(key)
    if text is None:
        return None
    try:
        return parse_time(text, request.app[COLLECTOR].now(), future=future, latest=latest)
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"{key}: {error}") from None
