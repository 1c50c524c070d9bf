"""Each cluster in numbers: nodes, GPUs, models, and nodes by problem."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import anyio

from collector.config import PodSource
from collector.health import Health, Level
from collector.model import (
    ClusterState,
    ClusterStatus,
    LabelTrouble,
    NodeState,
    SliceStatus,
    Survey,
    Uncovered,
    UnreadReason,
)
from collector.text import natural_key
from collector.views.collector_view import CollectorView
from collector.views.cooperative import yielding
from collector.views.degraded import degraded_in
from collector.views.fleet_health import Share, cluster_share

__all__ = [
    "ClusterSummaries",
    "ClusterSummary",
    "boards",
    "fleet_coverage",
    "fleet_models",
    "is_overdue",
    "missing_gpus",
    "starting_clusters",
    "summarize",
]

OVERDUE_SLACK_SECONDS = 60.0  # for which a due reading may be in progress
INCOMPLETE_READING_SECONDS = 300.0  # at most, between two incomplete readings of a node
MAX_SYNCED_AGE_SECONDS = 900.0  # of the last confirmation of a cluster's view; as in the alert GpuidViewStale
REST_FACTOR = 9  # times the duration of counting, for which summaries are reused
MAX_REST_SECONDS = 10.0


@dataclass
class ClusterSummary:
    """One cluster in numbers."""

    name: str
    status: ClusterStatus | None
    synced: float | None  # Unix seconds
    conflicts: int
    claims: int
    refresh: float  # seconds
    survey: Survey | None  # its size; None before it has been listed completely
    sources: Sequence[PodSource]
    node_selector: str
    resembles: Sequence[str]  # clusters that show the same nodes, without proof of being the same
    slices: SliceStatus | None  # whether its ResourceSlices are visible; None before that was tried
    stale: bool  # its view has not been confirmed current for long
    share: Share  # of the known GPUs, how many are healthy
    labels: LabelTrouble | None = None  # why labels of its nodes cannot be written
    nodes: int = 0  # GPU nodes
    read: int = 0  # with a valid last reading
    unread: Counter[UnreadReason] = field(default_factory=Counter)  # the other nodes, by reason
    overdue: int = 0  # nodes whose next reading is overdue
    capacity: int = 0  # as `boards` counts it
    unseen: int = 0  # of that, on nodes that were never read
    uncounted: int = 0  # nodes never read whose capacity does not count GPUs
    missing: int = 0  # missing GPUs that nvidia-smi does not name
    lost: int = 0  # GPUs that did not respond
    degraded: Counter[Level] = field(default_factory=Counter)  # GPUs by required action
    virtual: int = 0  # vGPUs, which are not among `gpus`
    models: Counter[str] = field(default_factory=Counter)
    drivers: Counter[str] = field(default_factory=Counter)  # nodes by driver version
    repeated: dict[str, str] = field(default_factory=dict)  # the model of each GPU in conflict or claimed, by UUID

    @property
    def gpus(self) -> int:
        """The number of GPUs, without virtual ones; a GPU reported by several nodes counts once."""
        return self.models.total()

    @property
    def pending(self) -> int:
        """The number of nodes waiting for their first reading."""
        return self.unread[Uncovered.PENDING]

    @property
    def unreadable(self) -> bool:
        """True if there are GPU nodes and none can be read."""
        return self.nodes > 0 and self.unread.total() == self.nodes and not self.pending

    @property
    def complete(self) -> bool:
        """True if the cluster was listed completely and all its GPU nodes have been read."""
        return self.up and self.survey is not None and self.synced is not None and self.read == self.nodes

    @property
    def idle_sources(self) -> list[str]:
        """The sources that select no pods, once known."""
        if self.survey is None:
            return []
        return [source.name for source, pods in zip(self.sources, self.survey.pods, strict=False) if not pods]

    @property
    def up(self) -> bool:
        """True while list and watch are healthy."""
        return self.status is not None and self.status.up


class ClusterSummaries:
    """The summaries of all clusters; counting takes at most a tenth of a core, however often they are requested."""

    def __init__(self, view: CollectorView) -> None:
        self._view = view
        self._lock = anyio.Lock()
        self._summaries: list[ClusterSummary] = []
        self._fresh_until = 0.0

    async def all(self) -> list[ClusterSummary]:
        """Return the summary of every configured cluster, in natural order, at most a few seconds old."""
        async with self._lock:
            started = time.monotonic()
            if started >= self._fresh_until:
                self._summaries = [
                    await summarize(self._view, name) for name in sorted(self._view.clusters(), key=natural_key)
                ]
                ended = time.monotonic()
                self._fresh_until = ended + min(MAX_REST_SECONDS, REST_FACTOR * (ended - started))
            return self._summaries


async def summarize(view: CollectorView, cluster: str) -> ClusterSummary:
    """Return one cluster in numbers, yielding to other tasks while counting."""
    inventory = view.inventory
    summary = ClusterSummary(
        name=cluster,
        status=view.statuses.get(cluster),
        synced=view.synced(cluster),
        conflicts=inventory.conflicts(cluster),
        claims=inventory.claims(cluster),
        refresh=view.refresh(cluster),
        survey=view.survey(cluster),
        sources=view.sources(cluster),
        node_selector=view.node_selector(cluster),
        resembles=sorted(view.resembles(cluster), key=natural_key),
        slices=view.slices(cluster),
        stale=_is_stale(view, cluster),
        share=cluster_share(view, cluster),
        labels=view.label_trouble(cluster),
    )
    contested, claimed = inventory.contested(cluster), inventory.claimed(cluster)
    sound: dict[int, Health] = {}
    degraded: set[str] = set()  # UUIDs of GPUs in conflict that are already counted
    async for entry in yielding(list(inventory.nodes(cluster).values())):
        summary.nodes += 1
        summary.drivers[entry.driver_version or ""] += 1
        summary.overdue += is_overdue(view, entry)
        if (unread := entry.unread) is None:
            summary.read += 1
        else:
            summary.unread[unread.reason] += 1
        summary.capacity += boards(entry)
        summary.unseen += entry.node.capacity or 0 if entry.time is None else 0
        summary.uncounted += entry.node.capacity is None and entry.time is None
        summary.missing += missing_gpus(entry)
        summary.lost += entry.lost
        for one in degraded_in(entry, sound):
            uuid = one.placement.gpu.uuid
            if uuid not in degraded and not one.placement.claim and one.level is not None:
                summary.degraded[one.level] += 1  # a claimed GPU counts where it was first
            if uuid in contested:
                degraded.add(uuid)
        for gpu in entry.gpus:
            if gpu.virtual:
                summary.virtual += 1
            elif gpu.uuid in contested or gpu.uuid in claimed:
                summary.repeated.setdefault(gpu.uuid, gpu.model or "")
            else:
                summary.models[gpu.model or ""] += 1
    summary.models.update(summary.repeated.values())
    return summary


def _is_stale(view: CollectorView, cluster: str) -> bool:
    synced = view.synced(cluster)
    return synced is not None and view.now() - synced > MAX_SYNCED_AGE_SECONDS


def fleet_coverage(summaries: Iterable[ClusterSummary]) -> tuple[int, Counter[UnreadReason]]:
    """Return how many GPU nodes of all clusters have been read, and how many have not, by reason."""
    read, unread = 0, Counter[UnreadReason]()
    for summary in summaries:
        read += summary.read
        unread += summary.unread
    return read, unread


def fleet_models(summaries: Iterable[ClusterSummary]) -> Counter[str]:
    """Return the number of GPUs of each model in all clusters; a GPU reported by several counts once."""
    models: Counter[str] = Counter()
    seen: set[str] = set()
    for summary in summaries:
        models.update(summary.models)
        models.subtract(model for uuid, model in summary.repeated.items() if uuid in seen)
        seen.update(summary.repeated)
    return models


def boards(entry: NodeState) -> int:
    """Return how many GPUs a node should have: its capacity or, if that does not count GPUs, those that it had."""
    if entry.node.capacity is not None:
        return entry.node.capacity
    return sum(not gpu.virtual for gpu in entry.gpus) + len(entry.silent)


def missing_gpus(entry: NodeState) -> int:
    """Return how many GPUs of a node's capacity are neither found nor lost; 0 before the first reading."""
    return 0 if entry.time is None else max(0, (entry.node.capacity or 0) - (entry.found or 0) - entry.lost)


def is_overdue(view: CollectorView, entry: NodeState) -> bool:
    """Return whether a node's next reading is long overdue although its cluster is up and it can be read."""
    status = view.statuses.get(entry.place.cluster)
    if status is None or not status.up or entry.time is None or entry.unread is not None:
        return False
    period = view.refresh(entry.place.cluster)
    if entry.lost or entry.partial:  # then it is retried like a failure, less often than a short `refresh`
        period = max(period, INCOMPLETE_READING_SECONDS)
    return view.now() - entry.time > 2 * period + OVERDUE_SLACK_SECONDS


def starting_clusters(view: CollectorView) -> list[str]:
    """Return the clusters that have not given a first answer, good or bad; of a shard, those that it should read."""
    return [
        name
        for name in view.clusters()
        if view.shard.reads(name)
        if (status := view.statuses.get(name)) is None or status.state is ClusterState.STARTING
    ]
