"""The conditions by which nodes are filtered: unread, missing GPUs, in conflict with other nodes and so on."""

import functools
from collections.abc import Callable, Collection
from typing import NamedTuple

from collector.marks import MarkKind
from collector.model import NodeState, Place
from collector.views.cluster_summary import is_overdue, missing_gpus
from collector.views.collector_view import CollectorView
from collector.views.degraded import worst_in
from collector.views.problems.kinds import NodeCondition

__all__ = ["ANY_CONDITION", "NodesAtOdds", "node_test", "nodes_at_odds"]

ANY_CONDITION = "wrong"  # stands for all conditions


class NodesAtOdds(NamedTuple):
    """The nodes whose GPUs are also reported by other nodes."""

    contested: set[Place]
    claimed: set[Place]


def nodes_at_odds(view: CollectorView, clusters: Collection[str] = ()) -> NodesAtOdds:
    """Return those of some or all clusters."""
    inventory = view.inventory
    odds = NodesAtOdds(set(), set())
    for name in clusters or inventory.clusters():
        odds.contested.update(Place(name, node) for node in inventory.nodes_in_conflict(name))
        odds.claimed.update(Place(name, node) for node in inventory.nodes_in_claim(name))
    return odds


def node_test(view: CollectorView, wanted: Collection[str], odds: NodesAtOdds) -> Callable[[NodeState], bool]:
    """Return a predicate for nodes in any of some conditions; without conditions, every node passes."""
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
    if not wanted:
        return lambda _entry: True
    chosen = [holds for name, holds in conditions.items() if name in wanted or ANY_CONDITION in wanted]
    return lambda entry: any(holds(entry) for holds in chosen)


def _has_marked_rma(view: CollectorView, entry: NodeState) -> bool:
    now = view.now()
    marks = (view.marks.of(gpu.uuid, gpu.serial, now) for gpu in entry.gpus)
    return any(mark is not None and mark.kind is MarkKind.RMA for mark in marks)
