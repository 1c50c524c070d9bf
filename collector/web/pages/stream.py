"""Server-sent events: the changes as they happen, as the HTML that the lists on the page are made of."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from aiohttp import web

from collector.model import CHANGE_EVENTS, Event
from collector.views.recent_changes import ChangeGroup, RecentChanges
from collector.web.keys import COLLECTOR
from collector.web.pages.rendering import fragment
from collector.web.params import choice

__all__ = ["STREAMS", "Streams", "stream_changes"]

MAX_GROUPS_PER_MESSAGE = 50  # when more happened, the oldest of them are left out
MIN_INTERVAL_SECONDS = 0.25  # between two messages
HEARTBEAT_SECONDS = 15.0  # after which a comment shows proxies and the browser that the stream is alive
RETRY_MILLISECONDS = 3000  # after which a browser connects again


class Streams:
    """The open streams: a limited number, for a limited time, and none that outlives the server."""

    def __init__(self, limit: int, max_seconds: float) -> None:
        self._limit = limit
        self._max_seconds = max_seconds
        self._scopes: set[anyio.CancelScope] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keep a stream until the block ends, its time is over or the server stops; raises HTTPServiceUnavailable."""
        if len(self._scopes) >= self._limit:
            raise web.HTTPServiceUnavailable(text=f"too many live streams (limit {self._limit}); try again later")
        with anyio.move_on_after(self._max_seconds) as scope:
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


async def stream_changes(request: web.Request) -> web.StreamResponse:
    """Send each change as it happens, or each of one `event`.

    `after` or the browser's own header is the id of the last known one.
    """
    changes = request.app[COLLECTOR].recent_changes
    name = choice(request, "event", ["", *CHANGE_EVENTS])
    event = Event(name) if name else None
    after = _after(request, changes)
    response = web.StreamResponse(headers={"X-Accel-Buffering": "no"})
    response.content_type = "text/event-stream"
    async with request.app[STREAMS].open():
        await response.prepare(request)
        await response.write(f"retry: {RETRY_MILLISECONDS}\n\n".encode())
        while True:
            with anyio.move_on_after(HEARTBEAT_SECONDS):
                while next(changes.newest(event, after=after), None) is None:
                    await changes.wait()
            # The newest are taken first, so a browser that was away catches up in one step.
            groups = list(itertools.islice(changes.newest(event, after=after), MAX_GROUPS_PER_MESSAGE))
            text = "".join(_message(request, group) for group in reversed(groups)) or ": heartbeat\n\n"
            after = groups[0].id if groups else after
            await response.write(text.encode())
            await anyio.sleep(MIN_INTERVAL_SECONDS)
    return response


def _after(request: web.Request, changes: RecentChanges) -> int:
    text = request.headers.get("Last-Event-ID") or request.query.get("after", "")
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text)
    return changes.last_id


def _message(request: web.Request, group: ChangeGroup) -> str:
    # Each line must be marked as data, or a line break in a name could end the message and begin another one.
    lines = fragment(request, "change.html", group=group).splitlines()
    return "\n".join([f"id: {group.id}", *(f"data: {line}" for line in lines), "", ""])
