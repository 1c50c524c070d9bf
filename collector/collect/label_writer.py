"""Writes labels that name a node's GPUs to the nodes of one cluster, wherever they differ."""

import dataclasses
import logging
import random
import time
from collections import Counter
from typing import NamedTuple, Protocol

import anyio
import msgspec
from kubernetes_asyncio.client import CoreV1Api

from collector.backoff import Backoff
from collector.collect.context_logger import ContextLogger
from collector.collect.delay_queue import DelayQueue
from collector.collect.node_labels import MAX_OWN_LABELS, gpu_labels, label_changes
from collector.collect.node_queue import NodeQueue
from collector.collect.objects import NodeObject
from collector.config import ClusterSettings
from collector.events import ResettableEvent
from collector.kube.client import FIELD_MANAGER, ApiClient
from collector.kube.errors import ClusterError, ForbiddenError, NotFoundError, ServerError
from collector.model import LabelFailure, LabelTrouble, NodeState

__all__ = ["LabelPolicy", "LabelSource", "LabelWriter"]

log = logging.getLogger(__name__)

MAX_PARTS = 64  # consecutive patches that only remove excess labels before one adds the wanted ones

_STRATEGIC_MERGE = "application/strategic-merge-patch+json"

_UID = "metadata.uid:"  # the invalid field (422) in a patch of a node that was replaced by one of the same name
_REMEDY = "`gpuid grant` prints the missing right"


class LabelSource(Protocol):
    """Provides what is known about nodes, and counts the results of label writes."""

    def may_write(self) -> bool:
        """Return whether this collector may write labels now; a standby may not."""

    def settled(self, cluster: str, node: str) -> NodeState | None:
        """Return a node whose last reading is valid and complete; None for any other, whose labels are kept."""

    def in_claim(self, state: NodeState) -> bool:
        """Return whether a GPU of a node is in an open claim: its location will be known soon."""

    def on_labels_written(self, cluster: str) -> None:
        """Handle a successful write of a node's labels."""

    def on_label_failure(self, cluster: str, reason: LabelFailure) -> None:
        """Handle a failed write of a node's labels, or a change of written labels by another client."""


class LabelPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a label is written or rewritten; times are in seconds."""

    poll: float = 1.0  # between checks of what has no event: a claim, the lease, a stale view
    settle: float = 10.0  # in which the watch should show the written labels
    retry: Backoff = Backoff(initial=5.0, maximum=300.0)  # after a failed write
    contest: Backoff = Backoff(initial=30.0, maximum=3600.0)  # after another client has changed written labels twice
    forget: float = 7200.0  # after which a change by another client counts as the first one


@dataclasses.dataclass(slots=True)
class _Written:
    """The labels last written to one node."""

    labels: dict[str, str]
    version: str  # of the node as known then
    at: float
    contests: int = 0  # how often in a row another client has changed them
    parts: int = 0  # consecutive patches after which the node may have more labels than known
    seen: bool = False  # the watch has shown them
    retry_at: float | None = None  # when to rewrite them, after another client has changed them


class _Write(NamedTuple):
    """One patch that is due."""

    node: NodeObject
    labels: dict[str, str]
    changes: dict[str, str | None]


class LabelWriter:
    """Keeps the labels of one cluster's nodes in line with their known GPUs, one node at a time.

    A node is checked when the inventory has touched it, or when its labels have changed. Nothing is written while the
    cluster's view is stale, or while a new reading is due because something changed. If another client changes the
    labels, each rewrite is delayed longer: two clients that disagree eventually write once an hour.
    """

    def __init__(
        self,
        cluster: ClusterSettings,
        queue: NodeQueue,
        source: LabelSource,
        *,
        policy: LabelPolicy | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._cluster = cluster
        self._queue = queue
        self._source = source
        self._policy = policy or LabelPolicy()
        self._rng = rng or random.Random()  # noqa: S311, spreads load and keeps no secret
        self._log = ContextLogger(log, cluster=cluster.name)
        self._due = DelayQueue()
        self._sooner = ResettableEvent()
        self._waiting_until = float("-inf")  # so while nothing waits
        self._written: dict[str, _Written] = {}
        self._attempts: Counter[str] = Counter()  # by node: consecutive writes that failed for a reason specific to it
        self._failing: dict[str, LabelTrouble] = {}  # likewise, by node
        self._refused: LabelTrouble | None = None  # why no labels can be written at all
        self._refusals = 0  # in a row

    @property
    def trouble(self) -> LabelTrouble | None:
        """Why the labels of some nodes are not as they should be; None if there is no obstacle."""
        if self._refused is not None:
            return self._refused
        first = min(self._failing.values(), key=lambda one: one.since, default=None)
        if first is None:
            return None
        nodes = sum(one.reason is first.reason for one in self._failing.values())
        return msgspec.structs.replace(first, nodes=nodes)

    def idle_for(self, seconds: float) -> bool:
        """Return whether no write is due within this many seconds, as far as known."""
        return self._waiting_until > anyio.current_time() + seconds

    # What has changed

    def set_node(self, before: NodeObject | None, after: NodeObject | None) -> None:
        """Record a change of a node that the queue already has."""
        if after is None:
            if before is not None:
                self._forget(before.key)
            return
        labels = dict(after.own_labels)
        if (written := self._written.get(after.key)) is not None and labels == written.labels:
            written.seen = True
        if before is None or (before.own_labels, before.facts.uid) != (after.own_labels, after.facts.uid):
            self.look_at(after.key)

    def look_at(self, name: str) -> None:
        """Compare a node's labels with the wanted ones as soon as possible."""
        if self._queue.node(name) is not None:  # or its arrival will do that
            self._schedule(name, anyio.current_time())

    # Writing

    async def run(self, client: ApiClient) -> None:
        """Write differing labels until cancelled."""
        share = client.session.share
        while True:
            name = await self._next()
            started = share.clock()
            try:
                write = self._compare(name)
            except Exception:  # a bug with one node must not affect the cluster's others
                self._schedule(name, anyio.current_time() + self._note_bug(name))
                await share.pause(started)
                continue
            if write is None and not len(self._due):
                self._refused, self._refusals = None, 0  # nothing is left to write
            await share.pause(started)
            if write is not None and (pause := await self._write(client, name, write)):
                self._schedule(name, anyio.current_time() + pause)
                if self._refused is not None:
                    await anyio.sleep(pause)

    async def _next(self) -> str:
        while True:
            if self._queue.paused or not self._source.may_write():
                await anyio.sleep(self._policy.poll)
            elif (name := self._due.pop_due(anyio.current_time())) is not None:
                return name
            else:
                self._waiting_until = self._due.next_due()
                with anyio.CancelScope(deadline=self._waiting_until):
                    await self._sooner.wait()
                self._waiting_until = float("-inf")

    def _compare(self, name: str) -> _Write | None:
        """Return what to write to a node now; None if nothing, or if unknown yet."""
        node, state = self._queue.node(name), self._source.settled(self._cluster.name, name)
        if node is None or state is None:
            return None
        if state.node.uid != node.facts.uid or state.fingerprint != self._queue.fingerprint(name):
            return None  # something has changed since the reading: the next one is due
        now = anyio.current_time()
        if self._source.in_claim(state):
            self._schedule(name, now + self._policy.poll)
            return None
        labels = gpu_labels(state.gpus)
        changes = label_changes(dict(node.own_labels), labels)
        if not changes:
            self._note_right(name)
            return None
        if (at := self._not_before(name, node, labels, now)) > now:
            self._schedule(name, at)
            return None
        return _Write(node, labels, changes)

    def _not_before(self, name: str, node: NodeObject, labels: dict[str, str], now: float) -> float:
        """Return when to write labels that a node lacks, even if they were written before."""
        written = self._written.get(name)
        if written is None or written.labels != labels:
            return now
        if 0 < written.parts <= MAX_PARTS and node.version != written.version:
            return now
        if written.retry_at is None:
            settled = written.at + self._policy.settle
            if not written.seen and (now < settled or node.version == written.version):
                return settled if now < settled else now + self._policy.settle  # the watch is behind
            self._note_contest(name, written, now)
        return written.retry_at or now

    def _note_contest(self, name: str, written: _Written, now: float) -> None:
        """Record a change of written labels by another client: the first one is reverted immediately."""
        written.contests = 1 if now - written.at > self._policy.forget else written.contests + 1
        log = self._log.bind(node=name)
        self._source.on_label_failure(self._cluster.name, LabelFailure.CONTESTED)
        if written.contests == 1:
            written.retry_at = now
            log.info("labels changed by another client; rewriting them")
            return
        written.retry_at = now + self._policy.contest.delay(written.contests - 2, self._rng)
        message = f"another client, or another gpuid, keeps changing the labels of {name}; its managedFields show which"
        log.log(logging.WARNING if written.contests == 2 else logging.DEBUG, "%s", message)
        self._fail(name, LabelFailure.CONTESTED, message)

    async def _write(self, client: ApiClient, name: str, write: _Write) -> float | None:
        """Patch a node; returns after how many seconds to check it again if that failed."""
        metadata = {"uid": write.node.facts.uid} if write.node.facts.uid else {}
        body = {"metadata": metadata | {"labels": write.changes}}
        method = CoreV1Api(client).patch_node
        before = self._written.get(name)
        repeated = before is not None and before.labels == write.labels
        contests = before.contests if before is not None and repeated else 0
        parts = before.parts if before is not None and repeated else 0
        parts = parts + 1 if len(write.node.own_labels) >= MAX_OWN_LABELS else 0
        # Before sending: the watch may show the change before the response arrives.
        written = _Written(write.labels, write.node.version, anyio.current_time(), contests, parts)
        self._written[name] = written
        sent = False
        try:
            await client.read(method, name, body, field_manager=FIELD_MANAGER, _content_type=_STRATEGIC_MERGE)
            sent = True
        except ClusterError as error:
            return self._note_failure(name, error)
        except Exception:  # a bug with one node must not affect the cluster's others
            return self._note_bug(name)
        finally:
            if not sent and self._written.pop(name, None) is not None and before is not None:
                self._written[name] = before
        self._source.on_labels_written(self._cluster.name)
        if self._refused is not None:
            self._log.info("label writes recovered")
        self._refused, self._refusals = None, 0
        self._attempts.pop(name, None)
        if contests < 2:
            self._failing.pop(name, None)
        self._log.bind(node=name).info("labels written: %s", _describe(write.changes))
        return None

    # Results

    def _note_right(self, name: str) -> None:
        """Record that a node's labels are as they should be."""
        self._attempts.pop(name, None)
        self._failing.pop(name, None)
        if (written := self._written.get(name)) is not None:
            written.retry_at = None

    def _note_failure(self, name: str, error: ClusterError) -> float | None:
        """Count a failed write; returns after how many seconds to retry, None for a node that is gone."""
        match error:
            case NotFoundError():
                self._source.on_label_failure(self._cluster.name, LabelFailure.NOT_FOUND)
                self._forget(name)
                return None
            case ServerError(status=409 | 422) if error.status == 409 or _UID in str(error):
                return self._note_node_failure(name, LabelFailure.CONFLICT, str(error))
            case ServerError(status=422 | 400 | 413):
                return self._note_node_failure(name, LabelFailure.INVALID, str(error))
            case ForbiddenError(by_admission=True):
                return self._note_node_failure(name, LabelFailure.INVALID, str(error))
            case ForbiddenError():
                reason, message = LabelFailure.FORBIDDEN, f"{error}; {_REMEDY}"
            case _:
                reason, message = LabelFailure.UNAVAILABLE, str(error)
        self._source.on_label_failure(self._cluster.name, reason)
        repeated = self._refused is not None and self._refused.reason is reason
        since = self._refused.since if repeated and self._refused else time.time()
        self._refused = LabelTrouble(reason=reason, message=message, since=since)
        level = logging.DEBUG if repeated else logging.WARNING
        self._log.log(level, "label write failed: %s", message, extra={"reason": reason.value})
        self._refusals += 1
        return self._policy.retry.delay(self._refusals - 1, self._rng)

    def _note_bug(self, name: str) -> float:
        """Log the current exception, once per node; returns after how many seconds to retry."""
        if not self._attempts[name]:
            self._log.bind(node=name).exception("unexpected error while writing labels")
        return self._note_node_failure(name, LabelFailure.INVALID, "unexpected error, see the log")

    def _note_node_failure(self, name: str, reason: LabelFailure, message: str) -> float:
        self._source.on_label_failure(self._cluster.name, reason)
        # A replaced node is not a problem: the watch delivers the new one.
        if reason is not LabelFailure.CONFLICT or self._attempts[name]:
            self._fail(name, reason, message)
        level = logging.DEBUG if self._attempts[name] or reason is LabelFailure.CONFLICT else logging.WARNING
        self._log.bind(node=name).log(level, "label write failed: %s", message, extra={"reason": reason.value})
        self._attempts[name] += 1
        return self._policy.retry.delay(self._attempts[name] - 1, self._rng)

    def _fail(self, name: str, reason: LabelFailure, message: str) -> None:
        before = self._failing.get(name)
        since = before.since if before is not None and before.reason is reason else time.time()
        self._failing[name] = LabelTrouble(reason=reason, message=message, since=since)

    def _forget(self, name: str) -> None:
        self._due.schedule(name, None)
        self._written.pop(name, None)
        self._attempts.pop(name, None)
        self._failing.pop(name, None)

    def _schedule(self, name: str, due: float) -> None:
        self._due.schedule(name, due)
        if due < self._waiting_until:
            self._waiting_until = float("-inf")
            self._sooner.pulse()


def _describe(changes: dict[str, str | None]) -> str:
    """Return how many labels were set and removed, as text."""
    removed = sum(value is None for value in changes.values())
    parts = ((len(changes) - removed, "set"), (removed, "removed"))
    return ", ".join(f"{count} {what}" for count, what in parts if count)
