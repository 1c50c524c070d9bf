"""The conditions of GPUs at their last reading, according to the store."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import anyio
import msgspec
from sqlalchemy import and_, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.health import Condition, of_card
from collector.model import Gpu, Place
from collector.store import schema
from collector.store.codec import decode_node
from collector.store.sound import moment, sound_facts

__all__ = ["recorded_conditions"]

_UUIDS_PER_QUERY = 1000
_placements, _nodes, _absent = schema.placements.c, schema.nodes.c, schema.absent.c


async def recorded_conditions(connection: AsyncConnection, uuids: Collection[str]) -> dict[str, Condition]:
    """Return the known conditions of these GPUs, by UUID."""
    wanted = sorted(uuids)
    found: dict[str, Condition] = {}
    for start in range(0, len(wanted), _UUIDS_PER_QUERY):
        part = wanted[start : start + _UUIDS_PER_QUERY]
        there = and_(_nodes.cluster == _placements.cluster, _nodes.node == _placements.node)
        query = (
            select(_nodes.cluster, _nodes.node, _nodes.read_at, _nodes.snapshot)
            .join_from(schema.placements, schema.nodes, there)
            .where(_placements.uuid.in_(part), _placements.until.is_(None))
            .distinct()
        )
        rows = (await connection.execute(query)).all()
        known = await anyio.to_thread.run_sync(lambda rows: dict(_of_nodes(rows)), rows)
        found |= {uuid: known[uuid] for uuid in part if uuid in known}
        found |= await _of_absent(connection, [uuid for uuid in part if uuid not in found])
    return found


async def _of_absent(connection: AsyncConnection, uuids: Sequence[str]) -> dict[str, Condition]:
    """Return the last conditions of those of the GPUs that are in no node."""
    left = select(func.max(_placements.until)).where(_placements.uuid == _absent.uuid).scalar_subquery()
    found: dict[str, Condition] = {}
    for uuid, written, until in await connection.execute(
        select(_absent.uuid, _absent.facts, left).where(_absent.uuid.in_(uuids))
    ):
        gpu, lost = sound_facts(uuid, written)
        if gpu is not None or lost:
            facts = gpu or Gpu(uuid=uuid)
            read = max((one.time for one in facts.last_known), default=0.0 if until is None else moment(until))
            found[uuid] = Condition(of_card(facts.health), lost, facts.ecc_growth, read)
    return found


def _of_nodes(rows: Sequence[Any]) -> Iterator[tuple[str, Condition]]:
    """Yield the conditions of some nodes' GPUs; damaged nodes are skipped."""
    for cluster, name, read_at, snapshot in rows:
        try:
            node = decode_node(Place(cluster, name), read_at, snapshot)
        except (msgspec.MsgspecError, TypeError, ValueError):
            continue
        for placement in node.placements():
            if not placement.claim:  # a claim on another node says nothing about the requested GPU
                yield placement.gpu.uuid, placement.condition
