"""The nodes of one cluster that have GPU pods: which one is due to be read, and which one is gone. No I/O."""

import dataclasses
import random
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import anyio

from collector.collect import schedule
from collector.collect.delay_queue import DelayQueue
from collector.collect.objects import NodeObject, PodObject
from collector.collect.observer import Observer
from collector.collect.schedule import Attempt, Candidate, RetryPolicy
from collector.config import ClusterSettings, PodSource
from collector.events import ResettableEvent
from collector.model import Fingerprint, Known, NodeInfo, ReadFailure

__all__ = ["NodeQueue", "Target", "TrackedNode"]


@dataclasses.dataclass(slots=True, eq=False)
class TrackedNode:
    """What is tracked of one node: its pods, the last attempt, and what the observer and the log were given."""

    name: str
    candidates: dict[tuple[int, str], Candidate] = dataclasses.field(default_factory=dict)  # by source and pod
    observed: bool = False  # the observer knows the node
    observed_info: NodeInfo | None = None  # as the observer knows it
    attempt: Attempt | None = None
    reading: bool = False  # handed out, and not done yet
    verify: bool = False  # to be read again soon, whatever the last attempt said
    podless_since: float | None = None  # since when it has had no pod at all
    last_failure: ReadFailure | None = None  # how the last attempt failed; None after a success
    last_stderr: str = ""  # of the last command that succeeded


class Target(NamedTuple):
    """The pod through which a node is read, and what a reading made now depends on."""

    node: TrackedNode
    candidate: Candidate
    fingerprint: Fingerprint


class NodeQueue:
    """Hands out the nodes of one cluster when they are due, each to one reader at a time.

    Before the first `resume` and while paused, no node is handed out, and none is given up for want of a pod: the view
    of the cluster would be incomplete or stale. A node that was deleted is reported at once.
    """

    def __init__(
        self,
        cluster: ClusterSettings,
        observer: Observer,
        *,
        known: Mapping[str, Known],
        retry: RetryPolicy,
        rng: random.Random,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._cluster = cluster
        self._observer = observer
        self._known = known
        self._retry = retry
        self._rng = rng
        self._clock = clock
        self._infos: dict[str, NodeInfo] = {}  # every node that exists
        self._nodes: dict[str, TrackedNode] = {}  # every node that has a GPU pod, or that the observer knows
        self._due = DelayQueue()
        self._started = False
        self._paused = True
        self._sooner = ResettableEvent()  # wakes `get` when a node becomes due before `_waiting_until`
        self._waiting_until = float("-inf")  # so while nothing waits

    # What the cluster's watches report

    def set_node(self, before: NodeObject | None, after: NodeObject | None) -> None:
        """Apply a change of a node."""
        if after is not None:
            name = after.key
            if self._infos.get(name) == after.facts:
                return
            self._infos[name] = after.facts
        elif before is not None:
            name = before.key
            del self._infos[name]
        if (node := self._nodes.get(name)) is not None:
            self._reschedule(node)

    def set_pod(self, order: int, source: PodSource, before: PodObject | None, after: PodObject | None) -> None:
        """Apply a change of a pod that `source`, the one at `order` in the configuration, selects."""
        if before is not None and before.node and (after is None or after.node != before.node):
            node = self._nodes[before.node]
            del node.candidates[order, before.key]
            self._reschedule(node)
        if after is not None and after.node:
            node = self._nodes.setdefault(after.node, TrackedNode(after.node))
            node.candidates[order, after.key] = Candidate(order, source, after)
            self._reschedule(node)

    def resume(self) -> None:
        """Hand out nodes: the view is complete and current."""
        self._paused = False
        if not self._started:
            self._started = True
            self._restore_known()
            for node in list(self._nodes.values()):
                self._reschedule(node)
        self._wake_before(self._due.next_due())

    def pause(self) -> None:
        """Hand out nothing until `resume`: the view is not current."""
        self._paused = True

    def verify(self, name: str) -> bool:
        """Have a node read again soon; returns False where that cannot be: it is gone, or has no ready pod.

        A node is read at most every few seconds, however often that is asked for.
        """
        node = self._nodes.get(name)
        if node is None or not (node.reading or self.select(node)):
            return False
        node.verify = True
        self._reschedule(node)
        return True

    # What a reader asks for and reports

    async def get(self) -> TrackedNode:
        """Wait for the next node that is due; the reader must call `done` for it. For one task at a time."""
        while (node := self.pop_due()) is None:
            self._waiting_until = float("inf") if self._paused else self._due.next_due()
            with anyio.CancelScope(deadline=self._waiting_until):
                await self._sooner.wait()
        return node

    def pop_due(self) -> TrackedNode | None:
        """Return the node that has been due for longest, if any; nodes whose grace is over are given up on the way."""
        if self._paused:
            return None
        now = self._clock()
        while (name := self._due.pop_due(now)) is not None:
            node = self._nodes[name]
            if node.candidates:
                node.reading, node.verify = True, False
                return node
            self._give_up(node)
        return None

    def select(self, node: TrackedNode) -> Target | None:
        """Return what to read of a node; None where it has no ready pod or does not exist."""
        candidate, info = schedule.choose(node.candidates.values()), self._infos.get(node.name)
        if candidate is None or info is None:
            return None
        return Target(node, candidate, schedule.fingerprint(candidate, info))

    def current_info(self, target: Target) -> NodeInfo | None:
        """Return the current info of a node; None if the pod that was read is no longer on it.

        The output of a pod that is gone proves nothing about the node as it is now.
        """
        read = target.candidate
        candidate = target.node.candidates.get((read.order, read.pod.key))
        if candidate is None or candidate.pod.uid != read.pod.uid:
            return None
        return self._infos.get(target.node.name)

    def succeeded(self, target: Target) -> None:
        """Note that a node was read."""
        node, now = target.node, self._clock()
        node.attempt = schedule.succeeded(node.attempt, target.fingerprint, now, self._cluster.refresh, self._rng)

    def failed(self, target: Target, reason: ReadFailure) -> None:
        """Note that a node could not be read."""
        node, now = target.node, self._clock()
        backoff = self._retry.backoff_after(reason, self._cluster.refresh)
        node.attempt = schedule.failed(node.attempt, target.fingerprint, now, backoff, self._rng)

    def done(self, node: TrackedNode) -> None:
        """Take a node back from its reader, whatever came of it."""
        node.reading = False
        self._reschedule(node)

    def _restore_known(self) -> None:
        """Take up the readings of an earlier run, and report the nodes among them that are gone."""
        now, wall_time = self._clock(), time.time()
        for name, known in self._known.items():
            if name not in self._infos:
                self._observer.on_node_gone(self._cluster.name, name, wall_time)
                continue
            node = self._nodes.setdefault(name, TrackedNode(name))
            node.observed = True
            node.attempt = schedule.resumed(known, wall_time - known.time, now, self._cluster.refresh, self._rng)
        self._known = {}

    def _reschedule(self, node: TrackedNode) -> None:
        """Report what changed about a node, and set when it is due or, without a pod, given up."""
        if not self._started:
            return
        info = self._infos.get(node.name)
        if info is None or not (node.candidates or node.observed):
            self._give_up(node)
            return
        if info != node.observed_info:
            node.observed_info, node.observed = info, True
            self._observer.on_node(self._cluster.name, info)
        now = self._clock()
        if node.candidates:
            node.podless_since = None
            due = self._due_time(node, now)
        else:
            node.podless_since = now if node.podless_since is None else node.podless_since
            due = node.podless_since + self._cluster.grace
        self._due.schedule(node.name, due)
        if due is not None:
            self._wake_before(due)

    def _due_time(self, node: TrackedNode, now: float) -> float | None:
        if node.reading or (target := self.select(node)) is None:
            return None
        due = schedule.due(node.attempt, target.fingerprint, now, settle=self._retry.settle)
        if node.verify:
            due = min(due, now if node.attempt is None else max(now, node.attempt.ended + self._retry.settle))
        return due

    def _give_up(self, node: TrackedNode) -> None:
        """Report a node as gone; its pods, if it has any, are kept in case it comes back."""
        if node.observed:
            self._observer.on_node_gone(self._cluster.name, node.name, time.time())
        node.observed, node.observed_info, node.attempt = False, None, None
        node.podless_since, node.last_failure = None, None
        self._due.schedule(node.name, None)
        if not node.candidates and not node.reading:
            del self._nodes[node.name]

    def _wake_before(self, due: float) -> None:
        if not self._paused and due < self._waiting_until:
            self._waiting_until = float("-inf")
            self._sooner.pulse()
