"""Counts what is in the clusters and what is wrong with their nodes."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import anyio
from aiohttp import web

from collector.inventory import NodeEntry
from collector.model import ClusterStatus
from collector.store import StoreStatus
from collector.web.context import Context
from collector.web.pages.links import address, cluster_url
from collector.web.pages.words import counted, state_words
from collector.web.slices import in_slices

__all__ = ["SURVEYS", "ClusterSurvey", "Problem", "Surveys", "missing", "problems", "store_problems", "survey"]

_REST = 9  # times as long as counting took, for which the counts are good enough for whoever asks next
_REST_MOST = 10.0  # seconds


@dataclass
class ClusterSurvey:
    """One cluster in numbers."""

    name: str
    status: ClusterStatus | None
    synced: float | None  # Unix seconds
    conflicts: int
    nodes: int = 0
    unread: int = 0  # nodes that were never read
    gpus: int = 0
    capacity: int = 0
    short: int = 0  # nodes with fewer GPUs than their capacity
    missing: int = 0  # GPUs that those nodes lack
    models: Counter[str] = field(default_factory=Counter)

    @property
    def up(self) -> bool:
        """True while list and watch are healthy."""
        return self.status is not None and self.status.up


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, in words, and where to see more of it."""

    about: str
    words: str
    url: str
    detail: str = ""
    since: float | None = None
    grave: bool = True


async def survey(context: Context, cluster: str) -> ClusterSurvey:
    """Count one cluster, giving other tasks their turn."""
    found = ClusterSurvey(
        name=cluster,
        status=context.statuses.get(cluster),
        synced=context.synced(cluster),
        conflicts=context.inventory.conflicts(cluster),
    )
    async for entry in in_slices(list(context.inventory.nodes(cluster).values())):
        found.nodes += 1
        found.unread += entry.time is None
        found.gpus += len(entry.gpus)
        found.capacity += entry.node.capacity or 0
        if lacking := missing(entry):
            found.short += 1
            found.missing += lacking
        for gpu in entry.gpus:
            found.models[gpu.model or ""] += 1
    return found


class Surveys:
    """All clusters in numbers, which take at most a tenth of a core to count, however many look at them."""

    def __init__(self) -> None:
        self._lock = anyio.Lock()
        self._counted: list[ClusterSurvey] = []
        self._good_until = 0.0

    async def all(self, context: Context) -> list[ClusterSurvey]:
        """Count every cluster, or give what was counted a moment ago."""
        async with self._lock:
            started = time.monotonic()
            if started >= self._good_until:
                self._counted = [await survey(context, name) for name in sorted(context.clusters())]
                ended = time.monotonic()
                self._good_until = ended + min(_REST_MOST, _REST * (ended - started))
            return self._counted


SURVEYS = web.AppKey("surveys", Surveys)


def missing(entry: NodeEntry) -> int:
    """How many GPUs of its capacity the last reading of a node did not find."""
    return 0 if entry.time is None else max(0, (entry.node.capacity or 0) - len(entry.gpus))


def store_problems(status: StoreStatus) -> Iterator[Problem]:
    """Say what is wrong with the store."""
    if not status.up:
        words = "takes nothing new: what happens is only in memory until it does"
        yield Problem("The store", words, "/changes", detail=status.message, since=status.since)


def problems(found: ClusterSurvey) -> Iterator[Problem]:
    """Say what is wrong with a cluster, the worst first."""
    url = cluster_url(found.name)
    if not found.up:
        status = found.status
        yield Problem(
            found.name,
            state_words(status),
            url,
            detail=status.message if status else "",
            since=status.since if status else None,
            grave=status is not None and status.state != "starting",
        )
    if found.conflicts:
        words = f"has {counted(found.conflicts, 'GPU')} confirmed in two places at once"
        yield Problem(found.name, words, address(url, {"show": "conflict"}))
    if found.missing:
        words = f"misses {counted(found.missing, 'GPU')} in {counted(found.short, 'node')}"
        yield Problem(found.name, words, address(url, {"show": "missing"}))
    if found.unread:
        words = f"has {counted(found.unread, 'node')} that {'was' if found.unread == 1 else 'were'} never read"
        yield Problem(found.name, words, address(url, {"show": "unread"}), grave=False)
