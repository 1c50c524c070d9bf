"""Counts the known GPUs by cluster, model and state; what share of them is healthy is one number for a fleet.

The counts are kept up to date: a change costs its node, and asking for them the models of a cluster.
"""

import functools
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from collector.health import degradations
from collector.model import GpuRef, NodeState, Place

__all__ = ["MAX_MODELS", "GpuCounts", "GpuState", "Share"]

MAX_MODELS = 64  # counted separately in a cluster; a fleet has a few, and a hostile cluster any number

_KINDS_HELD = 256  # of nodes whose counts are held once: most nodes have as many GPUs of one model, all healthy
_MODELS_OF_NODE = 4  # counted separately on a node; a real one has one or two, and a hostile one any number
_SHARED_LENGTH = 2  # counts of a node that is like others; what is longer may be made up


class GpuState(StrEnum):
    """What is known of a GPU; each known GPU counts once, in the first of these states that holds."""

    DEGRADED = "degraded"  # present; lost ones too, and addresses that do not answer
    UNREADABLE = "unreadable"  # present, but its node or its cluster cannot be read now, or has not been read yet
    HEALTHY = "healthy"  # present, readable and not degraded
    MISSING = "missing"  # in its node's capacity, and neither found nor lost


class Share(NamedTuple):
    """How many GPUs are known, and how many of these are healthy."""

    healthy: int = 0
    known: int = 0

    @property
    def ratio(self) -> float | None:
        """The share of the known GPUs that is healthy, from 0 to 1; None where none is known."""
        return self.healthy / self.known if self.known else None

    def plus(self, other: "Share") -> "Share":
        """Return both together."""
        return Share(self.healthy + other.healthy, self.known + other.known)


Counts = dict[tuple[str, GpuState], int]  # by model, which is empty where it is not known
Tally = tuple[tuple[tuple[str, GpuState], int], ...]


class GpuCounts:
    """The known GPUs by cluster, model and state, as the nodes have them at this instant.

    Virtual GPUs are shares of boards, and not counted. A GPU that a second node claims counts where it was first, and
    one in conflict in each place that confirms it.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, dict[str, Tally]] = {}  # by cluster and name
        self._clusters: dict[str, Counts] = {}
        self._models: dict[str, dict[str, str]] = {}  # likewise, that of a node's GPUs when it had any

    def update(self, nodes: Mapping[Place, NodeState | None]) -> None:
        """Count these nodes as they are now; None: the node is gone."""
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

    def of(self, cluster: str, *, up: bool) -> Counts:
        """Return the GPUs of a cluster; in one that is not up, the healthy ones are unreadable.

        Each model has its healthy GPUs, be it none; the other states are there only where they are not zero. All models
        but the MAX_MODELS most common ones are counted as unknown.
        """
        counts = self._clusters.get(cluster, {}).copy()  # in one step, since another thread may ask
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
    """Return the known GPUs of a node by model and state; a node without any has those of the model of before."""
    counts: Counts = {}
    models: set[str] = set()
    silent = {one.pci_bus_id for one in state.silent}
    lost = state.lost_uuids
    fine = GpuState.HEALTHY if state.unread is None else GpuState.UNREADABLE
    same = state.uniform  # then one is judged for all
    degraded = same and bool(degradations(state.condition(state.gpus[0], state.since[0])))
    present = 0  # and known by name
    for gpu, since in zip(state.gpus, state.since, strict=True):
        if silent and gpu.uuid not in lost and GpuRef.of(gpu).pci_bus_id in silent:
            continue  # most likely the one that does not answer there
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
    only = model_before if not state.gpus else models.pop() if len(models) == 1 else ""  # one model, as a rule
    if silent:
        counts[only, GpuState.DEGRADED] = counts.get((only, GpuState.DEGRADED), 0) + len(state.silent)
    if (missing := (state.node.capacity or 0) - present - len(state.silent)) > 0:
        key = (only, GpuState.UNREADABLE if state.time is None else GpuState.MISSING)
        counts[key] = counts.get(key, 0) + missing
    return tuple(sorted(counts.items())) if len(counts) > 1 else tuple(counts.items())


def _of_most_common(counts: Counts) -> Counts:
    """Return the GPUs of a node with those of its rarest models as of no known one."""
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
    """Return one object for all equal ones."""
    return tally
