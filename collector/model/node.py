"""A node: where it is, what Kubernetes says about it, and what a reading of it is valid for."""

from typing import NamedTuple

import msgspec

from collector.model.gpu import GpuRef

__all__ = [
    "Fingerprint",
    "NodeInfo",
    "Place",
    "Sharing",
]


class Place(NamedTuple):
    """Where a GPU can be: one node of one cluster."""

    cluster: str
    node: str


class Sharing(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How many units of a node's advertised capacity are one GPU, according to its readings."""

    units: int  # the advertised capacity when the node was read
    labelled: int  # units per GPU according to the labels at that time; 0 if unknown
    most: int  # the most GPUs found by one reading with this capacity
    shares: int  # units per GPU; 0 if unknown
    complete: bool  # a reading found all of these GPUs, so it holds until the capacity changes


class NodeInfo(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Kubernetes' data on a node that has GPUs or a GPU pod."""

    name: str
    uid: str = ""  # from its API server; empty only in data of an older store
    provider_id: str = ""
    boot_id: str = ""
    capacity: int | None = None  # GPUs of the node; None if the device plugin never registered or does not count GPUs
    allocatable: int | None = None  # GPUs allocatable to pods
    # The same two in Kubernetes' units: GPUs, shares or MIG instances.
    advertised: tuple[int | None, int | None] = (None, None)
    ready: bool = True  # False only if Kubernetes says so
    labels: tuple[tuple[str, str], ...] = ()  # only the labels on the configured allow-list, sorted
    gpu_sign: str = ""  # the resource or label that shows GPUs in Kubernetes; empty: none
    # The GPUs in complete ResourceSlices, with only addresses for those assigned to virtual machines; None: no slices.
    listed: tuple[GpuRef, ...] | None = None

    @property
    def machine(self) -> str:
        """The last path segment of the provider id, the cloud's instance name; empty if none."""
        return self.provider_id.rpartition("/")[2]


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What must be unchanged for an earlier reading of a node to remain valid."""

    pod_uid: str
    container_id: str
    restarts: int
    boot_id: str
    capacity: int | None  # as advertised
    allocatable: int | None = None
    listed: tuple[GpuRef, ...] | None = None  # by ResourceSlices
