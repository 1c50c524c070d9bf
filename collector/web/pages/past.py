"""The pages of the fleet, a cluster, a node, a chassis and a GPU at a past time, `?at=`."""

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from collector.model import Gpu, Place
from collector.store import StoreError
from collector.text import natural_key
from collector.timestamps import as_of
from collector.views.past import LookBack, NotRecordedError, PastGpu, look_back
from collector.views.trays import position
from collector.web.keys import COLLECTOR
from collector.web.pages.links import address
from collector.web.pages.paging import PAGE_ROWS
from collector.web.pages.rendering import links_at, page
from collector.web.params import timestamp
from collector.web.public_url import local_path, public_url

__all__ = ["chassis", "cluster", "fleet", "gpu", "looking_back", "node"]

MAX_CLUSTERS = 1000  # shown on the fleet's page
MAX_GPUS = 1000  # of a node or a chassis

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def looking_back(now: _Handler, then: Callable[[web.Request, LookBack], Awaitable[web.StreamResponse]]) -> _Handler:
    """Return a handler that shows the current state or, with `at`, a past one."""

    @functools.wraps(now)
    async def handler(request: web.Request) -> web.StreamResponse:
        if "at" not in request.query or not _has_a_past(request):
            return await now(request)
        view = request.app[COLLECTOR]
        if not request.query["at"].strip() or (time := timestamp(request, "at", latest=True)) is None:
            raise web.HTTPSeeOther(public_url(request).prefix + local_path(request))
        try:
            return await then(request, await look_back(view.past, time, view))
        except NotRecordedError as error:
            raise web.HTTPNotFound(text=f"{str(error)[:1].upper()}{str(error)[1:]}.") from None
        except StoreError as error:
            raise web.HTTPServiceUnavailable(text=f"The history is currently unavailable. {error}") from None

    return handler


def _has_a_past(request: web.Request) -> bool:
    """Return whether a page itself has past versions, unlike a GPU's serial, which redirects."""
    return request.match_info.get("uuid", "GPU-").upper().startswith("GPU-")


async def fleet(request: web.Request, then: LookBack) -> web.Response:
    """Show the clusters, including those no longer configured, with their totals."""
    counts = await then.counts()
    models: dict[str, int] = {}
    for count in counts.values():
        for model, number in count.models.items():
            models[model] = models.get(model, 0) + number
    names = sorted(counts, key=natural_key)
    return await _page(
        request,
        then,
        "past_fleet.html",
        counts=[(name, counts[name]) for name in names[:MAX_CLUSTERS]],
        more=max(0, len(names) - MAX_CLUSTERS),
        clusters=len(names),
        gpus=sum(count.gpus for count in counts.values()),
        nodes=sum(count.nodes for count in counts.values()),
        models=sorted(models.items(), key=lambda one: -one[1]),
        configured=request.app[COLLECTOR].clusters(),
    )


async def cluster(request: web.Request, then: LookBack) -> web.Response:
    """Show a page of a cluster's nodes after the node `after`."""
    name, after = request.match_info["cluster"], request.query.get("after") or None
    count = (await then.counts()).get(name)
    if count is None:
        raise web.HTTPNotFound(text=f"No GPU was in a cluster named “{name}” at {as_of(then.time)}.")
    place = None if after is None else Place(name, after)
    nodes = await then.nodes({"cluster": [name]}, after=place, limit=PAGE_ROWS + 1)
    return await _page(
        request,
        then,
        "past_cluster.html",
        {"cluster": name},
        name=name,
        count=count,
        nodes=nodes[:PAGE_ROWS],
        after=after,
        following=nodes[PAGE_ROWS - 1].node if len(nodes) > PAGE_ROWS else None,
        configured=name in request.app[COLLECTOR].clusters(),
    )


async def node(request: web.Request, then: LookBack) -> web.Response:
    """Show a node's GPUs."""
    place = Place(request.match_info["cluster"], request.match_info["node"])
    found = await then.gpus({"cluster": [place.cluster], "node": [place.node]}, limit=MAX_GPUS)
    if not found:
        raise web.HTTPNotFound(
            text=f"No GPU was on a node “{place.node}” of the cluster “{place.cluster}” at {as_of(then.time)}."
        )
    models = sorted({one.placement.model or "" for one in found})
    where = {"cluster": place.cluster, "node": place.node}
    gpus = sorted(found, key=_seat)
    return await _page(request, then, "past_node.html", where, place=place, gpus=gpus, models=models)


async def chassis(request: web.Request, then: LookBack) -> web.Response:
    """Show the GPUs that were in a chassis, by tray."""
    serial = request.match_info["chassis"]
    found = await then.gpus({"chassis": [serial]}, limit=MAX_GPUS)
    if not found:
        raise web.HTTPNotFound(text=f"No GPU was recorded in a chassis “{serial}” at {as_of(then.time)}.")
    return await _page(
        request,
        then,
        "past_chassis.html",
        {"chassis": serial},
        serial=serial,
        gpus=sorted(found, key=_seat),
        places={one.place for one in found},
        cut=len(found) == MAX_GPUS,
    )


async def gpu(request: web.Request, then: LookBack) -> web.Response:
    """Show a GPU."""
    wanted = request.match_info["uuid"]
    found = await then.gpus({"uuid": [wanted]}, limit=MAX_GPUS)
    if not found:
        raise web.HTTPNotFound(text=f"No GPU with the UUID “{wanted}” was on a node at {as_of(then.time)}.")
    return await _page(request, then, "past_gpu.html", {"uuid": found[0].placement.uuid}, gpus=found, wanted=wanted)


async def _page(
    request: web.Request, then: LookBack, template: str, where: Mapping[str, str] = {}, **values: Any
) -> web.Response:
    """Return a page; `where` are the API filters that select its GPUs."""
    at = as_of(then.time)
    prefix, path = public_url(request).prefix, local_path(request)
    return await page(
        request,
        template,
        then=then.time,
        page_now=prefix + path,
        csv_then=prefix + address("/api/v1/gpus", {**where, "at": at, "format": "csv"}),
        more_then=lambda after: prefix + address(path, {"after": after, "at": at}),
        **links_at(request, at),
        **values,
    )


def _seat(gpu: PastGpu) -> Any:
    one = gpu.placement
    return position(
        Gpu(
            uuid=one.uuid,
            chassis=one.chassis,
            tray=one.tray,
            slot=one.slot,
            module=one.module,
            pci_bus_id=one.pci_bus_id,
        )
    )
