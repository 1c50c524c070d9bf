"""Liveness and readiness: whether the collector runs, and whether it has a first answer of every cluster."""

from collections.abc import Iterator

from aiohttp import web

from collector.model import ClusterStatus
from collector.store import LeadStatus, StoreStatus
from collector.views.cluster_summary import starting_clusters
from collector.views.collector_view import CollectorView
from collector.views.config_status import ConfigStatus
from collector.views.shards import shard_states
from collector.web.auth import ADMITTED
from collector.web.keys import COLLECTOR

__all__ = ["READINESS", "Readiness", "healthz", "readyz"]


async def healthz(_request: web.Request) -> web.Response:
    """Return ok, which proves that the event loop runs."""
    return web.Response(text="ok\n")


async def readyz(request: web.Request) -> web.Response:
    """Return 200 as soon as every cluster has given a first answer, good or bad.

    `?verbose` lists the clusters and the shards, and what is wrong with the configuration and the store.

    Once ready, it stays ready: a cluster that is added later must not take the others' series away.
    """
    collector = request.app[COLLECTOR]
    readiness = request.app[READINESS]
    starting = [] if readiness.reached else starting_clusters(collector)
    readiness.reached = not starting
    lines = []
    if ("verbose" in request.query or starting) and await request[ADMITTED]():
        lines = list(_config_lines(collector.config_status))
        lines += _shard_lines(collector)
        lines += [_line(name, collector.statuses.get(name)) for name in sorted(collector.clusters())]
        lines += _store_lines(collector.store_status, collector.lead_status)
    verdict = f"not ready: {len(starting)} of {len(collector.clusters())} clusters are starting" if starting else "ok"
    return web.Response(text="\n".join([*lines, verdict, ""]), status=503 if starting else 200)


class Readiness:
    """Whether the collector has ever been ready."""

    reached = False


READINESS = web.AppKey("readiness", Readiness)


def _config_lines(status: ConfigStatus) -> Iterator[str]:
    if not status.ok:
        yield f"[-]configuration {'rejected' if status.readable else 'unreadable'}: {status.error}"
    if status.restart:
        yield f"[-]configuration restart required: changes of {status.tables} take effect at the next start"


def _shard_lines(collector: CollectorView) -> Iterator[str]:
    for one in shard_states(collector.shard, collector.shards()):
        own = " (this collector)" if one.shard == collector.shard.index else ""
        yield f"[{'+' if one.runs else '-'}]{one}{own}"


def _line(name: str, status: ClusterStatus | None) -> str:
    if status is not None and status.up:
        return f"[+]{name} up"
    if status is None or not status.message:
        return f"[-]{name} {status.state if status else 'starting'}"
    return f"[-]{name} {status.state}: {status.message}"


def _store_lines(store: StoreStatus, lead: LeadStatus | None) -> list[str]:
    if lead is None:  # no store
        return []
    lines = [] if store.up else [f"[-]store down: {store.message}"]
    if lead.leads:
        return [*lines, "[+]store leader: this collector"]
    return [
        *lines,
        f"[+]store leader: {lead.holder or 'unknown'}" if lead.has_leader else "[-]store no collector leads",
    ]
