"""A fleet that changes, and the store that records it."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio

from collector.app.take_over import TakeOver
from collector.inventory import Inventory
from collector.model import Change, Fingerprint, Gpu, GpuRef, NodeInfo, NodeState, Place, Reading, Step, UnidentifiedGpu
from collector.store import OpenMode, Store, StoreSettings
from tests.support.moves import let_go

__all__ = ["RecordedFleet", "collecting"]


class RecordedFleet:
    """An inventory and the store that follows it, as the app wires them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.inventory = Inventory()
        self.changes: list[Change] = []

    async def restore(self) -> None:
        remembered = await self.store.load()
        self.inventory.restore(remembered.nodes, remembered.absent, remembered.left, remembered.facts, remembered.lost)

    def adopt(self, nodes: Sequence[NodeState]) -> None:
        for recorded in nodes:
            step = self.inventory.adopt(recorded)
            if step.changes:
                self._record(step)

    def read(
        self,
        node: str,
        time: float,
        *gpus: str | Gpu | UnidentifiedGpu,
        cluster: str = "prod",
        both: bool = False,
        lost: Sequence[str] = (),
    ) -> list[Change]:
        """Apply a reading that found GPUs, given by the last part of their UUIDs; those that are `lost` do not respond.

        The nodes that had them no longer have them, unless `both` leaves that unsettled.
        """
        found = tuple(
            gpu
            if isinstance(gpu, Gpu)
            else Gpu(uuid=f"GPU-{gpu}", serial=f"serial-{gpu}", model="NVIDIA H100", chassis="chassis-1")
            for gpu in gpus
            if not isinstance(gpu, UnidentifiedGpu)
        )
        reading = Reading(
            cluster=cluster,
            node=NodeInfo(name=node, provider_id=f"aws:///eu-1/i-{node}", capacity=8, allocatable=8),
            source=f"gpu-operator/plugin-{node}",
            fingerprint=Fingerprint(pod_uid=f"pod-{node}", container_id="c", restarts=0, boot_id="b", capacity=8),
            time=time,
            driver_version="580.1",
            cuda_version="13.0",
            gpus=found,
            lost=tuple(GpuRef(f"GPU-{uuid}") for uuid in lost),
            unidentified=tuple(gpu for gpu in gpus if isinstance(gpu, UnidentifiedGpu)),
        )
        step = self.inventory.apply(reading)
        changes = self._record(step)
        if not both:
            for settled in let_go(self.inventory, step):
                changes += self._record(settled)
        return changes

    def conflict(self, first: str, second: str, time: float, *gpus: str) -> None:
        """Let two nodes confirm that they have the same GPUs: the claim, and an answer of each to it."""
        for number, node in enumerate((first, second, first, second)):
            self.read(node, time + number, *gpus, both=True)

    def remove(self, node: str, time: float, *, cluster: str = "prod") -> list[Change]:
        return self._record(self.inventory.remove_node(Place(cluster, node), time))

    def remove_cluster(self, cluster: str, time: float) -> list[Change]:
        return self._record(self.inventory.remove_cluster(cluster, time))

    def _record(self, step: Step) -> list[Change]:
        self.store.history_writer.append(step)
        self.changes += step.changes
        return list(step.changes)


@contextlib.asynccontextmanager
async def collecting(settings: StoreSettings, **options: Any) -> AsyncIterator[RecordedFleet]:
    """Open a store as a collector does, restore what it knows, and commit in the background until the end."""
    async with Store.open(settings, OpenMode.COLLECTOR, **options) as store:
        collector = RecordedFleet(store)
        await collector.restore()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.run)
            tasks.start_soon(TakeOver(store, collector.inventory, collector.adopt).run)
            try:
                yield collector
            finally:
                tasks.cancel_scope.cancel()
