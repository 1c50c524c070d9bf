"""Leader election among collectors that share a PostgreSQL store: only the leader records and delivers.

All of leadership is here: the lease, the fencing token that every transaction of a leader proves, the start and end of
recording, and what a standby remembers until it takes over. The take-over itself needs the inventory, so its loop is
in the app.

With shards, each has its own lease, and one more is for tasks that exist once, such as delivery to the sinks. The lease
of an unsharded leader and those of shards exclude each other: one can be taken only when all of the other kind have
expired, and then their tokens become void, so that their previous holders cannot write.
"""

import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import msgspec
from sqlalchemy import Double, RowMapping, Update, bindparam, delete, false, literal_column, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.end_deadline import Stage
from collector.model import NodeState, Place
from collector.store import schema
from collector.store.database import Database
from collector.store.engines import execute_alone
from collector.store.errors import LostLeadershipError, StoreError
from collector.text import one_line

__all__ = [
    "DELIVERY",
    "LEADER",
    "LEASE_SECONDS",
    "LeadStatus",
    "Leadership",
    "Standby",
    "boot_clock",
    "is_valid",
    "shard_lease",
    "shard_of_lease",
]

LEADER = "leader"  # the lease of an installation without shards
DELIVERY = "delivery"  # the lease held by one of the shards, for tasks that exist once
_SHARD = "shard-"

LEASE_SECONDS = 15.0  # that a leader may be silent before another collector takes over
MARGIN_SECONDS = 1.0  # by which a leader stops before its lease expires
ANSWER_SECONDS = 5.0  # that the server has for an answer: two tries within a lease
STUCK_SECONDS = 5.0  # after which a writing transaction of a collector whose lease has expired is ended
STUCK_SHARD_SECONDS = 30.0  # likewise, where the transaction may be that of another shard that leads
TURN_SECONDS = 3.0  # that a shard waits for the transactions of others, when it takes a lease
RELEASE_TIMEOUT_SECONDS = 1.0
MAX_HOLDER_LENGTH = 100  # characters


def shard_lease(shard: int) -> str:
    """Return the name of a shard's lease."""
    return f"{_SHARD}{shard}"


def shard_of_lease(name: str) -> int | None:
    """Return the shard whose lease has this name; None if it is not a shard's."""
    number = name.removeprefix(_SHARD)
    return int(number) if number != name and number.isdecimal() else None


def boot_clock() -> float:
    """Return seconds of a clock that is never set, and that continues while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeadStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Which collector records and delivers, as seen by one of them."""

    leads: bool = True  # this collector
    has_leader: bool = True  # this one or another
    holder: str = ""  # holder of the lease, for users: host name and process; empty while it is free


class Standby:
    """A standby's notes on where its inventory may differ from the leader's records."""

    def __init__(self) -> None:
        self.touched: set[Place] = set()  # since `forget_touched`
        self.gone: set[Place] = set()  # nodes that its inventory has removed

    def note(self, nodes: Mapping[Place, NodeState | None]) -> None:
        """Note the nodes affected by a step; None: gone."""
        self.touched.update(nodes)
        self.gone.difference_update(nodes)
        self.gone.update(place for place, state in nodes.items() if state is None)

    def forget_touched(self) -> None:
        """Start noting affected nodes from now on."""
        self.touched.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.touched.clear()
        self.gone.clear()


class Leadership:
    """A lease: a row that its holder renews, and that another collector may take after it has expired.

    Expiry is by the server's clock. A leader that could not renew the lease stops slightly earlier, by its own clock.
    But it may notice the expiry late, so a collector that takes the lease from another one writes a new token, and
    `write` rejects a leader's transaction under any other. No state is kept in a session of the server: each request
    may use a different connection. An SQLite file has only one collector, which always leads.
    """

    def __init__(
        self,
        database: Database,
        *,
        name: str = LEADER,
        holder: str | None = None,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self.name = name
        self.recording = database.single_process  # steps are recorded; otherwise `standby` notes them
        self.token = secrets.token_hex(8)  # random, and kept by this process until another one leads
        self.standby = Standby()
        self._database = database
        self._clock = clock
        self._me = one_line(holder or f"{socket.gethostname()} (pid {os.getpid()})", MAX_HOLDER_LENGTH)
        self._holder = ""  # another collector that had the lease at the last request
        self._held_until = float("inf") if database.single_process else float("-inf")  # on `clock`
        self._led_at = clock()  # when any collector was last known to lead
        self._asking = anyio.Lock()

    @property
    def held(self) -> bool:
        """Whether the lease is this collector's."""
        return self._clock() < self._held_until

    @property
    def leads(self) -> bool:
        """Whether this collector records and delivers."""
        return self.recording and self.held

    @property
    def status(self) -> LeadStatus:
        """Which collector leads; none if none has been seen leading for the length of a lease."""
        leads = self.leads
        has_leader = leads or self._clock() - self._led_at <= LEASE_SECONDS
        return LeadStatus(leads=leads, has_leader=has_leader, holder=self._me if leads else self._holder)

    def begin(self) -> None:
        """Start recording: the history has been brought in line with the inventory, or is about to be."""
        self.recording = True
        self.standby.clear()

    def stand_by(self) -> None:
        """Stop recording: another collector records."""
        self.recording = self._database.single_process

    def hold(self) -> None:
        """Record nothing until the lease is taken: the store cannot be read yet, so no collector leads."""
        self.recording = False
        self._holder, self._led_at = "", float("-inf")

    @asynccontextmanager
    async def write(self, token: str | None = None) -> AsyncIterator[AsyncConnection]:
        """Lend a connection in a leader's transaction; raises StoreError.

        `token` is the one under which the work began (None: the current one). Raises LostLeadershipError if another
        collector has led since.
        """
        token = token or self.token
        async with self._database.write() as connection:
            if not self._database.single_process and await connection.scalar(_TOKEN, {"b_name": self.name}) != token:
                raise LostLeadershipError(f"store {self._database.location}: another collector leads now")
            yield connection

    async def execute(self, statement: Update, values: Mapping[str, Any]) -> int:
        """Run one statement as a leader's transaction; returns how many rows it changed. Raises StoreError."""
        if self._database.single_process:
            async with self._database.write(begin=False) as connection:
                return await execute_alone(connection, statement, values)
        async with self.write() as connection:
            return int((await connection.execute(statement, values)).rowcount)

    async def ask(self) -> bool:
        """Renew the lease, or take it if it is free; False while another collector holds it. Raises StoreError."""
        if self._database.single_process:
            await self._database.recover()
            self._database.check_file()
            return True
        async with self._asking:
            asked = self._clock()
            async with self._database.lease(ANSWER_SECONDS) as connection:
                row, ours = await self._renewed(connection), True
                if row is None:
                    row = (await connection.execute(_SEEN, {"b_name": self.name})).mappings().first()
                    ours = row is None or not row["valid"]
                    if ours:
                        row, ours = await self._taken(connection)
            self._note(row, asked if ours else None)
            return self.held

    async def release(self) -> None:
        """Release the lease, so that another collector can lead immediately."""
        if self._database.single_process:
            return
        with anyio.CancelScope(shield=True):
            async with self._asking:
                held, self._held_until = self.held, float("-inf")
                if held:
                    seconds = min(RELEASE_TIMEOUT_SECONDS, self._database.end.left(Stage.RELEASE))
                    with suppress(StoreError):  # otherwise it expires
                        async with self._database.lease(seconds, last=True) as connection:
                            await connection.execute(_RELEASE, {"b_name": self.name, "b_own": self.token})

    async def _renewed(self, connection: AsyncConnection) -> RowMapping | None:
        """Renew the lease if no other collector has held it since; None if one has."""
        values = {"b_name": self.name, "b_holder": self._me, "b_own": self.token, "b_recording": self.recording}
        return (await connection.execute(_RENEW, values)).mappings().first()

    async def _taken(self, connection: AsyncConnection) -> tuple[RowMapping | None, bool]:
        """Take a lease that is free, in one statement.

        Returns the current holder's row, and whether that may be this collector; None if another one was faster.

        It waits for a transaction of the previous leader to end, so that its last write comes first.
        """
        if not await self._has_turn(connection):
            seconds = STUCK_SECONDS if self.name == LEADER else STUCK_SHARD_SECONDS
            await connection.execute(_END_STUCK, {"seconds": seconds})
            return None, True
        rivals = _leases.name != LEADER if self.name == LEADER else _leases.name == LEADER
        first = select(*_COLUMNS).where(rivals, _VALID).order_by(_leases.name).limit(1)  # the same one each time
        rival = (await connection.execute(first)).mappings().first()
        if rival is not None:
            return rival, False
        values = {"name": self.name, "holder": self._me, "token": secrets.token_hex(8), "expires": _EXPIRY}
        row = self._database.insert(schema.leases).values(**values, recording=False)
        taking = row.on_conflict_do_update(
            index_elements=["name"],
            set_={key: row.excluded[key] for key in ("holder", "token", "expires", "recording")},
            where=~_VALID,
        )
        taken = (await connection.execute(taking.returning(*_COLUMNS))).mappings().first()
        if taken is not None:
            await connection.execute(update(schema.leases).where(rivals).values(token=secrets.token_hex(8)))
            if self.name == LEADER:  # the shards' reports on clusters are no longer updated from now on
                await connection.execute(delete(schema.clusters))
        return taken, True

    async def _has_turn(self, connection: AsyncConnection) -> bool:
        """Return whether nobody else is in the middle of a writing transaction; shards wait a little for each other."""
        if self.name == LEADER:
            return bool(await connection.scalar(_TRY_TURN))
        try:  # in the queue, because while others write without a pause the lock is never found free
            async with connection.begin_nested():
                await connection.execute(_LIMIT_WAITING)
                await connection.execute(_TAKE_TURN)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != _NO_LOCK_IN_TIME:
                raise
            return False
        return True

    def _note(self, row: RowMapping | None, asked: float | None) -> None:
        """Note the lease's holder; `asked` is when it was requested, if this collector may hold it now."""
        if row is None:
            self._holder, self._held_until = "", float("-inf")
            return
        # A collector is not its own standby while it takes over or could not renew its lease.
        self._holder = "" if asked is not None else one_line(row["holder"], MAX_HOLDER_LENGTH)
        if asked is None:
            self._held_until = float("-inf")
            self.stand_by()  # the other collector has recorded what this one did not write
        else:
            if row["token"] != self.token:
                self.token = row["token"]
                self.stand_by()  # until the previous leader's records have been taken over
            self._held_until = asked + LEASE_SECONDS - MARGIN_SECONDS
        if row["recording"]:
            self._led_at = self._clock()


_leases = schema.leases.c
_NOW = literal_column("CAST(extract(epoch FROM clock_timestamp()) AS double precision)", Double)
_EXPIRY = _NOW + LEASE_SECONDS
# A lease that expires much later than one taken now was written before the server's clock was set back.
_VALID = _leases.expires.between(_NOW, _EXPIRY + LEASE_SECONDS)
is_valid = _VALID
_COLUMNS = (_leases.holder, _leases.token, _leases.recording)
_HERE = _leases.name == bindparam("b_name")
_SEEN = select(*_COLUMNS, _VALID.label("valid")).where(_HERE)
_TOKEN = select(_leases.token).where(_HERE)
_RENEW = (
    update(schema.leases)
    .where(_HERE, _leases.token == bindparam("b_own"))
    .values(holder=bindparam("b_holder"), expires=_EXPIRY, recording=bindparam("b_recording"))
    .returning(*_COLUMNS)
)
_RELEASE = (
    update(schema.leases).where(_HERE, _leases.token == bindparam("b_own")).values(expires=0.0, recording=false())
)
# If a leader froze while preparing a statement, the server considers it active, and no idle timeout applies.
_END_STUCK = text(
    "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'advisory' AND classid = 0 AND objid = :turn AND granted"
    " AND datname = current_database() AND pg_locks.database = datid AND usename = current_user"
    " AND xact_start < clock_timestamp() - make_interval(secs => :seconds)"
).bindparams(turn=schema.APPLICATION_ID)
_NO_LOCK_IN_TIME = "55P03"  # PostgreSQL's state
_LIMIT_WAITING = text(f"SELECT set_config('lock_timeout', '{TURN_SECONDS}s', true)")
_TAKE_TURN = text(f"SELECT pg_advisory_xact_lock({schema.APPLICATION_ID})")
_TRY_TURN = text(f"SELECT pg_try_advisory_xact_lock({schema.APPLICATION_ID})")
