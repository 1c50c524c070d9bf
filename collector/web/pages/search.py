"""The search page: results of the field at the top, for one id or many."""

from typing import Any

from aiohttp import web

from collector.model import Place
from collector.timestamps import as_of
from collector.views.lookup import lookup
from collector.views.lookup_rows import describe_no
from collector.views.matches import Kind, LookupResult, Match
from collector.web.keys import COLLECTOR
from collector.web.pages.links import address, chassis_url, cluster_url, gpu_url, node_url
from collector.web.pages.lookup import show_many, terms_of
from collector.web.pages.paging import PAGE_ROWS, window
from collector.web.pages.rendering import links_at, page
from collector.web.params import timestamp
from collector.web.public_url import public_url

__all__ = ["search", "target_of"]


async def search(request: web.Request) -> web.Response:
    """Show the results for a text, or redirect to the only result."""
    view, text = request.app[COLLECTOR], request.query.get("q", "").strip()
    at, then = _time(request)
    terms = await terms_of(request, text) if text else []
    if not terms:
        return await page(request, "search.html", looked_for="", **then)
    answer = await lookup(view, [one if one.at else one._replace(at=at) for one in terms])
    if len(answer.results) > 1:
        return await show_many(request, answer, "\n".join(one.term.text for one in answer.results), **then)
    (result,) = answer.results
    if (target := target_of(result)) is not None:
        raise web.HTTPSeeOther(public_url(request).prefix + target)
    part = window(request, len(result.matches))
    return await page(
        request,
        "search.html",
        looked_for=result.term.text,
        result=result,
        why="" if any(map(_is_known, result.matches)) else describe_no(result, answer.searched),
        searched=answer.searched,
        window=part,
        matches=result.matches[part.offset : part.offset + PAGE_ROWS],
        **then,
    )


def _time(request: web.Request) -> tuple[str, dict[str, Any]]:
    """Return the time of the results to show, and the values of a page whose links keep it."""
    if not request.query.get("at", "").strip() or (time := timestamp(request, "at", latest=True)) is None:
        return "", {}
    return as_of(time), links_at(request, as_of(time))


def target_of(result: LookupResult) -> str | None:
    """Return the URL of the only result of an id, at the requested time; None for several."""
    if result.kind is Kind.CHASSIS and all(match.kind is Kind.CHASSIS for match in result.matches):
        gpus = [match.gpu.gpu if match.gpu is not None else match.former_gpu for match in result.matches]
        chassis = {gpu.chassis for gpu in gpus if gpu is not None}
        return address(chassis_url(chassis.pop() or ""), {"at": result.term.at}) if len(chassis) == 1 else None
    if result.cut:
        return None
    targets = {target for match in result.matches if (target := _target(match))}
    return address(targets.pop(), {"at": result.term.at}) if len(targets) == 1 else None


def _is_known(match: Match) -> bool:
    """Return whether more than a mark is known about the result."""
    return match.gpu is not None or match.former_gpu is not None or match.mark is None


def _target(match: Match) -> str:
    if (node := match.node) is not None:
        return node_url(node.place)
    if (former := match.former_node) is not None:
        return node_url(Place(former.cluster, former.node))
    if match.cluster:
        return cluster_url(match.cluster)
    return gpu_url(match.uuid or "") if _is_known(match) else ""
