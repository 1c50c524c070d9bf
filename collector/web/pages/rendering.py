"""Turns what the handlers found into HTML: the templates, and what all of them have at hand."""

import functools
import hashlib
from pathlib import Path
from typing import Any

import jinja2
from aiohttp import web

from collector import __version__
from collector.views import humanize as words
from collector.views.cooperative import in_slices
from collector.views.recent_changes import found_since
from collector.web.context import CONTEXT
from collector.web.pages import links

__all__ = ["STATIC", "compile_templates", "error_page", "fragment", "page", "wants_page"]

STATIC = Path(__file__).parents[1] / "static"


def compile_templates() -> None:
    """Make every template ready now, so that the first user does not wait for it."""
    for name in _templates.list_templates():
        _templates.get_template(name)


async def page(request: web.Request, template: str, *, code: int = 200, **values: Any) -> web.Response:
    """Answer a page; a long one is written in slices."""
    pieces = _templates.get_template(template).generate(_common(request) | values)
    text = "".join([piece async for piece in in_slices(pieces)])
    response = web.Response(text=text, status=code, content_type="text/html", charset="utf-8")
    response.enable_compression()
    return response


def fragment(request: web.Request, template: str, **values: Any) -> str:
    """Write a small part of a page."""
    return _templates.get_template(template).render(_common(request) | values)


def wants_page(request: web.Request) -> bool:
    """Tell whether a browser asks, which wants even refusals to be pages; others are answered in one line."""
    return "text/html" in request.headers.get("Accept", "") and not request.path.startswith("/api/")


async def error_page(request: web.Request, error: web.HTTPException) -> web.Response:
    """Answer a refusal as a page; its text is what the error says."""
    said = error.text or ""
    if not said or said == f"{error.status}: {error.reason}":
        said = _ADVICE.get(error.status, "")
    return await page(request, "error.html", code=error.status, reason=error.reason, said=said)


_ADVICE = {404: "There is no such page here. The search above finds serials, UUIDs, chassis, nodes and machines."}


def _common(request: web.Request) -> dict[str, Any]:
    context = request.app[CONTEXT]
    return {
        "now": context.clock(),
        "term": request.query.get("q", ""),
        "found_since": functools.partial(found_since, inventory=context.inventory),
    }


def _version_of(name: str) -> str:
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]


_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("collector.web"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters |= {
    "utc": words.utc,
    "ago": words.ago,
    "span": words.span,
    "counted": words.counted,
    "state_words": words.state_words,
    "failure_words": words.failure_words,
    "search_url": links.search_url,
}
_templates.globals |= {
    "version": __version__,
    # A new release must not meet an old script in the browser's cache, so the address changes with the content.
    "static": {name: f"/static/{name}?v={_version_of(name)}" for name in ("page.css", "page.js", "icon.svg")},
    "cluster_url": links.cluster_url,
    "node_url": links.node_url,
    "gpu_url": links.gpu_url,
    "history_of": links.node_history,
    "address": links.address,
}
