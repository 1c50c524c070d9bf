"""Reads every node of a cluster when it is due: which node has which pods, and the readers at work."""

import dataclasses
import logging
import random
import time
from collections.abc import Mapping

import anyio
import anyio.to_thread
import msgspec

from collector.backoff import Backoff
from collector.collect import nvidia_smi, schedule
from collector.collect.delay_queue import DelayQueue
from collector.collect.objects import NodeObject, PodObject
from collector.collect.observer import Observer
from collector.collect.schedule import Attempt, Candidate
from collector.config import ClusterSettings, PodSource
from collector.kube import exec as pod_exec
from collector.kube.client import ApiClient
from collector.kube.exec import ExecError
from collector.model import Fingerprint, Known, NodeInfo, ReadFailure, Reading
from collector.text import one_line

__all__ = ["Readings", "RetryPolicy"]

log = logging.getLogger(__name__)


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How soon a node is read again, in seconds, beside what the configuration says."""

    retry: Backoff = Backoff(initial=1.0, maximum=300.0)  # after failures, for as long as the pod lives
    hung: float = 300.0  # after the first command that did not end; from then on twice as long up to `refresh`
    settle: float = 5.0  # between readings that only a change of the GPU capacity causes

    def backoff(self, reason: ReadFailure, refresh: float) -> Backoff:
        """Choose the delays after a failure.

        Each command that hangs on a broken GPU stays behind on its node for good, so there must be few of them.
        """
        return Backoff(initial=self.hung, maximum=refresh) if reason is ReadFailure.TIMEOUT else self.retry


class Readings:
    """The nodes of one cluster that have, or had, a GPU pod, and the readings made of them.

    Nothing is read and no node is given up before the first `resume`, nor after `pause`: the view would be incomplete
    or stale.
    """

    def __init__(
        self,
        cluster: ClusterSettings,
        observer: Observer,
        *,
        known: Mapping[str, Known],
        pace: RetryPolicy,
        rng: random.Random,
    ) -> None:
        self._cluster = cluster
        self._observer = observer
        self._known = known
        self._pace = pace
        self._rng = rng
        self._facts: dict[str, NodeInfo] = {}  # every node that exists
        self._states: dict[str, _State] = {}  # every node that has a GPU pod, or is kept
        self._agenda = DelayQueue()
        self._started = False
        self._paused = True
        self._readers = 0
        self._wake = anyio.Event()
        self._asleep_until = float("inf")
        self._forbidden = False

    def set_node(self, before: NodeObject | None, after: NodeObject | None) -> None:
        """Take a change of a node."""
        if after is not None:
            name = after.key
            if self._facts.get(name) == after.facts:
                return
            self._facts[name] = after.facts
        elif before is not None:
            name = before.key
            del self._facts[name]
        if (state := self._states.get(name)) is not None:
            self._review(state)

    def set_pod(self, order: int, source: PodSource, before: PodObject | None, after: PodObject | None) -> None:
        """Take a change of a pod that `source`, the one at `order` in the configuration, selects."""
        if before is not None and before.node and (after is None or after.node != before.node):
            state = self._states[before.node]
            del state.candidates[order, before.key]
            self._review(state)
        if after is not None and after.node:
            state = self._states.setdefault(after.node, _State(after.node))
            state.candidates[order, after.key] = Candidate(order, source, after)
            self._review(state)

    def resume(self) -> None:
        """Begin or go on: the view is complete and current."""
        self._paused = False
        self._wake.set()
        if not self._started:
            self._started = True
            self._recall()
            for state in list(self._states.values()):
                self._review(state)

    def pause(self) -> None:
        """Begin nothing new: the view is not current."""
        self._paused = True

    async def run(self, session: ApiClient) -> None:
        """Read what is due when it is due, until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                self._wake = anyio.Event()
                while not (full := self._readers >= self._cluster.exec_concurrency) and (state := self._take()):
                    self._readers += 1
                    tasks.start_soon(self._work, session, state, name=f"{self._cluster.name} reader")
                # While all readers are busy they take the next node themselves, and the first to find none wakes us.
                timeless = full or self._paused
                self._asleep_until = float("-inf") if timeless else self._agenda.next()
                with anyio.CancelScope(deadline=float("inf") if timeless else self._asleep_until):
                    await self._wake.wait()

    # What is due

    def _recall(self) -> None:
        """Settle what has become of the nodes that an earlier run knew."""
        now, today = anyio.current_time(), time.time()
        for name, known in self._known.items():
            if name not in self._facts:
                self._observer.on_node_gone(self._cluster.name, name, today)
                continue
            state = self._states.setdefault(name, _State(name))
            state.kept = True
            state.attempt = schedule.resumed(known, today - known.time, now, self._cluster.refresh, self._rng)
        self._known = {}

    def _review(self, state: "_State") -> None:
        """Decide anew when to look at a node, and tell of it what changed."""
        if not self._started:
            return
        facts = self._facts.get(state.name)
        if facts is None or not (state.candidates or state.kept):
            self._forget(state)
            return
        if facts != state.told:
            state.told, state.kept = facts, True
            self._observer.on_node(self._cluster.name, facts)
        now = anyio.current_time()
        if state.candidates:
            state.bare_since = None
            when = self._due(state, facts, now)
        else:
            state.bare_since = now if state.bare_since is None else state.bare_since
            when = state.bare_since + self._cluster.grace
        self._agenda.set(state.name, when)
        if when is not None and when < self._asleep_until:
            self._wake.set()

    def _due(self, state: "_State", facts: NodeInfo, now: float) -> float | None:
        if state.reading or (candidate := schedule.choose(state.candidates.values())) is None:
            return None
        current = schedule.fingerprint(candidate, facts)
        return schedule.due(state.attempt, current, now, settle=self._pace.settle)

    def _take(self) -> "_State | None":
        """Find the next node to read; nodes whose grace is over are given up on the way."""
        if self._paused:
            return None
        now = anyio.current_time()
        while (name := self._agenda.take(now)) is not None:
            state = self._states[name]
            if state.candidates:
                state.reading = True
                return state
            self._forget(state)
        return None

    def _forget(self, state: "_State") -> None:
        """Give a node up; its pods, if it has any, are remembered in case that the node comes back."""
        if state.kept:
            self._observer.on_node_gone(self._cluster.name, state.name, time.time())
        state.kept, state.told, state.attempt, state.bare_since, state.trouble = False, None, None, None, None
        self._agenda.set(state.name, None)
        if not state.candidates and not state.reading:
            del self._states[state.name]

    # Readers

    async def _work(self, session: ApiClient, state: "_State | None") -> None:
        try:
            while state is not None:
                await self._read(session, state)
                state = self._take()
        finally:
            self._readers -= 1
            self._wake.set()

    async def _read(self, session: ApiClient, state: "_State") -> None:
        candidate, facts = schedule.choose(state.candidates.values()), self._facts.get(state.name)
        if candidate is None or facts is None:  # it changed between being taken and now
            state.reading = False
            self._review(state)
            return
        current = schedule.fingerprint(candidate, facts)
        fields = {"cluster": self._cluster.name, "node": state.name, "pod": candidate.pod.key}
        started = anyio.current_time()
        try:
            output, result = await self._ask(session, candidate)
        except ExecError as error:
            self._failed(state, candidate, current, error, fields)
        except Exception:  # an error of our own about one node must not cost the cluster the others
            log.exception("the reading failed unexpectedly", extra=fields)
            self._failed(state, candidate, current, ExecError(ReadFailure.BAD_OUTPUT, "see above"), fields)
        else:
            self._note_stderr(state, output.stderr, fields)
            if self._holds(state, candidate):
                self._succeeded(state, candidate, current, result, started, fields)
        finally:
            state.reading = False
            self._review(state)

    async def _ask(self, session: ApiClient, candidate: Candidate) -> tuple[pod_exec.Output, nvidia_smi.Log]:
        source = candidate.source
        if schedule.find_container(candidate) is None:
            raise ExecError(ReadFailure.NO_CONTAINER, f'the pod has no container named "{source.container}"')
        output = await pod_exec.run(
            session,
            candidate.pod.namespace,
            candidate.pod.name,
            source.container,
            self._cluster.command,
            timeout=self._cluster.exec_timeout,
            limit=nvidia_smi.LIMIT,
        )
        try:
            if len(output.stdout) <= _LARGE:
                return output, nvidia_smi.parse(output.stdout)
            return output, await anyio.to_thread.run_sync(nvidia_smi.parse, output.stdout)
        except nvidia_smi.BadOutputError as error:
            said = _quoted(output.stderr)
            raise ExecError(ReadFailure.BAD_OUTPUT, f"{error}; stderr: {said}" if said else str(error)) from error

    def _holds(self, state: "_State", candidate: Candidate) -> bool:
        """Tell whether the pod that was asked is still the node's, so that its answer says where GPUs are."""
        pod = state.candidates.get((candidate.order, candidate.pod.key))
        return pod is not None and pod.pod.uid == candidate.pod.uid and state.name in self._facts

    def _succeeded(
        self,
        state: "_State",
        candidate: Candidate,
        current: Fingerprint,
        result: nvidia_smi.Log,
        started: float,
        fields: dict[str, str],
    ) -> None:
        now = anyio.current_time()
        state.attempt = schedule.succeeded(state.attempt, current, now, self._cluster.refresh, self._rng)
        if state.trouble is not None:
            state.trouble, self._forbidden = None, False
            log.info("the node can be read again", extra=fields)
        reading = Reading(
            cluster=self._cluster.name,
            node=self._facts[state.name],
            source=candidate.pod.key,
            fingerprint=current,
            time=time.time(),
            driver_version=result.driver_version,
            cuda_version=result.cuda_version,
            gpus=result.gpus,
            unidentified=result.unidentified,
        )
        self._observer.on_reading(reading, now - started)

    def _failed(
        self, state: "_State", candidate: Candidate, current: Fingerprint, error: ExecError, fields: dict[str, str]
    ) -> None:
        reason = error.reason if self._holds(state, candidate) else ReadFailure.NOT_FOUND
        now = anyio.current_time()
        backoff = self._pace.backoff(reason, self._cluster.refresh)
        state.attempt = schedule.failed(state.attempt, current, now, backoff, self._rng)
        # Once for each node and reason; and a right that is missing is missing for every node.
        level = logging.WARNING
        if state.trouble == reason or (reason is ReadFailure.FORBIDDEN and self._forbidden):
            level = logging.DEBUG
        state.trouble = reason
        self._forbidden = self._forbidden or reason is ReadFailure.FORBIDDEN
        log.log(level, "the node cannot be read: %s", error, extra=fields | {"reason": reason.value})
        self._observer.on_read_failure(self._cluster.name, state.name, reason)

    def _note_stderr(self, state: "_State", stderr: bytes, fields: dict[str, str]) -> None:
        """Log what a successful command complains about, once as a warning."""
        text = _quoted(stderr)
        if text:
            level = logging.DEBUG if text == state.complaint else logging.WARNING
            log.log(level, "the command succeeded, and said: %s", text, extra=fields)
        state.complaint = text


def _quoted(stderr: bytes) -> str:
    return one_line(stderr[:2000].decode(errors="replace"), 300)


_LARGE = 1 << 20  # bytes of XML; parsing more would hold up the other nodes noticeably


@dataclasses.dataclass(slots=True, eq=False)
class _State:
    """What is remembered of one node."""

    name: str
    candidates: dict[tuple[int, str], Candidate] = dataclasses.field(default_factory=dict)
    kept: bool = False  # the observer knows of it
    told: NodeInfo | None = None  # the facts as the observer knows them
    attempt: Attempt | None = None
    reading: bool = False
    bare_since: float | None = None  # since when it has no pod at all
    trouble: ReadFailure | None = None  # how the last attempt failed; None after a success
    complaint: str = ""
