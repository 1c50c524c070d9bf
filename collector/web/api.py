"""The JSON API: clusters, nodes and GPUs with filters, in pages."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from aiohttp import web

from collector.model import ClusterStatus, NodeState, Placement
from collector.timestamps import rfc3339
from collector.views.cooperative import in_slices
from collector.web.context import CONTEXT, CollectorView
from collector.web.rows import check_parameters, json_answer, paging

__all__ = ["clusters", "gpus", "nodes"]

_PAGING = frozenset({"limit", "offset"})
_NODE_FILTERS = frozenset({"cluster", "node", "machine"})
_GPU_FILTERS = frozenset({"serial", "uuid", "model", "chassis"})

_Filters = dict[str, frozenset[str]]


async def clusters(request: web.Request) -> web.Response:
    """Answer the clusters: how they are, and how much is in them."""
    context = request.app[CONTEXT]
    filters = _filters(request, frozenset({"cluster"}))
    names = [name for name in sorted(context.clusters()) if _admits(filters, "cluster", name)]
    return _page(request, "clusters", [_cluster_row(context, name) async for name in in_slices(names)])


async def nodes(request: web.Request) -> web.Response:
    """Answer the nodes that have GPUs, filtered by cluster, node, machine and chassis."""
    context = request.app[CONTEXT]
    filters = _filters(request, _NODE_FILTERS | {"chassis"})
    found = [
        entry
        async for entry in _entries(context, filters)
        if "chassis" not in filters or filters["chassis"].intersection(entry.chassis.split(","))
    ]
    return _page(request, "nodes", found, lambda entry: _node_row(context, entry))


async def gpus(request: web.Request) -> web.Response:
    """Answer the GPUs, filtered by cluster, node, machine, serial, uuid, model and chassis."""
    context = request.app[CONTEXT]
    filters = _filters(request, _NODE_FILTERS | _GPU_FILTERS)
    if {"uuid", "serial", "chassis"} & filters.keys():
        found = [placement for placement in _looked_up(context, filters) if _gpu_admitted(context, filters, placement)]
        return _page(request, "gpus", found, lambda placement: _gpu_row(context, placement))
    limit, offset = paging(request)
    rows: list[dict[str, Any]] = []
    total = 0
    async for entry in _entries(context, filters):
        matching = [
            index
            for index, gpu in enumerate(entry.gpus)
            if "model" not in filters or (gpu.model or "") in filters["model"]
        ]
        for index in matching[max(0, offset - total) : max(0, offset + limit - total)]:
            placement = Placement(
                gpu=entry.gpus[index], place=entry.place, since=entry.since[index], confirmed=entry.time or 0.0
            )
            rows.append(_gpu_row(context, placement))
        total += len(matching)
    return json_answer({"gpus": rows, "total": total, "limit": limit, "offset": offset})


def _cluster_row(context: CollectorView, name: str) -> dict[str, Any]:
    """Describe one cluster."""
    entries = context.inventory.nodes(name).values()
    status: ClusterStatus | None = context.statuses.get(name)
    return {
        "cluster": name,
        "state": status.state if status else "starting",
        "up": status is not None and status.up,
        "message": status.message if status else "",
        "since": rfc3339(status.since) if status else None,
        "synced": rfc3339(context.synced(name)),
        "nodes": len(entries),
        "nodes_read": sum(entry.time is not None for entry in entries),
        "nodes_failing": sum(entry.failing is not None for entry in entries),
        "nodes_overdue": sum(context.overdue(entry) for entry in entries),
        "gpus": context.inventory.count(name),
        "conflicts": context.inventory.conflicts(name),
    }


def _gpu_row(context: CollectorView, placement: Placement) -> dict[str, Any]:
    """Describe one GPU where it is."""
    entry = context.inventory.node(placement.place)
    return {
        "cluster": placement.place.cluster,
        "node": placement.place.node,
        "machine": entry.node.machine if entry else "",
        "source": entry.source if entry else "",
        **msgspec.structs.asdict(placement.gpu),
        "since": rfc3339(placement.since),
        "confirmed": rfc3339(placement.confirmed),
    }


def _node_row(context: CollectorView, entry: NodeState) -> dict[str, Any]:
    return {
        "cluster": entry.place.cluster,
        "node": entry.place.node,
        "machine": entry.node.machine,
        "provider_id": entry.node.provider_id,
        "chassis": entry.chassis or None,
        "driver_version": entry.driver_version,
        "cuda_version": entry.cuda_version,
        "found": entry.found,
        "capacity": entry.node.capacity,
        "allocatable": entry.node.allocatable,
        "source": entry.source,
        "read": rfc3339(entry.time),
        "overdue": context.overdue(entry),
        "failing": entry.failing.reason if entry.failing else None,
        "failing_since": rfc3339(entry.failing.since) if entry.failing else None,
    }


async def _entries(context: CollectorView, filters: _Filters) -> AsyncIterator[NodeState]:
    """Walk the nodes that the filters admit, by cluster and name, giving other tasks their turn."""
    for cluster in sorted(context.inventory.clusters()):
        if not _admits(filters, "cluster", cluster):
            continue
        nodes = context.inventory.nodes(cluster)
        async for entry in in_slices([nodes[name] for name in sorted(nodes)]):
            if _admits(filters, "node", entry.place.node) and _admits(filters, "machine", entry.node.machine):
                yield entry


def _looked_up(context: CollectorView, filters: _Filters) -> list[Placement]:
    key = next(key for key in ("uuid", "serial", "chassis") if key in filters)
    return [placement for value in sorted(filters[key]) for placement in context.inventory.find(**{key: value})]


def _gpu_admitted(context: CollectorView, filters: _Filters, placement: Placement) -> bool:
    entry, gpu = context.inventory.node(placement.place), placement.gpu
    return (
        _admits(filters, "cluster", placement.place.cluster)
        and _admits(filters, "node", placement.place.node)
        and _admits(filters, "machine", entry.node.machine if entry else "")
        and all(_admits(filters, key, getattr(gpu, key) or "") for key in ("serial", "model", "chassis"))
        and ("uuid" not in filters or gpu.uuid.lower() in {value.lower() for value in filters["uuid"]})
    )


def _admits(filters: _Filters, key: str, value: str) -> bool:
    return key not in filters or value in filters[key]


def _filters(request: web.Request, known: frozenset[str]) -> _Filters:
    check_parameters(request, known | _PAGING, repeatable=known)
    return {key: frozenset(request.query.getall(key)) for key in request.query if key in known}


def _page(request: web.Request, name: str, found: list[Any], row: Any = lambda item: item) -> web.Response:
    limit, offset = paging(request)
    rows = [row(item) for item in found[offset : offset + limit]]
    return json_answer({name: rows, "total": len(found), "limit": limit, "offset": offset})
