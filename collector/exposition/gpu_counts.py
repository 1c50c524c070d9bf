"""Counts the known GPUs by cluster, model and state, from which the healthy share follows.

The counts are updated incrementally: a change costs its node, and a query costs a cluster's models.
"""

import functools
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from collector.health import degradations
from collector.model import GpuRef, NodeState, Place

__all__ = ["MAX_MODELS", "GpuCounts", "GpuState", "Share"]

MAX_MODELS = 64  # counted separately in a cluster; a fleet has a few, a hostile cluster any number

_KINDS_HELD = 256  # of node counts that are shared: most nodes have the same number of GPUs of one model, all healthy
_MODELS_OF_NODE = 4  # counted separately on a node; a real one has one or two, a hostile one any number
_SHARED_LENGTH = 2  # counts of a typical node; longer ones may be made up


class GpuState(StrEnum):
    """The state of a known GPU; each counts once, in the first state that applies."""

    DEGRADED = "degraded"  # present, including lost ones and addresses that do not respond
    UNREADABLE = "unreadable"  # present, but its node or cluster cannot be read or has not been read yet
    HEALTHY = "healthy"  # present, readable and not degraded
    MISSING = "missing"  # in its node's capacity, but neither found nor lost


class Share(NamedTuple):
    """The number of known GPUs, and how many of them are healthy."""

    healthy: int = 0
    known: int = 0

    @property
    def ratio(self) -> float | None:
        """The healthy share of known GPUs, from 0 to 1; None if none is known."""
        return self.healthy / self.known if self.known else None

    def plus(self, other: "Share") -> "Share":
        """Return the sum."""
        return Share(self.healthy + other.healthy, self.known + other.known)


Counts = dict[tuple[str, GpuState], int]  # by model; empty if unknown
Tally = tuple[tuple[tuple[str, GpuState], int], ...]


class GpuCounts:
    """The known GPUs by cluster, model and state, always current.

    Virtual GPUs are shares of boards and not counted. A claimed GPU counts where it was first, and one in conflict in
    each place that confirms it.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, dict[str, Tally]] = {}  # by cluster and name
        self._clusters: dict[str, Counts] = {}
        self._models: dict[str, dict[str, str]] = {}  # likewise, of the node's last GPUs

    def update(self, nodes: Mapping[Place, NodeState | None]) -> None:
        """Update the counts of these nodes; None: the node is gone."""
        for place, state in nodes.items():
            before = self._nodes.get(place.cluster, {}).get(place.node, ())
            after = () if state is None else self._tally(state)
            if before == after:
                continue
            if after:
                self._nodes.setdefault(place.cluster, {})[place.node] = after
            else:
                del self._nodes[place.cluster][place.node]
                self._forget_model(place)
            self._add(place.cluster, before, after)

    def _tally(self, state: NodeState) -> Tally:
        cluster, node = state.place
        tally = _tally(state, self._models.get(cluster, {}).get(node, ""))
        if state.gpus and tally:
            models = {model for (model, _), _ in tally}
            self._models.setdefault(cluster, {})[node] = models.pop() if len(models) == 1 else ""
        return _shared(tally) if len(tally) <= _SHARED_LENGTH else tally

    def _forget_model(self, place: Place) -> None:
        models = self._models.get(place.cluster, {})
        models.pop(place.node, None)
        if not models:
            self._models.pop(place.cluster, None)

    def _add(self, cluster: str, before: Tally, after: Tally) -> None:
        counts = self._clusters.setdefault(cluster, {})
        for key, count in before:
            counts[key] -= count
            if not counts[key]:
                del counts[key]
        for key, count in after:
            counts[key] = counts.get(key, 0) + count
        if not counts:
            del self._clusters[cluster], self._nodes[cluster]

    def total(self, cluster: str) -> int:
        """Return how many GPUs of a cluster are known."""
        return sum(self._clusters.get(cluster, {}).values())

    def of(self, cluster: str, *, up: bool) -> Counts:
        """Return the GPUs of a cluster; if it is not up, healthy ones count as unreadable.

        Each model has a count of healthy GPUs, possibly 0; other states are present only if not zero. All models except
        the MAX_MODELS most common ones count as unknown.
        """
        counts = self._clusters.get(cluster, {}).copy()  # in one step, since another thread may read it
        models: dict[str, int] = {}
        for (model, _), count in counts.items():
            models[model] = models.get(model, 0) + count
        kept = set(models)
        if len(models) > MAX_MODELS:
            kept = set(sorted(models, key=lambda model: (-models[model], model))[:MAX_MODELS])
        found: Counts = {}
        for (model, state), count in counts.items():
            name = model if model in kept else ""
            found.setdefault((name, GpuState.HEALTHY), 0)
            key = (name, GpuState.UNREADABLE if state is GpuState.HEALTHY and not up else state)
            found[key] = found.get(key, 0) + count
        return found


def _tally(state: NodeState, model_before: str) -> Tally:
    """Return the known GPUs of a node by model and state; missing GPUs of an empty node have its last model."""
    counts: Counts = {}
    models: set[str] = set()
    silent = {one.pci_bus_id for one in state.silent}
    lost = state.lost_uuids
    fine = GpuState.HEALTHY if state.unread is None else GpuState.UNREADABLE
    same = state.uniform  # then one stands for all
    degraded = same and bool(degradations(state.condition(state.gpus[0], state.since[0])))
    present = 0  # and identified
    if same and not state.claims and len(kinds := {(gpu.model or "", gpu.virtual) for gpu in state.gpus}) == 1:
        ((model, virtual),) = kinds
        present = len(state.gpus)
        if not virtual:
            models.add(model)
            counts[model, GpuState.DEGRADED if degraded else fine] = present
    else:
        for gpu, since in zip(state.gpus, state.since, strict=True):
            if silent and gpu.uuid not in lost and GpuRef.of(gpu).pci_bus_id in silent:
                continue  # probably the one that does not respond there
            present += 1
            if gpu.virtual or gpu.uuid in state.claims:
                continue
            model = gpu.model or ""
            models.add(model)
            if not same:
                degraded = bool(degradations(state.condition(gpu, since)))
            key = (model, GpuState.DEGRADED if degraded else fine)
            counts[key] = counts.get(key, 0) + 1
    if len(models) > _MODELS_OF_NODE:
        counts = _of_most_common(counts)
    only = model_before if not state.gpus else models.pop() if len(models) == 1 else ""  # usually one model
    if silent:
        counts[only, GpuState.DEGRADED] = counts.get((only, GpuState.DEGRADED), 0) + len(state.silent)
    if (missing := (state.node.capacity or 0) - present - len(state.silent)) > 0:
        key = (only, GpuState.UNREADABLE if state.time is None else GpuState.MISSING)
        counts[key] = counts.get(key, 0) + missing
    return tuple(sorted(counts.items())) if len(counts) > 1 else tuple(counts.items())


def _of_most_common(counts: Counts) -> Counts:
    """Return the GPUs of a node, counting its rarest models as unknown."""
    models: Counter[str] = Counter()
    for (model, _), count in counts.items():
        models[model] += count
    kept = {model for model, _ in sorted(models.items(), key=lambda one: (-one[1], one[0]))[:_MODELS_OF_NODE]}
    found: Counts = {}
    for (model, state), count in counts.items():
        key = (model if model in kept else "", state)
        found[key] = found.get(key, 0) + count
    return found


@functools.lru_cache(maxsize=_KINDS_HELD)
def _shared(tally: Tally) -> Tally:
    """Return a shared object for equal values."""
    return tally
