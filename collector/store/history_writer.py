"""Queues every step on the event loop and commits it in the background; failed commits are retried.

So collection never waits for a database: while it is slow or unavailable, steps queue in memory and are committed
together.
"""

import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet

import anyio

from collector.backoff import Backoff
from collector.end_deadline import Stage
from collector.events import ResettableEvent, wait_any
from collector.marks import NO_MARKS
from collector.model import NodeState, Place, Step
from collector.shortage import why_short
from collector.store.codec import readings_records
from collector.store.commit import Commit, Unstored
from collector.store.database import Database
from collector.store.errors import LostLeadershipError, StoreError
from collector.store.health import StoreHealth
from collector.store.leadership import Leadership
from collector.store.plan import Departure
from collector.store.shards import LostClustersError, ShardStore

__all__ = ["MAX_PENDING", "HistoryWriter"]

log = logging.getLogger(__name__)

MAX_PENDING = 500_000  # changes and records that may wait in memory, some 200 MB
_RETRY = Backoff(initial=0.5, maximum=30.0, jitter=0.0)


class HistoryWriter:
    """The only way to write to the history.

    Steps are appended immediately and committed together as soon as the previous commit is done: the inventory's
    nodes, the history, and the records for the sinks. While commits fail, everything stays in memory. Beyond
    `max_pending` changes and records, the individual changes are dropped: the next commit then records, as changes,
    the difference between the history and the GPUs' current places.

    This applies while this collector records. A standby only notes which nodes a step affected. With shards, each
    records only the clusters that it owns.
    """

    def __init__(
        self,
        database: Database,
        leadership: Leadership,
        health: StoreHealth,
        *,
        max_pending: int = MAX_PENDING,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        shards: ShardStore | None = None,
    ) -> None:
        self.wants_readings = False  # whether some sink gets all GPUs of each reading
        self.marks = NO_MARKS  # the active marks, which changes and records are written with
        self.committed = ResettableEvent()  # pulsed by each commit
        self._database = database
        self._leadership = leadership
        self._health = health
        self._max_pending = max_pending
        self._clock = clock
        self._sleep = sleep
        self._shards = shards
        self._pending = self._empty_commit()
        self._under_way: Commit | None = None
        self._work = ResettableEvent()
        self._appended = 0  # number of steps, and how many of them are committed
        self._done = 0
        self._numbers = itertools.count(1)
        self._snapshot: Callable[[], Mapping[Place, NodeState]] | None = None  # to be recorded when nothing is pending

    @property
    def sharded(self) -> bool:
        """Whether this collector is one of several shards."""
        return self._shards is not None

    @property
    def pending(self) -> int:
        """The number of changes and records waiting to be committed."""
        return self._pending.size + (self._under_way.size if self._under_way else 0)

    @property
    def unstored(self) -> Unstored:
        """The data lost if the process ends now."""
        waiting = self._pending.unstored
        return waiting.plus(*self._under_way.unstored) if self._under_way else waiting

    def append(self, step: Step) -> None:
        """Record one step of the inventory; on a standby, only note the affected nodes."""
        if self._shards is not None:
            step = self._shards.own_part(step)
            if not step.nodes and not step.changes and step.removed_cluster is None:
                return
        elif not self._leadership.recording:
            self._leadership.standby.note(step.nodes)
            return
        commit = self._pending
        commit.forget_lost()
        commit.nodes.update(step.nodes)
        reading, changes = step.reading, step.changes
        records = []
        if reading is not None and self.wants_readings:
            records = readings_records(
                reading, changes, step.nodes.get(Place(reading.cluster, reading.node.name)), self.marks
            )
        size = len(changes) + len(records)
        if commit.gap or self.pending + size > self._max_pending:
            if not commit.gap:
                log.error("store backlog is full; dropping intermediate changes until the store recovers")
            self._health.lost(commit.drop_changes() + size)
            commit.note_departures(changes)
            commit.dropped = commit.dropped.plus(len(changes), len(records))
        else:
            commit.changes.extend(changes)
            if reading is not None and records:
                commit.readings.append((reading.time, records))
            commit.size += size
        if self._shards is not None:
            commit.answers.update(self._shards.answered_by(step))
        if step.removed_cluster is not None:
            commit.removed_clusters.add(step.removed_cluster)
        self._appended += 1
        self._work.set()

    def begin(self, nodes: Mapping[Place, NodeState | None], left: Mapping[str, Departure] = {}) -> None:
        """Start recording; first, as changes, how these nodes (None: gone) differ from the history.

        `left` has the known departures of GPUs that are in no node, by UUID. Pending steps are dropped: the difference
        contains them.
        """
        self._leadership.begin()
        self._pending, self._under_way = self._empty_commit(), None
        self._done = self._appended
        if nodes:
            self._appended += 1
            self._under_way = self._numbered(
                Commit(self._leadership.token, nodes, gap=True, left=left, shards=self._shards)
            )
            self._work.set()

    def complete(self, snapshot: Callable[[], Mapping[Place, NodeState]]) -> None:
        """Record what is pending, and then, as changes, how the history differs from all nodes, given by `snapshot`."""
        self._snapshot = snapshot
        self._appended += 1
        self._work.set()

    def lose(self, clusters: AbstractSet[str]) -> None:
        """Drop what is pending about some clusters: another shard owns them."""
        for commit in filter(None, (self._under_way, self._pending)):
            commit.lose(clusters)

    async def flushed(self, timeout: float) -> bool:
        """Wait until everything appended so far is committed; False on timeout, or while commits fail."""
        goal = self._appended
        with anyio.move_on_after(timeout):
            while self._done < goal and self._health.status.up:
                await wait_any(self.committed.current, self._health.changed.current)
        return self._done >= goal

    async def run(self) -> None:
        """Commit until cancelled, and then one last time."""
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                await self._commit_all()
        finally:
            self._database.end.begin()
            with anyio.move_on_after(self._database.end.left(Stage.STORE), shield=True):
                await self._commit_all()

    async def _commit_all(self) -> None:
        """Commit until nothing is pending; a failure is reported and retried."""
        while self._under_way is not None or self._done < self._appended or self._snapshot is not None:
            if self._under_way is None:
                self._under_way = self._next_commit()
            commit = self._under_way
            for attempt in itertools.count():
                if await self._try(commit):
                    break
                await self._sleep(_RETRY.delay(attempt))
                if self._under_way is not commit:  # another collector has led since: the failure no longer matters
                    self._health.succeeded("commit")
                    self.committed.pulse()
                    break
            if self._under_way is commit:
                self._done, self._under_way = commit.goal, None
                self._health.succeeded("commit")
                self.committed.pulse()

    async def _try(self, commit: Commit) -> bool:
        """Try to write a commit; returns True if it is written, or obsolete because another collector leads."""
        while True:
            try:
                commit.forget_lost()
                await commit.prepare(self._database, self._clock(), self.marks)
                if commit.lost:
                    continue
                async with self._leadership.write(commit.token) as connection:
                    await commit.write(connection, self._database)
            except LostClustersError as error:
                commit.lose(error.clusters)
                continue
            except LostLeadershipError:
                if self._under_way is commit:  # or it was already dropped when this collector took over again
                    self._drop_all()
                return True
            except StoreError as error:
                self._health.failed("commit", str(error))
            except Exception as error:
                log.exception("commit failed unexpectedly; retrying")
                why = why_short(error) or type(error).__name__
                self._health.failed("commit", f"store {self._database.location}: {why}")
            else:
                return True
            return False

    def _next_commit(self) -> Commit:
        commit, self._pending = self._pending, self._empty_commit()
        if self._snapshot is not None and not commit.size:
            commit.nodes.update(self._snapshot())
            commit.gap, self._snapshot = True, None
        return self._numbered(commit)

    def _empty_commit(self) -> Commit:
        return Commit(self._leadership.token, shards=self._shards)

    def _numbered(self, commit: Commit) -> Commit:
        commit.goal, commit.number = self._appended, next(self._numbers)
        return commit

    def _drop_all(self) -> None:
        """Drop what is pending: another collector of the same clusters has recorded it."""
        self._leadership.stand_by()
        for commit in filter(None, (self._under_way, self._pending)):
            if self._shards is None:
                self._leadership.standby.note(commit.nodes)
        self._pending, self._under_way = self._empty_commit(), None
        self._done = self._appended
        self._health.succeeded("commit")
        self.committed.pulse()
