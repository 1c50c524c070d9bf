"""API responses: pages of rows as JSON or CSV, compressed and with ETags."""

import functools
import gzip
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import anyio.to_thread
import msgspec
from aiohttp import hdrs, web

from collector.text import printable_json
from collector.views.columns import Column, flat_columns, row_object
from collector.views.cooperative import yielding
from collector.views.csv_files import csv_header, csv_lines
from collector.views.listing import Listed
from collector.web.keys import COLLECTOR
from collector.web.operation import Operation
from collector.web.problem import InvalidParameterError
from collector.web.public_url import local_path, public_url
from collector.web.query import MAX_LIMIT, Query

__all__ = ["Pages", "answer", "asked", "compressing", "csv_asked", "json_answer", "row_answer"]

CSV_PART_ROWS = 500
JSON_PART_ROWS = 200
MIN_COMPRESSED_BYTES = 1024
COMPRESSION_LEVEL = 5
MAX_LINK_LENGTH = 4096  # characters of a Link header that clients accept; the body has `next` anyway

Pages = Callable[[Any, int], Awaitable[Listed[Any]]]  # returns the page after a cursor, with at most this many rows
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def asked(request: web.Request, operation: Operation) -> Query:
    """Return the checked parameters of a request."""
    return Query(request, operation.parameters, request.app[COLLECTOR].now())


def json_answer(value: object) -> web.Response:
    """Return a value as a JSON response, with unprintable characters escaped."""
    return _json(printable_json(msgspec.json.encode(value)))


def row_answer(row: msgspec.Struct, query: Query) -> web.Response:
    """Return one row as JSON, whole or only the columns in `fields`."""
    chosen = query["fields"]
    return json_answer(row if chosen is None else _part(row_object(row), chosen))


async def answer(request: web.Request, query: Query, operation: Operation, page: Pages) -> web.StreamResponse:
    """Return one page of rows with a Link to the next; all rows if CSV is requested without limit."""
    as_csv = csv_asked(request, query)
    streams = as_csv and "limit" not in query
    try:
        listed: Listed[msgspec.Struct] = await page(query["after"], MAX_LIMIT if streams else query["limit"])
    except ValueError as error:
        raise InvalidParameterError("after", str(error)) from None
    if streams:
        return await _stream_csv(request, query, operation.answer, _pages(listed, page))
    following = None if listed.next is None else str(listed.next)
    if as_csv:
        columns = _csv_columns(operation.answer, query["fields"])
        text = [csv_header(columns)]
        text += [csv_lines(map(row_object, part), columns) async for part in _parts(listed.rows, CSV_PART_ROWS)]
        response = web.Response(text="".join(text), content_type="text/csv")
    else:
        response = await _json_list(listed, operation, following, query["fields"])
    if following is not None and (link := _next_link(request, following)):
        response.headers[hdrs.LINK] = link
    response.headers[hdrs.VARY] = hdrs.ACCEPT
    return response


async def _json_list(
    listed: Listed[Any], operation: Operation, following: str | None, chosen: Sequence[str] | None
) -> web.Response:
    encoded: list[bytes] = []
    async for part in _parts(listed.rows, JSON_PART_ROWS):
        rows: Any = part if chosen is None else [_part(row_object(row), chosen) for row in part]
        encoded.append(printable_json(msgspec.json.encode(rows))[1:-1])
    rest: dict[str, object] = {"next": following}
    if operation.total:
        rest["total"] = listed.total
    name = msgspec.json.encode(operation.rows)
    return _json(b"{" + name + b":[" + b",".join(encoded) + b"]," + msgspec.json.encode(rest)[1:])


async def _pages(first: Listed[msgspec.Struct], page: Pages) -> AsyncIterator[list[msgspec.Struct]]:
    while True:
        yield first.rows
        if first.next is None:
            return
        first = await page(first.next, MAX_LIMIT)


def csv_asked(request: web.Request, query: Query) -> bool:
    """Return whether CSV is requested, by `format` or else by the Accept header."""
    if "format" in query:
        return bool(query["format"] == "csv")
    accepted = weights(request.headers.get(hdrs.ACCEPT, ""))
    return accepted.get("text/csv", 0.0) > accepted.get("application/json", 0.0)


def weights(header: str) -> dict[str, float]:
    """Return the names in an Accept header, in lower case, with their weights; 0 means not acceptable."""
    found: dict[str, float] = {}
    for one in header.lower().split(","):
        name, *parameters = (part.strip() for part in one.split(";"))
        weight = next((part.partition("=")[2] for part in parameters if part.startswith("q=")), "1")
        try:
            found[name] = float(weight)
        except ValueError:
            found[name] = 0.0
    return found


async def _stream_csv(
    request: web.Request, query: Query, kind: type[msgspec.Struct], pages: AsyncIterator[list[msgspec.Struct]]
) -> web.StreamResponse:
    """Stream all rows as CSV: they are never in memory all at once."""
    headers = {hdrs.VARY: f"{hdrs.ACCEPT}, {hdrs.ACCEPT_ENCODING}", hdrs.CACHE_CONTROL: "private, no-cache"}
    if request.method == hdrs.METH_HEAD:
        return web.Response(content_type="text/csv", charset="utf-8", headers=headers)
    response = web.StreamResponse(headers=headers)
    response.content_type, response.charset = "text/csv", "utf-8"
    if weights(request.headers.get(hdrs.ACCEPT_ENCODING, "")).get("gzip", 0.0) > 0:
        response.enable_compression(web.ContentCoding.gzip)
    await response.prepare(request)
    columns = _csv_columns(kind, query["fields"])
    await response.write(csv_header(columns).encode())
    async for page in pages:
        async for part in _parts(page, CSV_PART_ROWS):
            await response.write(csv_lines(map(row_object, part), columns).encode())
    await response.write_eof()
    return response


@web.middleware
async def compressing(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Add ETags below /api, compress responses, and answer 304 if the client's copy is current."""
    answer = await handler(request)
    below_api = local_path(request).startswith("/api/")
    if not below_api or request.method not in (hdrs.METH_GET, hdrs.METH_HEAD) or answer.status != 200:
        return answer
    answer.headers.setdefault(hdrs.CACHE_CONTROL, "private, no-cache")
    body = answer.body if isinstance(answer, web.Response) else None
    if not isinstance(answer, web.Response) or not isinstance(body, bytes):
        return answer
    vary = answer.headers.get(hdrs.VARY)
    answer.headers[hdrs.VARY] = f"{vary}, {hdrs.ACCEPT_ENCODING}" if vary else hdrs.ACCEPT_ENCODING
    wanted = weights(request.headers.get(hdrs.ACCEPT_ENCODING, ""))
    zipped = wanted.get("gzip", wanted.get("*", 0.0)) > 0 and len(body) >= MIN_COMPRESSED_BYTES
    # Not on the event loop: ten thousand rows take several megabytes.
    tag, sent = await anyio.to_thread.run_sync(functools.partial(_tagged, body, zipped=zipped))
    if _has_already(request, tag):
        kept = {name: answer.headers[name] for name in (hdrs.VARY, hdrs.CACHE_CONTROL)}
        return web.Response(status=304, headers={**kept, hdrs.ETAG: f'W/"{tag}"'})
    answer.headers[hdrs.ETAG] = f'W/"{tag}"'
    if zipped:
        answer.headers[hdrs.CONTENT_ENCODING] = "gzip"
        answer.body = sent
    return answer


def _tagged(body: bytes, *, zipped: bool) -> tuple[str, bytes]:
    tag = hashlib.blake2b(body, digest_size=12).hexdigest()
    return tag, gzip.compress(body, COMPRESSION_LEVEL, mtime=0) if zipped else body


def _has_already(request: web.Request, tag: str) -> bool:
    return any(one.value in (tag, "*") for one in request.if_none_match or ())


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json", charset="utf-8")


def _next_link(request: web.Request, after: str) -> str:
    query = [(name, value) for name, value in request.query.items() if name != "after"]
    link = f'<{public_url(request).prefix}{local_path(request)}?{urlencode([*query, ("after", after)])}>; rel="next"'
    return link if len(link) <= MAX_LINK_LENGTH else ""


def _csv_columns(kind: type[msgspec.Struct], chosen: Sequence[str] | None) -> list[Column]:
    every = flat_columns(kind)
    if chosen is None:
        return list(every)
    found = [column for name in chosen for column in every if f"{column.name}.".startswith(f"{name}.")]
    return list(dict.fromkeys(found))


def _part(row: Mapping[str, Any], chosen: Sequence[str]) -> dict[str, Any]:
    """Return some columns of a row; of an object, all fields or those whose paths are chosen."""
    found: dict[str, Any] = {}
    for path in chosen:
        name, dot, field = path.partition(".")
        value = row.get(name)
        if not dot or not isinstance(value, Mapping):
            found[name] = value
        elif isinstance(inner := found.setdefault(name, {}), dict):
            inner.setdefault(field, value.get(field))
    return found


async def _parts(rows: Sequence[msgspec.Struct], size: int) -> AsyncIterator[Sequence[msgspec.Struct]]:
    async for start in yielding(range(0, len(rows), size)):
        yield rows[start : start + size]
