"""Server-sent events: the latest changes as they happen, as the HTML that the list on the page is made of."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from aiohttp import web

from collector.views.recent_changes import ChangeGroup
from collector.web.context import CONTEXT, CollectorView
from collector.web.pages.rendering import fragment

__all__ = ["STREAMS", "Streams", "follow"]

_MOST = 100  # streams at once
_AT_ONCE = 50  # changes of one message; when more happened, the oldest of them are left out
_PACE = 0.25  # seconds between two messages
_BEAT = 15.0  # seconds after which a comment tells proxies and the browser that the stream lives
_SEND = 10.0  # seconds after which a browser that takes nothing is given up
_LIFE = 600.0  # seconds after which the browser must ask again, and show that it still may
_RETRY = 3000  # milliseconds after which it does


class Streams:
    """The open streams: not too many of them, and none that outlives the server."""

    def __init__(self) -> None:
        self._scopes: set[anyio.CancelScope] = set()

    @asynccontextmanager
    async def one_more(self) -> AsyncIterator[None]:
        """Keep a stream until the block ends, its time is over or the server stops; raises HTTPServiceUnavailable."""
        if len(self._scopes) >= _MOST:
            raise web.HTTPServiceUnavailable(text=f"{_MOST} others follow the changes already; try again later")
        with anyio.move_on_after(_LIFE) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    async def close(self, _app: web.Application) -> None:
        """End all streams."""
        for scope in self._scopes:
            scope.cancel()


STREAMS = web.AppKey("streams", Streams)


async def follow(request: web.Request) -> web.StreamResponse:
    """Send each change once it has happened; `after` or the browser's own header is the last one that is known."""
    context = request.app[CONTEXT]
    after = _after(request, context)
    response = web.StreamResponse(headers={"X-Accel-Buffering": "no"})
    response.content_type = "text/event-stream"
    stuck = False
    async with request.app[STREAMS].one_more():
        await response.prepare(request)
        await response.write(f"retry: {_RETRY}\n\n".encode())
        while True:
            with anyio.move_on_after(_BEAT):
                while next(context.latest.newest(after=after), None) is None:
                    await context.latest.wait()
            # The newest are taken first, so a browser that was away catches up in one step.
            groups = list(itertools.islice(context.latest.newest(after=after), _AT_ONCE))
            text = "".join(_message(request, group) for group in reversed(groups)) or ": still there\n\n"
            after = groups[0].id if groups else after
            with anyio.move_on_after(_SEND) as sending:
                await response.write(text.encode())
            if stuck := sending.cancelled_caught:
                break
            await anyio.sleep(_PACE)
    if stuck and request.transport is not None:
        request.transport.abort()  # or the end of the answer would wait for the same browser
    return response


def _after(request: web.Request, context: CollectorView) -> int:
    text = request.headers.get("Last-Event-ID") or request.query.get("after", "")
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text)
    return next((group.id for group in context.latest.newest()), 0)


def _message(request: web.Request, group: ChangeGroup) -> str:
    # Each line must be marked as data, or a line break in a name could end the message and begin another one.
    lines = fragment(request, "change.html", group=group).splitlines()
    return "\n".join([f"id: {group.id}", *(f"data: {line}" for line in lines), "", ""])
