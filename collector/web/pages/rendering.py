"""Renders HTML: the templates and their common filters and values."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import anyio.to_thread
import jinja2
import jinja2.meta
from aiohttp import web

from collector import __version__
from collector.health import degradations, worst_level
from collector.text import counted, printable
from collector.views import humanize
from collector.views.alterations import describe_changes, describe_counters
from collector.views.condition import REASON_WORDS, turn_of
from collector.views.cooperative import yielding
from collector.views.placements import in_words, last_condition
from collector.views.recent_changes import current_place
from collector.views.replacements import exchanges
from collector.views.trays import last_known_chassis
from collector.web.keys import COLLECTOR
from collector.web.pages import links
from collector.web.pages.qr import qr_code
from collector.web.pages.static import SCRIPTS, STATIC_PATHS, STYLESHEETS
from collector.web.public_url import local_path, public_url

__all__ = ["error_page", "links_at", "page", "wants_page"]

NAVIGATION = (  # the key to press after "g", the name of the area, and its path
    ("f", "Fleet", "/"),
    ("g", "GPUs", "/gpus"),
    ("n", "Nodes", "/nodes"),
    ("c", "Changes", "/changes"),
    ("h", "Health", "/health"),
)
ADVICE = {404: "This page does not exist. Search above for a serial, UUID, chassis, node or machine."}  # by status


async def page(request: web.Request, template: str, *, code: int = 200, **values: Any) -> web.Response:
    """Return a rendered page, yielding to other tasks while rendering a long one."""
    if template not in _compiled:
        await _compile_once(template)
    pieces = _templates.get_template(template).generate(_common(request) | values)
    text = "".join([piece async for piece in yielding(pieces)])
    response = web.Response(text=text, status=code, content_type="text/html", charset="utf-8")
    response.enable_compression()
    return response


def links_at(request: web.Request, at: str) -> dict[str, Any]:
    """Return the values of a page whose links keep the same time (RFC 3339) where such pages exist."""
    root = public_url(request).prefix
    areas = {"/": {"at": at}, "/changes": {"until": at}}
    return {
        "at_text": at,
        "area_url": lambda path: root + links.address(path, areas.get(path, {})),
        **{name: functools.partial(_below_at, root, at, PATHS[name]) for name in PATHS_WITH_A_PAST},
    }


def wants_page(request: web.Request) -> bool:
    """Return whether the client is a browser, which gets even errors as pages; others get one line."""
    return "text/html" in request.headers.get("Accept", "") and not local_path(request).startswith("/api/")


async def error_page(request: web.Request, error: web.HTTPException) -> web.Response:
    """Return an error as a page with the error's own text."""
    message = error.text or ""
    if not message or message == f"{error.status}: {error.reason}":
        message = ADVICE.get(error.status, "")
    here = public_url(request).prefix + local_path(request) if request.query.get("at") else ""
    return await page(
        request, "error.html", code=error.status, reason=error.reason, message=message, live=False, page_now=here
    )


async def _compile_once(template: str) -> None:
    """Compile a template in a thread, for it takes a tenth of a second; one at a time, for all threads share a lock."""
    async with _compiling:
        if template not in _compiled:
            await anyio.to_thread.run_sync(_compile, template)


def _compile(template: str) -> None:
    """Compile a template and all that it refers to."""
    source, _, _ = _loader.get_source(_templates, template)
    for other in jinja2.meta.find_referenced_templates(_templates.parse(source)):
        if other is not None and other not in _compiled:
            _compile(other)
    _templates.get_template(template)  # which keeps it
    _compiled.add(template)


def _common(request: web.Request) -> dict[str, Any]:
    collector = request.app[COLLECTOR]
    public, here = public_url(request), local_path(request)
    root = public.prefix
    return {
        "root": root,
        "here": here,
        "area": _area(here),
        "looks_back": _looks_back(here) and collector.past is not None,
        "at_text": "",
        "area_url": lambda path: root + path,
        "live": request.method != "POST"
        and "at" not in request.query,  # the past does not change, and forms are not sent again
        "qr_code": functools.partial(qr_code, public),
        "public_address": public.address,
        **{name: functools.partial(_below, root, path) for name, path in PATHS.items()},
        "now": collector.now(),
        "mark_of": lambda gpu: collector.marks.of(gpu.uuid, gpu.serial, collector.now()),
        "condition_of": lambda gpu: last_condition(collector, gpu.uuid),
        "term": request.query.get("q", "") if here == "/search" else "",
        "current_place": functools.partial(current_place, inventory=collector.inventory),
    }


def _named(values: Iterable[str], everything: str, chosen: str) -> dict[str, str]:
    """Return the options of a selection, including the chosen name even if nothing has it now."""
    names = dict.fromkeys(values)
    return {"": everything} | {name: name for name in ({**names, chosen: None} if chosen else names)}


def _looks_back(path: str) -> bool:
    """Return whether a page has past versions."""
    return path == "/" or path.startswith(("/clusters/", "/gpus/", "/chassis/"))


def _area(path: str) -> str:
    """Return the navigation area of a page."""
    if path.startswith("/clusters"):
        return "Nodes" if "/nodes/" in path else "Fleet"
    if path.startswith("/chassis/"):
        return "Nodes"
    return next(
        (name for _, name, start in NAVIGATION if path == start or (start != "/" and path.startswith(start))), ""
    )


def _below(root: str, path: Callable[..., str], *arguments: Any, **filters: Any) -> str:
    """Return a URL below the path prefix under which a proxy publishes this server."""
    local = path(*arguments, **filters)
    return root + local if local else ""


def _below_at(root: str, at: str, path: Callable[..., str], *arguments: Any) -> str:
    """Return such a URL for a past time."""
    return root + links.address(path(*arguments), {"at": at})


PATHS: dict[str, Callable[..., str]] = {
    "cluster_url": links.cluster_url,
    "node_url": links.node_url,
    "chassis_url": links.chassis_url,
    "gpu_url": links.gpu_url,
    "gpus_url": links.gpus_url,
    "problem_url": links.problem_url,
    "search_url": links.search_url,
    "address": links.address,
}
PATHS_WITH_A_PAST = ("cluster_url", "node_url", "chassis_url", "gpu_url")
_loader = jinja2.PackageLoader("collector.web")
_templates = jinja2.Environment(
    loader=_loader,
    autoescape=True,
    finalize=lambda value: printable(value) if type(value) is str else value,  # not for what is already HTML
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_compiled: set[str] = set()  # with all that they refer to
_compiling = anyio.Lock()
_templates.filters |= {
    "utc": humanize.utc,
    "ago": humanize.ago,
    "clock": humanize.clock,
    "day_name": humanize.day_name,
    "duration": humanize.duration,
    "counted": counted,
    "describe_changes": describe_changes,
    "describe_status": humanize.describe_status,
    "describe_failure": humanize.describe_failure,
    "describe_unread": humanize.describe_unread,
    "last_known_chassis": last_known_chassis,
    "level_words": lambda level: humanize.LEVEL_WORDS[level],
    "level_of": worst_level,
    "reasons_of": degradations,
    "seat_words": in_words,
    "reason_words": lambda reason: REASON_WORDS[reason],
    "percent": humanize.percent,
    "problem_anchor": links.problem_anchor,
    "counters": describe_counters,
    "ticket_name": links.ticket_name,
    "ticket_url": links.ticket_url,
    "turn_of": turn_of,
}
_templates.globals |= {
    "version": __version__,
    "static": STATIC_PATHS,
    "stylesheets": STYLESHEETS,
    "scripts": SCRIPTS,
    "navigation": NAVIGATION,
    "level_words": humanize.LEVEL_WORDS.get,
    "reason_text": REASON_WORDS.get,
    "named": _named,
    "coverage": humanize.describe_coverage,
    "exchanges": exchanges,
    "gpu_path": links.gpu_url,  # as the API has it, too
    "node_path": links.node_url,
    "gpu_history_path": links.gpu_history_path,
    "node_history_path": links.node_history_path,
}
