"""One round through all clusters, for `gpuid run --once`: tracks what is still to be read, recorded and delivered."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import anyio

from collector.app.collected import CollectedCluster, CollectedClusters
from collector.delivery.delivery import Delivery
from collector.inventory import Inventory
from collector.model import Change, ClusterState, NodeState, Place, Uncovered
from collector.store import Store, StoreError
from collector.views.sink_status import SinkStatuses

__all__ = ["PATIENCE_SECONDS", "ClusterOutcome", "Outcome", "Round", "SinkOutcome", "complete_round"]

PATIENCE_SECONDS = 30.0  # during which failures are retried
NOT_IN_TIME = "not in time"
PARTIAL = "partial"
_LABELS_SECONDS = 1.0  # during which the label writers must be idle
_DELIVER_SECONDS = 5.0  # minimum for recording and delivering
_INTERVAL_SECONDS = 0.2  # between two checks of what is still to be done
_PAUSE_FACTOR = 20.0  # minimum pause after a check, as a multiple of its duration


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


class Round:
    """Tracks the nodes read since it began; failures are retried until they have lasted for `patience` seconds.

    `clock` returns Unix seconds.
    """

    def __init__(self, *, patience: float = PATIENCE_SECONDS, clock: Callable[[], float] = time.time) -> None:
        self.patience = patience
        self.began = clock()
        self.changes: Counter[str] = Counter()
        self._clock = clock
        self._read: set[Place] = set()
        self._failing_since: dict[str, float] = {}  # by cluster, while it is down: since when nothing was read there
        self._all_read_since: float | None = None  # while only claims or labels are open

    def note_read(self, place: Place) -> None:
        """Note that a node was read."""
        self._read.add(place)
        if place.cluster in self._failing_since:
            self._failing_since[place.cluster] = self._clock()

    def note_change(self, change: Change) -> None:
        """Count a change."""
        self.changes[change.event.value] += 1

    def is_over(self, clusters: CollectedClusters, inventory: Inventory) -> bool:
        """Return whether nothing is left to wait for; to be called repeatedly."""
        now = self._clock()
        waits = [self._waits_for(name, clusters[name], inventory, now) for name in clusters]  # each call notes failures
        if any(waits):
            self._all_read_since = None
            return False
        if self._all_read_since is None:
            self._all_read_since = now
        if now - self._all_read_since >= self.patience:
            return True
        return not any(
            inventory.claims(name) or not clusters[name].supervisor.labels_idle_for(_LABELS_SECONDS)
            for name in clusters
            if clusters[name].status.up
        )

    def outcomes(self, clusters: CollectedClusters, inventory: Inventory) -> list[ClusterOutcome]:
        """Return the outcome of each cluster."""
        return [self._outcome(name, clusters[name], inventory) for name in clusters]

    def _waits_for(self, name: str, cluster: CollectedCluster, inventory: Inventory, now: float) -> bool:
        state = cluster.status.state
        if state is ClusterState.DUPLICATE:
            return False
        if state not in (ClusterState.UP, ClusterState.STARTING):
            return now - self._failing_since.setdefault(name, now) < self.patience
        self._failing_since.pop(name, None)
        if state is ClusterState.STARTING or cluster.survey is None:
            return True
        return any(self._is_due(node, now) for node in inventory.nodes(name).values())

    def _is_due(self, node: NodeState, now: float) -> bool:
        """Return whether a node may still be read."""
        if node.uncovered is not None:
            return False
        if node.failing is None:
            return node.place not in self._read
        since, next_try = node.failing.since, node.failing.next_try
        gives_up = since + self.patience
        return next_try is not None and next_try < gives_up and now < gives_up

    def _outcome(self, name: str, cluster: CollectedCluster, inventory: Inventory) -> ClusterOutcome:
        nodes = inventory.nodes(name)
        unread: Counter[str] = Counter()
        pending = read = 0
        for node in nodes.values():
            read += node.place in self._read
            if node.uncovered is not None and node.uncovered.reason is Uncovered.PENDING:
                pending += 1
            elif (reason := self._why_unread(node)) is not None:
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

    def _why_unread(self, node: NodeState) -> str | None:
        if node.uncovered is not None:
            return node.uncovered.reason.value
        if node.failing is not None:
            return node.failing.reason.value
        if node.place not in self._read:
            return NOT_IN_TIME
        return PARTIAL if node.partial else None


async def complete_round(
    round_: Round,
    clusters: CollectedClusters,
    inventory: Inventory,
    *,
    store: Store | None,
    delivery: Delivery | None,
    sinks: SinkStatuses,
    timeout: float,
) -> Outcome:
    """Wait until all clusters are read and their changes recorded and delivered; return the outcome.

    After `timeout` seconds, reading stops; what was read is still recorded and delivered, for a few seconds.
    """
    deadline = anyio.current_time() + timeout
    with anyio.CancelScope(deadline=deadline):
        while True:
            began = anyio.current_time()
            if round_.is_over(clusters, inventory):
                break
            # Checking a large fleet takes long, and most of the time is for reading it.
            await anyio.sleep(max(_INTERVAL_SECONDS, _PAUSE_FACTOR * (anyio.current_time() - began)))
    found = round_.outcomes(clusters, inventory)
    deadline = max(deadline, anyio.current_time() + _DELIVER_SECONDS)
    if store is None or delivery is None:
        return Outcome(found, [], round_.changes, "", "")
    unrecorded = ""
    with anyio.CancelScope(deadline=deadline) as scope:
        unrecorded = await _why_unrecorded(store, round_.patience)
    if scope.cancelled_caught:
        unrecorded = _hindrance(store) or NOT_IN_TIME
    delivered: list[SinkOutcome] = []
    if not unrecorded:
        try:
            with anyio.CancelScope(deadline=deadline):
                await delivery.deliver_all(round_.patience)
            delivered = await _sink_outcomes(store, sinks, round_.began)
        except StoreError as error:
            unrecorded = str(error)
    return Outcome(found, delivered, round_.changes, str(store.database.location), unrecorded)


async def _why_unrecorded(store: Store, patience: float) -> str:
    """Wait until everything is committed; return why it is not after `patience` seconds, or an empty string."""
    until = anyio.current_time() + patience
    while not store.leadership.leads:
        if anyio.current_time() >= until:
            return _hindrance(store)
        await anyio.sleep(_INTERVAL_SECONDS)
    until = anyio.current_time() + patience
    while not await store.history_writer.flushed(patience):
        if anyio.current_time() >= until and not store.health.status.up:
            return store.health.status.message or "the store did not respond in time"
        await anyio.sleep(_INTERVAL_SECONDS)
    return ""


def _hindrance(store: Store) -> str:
    """Return what keeps this collector from recording; empty if nothing is known."""
    if trouble := store.health.status.message:
        return trouble
    if not store.leadership.leads:
        return f"another collector leads: {store.leadership.status.holder or 'unknown'}"
    return ""


async def _sink_outcomes(store: Store, statuses: SinkStatuses, began: float) -> list[SinkOutcome]:
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
