"""Corrects where GPUs came from, in the transaction that records it: another shard may have recorded a later place.

A shard sees what the others record a second late, and only of clusters in its own configuration. So it may take a GPU
that moved twice for one that came from its last place but one, or mistake a moved GPU for a new one.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.model import Event, Place
from collector.store import schema
from collector.store.sound import text

__all__ = ["correct_previous"]

_UUIDS_PER_QUERY = 1000
_placements = schema.placements.c


async def correct_previous(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of gpuid_changes, in order, that are about to be inserted, with the correct previous places.

    A GPU came from where it left last, according to the placements. While it is elsewhere as well, it is in conflict,
    and has not moved. The given rows stay as they are: if the transaction fails, the next attempt may find other
    placements.
    """
    arriving = sorted({row["uuid"] for row in rows if row["event"] in (Event.APPEARED, Event.MOVED)})
    here: dict[str, set[Place]] = {}  # where a GPU is
    left: dict[str, Place] = {}  # the place that it left last
    for start in range(0, len(arriving), _UUIDS_PER_QUERY):
        columns = (_placements.uuid, _placements.cluster, _placements.node, _placements.until)
        query = select(*columns).where(_placements.uuid.in_(arriving[start : start + _UUIDS_PER_QUERY]))
        for uuid, cluster, node, until in await connection.execute(query.order_by(_placements.until, _placements.id)):
            place = Place(text(cluster), text(node))
            if until is None:
                here.setdefault(text(uuid), set()).add(place)
            else:
                left[text(uuid)] = place
    rows = [dict(row) for row in rows]
    for row in rows:
        uuid, place = row["uuid"], Place(row["cluster"], row["node"])
        present = here.setdefault(uuid, set())
        if row["event"] == Event.VANISHED:
            present.discard(place)
            left[uuid] = place
        elif row["event"] in (Event.APPEARED, Event.MOVED):
            if row["event"] == Event.MOVED:
                was = Place(row["previous_cluster"], row["previous_node"])
                if was in present:  # this transaction has yet to end that placement
                    present.discard(was)
                    left[uuid] = was
            came_from = left.get(uuid)
            if came_from is not None and came_from != place and not present:
                row["event"] = Event.MOVED.value
                row["previous_cluster"], row["previous_node"] = came_from
            present.add(place)
    return rows
