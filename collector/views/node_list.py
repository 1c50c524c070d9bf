"""The list of nodes, of one cluster or all: filters and order."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from collector.model import NodeState
from collector.text import natural_key
from collector.views.cluster_summary import missing_gpus
from collector.views.collector_view import CollectorView
from collector.views.fleet import walk_nodes
from collector.views.node_conditions import NodesAtOdds, node_test

__all__ = ["NODE_SORTS", "NodeFilter", "filtered_nodes"]

NODE_SORTS: Mapping[str, Callable[[NodeState], Any]] = {
    "node": lambda entry: _name(entry),
    "cluster": lambda entry: (natural_key(entry.place.cluster), _name(entry)),
    "machine": lambda entry: (entry.node.machine, _name(entry)),
    "chassis": lambda entry: (entry.chassis, _name(entry)),
    "gpus": lambda entry: (entry.found or 0, _name(entry)),
    "missing": lambda entry: (missing_gpus(entry) + entry.lost, _name(entry)),
    "driver": lambda entry: (entry.driver_version or "", _name(entry)),
    "read": lambda entry: (entry.time or 0.0, _name(entry)),
}


class NodeFilter(NamedTuple):
    """Filters for nodes; empty ones match all."""

    cluster: str = ""
    show: str = ""  # a condition of collector.views.node_conditions
    name: str = ""  # part of the name of the node or the machine
    model: str = ""
    driver: str = ""


async def filtered_nodes(view: CollectorView, wanted: NodeFilter, odds: NodesAtOdds) -> list[NodeState]:
    """Return the nodes that match a filter, letting other tasks run."""
    passes = node_test(view, [wanted.show] if wanted.show else [], odds)
    name = wanted.name.lower()
    clusters = {wanted.cluster} if wanted.cluster else None
    return [
        entry
        async for entry in walk_nodes(view.inventory, clusters)
        if (not name or name in entry.place.node.lower() or name in entry.node.machine.lower())
        and (not wanted.driver or entry.driver_version == wanted.driver)
        and (not wanted.model or any(gpu.model == wanted.model for gpu in entry.gpus))
        and passes(entry)
    ]


def _name(entry: NodeState) -> tuple[Any, ...]:
    return natural_key(entry.place.node)
