"""Which of the collectors that share a PostgreSQL store delivers to the sinks: one at a time."""

import logging

import anyio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.store import schema
from collector.store.database import Database
from collector.store.errors import FOREIGN, explain

__all__ = ["DeliveryLock"]

log = logging.getLogger(__name__)


class DeliveryLock:
    """Belongs to one connection to the server, which gives it to another collector once that connection is gone.

    A collector that loses it in the middle of a batch may deliver that batch beside the next holder, under the same
    idempotency key. An SQLite file has one collector, whose lock it always is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: AsyncConnection | None = None
        self._asking = anyio.Lock()
        self._told: bool | None = None

    async def held(self) -> bool:
        """Take the lock, or make sure that it is still ours; False while another has it. Raises StoreError."""
        if self._database.alone:
            return True
        async with self._asking:
            with anyio.CancelScope(shield=True):
                held = await self._proved() or await self._taken()
        if held is not self._told:
            log.info("this collector delivers to the sinks" if held else "another collector delivers to the sinks")
            self._told = held
        return held

    async def release(self) -> None:
        """Let another collector deliver."""
        async with self._asking:
            with anyio.CancelScope(shield=True):
                await self._forget()

    async def _proved(self) -> bool:
        """Find out whether the connection that has the lock still lives."""
        if self._connection is None:
            return False
        try:
            await self._connection.execute(_PROVE)
        except FOREIGN:
            await self._forget()
            return False
        return True

    async def _taken(self) -> bool:
        connection = self._connection = await self._database.lend()
        try:
            if await connection.scalar(_TRY, {"store": self._database.id}):
                for setting in _KEEPALIVE:
                    await connection.execute(setting)
                return True
        except FOREIGN as error:
            await self._forget()
            raise explain(error, self._database.location) from error
        await self._forget()
        return False

    async def _forget(self) -> None:
        """End the connection rather than give it back, for the lock is its session's."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.invalidate()
                await connection.close()
            except FOREIGN:
                log.debug("the connection of the delivery's lock was gone already")


_TRY = text(f"SELECT pg_try_advisory_lock({schema.APPLICATION_ID}, hashtext(:store))")
_PROVE = text("SELECT 1")
# A collector whose machine is gone says no farewell: after half a minute the server takes it for gone.
_KEEPALIVE = [
    text(f"SET {name} = {value}")
    for name, value in (("tcp_keepalives_idle", 15), ("tcp_keepalives_interval", 5), ("tcp_keepalives_count", 3))
]
