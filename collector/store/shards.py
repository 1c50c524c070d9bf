"""Data that shards share in their store: the owner and status of each cluster, and requests to read its nodes.

A shard owns a cluster while its row names the shard's lease with the lease's current token. All writing transactions
are serialised (`Database.write`), so one that proves its clusters' rows and a take-over of one of them cannot overlap:
everything committed earlier by the previous owner is in the store, and it can commit nothing about the cluster later.

Every commit has a number, which marks the rows it writes, so that other shards find them by their cursors. Since
commits are serialised, no cursor skips one.
"""

import itertools
import math
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import BigInteger, ColumnElement, bindparam, cast, delete, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.model import UNREAD_REASONS, Failing, NodeState, Place, Step, Unread
from collector.sharding import Shard
from collector.store import schema
from collector.store.cluster_report import ClusterReport
from collector.store.database import Database
from collector.store.errors import StoreError
from collector.store.leadership import LEADER, Leadership, is_valid
from collector.store.sound import moment, text

__all__ = ["ClusterRow", "LostClustersError", "News", "ShardStore", "SharedLease", "encode_unread", "with_unread"]

NAMES_PER_STATEMENT = 500
ASK_AGAIN_SECONDS = 30.0  # after which an unanswered question is passed on again
VERSION = "version"  # the fact with the number of the last commit


class LostClustersError(StoreError):
    """Other shards own some of the clusters about which a transaction would write."""

    def __init__(self, clusters: Collection[str]) -> None:
        super().__init__("another shard owns some of the clusters to record")
        self.clusters = frozenset(clusters)


class SharedLease(NamedTuple):
    """A lease, as seen by every shard."""

    token: str
    holder: str
    held: bool  # whether it has not expired


class ClusterRow(NamedTuple):
    """The last owner of a cluster, and the owner's report."""

    lease: str
    token: str
    report: ClusterReport | None
    removed: int
    removed_at: float  # Unix seconds


class News(NamedTuple):
    """What was written since a cursor, except for the nodes."""

    version: int  # number of the last commit: the next cursor
    leases: Mapping[str, SharedLease]  # all leases, by name
    clusters: Mapping[str, ClusterRow]  # clusters whose rows have changed
    asked: Mapping[Place, int]  # nodes to be read, with the number of the open question
    answered: Mapping[Place, int]  # nodes, with the last question answered by a reading


class _Question(NamedTuple):
    number: int
    time: float  # when it was seen, on the monotonic clock
    passed_on: float  # likewise, when the node was to be read last; infinity once a reading has answered it


class ShardStore:
    """One shard's operations on the store, except for recording; all methods raise StoreError.

    `owned` are the clusters that it reads and records, maintained by the app.
    """

    def __init__(
        self,
        database: Database,
        leadership: Leadership,
        shard: Shard,
        owned: set[str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.shard = shard
        self.owned = owned
        self.lost: set[str] = set()  # those of them that a commit found to be another shard's
        self._questions: dict[Place, _Question] = {}  # of other shards, until their answers are recorded
        self._seen_by_all = -1  # the number of a commit that all shards have taken in
        self._database = database
        self._leadership = leadership
        self._clock = clock

    @property
    def lease(self) -> str:
        """The name of this shard's lease."""
        return self._leadership.name

    # Before a commit

    def own_part(self, step: Step) -> Step:
        """Return the part of a step to record: that of the clusters owned by this shard."""
        removed = step.removed_cluster
        places = itertools.chain(step.nodes, (change.place for change in step.changes))
        if removed is None and all(place.cluster in self.owned for place in places):
            return step
        return msgspec.structs.replace(
            step,
            changes=tuple(change for change in step.changes if change.place.cluster in self.owned),
            nodes={place: node for place, node in step.nodes.items() if place.cluster in self.owned},
            removed_cluster=removed if removed in self.owned else None,
        )

    def question(self, place: Place, number: int, now: float) -> bool:
        """Note another shard's request for a node of this one; returns whether to pass it on.

        `now` is the process's monotonic time.
        """
        known = self._questions.get(place)
        if known is None or known.number < number:
            self._questions[place] = _Question(number, now, now)
        elif now - known.passed_on >= ASK_AGAIN_SECONDS:
            self._questions[place] = known._replace(passed_on=now)
        else:
            return False
        return True

    def answered_by(self, step: Step) -> dict[Place, int]:
        """Return the questions answered by a step, to be committed with their nodes.

        Only a reading that started after the question answers it.
        """
        reading = step.reading
        if reading is None or not self._questions:
            return {}
        place = Place(reading.cluster, reading.node.name)
        question = self._questions.get(place)
        if question is None or question.passed_on == math.inf:
            return {}
        if reading.started is not None and reading.started < question.time:
            return {}
        self._questions[place] = question._replace(passed_on=math.inf)
        return {place: question.number}

    def forget_question(self, place: Place) -> None:
        """Forget what is asked of a node: the answer is recorded, or never will be."""
        self._questions.pop(place, None)

    # In the transaction of a commit

    async def begin(self, connection: AsyncConnection, clusters: AbstractSet[str]) -> int:
        """Prove that this shard owns all clusters about which a transaction writes, and return its commit number.

        Raises LostClustersError.
        """
        names = sorted(clusters)
        proven: set[str] = set()
        for start in range(0, len(names), NAMES_PER_STATEMENT):
            query = select(_clusters.cluster).where(
                _clusters.cluster.in_(names[start : start + NAMES_PER_STATEMENT]), self._is_own
            )
            proven |= set(await connection.scalars(query))
        if lost := clusters - proven:
            self.lost |= lost
            raise LostClustersError(lost)
        return await self._next_version(connection)

    async def note_removed(self, connection: AsyncConnection, clusters: Collection[str], version: int) -> None:
        """Note that a commit removes nodes of some clusters."""
        values = {"removed": version, "removed_at": self._clock(), "version": version}
        await connection.execute(update(schema.clusters).where(_clusters.cluster.in_(sorted(clusters))).values(values))

    async def note_answers(self, connection: AsyncConnection, answers: Mapping[Place, int], version: int) -> None:
        """Note which questions a commit's nodes answer."""
        if answers:
            rows = [
                {"b_cluster": place.cluster, "b_node": place.node, "b_answered": number, "b_version": version}
                for place, number in answers.items()
            ]
            await connection.execute(_ANSWER, rows)

    # Ownership

    async def take(self, clusters: Collection[str]) -> set[str]:
        """Take the clusters that have no other owner; returns those taken."""
        async with self._leadership.write() as connection:
            version = await self._next_version(connection)
            names = sorted(clusters)
            free = {*names}
            known: set[str] = set()
            query = select(_clusters.cluster, _clusters.lease, _OWNED).where(_clusters.cluster.in_(names))
            for cluster, lease, valid in await connection.execute(query.outerjoin_from(*_LEASE_OF_CLUSTER)):
                known.add(cluster)
                if valid and lease != self._leadership.name:
                    free.discard(cluster)
            if free:
                await self._write_owner(connection, free, version)
            if new := free - known:
                # It was recorded without shards, so without commit numbers.
                nodes = update(schema.nodes).where(schema.nodes.c.cluster.in_(sorted(new)))
                await connection.execute(nodes.values(version=version))
        return free

    async def release(self, clusters: Collection[str]) -> None:
        """Let other shards take some clusters."""
        async with self._leadership.write() as connection:
            version = await self._next_version(connection)
            own = update(schema.clusters).where(_clusters.cluster.in_(sorted(clusters)), self._is_own)
            await connection.execute(own.values(token="", version=version))

    async def unsharded_leads(self) -> bool:
        """Return whether a collector without shards records."""
        async with self._database.read() as connection:
            query = select(_leases.name).where(_leases.name == LEADER, is_valid)
            return await connection.scalar(query) is not None

    async def recorded_clusters(self) -> set[str]:
        """Return the clusters with a recorded node, or a GPU that is in no node."""
        async with self._database.read() as connection:
            found = set(await connection.scalars(select(schema.nodes.c.cluster).distinct()))
            return found | set(await connection.scalars(select(schema.absent.c.cluster).distinct()))

    # Reports and requests between shards

    async def report(self, reports: Mapping[str, ClusterReport]) -> None:
        """Report the status of some clusters to the other shards."""
        async with self._leadership.write() as connection:
            version = await self._next_version(connection)
            rows = [
                {"b_cluster": name, "b_token": self._leadership.token, "b_report": _encode(one), "b_version": version}
                for name, one in reports.items()
            ]
            await connection.execute(_REPORT, rows)

    async def ask(self, places: Collection[Place]) -> int:
        """Ask the owners of some nodes to read them now; returns the number of the question."""
        async with self._leadership.write() as connection:
            version = await self._next_version(connection)
            row = self._database.insert(schema.verifications)
            asking = row.on_conflict_do_update(
                index_elements=["cluster", "node"], set_={"asked": row.excluded.asked, "version": row.excluded.version}
            )
            values = {"asked": version, "answered": 0, "version": version}
            await connection.execute(asking, [{**place._asdict(), **values} for place in sorted(places)])
            return version

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[AsyncConnection]:
        """Yield a connection whose queries all see the same state of the store."""
        async with self._database.read() as connection:
            yield await connection.execution_options(isolation_level="REPEATABLE READ")

    async def version(self) -> int:
        """Return the number of the last commit."""
        async with self._database.read() as connection:
            return await _version(connection)

    @staticmethod
    async def news(connection: AsyncConnection, cursor: int, *, all_clusters: bool = False) -> News:
        """Return what was written after a commit, optionally with the rows of all clusters."""
        version = await _version(connection)
        leases = {
            text(name): SharedLease(text(token), text(holder), bool(held))
            for name, token, holder, held in await connection.execute(_LEASES)
        }
        if version == cursor and not all_clusters:
            return News(version, leases, {}, {}, {})
        rows = await connection.execute(_CLUSTERS.where(_clusters.version > (-1 if all_clusters else cursor)))
        clusters = {text(row[0]): _cluster_row(row) for row in map(tuple, rows)}
        asked, answered = {}, {}
        for cluster, node, question, answer in await connection.execute(_QUESTIONS.where(_asked.version > cursor)):
            place = Place(text(cluster), text(node))
            answered[place] = answer
            if question > answer:
                asked[place] = question
        return News(version, leases, clusters, asked, answered)

    @staticmethod
    async def questions(connection: AsyncConnection, clusters: Collection[str]) -> dict[Place, int]:
        """Return the nodes of some clusters that other shards asked to read, with the number of the question."""
        here = _QUESTIONS.where(_asked.cluster.in_(sorted(clusters)), _asked.asked > _asked.answered)
        return {Place(text(row[0]), text(row[1])): row[2] for row in await connection.execute(here)}

    async def forget_questions(self) -> None:
        """Delete the questions that are answered, and those of nodes that are not recorded any more.

        Only if they were so at the call before: by now every shard has seen the answers.
        """
        async with self._database.write() as connection:
            version = await _version(connection)
            await connection.execute(_FORGET_ANSWERED.where(_asked.version <= self._seen_by_all))
        self._seen_by_all = version

    @staticmethod
    async def names(connection: AsyncConnection, cluster: str) -> set[str]:
        """Return the names of a cluster's nodes."""
        return set(await connection.scalars(select(schema.nodes.c.node).where(schema.nodes.c.cluster == cluster)))

    @property
    def _is_own(self) -> ColumnElement[bool]:
        return (_clusters.lease == self._leadership.name) & (_clusters.token == self._leadership.token)

    async def _write_owner(self, connection: AsyncConnection, clusters: Iterable[str], version: int) -> None:
        row = self._database.insert(schema.clusters)
        owning = row.on_conflict_do_update(
            index_elements=["cluster"],
            set_={name: row.excluded[name] for name in ("lease", "token", "version")},
        )
        owner = {"lease": self._leadership.name, "token": self._leadership.token, "version": version}
        first = {"removed": version, "removed_at": 0.0}
        await connection.execute(owning, [{"cluster": name, **owner, **first} for name in sorted(clusters)])

    async def _next_version(self, connection: AsyncConnection) -> int:
        row = self._database.insert(schema.meta).values(name=VERSION, value="1")
        following = row.on_conflict_do_update(
            index_elements=["name"],
            set_={"value": cast(cast(schema.meta.c.value, BigInteger) + 1, schema.meta.c.value.type)},
        )
        return int((await connection.scalars(following.returning(schema.meta.c.value))).one())


class _Unread(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a node cannot be read."""

    failing: Failing | None = None
    uncovered: str = ""  # the reason's value; empty: a ready pod covers it
    since: float | None = None  # the pods for which it holds


def encode_unread(state: NodeState) -> bytes | None:
    """Return why a node cannot be read; None if it can."""
    if state.failing is None and state.uncovered is None:
        return None
    failing = None if state.failing is None else state.failing._replace(tries=1, next_try=None)
    if state.uncovered is None:
        return _encode(_Unread(failing=failing))
    return _encode(_Unread(failing=failing, uncovered=state.uncovered.reason.value, since=state.uncovered.since))


def with_unread(state: NodeState, written: object) -> NodeState:
    """Return a node with the reason written by `encode_unread`."""
    if written is None:
        return state
    try:
        unread = _decode_unread(written)  # type: ignore[arg-type]  # a damaged row may hold anything
        uncovered = Unread(_REASONS[unread.uncovered], unread.since) if unread.uncovered else None
    except (msgspec.MsgspecError, KeyError, RecursionError, TypeError, ValueError):
        return state
    return msgspec.structs.replace(state, failing=unread.failing, uncovered=uncovered)


async def _version(connection: AsyncConnection) -> int:
    found = await connection.scalar(select(schema.meta.c.value).where(schema.meta.c.name == VERSION))
    return 0 if found is None else int(found)


def _cluster_row(row: Sequence[Any]) -> ClusterRow:
    _, lease, token, report, removed, removed_at = row
    found = None
    with suppress(msgspec.MsgspecError, RecursionError, TypeError, ValueError):  # from a later version
        found = None if report is None else _decode_report(report)
    return ClusterRow(text(lease), text(token), found, removed, moment(removed_at))


_encode = msgspec.msgpack.Encoder().encode
_REASONS = {reason.value: reason for reason in UNREAD_REASONS}
_decode_unread = msgspec.msgpack.Decoder(_Unread).decode
_decode_report = msgspec.msgpack.Decoder(ClusterReport).decode
_clusters, _leases, _asked = schema.clusters.c, schema.leases.c, schema.verifications.c
_LEASES = select(_leases.name, _leases.token, _leases.holder, is_valid)
_CLUSTERS = select(
    _clusters.cluster, _clusters.lease, _clusters.token, _clusters.report, _clusters.removed, _clusters.removed_at
)
_OWNED = func.coalesce((_leases.token == _clusters.token) & is_valid, False)
_LEASE_OF_CLUSTER = (schema.clusters, schema.leases, _leases.name == _clusters.lease)
_QUESTIONS = select(_asked.cluster, _asked.node, _asked.asked, _asked.answered)
_REPORT = (
    update(schema.clusters)
    .where(_clusters.cluster == bindparam("b_cluster"), _clusters.token == bindparam("b_token"))
    .values(report=bindparam("b_report"), version=bindparam("b_version"))
)
_ANSWER = (
    update(schema.verifications)
    .where(_asked.cluster == bindparam("b_cluster"), _asked.node == bindparam("b_node"))
    .values(answered=bindparam("b_answered"), version=bindparam("b_version"))
)
_RECORDED = exists().where(schema.nodes.c.cluster == _asked.cluster, schema.nodes.c.node == _asked.node)
_FORGET_ANSWERED = delete(schema.verifications).where(or_(_asked.asked <= _asked.answered, ~_RECORDED))
