"""One open store: recording by a collector, the state of its last run, and access to all queries."""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple, Self

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec
from sqlalchemy import ARRAY, Select, Text, all_, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from collector import gc_freeze
from collector.config.store import StoreSettings
from collector.end_deadline import EndDeadline
from collector.model import NO_UUIDS, Gpu, NodeInfo, NodeState, Place
from collector.sharding import UNSHARDED, Shard
from collector.store import schema
from collector.store.altered import note_altered
from collector.store.checkpoints import keep
from collector.store.codec import decode_node
from collector.store.commit import recorded
from collector.store.database import Database, OpenMode
from collector.store.errors import DamagedStoreError, LostLeadershipError, StoreError, UnavailableStoreError
from collector.store.health import StoreHealth
from collector.store.history import History
from collector.store.history_writer import MAX_PENDING, HistoryWriter
from collector.store.leadership import DELIVERY, LEADER, Leadership, shard_lease
from collector.store.marks import MarkStore
from collector.store.outbox import Outbox, Subscription
from collector.store.past import Past, note_beginning
from collector.store.plan import Recorded
from collector.store.retention import prune
from collector.store.shards import ShardStore, with_unread
from collector.store.sound import is_sound, moment, optional_text, sound_facts, sound_last_known, text

__all__ = ["Remembered", "Store"]

log = logging.getLogger(__name__)

FIRST_PRUNE_SECONDS = 60.0  # after the start: a starting collector has more urgent work
PRUNE_SECONDS = 600.0  # between two runs
CHECKPOINT_SECONDS = 60.0  # between two checks whether one is due
MORE_CHECKPOINTS_SECONDS = 1.0  # while many are due, such as after an update
KEEP_SINKS_SECONDS = 7 * 86400.0  # how long a sink may be missing from the configuration before its backlog is dropped
DECODE_NODES = 1000  # at once
DECODE_NEWS = 100  # likewise, while the collector does other work
MAX_AHEAD = 100_000  # GPUs whose departure is still to come, because a clock was ahead


_NodeRow = Sequence[Any]  # cluster, node, read_at, snapshot, unread


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """The inventory as last recorded: the arguments of `Inventory.restore`."""

    nodes: list[NodeState]
    absent: dict[str, Place]
    left: dict[str, float]  # Unix seconds until when they were there, by UUID; also of others, if still to come
    facts: dict[str, Gpu]  # their last known values, by UUID
    lost: frozenset[str] = NO_UUIDS  # those of them that had stopped responding


class RememberedAbsent(NamedTuple):
    """The part of `Remembered` about the GPUs that are in no node."""

    absent: dict[str, Place]
    left: dict[str, float]
    facts: dict[str, Gpu]
    lost: frozenset[str]


class Store:
    """History and outbox; opened by `Store.open`, and for a collector operated by `run`.

    Of the collectors that share a PostgreSQL database and a configuration, only the leader records and delivers. The
    others are standbys, one of which takes the lease when the leader is gone.
    """

    def __init__(
        self,
        database: Database,
        settings: StoreSettings,
        clock: Callable[[], float],
        *,
        max_pending: int = MAX_PENDING,
        decode_nodes: int = DECODE_NODES,
        shard: Shard = UNSHARDED,
        owned: set[str] | None = None,
    ) -> None:
        self.database = database
        self.health = StoreHealth(clock=clock)
        if shard.sharded and database.single_process:
            raise StoreError("shards require a shared store; set store.url to a PostgreSQL database")
        self.leadership = Leadership(database, name=shard_lease(shard.index) if shard.sharded else LEADER)
        # The lease for tasks that exist once: delivery to the sinks, and maintenance of the store.
        self.delivery = Leadership(database, name=DELIVERY) if shard.sharded else self.leadership
        self.shards: ShardStore | None = None
        if shard.sharded:
            self.shards = ShardStore(database, self.leadership, shard, set() if owned is None else owned, clock)
        self.history = History(database)
        self.past = Past(database)
        self.marks = MarkStore(database, clock)
        self.outbox = Outbox(database, self.delivery, clock=clock)
        self.history_writer = HistoryWriter(
            database, self.leadership, self.health, max_pending=max_pending, clock=clock, shards=self.shards
        )
        self._subscriptions: Mapping[str, Subscription] | None = None
        self._retention = settings.retention
        self._clock = clock
        self._decode_nodes = decode_nodes

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: StoreSettings,
        mode: OpenMode = OpenMode.COLLECTOR,
        *,
        clock: Callable[[], float] = time.time,
        max_pending: int = MAX_PENDING,
        decode_nodes: int = DECODE_NODES,
        end: EndDeadline | None = None,
        shard: Shard = UNSHARDED,
        owned: set[str] | None = None,
    ) -> AsyncIterator[Self]:
        """Open a store; a collector creates or updates it, and is the only one on an SQLite file. Raises StoreError.

        A collector's SQLite file may turn out to be damaged, or its disk may fail; `survives` returns whether to
        continue. `end` is the deadline of the process that opens it. `owned` are the clusters recorded by its shard, if
        it is one of several.
        """
        async with Database.open(settings, mode, end) as database:
            limits = {"max_pending": max_pending, "decode_nodes": decode_nodes}
            store = cls(database, settings, clock, **limits, shard=shard, owned=owned)
            store.health.found_set_aside(await anyio.to_thread.run_sync(database.set_aside))
            try:
                if database.trouble is not None:
                    store.leadership.hold()
                    store.health.failed("lead", str(database.trouble))
                elif mode is OpenMode.COLLECTOR and await store._leads_at_once():
                    store.history_writer.begin({})  # what is loaded from now on matches the history
                yield store
            finally:
                if store.delivery is not store.leadership:
                    await store.delivery.release()
                await store.leadership.release()

    def survives(self, error: StoreError) -> bool:
        """Return whether a collector continues without its store until `error` is resolved."""
        return self.database.recovers and isinstance(error, DamagedStoreError | UnavailableStoreError)

    async def load(self) -> Remembered:
        """Return the recorded inventory; raises StoreError."""
        found: list[NodeState] = []
        with gc_freeze.paused():
            async with self.database.read() as connection:
                async for part in self._decoded(connection, _NODES):
                    found += part
                away = await _absent(connection, self._clock())
        return Remembered(nodes=found, absent=away.absent, left=away.left, facts=away.facts, lost=away.lost)

    async def absent(self) -> RememberedAbsent:
        """Return the last places of GPUs that are in no node, until when (Unix seconds), and their known values.

        Times that are still to come are also of GPUs without a last place.
        """
        async with self.database.read() as connection:
            return await _absent(connection, self._clock())

    async def recorded(self, nodes: Mapping[Place, NodeState | None]) -> Recorded:
        """Return the history's data on some nodes, and on the GPUs that have arrived in them since."""
        return await recorded(self.database, nodes)

    async def nodes(self) -> AsyncGenerator[list[NodeState], None]:
        """Yield the recorded inventory by cluster and node, some hundred nodes at a time; raises StoreError."""
        async with self.database.read() as connection:
            async for part in self._decoded(connection, _NODES.order_by(_nodes.cluster, _nodes.node)):
                yield part

    async def nodes_since(
        self,
        connection: AsyncConnection,
        version: int,
        *,
        clusters: Collection[str] | None = None,
        without: Collection[str] = (),
    ) -> AsyncGenerator[list[NodeState], None]:
        """Yield the nodes written by shards after a commit, some hundreds at a time.

        Or, instead of these, all nodes of some clusters; or all except those in `without`.
        """
        if clusters is not None:
            rows = _NODES.where(_nodes.cluster.in_(sorted(clusters)))
        else:
            others = _nodes.cluster != all_(literal(sorted(without), ARRAY(Text)))
            rows = _NODES.where(_nodes.version > version, others)
        async for part in self._decoded(connection, rows, DECODE_NEWS):
            yield part
            await anyio.lowlevel.checkpoint()

    async def reconcile(self, sinks: Mapping[str, Subscription]) -> None:
        """Set the sinks that get records from now on; raises StoreError.

        On a standby this takes effect when it takes the lease.
        """
        if self.delivery.recording:  # including a leader that is late in renewing its lease
            with suppress(LostLeadershipError):
                await self.outbox.reconcile(sinks)
        self._subscriptions = dict(sinks)
        self.history_writer.wants_readings = any(sink.emit == "readings" for sink in sinks.values())

    async def reconcile_again(self) -> None:
        """Reconcile the outbox with the last configured sinks, if any; raises StoreError."""
        self.health.found_set_aside(await anyio.to_thread.run_sync(self.database.set_aside))
        if self._subscriptions is not None:
            await self.outbox.reconcile(self._subscriptions)

    async def renew(self, snapshot: Callable[[], Mapping[Place, NodeState]]) -> None:
        """Fill the store if it replaces a damaged one; raises StoreError.

        Pending data is recorded first, and then everything returned by `snapshot`. The sinks get both.
        """
        self.health.found_set_aside(await anyio.to_thread.run_sync(self.database.set_aside))
        if self._subscriptions is not None:
            await self.outbox.reconcile(self._subscriptions, from_start=True)
        # The data written to it existed before, but anything else is lost.
        await note_beginning(self.database, self._clock())
        self.history_writer.complete(snapshot)
        self.database.renewed = False

    async def run(self) -> None:
        """Commit what is recorded and delete what is too old, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.history_writer.run, name="store: commits")
            tasks.start_soon(self._prune_regularly, name="store: retention")
            tasks.start_soon(self._count_regularly, name="store: checkpoints")
            try:
                await anyio.sleep_forever()
            finally:
                self.database.end.begin()

    async def prune(self) -> int:
        """Delete data older than the retention, and readings delivered to every sink; raises StoreError."""
        await self.outbox.give_up(self._clock() - KEEP_SINKS_SECONDS)
        return await prune(self.database, None if self._retention is None else self._clock() - self._retention)

    async def _leads_at_once(self) -> bool:
        """Request the lease; if the disk is full, it is requested again later."""
        try:
            return await self.leadership.ask()
        except UnavailableStoreError as error:
            self.health.failed("lead", str(error))
            return False

    async def _decoded(
        self, connection: AsyncConnection, rows: Select[Any], at_once: int | None = None
    ) -> AsyncIterator[list[NodeState]]:
        """Yield nodes; damaged ones come last, built from their open placements."""
        damaged: list[_NodeRow] = []
        async with connection.stream(rows) as result:
            async for part in result.partitions(at_once or self._decode_nodes):
                decoded = [(row, _decode(row, damaged)) for row in map(tuple, part)]
                if self.shards is None:
                    yield [node for _, node in decoded if node is not None]
                else:
                    yield [with_unread(node, row[4]) for row, node in decoded if node is not None]
        for row in damaged:
            log.error(
                "damaged row in the store: using the node's history until it is read again",
                extra={"cluster": text(row[0]), "node": text(row[1])},
            )
            yield [await _from_history(connection, row)]

    async def _prune_regularly(self) -> None:
        await anyio.sleep(FIRST_PRUNE_SECONDS)
        while True:
            try:
                if self.delivery.leads:
                    await self.prune()
                    if self.shards is not None:
                        await self.shards.forget_questions()
                self.health.succeeded("retention")
                self.health.found_set_aside(await anyio.to_thread.run_sync(self.database.set_aside))
            except StoreError as error:
                self.health.failed("retention", str(error))
            await anyio.sleep(PRUNE_SECONDS)

    async def _count_regularly(self) -> None:
        await anyio.sleep(FIRST_PRUNE_SECONDS)
        while True:
            try:
                made = 0
                if self.delivery.leads:
                    await note_altered(self.database)
                    made = await keep(self.database, self._clock())
            except StoreError:  # reported by the commits; missing checkpoints are created later
                made = 0
            await anyio.sleep(MORE_CHECKPOINTS_SECONDS if made else CHECKPOINT_SECONDS)


async def _absent(connection: AsyncConnection, now: float) -> RememberedAbsent:
    ahead = await connection.execute(_AHEAD.where(schema.placements.c.until > now).limit(MAX_AHEAD))
    rows = (await connection.execute(_ABSENT)).all()
    uuids = [text(row[0]) for row in rows]
    places = {uuid: Place(text(row[1]), text(row[2])) for uuid, row in zip(uuids, rows, strict=True)}
    left = {text(uuid): moment(until) for uuid, until in ahead}  # a clock was ahead, and their clusters were removed
    left |= {uuid: moment(row[3]) for uuid, row in zip(uuids, rows, strict=True) if row[3] is not None}
    facts = {uuid: sound_facts(uuid, row[4]) for uuid, row in zip(uuids, rows, strict=True)}
    known = {uuid: gpu for uuid, (gpu, _) in facts.items() if gpu is not None}
    return RememberedAbsent(places, left, known, frozenset(uuid for uuid, (_, lost) in facts.items() if lost))


_nodes = schema.nodes.c
_NODES = select(_nodes.cluster, _nodes.node, _nodes.read_at, _nodes.snapshot, _nodes.unread)
_UNTIL = (
    select(func.max(schema.placements.c.until))
    .where(schema.placements.c.uuid == schema.absent.c.uuid)
    .scalar_subquery()  # by the index of absent GPUs, which are few compared to all placements
)
_AHEAD = select(schema.placements.c.uuid, func.max(schema.placements.c.until)).group_by(schema.placements.c.uuid)
_ABSENT = select(schema.absent.c.uuid, schema.absent.c.cluster, schema.absent.c.node, _UNTIL, schema.absent.c.facts)


def _decode(row: _NodeRow, damaged: list[_NodeRow]) -> NodeState | None:
    """Return the node of a row; for a damaged one, None is returned and it is added to `damaged`."""
    try:
        node = decode_node(Place(row[0], row[1]), row[2], row[3])
        if is_sound(node):
            return node
    except (msgspec.MsgspecError, TypeError, ValueError):
        log.debug("cannot decode a node", exc_info=True)
    damaged.append(row)
    return None


async def _from_history(connection: AsyncConnection, row: _NodeRow) -> NodeState:
    """Return a node built from its open placements; without a fingerprint, so that it is read immediately."""
    found = await connection.execute(_OPEN.where(_placed.cluster == row[0], _placed.node == row[1]))
    place = Place(text(row[0]), text(row[1]))
    gpus = {}
    for uuid, serial, chassis, model, last_known, since in map(tuple, found):
        gpu = Gpu(
            uuid=text(uuid),
            serial=optional_text(serial),
            chassis=optional_text(chassis),
            model=optional_text(model),
            last_known=sound_last_known(last_known),
        )
        gpus[gpu.uuid] = (gpu, moment(since))
    times = tuple(time for _, time in gpus.values())
    return NodeState(
        place=place,
        node=NodeInfo(name=place.node),
        time=max((moment(row[2]), *times)),
        gpus=tuple(gpu for gpu, _ in gpus.values()),
        since=times,
    )


_placed = schema.placements.c
_OPEN = select(_placed.uuid, _placed.serial, _placed.chassis, _placed.model, _placed.last_known, _placed.since).where(
    _placed.until.is_(None)
)
