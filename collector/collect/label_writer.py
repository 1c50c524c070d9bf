"""Writes the labels that name a node's GPUs onto the nodes of one cluster, where they differ from what is there."""

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

MAX_PARTS = 64  # patches in a row that remove labels of which a node has more than are kept; then another one adds them

_STRATEGIC_MERGE = "application/strategic-merge-patch+json"

_UID = "metadata.uid:"  # what is invalid (422) in a patch of a node that is another one by now, of the same name
_REMEDY = "`gpuid grant` prints the right that is missing"


class LabelSource(Protocol):
    """Says what is known of nodes, and counts what becomes of their labels."""

    def may_write(self) -> bool:
        """Return whether this collector writes labels now; a standby does not."""

    def settled(self, cluster: str, node: str) -> NodeState | None:
        """Return a node whose last reading stands and is complete; None for any other, whose labels stay."""

    def in_claim(self, state: NodeState) -> bool:
        """Return whether a GPU of a node is in an open claim: where it is will be known before long."""

    def on_labels_written(self, cluster: str) -> None:
        """Handle that a node's labels were written."""

    def on_label_failure(self, cluster: str, reason: LabelFailure) -> None:
        """Handle that a node's labels could not be written, or that what was written has been changed."""


class LabelPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a label is written, or written again; times are in seconds."""

    poll: float = 1.0  # between looks at what has no event: a claim, the lead, a view that is not current
    settle: float = 10.0  # in which the watch should show what was written
    retry: Backoff = Backoff(initial=5.0, maximum=300.0)  # after a write that failed
    contest: Backoff = Backoff(initial=30.0, maximum=3600.0)  # after another one has changed what was written twice
    forget: float = 7200.0  # after which a change by another one counts as the first one


@dataclasses.dataclass(slots=True)
class _Written:
    """The labels that were written onto one node last."""

    labels: dict[str, str]
    version: str  # of the node as it was known then
    at: float
    contests: int = 0  # how often in a row another one has changed them
    parts: int = 0  # patches in a row after which the node may have more labels than were known
    seen: bool = False  # the watch has shown them
    retry_at: float | None = None  # when to write them again, after another one has changed them


class _Write(NamedTuple):
    """One patch that is due."""

    node: NodeObject
    labels: dict[str, str]
    changes: dict[str, str | None]


class LabelWriter:
    """Brings the labels of one cluster's nodes in line with what is known of their GPUs, one node at a time.

    A node is looked at when a step of the inventory touched it, or when its labels have changed. Nothing is written
    while the cluster's view is not current, nor where a new reading is due because something changed. Who changes what
    was written is answered later each time: two that disagree write once an hour in the end.
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
        self._attempts: Counter[str] = Counter()  # by node: writes in a row that failed for a reason of its own
        self._failing: dict[str, LabelTrouble] = {}  # likewise, by node
        self._refused: LabelTrouble | None = None  # why no node's labels can be written
        self._refusals = 0  # in a row

    @property
    def trouble(self) -> LabelTrouble | None:
        """Why the labels of some nodes are not what they should be; None where nothing keeps them from it."""
        if self._refused is not None:
            return self._refused
        first = min(self._failing.values(), key=lambda one: one.since, default=None)
        if first is None:
            return None
        nodes = sum(one.reason is first.reason for one in self._failing.values())
        return msgspec.structs.replace(first, nodes=nodes)

    def idle_for(self, seconds: float) -> bool:
        """Return whether nothing is to be written within so many seconds, as far as that is known."""
        return self._waiting_until > anyio.current_time() + seconds

    # What has changed

    def set_node(self, before: NodeObject | None, after: NodeObject | None) -> None:
        """Note a change of a node as the queue has it by now."""
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
        """Compare a node's labels with what they should be, as soon as that can be done."""
        if self._queue.node(name) is not None:  # or its arrival will do that
            self._schedule(name, anyio.current_time())

    # Writing

    async def run(self, client: ApiClient) -> None:
        """Write what differs, until cancelled."""
        share = client.session.share
        while True:
            name = await self._next()
            started = share.clock()
            try:
                write = self._compare(name)
            except Exception:  # a bug that concerns one node must not cost the cluster the others
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
        """Return what to write onto a node now; None for nothing, or where that is not known yet."""
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
        """Return when to write labels that are not on a node, though they may have been written before."""
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
        """Note that another one has changed what was written: the first time it is written again at once."""
        written.contests = 1 if now - written.at > self._policy.forget else written.contests + 1
        log = self._log.bind(node=name)
        self._source.on_label_failure(self._cluster.name, LabelFailure.CONTESTED)
        if written.contests == 1:
            written.retry_at = now
            log.info("labels changed by another client; writing them again")
            return
        written.retry_at = now + self._policy.contest.delay(written.contests - 2, self._rng)
        message = f"another client, or another gpuid, keeps changing the labels of {name}; its managedFields say which"
        log.log(logging.WARNING if written.contests == 2 else logging.DEBUG, "%s", message)
        self._fail(name, LabelFailure.CONTESTED, message)

    async def _write(self, client: ApiClient, name: str, write: _Write) -> float | None:
        """Patch a node; returns in how many seconds to look at it again, where that failed."""
        metadata = {"uid": write.node.facts.uid} if write.node.facts.uid else {}
        body = {"metadata": metadata | {"labels": write.changes}}
        method = CoreV1Api(client).patch_node
        before = self._written.get(name)
        repeated = before is not None and before.labels == write.labels
        contests = before.contests if before is not None and repeated else 0
        parts = before.parts if before is not None and repeated else 0
        parts = parts + 1 if len(write.node.own_labels) >= MAX_OWN_LABELS else 0
        # Before it is sent: the watch may show it before the answer has come.
        written = _Written(write.labels, write.node.version, anyio.current_time(), contests, parts)
        self._written[name] = written
        sent = False
        try:
            await client.read(method, name, body, field_manager=FIELD_MANAGER, _content_type=_STRATEGIC_MERGE)
            sent = True
        except ClusterError as error:
            return self._note_failure(name, error)
        except Exception:  # a bug that concerns one node must not cost the cluster the others
            return self._note_bug(name)
        finally:
            if not sent and self._written.pop(name, None) is not None and before is not None:
                self._written[name] = before
        self._source.on_labels_written(self._cluster.name)
        if self._refused is not None:
            self._log.info("labels can be written again")
        self._refused, self._refusals = None, 0
        self._attempts.pop(name, None)
        if contests < 2:
            self._failing.pop(name, None)
        self._log.bind(node=name).info("labels written: %s", _describe(write.changes))
        return None

    # What came of it

    def _note_right(self, name: str) -> None:
        """Note that a node's labels are what they should be."""
        self._attempts.pop(name, None)
        self._failing.pop(name, None)
        if (written := self._written.get(name)) is not None:
            written.retry_at = None

    def _note_failure(self, name: str, error: ClusterError) -> float | None:
        """Count a failed write; returns after how many seconds to try again, None for a node that is gone."""
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
        self._log.log(level, "labels cannot be written: %s", message, extra={"reason": reason.value})
        self._refusals += 1
        return self._policy.retry.delay(self._refusals - 1, self._rng)

    def _note_bug(self, name: str) -> float:
        """Log the error that is being handled, once for a node; returns after how many seconds to try again."""
        if not self._attempts[name]:
            self._log.bind(node=name).exception("unexpected error while writing labels")
        return self._note_node_failure(name, LabelFailure.INVALID, "unexpected error, see the log")

    def _note_node_failure(self, name: str, reason: LabelFailure, message: str) -> float:
        self._source.on_label_failure(self._cluster.name, reason)
        # A node that was replaced is no trouble: the watch brings the new one.
        if reason is not LabelFailure.CONFLICT or self._attempts[name]:
            self._fail(name, reason, message)
        level = logging.DEBUG if self._attempts[name] or reason is LabelFailure.CONFLICT else logging.WARNING
        self._log.bind(node=name).log(level, "labels cannot be written: %s", message, extra={"reason": reason.value})
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
    """Return how many labels were set and removed, in words."""
    removed = sum(value is None for value in changes.values())
    parts = ((len(changes) - removed, "set"), (removed, "removed"))
    return ", ".join(f"{count} {what}" for count, what in parts if count)
