"""Which of the collectors that share a PostgreSQL store leads, that is records and delivers: one at a time.

All of leadership is here: the lease, the fencing token that a leader's every transaction proves, when recording begins
and ends, and what a standby remembers until it takes over. The take-over itself needs the inventory, so its loop is the
app's.

Where a store has shards, each has a lease of its own, and one more is for what exists once, such as the delivery to the
sinks. The lease of an unsharded leader and those of shards exclude each other: one can be taken only when all of the
other kind have expired, and then their tokens become void, so that whoever held them before writes nothing.
"""

import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress

import anyio
import msgspec
from sqlalchemy import Double, RowMapping, bindparam, delete, false, literal_column, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.end_deadline import Stage
from collector.model import NodeState, Place
from collector.store import schema
from collector.store.database import Database
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
DELIVERY = "delivery"  # the lease of one of the shards, for what exists once
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
    """Return the shard whose lease has this name; None for another lease."""
    number = name.removeprefix(_SHARD)
    return int(number) if number != name and number.isdecimal() else None


def boot_clock() -> float:
    """Return seconds on a clock that is never set, and that also counts while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeadStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Who records and delivers, as one collector sees it."""

    leads: bool = True  # this collector
    has_leader: bool = True  # it or another one
    holder: str = ""  # of the lease, for people: host name and process; empty while nobody has it


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
    """A lease: a row that its holder renews, and that another collector may take once it has expired.

    The server's clock says when. A leader that could not renew it stops by itself a little earlier, by a clock of its
    own. But it may learn late that its time was over, so a collector that takes the lease after another one writes down
    a new token, and `write` refuses a leader's transaction under any other. Nothing is kept in a session of the server:
    each question may reach it through another connection. An SQLite file has one collector, which always leads.
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
        self.recording = database.single_process  # what happens is recorded; else `standby` notes it
        self.token = secrets.token_hex(8)  # random, and this process's for as long as no other one leads
        self.standby = Standby()
        self._database = database
        self._clock = clock
        self._me = one_line(holder or f"{socket.gethostname()} (pid {os.getpid()})", MAX_HOLDER_LENGTH)
        self._holder = ""  # another collector that had the lease when it was last asked for
        self._held_until = float("inf") if database.single_process else float("-inf")  # on `clock`
        self._led_at = clock()  # when somebody was last known to lead
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
        """Who leads; nobody does when for the length of a lease no collector was seen to."""
        leads = self.leads
        has_leader = leads or self._clock() - self._led_at <= LEASE_SECONDS
        return LeadStatus(leads=leads, has_leader=has_leader, holder=self._me if leads else self._holder)

    def begin(self) -> None:
        """Record from now on: the history has been brought in line with the inventory, or is about to be."""
        self.recording = True
        self.standby.clear()

    def stand_by(self) -> None:
        """Record nothing from now on: another collector does."""
        self.recording = self._database.single_process

    def hold(self) -> None:
        """Record nothing until the lead is taken: the store cannot be read yet, and so nobody leads."""
        self.recording = False
        self._holder, self._led_at = "", float("-inf")

    @asynccontextmanager
    async def write(self, token: str | None = None) -> AsyncIterator[AsyncConnection]:
        """Lend a connection in a leader's transaction; raises StoreError.

        `token` is the one under which the work began (None: now). Raises LostLeadershipError when another collector has
        led since.
        """
        token = token or self.token
        async with self._database.write() as connection:
            if not self._database.single_process and await connection.scalar(_TOKEN, {"b_name": self.name}) != token:
                raise LostLeadershipError(f"store {self._database.location}: another collector leads now")
            yield connection

    async def ask(self) -> bool:
        """Renew the lease, or take it if it is free; False while another collector has it. Raises StoreError."""
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
        """Let another collector lead at once."""
        if self._database.single_process:
            return
        with anyio.CancelScope(shield=True):
            async with self._asking:
                held, self._held_until = self.held, float("-inf")
                if held:
                    seconds = min(RELEASE_TIMEOUT_SECONDS, self._database.end.left(Stage.RELEASE))
                    with suppress(StoreError):  # then it expires
                        async with self._database.lease(seconds, last=True) as connection:
                            await connection.execute(_RELEASE, {"b_name": self.name, "b_own": self.token})

    async def _renewed(self, connection: AsyncConnection) -> RowMapping | None:
        """Renew the lease if nobody else has had it since; None if somebody has."""
        values = {"b_name": self.name, "b_holder": self._me, "b_own": self.token, "b_recording": self.recording}
        return (await connection.execute(_RENEW, values)).mappings().first()

    async def _taken(self, connection: AsyncConnection) -> tuple[RowMapping | None, bool]:
        """Take a lease that is free, in one statement.

        Returns the row of whoever has it now, and whether that may be this collector; None if another one was faster.

        Not in the middle of a transaction of the leader before: whatever that one writes, it writes before.
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
            if self.name == LEADER:  # what shards say of the clusters is not kept up to date from now on
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
        """Record the lease's holder; `asked` is when it was requested, if this collector may hold it now."""
        if row is None:
            self._holder, self._held_until = "", float("-inf")
            return
        # This collector does not stand by for itself, while it takes over or could not renew its lease.
        self._holder = "" if asked is not None else one_line(row["holder"], MAX_HOLDER_LENGTH)
        if asked is None:
            self._held_until = float("-inf")
            self.stand_by()  # what this collector did not write yet, the other one has recorded
        else:
            if row["token"] != self.token:
                self.token = row["token"]
                self.stand_by()  # until what the leader before recorded has been taken over
            self._held_until = asked + LEASE_SECONDS - MARGIN_SECONDS
        if row["recording"]:
            self._led_at = self._clock()


_leases = schema.leases.c
_NOW = literal_column("CAST(extract(epoch FROM clock_timestamp()) AS double precision)", Double)
_EXPIRY = _NOW + LEASE_SECONDS
# One that expires much later than a lease that is taken now was written before the server's clock was set back.
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
# A leader that froze while it prepared a statement is busy to the server, which then has no limit for its silence.
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
