"""The look-up in the JSON API: many ids at once, and suggestions while somebody types."""

import anyio.to_thread
import msgspec
from aiohttp import web

from collector.text import one_line
from collector.timestamps import rfc3339
from collector.views.cooperative import yielding
from collector.views.lookup import lookup as look_up
from collector.views.lookup_rows import describe_searched, lookup_rows, result_object
from collector.views.matches import Kind, Lookup, Searched
from collector.views.suggestions import MAX_SUGGESTIONS, Suggestion, suggest
from collector.views.terms import MAX_TERM_LENGTH, MAX_TERMS, Term, parse_term, parse_terms
from collector.web.answers import json_answer
from collector.web.bodies import read_body
from collector.web.keys import COLLECTOR
from collector.web.pages.links import address, cluster_url, gpu_url, node_url, search_url
from collector.web.pages.lookup import MAX_BODY_BYTES, MAX_MATCHES, csv_answer
from collector.web.params import check_parameters, choice
from collector.web.public_url import public_url

__all__ = ["lookup", "suggestions"]


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request that looks ids up."""

    ids: list[str]


async def lookup(request: web.Request) -> web.Response:
    """Return what each of up to 10,000 ids names, in their order, those that name nothing as well.

    The body is JSON, `{"ids": [...]}`, each of which is one id, or text in any separation. The answer is JSON, or with
    `format=csv` or `Accept: text/csv` a CSV file with a row for each match.
    """
    check_parameters(request, {"format"})
    as_csv = choice(request, "format", ("", "json", "csv")) == "csv"
    if "format" not in request.query:
        as_csv = "text/csv" in request.headers.get("Accept", "")
    terms = await _terms(request)
    view = request.app[COLLECTOR]
    answer = await look_up(view, terms, most=MAX_MATCHES)
    if as_csv:
        return await csv_answer(lookup_rows(view, answer), "gpuid-lookup.csv")
    found = sum(bool(result.matches) for result in answer.results)
    return json_answer(
        {
            "results": [result_object(view, one, answer.searched) async for one in yielding(answer.results)],
            "found": found,
            "not_found": len(answer.results) - found,
            "searched": _searched(answer),
        }
    )


async def suggestions(request: web.Request) -> web.Response:
    """Return what the text in `q` may become, with the path of the page of each."""
    check_parameters(request, {"q"})
    text = request.query.get("q", "")
    if len(text) > MAX_TERM_LENGTH:
        raise web.HTTPBadRequest(text=f"q: expected at most {MAX_TERM_LENGTH} characters")
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
        raise web.HTTPUnsupportedMediaType(text="expected Content-Type: application/json or text/plain")
    body = await read_body(request, MAX_BODY_BYTES)
    try:
        terms = await anyio.to_thread.run_sync(_parse, body, kind == "application/json")
    except UnicodeDecodeError:
        raise web.HTTPBadRequest(text="body: expected text in UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise web.HTTPBadRequest(text=one_line(f"body: {error}", 300)) from None
    if not terms:
        raise web.HTTPBadRequest(text="body: expected at least one id")
    return terms


def _parse(body: bytes, is_json: bool) -> list[Term]:
    if not is_json:
        return parse_terms(body.decode())
    ids = msgspec.json.decode(body, type=_Body).ids
    if len(ids) > MAX_TERMS:
        raise ValueError(f"expected at most {MAX_TERMS:,} ids at once, got {len(ids):,}; look them up in several parts")
    return [parse_term(one, number) for number, one in enumerate(ids, 1)]


def _searched(answer: Lookup) -> dict[str, object]:
    searched: Searched = answer.searched
    return {
        "clusters": searched.clusters,
        "nodes": searched.nodes,
        "gpus": searched.gpus,
        "clusters_down": list(searched.down),
        "nodes_unread": searched.unread,
        "history": searched.history and not searched.history_error,
        "history_since": rfc3339(searched.history_since),
        "history_error": searched.history_error or None,
        "text": " ".join(describe_searched(searched)),
    }


def _path(one: Suggestion) -> str:
    if one.uuid is not None:
        return gpu_url(one.uuid)
    if one.cluster is not None:
        return cluster_url(one.cluster)
    if one.kind is Kind.NODE and one.place is not None:
        return node_url(one.place)
    return address("/gpus", {"model": one.text}) if one.kind is Kind.MODEL else search_url(one.text)
