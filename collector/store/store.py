"""One open store: what the collector records into it, what it was when it last ran, and the way to all queries."""

import gc
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self

import anyio
import msgspec
from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.config.store import StoreSettings
from collector.inventory import NodeSnapshot
from collector.model import Place
from collector.store import schema
from collector.store.codec import decode_node
from collector.store.database import Access, Database
from collector.store.delivery_lock import DeliveryLock
from collector.store.errors import StoreError
from collector.store.history import History
from collector.store.outbox import Follow, Outbox
from collector.store.recorder import Recorder
from collector.store.retention import prune

__all__ = ["Remembered", "Store"]

log = logging.getLogger(__name__)

_PRUNE_EVERY = 600.0  # seconds
_PART = 1000  # nodes that are decoded at once


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """What the inventory was when it was last recorded: the arguments of `Inventory.restore`."""

    nodes: list[NodeSnapshot]
    ghosts: dict[str, Place]


class Store:
    """History and outbox; opened by `Store.open`, and as a collector's kept going by `run`."""

    def __init__(self, database: Database, settings: StoreSettings, clock: Callable[[], float]) -> None:
        self.database = database
        self.history = History(database)
        self.outbox = Outbox(database, clock=clock)
        self.recorder = Recorder(database, clock=clock)
        self.delivery_lock = DeliveryLock(database)
        self._retention = settings.retention
        self._clock = clock

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: StoreSettings,
        access: Access = Access.COLLECTOR,
        *,
        clock: Callable[[], float] = time.time,
    ) -> AsyncIterator[Self]:
        """Open a store; a collector creates or updates it, and is the only one on an SQLite file. Raises StoreError."""
        async with Database.open(settings, access) as database:
            store = cls(database, settings, clock)
            try:
                yield store
            finally:
                await store.delivery_lock.release()

    async def load(self, clusters: Collection[str] | None = None) -> Remembered:
        """Load the present inventory, or some clusters' part of it; raises StoreError."""
        ghosts = schema.ghosts.c
        rows, spirits = _NODES, select(ghosts.uuid, ghosts.cluster, ghosts.node)
        if clusters is not None:
            rows, spirits = rows.where(_nodes.cluster.in_(clusters)), spirits.where(ghosts.cluster.in_(clusters))
        found: list[NodeSnapshot] = []
        with _without_garbage_collection():
            async with self.database.read() as connection:
                async for part in self._decoded(connection, rows):
                    found += part
                haunted = {row[0]: Place(row[1], row[2]) for row in await connection.execute(spirits)}
        return Remembered(nodes=found, ghosts=haunted)

    async def nodes(self) -> AsyncGenerator[list[NodeSnapshot], None]:
        """Go through the present inventory by cluster and node, some hundred nodes at a time; raises StoreError."""
        async with self.database.read() as connection:
            async for part in self._decoded(connection, _NODES.order_by(_nodes.cluster, _nodes.node)):
                yield part

    async def follow(self, sinks: Mapping[str, Follow]) -> None:
        """Owe these sinks what happens from now on, and others nothing any more; raises StoreError."""
        self.recorder.wants_readings = any(sink.emit == "readings" for sink in sinks.values())
        await self.outbox.follow(sinks)

    async def run(self) -> None:
        """Commit what is recorded and forget what is too old, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.recorder.run, name="store: commits")
            tasks.start_soon(self._prune_regularly, name="store: retention")

    async def prune(self) -> int:
        """Forget what is older than the retention and what every sink has got; raises StoreError."""
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

    async def _prune_regularly(self) -> None:
        while True:
            await anyio.sleep(_PRUNE_EVERY)
            try:
                await self.prune()
            except StoreError as error:
                log.warning("what is too old stays for now: %s", error)


_nodes = schema.nodes.c
_NODES = select(_nodes.cluster, _nodes.node, _nodes.read_at, _nodes.snapshot)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    # Its passes over a heap that only grows would double the time.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
