"""Server-sent events that tell the browser when a page is out of date and must be fetched again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from aiohttp import web

from collector.views.recent_changes import RecentChanges
from collector.web.keys import COLLECTOR
from collector.web.limits import HttpLimits

__all__ = ["STREAMS", "Streams", "stream_changes"]

MIN_INTERVAL_SECONDS = 1.0  # between two messages
RETRY_MILLISECONDS = 3000  # after which a browser connects again


class Streams:
    """The open streams, limited in number and time, and closed with the server."""

    def __init__(self, limits: HttpLimits) -> None:
        self._limit = limits.max_streams
        self._max_seconds = limits.max_stream_time
        self.heartbeat = limits.stream_heartbeat  # seconds
        self._scopes: set[anyio.CancelScope] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keep a stream open until the block or its time ends or the server stops; raises HTTPServiceUnavailable."""
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
    """Send the id of the newest change whenever there is a newer one, and periodically without one.

    The page then fetches itself again: a cluster that goes down, or a reading without differences, is not a change of a
    GPU.
    """
    changes = request.app[COLLECTOR].recent_changes
    response = web.StreamResponse(headers={"X-Accel-Buffering": "no"})
    response.content_type = "text/event-stream"
    streams = request.app[STREAMS]
    async with streams.open():
        await response.prepare(request)
        await response.write(f"retry: {RETRY_MILLISECONDS}\n\n".encode())
        last = _last_seen(request, changes)
        while True:
            with anyio.move_on_after(streams.heartbeat):
                while changes.last_id <= last:
                    await changes.wait()
            last = changes.last_id
            await response.write(f"id: {last}\ndata: changed\n\n".encode())
            await anyio.sleep(MIN_INTERVAL_SECONDS)
    return response


def _last_seen(request: web.Request, changes: RecentChanges) -> int:
    """Return the last id seen by a reconnecting browser, or else the newest one."""
    text = request.headers.get("Last-Event-ID", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else changes.last_id
