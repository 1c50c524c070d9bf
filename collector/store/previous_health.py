"""Corrects how the health of GPUs changed as they arrived, in the transaction that records it.

A shard compares a GPU with what it knows of its last place. If that is in a cluster of another shard, which has
recorded since that the GPU's health changed or that it stopped responding, the history would contradict itself.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.health import HEALTH_FIELDS, Health
from collector.model import Change, Event, FieldChange, health_changes
from collector.store import schema
from collector.store.codec import decode_changes, encode_changes
from collector.store.plan import Away
from collector.store.sound import sound_facts, text

__all__ = ["correct_previous_health"]

_UUIDS_PER_QUERY = 1000
_absent = schema.absent.c


async def correct_previous_health(
    connection: AsyncConnection,
    rows: Sequence[dict[str, Any]],
    arrivals: Mapping[str, Change],
    owned: AbstractSet[str],
) -> list[dict[str, Any]]:
    """Return rows of gpuid_changes, in order, that are about to be inserted, with the correct changes of health.

    `arrivals` are the changes with which GPUs arrive, by UUID; `owned` are this shard's clusters. The given rows stay
    as they are: if the transaction fails, the next attempt may find other data.
    """
    recorded = await _recorded_elsewhere(connection, sorted(arrivals), owned)
    if not recorded:
        return list(rows)
    found: list[dict[str, Any]] = []
    known = {uuid: _Arrival(arrivals[uuid], away, rows) for uuid, away in recorded.items()}
    for row in rows:
        arrival = known.get(row["uuid"])
        if arrival is None or row is not arrival.health:
            found.append(row)
        if arrival is not None and row is arrival.row and (changes := arrival.changes()):
            none = {"previous_cluster": None, "previous_node": None}
            found.append(row | none | {"event": Event.HEALTH.value, "changes": encode_changes(changes)})
    return found


class _Arrival:
    """A GPU that arrives, compared with what another shard recorded last."""

    def __init__(self, change: Change, away: Away, rows: Sequence[dict[str, Any]]) -> None:
        self._gpu = change.gpu
        self._away = away
        own = [row for row in rows if row["uuid"] == change.gpu.uuid]
        self.row = next(row for row in own if row["event"] in (Event.APPEARED, Event.MOVED))
        health = [row for row in own if row["event"] == Event.HEALTH]
        self.health = next((row for row in health if row["time"] == self.row["time"]), None)
        self._told = {one.field: one for one in _changes(self.health)}
        later = (one for row in health if row is not self.health for one in _changes(row) if one.field == "lost")
        self._later = next(later, None)

    def changes(self) -> tuple[FieldChange, ...]:
        """Return how the GPU's health changed."""
        before = Health() if self._away.facts is None else self._away.facts.health or Health()
        unknown = {field for field in HEALTH_FIELDS if getattr(before, field) is None}
        found = {field: one for field, one in self._told.items() if field in unknown}
        found |= {one.field: one for one in health_changes(before, self._gpu.health) if one.field not in unknown}
        if self._away.lost != (lost := self._lost()):
            found["lost"] = FieldChange("lost", self._away.lost, lost)
        return tuple(found[field] for field in ("lost", *HEALTH_FIELDS) if field in found)

    def _lost(self) -> bool:
        """Return whether it did not respond as it arrived: if it does, only a later change says otherwise."""
        if (told := self._told.get("lost")) is not None:
            return bool(told.after)
        return self._later is not None and bool(self._later.before)


def _changes(row: Mapping[str, Any] | None) -> tuple[FieldChange, ...]:
    return () if row is None else decode_changes(row["changes"])


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
