"""Writes the demo's made-up history into its store, as a collector that had seen it would have."""

import functools
import math
import time
from collections.abc import Iterable

import anyio
import msgspec

from collector.cli.demo_story import DAY_SECONDS, Seen, Story
from collector.collect.objects import node_decoder
from collector.inventory import Inventory
from collector.marks import NewMark
from collector.model import Fingerprint, NodeInfo, Place, Reading
from collector.simulator import Simulator
from collector.store import MarkStore, Store, StoreError, StoreSettings

__all__ = ["write_past"]

_WRITE_TIMEOUT_SECONDS = 60.0


async def write_past(story: Story, simulator: Simulator, settings: StoreSettings) -> None:
    """Record a story in a new store, up to now, and put the fleet into its final state; raises StoreError.

    The readings pass through an inventory, and its changes go to the history, so the collector that restores it
    finds what it would have recorded itself.
    """
    now = time.time()
    nodes = _nodes(simulator)
    sources = {place: simulator.clusters[place.cluster].pod(place.node) for place in nodes}
    async with Store.open(settings) as store:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.history_writer.run)
            written = await _write(
                store, (_reading(seen, nodes[seen.place], sources[seen.place], now) for seen in story.seen)
            )
            tasks.cancel_scope.cancel()
        if not written:
            raise StoreError(f"cannot write the demo's history: {store.health.status.message or 'too slow'}")
        for note in sorted(story.notes, key=lambda note: -note.ago):
            until = None if note.days is None else now + note.days * DAY_SECONDS
            new = NewMark(kind=note.kind, note=note.note, ticket=note.ticket, until=until)
            marks = MarkStore(store.database, functools.partial(float, now - note.ago))
            await marks.set([note.uuid], new, by=note.by)
    for place, uuid in story.lost:
        simulator.clusters[place.cluster].lose_gpu(place.node, uuid, listed=True)
    for place, uuid in story.missing:
        simulator.clusters[place.cluster].lose_gpu(place.node, uuid)
    for place, said in story.unreadable:
        simulator.clusters[place.cluster].fail_exec(node=place.node, stderr=said)
    for home, uuid, claimant in story.doubled:
        simulator.fleet.double(*home, *claimant, uuid)


async def _write(store: Store, readings: Iterable[Reading]) -> bool:
    """Record readings; return whether all of them were committed.

    When GPUs leave a node, earlier readings are committed first: they say when the GPUs were last seen.
    """
    inventory = Inventory()
    for reading in readings:
        before = inventory.node(Place(reading.cluster, reading.node.name))
        if (
            before is not None
            and not {gpu.uuid for gpu in before.gpus} <= {gpu.uuid for gpu in reading.gpus}
            and not await store.history_writer.flushed(_WRITE_TIMEOUT_SECONDS)
        ):
            return False
        store.history_writer.append(inventory.apply(reading))
    return await store.history_writer.flushed(_WRITE_TIMEOUT_SECONDS)


def _nodes(simulator: Simulator) -> dict[Place, NodeInfo]:
    decode = node_decoder()
    return {
        Place(name, node): decode(msgspec.Raw(cluster.node_object(node))).facts
        for name, cluster in simulator.clusters.items()
        for node in cluster.nodes
    }


def _reading(seen: Seen, node: NodeInfo, source: str, now: float) -> Reading:
    """Return a collector's reading, from a former pod, so that the node is read again immediately."""
    return Reading(
        cluster=seen.place.cluster,
        node=node,
        source=source,
        fingerprint=Fingerprint(
            pod_uid="", container_id="", restarts=0, boot_id=node.boot_id, capacity=node.advertised[0]
        ),
        time=math.floor(now - seen.ago) + 0.25,
        driver_version=seen.report.driver_version,
        cuda_version=seen.report.cuda_version,
        gpus=seen.report.gpus,
        unidentified=seen.report.unidentified,
        lost=seen.report.lost,
        unread=seen.report.unread,
        partial=seen.report.partial,
    )
