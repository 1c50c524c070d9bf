"""Corrects where GPUs came from, in the transaction that records it: another shard may have recorded a later place.

A shard sees what the others record a second late, and only of clusters in its own configuration. So it may take a GPU
that moved twice for one that came from its last place but one, or mistake a moved GPU for a new one.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.model import Event, Place
from collector.store import schema
from collector.store.sound import text

__all__ = ["correct_previous"]

_UUIDS_PER_QUERY = 1000
_placements = schema.placements.c
_NO_MOVE = {"previous_cluster": None, "previous_node": None}


async def correct_previous(
    connection: AsyncConnection, rows: Sequence[dict[str, Any]], owned: AbstractSet[str]
) -> list[dict[str, Any]]:
    """Return rows of gpuid_changes, in order, that are about to be inserted, with the correct previous places.

    A GPU came from where it left last, according to the placements. While it is elsewhere as well, as another shard has
    recorded in the meantime, it is in conflict and has not moved: a move would say that it has left that place too.
    Only the shard that owns a cluster (`owned` are this one's) records that a GPU vanished from there. The given rows
    stay as they are: if the transaction fails, the next attempt may find other placements.
    """
    arriving = sorted({row["uuid"] for row in rows if row["event"] in (Event.APPEARED, Event.MOVED)})
    here, left = await _recorded(connection, arriving)
    corrected = []
    for row in map(dict, rows):
        uuid, place = row["uuid"], Place(row["cluster"], row["node"])
        present = here.setdefault(uuid, {})
        if row["event"] == Event.VANISHED:
            present.pop(place, None)
            left[uuid] = place
        elif row["event"] in (Event.APPEARED, Event.MOVED):
            if row["event"] == Event.MOVED:
                was = Place(row["previous_cluster"], row["previous_node"])
                machine = present.pop(was, None)
                if machine is not None:
                    left[uuid] = was
                if present.keys() - {place}:
                    if machine is not None and was.cluster in owned:
                        corrected.append(row | _NO_MOVE | _vanished_from(was, machine))
                    row |= _NO_MOVE | {"event": Event.APPEARED.value}
            _correct_origin(row, place, present, left.get(uuid))
            present[place] = row["machine"]
        corrected.append(row)
    return corrected


async def _recorded(
    connection: AsyncConnection, uuids: Sequence[str]
) -> tuple[dict[str, dict[Place, str]], dict[str, Place]]:
    """Return where GPUs are, with the machines there, and the place that each left last."""
    here: dict[str, dict[Place, str]] = {}
    left: dict[str, Place] = {}
    columns = (_placements.uuid, _placements.cluster, _placements.node, _placements.machine, _placements.until)
    for start in range(0, len(uuids), _UUIDS_PER_QUERY):
        query = select(*columns).where(_placements.uuid.in_(uuids[start : start + _UUIDS_PER_QUERY]))
        query = query.order_by(_placements.until, _placements.id)
        for uuid, cluster, node, machine, until in await connection.execute(query):
            place = Place(text(cluster), text(node))
            if until is None:
                here.setdefault(text(uuid), {})[place] = text(machine)
            else:
                left[text(uuid)] = place
    return here, left


def _correct_origin(row: dict[str, Any], place: Place, present: Mapping[Place, str], came_from: Place | None) -> None:
    """Make the arrival of a GPU that is nowhere else a move from the place that it left last."""
    if came_from is not None and came_from != place and not present:
        row["event"] = Event.MOVED.value
        row["previous_cluster"], row["previous_node"] = came_from


def _vanished_from(place: Place, machine: str) -> dict[str, Any]:
    where = {"cluster": place.cluster, "node": place.node, "machine": machine, "source": ""}
    return {"event": Event.VANISHED.value, **where}
