"""Decides what changes do to the tables of placements and changes; values in, rows out.

Changes say enough to write the history without reading it first. Only where changes were lost is it read, to find them
as differences.
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

SEAT_COLUMNS = ("tray", "slot", "module", "pci_bus_id")  # where in its machine a GPU is

Row = dict[str, Any]  # by the names of the columns; `b_…` where an UPDATE finds its row by it


class Plan(NamedTuple):
    """What to do to the tables, in this order."""

    alter: list[Row]  # open placements whose GPU's facts are other ones now
    end: list[Row]  # open placements to end, by GPU and node
    end_all: list[Row]  # GPUs all of whose open placements end
    begin: list[Row]  # new placements, some of which have ended by now
    confirm: list[Row]  # ended placements of GPUs that were lost, with when they were found last
    changes: list[Row]
    arrived: list[Row]  # GPUs that are in a node again or for the first time, and so are not absent
    vanished: list[Row]  # GPUs that are absent now unless an open placement is left
    earliest: float  # Unix seconds from when on there may be other GPUs, or other models, than was recorded


class OpenPlacement(NamedTuple):
    """A placement that the history holds for present."""

    uuid: str
    serial: str | None
    chassis: str | None
    model: str | None
    last_known: tuple[LastReport, ...]
    place: Place
    since: float
    confirmed: float  # Unix seconds
    gpu: Gpu | None = None  # as the history's nodes have it; None: it is the same now, or not in them
    lost: bool | None = None  # whether it did not answer, by those nodes; None: likewise


class Away(NamedTuple):
    """What the history holds of a GPU that is in no node."""

    facts: Gpu | None
    lost: bool


class Departure(NamedTuple):
    """When a GPU left its last node, and how it was when it was read there last (both Unix seconds)."""

    place: Place
    time: float
    confirmed: float
    gpu: Gpu
    lost: bool = False


class Recorded(NamedTuple):
    """What the history holds of some nodes, and of the GPUs that have come to them since."""

    here: list[OpenPlacement]  # in those nodes
    elsewhere: set[str]  # UUIDs of those that came and are recorded as present in other nodes as well
    latest: dict[str, float]  # the latest recorded time (Unix seconds) of each GPU that is in `here` or came, by UUID
    away: Mapping[str, Away] = {}  # of those that came


def plan(changes: Sequence[Change], *, everywhere: bool = True, owned: AbstractSet[str] | None = None) -> Plan:
    """Turn changes, in their order, into what to do; the history agrees with the inventory that emitted them.

    A GPU that the inventory calls moved is nowhere else any more. Of changes that `differences` found only its
    `previous` place is known to be over; for those `everywhere` is False. So it is for those of a shard that owns the
    `owned` clusters (None: there are no shards), which ends nothing in the clusters of others: their owners do.
    """
    alter: list[Row] = []
    end, end_all, begin = [], [], []
    present: dict[str, dict[Place, Row]] = {}  # what these changes began, by UUID
    arrived: dict[str, None] = {}  # a set in order
    last: dict[str, Change] = {}
    for change in changes:
        uuid, place = change.gpu.uuid, change.place
        here = present.setdefault(uuid, {})
        match change.event:
            case Event.ALTERED:
                _alter(change, here.get(place), alter)
                continue
            case Event.HEALTH:
                continue  # it is in the node's snapshot, and what stays known of a GPU that leaves
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
        earliest=min((_earliest(change) for change in changes), default=math.inf),
    )


def _end_previous(change: Change, here: dict[Place, Row], end: list[Row]) -> None:
    """End the placement that a GPU has moved from, be it one that the same changes began."""
    if change.previous is None:
        return
    if (row := here.pop(change.previous, None)) is not None:
        row["until"] = change.time
    else:
        seat = dict.fromkeys(SEAT_COLUMNS)  # that the change knows is the new one
        end.append({**_found_by(change.gpu.uuid, change.previous), "b_until": change.time, **_bound(seat)})


def _ends_own(change: Change, owned: AbstractSet[str] | None) -> bool:
    """Return whether the placement that a change ends is in one of the `owned` clusters, or there are no shards."""
    place = change.place if change.previous is None else change.previous
    return owned is None or place.cluster in owned


def _earliest(change: Change) -> float:
    """Return from when on (Unix seconds) a change makes the past another one: a model is that of all its placement."""
    if change.event in (Event.ALTERED, Event.HEALTH):
        return 0.0 if any(one.field == "model" for one in change.changes) else math.inf
    return change.time


def _alter(change: Change, here: Row | None, alter: list[Row]) -> None:
    """Alter a placement that the same changes began, or else let the open one be altered."""
    facts = _facts(change.gpu) | _seat(change.gpu)
    if here is not None:
        here.update({key: value for key, value in facts.items() if value is not None})
        here["last_known"] = encode_last_known(change.gpu.last_known_facts)
    else:
        known = {**_bound(facts), "b_last_known": encode_last_known(change.gpu.last_known_facts)}
        alter.append({**_found_by(change.gpu.uuid, change.place), **known})


def arriving(here: Iterable[OpenPlacement], nodes: Mapping[Place, NodeState | None]) -> set[str]:
    """Return the UUIDs of the GPUs that some nodes have or claim and that are in no open placement there."""
    known = {(placement.uuid, placement.place) for placement in here}
    return {
        gpu.uuid for state in filter(None, nodes.values()) for gpu in state.gpus if (gpu.uuid, state.place) not in known
    }


def differences(
    recorded: Recorded, nodes: Mapping[Place, NodeState | None], now: float, gone: Mapping[str, Departure] = {}
) -> list[Change]:
    """Find the changes that lead from what is recorded of some nodes to what those nodes have now.

    For when the changes themselves are lost. A node that is None is gone. A GPU that is in no node any more left at the
    time in `gone`, by UUID, and as it was then, or else when its node was last read, or at `now`. A GPU that a node
    merely claims is not placed there yet. Nothing of a GPU is found before its latest recorded time: another collector
    may have noticed something of it later than this one. An alteration without changes of fields tells since when a
    field is not reported, which is nothing that happened.
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
            if known.since < since:  # it was away meanwhile
                changes.append(_vanished(known._replace(gpu=known.gpu or gpu, lost=was_lost), state, since))
                changes.append(Change.of(state, Event.APPEARED, since, gpu))
                changes += _worn(known.gpu or gpu, was_lost, gpu, state, since)
            else:
                found = _altered(known, gpu)
                at = max(state.time or now, known.since, latest)  # which another collector may have noticed later
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
    """Yield that GPUs vanished from the placements that they have `left`, after how they were by then.

    How it was is known of the last place of a GPU. Where the history does not know that place, it is said where the GPU
    was last by the history.
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
    """Yield how GPUs came to nodes; takes the placements that they came from out of those that are `left`.

    A GPU that is in another node as well, as those that are `staying`, has not moved.
    """
    homes = _by_uuid(left.values())
    for gpu, state, since in sorted(arrivals, key=lambda arrival: arrival[2]):
        previous = homes.pop(gpu.uuid, [])
        at = max([since, *(placement.since for placement in previous)])  # the clock may have been set back
        moved = previous.pop() if previous and gpu.uuid not in staying else None
        for placement in previous:  # by the time that it arrived it had left all of them
            del left[gpu.uuid, placement.place]
            yield _vanished(placement, nodes[placement.place], at)
        if moved is None:
            yield Change.of(state, Event.APPEARED, at, gpu)
            facts, lost = away.get(gpu.uuid, (None, False))
            if gpu.uuid in staying:  # in conflict: it is compared with no other place
                facts, lost = None, False
            yield from _worn(facts, lost, gpu, state, at)
        else:
            del left[gpu.uuid, moved.place]
            yield Change.of(state, Event.MOVED, at, gpu, previous=moved.place)
            yield from _worn(moved.gpu, moved.lost or False, gpu, state, at)


def _worn(before: Gpu | None, was_lost: bool, gpu: Gpu, state: NodeState, time: float) -> Iterator[Change]:
    """Yield what is different of a GPU's health, if anything is; `before` is None where nothing is known of it."""
    changes = health_changes(None if before is None else before.health, gpu.health)
    if was_lost != (lost := gpu.uuid in state.lost_uuids):
        changes = (FieldChange("lost", was_lost, lost), *changes)
    if changes:
        yield Change.of(state, Event.HEALTH, time, gpu, changes=changes)


def _noticed(state: NodeState, gpu: Gpu, read: float, now: float) -> float:
    """Return when (Unix seconds) it was noticed that a GPU no longer answers, or does again.

    Where that is not known, it was by the last reading, at `read`, or else counts as noticed `now`.
    """
    unseen = next((one for one in state.unseen if one.uuid == gpu.uuid), None)
    if unseen is not None and unseen.lost_since is not None:
        return unseen.lost_since
    by_reading = state.unread is None if unseen is None else unseen.confirmed != state.time
    return read if by_reading and state.time is not None else max(read, now)


def _left(
    placement: OpenPlacement, node: NodeState | None, known: Departure, time: float, latest: float
) -> Iterator[Change]:
    """Yield that a GPU vanished at `time`, after how its health was by then, but not before its `latest` change."""
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
        machine="" if node is None else node.node.machine,
        source="" if node is None else node.source,
        confirmed=placement.confirmed,
        lost=placement.lost or False,
    )


def _altered(known: OpenPlacement, gpu: Gpu) -> tuple[FieldChange, ...]:
    """Return what is different from what the history has of a GPU; that a fact is merely lacking is no difference."""
    before = _as_recorded(known.gpu or gpu, known)
    lacking = {field for field, value in _facts(gpu).items() if value is None}
    return tuple(change for change in field_changes(before, gpu) if change.field not in lacking)


def _as_recorded(gpu: Gpu, known: OpenPlacement) -> Gpu:
    """Return a GPU with what its placement says of it."""
    facts = {"serial": known.serial, "chassis": known.chassis, "model": known.model}
    return msgspec.structs.replace(gpu, **facts, last_known=known.last_known)


def _facts(gpu: Gpu) -> Row:
    return {"serial": gpu.serial, "chassis": gpu.chassis, "model": gpu.model}


def _seat(gpu: Gpu) -> Row:
    """Return where in its machine a GPU is."""
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
