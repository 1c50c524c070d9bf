"""The troubles of one cluster, its nodes and their GPUs; a cause absorbs its consequences."""

from collections.abc import Iterator, Mapping, Sequence

from collector.marks import MarkKind
from collector.model import UNREAD_REASONS, ClusterState, Gpu, LabelFailure, Place, ReadFailure, SliceState, Uncovered
from collector.views.cluster_summary import MAX_SYNCED_AGE_SECONDS, ClusterSummary
from collector.views.collector_view import CollectorView
from collector.views.cooperative import yielding
from collector.views.humanize import duration
from collector.views.marks import placements_of
from collector.views.problems.kinds import DOWN, ProblemKind
from collector.views.problems.node_troubles import NodeWalk
from collector.views.problems.trouble import Trouble, Troubles

__all__ = ["MarkedRma", "cluster_troubles", "marked_rma"]

MarkedRma = Mapping[Place, Sequence[Gpu]]  # the GPUs in service that are marked rma, by node


async def cluster_troubles(view: CollectorView, summary: ClusterSummary, marked: MarkedRma) -> Troubles:
    """Return the troubles of a cluster, its nodes and their GPUs, letting other tasks run."""
    found = Troubles(_own(summary))
    walk = NodeWalk(view, summary.name, marked)
    async for entry in yielding(list(view.inventory.nodes(summary.name).values())):
        for trouble in walk.troubles(entry):
            found.add(trouble)
    found.swallow()
    return found


async def marked_rma(view: CollectorView) -> MarkedRma:
    """Return the GPUs that are marked rma and on a node, letting other tasks run."""
    found: dict[Place, dict[str, Gpu]] = {}
    now = view.now()
    async for mark in yielding(view.marks.all(now)):
        if mark.kind is MarkKind.RMA:
            for one in placements_of(view.inventory, view.marks, mark, now):
                if not one.claim:
                    found.setdefault(one.place, {})[one.gpu.uuid] = one.gpu
    return {place: list(gpus.values()) for place, gpus in found.items()}


def _own(summary: ClusterSummary) -> Iterator[Trouble]:
    """Yield the troubles of the cluster as a whole."""
    if not summary.up:
        yield _down(summary)
    yield from _unread(summary)
    yield from _view(summary)
    yield from _labels(summary)


def _down(summary: ClusterSummary) -> Trouble:
    status, name = summary.status, summary.name
    state = status.state if status else ClusterState.STARTING
    return Trouble(
        DOWN[state],
        size=summary.gpus,
        cluster=name,
        since=status.since if status else None,
        reason=status.message if status else "",
    )


def _unread(summary: ClusterSummary) -> Iterator[Trouble]:
    """Yield why no GPU node can be read, or why sources or selectors match nothing."""
    name, survey, idle = summary.name, summary.survey, summary.idle_sources
    size = max(summary.capacity, summary.gpus)
    if survey is not None and not survey.nodes and summary.node_selector:
        yield Trouble(
            ProblemKind.NO_MATCHING_NODES,
            cluster=name,
            reason=f'no node matches node_selector "{summary.node_selector}"',
        )
    if summary.nodes > summary.pending and summary.sources and len(idle) == len(summary.sources):
        places = " or ".join(f'"{source.selector}" in namespace {source.namespace}' for source in summary.sources)
        yield Trouble(ProblemKind.NO_GPU_PODS, size=size, cluster=name, reason=f"nothing matches {places}")
    elif summary.unreadable:
        reasons = [reason for reason in UNREAD_REASONS if reason is not Uncovered.PENDING and summary.unread[reason]]
        variant = reasons[0].value if len(reasons) == 1 else ""
        yield Trouble(ProblemKind.CLUSTER_UNREAD, variant, size=size, cluster=name)
    if summary.unread[Uncovered.NO_POD] or summary.unread[ReadFailure.NO_CONTAINER]:
        for source in idle:
            yield Trouble(ProblemKind.SOURCE_WITHOUT_PODS, source, cluster=name)


def _view(summary: ClusterSummary) -> Iterator[Trouble]:
    """Yield doubts that the cluster's published data is complete, current and free of duplicates."""
    name = summary.name
    if summary.up and (summary.survey is None or summary.synced is None):
        yield Trouble(ProblemKind.CLUSTER_NOT_LISTED, cluster=name)
    elif summary.up and summary.stale:
        reason = f"its list was not confirmed as current for {duration(MAX_SYNCED_AGE_SECONDS)}"
        yield Trouble(ProblemKind.CLUSTER_STALE, size=summary.gpus, cluster=name, since=summary.synced, reason=reason)
    slices = summary.slices if summary.up else None
    if slices is not None and (slices.lost or slices.state is SliceState.FAILING):
        yield Trouble(ProblemKind.SLICES_UNSEEN, "lost" if slices.lost else "", cluster=name, reason=slices.message)
    if summary.resembles:
        group = sorted({name, *summary.resembles})
        yield Trouble(
            ProblemKind.RESEMBLANCE,
            ", ".join(group),
            keys=tuple(group),
            cluster=name,
            reason="they show nodes with the same UIDs, but there is no proof that they are one cluster",
        )


def _labels(summary: ClusterSummary) -> Iterator[Trouble]:
    """Yield why nodes of the cluster do not have the labels that they should have."""
    if (trouble := summary.labels) is not None:
        yield Trouble(
            ProblemKind.LABELS_FAILING,
            "contested" if trouble.reason is LabelFailure.CONTESTED else "",
            count=summary.nodes if trouble.nodes is None else trouble.nodes,
            cluster=summary.name,
            since=trouble.since,
            reason=trouble.message,
        )
