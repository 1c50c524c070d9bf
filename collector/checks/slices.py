"""Checks whether a collector can see a cluster's ResourceSlices, and the GPUs in them."""

from collections.abc import Collection, Mapping

import msgspec

from collector.checks.rights import SLICE_RIGHTS
from collector.collect.slice_watch import find_slice_api, slices
from collector.collect.slices import NodeDevices, SliceBook
from collector.kube.access import Right
from collector.kube.client import ApiClient
from collector.kube.errors import ClusterError
from collector.kube.reflector import list_all
from collector.text import counted

__all__ = ["SliceReport", "look_at_slices"]

_WITHOUT = "without them, GPU nodes known only to a DRA driver have no capacity, and losses there show only in readings"


class SliceReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result; `text` is one line."""

    text: str
    seen: bool = True  # False if there may be slices that are not visible
    gpus: Mapping[str, int] = {}  # listed, by node


async def look_at_slices(client: ApiClient, denied: Collection[Right]) -> SliceReport:
    """List a cluster's slices, given the `denied` rights; failures are in the report."""
    try:
        api = await find_slice_api(client)
        if api is None:
            return SliceReport(text="the API server has no ResourceSlices")
        missing = [right.verb for right in SLICE_RIGHTS if right in denied]
        if missing:
            right = SLICE_RIGHTS[0]
            what = f"may not {' or '.join(missing)} {right.resource}.{right.group}"
            return SliceReport(text=f"ResourceSlices are not visible: {what}; {_WITHOUT}", seen=False)
        found, _version = await list_all(client, slices(client, api(client).list_resource_slice))
    except ClusterError as error:
        return SliceReport(text=f"ResourceSlices are not visible: {error}", seen=False)
    nodes: dict[str, NodeDevices | None] = {}
    book = SliceBook(nodes.__setitem__)
    for one in found.values():
        book.apply(None, one)
    counts = {node: devices.gpus + devices.passed for node, devices in nodes.items() if devices is not None}
    gpus = {node: count for node, count in counts.items() if count}
    listed = f"{counted(sum(gpus.values()), 'GPU')} on {counted(len(gpus), 'node')}"
    return SliceReport(text=f"ResourceSlices list {listed}", gpus=gpus)
