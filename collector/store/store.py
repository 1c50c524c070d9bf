"""One open store: what a collector records into it, what it was when it last ran, and the way to all queries."""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import anyio
import msgspec
from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from collector import gc_freeze
from collector.config.store import StoreSettings
from collector.end_deadline import EndDeadline
from collector.model import Gpu, NodeState, Place
from collector.store import schema
from collector.store.codec import decode_facts, decode_node
from collector.store.commit import recorded
from collector.store.database import Database, OpenMode
from collector.store.errors import LostLeadershipError, StoreError
from collector.store.health import StoreHealth
from collector.store.history import History
from collector.store.history_writer import MAX_PENDING, HistoryWriter
from collector.store.leadership import Leadership
from collector.store.outbox import Outbox, Subscription
from collector.store.plan import Recorded
from collector.store.retention import prune

__all__ = ["Remembered", "Store"]

log = logging.getLogger(__name__)

FIRST_PRUNE_SECONDS = 60.0  # after the start: a collector that starts has more urgent things to do
PRUNE_SECONDS = 600.0  # between two times
KEEP_SINKS_SECONDS = 7 * 86400.0  # that a sink may be missing in the configuration before its backlog is dropped
DECODE_NODES = 1000  # at once


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """What the inventory was when it was last recorded: the arguments of `Inventory.restore`."""

    nodes: list[NodeState]
    absent: dict[str, Place]
    left: dict[str, float]  # Unix seconds until when those were there, by UUID
    facts: dict[str, Gpu]  # what is last known of them, by UUID


class Store:
    """History and outbox; opened by `Store.open`, and as a collector's kept going by `run`.

    Of the collectors that share a PostgreSQL, all with one configuration, one leads: it alone records and delivers. The
    others stand by, and one of them takes the lead when the leader is gone.
    """

    def __init__(
        self,
        database: Database,
        settings: StoreSettings,
        clock: Callable[[], float],
        *,
        max_pending: int = MAX_PENDING,
        decode_nodes: int = DECODE_NODES,
    ) -> None:
        self.database = database
        self.health = StoreHealth(clock=clock)
        self.leadership = Leadership(database)
        self.history = History(database)
        self.outbox = Outbox(database, self.leadership, clock=clock)
        self.history_writer = HistoryWriter(
            database, self.leadership, self.health, max_pending=max_pending, clock=clock
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
    ) -> AsyncIterator[Self]:
        """Open a store; a collector creates or updates it, and is the only one on an SQLite file. Raises StoreError.

        `end` is the deadline of the process that opens it.
        """
        async with Database.open(settings, mode, end) as database:
            store = cls(database, settings, clock, max_pending=max_pending, decode_nodes=decode_nodes)
            try:
                if mode is OpenMode.COLLECTOR and await store.leadership.ask():
                    store.history_writer.begin({})  # what is loaded from now on is what the history holds
                yield store
            finally:
                await store.leadership.release()

    async def load(self) -> Remembered:
        """Return the present inventory; raises StoreError."""
        found: list[NodeState] = []
        with gc_freeze.paused():
            async with self.database.read() as connection:
                async for part in self._decoded(connection, _NODES):
                    found += part
                absent, left, facts = await _absent(connection)
        return Remembered(nodes=found, absent=absent, left=left, facts=facts)

    async def absent(self) -> tuple[dict[str, Place], dict[str, float], dict[str, Gpu]]:
        """Return where GPUs that are in no node were last, until when (Unix seconds), and their facts."""
        async with self.database.read() as connection:
            return await _absent(connection)

    async def recorded(self, nodes: Mapping[Place, NodeState | None]) -> Recorded:
        """Return what the history holds of some nodes, and of the GPUs that have come to them since."""
        return await recorded(self.database, nodes)

    async def nodes(self) -> AsyncGenerator[list[NodeState], None]:
        """Yield the present inventory by cluster and node, some hundred nodes at a time; raises StoreError."""
        async with self.database.read() as connection:
            async for part in self._decoded(connection, _NODES.order_by(_nodes.cluster, _nodes.node)):
                yield part

    async def reconcile(self, sinks: Mapping[str, Subscription]) -> None:
        """Let these sinks get what happens from now on, and no others; raises StoreError.

        A standby does so when it takes the lead.
        """
        if self.leadership.recording:  # also of a leader that is late in renewing its lease
            with suppress(LostLeadershipError):
                await self.outbox.reconcile(sinks)
        self._subscriptions = dict(sinks)
        self.history_writer.wants_readings = any(sink.emit == "readings" for sink in sinks.values())

    async def reconcile_again(self) -> None:
        """Bring the outbox in line with the sinks that were last configured, if any; raises StoreError."""
        if self._subscriptions is not None:
            await self.outbox.reconcile(self._subscriptions)

    async def run(self) -> None:
        """Commit what is recorded and forget what is too old, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.history_writer.run, name="store: commits")
            tasks.start_soon(self._prune_regularly, name="store: retention")
            try:
                await anyio.sleep_forever()
            finally:
                self.database.end.begin()

    async def prune(self) -> int:
        """Forget what is older than the retention and what every sink has got; raises StoreError."""
        await self.outbox.give_up(self._clock() - KEEP_SINKS_SECONDS)
        return await prune(self.database, None if self._retention is None else self._clock() - self._retention)

    async def _decoded(self, connection: AsyncConnection, rows: Select[Any]) -> AsyncIterator[list[NodeState]]:
        async with connection.stream(rows) as result:
            async for part in result.partitions(self._decode_nodes):
                try:
                    nodes = [decode_node(Place(row[0], row[1]), row[2], row[3]) for row in part]
                except (msgspec.MsgspecError, TypeError, ValueError) as error:
                    raise StoreError(
                        f"store {self.database.location}: cannot decode a node; move it away to start afresh"
                    ) from error
                yield nodes

    async def _prune_regularly(self) -> None:
        await anyio.sleep(FIRST_PRUNE_SECONDS)
        while True:
            try:
                if self.leadership.leads:
                    await self.prune()
                self.health.succeeded("retention")
            except StoreError as error:
                self.health.failed("retention", str(error))
            await anyio.sleep(PRUNE_SECONDS)


async def _absent(connection: AsyncConnection) -> tuple[dict[str, Place], dict[str, float], dict[str, Gpu]]:
    rows = (await connection.execute(_ABSENT)).all()
    places = {row[0]: Place(row[1], row[2]) for row in rows}
    left = {row[0]: row[3] for row in rows if row[3] is not None}
    facts = {row[0]: gpu for row in rows if (gpu := decode_facts(row[0], row[4])) is not None}
    return places, left, facts


_nodes = schema.nodes.c
_NODES = select(_nodes.cluster, _nodes.node, _nodes.read_at, _nodes.snapshot)
_UNTIL = (
    select(func.max(schema.placements.c.until))
    .where(schema.placements.c.uuid == schema.absent.c.uuid)
    .scalar_subquery()  # by the index of the absent GPUs alone, which are few beside all placements
)
_ABSENT = select(schema.absent.c.uuid, schema.absent.c.cluster, schema.absent.c.node, _UNTIL, schema.absent.c.facts)
