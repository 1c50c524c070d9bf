"""One commit of the history: its content, and its effect on the tables."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import anyio.to_thread
import msgspec
from sqlalchemy import Double, Executable, Text, bindparam, case, delete, exists, func, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.marks import NO_MARKS, Marks
from collector.model import NO_UUIDS, Change, Event, Gpu, NodeState, Place, SinkRecord
from collector.store import schema
from collector.store.altered import note_alterations
from collector.store.checkpoints import recount_from
from collector.store.codec import decode_node, encode_node, encode_records
from collector.store.compact_rows import insert_compact
from collector.store.database import Database
from collector.store.first_sights import add_first_sights
from collector.store.identifiers import Uuid
from collector.store.plan import (
    SEAT_COLUMNS,
    Away,
    Departure,
    OpenPlacement,
    Plan,
    Recorded,
    arriving,
    differences,
    plan,
)
from collector.store.previous import correct_previous
from collector.store.previous_health import correct_previous_health
from collector.store.shards import LostClustersError, ShardStore, encode_unread
from collector.store.snapshots import deflated
from collector.store.sound import moment, optional_text, sound_facts, sound_last_known, text

__all__ = ["Commit", "Unstored", "recorded"]

ROWS_PER_STATEMENT = 500  # rows per statement: the driver prepares them on the event loop, in a few milliseconds


class Unstored(NamedTuple):
    """Numbers of changes, and of records of readings for the sinks, that are not in the store."""

    changes: int = 0
    records: int = 0

    def plus(self, changes: int, records: int) -> "Unstored":
        """Return the sum of both."""
        return Unstored(self.changes + changes, self.records + records)


class Commit:
    """The content of one transaction: nodes in their latest state, and changes of GPUs since the previous one."""

    def __init__(
        self,
        token: str,
        nodes: Mapping[Place, NodeState | None] = {},
        *,
        gap: bool = False,
        left: Mapping[str, Departure] = {},
        goal: int = 0,
        number: int = 0,
        shards: ShardStore | None = None,
    ) -> None:
        self.token = token  # the leader's token at the time of the first step
        self.nodes: dict[Place, NodeState | None] = dict(nodes)  # None: gone
        self.changes: list[Change] = []
        self.readings: list[tuple[float, list[SinkRecord]]] = []  # Unix seconds, and the records of the reading
        self.removed_clusters: set[str] = set()  # clusters whose absent GPUs are forgotten
        self.size = 0  # changes and records
        self.dropped = Unstored()  # dropped to limit memory
        self.gap = gap  # changes are missing and must be derived from the nodes
        self.left = dict(left)  # known departures of GPUs from their last nodes, by UUID
        self.goal = goal  # number of steps up to and including this commit
        self.number = number  # number among this process's commits
        self.lost: set[str] = set()  # clusters owned by another shard, about which nothing more may be written
        self.answers: dict[Place, int] = {}  # other shards' questions that the nodes answer
        self._shards = shards
        self._node_rows: list[dict[str, Any]] | None = None
        self._planned: Plan | None = None

    def drop_changes(self) -> int:
        """Drop the changes and keep only where the GPUs are; returns how many were dropped."""
        dropped, self.gap, self.size = self.size, True, 0
        self.note_departures(self.changes)
        self.dropped = self.unstored
        self.changes.clear()
        self.readings.clear()
        return dropped

    def lose(self, clusters: AbstractSet[str]) -> None:
        """Stop writing about some clusters; call `forget_lost` afterwards, when nothing is preparing or writing."""
        self.lost |= clusters

    def forget_lost(self) -> None:
        """Drop the rows of lost clusters; a prepared commit must be prepared again."""
        if not self.lost:
            return
        lost, self.lost = self.lost, set()
        self.nodes = {place: node for place, node in self.nodes.items() if place.cluster not in lost}
        self.changes = [change for change in self.changes if change.place.cluster not in lost]
        self.answers = {place: number for place, number in self.answers.items() if place.cluster not in lost}
        self.readings = [
            (time, records)
            for time, records in self.readings
            if not records or records[0].cluster not in lost  # all are of the same node
        ]
        self.removed_clusters -= lost
        self.size = len(self.changes) + sum(len(records) for _, records in self.readings)
        self._node_rows = self._planned = None

    @property
    def clusters(self) -> set[str]:
        """The clusters about which it writes something."""
        found = {place.cluster for place in self.nodes} | self.removed_clusters
        return found | {change.place.cluster for change in self.changes}

    def note_departures(self, changes: Iterable[Change]) -> None:
        """Keep the departures from changes that are dropped, with the state of the GPUs."""
        for change in changes:
            if change.event is Event.VANISHED:
                read = change.time if change.confirmed is None else change.confirmed
                self.left[change.gpu.uuid] = Departure(change.place, change.time, read, change.gpu, change.lost)

    @property
    def unstored(self) -> Unstored:
        """The data lost if it is never written."""
        return self.dropped.plus(len(self.changes), sum(len(records) for _, records in self.readings))

    async def prepare(self, database: Database, now: float, marks: Marks = NO_MARKS) -> None:
        """Encode and plan, in threads and before the transaction; nothing may be added after that.

        `now` (Unix seconds) is when a difference counts as noticed; `marks` are the active ones. Raises StoreError.
        """
        if self._node_rows is None:
            self._node_rows = await anyio.to_thread.run_sync(
                _encode_nodes, self.nodes, self._shards is not None, database.single_process
            )
        if self._planned is None and self.gap:
            # The data read here is valid until the write, which proves that no other process has written.
            found = await recorded(database, self.nodes)
            changes = await anyio.to_thread.run_sync(differences, found, self.nodes, now, self.left)
            self._planned = await anyio.to_thread.run_sync(_plan, changes, marks, False, self._owned)
        elif self._planned is None:
            self._planned = await anyio.to_thread.run_sync(_plan, self.changes, marks, True, self._owned)

    @property
    def _owned(self) -> frozenset[str] | None:
        return None if self._shards is None else frozenset(self._shards.owned - self._shards.lost)

    async def write(self, connection: AsyncConnection, database: Database) -> None:
        """Write everything in the connection's transaction; a repeated call writes nothing.

        Call `prepare` first.
        """
        assert self._node_rows is not None  # noqa: S101
        assert self._planned is not None  # noqa: S101
        version = 0
        if self._shards is not None:
            version = await self._shards.begin(connection, self.clusters)
            if self.lost:  # while it waited for its turn, though they may have been taken back: what it has is old
                raise LostClustersError(self.lost)
        if not await self._first_time(connection, database):
            return
        planned = self._planned
        if self._owned is not None:
            rows = await correct_previous(connection, planned.changes, self._owned)
            rows = await correct_previous_health(connection, rows, planned.arrivals, self._owned)
            planned = planned._replace(changes=rows)
        await _write_history(connection, database, planned)
        if self.removed_clusters:
            await connection.execute(delete(schema.absent).where(schema.absent.c.cluster.in_(self.removed_clusters)))
        await self._write_nodes(connection, database, self._node_rows, version)
        if self._shards is not None:
            await self._shards.note_answers(connection, self.answers, version)
        rows = [
            {"time": time, "count": len(records), "records": encode_records(records)} for time, records in self.readings
        ]
        await _execute_many(connection, insert(schema.readings), rows)

    async def _first_time(self, connection: AsyncConnection, database: Database) -> bool:
        """Store the commit's number with it: after a lost response, the next attempt knows whether it succeeded."""
        name = "commit" if self._shards is None else f"commit {self._shards.lease}"
        row = {"name": name, "value": f"{self.token}:{self.number}"}
        if await connection.scalar(select(schema.meta.c.value).where(schema.meta.c.name == name)) == row["value"]:
            return False
        statement = database.insert(schema.meta).values(row)
        await connection.execute(
            statement.on_conflict_do_update(index_elements=["name"], set_={"value": statement.excluded.value})
        )
        return True

    async def _write_nodes(
        self, connection: AsyncConnection, database: Database, rows: Sequence[Mapping[str, Any]], version: int
    ) -> None:
        gone = [
            {"b_cluster": place.cluster, "b_node": place.node} for place, node in self.nodes.items() if node is None
        ]
        await _execute_many(connection, _REMOVE_NODE, gone)
        statement = database.insert(schema.nodes)
        columns = ["read_at", "snapshot"]
        if self._shards is not None:
            columns += ["version", "unread"]
            rows = [{**row, "version": version} for row in rows]
            if clusters := {row["b_cluster"] for row in gone}:
                await self._shards.note_removed(connection, clusters, version)
        statement = statement.on_conflict_do_update(
            index_elements=["cluster", "node"], set_={name: statement.excluded[name] for name in columns}
        )
        await _execute_many(connection, statement, rows)


_placements, _nodes, _changes = schema.placements.c, schema.nodes.c, schema.changes.c
_OPEN_HERE = (
    _placements.uuid == bindparam("b_uuid"),
    _placements.cluster == bindparam("b_cluster"),
    _placements.node == bindparam("b_node"),
    _placements.until.is_(None),
)
_ALTER = (
    update(schema.placements)
    .where(*_OPEN_HERE)
    .values(  # a value missing in one reading is kept as last known
        {
            name: func.coalesce(bindparam(f"b_{name}", type_=Text), _placements[name])
            for name in ("serial", "chassis", "model", *SEAT_COLUMNS)
        }
        | {"last_known": bindparam("b_last_known", type_=Text)}
    )
)
_UNTIL = bindparam("b_until", type_=Double)
_ENDED = {
    "until": case((_placements.since > _UNTIL, _placements.since), else_=_UNTIL),  # two collectors may set both
    "confirmed": func.coalesce(
        select(_nodes.read_at)
        .where(_nodes.cluster == _placements.cluster, _nodes.node == _placements.node)
        .scalar_subquery(),
        _placements.confirmed,
    ),
}
_CONFIRM = (
    update(schema.placements)
    .where(*_OPEN_HERE[:3], _placements.until + 0 == bindparam("b_until"))  # not by the index: many end at once
    .values({"confirmed": bindparam("b_confirmed")})
)
_SEAT = {name: func.coalesce(bindparam(f"b_{name}", type_=Text), _placements[name]) for name in SEAT_COLUMNS}
_END = update(schema.placements).where(*_OPEN_HERE).values(_ENDED | _SEAT)
_END_ALL = (
    update(schema.placements).where(_placements.uuid == bindparam("b_uuid"), _placements.until.is_(None)).values(_ENDED)
)
_NO_LONGER_ABSENT = delete(schema.absent).where(schema.absent.c.uuid == bindparam("b_uuid"))
_ABSENT = select(
    bindparam("b_uuid", type_=Uuid), *(bindparam(f"b_{name}", type_=Text) for name in ("cluster", "node", "facts"))
).where(~exists().where(_placements.uuid == bindparam("b_uuid"), _placements.until.is_(None)))
_LAST_CHANGE = select(_changes.id).order_by(_changes.id.desc()).limit(1)
_REMOVE_NODE = delete(schema.nodes).where(_nodes.cluster == bindparam("b_cluster"), _nodes.node == bindparam("b_node"))


async def _write_history(connection: AsyncConnection, database: Database, planned: Plan) -> None:
    await _execute_many(connection, _ALTER, planned.alter)
    await _execute_many(connection, _END, planned.end)
    await _execute_many(connection, _END_ALL, planned.end_all)
    await _note_first_sights(connection, planned.changes)
    last = await connection.scalar(_LAST_CHANGE) if any(row["first_sight"] for row in planned.changes) else None
    if database.single_process:
        await insert_compact(connection, planned.begin, planned.changes)
    else:
        await _execute_many(connection, insert(schema.placements), planned.begin)
        await _execute_many(connection, insert(schema.changes), planned.changes)
    await add_first_sights(connection, planned.changes, last or 0)
    await _execute_many(connection, _CONFIRM, planned.confirm)
    if planned.earliest < math.inf:
        await recount_from(connection, planned.earliest)
    await note_alterations(connection, database, planned.changes)
    await _execute_many(connection, _NO_LONGER_ABSENT, planned.arrived)
    absent = database.insert(schema.absent).from_select(["uuid", "cluster", "node", "facts"], _ABSENT)
    absent = absent.on_conflict_do_update(
        index_elements=["uuid"], set_={name: absent.excluded[name] for name in ("cluster", "node", "facts")}
    )
    await _execute_many(connection, absent, planned.vanished)


async def _note_first_sights(connection: AsyncConnection, changes: Sequence[dict[str, Any]]) -> None:
    """Mark appeared GPUs whose nodes were unknown before, both in the store and earlier in these changes."""
    nodes: dict[str, dict[str, float]] = {}  # when each of a cluster's nodes is first in the changes
    for row in changes:
        times = nodes.setdefault(row["cluster"], {})
        times[row["node"]] = min(row["time"], times.get(row["node"], row["time"]))
    asked = sorted(
        {
            (row["node"], row["cluster"])
            for row in changes
            if row["event"] == Event.APPEARED and row["time"] == nodes[row["cluster"]][row["node"]]
        }
    )
    known: set[tuple[str, str]] = set()
    for start in range(0, len(asked), ROWS_PER_STATEMENT):
        here = tuple_(_placements.node, _placements.cluster).in_(asked[start : start + ROWS_PER_STATEMENT])
        found = await connection.execute(select(_placements.cluster, _placements.node).where(here).distinct())
        known |= {(cluster, node) for cluster, node in found}
    for row in changes:
        place, time = (row["cluster"], row["node"]), nodes[row["cluster"]][row["node"]]
        row["first_sight"] = row["event"] == Event.APPEARED and row["time"] == time and place not in known


async def _execute_many(connection: AsyncConnection, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> None:
    for start in range(0, len(rows), ROWS_PER_STATEMENT):
        await connection.execute(statement, rows[start : start + ROWS_PER_STATEMENT])


def _plan(changes: Sequence[Change], marks: Marks, everywhere: bool, owned: AbstractSet[str] | None) -> Plan:
    """Plan the effect of changes on the tables, each with the mark of its GPU."""
    planned = plan(changes, everywhere=everywhere, owned=owned)
    for row in planned.changes:
        mark = marks.of(row["uuid"], row["serial"], row["time"])
        row["mark"] = None if mark is None else mark.kind.value
    return planned


def _encode_nodes(nodes: Mapping[Place, NodeState | None], with_unread: bool, compact: bool) -> list[dict[str, Any]]:
    """Write the rows of nodes; compact ones are not for a store that an older version may share during an update."""
    stored = deflated if compact else bytes
    return [
        {"cluster": place.cluster, "node": place.node, "read_at": node.time, "snapshot": stored(encode_node(node))}
        | ({"unread": encode_unread(node)} if with_unread else {})
        for place, node in nodes.items()
        if node is not None
    ]


async def recorded(database: Database, nodes: Mapping[Place, NodeState | None]) -> Recorded:
    """Return the records of some nodes, and of the GPUs that have arrived in them since; raises StoreError."""
    async with database.read() as connection:
        gpus = await _recorded_gpus(connection, nodes)
        placements = await _open_placements(connection, nodes)
        here = [one._replace(**_as_found(gpus.get((one.uuid, one.place)))) for one in placements]
        elsewhere: set[str] = set()
        latest: dict[str, float] = {}
        away: dict[str, Away] = {}
        for placement in here:
            latest[placement.uuid] = max(placement.since, latest.get(placement.uuid, placement.since))
        uuids = list(arriving(here, nodes))
        await _note_changes(connection, sorted({*uuids, *_not_as_they_were(here, gpus, nodes)}), latest)
        for start in range(0, len(uuids), ROWS_PER_STATEMENT):
            part = _placements.uuid.in_(uuids[start : start + ROWS_PER_STATEMENT])
            times = select(_placements.uuid, func.max(func.coalesce(_placements.until, _placements.since))).where(part)
            for uuid, time in await connection.execute(times.group_by(_placements.uuid)):
                latest[uuid] = max(moment(time), latest.get(uuid, 0.0))
            places = select(_placements.uuid, _placements.cluster, _placements.node)
            for uuid, *place in await connection.execute(places.where(part, _placements.until.is_(None))):
                if Place(*place) not in nodes:
                    elsewhere.add(uuid)
            absent = select(schema.absent.c.uuid, schema.absent.c.facts)
            for uuid, facts in await connection.execute(
                absent.where(schema.absent.c.uuid.in_(uuids[start : start + ROWS_PER_STATEMENT]))
            ):
                away[text(uuid)] = Away(*sound_facts(text(uuid), facts))
    return Recorded(here, elsewhere, latest, away)


def _not_as_they_were(
    here: Iterable[OpenPlacement],
    gpus: Iterable[tuple[str, Place]],
    nodes: Mapping[Place, NodeState | None],
) -> set[str]:
    """Return the UUIDs of GPUs that some nodes no longer have as recorded in their placements there."""
    present = {(gpu.uuid, place) for place, node in nodes.items() if node is not None for gpu in node.gpus}
    left = {placement.uuid for placement in here if (placement.uuid, placement.place) not in present}
    return left | {uuid for uuid, _ in gpus}


async def _note_changes(connection: AsyncConnection, uuids: Sequence[str], latest: dict[str, float]) -> None:
    """Raise the latest times of GPUs, by UUID, to those of their last alteration or change of health."""
    for start, event in itertools.product(range(0, len(uuids), ROWS_PER_STATEMENT), (schema.ALTERED, schema.HEALTH)):
        these = (_changes.uuid.in_(uuids[start : start + ROWS_PER_STATEMENT]), event)
        query = select(_changes.uuid, func.max(_changes.time)).where(*these).group_by(_changes.uuid)
        for uuid, time in await connection.execute(query):
            latest[uuid] = max(moment(time), latest.get(uuid, 0.0))


def _as_found(found: tuple[Gpu, bool] | None) -> dict[str, Any]:
    return {} if found is None else {"gpu": found[0], "lost": found[1]}


async def _open_placements(connection: AsyncConnection, places: Iterable[Place]) -> list[OpenPlacement]:
    facts = (_placements.uuid, _placements.serial, _placements.chassis, _placements.model, _placements.last_known)
    read_at = func.coalesce(_nodes.read_at, _placements.confirmed, _placements.since)
    columns = (*facts, _placements.cluster, _placements.node, _placements.machine, _placements.since, read_at)
    here = (_nodes.cluster == _placements.cluster) & (_nodes.node == _placements.node)
    keys = [(place.node, place.cluster) for place in places]
    found = []
    for start in range(0, len(keys), ROWS_PER_STATEMENT):
        rows = await connection.execute(
            select(*columns)
            .outerjoin_from(schema.placements, schema.nodes, here)
            .where(
                tuple_(_placements.node, _placements.cluster).in_(keys[start : start + ROWS_PER_STATEMENT]),
                _placements.until.is_(None),
            )
        )
        found += [
            OpenPlacement(
                uuid=text(uuid),
                serial=optional_text(serial),
                chassis=optional_text(chassis),
                model=optional_text(model),
                last_known=sound_last_known(last_known),
                place=Place(text(cluster), text(node)),
                machine=text(machine),
                since=moment(since),
                confirmed=moment(confirmed),
            )
            for uuid, serial, chassis, model, last_known, cluster, node, machine, since, confirmed in map(tuple, rows)
        ]
    return found


async def _recorded_gpus(
    connection: AsyncConnection, nodes: Mapping[Place, NodeState | None]
) -> dict[tuple[str, Place], tuple[Gpu, bool]]:
    """Return the GPUs that differ between the recorded nodes and these, or are gone from these.

    Each comes with whether it did not respond.
    """
    found: dict[tuple[str, Place], tuple[Gpu, bool]] = {}
    keys = [(place.cluster, place.node) for place in nodes]
    for start in range(0, len(keys), ROWS_PER_STATEMENT):
        rows = await connection.execute(
            select(_nodes.cluster, _nodes.node, _nodes.read_at, _nodes.snapshot).where(
                tuple_(_nodes.cluster, _nodes.node).in_(keys[start : start + ROWS_PER_STATEMENT])
            )
        )
        found |= await anyio.to_thread.run_sync(_different_gpus, rows.all(), nodes)
    return found


def _different_gpus(
    rows: Iterable[Any], nodes: Mapping[Place, NodeState | None]
) -> dict[tuple[str, Place], tuple[Gpu, bool]]:
    found: dict[tuple[str, Place], tuple[Gpu, bool]] = {}
    for cluster, name, read_at, snapshot in rows:
        place = Place(cluster, name)
        node = nodes[place]
        now = {gpu.uuid: gpu for gpu in node.gpus} if node is not None else {}
        lost = node.lost_uuids if node is not None else NO_UUIDS
        try:
            before = decode_node(place, read_at, snapshot)
        except (msgspec.MsgspecError, TypeError, ValueError):
            continue  # its placements are sufficient
        was_lost = before.lost_uuids
        found |= {
            (gpu.uuid, place): (gpu, gpu.uuid in was_lost)
            for gpu in before.gpus
            if now.get(gpu.uuid) != gpu or (gpu.uuid in was_lost) != (gpu.uuid in lost)
        }
    return found
