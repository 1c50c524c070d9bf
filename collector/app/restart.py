"""Restores the state of the last run from the store: the inventory, its series and the latest changes."""

from collections.abc import Collection

from collector import gc_freeze
from collector.app.mirror import Mirror
from collector.app.publisher import Publisher
from collector.exposition import Exposition
from collector.inventory import Inventory
from collector.store import Store, StoreError
from collector.views.recent_changes import RecentChanges, as_change

__all__ = ["restore"]

RECENT_CHANGES = 1000  # changes of the history that the page shows after a restart


async def restore(
    store: Store,
    *,
    configured: Collection[str],
    inventory: Inventory,
    exposition: Exposition,
    publisher: Publisher,
    recent: RecentChanges,
    now: float,
    mirror: Mirror | None = None,
) -> None:
    """Fill an empty collector from the store; raises StoreError.

    Clusters that are no longer configured end `now` (Unix seconds), if this collector leads and is responsible for
    them. Nothing is restored from a store that is currently unreadable; taking over the lead then makes up for that.

    A shard restores the records of all shards, and `mirror` continues from there.
    """
    with gc_freeze.frozen_after():
        try:
            version = 0 if store.shards is None else await store.shards.version()
            remembered = await store.load()
            latest = await store.history.latest_changes(limit=RECENT_CHANGES)
        except StoreError as error:
            if not store.survives(error):
                raise
            store.leadership.hold()
            publisher.record_to(store.history_writer)
            return
        absent = {uuid: place for uuid, place in remembered.absent.items() if place.cluster in configured}
        leads = store.leadership.leads and store.shards is None
        nodes = [node for node in remembered.nodes if leads or node.place.cluster in configured]
        step = inventory.restore(nodes, absent, remembered.left, remembered.facts, remembered.lost)
        publisher.publish(step, record=False)
        await exposition.refresh()  # before the first requests to many clusters, and so before the first scrape
    recent.add([as_change(change) for change in reversed(latest)])
    publisher.record_to(store.history_writer)
    if mirror is not None:
        mirror.begin(version, max((change.id for change in latest), default=0))
        return
    for cluster in set(inventory.clusters()) - set(configured):
        publisher.publish(inventory.remove_cluster(cluster, now))
