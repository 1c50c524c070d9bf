"""The encoding of the JSON API's answers."""

import msgspec
from aiohttp import web

__all__ = ["json_answer"]


def json_answer(value: object) -> web.Response:
    """Return a value as a JSON response."""
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", charset="utf-8")
