"""The encoding of the JSON API's answers."""

import msgspec
from aiohttp import web

from collector.text import printable_json

__all__ = ["json_answer"]


def json_answer(value: object) -> web.Response:
    """Return a value as a JSON response, with escapes for what does not print."""
    return web.Response(
        body=printable_json(msgspec.json.encode(value)), content_type="application/json", charset="utf-8"
    )
