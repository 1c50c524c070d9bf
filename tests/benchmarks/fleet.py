"""Readings of a simulated fleet without any network: what `nvidia-smi` would have said, as readings."""

import sys
import time
from collections.abc import Iterator

import msgspec

from collector.exposition import Exposition, Metrics
from collector.inventory import Inventory
from collector.model import Fingerprint, Gpu, NodeInfo, Reading
from collector.simulator.fleet import MODELS, Fleet

__all__ = ["Published", "gpus_of", "readings"]

_SWAPPED = "GPU-ffffffff"


def readings(clusters: int, nodes: int, gpus: int) -> Iterator[Reading]:
    """Give a reading of every node of `clusters` × `nodes`."""
    fleet, shared = Fleet(clusters=clusters, nodes=nodes, gpus=gpus), sys.intern
    for cluster in fleet.clusters:
        for node in fleet.nodes(cluster):
            identity = f"{cluster}-{node}"
            yield Reading(
                cluster=cluster,
                node=NodeInfo(
                    name=shared(node),
                    provider_id=f"aws:///us-east-1a/i-{identity}",
                    boot_id=identity,
                    capacity=gpus,
                    allocatable=gpus,
                ),
                source=f"gpu-operator/nvidia-device-plugin-{identity}",
                fingerprint=Fingerprint(
                    pod_uid=identity, container_id=identity, restarts=0, boot_id=identity, capacity=gpus
                ),
                time=time.time(),
                driver_version="570.124.06",
                cuda_version="12.8",
                gpus=gpus_of(fleet, cluster, node),
            )


def gpus_of(fleet: Fleet, cluster: str, node: str) -> tuple[Gpu, ...]:
    """Give a node's GPUs as the parser does; texts that a fleet shares are shared."""
    shared = sys.intern
    return tuple(
        Gpu(
            uuid=card.uuid,
            serial=card.serial,
            model=shared(MODELS[card.kind]),
            architecture="Hopper" if card.kind == "h100" else "Blackwell",
            chassis=shared(card.chassis) or None,
            slot=shared(card.slot) or None,
            tray=shared(card.tray) or None,
            host=shared(card.host) or None,
            module=shared(str(card.module)),
            pci_bus_id=shared(card.bus_id),
            board_part_number="692-2G520-0200-000",
            gpu_part_number="2330-885-A1",
            minor_number=card.minor,
            vbios="96.00.A5.00.01",
            mig=card.mig,
        )
        for card in fleet.cards(cluster, node)
    )


class Published:
    """An inventory with the exposition over it, wired as the service does it, and one reading of every node in it."""

    def __init__(self, clusters: int, nodes: int, gpus: int) -> None:
        self.metrics = Metrics()
        self.inventory = Inventory()
        self.exposition = Exposition(self.metrics)
        self.readings: list[Reading] = []
        for reading in readings(clusters, nodes, gpus):
            if not self.inventory.nodes(reading.cluster):
                self.metrics.add_cluster(reading.cluster)
            self._apply(reading)
            self.readings.append(reading)

    def change(self, index: int) -> None:
        """Swap the last GPU of a node for another one."""
        before = self.readings[index]
        *others, last = before.gpus
        swapped = msgspec.structs.replace(last, uuid=f"{_SWAPPED}{(last.uuid or '')[-28:]}", serial=f"9{index:012}")
        after = before if self._swapped(before) else msgspec.structs.replace(before, gpus=(*others, swapped))
        self._apply(msgspec.structs.replace(after, time=time.time()))

    def _apply(self, reading: Reading) -> None:
        self.exposition.update(self.inventory.apply(reading).nodes)

    def _swapped(self, reading: Reading) -> bool:
        entry = self.inventory.nodes(reading.cluster)[reading.node.name]
        return any((gpu.uuid or "").startswith(_SWAPPED) for gpu in entry.gpus)
