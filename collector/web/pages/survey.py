"""Counts what is in the clusters and what is wrong with their nodes."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import anyio
from aiohttp import web

from collector.model import ClusterStatus, NodeState, ReadFailure
from collector.store import StoreStatus
from collector.views.cooperative import in_slices
from collector.views.humanize import counted, failure_words, span, state_words, utc
from collector.views.sink_status import SinkStatus
from collector.web.context import CollectorView
from collector.web.pages.links import address, cluster_url

__all__ = [
    "SURVEYS",
    "ClusterSurvey",
    "Problem",
    "Surveys",
    "fleet_models",
    "missing",
    "problems",
    "sink_problems",
    "store_problems",
    "survey",
]

_REST = 9  # times as long as counting took, for which the counts are good enough for whoever asks next
_REST_MOST = 10.0  # seconds
_BEHIND = 300.0  # seconds that a record may wait for a sink that does not fail


@dataclass
class ClusterSurvey:
    """One cluster in numbers."""

    name: str
    status: ClusterStatus | None
    synced: float | None  # Unix seconds
    conflicts: int
    nodes: int = 0
    unread: int = 0  # nodes that were never read
    failing: Counter[ReadFailure] = field(default_factory=Counter)  # nodes that cannot be read, by reason
    failing_since: float | None = None  # Unix seconds, of the one that has failed for longest
    overdue: int = 0  # nodes that should have been read again
    refresh: float = 0.0  # seconds
    capacity: int = 0
    short: int = 0  # nodes with fewer GPUs than their capacity
    missing: int = 0  # GPUs that those nodes lack
    models: Counter[str] = field(default_factory=Counter)
    claimed: dict[str, str] = field(default_factory=dict)  # the model of each GPU in conflict, by UUID

    @property
    def gpus(self) -> int:
        """How many GPUs are in it; one that several nodes claim is one."""
        return self.models.total()

    @property
    def up(self) -> bool:
        """True while list and watch are healthy."""
        return self.status is not None and self.status.up


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, in words, and where to see more of it."""

    about: str
    words: str
    url: str = ""  # empty where there is no page of it
    detail: str = ""
    since: float | None = None
    grave: bool = True


async def survey(context: CollectorView, cluster: str) -> ClusterSurvey:
    """Count one cluster, giving other tasks their turn."""
    found = ClusterSurvey(
        name=cluster,
        status=context.statuses.get(cluster),
        synced=context.synced(cluster),
        conflicts=context.inventory.conflicts(cluster),
        refresh=context.refresh(cluster),
    )
    contested = context.inventory.contested(cluster)
    async for entry in in_slices(list(context.inventory.nodes(cluster).values())):
        found.nodes += 1
        found.unread += entry.time is None
        found.overdue += context.overdue(entry)
        if entry.failing is not None:
            found.failing[entry.failing.reason] += 1
            found.failing_since = min(entry.failing.since, found.failing_since or math.inf)
        found.capacity += entry.node.capacity or 0
        if lacking := missing(entry):
            found.short += 1
            found.missing += lacking
        for gpu in entry.gpus:
            if gpu.uuid in contested:
                found.claimed.setdefault(gpu.uuid, gpu.model or "")
            else:
                found.models[gpu.model or ""] += 1
    found.models.update(found.claimed.values())
    return found


def fleet_models(found: Iterable[ClusterSurvey]) -> Counter[str]:
    """Count the GPUs of each model in all clusters; one that several clusters claim is one."""
    models: Counter[str] = Counter()
    claimed: set[str] = set()
    for one in found:
        models.update(one.models)
        models.subtract(model for uuid, model in one.claimed.items() if uuid in claimed)
        claimed.update(one.claimed)
    return models


class Surveys:
    """All clusters in numbers, which take at most a tenth of a core to count, however many look at them."""

    def __init__(self) -> None:
        self._lock = anyio.Lock()
        self._counted: list[ClusterSurvey] = []
        self._good_until = 0.0

    async def all(self, context: CollectorView) -> list[ClusterSurvey]:
        """Count every cluster, or give what was counted a moment ago."""
        async with self._lock:
            started = time.monotonic()
            if started >= self._good_until:
                self._counted = [await survey(context, name) for name in sorted(context.clusters())]
                ended = time.monotonic()
                self._good_until = ended + min(_REST_MOST, _REST * (ended - started))
            return self._counted


SURVEYS = web.AppKey("surveys", Surveys)


def missing(entry: NodeState) -> int:
    """How many GPUs of its capacity the last reading of a node did not find."""
    return 0 if entry.time is None else max(0, (entry.node.capacity or 0) - len(entry.gpus))


def store_problems(status: StoreStatus) -> Iterator[Problem]:
    """Say what is wrong with the store."""
    if not status.up:
        words = "takes nothing new: what happens is only in memory until it does"
        yield Problem("The store", words, "/changes", detail=status.message, since=status.since)


def sink_problems(sinks: Iterable[SinkStatus], now: float) -> Iterator[Problem]:
    """Say which sinks do not take their records, are behind, or refused some for good."""
    for state in sinks:
        about, backlog = f"The sink {state.sink}", state.backlog
        if backlog.records and backlog.oldest is not None:
            wait = "waits" if backlog.records == 1 else "wait"
            owed = f"{counted(backlog.records, 'record')} {wait}, the oldest since {utc(round(backlog.oldest))}"
            if state.reason:
                detail = f"last failure: {state.reason.replace('_', ' ')}; {owed}"
                yield Problem(about, "does not take its records", detail=detail, since=state.since)
            elif now - backlog.oldest > _BEHIND:
                yield Problem(about, f"is behind: {owed}", grave=False)
        if backlog.dead_letters:
            words = f"has refused {counted(backlog.dead_letters, 'batch')} for good"
            yield Problem(about, words, detail="gpuid outbox ls names them; gpuid outbox replay sends them again")


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
    if failing := found.failing.total():
        reasons = (f"{failure_words(reason)} ({counted(n, 'node')})" for reason, n in found.failing.most_common())
        yield Problem(
            found.name,
            f"has {counted(failing, 'node')} that cannot be read",
            address(url, {"show": "failing"}),
            detail="; ".join(reasons),
            since=found.failing_since,
        )
    if found.missing:
        words = f"misses {counted(found.missing, 'GPU')} in {counted(found.short, 'node')}"
        yield Problem(found.name, words, address(url, {"show": "missing"}))
    if found.overdue:
        words = f"has {counted(found.overdue, 'node')} whose reading is overdue"
        detail = f"its refresh is {span(found.refresh)}"
        yield Problem(found.name, words, address(url, {"show": "overdue"}), detail=detail, grave=False)
    if found.unread:
        words = f"has {counted(found.unread, 'node')} that {'was' if found.unread == 1 else 'were'} never read"
        yield Problem(found.name, words, address(url, {"show": "unread"}), grave=False)
