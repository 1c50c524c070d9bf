"""Finds what is wrong with configuration, store, sinks and clusters, and says it in words."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from collector.health import Level
from collector.model import ClusterState, LabelFailure, ReadFailure, SliceState, Uncovered, UnreadReason
from collector.store import LeadStatus, StoreStatus
from collector.text import counted, enumerated
from collector.views.cluster_summary import MAX_LOST_NAMES, MAX_SYNCED_AGE_SECONDS, ClusterSummary
from collector.views.collector_view import CollectorView
from collector.views.config_status import ConfigStatus
from collector.views.humanize import (
    describe_coverage,
    describe_status,
    describe_unread,
    duration,
    utc,
)
from collector.views.sink_status import SinkStatus

__all__ = [
    "NodeCondition",
    "Problem",
    "cluster_problems",
    "collector_problems",
    "config_problems",
    "find_problems",
    "lead_problems",
    "sink_problems",
    "store_problems",
]

BACKLOG_AGE_LIMIT_SECONDS = 300.0  # that a record may wait for a sink that does not fail


class NodeCondition(StrEnum):
    """What can be wrong with a node."""

    FAILING = "failing"
    LOST = "lost"
    DEGRADED = "degraded"
    MARKED_RMA = "rma"
    MISSING = "missing"
    UNREAD = "unread"
    OVERDUE = "overdue"
    CONFLICT = "conflict"
    CLAIM = "claim"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem: what has it, and a sentence about that, without its subject."""

    kind: Literal["config", "store", "sink", "cluster"]
    name: str = ""  # of the sink or cluster
    nodes: NodeCondition | None = None  # which nodes of the cluster have it; None if it is the cluster's own
    text: str
    detail: str = ""
    since: float | None = None  # Unix seconds
    severe: bool = True

    @property
    def subject(self) -> str:
        """What has the problem, as the sentence begins."""
        subjects = {"config": "The configuration file", "store": "The store", "sink": f"The sink {self.name}"}
        return subjects.get(self.kind, self.name)


def collector_problems(view: CollectorView, summaries: Iterable[ClusterSummary]) -> list[Problem]:
    """Return all problems of a running collector, the severe ones first."""
    return find_problems(
        view.config_status,
        view.store_status,
        view.lead_status,
        view.sink_statuses.by_name(),
        summaries,
        now=view.now(),
    )


def find_problems(
    config: ConfigStatus,
    store: StoreStatus,
    lead: LeadStatus | None,
    sinks: Iterable[SinkStatus],
    clusters: Iterable[ClusterSummary],
    *,
    now: float,
) -> list[Problem]:
    """Return all problems, the severe ones first; `now` is in Unix seconds."""
    found = [
        *config_problems(config),
        *store_problems(store),
        *lead_problems(lead),
        *sink_problems(sinks, now),
        *(problem for summary in clusters for problem in cluster_problems(summary)),
    ]
    return sorted(found, key=lambda problem: not problem.severe)


def config_problems(status: ConfigStatus) -> Iterator[Problem]:
    """Yield why the configuration in force is not what its file says."""
    if not status.ok:
        text = "has been rejected" if status.readable else "has been unreadable"
        detail = f"{status.error}. The previous configuration stays in force; the next start would fail."
        yield Problem(kind="config", text=text, detail=detail, since=status.failing_since)
    if status.restart:
        detail = f"Changes of {status.tables} take effect at the next start; all others are in force."
        text, since = "has been waiting for a restart", status.restart_since
        yield Problem(kind="config", text=text, detail=detail, since=since, severe=False)


def store_problems(status: StoreStatus) -> Iterator[Problem]:
    """Yield the problem of a store that is not up, and what was lost with a damaged one."""
    if not status.up:
        text = "is not accepting writes; changes are held in memory"
        yield Problem(kind="store", text=text, detail=status.message, since=status.since)
    if status.set_aside.files:
        files, newest = counted(status.set_aside.files, "damaged file"), status.set_aside.newest
        text = f"was damaged and began a new history; {files} set aside ({status.set_aside.bytes / 1e6:.1f} MB)"
        detail = f"newest: {newest}. Recover what it holds or delete it; gpuid never does."
        yield Problem(kind="store", text=text, detail=detail, severe=False)


def lead_problems(status: LeadStatus | None) -> Iterator[Problem]:
    """Yield the problem of a store into which no collector records; None: there is no store."""
    if status is not None and not status.has_leader:
        detail = f"{status.holder} had the lead last" if status.holder else ""
        text = "has no leader: no collector records into it or delivers to the sinks"
        yield Problem(kind="store", text=text, detail=detail)


def sink_problems(sinks: Iterable[SinkStatus], now: float) -> Iterator[Problem]:
    """Yield the sinks that are failing or behind, or have dead letters."""
    for status in sinks:
        name, backlog = status.sink, status.backlog
        if backlog.records and backlog.oldest is not None:
            waiting = f"{counted(backlog.records, 'record')} waiting, the oldest since {utc(round(backlog.oldest))}"
            if status.failure:
                detail = f"last failure: {status.failure.replace('_', ' ')}; {waiting}"
                yield Problem(kind="sink", name=name, text="is failing", detail=detail, since=status.failing_since)
            elif now - backlog.oldest > BACKLOG_AGE_LIMIT_SECONDS:
                yield Problem(kind="sink", name=name, text=f"is behind: {waiting}", severe=False)
        if backlog.dead_letters:
            detail = "batches that it rejected: gpuid outbox ls lists them, gpuid outbox replay sends them again"
            yield Problem(
                kind="sink", name=name, text=f"has {counted(backlog.dead_letters, 'dead letter')}", detail=detail
            )


def cluster_problems(summary: ClusterSummary) -> Iterator[Problem]:
    """Yield the problems of one cluster, the worst first."""
    name = summary.name
    if not summary.up:
        status = summary.status
        yield Problem(
            kind="cluster",
            name=name,
            text=describe_status(status),
            detail=status.message if status else "",
            since=status.since if status else None,
            severe=status is not None and status.state is not ClusterState.STARTING,
        )
    if summary.conflicts:
        text = f"has {counted(summary.conflicts, 'GPU')} confirmed in two places at once"
        yield Problem(kind="cluster", name=name, nodes=NodeCondition.CONFLICT, text=text)
    yield from _unread_problems(summary)
    if summary.lost:
        do = "does" if summary.lost == 1 else "do"
        more = ["…"] if summary.lost > len(summary.lost_names) else []
        yield Problem(
            kind="cluster",
            name=name,
            nodes=NodeCondition.LOST,
            text=f"has {counted(summary.lost, 'GPU')} that {do} not answer",
            detail=", ".join(summary.lost_names + more),
        )
    yield from _health_problems(summary)
    if summary.missing:
        text = f"is missing {counted(summary.missing, 'GPU')} on {counted(summary.short, 'node')}"
        yield Problem(kind="cluster", name=name, nodes=NodeCondition.MISSING, text=text)
    if summary.overdue:
        yield Problem(
            kind="cluster",
            name=name,
            nodes=NodeCondition.OVERDUE,
            text=f"has {counted(summary.overdue, 'node')} whose reading is overdue",
            detail=f"refresh interval: {duration(summary.refresh)}",
            severe=False,
        )
    yield from _doubts(summary)
    yield from _label_problems(summary)
    if summary.claims:
        text = f"has {counted(summary.claims, 'GPU')} reported by two nodes, being verified"
        yield Problem(kind="cluster", name=name, nodes=NodeCondition.CLAIM, text=text, severe=False)
    if summary.up and (summary.survey is None or summary.synced is None):
        yield Problem(kind="cluster", name=name, text="has not been listed completely yet", severe=False)
    elif summary.up and summary.stale:
        text = f"has not been confirmed as current for {duration(MAX_SYNCED_AGE_SECONDS)}"
        yield Problem(kind="cluster", name=name, text=text, since=summary.synced, severe=False)


def _health_problems(summary: ClusterSummary) -> Iterator[Problem]:
    """Yield which GPUs need something, but for those that merely do not answer, and which should be gone."""
    name = summary.name
    for level, verb in ((Level.REPLACE, "replacement"), (Level.RESET, "a reset or drain")):
        count = summary.degraded[level] - (summary.merely_lost if level is Level.RESET else 0)
        if count:
            need = "needs" if count == 1 else "need"
            yield Problem(
                kind="cluster",
                name=name,
                nodes=NodeCondition.DEGRADED,
                text=f"has {counted(count, 'GPU')} that {need} {verb}",
                detail=enumerated(summary.degraded_names.get(level, []), MAX_LOST_NAMES),
                # Work on such a GPU often goes on until there is time for it.
                severe=level is Level.REPLACE,
            )
    if summary.marked_rma:
        is_ = "is" if len(summary.marked_rma) == 1 else "are"
        yield Problem(
            kind="cluster",
            name=name,
            nodes=NodeCondition.MARKED_RMA,
            text=f"has {counted(len(summary.marked_rma), 'GPU')} in service that {is_} marked rma",
            detail=enumerated(summary.marked_rma, MAX_LOST_NAMES),
            severe=False,
        )


def _label_problems(summary: ClusterSummary) -> Iterator[Problem]:
    """Yield why nodes of a cluster do not have the labels that they should have."""
    if (trouble := summary.labels) is None:
        return
    nodes = "its nodes" if trouble.nodes is None else counted(trouble.nodes, "node")
    text = f"has labels that cannot be written onto {nodes}"
    if trouble.reason is LabelFailure.CONTESTED:
        text = f"has labels on {nodes} that another client keeps changing"
    yield Problem(
        kind="cluster", name=summary.name, text=text, detail=trouble.message, since=trouble.since, severe=False
    )


def _doubts(summary: ClusterSummary) -> Iterator[Problem]:
    """Yield what makes it doubtful that what is published of a cluster is all, and once."""
    name = summary.name
    slices = summary.slices if summary.up else None
    if slices is not None and (slices.lost or slices.state is SliceState.FAILING):
        text = "may have ResourceSlices, which cannot be watched"
        if slices.lost:
            text = "has ResourceSlices that are no longer seen; what they said last stands"
        yield Problem(kind="cluster", name=name, text=text, detail=slices.message, severe=False)
    if summary.resembles:
        names = ", ".join(f'"{other}"' for other in summary.resembles)
        text = f"shows nodes with the same uids as {names}, without proof that they are one cluster"
        detail = (
            "all of them are published. If they are one cluster, remove one from the configuration, or let both verify"
            " the API server at the same address; if not, one of them copies the other."
        )
        yield Problem(kind="cluster", name=name, text=text, detail=detail, severe=False)


def _unread_problems(summary: ClusterSummary) -> Iterator[Problem]:
    """Yield why GPU nodes of a cluster cannot be read or have not been read yet, causes before consequences."""
    name, survey = summary.name, summary.survey
    coverage = describe_coverage(summary.read, summary.unread)
    if survey is not None and not survey.nodes and summary.node_selector:
        text = f'has no node that matches node_selector "{summary.node_selector}"'
        yield Problem(kind="cluster", name=name, text=text)
    idle = summary.idle_sources
    if summary.nodes > summary.pending and summary.sources and len(idle) == len(summary.sources):
        places = " or ".join(f'"{source.selector}" in namespace {source.namespace}' for source in summary.sources)
        yield Problem(
            kind="cluster",
            name=name,
            nodes=NodeCondition.UNREAD,
            text=f"has no GPU pods: nothing matches {places}",
            detail=f"{coverage}. `gpuid check` shows which preset would fit.",
            since=summary.unread_since,
        )
        return
    if summary.unreadable:
        yield Problem(
            kind="cluster",
            name=name,
            nodes=NodeCondition.UNREAD,
            text="has no GPU node that can be read",
            detail=_reasons(summary.unread),
            since=summary.unread_since,
        )
    else:
        if failing := summary.failing.total():
            yield Problem(
                kind="cluster",
                name=name,
                nodes=NodeCondition.FAILING,
                text=f"has {counted(failing, 'node')} that cannot be read",
                detail=_reasons(summary.failing),
                since=summary.failing_since,
            )
        if uncovered := summary.uncovered.total():
            yield Problem(
                kind="cluster",
                name=name,
                nodes=NodeCondition.UNREAD,
                text=f"has {counted(uncovered, 'GPU node')} without a ready GPU pod",
                detail=_reasons(summary.uncovered),
                since=summary.uncovered_since,
            )
    if summary.uncovered[Uncovered.NO_POD] or summary.uncovered[ReadFailure.NO_CONTAINER]:
        for source in idle:
            text = f'has no pod of the source "{source}"'
            yield Problem(kind="cluster", name=name, text=text, severe=False)
    if summary.pending:
        yield Problem(kind="cluster", name=name, nodes=NodeCondition.UNREAD, text=f"has {coverage}", severe=False)


def _reasons(nodes: "Counter[ReadFailure] | Counter[UnreadReason]") -> str:
    return "; ".join(f"{describe_unread(reason)} ({counted(count, 'node')})" for reason, count in nodes.most_common())
