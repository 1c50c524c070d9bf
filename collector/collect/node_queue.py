"""Tracks the GPU nodes of one cluster: which are due to be read, unreadable, or gone. No I/O."""

import random
import time
from collections.abc import Callable, Mapping

import anyio
import msgspec

from collector.collect import schedule
from collector.collect.coverage import CoverageReporter
from collector.collect.delay_queue import DelayQueue
from collector.collect.listed import Boards
from collector.collect.log_times import LogTimes
from collector.collect.objects import NodeObject, PodObject
from collector.collect.observer import Observer
from collector.collect.schedule import Attempt, Candidate, RetryPolicy
from collector.collect.sharing import learn
from collector.collect.slices import NodeDevices
from collector.collect.smi_reading import Moment
from collector.collect.tracked_node import Target, TrackedNode
from collector.config import ClusterSettings, PodSource, SourceMethod
from collector.events import ResettableEvent
from collector.model import Fingerprint, Known, NodeInfo, ReadFailure, Survey

__all__ = ["NodeQueue"]


class NodeQueue:
    """Hands out a cluster's nodes when they are due, each to one reader at a time.

    Before the first `resume` and while paused, no node is handed out, and none is given up for lack of a pod: the view
    of the cluster is incomplete or stale. A deleted node is reported immediately.

    A node with GPUs according to Kubernetes is reported with or without a pod, and with the reason if no ready pod
    covers it. While it is younger than `grace`, this is expected: its driver may still be installing.

    With `read_all`, readings of an earlier run do not count as fresh.
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
        read_all: bool = False,
    ) -> None:
        self._cluster = cluster
        self._observer = observer
        self._known = known
        self._read_all = read_all
        self._retry = retry
        self._rng = rng
        self._clock = clock
        self._coverage = CoverageReporter(cluster.name, observer)
        self._objects: dict[str, NodeObject] = {}  # every node that exists
        self._nodes: dict[str, TrackedNode] = {}  # every node with GPUs or a GPU pod, or known to the observer
        self._devices: dict[str, NodeDevices] = {}  # from ResourceSlices, by node, existing or not
        self._pods = [0] * len(cluster.active_sources)  # number of pods per source
        self._found = 0  # GPUs on all nodes
        self._survey: Survey | None = None  # as reported to the observer
        self._due = DelayQueue()
        self._started = False
        self._paused = True
        self._sooner = ResettableEvent()  # wakes `get` when a node becomes due before `_waiting_until`
        self._waiting_until = float("-inf")  # so while nothing waits

    # Events of the cluster's watches

    def set_node(self, before: NodeObject | None, after: NodeObject | None) -> None:
        """Apply a change of a node."""
        if after is not None:
            name = after.key
            known = self._objects.get(name)
            self._objects[name] = after
            if known is not None and (known.facts, known.labels) == (after.facts, after.labels):
                return
            if name not in self._nodes and (after.facts.gpu_sign or self._has_listed_gpus(name)):
                self._track(name)
            if known is not None and known.facts.uid != after.facts.uid and name in self._nodes:
                self._nodes[name].sharing = None  # another machine
        elif before is not None:
            name = before.key
            del self._objects[name]
        if (node := self._nodes.get(name)) is not None:
            self._reschedule(node)
        self._report_survey()

    def set_pod(self, order: int, source: PodSource, before: PodObject | None, after: PodObject | None) -> None:
        """Apply a change of a pod that `source`, the one at `order` in the configuration, selects."""
        self._pods[order] += _is_candidate(order, source, after) - _is_candidate(order, source, before)
        if before is not None and before.node and (after is None or after.node != before.node):
            node = self._nodes[before.node]
            del node.pods[order, before.key]
            self._reschedule(node)
        if after is not None and after.node:
            node = self._track(after.node)
            node.pods[order, after.key] = Candidate(order, source, after)
            self._reschedule(node)
        self._report_survey()

    def set_devices(self, name: str, devices: NodeDevices | None) -> None:
        """Apply a change of a node's ResourceSlices; None: there are none any more."""
        if devices is None:
            del self._devices[name]
        else:
            self._devices[name] = devices
        if name in self._nodes or (name in self._objects and self._has_listed_gpus(name)):
            node = self._track(name)
            node.boards = node.boards or Boards()
            node.boards.change(node.devices, devices, self._clock())
            node.devices = devices
            self._reschedule(node)

    def resume(self) -> None:
        """Hand out nodes: the view is complete and current."""
        self._paused = False
        if not self._started:
            self._started = True
            self._restore_known()
            for node in list(self._nodes.values()):
                self._reschedule(node)
        self._report_survey()
        self._wake_before(self._due.next_due())

    def pause(self) -> None:
        """Hand out nothing until `resume`: the view is not current."""
        self._paused = True

    def verify(self, name: str, delay: float = 0.0) -> bool:
        """Have a node read again in `delay` seconds; returns False if it is gone or has no ready pod.

        A node is read at most every few seconds, however often this is requested. Any earlier reading also satisfies
        the request.
        """
        node = self._nodes.get(name)
        if node is None or not (node.reading or self.select(node)):
            return False
        now = self._clock()
        if any(candidate.source.method is SourceMethod.LOG for candidate in node.pods.values()):
            node.log.ask(now)
        at = now + delay
        node.verify_at = at if node.verify_at is None else min(node.verify_at, at)
        self._reschedule(node)
        return True

    # For the label writer

    @property
    def paused(self) -> bool:
        """Whether the view of the cluster is incomplete or stale."""
        return self._paused

    def node(self, name: str) -> NodeObject | None:
        """Return an existing node, with or without GPUs."""
        return self._objects.get(name)

    def fingerprint(self, name: str) -> Fingerprint | None:
        """Return the fingerprint of a reading made now; None if the node cannot be read."""
        node = self._nodes.get(name)
        target = None if node is None else self.select(node)
        return None if target is None else target.fingerprint

    # For the node reader

    async def get(self) -> TrackedNode:
        """Wait for the next due node; the reader must call `done` for it. For one task at a time."""
        while (node := self.pop_due()) is None:
            self._waiting_until = float("inf") if self._paused else self._due.next_due()
            with anyio.CancelScope(deadline=self._waiting_until):
                await self._sooner.wait()
        return node

    def pop_due(self) -> TrackedNode | None:
        """Return the node that has been due longest, if any; also gives up nodes whose grace is over."""
        if self._paused:
            return None
        now = self._clock()
        while (name := self._due.pop_due(now)) is not None:
            node = self._nodes[name]
            if not node.reading and self.select(node) is not None:
                node.reading, node.verify_at = True, None
                return node
            self._end_grace(node, now)
        return None

    def select(self, node: TrackedNode) -> Target | None:
        """Return what to read of a node; None if it has no ready pod or does not exist."""
        candidate, known = schedule.choose(node.pods.values()), self._objects.get(node.name)
        if candidate is None or known is None:
            return None
        listed = None if node.devices is None else node.devices.listed
        return Target(node, candidate, schedule.fingerprint(candidate, known.facts, listed))

    def current_info(self, target: Target) -> NodeInfo | None:
        """Return the current info of a node; None if the pod that was read is no longer on it.

        The output of a deleted pod proves nothing about the node's current state.
        """
        read = target.candidate
        candidate = target.node.pods.get((read.order, read.pod.key))
        if candidate is None or candidate.pod.uid != read.pod.uid:
            return None
        return self._info(target.node)

    def has_room(self, target: Target, found: int) -> bool:
        """Return whether a cluster may have `found` GPUs on a node."""
        return self._found - target.node.found + found <= self._cluster.max_gpus

    def succeeded(self, target: Target, *, found: int, mig: bool, like_a_failure: bool) -> NodeInfo:
        """Record a successful reading: the GPUs found, and whether any has MIG on; returns the node's info.

        With `like_a_failure` the node is due as soon as after a failure. Raises KeyError for a node that is gone.
        """
        node = target.node
        if like_a_failure:
            self.failed(target, ReadFailure.EXIT_STATUS)
        else:
            self.unchanged(target)
        known = self._objects[node.name]
        capacity, allocatable = known.facts.advertised
        node.sharing = learn(
            node.sharing,
            known.labels,
            capacity=capacity,
            allocatable=allocatable,
            found=found,
            mig=mig,
            rebooted=target.fingerprint.boot_id != node.read_boot_id,
        )
        node.was_read, node.read_boot_id = True, target.fingerprint.boot_id
        if target.candidate.source.method is SourceMethod.LOG:
            node.log.note_reading(target.fingerprint)
        self._found += found - node.found
        node.found = found
        return node.info(known, self._clock())

    def unchanged(self, target: Target) -> None:
        """Record that a node was read, with nothing new."""
        node, now, refresh = target.node, self._clock(), self._cluster.refresh
        if target.candidate.source.method is SourceMethod.LOG:
            moment = Moment(time.time(), now)
            wait = self.log_times(target).next_look(moment, refresh, self._retry.looks, self._rng)
            node.attempt = Attempt(fingerprint=target.fingerprint, ended=now, next=now + wait)
        else:
            node.attempt = schedule.succeeded(node.attempt, target.fingerprint, now, refresh, self._rng)

    def failed(self, target: Target, reason: ReadFailure) -> float:
        """Record a failed reading, and return in how many seconds the node is read again if nothing changes."""
        node, now = target.node, self._clock()
        # With logs, nothing was run.
        hung = reason is ReadFailure.TIMEOUT and target.candidate.source.method is SourceMethod.EXEC
        backoff = self._retry.after_timeout(self._cluster.refresh) if hung else self._retry.backoff
        node.attempt = schedule.failed(node.attempt, target.fingerprint, now, backoff, self._rng, hung=hung)
        return node.attempt.next - now

    def answered(self, target: Target, started: float) -> bool:
        """Return whether a reading started then satisfies the request; otherwise the node is read again soon.

        A document that a pod had printed before does not, so a newer one is awaited, but not forever.
        """
        node, now = target.node, self._clock()
        polls = node.log.unanswered(started, now, self._retry.newer_patience)
        if polls is None:
            return True
        at = now + max(self._retry.newer_document.delay(polls, self._rng), self.log_times(target).earliest(time.time()))
        node.verify_at = at if node.verify_at is None else min(node.verify_at, at)
        return False

    def log_times(self, target: Target) -> LogTimes:
        """Return the times of the log that is read."""
        return target.node.log.times_of(target.fingerprint, target.candidate.pod.created, self._clock())

    def awaits_first_document(self, target: Target) -> bool:
        """Return whether a pod may not have printed anything yet because it has just started."""
        return self._clock() - self.log_times(target).since < self._retry.first_document

    def done(self, node: TrackedNode) -> None:
        """Take a node back from its reader, whatever the result."""
        node.reading = False
        self._reschedule(node)

    def _restore_known(self) -> None:
        """Restore the readings of an earlier run, and report those of nodes that are gone."""
        now, wall_time = self._clock(), time.time()
        for name, known in self._known.items():
            if name not in self._objects:
                self._observer.on_node_gone(self._cluster.name, name, wall_time)
                continue
            node = self._track(name)
            node.observed = node.observed_before = node.was_read = True
            node.sharing, node.read_boot_id, node.read_at = known.sharing, known.fingerprint.boot_id, known.time
            if known.boards is not None:
                node.boards = node.boards or Boards()
                node.boards.restore(known.fingerprint.boot_id, known.boards)
            age, refresh = wall_time - known.time, self._cluster.refresh
            if not self._read_all:
                node.attempt = schedule.resumed(known, age, now, refresh, self._rng)
            if (target := self.select(node)) and target.candidate.source.method is SourceMethod.LOG:
                node.log.note_reading(known.fingerprint)
                if node.attempt is not None:
                    # All of them have printed since, or soon will. Their logs are not read all at the same time.
                    wait = self._rng.uniform(0.0, min(self._retry.looks.period, refresh))
                    node.attempt = msgspec.structs.replace(node.attempt, next=now + wait)
        self._known = {}

    def _info(self, node: TrackedNode) -> NodeInfo | None:
        """Return a node's info; None if it does not exist."""
        known = self._objects.get(node.name)
        return None if known is None else node.info(known, self._clock())

    def _track(self, name: str) -> TrackedNode:
        """Return the tracked state of a node, creating it if necessary."""
        if (node := self._nodes.get(name)) is None:
            node = self._nodes[name] = TrackedNode(name, devices=self._devices.get(name))
        return node

    def _has_listed_gpus(self, name: str) -> bool:
        devices = self._devices.get(name)
        return devices is not None and devices.gpus + devices.passed > 0

    def _reschedule(self, node: TrackedNode) -> None:
        """Report what has changed about a node, and schedule its next reading or the end of its grace."""
        if not self._started:
            return
        info, has_candidates = self._info(node), node.has_candidates
        if info is None or not (has_candidates or info.gpu_sign or node.observed):
            self._give_up(node)
            return
        if (info, has_candidates) != (node.observed_info, node.observed_pod):
            node.observed_info, node.observed_pod, node.observed = info, has_candidates, True
            self._observer.on_node(self._cluster.name, info, has_pod=has_candidates)
        now = self._clock()
        reason = schedule.why_uncovered(node.pods.values())
        if has_candidates:
            node.podless_since = None
        elif node.podless_since is None:
            node.podless_since = now
        if reason is None:
            node.grace_until = None
            due = self._due_time(node, now)
        else:
            if node.grace_until is None:
                node.grace_until = now + (self._cluster.grace if node.was_read else self._first_grace(node))
            times = [node.grace_until] if now < node.grace_until else []
            if (gone_at := self._gone_at(node)) is not None:
                times.append(gone_at)
            due = min(times, default=None)
        self._coverage.report(node, reason, now, sign=info.gpu_sign, any_pods=any(self._pods))
        self._due.schedule(node.name, due)
        if due is not None:
            self._wake_before(due)

    def _sign(self, node: TrackedNode) -> str:
        """Return how Kubernetes shows that an existing node has GPUs; empty if it does not."""
        return node.info(self._objects[node.name], self._clock()).gpu_sign

    def _due_time(self, node: TrackedNode, now: float) -> float | None:
        if node.reading or (target := self.select(node)) is None:
            return None
        if target.candidate.source.method is SourceMethod.LOG:
            node.log.note(target.fingerprint, now)
        due = schedule.due(node.attempt, target.fingerprint, now, settle=self._retry.settle)
        if node.verify_at is not None:
            soonest = now if node.attempt is None else max(now, node.attempt.ended + self._retry.settle)
            due = min(due, max(soonest, node.verify_at))
        return due

    def _first_grace(self, node: TrackedNode) -> float:
        """Return for how many more seconds a node that was never read may lack a ready pod: until it is `grace` old."""
        return max(0.0, self._cluster.grace - max(0.0, time.time() - self._objects[node.name].created))

    def _gone_at(self, node: TrackedNode) -> float | None:
        """Return when a node's reading expires for lack of a pod; None if it has a pod, or no reading."""
        if node.podless_since is None or not (node.was_read or not self._sign(node)):
            return None
        return node.podless_since + self._cluster.grace

    def _end_grace(self, node: TrackedNode, now: float) -> None:
        """Discard the reading of a node whose grace without a pod is over; report it as unread if it remains."""
        gone_at = self._gone_at(node) if node.name in self._objects else None
        if gone_at is not None and gone_at <= now:
            warned = node.warned
            self._give_up(node)
            if not self._sign(node):
                return
            node.grace_until, node.warned = now, warned
            self._nodes[node.name] = node
        self._reschedule(node)

    def _give_up(self, node: TrackedNode) -> None:
        """Report a node as gone; its pods, if any, are kept in case it returns."""
        if node.observed:
            self._observer.on_node_gone(self._cluster.name, node.name, time.time())
        node.observed = False
        node.observed_info, node.observed_uncovered, node.attempt = None, None, None
        node.was_read, node.sharing, node.read_boot_id = False, None, ""
        node.read_at = node.log_state = None
        self._found -= node.found
        node.found = 0
        node.podless_since, node.grace_until, node.warned, node.last_failure = None, None, False, None
        self._due.schedule(node.name, None)
        if not node.pods and not node.reading:
            del self._nodes[node.name]

    def _report_survey(self) -> None:
        """Report the size of the cluster to the observer, once it is known and when it has changed."""
        survey = Survey(len(self._objects), tuple(self._pods))
        if self._started and survey != self._survey:
            self._survey = survey
            self._observer.on_survey(self._cluster.name, survey)

    def _wake_before(self, due: float) -> None:
        if not self._paused and due < self._waiting_until:
            self._waiting_until = float("-inf")
            self._sooner.pulse()


def _is_candidate(order: int, source: PodSource, pod: PodObject | None) -> bool:
    return pod is not None and not schedule.lacks_container(Candidate(order, source, pod))
