"""The problems of a running collector: found, merged, ranked and worded."""

import time
from collections.abc import Collection, Iterable, Sequence

import anyio
import msgspec

from collector.model import NodeState, Place
from collector.text import natural_key
from collector.views.cluster_summary import MAX_REST_SECONDS, REST_FACTOR, ClusterSummaries, ClusterSummary
from collector.views.collector_view import CollectorView
from collector.views.degraded import DegradedGpu
from collector.views.health import degraded_times
from collector.views.problems.cluster_troubles import cluster_troubles, marked_rma
from collector.views.problems.collector_troubles import collector_troubles
from collector.views.problems.kinds import KINDS, ProblemKind
from collector.views.problems.node_troubles import NodeWalk
from collector.views.problems.problem import Problem, ProblemGpu
from collector.views.problems.trouble import TroubleRow, Troubles
from collector.views.problems.wording import problem_id, reason, remedy, title, url

__all__ = ["FleetProblems", "cluster_problems", "node_problems", "problem_of", "ranked"]


class FleetProblems:
    """The problems of all clusters; finding them takes at most a tenth of a core, however often they are requested."""

    def __init__(self, view: CollectorView, summaries: ClusterSummaries) -> None:
        self._view = view
        self._summaries = summaries
        self._lock = anyio.Lock()
        self._clusters: dict[str, Troubles] = {}
        self._fleet: list[Problem] = []  # of all clusters
        self._fresh_until = 0.0

    async def all(self) -> list[Problem]:
        """Return all problems, worst first."""
        await self._refresh()
        own = [problem_of(row) for row in Troubles(collector_troubles(self._view))]
        return ranked([*own, *self._fleet])

    async def of(self, clusters: Collection[str]) -> list[Problem]:
        """Return the problems of only some clusters, worst first."""
        await self._refresh()
        return ranked(await _problems(self._view, (self._clusters.get(name, Troubles()) for name in clusters)))

    async def _refresh(self) -> None:
        async with self._lock:
            started = time.monotonic()
            if started < self._fresh_until:
                return
            summaries, marked = await self._summaries.all(), await marked_rma(self._view)
            self._clusters = {one.name: await cluster_troubles(self._view, one, marked) for one in summaries}
            self._fleet = await _problems(self._view, self._clusters.values())
            ended = time.monotonic()
            self._fresh_until = ended + min(MAX_REST_SECONDS, REST_FACTOR * (ended - started))


async def cluster_problems(view: CollectorView, summary: ClusterSummary) -> list[Problem]:
    """Return the current problems of one cluster, worst first."""
    return ranked(await _problems(view, [await cluster_troubles(view, summary, await marked_rma(view))]))


async def node_problems(view: CollectorView, entry: NodeState) -> list[Problem]:
    """Return the current problems of one node and its GPUs, worst first."""
    walk = NodeWalk(view, entry.place.cluster, await marked_rma(view))
    return ranked(await _problems(view, [Troubles(walk.troubles(entry))]))


def ranked(problems: Iterable[Problem]) -> list[Problem]:
    """Return problems in order of importance."""
    return sorted(problems, key=lambda problem: problem.rank)


def problem_of(row: TroubleRow) -> Problem:
    """Return the troubles of a row as one problem."""
    gpus = sorted(row.gpus, key=lambda gpu: (natural_key(gpu.cluster), natural_key(gpu.node)))
    return Problem(
        id=problem_id(row),
        severity=KINDS[row.kind].severity,
        kind=row.kind,
        title=title(row),
        count=row.count,
        gpus_affected=row.size,
        consequences=row.consequences,
        clusters=sorted(row.clusters, key=natural_key),
        nodes=sorted(row.nodes, key=lambda node: (natural_key(node.cluster), natural_key(node.node))),
        nodes_total=row.nodes_total,
        gpus=gpus,
        gpus_total=row.gpus_total,
        since=row.since,
        reason=reason(row),
        remedy=remedy(row),
        url=url(row),
    )


async def _problems(view: CollectorView, clusters: Iterable[Troubles]) -> list[Problem]:
    folded = Troubles()
    for one in clusters:
        folded.merge(one)
    return [await _dated(view, problem_of(row)) for row in folded]


async def _dated(view: CollectorView, problem: Problem) -> Problem:
    """Return a problem of degraded GPUs with its start time from the history."""
    if problem.kind is not ProblemKind.GPU_DEGRADED:
        return problem
    times = await degraded_times(view, _placed(view, problem.gpus))
    return msgspec.structs.replace(problem, since=min(times.values(), default=None))


def _placed(view: CollectorView, gpus: Sequence[ProblemGpu]) -> list[DegradedGpu]:
    found = ((Place(gpu.cluster, gpu.node), view.inventory.find(uuid=gpu.uuid or "")) for gpu in gpus)
    return [DegradedGpu.of(one) for place, present in found for one in present if one.place == place]
