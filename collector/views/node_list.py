"""The nodes of a cluster or of all as a list: which of them, in which order."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from collector.marks import MarkKind
from collector.model import NodeState, Place
from collector.text import natural_key
from collector.views.cluster_summary import is_overdue, missing_gpus
from collector.views.collector_view import CollectorView
from collector.views.degraded import worst_in
from collector.views.fleet import walk_nodes
from collector.views.problems.kinds import NodeCondition

__all__ = [
    "ANY_CONDITION",
    "NODE_SORTS",
    "NodeFilter",
    "NodesAtOdds",
    "admits_node",
    "filtered_nodes",
    "nodes_at_odds",
]

ANY_CONDITION = "wrong"  # what chooses the nodes that have any condition

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
    """Which nodes are wanted; what is empty admits all."""

    cluster: str = ""
    show: str = ""  # a condition, or ANY_CONDITION
    name: str = ""  # part of the name of the node or the machine
    model: str = ""
    driver: str = ""


class NodesAtOdds(NamedTuple):
    """The nodes whose GPUs other nodes report, too."""

    contested: set[Place]
    claimed: set[Place]


def nodes_at_odds(view: CollectorView, cluster: str = "") -> NodesAtOdds:
    """Return those of one cluster, or of all."""
    inventory = view.inventory
    odds = NodesAtOdds(set(), set())
    for name in [cluster] if cluster else inventory.clusters():
        odds.contested.update(Place(name, node) for node in inventory.nodes_in_conflict(name))
        odds.claimed.update(Place(name, node) for node in inventory.nodes_in_claim(name))
    return odds


async def filtered_nodes(view: CollectorView, wanted: NodeFilter, odds: NodesAtOdds) -> list[NodeState]:
    """Return the nodes that a filter admits, giving other tasks their turn."""
    admitted = admits_node(view, wanted, odds)
    clusters = {wanted.cluster} if wanted.cluster else None
    return [entry async for entry in walk_nodes(view.inventory, clusters) if admitted(entry)]


def admits_node(view: CollectorView, wanted: NodeFilter, odds: NodesAtOdds) -> Callable[[NodeState], bool]:
    """Return what says whether a filter admits a node of the wanted cluster."""
    has_condition = _condition(view, wanted.show, odds)
    name = wanted.name.lower()
    return lambda entry: (
        (not name or name in entry.place.node.lower() or name in entry.node.machine.lower())
        and (not wanted.driver or entry.driver_version == wanted.driver)
        and (not wanted.model or any(gpu.model == wanted.model for gpu in entry.gpus))
        and has_condition(entry)
    )


def _condition(view: CollectorView, show: str, odds: NodesAtOdds) -> Callable[[NodeState], bool]:
    conditions: dict[str, Callable[[NodeState], bool]] = {
        NodeCondition.FAILING: lambda entry: entry.failing is not None,
        NodeCondition.LOST: lambda entry: entry.lost > 0,
        NodeCondition.DEGRADED: lambda entry: worst_in(entry) is not None,
        NodeCondition.MARKED_RMA: functools.partial(_has_marked_rma, view),
        NodeCondition.MISSING: lambda entry: missing_gpus(entry) > 0,
        NodeCondition.UNREAD: lambda entry: entry.unread is not None,
        NodeCondition.OVERDUE: functools.partial(is_overdue, view),
        NodeCondition.CONFLICT: lambda entry: entry.place in odds.contested,
        NodeCondition.CLAIM: lambda entry: entry.place in odds.claimed,
    }
    if show == ANY_CONDITION:
        return lambda entry: any(holds(entry) for holds in conditions.values())
    return conditions.get(show, lambda _entry: True)


def _has_marked_rma(view: CollectorView, entry: NodeState) -> bool:
    now = view.now()
    marks = (view.marks.of(gpu.uuid, gpu.serial, now) for gpu in entry.gpus)
    return any(mark is not None and mark.kind is MarkKind.RMA for mark in marks)


def _name(entry: NodeState) -> tuple[Any, ...]:
    return natural_key(entry.place.node)
