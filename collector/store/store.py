"""One open store: what the collector records into it, what it was when it last ran, and the way to all queries."""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

import anyio
import msgspec
from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from collector import gc_freeze
from collector.config.store import StoreSettings
from collector.inventory import Inventory, NodeSnapshot
from collector.model import Place
from collector.store import schema
from collector.store.codec import decode_node
from collector.store.database import Database, OpenMode
from collector.store.errors import LostLeadershipError, StoreError
from collector.store.history import History
from collector.store.leadership import Leadership
from collector.store.outbox import Outbox, Subscription
from collector.store.recorder import HistoryWriter
from collector.store.retention import prune

__all__ = ["Remembered", "Store"]

log = logging.getLogger(__name__)

_FIRST_PRUNE, _PRUNE_EVERY = 60.0, 600.0  # seconds; a collector that starts has more urgent things to do
_ASK_EVERY = 1.0  # seconds between two questions of who leads
_KEEP_SINKS = 7 * 86400.0  # seconds that a sink may be missing in the configuration before what it is owed is given up
_GRACE = 5.0  # seconds that the end of the process leaves to what is under way
_PART = 1000  # nodes that are decoded at once


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """What the inventory was when it was last recorded: the arguments of `Inventory.restore`."""

    nodes: list[NodeSnapshot]
    ghosts: dict[str, Place]


class Store:
    """History and outbox; opened by `Store.open`, and as a collector's kept going by `run`.

    Of the collectors that share a PostgreSQL, all with one configuration, one leads: it alone records and delivers. The
    others stand by, and one of them takes the lead when the leader is gone.
    """

    def __init__(self, database: Database, settings: StoreSettings, clock: Callable[[], float]) -> None:
        self.database = database
        self.history = History(database)
        self.outbox = Outbox(database, clock=clock)
        self.recorder = HistoryWriter(database, clock=clock)
        self.leadership = Leadership(database, self.recorder.stand_by)
        self._sinks: Mapping[str, Subscription] | None = None
        self._retention = settings.retention
        self._clock = clock

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: StoreSettings,
        access: OpenMode = OpenMode.COLLECTOR,
        *,
        clock: Callable[[], float] = time.time,
    ) -> AsyncIterator[Self]:
        """Open a store; a collector creates or updates it, and is the only one on an SQLite file. Raises StoreError."""
        async with Database.open(settings, access) as database:
            store = cls(database, settings, clock)
            try:
                if access is OpenMode.COLLECTOR and await store.leadership.ask():
                    store.recorder.lead({})  # what is loaded from now on is what the history holds
                yield store
            finally:
                await store.leadership.release()

    async def load(self) -> Remembered:
        """Load the present inventory; raises StoreError."""
        ghosts = schema.ghosts.c
        spirits = select(ghosts.uuid, ghosts.cluster, ghosts.node)
        found: list[NodeSnapshot] = []
        with gc_freeze.paused():
            async with self.database.read() as connection:
                async for part in self._decoded(connection, _NODES):
                    found += part
                haunted = {row[0]: Place(row[1], row[2]) for row in await connection.execute(spirits)}
        return Remembered(nodes=found, ghosts=haunted)

    async def nodes(self) -> AsyncGenerator[list[NodeSnapshot], None]:
        """Go through the present inventory by cluster and node, some hundred nodes at a time; raises StoreError."""
        async with self.database.read() as connection:
            async for part in self._decoded(connection, _NODES.order_by(_nodes.cluster, _nodes.node)):
                yield part

    @property
    def leads(self) -> bool:
        """Whether this collector records and delivers."""
        return self.leadership.held and self.recorder.leads

    async def follow(self, sinks: Mapping[str, Subscription]) -> None:
        """Owe these sinks what happens from now on, and others nothing any more; raises StoreError.

        A standby does so when it takes the lead.
        """
        if self.leads:
            with suppress(LostLeadershipError):
                await self.outbox.follow(sinks)
        self._sinks = dict(sinks)
        self.recorder.wants_readings = any(sink.emit == "readings" for sink in sinks.values())

    async def run(self) -> None:
        """Commit what is recorded and forget what is too old, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.recorder.run, name="store: commits")
            tasks.start_soon(self._prune_regularly, name="store: retention")
            try:
                await anyio.sleep_forever()
            finally:
                self.database.end_by(anyio.current_time() + _GRACE)

    async def lead(self, inventory: Inventory, adopt: Callable[[Sequence[NodeSnapshot]], None]) -> None:
        """Keep the lead, or take it when it is free, until cancelled; the history then comes to agree with `inventory`.

        Before, `adopt` is given all that the leader before had recorded, some nodes at a time: what the inventory does
        not know yet belongs into it.
        """
        told: bool | None = self.database.alone or None
        while True:
            try:
                if await self.leadership.ask() and not self.recorder.leads:
                    await self._take_over(inventory, adopt)
                self.recorder.succeeded("lead")
            except LostLeadershipError:
                log.debug("another collector was faster")
            except StoreError as error:
                self.recorder.failed("lead", str(error))
            else:
                if self.leads is not told:
                    told = self.leads
                    log.info(_LEADING if told else _STANDING_BY)
            await anyio.sleep(_ASK_EVERY)

    async def prune(self) -> int:
        """Forget what is older than the retention and what every sink has got; raises StoreError."""
        await self.outbox.give_up(self._clock() - _KEEP_SINKS)
        return await prune(self.database, None if self._retention is None else self._clock() - self._retention)

    async def _decoded(self, connection: AsyncConnection, rows: Select[Any]) -> AsyncIterator[list[NodeSnapshot]]:
        async with connection.stream(rows) as result:
            async for part in result.partitions(_PART):
                try:
                    nodes = [decode_node(Place(row[0], row[1]), row[2], row[3]) for row in part]
                except (msgspec.MsgspecError, TypeError, ValueError) as error:
                    raise StoreError(
                        f"store {self.database.location}: what it knows of a node cannot be read; "
                        "move it away to start afresh"
                    ) from error
                yield nodes

    async def _take_over(self, inventory: Inventory, adopt: Callable[[Sequence[NodeSnapshot]], None]) -> None:
        """Begin to record, first what the leader before has missed; nobody else writes meanwhile."""
        if self._sinks is not None:
            await self.outbox.follow(self._sinks)
        recorder = self.recorder
        recorder.touched.clear()
        recorded: set[Place] = set()
        different: set[Place] = set()
        async for part in self.nodes():
            adopt([node for node in part if node.place not in recorder.gone])
            recorded |= {node.place for node in part}
            different |= {node.place for node in part if not _agrees(inventory.snapshot(node.place), node)}
        different |= {
            place
            for cluster in inventory.clusters()
            for node in inventory.nodes(cluster)
            if (place := Place(cluster, node)) not in recorded
        }
        recorder.lead({place: inventory.snapshot(place) for place in different | recorder.touched})

    async def _prune_regularly(self) -> None:
        await anyio.sleep(_FIRST_PRUNE)
        while True:
            try:
                if self.leads:
                    await self.prune()
            except StoreError as error:
                log.warning("what is too old stays for now: %s", error)
            await anyio.sleep(_PRUNE_EVERY)


_LEADING = "this collector records into the store and delivers to the sinks"
_STANDING_BY = "another collector records into the store and delivers to the sinks; this one stands by"


def _agrees(node: NodeSnapshot | None, recorded: NodeSnapshot) -> bool:
    """Tell whether two collectors know the same of a node, each by its own reading."""
    return node is not None and msgspec.structs.replace(node, time=recorded.time) == recorded


_nodes = schema.nodes.c
_NODES = select(_nodes.cluster, _nodes.node, _nodes.read_at, _nodes.snapshot)
