"""The troubles of one node and its GPUs, each only once: an unread node is not overdue as well."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from collector.health import Degradation, Health, Level
from collector.model import Gpu, NodeState, Place, Placement, Uncovered, canonical_bus_id
from collector.text import counted
from collector.timestamps import rfc3339
from collector.views.cluster_summary import is_overdue, missing_gpus
from collector.views.collector_view import CollectorView
from collector.views.condition import REASON_WORDS
from collector.views.conflicts import claim_of, conflict_of
from collector.views.degraded import DegradedGpu, degraded_in
from collector.views.humanize import describe_unread, utc
from collector.views.missing import missing_from
from collector.views.problems.kinds import ProblemKind
from collector.views.problems.problem import ProblemGpu, ProblemNode
from collector.views.problems.trouble import Trouble

__all__ = ["NodeWalk", "describe_attempts"]

_BUS_ADDRESS = re.compile(r"\b[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]")
_UNLISTED = "no longer in its ResourceSlices"


class NodeWalk:
    """Finds the troubles of one cluster's nodes, node by node."""

    def __init__(self, view: CollectorView, cluster: str, marked_rma: Mapping[Place, Sequence[Gpu]]) -> None:
        self._view = view
        self._contested: Collection[str] = view.inventory.contested(cluster)
        self._claimed: Collection[str] = view.inventory.claimed(cluster)
        self._disputed_nodes = view.inventory.nodes_in_conflict(cluster) if self._contested else set()
        if self._claimed:
            self._disputed_nodes |= view.inventory.nodes_in_claim(cluster)
        self._marked_rma = marked_rma
        self._sound: dict[int, Health] = {}

    def troubles(self, entry: NodeState) -> Iterator[Trouble]:
        """Yield the troubles of a node and its GPUs."""
        accused = _accused(entry)
        found = list(self._of_gpus(entry))
        own = [one for one in found if one.kind is ProblemKind.GPU_LOST and one.gpus[0].pci_bus_id in accused]
        for trouble in self._reading(entry):
            if own and trouble.kind is ProblemKind.NODE_FAILING:  # caused by these GPUs: they are not separate problems
                gpus = tuple(gpu for one in own for gpu in one.gpus)
                explained = sum(one.count + one.consequences for one in own)
                yield msgspec.structs.replace(trouble, gpus=gpus, consequences=explained)
                found = [one for one in found if one not in own]
            else:
                yield trouble
        if missing := missing_gpus(entry):
            yield self._missing(entry, missing)
        yield from found
        if entry.place.node in self._disputed_nodes:
            yield from self._disputed(entry)

    def _of_gpus(self, entry: NodeState) -> Iterator[Trouble]:
        """Yield the GPUs that do not respond, need action or are marked."""
        reported: set[str] = set()
        for one in degraded_in(entry, self._sound):
            if not one.placement.claim:  # a claimed GPU counts where it was first
                reported.add(one.placement.gpu.uuid)
                yield self._degraded(entry, one)
        for silent in entry.silent:
            gpu = ProblemGpu(
                cluster=entry.place.cluster,
                node=entry.place.node,
                pci_bus_id=silent.pci_bus_id,
                reason=_UNLISTED if silent.unlisted else "was never read",
            )
            yield _of_gpu(ProblemKind.GPU_LOST, entry, gpu, silent.since)
        for marked in self._marked_rma.get(entry.place, ()):
            if marked.uuid not in reported:
                yield _of_gpu(ProblemKind.GPU_MARKED_RMA, entry, ProblemGpu.of(entry.place, marked, entry.time), None)

    def _reading(self, entry: NodeState) -> Iterator[Trouble]:
        unread, failing = entry.unread, entry.failing
        place = entry.place
        size = max(entry.node.capacity or 0, len(entry.gpus))
        if unread is None:
            if is_overdue(self._view, entry):
                since = (entry.time or 0.0) + self._view.refresh(place.cluster)
                reason = f"last read {utc(round(entry.time or 0.0))}"
                yield _of_node(ProblemKind.NODE_OVERDUE, "", entry, size, since, reason)
        elif unread.reason is Uncovered.PENDING:
            yield _of_node(ProblemKind.NODE_PENDING, "", entry, size, unread.since, "")
        elif entry.uncovered is not None or failing is None:
            yield _of_node(ProblemKind.NODE_UNREAD, unread.reason.value, entry, size, unread.since, "")
        else:
            reason = failing.message or describe_unread(failing.reason)
            node = ProblemNode(
                cluster=place.cluster,
                node=place.node,
                since=failing.since,
                reason=reason,
                tries=failing.tries,
                next_try=failing.next_try,
            )
            yield Trouble(
                ProblemKind.NODE_FAILING,
                failing.reason.value,
                size=size,
                cluster=place.cluster,
                node=node,
                since=failing.since,
                reason=reason,
            )

    def _missing(self, entry: NodeState, missing: int) -> Trouble:
        named = missing_from(self._view.inventory, entry)
        since = min((one.left for one in named if one.left is not None), default=None)
        found = f"{entry.found} of {counted(entry.node.capacity or 0, 'GPU')} found"
        return Trouble(
            ProblemKind.GPU_MISSING,
            count=missing,
            size=missing,
            cluster=entry.place.cluster,
            node=_node(entry, since, found),
            gpus=tuple(ProblemGpu.of(entry.place, one.gpu, one.last_seen) for one in named),
            since=since,
            reason=found,
        )

    def _degraded(self, entry: NodeState, one: DegradedGpu) -> Trouble:
        """Return the action that a GPU needs; an unresponsive one counts as lost, even if it also needs a reset."""
        placement, uuid = one.placement, one.placement.gpu.uuid
        lost = Degradation.LOST in one.reasons and one.level is not Level.REPLACE
        words = [REASON_WORDS[reason] for reason in one.reasons if not (lost and reason is Degradation.LOST)]
        if uuid in entry.unlisted_uuids:
            words.insert(0, _UNLISTED)
        gpu = ProblemGpu.of(entry.place, placement.gpu, placement.confirmed, ", ".join(words))
        marked = any(other.uuid == uuid for other in self._marked_rma.get(entry.place, ()))
        trouble = _of_gpu(
            ProblemKind.GPU_LOST if lost else ProblemKind.GPU_DEGRADED,
            entry,
            gpu,
            placement.lost_since if lost else None,
            variant="" if lost else (one.level or ""),
        )
        explained = marked + (not lost and Degradation.LOST in one.reasons)
        keys = (uuid,) if uuid in self._contested else ()
        return msgspec.structs.replace(trouble, keys=keys, consequences=explained)

    def _disputed(self, entry: NodeState) -> Iterator[Trouble]:
        """Yield the GPUs of a node that another place also reports."""
        for gpu in entry.gpus:
            if gpu.uuid in self._contested and gpu.uuid not in entry.claims:
                conflict = conflict_of(self._view.inventory, _homes_first(self._view, gpu))
                places = conflict.placements if conflict else []
                yield self._shared(ProblemKind.CONFLICT, entry, gpu, places)
            elif gpu.uuid in self._claimed:
                claimed = claim_of(self._view.inventory.find(uuid=gpu.uuid))
                places = [*claimed.homes, *claimed.claims] if claimed else []
                yield self._shared(ProblemKind.CLAIM, entry, gpu, places)

    def _shared(self, kind: ProblemKind, entry: NodeState, gpu: Gpu, places: Sequence[Placement]) -> Trouble:
        others = [one.place for one in places if one.place != entry.place]
        reason = f"also on {', '.join(f'{other.node} ({other.cluster})' for other in others)}" if others else ""
        since = max((one.since for one in places), default=None)  # both have reported it since the later one did
        described = ProblemGpu.of(entry.place, gpu, entry.time, reason)
        return msgspec.structs.replace(_of_gpu(kind, entry, described, since), keys=(gpu.uuid,), reason="")


def describe_attempts(tries: int | None, next_try: float | None) -> str:
    """Return the number of attempts and the next one: "3 attempts, next at …"."""
    if tries is None:
        return ""
    next_one = "" if next_try is None else f", next at {rfc3339(next_try, 'seconds')}"
    return f"{counted(tries, 'attempt')}{next_one}"


def _accused(entry: NodeState) -> set[str | None]:
    """Return the bus addresses in a failing node's message, in the form that its GPUs use."""
    if entry.failing is None or not (entry.unseen or entry.silent):
        return set()
    named = {canonical_bus_id(address) for address in _BUS_ADDRESS.findall(entry.failing.message)}
    here = [gpu.pci_bus_id for gpu in entry.gpus] + [one.pci_bus_id for one in entry.silent]
    return {address for address in here if address and canonical_bus_id(address) in named}


def _homes_first(view: CollectorView, gpu: Gpu) -> list[Placement]:
    return sorted(view.inventory.find(uuid=gpu.uuid), key=lambda placement: placement.claim)


def _node(entry: NodeState, since: float | None = None, reason: str = "") -> ProblemNode:
    return ProblemNode(cluster=entry.place.cluster, node=entry.place.node, since=since, reason=reason)


def _of_node(kind: ProblemKind, variant: str, entry: NodeState, size: int, since: float | None, reason: str) -> Trouble:
    node = _node(entry, since, reason)
    return Trouble(kind, variant, size=size, cluster=entry.place.cluster, node=node, since=since, reason=reason)


def _of_gpu(kind: ProblemKind, entry: NodeState, gpu: ProblemGpu, since: float | None, *, variant: str = "") -> Trouble:
    return Trouble(
        kind,
        variant,
        size=1,
        cluster=entry.place.cluster,
        node=_node(entry, since),
        gpus=(gpu,),
        since=since,
        reason=gpu.reason,
    )
