"""Takes down what happens on the event loop and commits it in the background, each batch in one transaction."""

import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from sqlalchemy import Executable, Text, bindparam, delete, exists, func, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.inventory import NodeSnapshot
from collector.model import Change, Place, Reading, SinkRecord
from collector.store import schema
from collector.store.codec import encode_node, encode_records, readings_records
from collector.store.database import Database
from collector.store.errors import LostLeadershipError, StoreError
from collector.store.plan import OpenPlacement, Plan, differences, plan

__all__ = ["HistoryWriter", "StoreStatus"]

log = logging.getLogger(__name__)

PENDING_LIMIT = 500_000  # changes and records that may wait in memory, some 200 MB
_ROWS = 500  # of one statement; the driver prepares them on the event loop, in a few milliseconds
_FIRST_RETRY, _LONGEST_RETRY = 0.5, 30.0  # seconds
_LAST_COMMIT = 5.0  # seconds that the end of the process waits for


class StoreStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whether what happens gets recorded and, if not, why in one line without secrets."""

    up: bool = True
    since: float = 0.0  # Unix seconds of the last change of `up`
    message: str = ""
    lost: int = 0  # changes and records given up for want of memory since the start


class HistoryWriter:
    """The one way into the history.

    What happens is taken down at once and committed as soon as the commit before is done, all of it together: the
    inventory's nodes, the history, and what the sinks are owed. While commits fail everything stays in memory. Past
    `limit` changes and records the single steps are given up: the next commit then records, as changes, the
    difference between what the history holds and where the GPUs are by then.

    That is so while it `leads`. Of a standby's nodes only the names are noted: `touched` since it last was emptied, and
    `gone` those that the inventory has given up.
    """

    def __init__(
        self,
        database: Database,
        *,
        limit: int = PENDING_LIMIT,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.wants_readings = False  # whether some sink wants all GPUs of each reading
        self.committed = anyio.Event()  # set, and replaced, by each commit
        self.leads = database.alone
        self.touched: set[Place] = set()
        self.gone: set[Place] = set()
        self.status = StoreStatus(since=clock())
        self._troubles: dict[str, str] = {}  # what cannot be done, and why
        self._database = database
        self._limit = limit
        self._clock = clock
        self._sleep = sleep
        self._pending = _Batch()
        self._under_way: _Batch | None = None
        self._work = anyio.Event()
        self._taken = 0  # how many calls of `record` there were, and how many of them are committed
        self._done = 0
        self._numbers = itertools.count(1)

    @property
    def pending(self) -> int:
        """How many changes and records wait to be committed."""
        return self._pending.size + (self._under_way.size if self._under_way else 0)

    def record(
        self,
        nodes: Mapping[Place, NodeSnapshot | None],
        changes: Sequence[Change] = (),
        reading: Reading | None = None,
    ) -> None:
        """Take down what one step of the inventory did: the nodes it touched (None: gone) and the changes it made.

        `reading` is what caused it, if that was a reading.
        """
        if not self.leads:
            self.touched.update(nodes)
            self.gone.difference_update(nodes)
            self.gone.update(place for place, snapshot in nodes.items() if snapshot is None)
            return
        batch = self._pending
        batch.nodes.update(nodes)
        records = readings_records(reading, changes) if reading is not None and self.wants_readings else []
        if batch.gap or self.pending + len(changes) + len(records) > self._limit:
            self._give_up(len(changes) + len(records))
        else:
            batch.changes.extend(changes)
            if reading is not None and records:
                batch.readings.append((reading.time, records))
            batch.size += len(changes) + len(records)
        self._taken += 1
        self._work.set()

    def forget_ghosts(self, cluster: str) -> None:
        """Forget where GPUs that are nowhere were last, if that was in this cluster, which is removed."""
        if self.leads:
            self._pending.forgotten.add(cluster)
            self._taken += 1
            self._work.set()

    def lead(self, nodes: Mapping[Place, NodeSnapshot | None]) -> None:
        """Record from now on; first, as changes, how these nodes (None: gone) differ from what the history holds."""
        self.leads = True
        self.touched.clear()
        self.gone.clear()
        if nodes:
            self._taken += 1
            self._under_way = _Batch(nodes, gap=True, goal=self._taken, number=next(self._numbers))
            self._work.set()

    def stand_by(self) -> None:
        """Record nothing any more, nor what waits: another collector of the same clusters does."""
        self.leads = False
        self._pending, self._under_way = _Batch(), None
        self._done = self._taken
        self.succeeded("commit")
        self._tell()

    def failed(self, what: str, message: str) -> None:
        """Note that something cannot be done with the store at present: a commit, the lead or the outbox."""
        if message not in self._troubles.values():
            log.error("the store cannot be used: %s", message)
        self._troubles[what] = message
        self._judge()

    def succeeded(self, what: str) -> None:
        """Note that it can be done again."""
        if self._troubles.pop(what, None) is not None:
            self._judge()

    async def durable(self, timeout: float) -> bool:
        """Wait until all that was taken down so far is committed; False when it is not by then, or commits fail."""
        goal = self._taken
        with anyio.move_on_after(timeout):
            while self._done < goal and self.status.up:
                await self.committed.wait()
        return self._done >= goal

    async def run(self) -> None:
        """Commit until cancelled, and then once more."""
        try:
            while True:
                await self._work.wait()
                self._work = anyio.Event()
                await self._commit_all()
        finally:
            with anyio.move_on_after(_LAST_COMMIT, shield=True):
                await self._commit_all()

    async def _commit_all(self) -> None:
        """Commit until nothing waits; a failure is told by the status and tried again."""
        while self._under_way is not None or self._done < self._taken:
            if self._under_way is None:
                self._under_way, self._pending = self._pending, _Batch()
                self._under_way.goal, self._under_way.number = self._taken, next(self._numbers)
            batch = self._under_way
            for attempt in itertools.count():
                try:
                    await self._commit(batch)
                    break
                except LostLeadershipError:
                    if self._under_way is batch:
                        self.stand_by()
                    break
                except StoreError as error:
                    self.failed("commit", str(error))
                except Exception as error:
                    log.exception("a commit failed unexpectedly and is tried again")
                    self.failed("commit", f"store {self._database.location}: {type(error).__name__}")
                await self._sleep(min(_FIRST_RETRY * 2 ** min(attempt, 16), _LONGEST_RETRY))
                if self._under_way is not batch:  # another collector led meanwhile
                    break
            if self._under_way is batch:
                self._done, self._under_way = batch.goal, None
                self.succeeded("commit")
                self._tell()

    def _judge(self) -> None:
        before, up = self.status, not self._troubles
        since = before.since if before.up is up else self._clock()
        message = next(iter(self._troubles.values()), "")
        self.status = msgspec.structs.replace(before, up=up, since=since, message=message)
        if up:
            log.info("the store takes what happens again")
        self._tell()

    def _tell(self) -> None:
        event, self.committed = self.committed, anyio.Event()
        event.set()

    def _give_up(self, more: int) -> None:
        batch = self._pending
        if not batch.gap:
            log.error("too much waits for the store: of what happens now only the outcome will be recorded")
        self.status = msgspec.structs.replace(self.status, lost=self.status.lost + batch.size + more)
        batch.gap, batch.size = True, 0
        batch.changes.clear()
        batch.readings.clear()

    async def _commit(self, batch: "_Batch") -> None:
        nodes = await anyio.to_thread.run_sync(_node_rows, batch.nodes)
        async with self._database.write(leading=True) as connection:
            if not await self._first_time(connection, batch.number):
                return
            if batch.gap:
                before = await _open_placements(connection, batch.nodes)
                steps = plan(differences(before, batch.nodes, self._clock()), everywhere=False)
            else:
                steps = await anyio.to_thread.run_sync(plan, batch.changes)
            await self._write_history(connection, steps)
            if batch.forgotten:
                await connection.execute(delete(schema.ghosts).where(schema.ghosts.c.cluster.in_(batch.forgotten)))
            await self._write_nodes(connection, batch, nodes)
            rows = [
                {"time": time, "count": len(records), "records": encode_records(records)}
                for time, records in batch.readings
            ]
            await _each(connection, insert(schema.readings), rows)

    async def _first_time(self, connection: AsyncConnection, number: int) -> bool:
        """Note a batch's number with it: when the answer to a commit is lost, the next try tells whether it held."""
        row = {"name": "commit", "value": f"{self._database.session}:{number}"}
        if await connection.scalar(select(schema.facts.c.value).where(schema.facts.c.name == "commit")) == row["value"]:
            return False
        statement = self._database.insert(schema.facts).values(row)
        await connection.execute(
            statement.on_conflict_do_update(index_elements=["name"], set_={"value": statement.excluded.value})
        )
        return True

    async def _write_history(self, connection: AsyncConnection, steps: Plan) -> None:
        await _each(connection, _ALTER, steps.alter)
        await _each(connection, _END, steps.end)
        await _each(connection, _END_ALL, steps.end_all)
        await _each(connection, insert(schema.placements), steps.begin)
        await _each(connection, insert(schema.changes), steps.changes)
        await _each(connection, _LAY, steps.arrived)
        haunt = self._database.insert(schema.ghosts).from_select(["uuid", "cluster", "node"], _GHOST)
        haunt = haunt.on_conflict_do_update(
            index_elements=["uuid"], set_={"cluster": haunt.excluded.cluster, "node": haunt.excluded.node}
        )
        await _each(connection, haunt, steps.vanished)

    async def _write_nodes(self, connection: AsyncConnection, batch: "_Batch", rows: list[dict[str, Any]]) -> None:
        gone = [
            {"b_cluster": place.cluster, "b_node": place.node}
            for place, snapshot in batch.nodes.items()
            if snapshot is None
        ]
        await _each(connection, _REMOVE, gone)
        statement = self._database.insert(schema.nodes)
        statement = statement.on_conflict_do_update(
            index_elements=["cluster", "node"],
            set_={"read_at": statement.excluded.read_at, "snapshot": statement.excluded.snapshot},
        )
        await _each(connection, statement, rows)


class _Batch:
    """What one transaction writes."""

    def __init__(
        self,
        nodes: Mapping[Place, NodeSnapshot | None] = {},
        *,
        gap: bool = False,
        goal: int = 0,
        number: int = 0,
    ) -> None:
        self.nodes: dict[Place, NodeSnapshot | None] = dict(nodes)
        self.changes: list[Change] = []
        self.readings: list[tuple[float, list[SinkRecord]]] = []
        self.forgotten: set[str] = set()  # clusters whose ghosts are
        self.size = 0  # changes and records
        self.gap = gap  # the changes are lost, and have to be found from the nodes
        self.goal = goal  # how many calls of `record` are in it or before it
        self.number = number


_placements, _nodes = schema.placements.c, schema.nodes.c
_OPEN_HERE = (
    _placements.uuid == bindparam("b_uuid"),
    _placements.cluster == bindparam("b_cluster"),
    _placements.node == bindparam("b_node"),
    _placements.until.is_(None),
)
_ALTER = (
    update(schema.placements)
    .where(*_OPEN_HERE)
    .values(  # a fact that a reading lacks for once keeps its last known value
        {
            name: func.coalesce(bindparam(f"b_{name}", type_=Text), _placements[name])
            for name in ("serial", "chassis", "model")
        }
    )
)
_ENDED = {
    "until": bindparam("b_until"),
    "confirmed": func.coalesce(
        select(_nodes.read_at)
        .where(_nodes.cluster == _placements.cluster, _nodes.node == _placements.node)
        .scalar_subquery(),
        _placements.confirmed,
    ),
}
_END = update(schema.placements).where(*_OPEN_HERE).values(_ENDED)
_END_ALL = (
    update(schema.placements).where(_placements.uuid == bindparam("b_uuid"), _placements.until.is_(None)).values(_ENDED)
)
_LAY = delete(schema.ghosts).where(schema.ghosts.c.uuid == bindparam("b_uuid"))
_GHOST = select(
    bindparam("b_uuid", type_=Text), bindparam("b_cluster", type_=Text), bindparam("b_node", type_=Text)
).where(~exists().where(_placements.uuid == bindparam("b_uuid"), _placements.until.is_(None)))
_REMOVE = delete(schema.nodes).where(_nodes.cluster == bindparam("b_cluster"), _nodes.node == bindparam("b_node"))


async def _each(connection: AsyncConnection, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
    for start in range(0, len(rows), _ROWS):
        await connection.execute(statement, rows[start : start + _ROWS])


def _node_rows(nodes: Mapping[Place, NodeSnapshot | None]) -> list[dict[str, Any]]:
    return [
        {"cluster": place.cluster, "node": place.node, "read_at": node.time, "snapshot": encode_node(node)}
        for place, node in nodes.items()
        if node is not None
    ]


async def _open_placements(connection: AsyncConnection, places: Iterable[Place]) -> list[OpenPlacement]:
    columns = (_placements.uuid, _placements.serial, _placements.chassis, _placements.model, _placements.since)
    keys = [(place.node, place.cluster) for place in places]
    found = []
    for start in range(0, len(keys), _ROWS):
        rows = await connection.execute(
            select(*columns, _placements.cluster, _placements.node).where(
                tuple_(_placements.node, _placements.cluster).in_(keys[start : start + _ROWS]),
                _placements.until.is_(None),
            )
        )
        found += [OpenPlacement(*row[:4], place=Place(row[5], row[6]), since=row[4]) for row in rows]
    return found
