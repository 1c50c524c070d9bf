"""Requests to the HTTP server."""

import asyncio
import base64
import functools
import json
import re
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, TypeVar
from unittest import mock
from urllib.parse import quote, unquote

import bcrypt
from aiohttp import StreamReader, web
from aiohttp.test_utils import make_mocked_request
from hypothesis import strategies as st
from yarl import URL

from collector.config import ServerSettings
from collector.marks import MarkKind, NewMark, check_id, parse_until
from collector.store import Position
from collector.views.listing import Cursor, Sort, Window
from collector.views.terms import parse_terms
from collector.web.answers import weights
from collector.web.application import LOOKUPS, ROUTES, WRITES, application
from collector.web.auth import OPEN_PATHS, _Authenticator
from collector.web.cursors import ChangeCursor, row_id
from collector.web.marks import MAX_BODY_BYTES
from collector.web.metrics import accepts_gzip, accepts_openmetrics
from collector.web.pages import STREAM
from tests.fuzz.documents import any_text, damaged, json_documents
from tests.fuzz.target import FOLDER, RESOURCES, Target, Targets, refusing, text_target
from tests.web.conftest import keeping, make_site

__all__ = ["TARGETS"]

T = TypeVar("T")


class _Site:
    """A collector with a history, whose handlers are called as aiohttp does, without a socket."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        opened, self._done = self._loop.create_future(), asyncio.Event()
        self._open_site = self._loop.create_task(self._keep_open(opened))
        self._app: web.Application = self._loop.run_until_complete(opened)

    async def _keep_open(self, opened: asyncio.Future[web.Application]) -> None:
        site = make_site()
        async with keeping(site, FOLDER) as store:
            assert await store.history_writer.flushed(30)
            app = application(site.collector, ServerSettings(basic_auth={"jane": _hash}))
            app.freeze()
            opened.set_result(app)
            await self._done.wait()

    def close(self) -> None:
        """Close the store, whose threads would keep the process from ending."""
        self._done.set()
        self._loop.run_until_complete(self._open_site)
        self._loop.close()

    def call(self, function: Callable[[str], Coroutine[Any, Any, T]], argument: str) -> T:
        """Await a function in the loop of the site."""
        return self._loop.run_until_complete(function(argument))

    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> int:
        """Return the status of the answer to a request."""
        payload = StreamReader(mock.Mock(_reading_paused=False), 1 << 16, loop=self._loop)
        payload.feed_data(body)
        payload.feed_eof()
        request = make_mocked_request(method, path, headers, app=self._app, payload=payload, loop=self._loop)
        request.writer.output_size = 0  # nothing of its answer has been sent

        async def ask() -> int:
            try:
                async with asyncio.timeout(None if STREAM not in path else 0.01):  # whose answer never ends
                    return (await self._app._handle(request)).status
            except TimeoutError:
                return HTTPStatus.OK
            except web.HTTPRedirection as redirect:  # which aiohttp sends as it sends an answer
                return redirect.status

        return self._loop.run_until_complete(ask())


_token_file = FOLDER / "token"
_token_file.write_text("hunter2")
_hash = bcrypt.hashpw(b"hunter2", bcrypt.gensalt(4)).decode()
LOGIN = "Basic " + base64.b64encode(b"jane:hunter2").decode()


@functools.cache
def _site() -> _Site:
    site = _Site()
    RESOURCES.callback(_site.cache_clear)
    RESOURCES.callback(site.close)
    return site


_authenticators = (
    _Authenticator(ServerSettings(basic_auth={"jane": _hash})),
    _Authenticator(ServerSettings(bearer_token_file=_token_file)),
)


def _authorization(header: str) -> None:
    header = header.encode(errors="surrogatepass").decode(errors="surrogateescape")  # as aiohttp decodes it
    for authenticator in _authenticators:
        assert not _site().call(authenticator.admits, header)


authorizations = st.builds(
    lambda scheme, value: f"{scheme} {value}",
    st.sampled_from(["Basic", "basic", "Bearer", ""]),
    st.binary().map(lambda data: data.decode(errors="surrogateescape"))
    | st.binary().map(lambda data: base64.b64encode(b"jane:" + data).decode()),
)
PATHS = (
    *("/", "/api/v1/clusters", "/api/v1/nodes", "/api/v1/gpus", "/api/v1/changes", "/api/v1/gpus/x/history", "/search"),
    *("/lookup", "/api/v1/suggest"),
    *(
        "/api/v1/nodes/x/history",
        "/changes",
        "/gpus",
        "/gpus/x",
        "/nodes/a/x",
        "/clusters/a",
        "/sd",
        "/readyz",
        "/healthz",
    ),
)
KEYS = (
    "limit",
    "offset",
    "since",
    "until",
    "after",
    "before",
    "cluster",
    "node",
    "serial",
    "q",
    "ids",
    "page",
    "event",
    "sort",
)
VALUES = (
    *(
        "",
        "0",
        "-1",
        "1",
        "9" * 20,
        "%00",
        "%ff",
        "%ed%a0%80",
        "%F0%9F%98%80",
        "%1b%5b2J",
        "%e2%80%ae",
        "1e9",
        "nan",
        "٣",
    ),
    *("0001-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59-23:59", "2026-W01-1", "2026-11-24", "present-1.5-1", "moved"),
    *(
        "past-999999999999999.99999999999999999999-999999999999999999",
        "%25",
        "%2f..%2f",
        "a%0d%0ab",
        "%27%20or%201=1",
        "*",
    ),
)
HEADERS = (
    *(
        "Accept",
        "Accept-Encoding",
        "If-None-Match",
        "Last-Event-ID",
        "Cookie",
        "Range",
        "Content-Type",
        "Host",
        "Origin",
    ),
    *("X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix", "Forwarded", "Sec-Fetch-Site", "Content-Encoding"),
    "Authorization",
)
HEADER_VALUES = (
    *(
        "*/*",
        "text/html",
        "text/csv",
        "gzip;q=0.5, *;q=0",
        "application/json",
        "text/plain; charset=utf-8",
        "same-origin",
    ),
    *("application/openmetrics-text; version=1.0.0", '"x"', "W/", "a=b; c=d", "bytes=0-", "host:99999", "[::1", "/a/b"),
    *("for=x;proto=https;host=[::1]:80", "application/x-www-form-urlencoded", "null", "http://[", "q=nan", ";q=1e999"),
    *("Bearer hunter2", "Basic amFuZTp3cm9uZw=="),
)
MARK = "/api/v1/gpus/100/mark"
FIELDS = ("kind", "note", "ticket", "until")
mark_bodies = st.one_of(
    st.builds(
        lambda kind, rest: json.dumps({"kind": kind, **rest}).encode(errors="surrogatepass"),
        st.sampled_from(["rma", "quarantine", "watch", "RMA", "", None]),
        st.dictionaries(
            st.sampled_from(FIELDS[1:]),
            st.none() | any_text | st.sampled_from(["7d", "2126-01-01T00:00:00Z", "https://x/1", "OPS-1", "x" * 501]),
            max_size=3,
        ),
    ).flatmap(damaged),
    json_documents(*FIELDS, values=["rma", "7d", "https://x/1"]),
)
JSON = {"Content-Type": "application/json"}
marks = st.tuples(
    st.sampled_from(["PUT", "PUT", "PUT", "DELETE"]),
    st.sampled_from([MARK, MARK, "/api/v1/gpus/GPU-a2/mark", "/api/v1/gpus/S9/mark", "/api/v1/gpus/%20/mark"]),
    st.just(JSON)
    | st.dictionaries(st.sampled_from(HEADERS), st.sampled_from(HEADER_VALUES), max_size=2).map(JSON.__or__),
    mark_bodies,
)
requests = marks | st.tuples(
    st.sampled_from(["GET", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"]),
    st.builds(
        lambda path, extra, query: (
            path + extra + ("?" + "&".join(f"{key}={value}" for key, value in query) if query else "")
        ),
        st.sampled_from([*PATHS, *ROUTES, *LOOKUPS, *(path for _, path, _ in WRITES)]),
        st.sampled_from(["", "", "", "/", "/%ff", "/%00", "/..", "%ed%a0%80"]),
        st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)), max_size=3),
    ),
    st.dictionaries(st.sampled_from(HEADERS), st.sampled_from(HEADER_VALUES), max_size=4),
    st.one_of(
        st.just(b""),
        json_documents("ids", "kind", "note", "ticket", "until", values=["rma", "7d", "https://x/1", "GPU-a1"]),
        any_text.map(lambda text: text.encode(errors="replace")),
        st.binary(max_size=40),
    ),
)
READ = {200, 303, 304, 400, 404, 405}  # of the pages and the API
LOOKED_UP = {200, 400, 413, 415}
NOT_HERE = {404, 405}


def _request(given: tuple[str, str, dict[str, str], bytes]) -> None:
    method, path, headers, body = given
    # What aiohttp lets through: a method in upper case, no control characters, and a path that begins with a slash.
    method = method.upper()
    path = "/" + quote(path[:2000].lstrip("/").encode(errors="replace"), safe="/?&=%")
    headers = {name: "".join(one for one in value if " " <= one <= "\xff") for name, value in headers.items()}
    named = {name.title(): value for name, value in headers.items()}
    headers = headers if "Authorization" in named else {**headers, "Authorization": LOGIN}
    status = _site().ask(method, path, headers, body)
    assert status in _allowed(method, URL(path, encoded=True), named, body), status
    if method == "PUT" and status == 200:  # so that no other request finds the mark
        assert _site().ask("DELETE", path, headers, b"") in ({200, 404} if b"until" in body else {200})


def _allowed(method: str, url: URL, headers: dict[str, str], body: bytes) -> set[int]:
    """Return the answers that a request may get."""
    if "\0" in url.path or "\0" in url.query_string:
        return {400}
    is_jane = headers.get("Authorization", LOGIN) == LOGIN
    if "X-Forwarded-Prefix" in headers:  # which may be part of the path
        return READ | LOOKED_UP | {403, 503} if is_jane else {401, *NOT_HERE, 200, 503}
    if not is_jane and url.raw_path not in OPEN_PATHS:
        return {401}
    if method in ("PUT", "DELETE") and (found := re.fullmatch("/api/v1/gpus/([^/]+)/mark", url.raw_path)):
        return _allowed_of_mark(method, url, unquote(found[1]), headers, body)
    if method == "POST" and url.path in LOOKUPS:
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return LOOKED_UP if kind in LOOKUP_KINDS[url.path] else {400, 415}
    if method in ("GET", "HEAD"):
        return READ | ({503} if url.path == "/readyz" else set())
    return NOT_HERE


LOOKUP_KINDS = {
    "/lookup": ["application/x-www-form-urlencoded"],
    "/api/v1/gpus/lookup": ["application/json", "text/plain", "text/csv"],
}


def _allowed_of_mark(method: str, url: URL, name: str, headers: dict[str, str], body: bytes) -> set[int]:
    """Return why a mark is refused, for all that is wrong with the request; success if nothing is."""
    if {*"{}"} & {*name}:  # which no route of aiohttp matches
        return {404}
    wrong = set()
    if url.query or not _is_valid(lambda: check_id(name)):
        wrong.add(400)
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if site not in (None, "same-origin", "none") or (site is None and origin is not None):
        wrong.add(403)
    if method == "PUT":
        if headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
            wrong.add(415)
        if headers.get("Content-Encoding", "identity") != "identity":
            wrong.add(415)
        if len(body) > MAX_BODY_BYTES:
            wrong.add(413)
        if not _is_mark(body):
            wrong.add(400)
    return wrong or ({404} if method == "DELETE" else {409} if name == TWINS else {200})


def _is_mark(body: bytes) -> bool:
    """Return whether the standard library reads a valid mark from a body."""
    try:
        fields = json.loads(body.decode())
    except (ValueError, RecursionError):
        return False
    if not isinstance(fields, dict) or not fields.keys() <= {*FIELDS} or fields.get("kind") not in MARK_KINDS:
        return False
    if not all(value is None or isinstance(value, str) for value in fields.values()):
        return False

    def make() -> None:
        until = None if fields.get("until") is None else parse_until(fields["until"], NOW)
        kind, note, ticket = MarkKind(fields["kind"]), fields.get("note") or "", fields.get("ticket") or ""
        NewMark(kind=kind, note=note, ticket=ticket, until=until).check_until(NOW)

    return _is_valid(make)


NOW = 1764000600.0  # of the site
TWINS = "900"  # the serial of two GPUs
MARK_KINDS = ["rma", "quarantine", "watch"]


def _is_valid(check: Callable[[], object]) -> bool:
    try:
        check()
    except ValueError:
        return False
    return True


def _cursors(text: str) -> None:
    """A cursor that is accepted is written the same way again."""
    with refusing(ValueError):
        cursor = Cursor.parse(text)
        assert Cursor.parse(str(cursor)) == cursor
        with refusing(ValueError):
            cursor.named(2, "node")
        for descending in (True, False):
            window = Window[int](Sort(cursor.sort.removeprefix("-"), descending), None, 2)
            window.add(cursor.value, cursor.row, lambda: 1)
        with refusing(ValueError):
            window = Window[int](Sort(""), cursor, 2)
            window.add(None, ("a", "b"), lambda: 1)
            window.page(None)
    with refusing(ValueError):
        change = ChangeCursor.parse(text)
        assert ChangeCursor.parse(str(change)) == change
    with refusing(ValueError):
        row_id(text)
    with refusing(ValueError):
        assert Position.parse(str(Position.parse(text))) == Position.parse(text)


cursors = st.one_of(
    st.builds(
        lambda sort, value, row: str(Cursor(sort, value, tuple(row))),
        st.sampled_from(["", "node", "-node", "since"]),
        st.none() | st.booleans() | st.integers(-(1 << 40), 1 << 40) | st.floats(-1e9, 1e9) | st.text(max_size=9),
        st.lists(st.text(max_size=9), max_size=3),
    ),
    json_documents().map(lambda body: base64.urlsafe_b64encode(body).decode()),
    st.sampled_from(["1-2.5", "present-1.5-1", "past-1764000000.0-17", *VALUES]),
)


def _headers(text: str) -> None:
    assert all(isinstance(one, float) for one in weights(text).values())
    accepts_gzip(text)
    accepts_openmetrics(text)


TARGETS: Targets = {
    "request": Target(_request, requests),
    "authorization": text_target(_authorization, authorizations),
    "cursor": text_target(_cursors, cursors | any_text),
    "header": text_target(_headers, st.sampled_from(HEADER_VALUES) | any_text),
    "terms": text_target(parse_terms, any_text, ValueError),
}
