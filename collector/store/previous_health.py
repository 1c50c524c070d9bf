"""Corrects how the health of GPUs changed as they arrived, in the transaction that records it.

A shard compares a GPU with what it knows of its last place. If that is in a cluster of another shard, which has
recorded since that the GPU's health changed or that it stopped responding, the history would contradict itself.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.model import Event, FieldChange, health_changes
from collector.store import schema
from collector.store.codec import encode_changes
from collector.store.plan import Arrival, Away
from collector.store.sound import sound_facts, text

__all__ = ["correct_previous_health"]

_UUIDS_PER_QUERY = 1000
_ARRIVED = (Event.APPEARED, Event.MOVED)
_absent = schema.absent.c


async def correct_previous_health(
    connection: AsyncConnection,
    rows: Sequence[dict[str, Any]],
    arrivals: Mapping[str, Arrival],
    owned: AbstractSet[str],
) -> list[dict[str, Any]]:
    """Return rows of gpuid_changes, in order, that are about to be inserted, with the correct changes of health.

    `arrivals` are the first ones in these rows, by UUID; `owned` are this shard's clusters. The given rows stay as they
    are: if the transaction fails, the next attempt may find other data.
    """
    recorded = await _recorded_elsewhere(connection, sorted(arrivals), owned)
    corrected = {
        uuid: (arrivals[uuid], changes)
        for uuid, away in recorded.items()
        if set(changes := _changes(arrivals[uuid], away)) != set(arrivals[uuid].health)
    }
    found: list[dict[str, Any]] = []
    arrived: set[str] = set()
    for row in rows:
        arrival, changes = corrected.get(row["uuid"], (None, ()))
        if arrival is None:
            found.append(row)
        elif row["event"] in _ARRIVED and row["uuid"] not in arrived:
            arrived.add(row["uuid"])
            found.append(row)
            if changes:
                of_health = {"event": Event.HEALTH.value, "changes": encode_changes(changes)}
                found.append(row | {"previous_cluster": None, "previous_node": None} | of_health)
        elif not _is_of(row, arrival):
            found.append(row)
    return found


def _changes(arrival: Arrival, recorded: Away) -> tuple[FieldChange, ...]:
    """Return how the health of a GPU that arrived changed from what was recorded of it."""
    changes = tuple(one for one in arrival.health if one.field != "lost")
    if recorded.facts is not None:
        changes = health_changes(recorded.facts.health, arrival.change.gpu.health)
    if recorded.lost != arrival.change.lost:
        changes = (FieldChange("lost", recorded.lost, arrival.change.lost), *changes)
    return changes


def _is_of(row: Mapping[str, Any], arrival: Arrival) -> bool:
    """Return whether a row is the change of health that was noticed when a GPU arrived."""
    came, written = arrival.change, encode_changes(arrival.health)
    here = (row["cluster"], row["node"], row["time"]) == (*came.place, came.time)
    return here and (row["event"], row["changes"]) == (Event.HEALTH, written)


async def _recorded_elsewhere(
    connection: AsyncConnection, uuids: Sequence[str], owned: AbstractSet[str]
) -> dict[str, Away]:
    """Return the last values of those of the GPUs that were last in another shard's cluster, by UUID."""
    found = {}
    for start in range(0, len(uuids), _UUIDS_PER_QUERY):
        query = select(_absent.uuid, _absent.cluster, _absent.facts)
        query = query.where(_absent.uuid.in_(uuids[start : start + _UUIDS_PER_QUERY]))
        for uuid, cluster, facts in await connection.execute(query):
            if text(cluster) not in owned:
                found[text(uuid)] = Away(*sound_facts(text(uuid), facts))
    return found
