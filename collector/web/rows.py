"""What questions and the JSON API's answers have in common: parameters, pages and the encoding."""

from collections.abc import Collection

import msgspec
from aiohttp import web

__all__ = ["check_parameters", "json_answer", "paging"]

_LIMIT = 1000
_LIMIT_MOST = 10_000


def json_answer(value: object) -> web.Response:
    """Answer a value as JSON."""
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", charset="utf-8")


def check_parameters(request: web.Request, known: Collection[str], *, repeatable: Collection[str] = ()) -> None:
    """Refuse a question with a parameter that is not known or comes too often; raises HTTPBadRequest."""
    for key in request.query:
        if key not in known:
            expected = ", ".join(sorted(known))
            raise web.HTTPBadRequest(text=f'unknown parameter "{key}"; expected one of {expected}')
        if key not in repeatable and len(request.query.getall(key)) > 1:
            raise web.HTTPBadRequest(text=f"{key}: expected one value")


def paging(request: web.Request) -> tuple[int, int]:
    """Read `limit` and `offset` of a question; raises HTTPBadRequest."""
    values = []
    for key, default, least, most in (("limit", _LIMIT, 1, _LIMIT_MOST), ("offset", 0, 0, 2**53)):
        text = request.query.get(key, str(default))
        if not (text.isascii() and text.isdigit() and len(text) < 17 and least <= int(text) <= most):
            raise web.HTTPBadRequest(text=f"{key}: expected a whole number from {least} to {most}")
        values.append(int(text))
    return values[0], values[1]
