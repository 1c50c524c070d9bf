"""Keeps the lead among the collectors that share a store, or takes it over when it is free."""

import logging
from collections.abc import Callable, Sequence

import anyio
import msgspec

from collector.inventory import Inventory
from collector.model import NodeState, Place
from collector.store import LostLeadershipError, Store, StoreError

__all__ = ["TakeOver"]

log = logging.getLogger(__name__)

ASK_SECONDS = 1.0  # between two questions of who leads


class TakeOver:
    """A loop that makes a standby the leader; the history then comes to agree with the inventory.

    Before that, `adopt` gets all that the leader before had recorded, some nodes at a time: what the inventory does not
    know yet belongs into it.
    """

    def __init__(self, store: Store, inventory: Inventory, adopt: Callable[[Sequence[NodeState]], None]) -> None:
        self._store = store
        self._inventory = inventory
        self._adopt = adopt

    async def run(self) -> None:
        """Keep the lead, or take it when it is free, until cancelled."""
        leadership, health = self._store.leadership, self._store.health
        logged: bool | None = self._store.database.single_process or None
        while True:
            try:
                if await leadership.ask() and not leadership.recording:
                    await self._take_over()
                elif self._store.database.renewed:
                    await self._store.renew(self._snapshot)
                health.succeeded("lead")
            except LostLeadershipError:
                log.debug("lost the election to another collector")
            except StoreError as error:
                health.failed("lead", str(error))
            else:
                if leadership.leads is not logged:
                    logged = leadership.leads
                    log.info(
                        "leading: recording into the store and delivering to the sinks"
                        if logged
                        else "standing by: another collector leads"
                    )
            await anyio.sleep(ASK_SECONDS)

    def _snapshot(self) -> dict[Place, NodeState]:
        return {
            Place(cluster, node): state
            for cluster in self._inventory.clusters()
            for node, state in self._inventory.nodes(cluster).items()
        }

    async def _take_over(self) -> None:
        """Begin to record, first what the leader before has missed; nobody else writes meanwhile."""
        await self._store.reconcile_again()
        self._store.database.renewed = False  # all of the inventory is about to be recorded
        inventory, standby = self._inventory, self._store.leadership.standby
        standby.forget_touched()
        recorded: set[Place] = set()
        different: set[Place] = set()
        async for part in self._store.nodes():
            self._adopt([node for node in part if node.place not in standby.gone])
            recorded |= {node.place for node in part}
            different |= {node.place for node in part if not _agrees(inventory.node(node.place), node)}
        different |= self._snapshot().keys() - recorded
        self._store.history_writer.begin({place: inventory.node(place) for place in different | standby.touched})


def _agrees(node: NodeState | None, recorded: NodeState) -> bool:
    """Return whether two collectors know the same of a node, each by its own reading."""
    if node is None:
        return False
    passing = {"time": recorded.time, "failing": recorded.failing, "uncovered": recorded.uncovered}
    return msgspec.structs.replace(node, **passing) == recorded
