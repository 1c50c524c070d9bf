"""The look-up in the JSON API: many ids at once, and suggestions while typing."""

import anyio.to_thread
import msgspec
from aiohttp import web

from collector.text import one_line
from collector.views.lookup import lookup as look_up
from collector.views.lookup_rows import lookup_answer, lookup_rows
from collector.views.matches import Kind
from collector.views.suggestions import MAX_SUGGESTIONS, Suggestion, suggest
from collector.views.terms import MAX_TERMS, Term, parse_term, parse_terms
from collector.web import operations
from collector.web.answers import asked, csv_asked, json_answer
from collector.web.bodies import read_body
from collector.web.keys import COLLECTOR
from collector.web.messages import LookupBody
from collector.web.pages.links import chassis_url, cluster_url, gpu_url, gpus_url, node_url, search_url
from collector.web.pages.lookup import MAX_BODY_BYTES, MAX_MATCHES, csv_answer
from collector.web.problem import Code, coded
from collector.web.public_url import public_url

__all__ = ["lookup", "suggestions"]


async def lookup(request: web.Request) -> web.Response:
    """Look up to 10,000 ids up, and return a result for each in order, including those not found.

    The body is JSON, `{"ids": [...]}` with one id each, or text with any separators. The response is JSON or, with
    `format=csv` or `Accept: text/csv`, a CSV file with a row per match.
    """
    as_csv = csv_asked(request, asked(request, operations.LOOK_UP_GPUS))
    terms = await _terms(request)
    view = request.app[COLLECTOR]
    answer = await look_up(view, terms, most=MAX_MATCHES)
    if as_csv:
        return await csv_answer(lookup_rows(view, answer), "gpuid-lookup.csv")
    return json_answer(await lookup_answer(view, answer))


async def suggestions(request: web.Request) -> web.Response:
    """Return completions of the text in `q`, each with the path of its page."""
    text = asked(request, operations.SUGGEST)["q"]
    prefix = public_url(request).prefix
    found = await suggest(request.app[COLLECTOR], text, most=MAX_SUGGESTIONS)
    return json_answer(
        {
            "suggestions": [
                {"text": one.text, "kind": one.kind, "detail": one.detail, "url": prefix + _path(one)} for one in found
            ]
        }
    )


async def _terms(request: web.Request) -> list[Term]:
    kind = request.content_type
    if kind not in ("application/json", "text/plain", "text/csv"):
        raise web.HTTPUnsupportedMediaType(text="expected Content-Type: application/json, text/plain or text/csv")
    body = await read_body(request, MAX_BODY_BYTES)
    try:
        terms = await anyio.to_thread.run_sync(_parse, body, kind == "application/json")
    except UnicodeDecodeError:
        raise coded(web.HTTPBadRequest(text="body: expected UTF-8 text"), Code.INVALID_BODY) from None
    except (ValueError, RecursionError) as error:
        raise coded(web.HTTPBadRequest(text=one_line(f"body: {error}", 300)), Code.INVALID_BODY) from None
    if not terms:
        raise coded(web.HTTPBadRequest(text="body: expected at least one id"), Code.INVALID_BODY)
    return terms


def _parse(body: bytes, is_json: bool) -> list[Term]:
    if not is_json:
        return parse_terms(body.decode())
    ids = msgspec.json.decode(body, type=LookupBody).ids
    if len(ids) > MAX_TERMS:
        raise ValueError(f"expected at most {MAX_TERMS:,} ids at once, got {len(ids):,}; split the request")
    return [parse_term(one, number) for number, one in enumerate(ids, 1)]


def _path(one: Suggestion) -> str:
    if one.uuid is not None:
        return gpu_url(one.uuid)
    if one.cluster is not None:
        return cluster_url(one.cluster)
    if one.kind is Kind.NODE and one.place is not None:
        return node_url(one.place)
    if one.kind is Kind.CHASSIS:
        return chassis_url(one.text)
    return gpus_url(model=one.text) if one.kind is Kind.MODEL else search_url(one.text)
