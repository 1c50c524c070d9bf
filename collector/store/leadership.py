"""Which of the collectors that share a PostgreSQL store leads, that is records and delivers: one at a time."""

import logging
import secrets
from collections.abc import Callable

import anyio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.store import schema
from collector.store.database import LEADER, Database
from collector.store.errors import FOREIGN, StoreError, explain

__all__ = ["Leadership"]

log = logging.getLogger(__name__)


class Leadership:
    """A lock of one connection to the server, which gives it to another collector once that connection is gone.

    A collector may learn only later that its connection is gone. So whoever takes the lock writes its name down, and
    `Database.write` refuses a leader's transaction to everybody else. `superseded` is called when the lock comes back
    after another collector has had it. An SQLite file has one collector, which always leads.
    """

    def __init__(self, database: Database, superseded: Callable[[], None]) -> None:
        self.held = database.alone  # when it was last asked for
        self._database = database
        self._superseded = superseded
        self._connection: AsyncConnection | None = None
        self._asking = anyio.Lock()

    async def ask(self) -> bool:
        """Take the lock, or make sure that it is still ours; False while another has it. Raises StoreError."""
        if self._database.alone:
            self._database.check_file()
            return True
        async with self._asking:
            try:
                with self._database.shielded(_ANSWER):
                    self.held = await self._proved() or await self._taken()
            except StoreError:
                self.held = False
                await self._forget()
                raise
            return self.held

    async def release(self) -> None:
        """Let another collector lead."""
        if not self._database.alone:
            with anyio.CancelScope(shield=True):
                async with self._asking:
                    self.held = False
                    await self._forget()

    async def _proved(self) -> bool:
        """Find out whether the connection that has the lock still lives."""
        if self._connection is None:
            return False
        try:
            await self._connection.execute(_PROVE)
        except FOREIGN:
            self.held = False
            await self._forget()
            return False
        return True

    async def _taken(self) -> bool:
        connection = await self._database.lend()
        try:
            if not await connection.scalar(_TRY, {"store": self._database.id}):
                await connection.close()
                return False
            self._connection = connection
            for setting in _KEEPALIVE:
                await connection.execute(setting)
        except FOREIGN as error:
            self._connection = connection
            raise explain(error, self._database.location) from error
        await self._claim()
        return True

    async def _claim(self) -> None:
        """Write down who leads; after another one's time under a new name, so that nothing from before is written."""
        async with self._database.write() as connection:
            if await connection.scalar(LEADER) == self._database.session:
                return
            self._database.session = secrets.token_hex(8)
            row = self._database.insert(schema.facts).values(name="leader", value=self._database.session)
            await connection.execute(
                row.on_conflict_do_update(index_elements=["name"], set_={"value": row.excluded.value})
            )
            self._superseded()

    async def _forget(self) -> None:
        """End the connection rather than give it back, for the lock is its session's."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with anyio.move_on_after(_FAREWELL, shield=True):
                try:
                    await connection.invalidate()
                    await connection.close()
                except FOREIGN:
                    log.debug("the connection of the lead was gone already")


_ANSWER = 10.0  # seconds that the server has for an answer before the connection counts as gone
_FAREWELL = 3.0  # seconds
_TRY = text(f"SELECT pg_try_advisory_lock({schema.APPLICATION_ID}, hashtext(:store))")
_PROVE = text("SELECT 1")
# A collector whose machine is gone says no farewell: after half a minute the server takes it for gone.
_KEEPALIVE = [
    text(f"SET {name} = {value}")
    for name, value in (("tcp_keepalives_idle", 15), ("tcp_keepalives_interval", 5), ("tcp_keepalives_count", 3))
]
