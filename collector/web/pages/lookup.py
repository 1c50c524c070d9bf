"""The look-up page: many pasted ids at once, as a table or a CSV file; also the target of label scanners."""

from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs

import anyio.to_thread
from aiohttp import web

from collector.views.columns import columns, row_object
from collector.views.cooperative import yielding
from collector.views.csv_files import csv_header, csv_lines
from collector.views.lookup import lookup as look_up
from collector.views.lookup_rows import LookupRow, describe_searched, lookup_rows
from collector.views.matches import Lookup
from collector.views.terms import MAX_TERMS, Term, parse_term, parse_terms
from collector.web.bodies import read_body
from collector.web.keys import COLLECTOR
from collector.web.pages.rendering import page, wants_page

__all__ = ["MAX_BODY_BYTES", "MAX_MATCHES", "csv_answer", "lookup", "scan", "show_many", "terms_of"]

MAX_BODY_BYTES = 4 << 20  # 10,000 ids take half a megabyte in a form
MAX_MATCHES = 100  # of one id among many
MAX_SHOWN_ROWS = 1000  # of a table; the CSV file has all
SHORT_TEXT_LENGTH = 4000  # characters parsed at a time, which takes a few milliseconds
NO_ID = "No ids found in this text: paste at least one serial, UUID, node or chassis."
FORM = "application/x-www-form-urlencoded"


async def lookup(request: web.Request) -> web.Response:
    """Show the results for the ids in a form, or an empty form; with `format=csv`, return a file."""
    form = await _form(request)
    text, terms, code = form.get("ids", ""), list[Term](), 200
    wrong = NO_ID if request.method == "POST" else ""
    try:
        terms = await terms_of(request, text)
    except web.HTTPBadRequest as error:
        if not wants_page(request):
            raise
        wrong, code = error.text or "", error.status  # above the form, so that the pasted text can be corrected
    if not terms:
        return await page(
            request, "lookup.html", code=code, live=not wrong, text=text, wrong=wrong, most=MAX_TERMS, answer=None
        )
    answer = await look_up(request.app[COLLECTOR], terms, most=MAX_MATCHES)
    if form.get("format") == "csv":
        return await csv_answer(lookup_rows(request.app[COLLECTOR], answer), "gpuid-lookup.csv")
    return await show_many(request, answer, text)


async def show_many(request: web.Request, answer: Lookup, text: str, **values: Any) -> web.Response:
    """Show the results for several ids; `values` override the page's own."""
    view = request.app[COLLECTOR]
    rows: list[LookupRow] = []
    count = 0
    async for row in yielding(lookup_rows(view, answer)):
        count += 1
        if len(rows) < MAX_SHOWN_ROWS:
            rows.append(row)
    found = sum(bool(result.matches) for result in answer.results)
    return await page(
        request,
        "lookup.html",
        live=False,  # the form data is not in the URL from which a page refreshes
        text=text,
        wrong="",
        most=MAX_TERMS,
        answer=answer,
        rows=rows,
        count=count,
        found=found,
        missed=len(answer.results) - found,
        searched=" ".join(describe_searched(answer.searched)),
        **values,
    )


async def scan(request: web.Request) -> web.Response:
    """Show the page that reads labels with the camera, if the browser supports it."""
    return await page(request, "scan.html", live=False)


async def terms_of(request: web.Request, text: str) -> list[Term]:
    """Return the ids in a text, if any; raises HTTPBadRequest."""
    if text in request.app[COLLECTOR].clusters():  # whose names may have commas and blanks
        return [parse_term(text)]
    try:
        if len(text) <= SHORT_TEXT_LENGTH:
            return parse_terms(text)
        return await anyio.to_thread.run_sync(parse_terms, text)
    except ValueError as error:
        raise web.HTTPBadRequest(text=str(error)) from None


async def csv_answer(rows: Iterable[LookupRow], name: str) -> web.Response:
    """Return rows as a CSV file."""
    parts = [csv_header(columns(LookupRow))]
    parts += [csv_lines([row_object(row)], columns(LookupRow)) async for row in yielding(rows)]
    response = web.Response(text="".join(parts), content_type="text/csv", charset="utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.enable_compression()
    return response


async def _form(request: web.Request) -> dict[str, str]:
    """Return the fields of the form, the first of each name."""
    if request.method != "POST":
        return dict(request.query)
    if request.content_type != FORM:
        raise web.HTTPUnsupportedMediaType(text=f"expected Content-Type: {FORM}")
    body = await read_body(request, MAX_BODY_BYTES)
    try:
        fields = await anyio.to_thread.run_sync(lambda: parse_qs(body.decode(), max_num_fields=10))
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"body: expected a form in UTF-8: {error}") from None
    return {name: values[0] for name, values in fields.items()}
