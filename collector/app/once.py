"""One round through all clusters, for `gpuid run --once`: waits until everything is read, recorded and delivered."""

import anyio

from collector.app.collected import CollectedClusters
from collector.app.outcome import NOT_IN_TIME, Outcome, SinkOutcome, cluster_outcomes, sink_outcomes
from collector.app.round import Round
from collector.delivery.delivery import Delivery
from collector.inventory import Inventory
from collector.store import Store, StoreError
from collector.views.sink_status import SinkStatuses

__all__ = ["complete_round"]

_DELIVER_SECONDS = 5.0  # minimum for recording and delivering
_INTERVAL_SECONDS = 0.2  # between two checks of what is still to be done
_PAUSE_FACTOR = 20.0  # minimum pause after a check, as a multiple of its duration


async def complete_round(
    round_: Round,
    clusters: CollectedClusters,
    inventory: Inventory,
    *,
    store: Store | None,
    delivery: Delivery | None,
    sinks: SinkStatuses,
    timeout: float,
) -> Outcome:
    """Wait until all clusters are read and their changes recorded and delivered; return the outcome.

    After `timeout` seconds, reading stops; what was read is still recorded and delivered, for a few seconds.
    """
    deadline = anyio.current_time() + timeout
    with anyio.CancelScope(deadline=deadline):
        while True:
            began = anyio.current_time()
            if round_.is_over(clusters, inventory):
                break
            # Checking a large fleet takes long, and most of the time is for reading it.
            await anyio.sleep(max(_INTERVAL_SECONDS, _PAUSE_FACTOR * (anyio.current_time() - began)))
    found = cluster_outcomes(round_, clusters, inventory)
    deadline = max(deadline, anyio.current_time() + _DELIVER_SECONDS)
    if store is None or delivery is None:
        return Outcome(found, [], round_.changes, "", "")
    unrecorded = ""
    with anyio.CancelScope(deadline=deadline) as scope:
        unrecorded = await _why_unrecorded(store, round_.patience)
    if scope.cancelled_caught:
        unrecorded = _hindrance(store) or NOT_IN_TIME
    delivered: list[SinkOutcome] = []
    if not unrecorded:
        try:
            with anyio.CancelScope(deadline=deadline):
                await delivery.deliver_all(round_.patience)
            delivered = await sink_outcomes(store, sinks, round_.began)
        except StoreError as error:
            unrecorded = str(error)
    return Outcome(found, delivered, round_.changes, str(store.database.location), unrecorded)


async def _why_unrecorded(store: Store, patience: float) -> str:
    """Wait until everything is committed; return why it is not after `patience` seconds, or an empty string."""
    until = anyio.current_time() + patience
    while not store.leadership.leads:
        if anyio.current_time() >= until:
            return _hindrance(store)
        await anyio.sleep(_INTERVAL_SECONDS)
    until = anyio.current_time() + patience
    while not await store.history_writer.flushed(patience):
        if anyio.current_time() >= until and not store.health.status.up:
            return store.health.status.message or "the store did not respond in time"
        await anyio.sleep(_INTERVAL_SECONDS)
    return ""


def _hindrance(store: Store) -> str:
    """Return what keeps this collector from recording; empty if nothing is known."""
    if trouble := store.health.status.message:
        return trouble
    if not store.leadership.leads:
        return f"another collector leads: {store.leadership.status.holder or 'unknown'}"
    return ""
