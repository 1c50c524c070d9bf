"""Which of the collectors that share a PostgreSQL store leads, that is records and delivers: one at a time.

All of leadership is here: who has the lock, the fencing token that a leader's every transaction proves, when recording
begins and ends, and what a standby remembers until it takes over. The take-over itself needs the inventory, so its loop
is the app's.
"""

import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.model import NodeState, Place
from collector.store import schema
from collector.store.database import Database
from collector.store.errors import FOREIGN, LostLeadershipError, StoreError, explain

__all__ = ["Leadership", "Standby"]

log = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0  # that the server has for an answer before the lock's connection counts as gone
CLOSE_TIMEOUT_SECONDS = 3.0

_TRY_LOCK = text(f"SELECT pg_try_advisory_lock({schema.APPLICATION_ID}, hashtext(:store))")
_PING = text("SELECT 1")
_LEADER = select(schema.meta.c.value).where(schema.meta.c.name == "leader")
# A collector whose machine is gone closes nothing: after half a minute the server drops its connection.
_KEEPALIVE = [
    text(f"SET {name} = {value}")
    for name, value in (("tcp_keepalives_idle", 15), ("tcp_keepalives_interval", 5), ("tcp_keepalives_count", 3))
]


class Standby:
    """What a collector that does not lead remembers: where its inventory may differ from what the leader recorded."""

    def __init__(self) -> None:
        self.touched: set[Place] = set()  # since `forget_touched`
        self.gone: set[Place] = set()  # nodes that its inventory has given up

    def note(self, nodes: Mapping[Place, NodeState | None]) -> None:
        """Note the nodes that a step touched; None: gone."""
        self.touched.update(nodes)
        self.gone.difference_update(nodes)
        self.gone.update(place for place, state in nodes.items() if state is None)

    def forget_touched(self) -> None:
        """Begin to note touched nodes from here on."""
        self.touched.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.touched.clear()
        self.gone.clear()


class Leadership:
    """The lock of one connection to the server, which gives it to another collector once that connection is gone.

    A collector may learn only later that its connection is gone. So a collector that gets the lock after another one
    writes down a new token, and `write` refuses a leader's transaction under any other. An SQLite file has one
    collector, which always leads.
    """

    def __init__(self, database: Database) -> None:
        self.held = database.single_process  # when it was last asked for
        self.recording = database.single_process  # what happens is recorded; else `standby` notes it
        self.token = secrets.token_hex(8)  # random, and this process's for as long as no other one leads
        self.standby = Standby()
        self._database = database
        self._connection: AsyncConnection | None = None
        self._asking = anyio.Lock()

    @property
    def leads(self) -> bool:
        """Whether this collector records and delivers."""
        return self.held and self.recording

    def begin(self) -> None:
        """Record from now on: the history has been brought in line with the inventory, or is about to be."""
        self.recording = True
        self.standby.clear()

    def stand_by(self) -> None:
        """Record nothing from now on: another collector does."""
        self.recording = self._database.single_process

    def hold(self) -> None:
        """Record nothing until the lead is taken: the store cannot be read yet."""
        self.recording = False

    @asynccontextmanager
    async def write(self, token: str | None = None) -> AsyncIterator[AsyncConnection]:
        """Lend a connection in a leader's transaction; raises StoreError.

        `token` is the one under which the work began (None: now). Raises LostLeadershipError when another collector has
        led since.
        """
        token = token or self.token
        async with self._database.write() as connection:
            if not self._database.single_process and await connection.scalar(_LEADER) != token:
                raise LostLeadershipError(f"store {self._database.location}: another collector leads now")
            yield connection

    async def ask(self) -> bool:
        """Take the lock, or make sure that it is still ours; False while another has it. Raises StoreError."""
        if self._database.single_process:
            await self._database.recover()
            self._database.check_file()
            return True
        async with self._asking:
            try:
                with self._database.shielded(ANSWER_SECONDS):
                    self.held = await self._still_held() or await self._taken()
            except StoreError:
                self.held = False
                await self._close()
                raise
            return self.held

    async def release(self) -> None:
        """Let another collector lead."""
        if not self._database.single_process:
            with anyio.CancelScope(shield=True):
                async with self._asking:
                    self.held = False
                    await self._close()

    async def _still_held(self) -> bool:
        """Return whether the connection that has the lock still lives."""
        if self._connection is None:
            return False
        try:
            await self._connection.execute(_PING)
        except FOREIGN:
            self.held = False
            await self._close()
            return False
        return True

    async def _taken(self) -> bool:
        connection = await self._database.lend()
        try:
            if not await connection.scalar(_TRY_LOCK, {"store": self._database.id}):
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
        """Write down who leads: after another collector under a new token, so that nothing from before is written."""
        async with self._database.write() as connection:
            if await connection.scalar(_LEADER) == self.token:
                return
            self.token = secrets.token_hex(8)
            self.stand_by()  # until what that collector recorded has been taken over
            row = self._database.insert(schema.meta).values(name="leader", value=self.token)
            await connection.execute(
                row.on_conflict_do_update(index_elements=["name"], set_={"value": row.excluded.value})
            )

    async def _close(self) -> None:
        """End the connection rather than give it back, for the lock is its session's."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with anyio.move_on_after(CLOSE_TIMEOUT_SECONDS, shield=True):
                try:
                    await connection.invalidate()
                    await connection.close()
                except FOREIGN:
                    log.debug("leader lock connection already closed")
