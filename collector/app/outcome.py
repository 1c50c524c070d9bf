"""The outcome of one round: of each cluster and sink, and of all together."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from collector.app.collected import CollectedCluster, CollectedClusters
from collector.app.round import Round
from collector.inventory import Inventory
from collector.model import ClusterState, NodeState, Uncovered
from collector.store import Store
from collector.views.sink_status import SinkStatuses

__all__ = ["NOT_IN_TIME", "ClusterOutcome", "Outcome", "SinkOutcome", "cluster_outcomes", "sink_outcomes"]

NOT_IN_TIME = "not in time"
PARTIAL = "partial"


class ClusterOutcome(NamedTuple):
    """The outcome of one cluster."""

    cluster: str
    state: ClusterState
    message: str  # why it could not be read, or why some of its labels could not be written
    nodes: int  # GPU nodes
    read: int  # GPU nodes read in this round
    gpus: int
    unread: Mapping[str, int]  # number of nodes that could not be read completely, by reason
    pending: int  # new nodes whose GPU pods are not ready yet
    labels_failed: bool = False

    @property
    def ok(self) -> bool:
        """Whether all of it was read, possibly under another name."""
        if self.state is ClusterState.DUPLICATE:
            return True
        return self.state is ClusterState.UP and not self.unread and not self.labels_failed


class SinkOutcome(NamedTuple):
    """The outcome of the delivery to one sink."""

    sink: str
    delivered: int  # records
    waiting: int  # records that remain in the outbox
    rejected: int  # batches that became dead letters
    message: str  # why the last attempt failed

    @property
    def ok(self) -> bool:
        """Whether the sink has everything."""
        return not self.waiting and not self.rejected


class Outcome(NamedTuple):
    """The outcome of a round."""

    clusters: list[ClusterOutcome]
    sinks: list[SinkOutcome]
    changes: Mapping[str, int]  # number of changes by event
    store: str  # where they were recorded; empty without a store
    unrecorded: str  # why they were not recorded or delivered; empty if they were, or without a store

    @property
    def ok(self) -> bool:
        """Whether everything was read, recorded and delivered."""
        return not self.unrecorded and all(one.ok for one in self.clusters) and all(one.ok for one in self.sinks)


def cluster_outcomes(round_: Round, clusters: CollectedClusters, inventory: Inventory) -> list[ClusterOutcome]:
    """Return the outcome of each cluster."""
    return [_outcome(round_, name, clusters[name], inventory) for name in clusters]


async def sink_outcomes(store: Store, statuses: SinkStatuses, began: float) -> list[SinkOutcome]:
    """Return the outcome of the delivery to each configured sink; raises StoreError."""
    known = {status.sink: status for status in statuses.by_name()}
    rejected = Counter(letter.sink for letter in await store.outbox.dead_letters() if letter.time >= began)
    outcomes = []
    for state in await store.outbox.sinks():
        if state.configured:
            status = known.get(state.sink)
            outcomes.append(
                SinkOutcome(
                    sink=state.sink,
                    delivered=0 if status is None else status.delivered,
                    waiting=state.records,
                    rejected=rejected[state.sink],
                    message=("" if status is None else status.message or status.failure)
                    or (NOT_IN_TIME if state.records else ""),
                )
            )
    return outcomes


def _outcome(round_: Round, name: str, cluster: CollectedCluster, inventory: Inventory) -> ClusterOutcome:
    nodes = inventory.nodes(name)
    unread: Counter[str] = Counter()
    pending = read = 0
    for node in nodes.values():
        read += round_.has_read(node.place)
        if node.uncovered is not None and node.uncovered.reason is Uncovered.PENDING:
            pending += 1
        elif (reason := _why_unread(round_, node)) is not None:
            unread[reason] += 1
    status, trouble = cluster.status, cluster.supervisor.label_trouble
    return ClusterOutcome(
        cluster=name,
        state=status.state,
        message=status.message or ("" if trouble is None else f"labels: {trouble.message}"),
        nodes=len(nodes),
        read=read,
        gpus=sum(len(node.gpus) for node in nodes.values()),
        unread=unread,
        pending=pending,
        labels_failed=trouble is not None,
    )


def _why_unread(round_: Round, node: NodeState) -> str | None:
    if node.uncovered is not None:
        return node.uncovered.reason.value
    if node.failing is not None:
        return node.failing.reason.value
    if not round_.has_read(node.place):
        return NOT_IN_TIME
    return PARTIAL if node.partial else None
