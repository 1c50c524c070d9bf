"""Decides the effect of changes on the tables of placements and changes: values in, rows out.

Changes contain enough to write the history without reading it first. It is read only if changes were lost, to derive
them as differences.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import msgspec

from collector.model import (
    KEPT_FIELDS,
    Change,
    Event,
    FieldChange,
    Gpu,
    LastReport,
    NodeState,
    Place,
    field_changes,
    health_changes,
)
from collector.store.codec import encode_changes, encode_facts, encode_last_known

__all__ = ["SEAT_COLUMNS", "Away", "Departure", "OpenPlacement", "Plan", "Recorded", "arriving", "differences", "plan"]

SEAT_COLUMNS = ("tray", "slot", "module", "pci_bus_id")  # a GPU's position in its machine

Row = dict[str, Any]  # by column name; `b_…` for columns by which an UPDATE finds its row


class Arrival(NamedTuple):
    """How a GPU came to a node."""

    change: Change
    health: tuple[FieldChange, ...]  # that its health changed by, as recorded with it


class Plan(NamedTuple):
    """The writes to the tables, in this order."""

    alter: list[Row]  # open placements whose GPU's facts have changed
    end: list[Row]  # open placements to end, by GPU and node
    end_all: list[Row]  # GPUs whose open placements all end
    begin: list[Row]  # new placements, some already ended
    confirm: list[Row]  # ended placements of lost GPUs, with when they were last found
    changes: list[Row]
    arrived: list[Row]  # GPUs that are in a node, again or for the first time, and so no longer absent
    vanished: list[Row]  # GPUs that are now absent unless they have another open placement
    arrivals: Mapping[str, Arrival]  # of a shard's GPUs that have not left before in these changes, by UUID
    earliest: float  # Unix seconds of the earliest time for which recorded GPUs or models may change


class OpenPlacement(NamedTuple):
    """A placement that is open according to the history."""

    uuid: str
    serial: str | None
    chassis: str | None
    model: str | None
    last_known: tuple[LastReport, ...]
    place: Place
    since: float
    confirmed: float  # Unix seconds
    gpu: Gpu | None = None  # according to the history's nodes; None: unchanged, or not in them
    lost: bool | None = None  # whether it did not respond, according to those nodes; None: likewise
    machine: str = ""  # that the node was when the GPU arrived


class Away(NamedTuple):
    """The history's data on a GPU that is in no node."""

    facts: Gpu | None
    lost: bool


class Departure(NamedTuple):
    """A GPU's departure from its last node, with its state at the last reading there (times in Unix seconds)."""

    place: Place
    time: float
    confirmed: float
    gpu: Gpu
    lost: bool = False


class Recorded(NamedTuple):
    """The history's data on some nodes, and on the GPUs that have arrived in them since."""

    here: list[OpenPlacement]  # in those nodes
    elsewhere: set[str]  # UUIDs of arrived GPUs that are recorded as present in other nodes as well
    latest: dict[str, float]  # the latest recorded time (Unix seconds) of each GPU in `here` or arrived, by UUID
    away: Mapping[str, Away] = {}  # of the arrived GPUs


def plan(changes: Sequence[Change], *, everywhere: bool = True, owned: AbstractSet[str] | None = None) -> Plan:
    """Turn changes, in order, into writes; the history must agree with the inventory that emitted them.

    A GPU that moved according to the inventory has left all other places. For changes found by `differences`, only
    its `previous` place is known to have ended, so `everywhere` is False. The same is true of a shard that owns the
    `owned` clusters (None: no shards), which ends no placements in others' clusters: their owners do.
    """
    alter: list[Row] = []
    end, end_all, begin = [], [], []
    present: dict[str, dict[Place, Row]] = {}  # placements begun by these changes, by UUID
    arrived: dict[str, None] = {}  # an ordered set
    last: dict[str, Change] = {}
    for change in changes:
        uuid, place = change.gpu.uuid, change.place
        here = present.setdefault(uuid, {})
        match change.event:
            case Event.ALTERED:
                _alter(change, here.get(place), alter)
                continue
            case Event.HEALTH:
                continue  # it is in the node's snapshot, and in the facts of a GPU that leaves
            case Event.VANISHED:
                if (row := here.pop(place, None)) is not None:
                    row["until"] = change.time
                    row["confirmed"] = change.last_seen or row["confirmed"]
                else:
                    end.append({**_found_by(uuid, place), "b_until": change.time, **_bound(_seat(change.gpu))})
            case Event.MOVED | Event.APPEARED:
                if change.event is Event.MOVED and everywhere and owned is None:
                    for row in here.values():
                        row["until"] = change.time
                    here.clear()
                    end_all.append({"b_uuid": uuid, "b_until": change.time})
                elif change.event is Event.MOVED and _ends_own(change, owned):
                    _end_previous(change, here, end)
                arrived[uuid] = None
                here[place] = _placement_row(change)
                begin.append(here[place])
            case _:
                raise ValueError(f"{change.event} is no change")
        last[uuid] = change
    return Plan(
        alter=alter,
        end=end,
        end_all=end_all,
        begin=begin,
        confirm=[_confirmed(change) for change in changes if change.last_seen is not None and _ends_own(change, owned)],
        changes=[_change_row(change) for change in changes if change.event is not Event.ALTERED or change.changes],
        arrived=[{"b_uuid": uuid} for uuid in arrived],
        vanished=[
            {
                **_found_by(uuid, change.place),
                "b_facts": encode_facts(
                    change.gpu, change.time if change.confirmed is None else change.confirmed, lost=change.lost
                ),
            }
            for uuid, change in last.items()
            if change.event is Event.VANISHED
        ],
        arrivals={} if owned is None else _arrivals(changes),
        earliest=min((_earliest(change) for change in changes), default=math.inf),
    )


def _arrivals(changes: Iterable[Change]) -> dict[str, Arrival]:
    """Return the first arrivals of GPUs that have not left before, by UUID."""
    arrivals: dict[str, Arrival] = {}
    left: set[str] = set()
    for change in changes:
        uuid = change.gpu.uuid
        if change.event is Event.VANISHED:
            left.add(uuid)
        elif change.event in (Event.APPEARED, Event.MOVED):
            if uuid not in left:
                arrivals.setdefault(uuid, Arrival(change, ()))
        elif change.event is Event.HEALTH and (arrival := arrivals.get(uuid)) and _is_of(arrival, change):
            arrivals[uuid] = arrival._replace(health=change.changes)
    return arrivals


def _is_of(arrival: Arrival, change: Change) -> bool:
    """Return whether a change of health is the one that was noticed when the GPU arrived."""
    came = arrival.change
    same = change.gpu is came.gpu and change.place == came.place and change.time == came.time
    return same and not arrival.health and all(one.after == came.lost for one in change.changes if one.field == "lost")


def _end_previous(change: Change, here: dict[Place, Row], end: list[Row]) -> None:
    """End the placement from which a GPU has moved, which the same changes may have begun."""
    if change.previous is None:
        return
    if (row := here.pop(change.previous, None)) is not None:
        row["until"] = change.time
    else:
        seat = dict.fromkeys(SEAT_COLUMNS)  # the change has the new position
        end.append({**_found_by(change.gpu.uuid, change.previous), "b_until": change.time, **_bound(seat)})


def _ends_own(change: Change, owned: AbstractSet[str] | None) -> bool:
    """Return whether the placement ended by a change is in one of the `owned` clusters, or there are no shards."""
    place = change.place if change.previous is None else change.previous
    return owned is None or place.cluster in owned


def _earliest(change: Change) -> float:
    """Return since when (Unix seconds) a change alters the past: a model applies to its whole placement."""
    if change.event in (Event.ALTERED, Event.HEALTH):
        return 0.0 if any(one.field == "model" for one in change.changes) else math.inf
    return change.time


def _alter(change: Change, here: Row | None, alter: list[Row]) -> None:
    """Alter the placement begun by the same changes, or else the open one."""
    facts = _facts(change.gpu) | _seat(change.gpu)
    if here is not None:
        here.update({key: value for key, value in facts.items() if value is not None})
        here["last_known"] = encode_last_known(change.gpu.last_known_facts)
    else:
        known = {**_bound(facts), "b_last_known": encode_last_known(change.gpu.last_known_facts)}
        alter.append({**_found_by(change.gpu.uuid, change.place), **known})


def arriving(here: Iterable[OpenPlacement], nodes: Mapping[Place, NodeState | None]) -> set[str]:
    """Return the UUIDs of GPUs that some nodes have or claim and that have no open placement there."""
    known = {(placement.uuid, placement.place) for placement in here}
    return {
        gpu.uuid for state in filter(None, nodes.values()) for gpu in state.gpus if (gpu.uuid, state.place) not in known
    }


def differences(
    recorded: Recorded, nodes: Mapping[Place, NodeState | None], now: float, gone: Mapping[str, Departure] = {}
) -> list[Change]:
    """Return the changes that lead from the records of some nodes to their current state.

    For when the changes themselves are lost. A node that is None is gone. A GPU that is no longer in any node left at
    the time and in the state in `gone`, by UUID, or else when its node was last read, or at `now`. A GPU that a node
    only claims is not placed there yet. No change of a GPU gets a time before its latest recorded one: another
    collector may have noticed something later than this one. An alteration without changes of fields only notes since
    when a field has not been reported.
    """
    left = {(placement.uuid, placement.place): placement for placement in recorded.here}
    changes: list[Change] = []
    arrivals: list[tuple[Gpu, NodeState, float]] = []
    for state in filter(None, nodes.values()):
        lost = state.lost_uuids
        for gpu, since in zip(state.gpus, state.since, strict=True):
            if gpu.uuid in state.claims:
                continue
            known = left.pop((gpu.uuid, state.place), None)
            latest = recorded.latest.get(gpu.uuid, since)
            if known is None:
                arrivals.append((gpu, state, max(since, latest)))
                continue
            was_lost = gpu.uuid in lost if known.lost is None else known.lost
            if known.since < since:  # it was away in between
                changes.append(_vanished(known._replace(gpu=known.gpu or gpu, lost=was_lost), state, since))
                changes.append(Change.of(state, Event.APPEARED, since, gpu, lost=gpu.uuid in lost))
                changes += _worn(known.gpu or gpu, was_lost, gpu, state, since)
            else:
                found = _altered(known, gpu)
                at = max(state.time or now, known.since, latest)  # another collector may have noticed it later
                if found or known.last_known != gpu.last_known_facts:
                    changes.append(Change.of(state, Event.ALTERED, at, gpu, changes=found))
                if was_lost != (gpu.uuid in lost):
                    at = max(_noticed(state, gpu, at, now), known.since, latest)
                changes += _worn(known.gpu or gpu, was_lost, gpu, state, at)
    staying = recorded.elsewhere | {one.uuid for one in recorded.here if (one.uuid, one.place) not in left}
    changes += _arrived(arrivals, left, staying, nodes, recorded.away)
    changes += _departed(left.values(), staying, recorded.latest, nodes, now, gone)
    return sorted(changes, key=lambda change: change.time)


def _departed(
    left: Iterable[OpenPlacement],
    staying: AbstractSet[str],
    latest: Mapping[str, float],
    nodes: Mapping[Place, NodeState | None],
    now: float,
    gone: Mapping[str, Departure],
) -> Iterator[Change]:
    """Yield the changes for GPUs that vanished from the placements in `left`, preceded by changes of their state.

    A GPU's last state is known for its last place. If that place is not in the history, the last place according to the
    history is used.
    """
    for uuid, placements in _by_uuid(left).items():
        known = gone.get(uuid)
        placements.sort(key=lambda placement: known is not None and placement.place == known.place)
        for placement in placements:
            node = nodes[placement.place]
            time = now if node is None or node.time is None else node.time
            time = max(time if known is None else known.time, placement.confirmed, latest.get(uuid, 0.0))
            last = placement is placements[-1] and uuid not in staying
            if known is not None and (last or placement.place == known.place):
                yield from _left(placement, node, known, time, latest.get(uuid, 0.0))
            else:
                yield _vanished(placement, node, time)


def _by_uuid(placements: Iterable[OpenPlacement]) -> dict[str, list[OpenPlacement]]:
    found: dict[str, list[OpenPlacement]] = {}
    for placement in placements:
        found.setdefault(placement.uuid, []).append(placement)
    return found


def _arrived(
    arrivals: Iterable[tuple[Gpu, NodeState, float]],
    left: dict[tuple[str, Place], OpenPlacement],
    staying: AbstractSet[str],
    nodes: Mapping[Place, NodeState | None],
    away: Mapping[str, Away],
) -> Iterator[Change]:
    """Yield the arrivals of GPUs in nodes; removes the placements they came from from `left`.

    A GPU that is also in another node, like those in `staying`, has not moved.
    """
    homes = _by_uuid(left.values())
    for gpu, state, since in sorted(arrivals, key=lambda arrival: arrival[2]):
        previous = homes.pop(gpu.uuid, [])
        at = max([since, *(placement.since for placement in previous)])  # the clock may have been set back
        moved = previous.pop() if previous and gpu.uuid not in staying else None
        for placement in previous:  # by the time it arrived, it had left all of them
            del left[gpu.uuid, placement.place]
            yield _vanished(placement, nodes[placement.place], at)
        if moved is None:
            yield Change.of(state, Event.APPEARED, at, gpu, lost=gpu.uuid in state.lost_uuids)
            facts, lost = away.get(gpu.uuid, (None, False))
            if gpu.uuid in staying:  # in conflict: not compared with another place
                facts, lost = None, False
            yield from _worn(facts, lost, gpu, state, at)
        else:
            del left[gpu.uuid, moved.place]
            yield Change.of(state, Event.MOVED, at, gpu, previous=moved.place, lost=gpu.uuid in state.lost_uuids)
            yield from _worn(moved.gpu, moved.lost or False, gpu, state, at)


def _worn(before: Gpu | None, was_lost: bool, gpu: Gpu, state: NodeState, time: float) -> Iterator[Change]:
    """Yield the change of a GPU's health, if any; `before` is None if nothing is known about it."""
    changes = health_changes(None if before is None else before.health, gpu.health)
    if was_lost != (lost := gpu.uuid in state.lost_uuids):
        changes = (FieldChange("lost", was_lost, lost), *changes)
    if changes:
        yield Change.of(state, Event.HEALTH, time, gpu, changes=changes)


def _noticed(state: NodeState, gpu: Gpu, read: float, now: float) -> float:
    """Return when (Unix seconds) a GPU was noticed to have stopped responding, or to respond again.

    If that is unknown, it is the time of the last reading, `read`, or else `now`.
    """
    unseen = next((one for one in state.unseen if one.uuid == gpu.uuid), None)
    if unseen is not None and unseen.lost_since is not None:
        return unseen.lost_since
    by_reading = state.unread is None if unseen is None else unseen.confirmed != state.time
    return read if by_reading and state.time is not None else max(read, now)


def _left(
    placement: OpenPlacement, node: NodeState | None, known: Departure, time: float, latest: float
) -> Iterator[Change]:
    """Yield that a GPU vanished at `time`, preceded by its change of health, but not before its `latest` change."""
    before = placement.gpu or Gpu(uuid=placement.uuid)
    facts = {field: value for field in KEPT_FIELDS if (value := getattr(known.gpu, field)) is not None}
    gpu = msgspec.structs.replace(before, health=known.gpu.health, ecc_growth=known.gpu.ecc_growth, **facts)
    vanished = _vanished(
        placement._replace(
            gpu=gpu, **_facts(gpu), last_known=known.gpu.last_known, lost=known.lost, confirmed=known.confirmed
        ),
        node,
        time,
    )
    changes = health_changes(before.health, gpu.health)
    if (lost := bool(placement.lost)) != known.lost:
        changes = (FieldChange("lost", lost, known.lost), *changes)
    if changes:
        at = min(vanished.time, max(known.confirmed, latest, placement.since))
        yield Change(
            event=Event.HEALTH,
            time=at,
            gpu=vanished.gpu,
            place=vanished.place,
            machine=vanished.machine,
            source=vanished.source,
            changes=changes,
        )
    yield vanished


def _vanished(placement: OpenPlacement, node: NodeState | None, time: float) -> Change:
    return Change(
        event=Event.VANISHED,
        time=max(time, placement.since),
        gpu=_as_recorded(placement.gpu or Gpu(uuid=placement.uuid), placement),
        place=placement.place,
        machine=placement.machine or ("" if node is None else node.node.machine),
        source="" if node is None else node.source,
        confirmed=placement.confirmed,
        lost=placement.lost or False,
    )


def _altered(known: OpenPlacement, gpu: Gpu) -> tuple[FieldChange, ...]:
    """Return how a GPU differs from the history; a fact that is only missing is not a difference."""
    before = _as_recorded(known.gpu or gpu, known)
    lacking = {field for field, value in _facts(gpu).items() if value is None}
    return tuple(change for change in field_changes(before, gpu) if change.field not in lacking)


def _as_recorded(gpu: Gpu, known: OpenPlacement) -> Gpu:
    """Return a GPU with the values of its placement."""
    facts = {"serial": known.serial, "chassis": known.chassis, "model": known.model}
    return msgspec.structs.replace(gpu, **facts, last_known=known.last_known)


def _facts(gpu: Gpu) -> Row:
    return {"serial": gpu.serial, "chassis": gpu.chassis, "model": gpu.model}


def _seat(gpu: Gpu) -> Row:
    """Return a GPU's position in its machine."""
    return {name: getattr(gpu, name) for name in SEAT_COLUMNS}


def _bound(row: Row) -> Row:
    return {f"b_{name}": value for name, value in row.items()}


def _found_by(uuid: str, place: Place) -> Row:
    return {"b_uuid": uuid, "b_cluster": place.cluster, "b_node": place.node}


def _confirmed(change: Change) -> Row:
    place = change.place if change.previous is None else change.previous
    return {**_found_by(change.gpu.uuid, place), "b_until": change.time, "b_confirmed": change.last_seen}


def _placement_row(change: Change) -> Row:
    return {
        "uuid": change.gpu.uuid,
        **_facts(change.gpu),
        **_seat(change.gpu),
        "cluster": change.place.cluster,
        "node": change.place.node,
        "machine": change.machine,
        "since": change.time,
        "until": None,
        "confirmed": change.time,
        "last_known": encode_last_known(change.gpu.last_known_facts),
    }


def _change_row(change: Change) -> Row:
    previous = change.previous
    return {
        "time": change.time,
        "event": change.event.value,
        "uuid": change.gpu.uuid,
        **_facts(change.gpu),
        "cluster": change.place.cluster,
        "node": change.place.node,
        "machine": change.machine,
        "source": change.source,
        "previous_cluster": None if previous is None else previous.cluster,
        "previous_node": None if previous is None else previous.node,
        "changes": encode_changes(change.changes),
        "last_known": encode_last_known(change.gpu.last_known_facts),
    }
