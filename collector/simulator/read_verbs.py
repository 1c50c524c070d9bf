"""Serves get, list and watch from the storage of a cluster."""

import asyncio
import contextlib
import random
import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from collector.simulator import errors, tables
from collector.simulator.faults import Misbehaviour
from collector.simulator.objects import Resource
from collector.simulator.requests import RequestInfo, flag
from collector.simulator.state import State
from collector.simulator.storage import Entry, Filter, Storage, WatchSubscription

__all__ = ["get", "list_objects", "watch"]

_CHUNK_BYTES = 256 * 1024  # of events that are sent in one piece


def get(
    storage: Storage, request: web.BaseRequest, info: RequestInfo, resource: Resource, now: float
) -> web.StreamResponse:
    """Return one object."""
    entry = storage.get(resource, f"{info.namespace}/{info.name}" if resource.namespaced else info.name)
    if entry is None:
        raise errors.not_found(resource.plural, info.name, resource.group)
    if tables.preferred(request.headers.get("Accept", "")):
        metadata = {"resourceVersion": str(entry.version)}
        return _json(tables.render(resource, [entry], metadata, now))
    return _json(entry.body)


def list_objects(
    storage: Storage, request: web.BaseRequest, info: RequestInfo, resource: Resource, now: float
) -> web.StreamResponse:
    """Return a list or a page of it."""
    query = request.query
    version = _version(query)
    limit = _number(query, "limit")
    if query.get("resourceVersion") == "0" and "continue" not in query:
        limit = 0  # as the real API server, which returns the whole list from its cache
    exactly = version if query.get("resourceVersionMatch") == "Exact" else None
    if version > storage.version:
        raise errors.too_large_version(version, storage.version)
    page = storage.page(
        resource, _filter(query, info, resource), limit=limit, token=query.get("continue", ""), exactly=exactly
    )
    metadata: dict[str, Any] = {"resourceVersion": str(page.version)}
    if page.token:
        metadata["continue"] = page.token
    if page.remaining is not None:
        metadata["remainingItemCount"] = page.remaining
    if tables.preferred(request.headers.get("Accept", "")):
        return _json(tables.render(resource, page.entries, metadata, now))
    # The items of a list have no kind and apiVersion.
    prefix = _prefix(resource)
    items = b",".join(
        b"{" + entry.body[len(prefix) :] if entry.body.startswith(prefix) else entry.body for entry in page.entries
    )
    head = msgspec.json.encode({"kind": f"{resource.kind}List", "apiVersion": resource.api_version})
    return _json(b"".join((head[:-1], b',"metadata":', msgspec.json.encode(metadata), b',"items":[', items, b"]}\n")))


async def watch(
    server: State, request: web.BaseRequest, info: RequestInfo, resource: Resource, bookmark_interval: float
) -> web.StreamResponse:
    """Send events, one JSON document per line, until the timeout that the client asked for."""
    storage, query = server.storage, request.query
    selected = _filter(query, info, resource)
    initial = flag(query, "sendInitialEvents")
    if initial and query.get("resourceVersionMatch") != "NotOlderThan":
        message = "resourceVersionMatch is required, and must be NotOlderThan, when sendInitialEvents is set"
        raise errors.invalid("ListOptions.meta.k8s.io", "resourceVersionMatch", message)
    version = _version(query)
    initial_objects: list[Entry] = []
    if initial or version == 0:
        if version > storage.version:
            raise errors.too_large_version(version, storage.version)
        initial_objects = [entry for entry in storage.entries(resource) if selected.matches(entry)]
        version = storage.version
    too_old: errors.ApiError | None = None
    try:
        subscription = storage.watch(resource, selected, version)
    except errors.ApiError as error:
        if error.code != 410 or server.faults.expired_as_status:
            raise
        too_old = error
    response = _WatchResponse(server, request, resource)
    await response.open()
    if too_old is not None:
        await response.error(too_old)
        return await response.close()
    server.counters.open_watches += 1
    try:
        await response.events(("ADDED", entry) for entry in initial_objects)
        if initial and flag(query, "allowWatchBookmarks"):
            await response.bookmark(version, initial_end=True)
        await _send_events(server, response, subscription, query, bookmark_interval)
    finally:
        server.counters.open_watches -= 1
        storage.unwatch(subscription)
    return await response.close()


async def _send_events(
    server: State,
    response: "_WatchResponse",
    subscription: WatchSubscription,
    query: Mapping[str, str],
    bookmark_interval: float,
) -> None:
    if server.faults.misbehaves(Misbehaviour.SHORT_WATCHES):
        return
    loop = asyncio.get_running_loop()
    seconds = _number(query, "timeoutSeconds") or random.uniform(1800, 3600)  # noqa: S311  as the real API server
    deadline = loop.time() + seconds
    bookmarks = flag(query, "allowWatchBookmarks")
    due = loop.time() + bookmark_interval if bookmarks else deadline
    while True:
        await subscription.wait(max(0.0, min(due, deadline) - loop.time()))
        await response.events(subscription.take())
        if subscription.failure is not None:
            await response.error(subscription.failure)
            return
        now = loop.time()
        if bookmarks and now >= min(due, deadline) and not subscription.has_events:
            version = server.storage.version  # a bookmark promises that all events up to it were sent
            await response.bookmark(version)
            due = now + bookmark_interval
            while server.faults.misbehaviour is Misbehaviour.BOOKMARK_FLOOD:
                await response.bookmark(version, count=1000)
        if now >= deadline:
            return


class _WatchResponse:
    """The response to one watch, with objects or tables."""

    def __init__(self, server: State, request: web.BaseRequest, resource: Resource) -> None:
        self._server = server
        self._request = request
        self._resource = resource
        self._table = tables.preferred(request.headers.get("Accept", ""))
        self._response = web.StreamResponse(headers={"Content-Type": "application/json"})

    async def open(self) -> None:
        """Send the headers."""
        self._response.enable_chunked_encoding()
        await self._server.connections.wait_until_thawed(self._request)
        await self._response.prepare(self._request)

    async def events(self, events: Iterable[tuple[str, Entry]]) -> None:
        """Send events, many of them in one chunk."""
        lines: list[bytes] = []
        size = 0
        for kind, entry in events:
            lines.append(self._line(kind, entry))
            size += len(lines[-1])
            if size > _CHUNK_BYTES:
                await self._send(b"".join(lines))
                lines, size = [], 0
        if lines:
            await self._send(b"".join(lines))

    async def bookmark(self, version: int, *, initial_end: bool = False, count: int = 1) -> None:
        """Send a BOOKMARK event, or `count` of them."""
        metadata: dict[str, Any] = {"resourceVersion": str(version), "creationTimestamp": None}
        if initial_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        document = {"kind": self._resource.kind, "apiVersion": self._resource.api_version, "metadata": metadata}
        await self._send((msgspec.json.encode({"type": "BOOKMARK", "object": document}) + b"\n") * count)

    async def error(self, error: errors.ApiError) -> None:
        """Send an ERROR event."""
        await self._send(msgspec.json.encode({"type": "ERROR", "object": error.status}) + b"\n")

    async def close(self) -> web.StreamResponse:
        """End the body."""
        await self._server.connections.wait_until_thawed(self._request)
        with contextlib.suppress(ConnectionError):
            await self._response.write_eof()
        return self._response

    def _line(self, kind: str, entry: Entry) -> bytes:
        body = entry.body
        if self._table:
            metadata = {"resourceVersion": str(entry.version)}
            body = tables.render(self._resource, [entry], metadata, time.time())
        return b'{"type":"%b","object":%b}\n' % (kind.encode(), body)

    async def _send(self, data: bytes) -> None:
        await self._server.connections.wait_until_thawed(self._request)
        await self._response.write(data)


def _filter(query: Mapping[str, str], info: RequestInfo, resource: Resource) -> Filter:
    return Filter(resource, info.namespace, query.get("labelSelector", ""), query.get("fieldSelector", ""))


def _prefix(resource: Resource) -> bytes:
    return b'{"kind":"%b","apiVersion":"%b",' % (resource.kind.encode(), resource.api_version.encode())


def _version(query: Mapping[str, str]) -> int:
    text = query.get("resourceVersion", "")
    if text and not text.isdecimal():
        raise errors.invalid("ListOptions.meta.k8s.io", "resourceVersion", f'Invalid value: "{text}"')
    return int(text or 0)


def _number(query: Mapping[str, str], key: str) -> int:
    text = query.get(key, "") or "0"
    if not text.isdecimal():
        raise errors.bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax ({key})')
    return int(text)


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")
