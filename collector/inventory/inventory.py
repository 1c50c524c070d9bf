"""Applies readings to the fleet, knows where every GPU is, and returns what each step changed."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType

import msgspec

from collector.inventory.index import PlaceIndex
from collector.model import (
    NO_UUIDS,
    Change,
    Event,
    Failing,
    Gpu,
    Known,
    NodeInfo,
    NodeState,
    Place,
    Placement,
    ReadFailure,
    Reading,
    Step,
    canonical_uuid,
)

__all__ = ["MAX_ABSENT_GPUS", "Inventory"]

MAX_ABSENT_GPUS = 100_000  # whose last place is remembered; the longest absent are forgotten first

# Grace superchips carry two GPUs on one board under one serial, also where each is given to a node of its own.
_SUPERCHIP = re.compile(r"\bGB\d{3}\b")

_NO_NODES: Mapping[str, NodeState] = MappingProxyType({})


class Inventory:
    """Where every GPU is, keyed by UUID and indexed by serial, chassis and node.

    Every step returns what it changed and which nodes it touched, as values. Times are Unix seconds and always passed
    in. A step costs what its node's GPUs cost, however large the fleet is.

    A GPU seen on a second node has moved, and the first node's reading counts as taken elsewhere. When the first node's
    next reading still has the GPU, both keep confirming it: that is a conflict, published in both places until one of
    them stops. One serial under two UUIDs on two nodes is a conflict as well, except on boards whose GPUs share a
    serial.
    """

    def __init__(self, *, max_absent: int = MAX_ABSENT_GPUS) -> None:
        self._max_absent = max_absent
        self._nodes: dict[str, dict[str, NodeState]] = {}
        self._locations = PlaceIndex()  # by UUID; in several places it is a conflict
        self._serials = PlaceIndex()
        self._chassis = PlaceIndex()
        self._absent: dict[str, Place] = {}  # UUID -> where a GPU that is in no node was last
        self._shared_serials: set[str] = set()  # seen on two GPUs of one node: a board of several GPUs
        self._conflicts: dict[str, set[str]] = {}  # cluster -> UUIDs
        self._failing: Counter[tuple[str, ReadFailure]] = Counter()  # by cluster and reason: nodes

    # Steps

    def apply(self, reading: Reading) -> Step:
        """Replace all that a node had by what a reading of it found; a reading older than the last one is ignored."""
        place = Place(reading.cluster, reading.node.name)
        before = self.node(place) or NodeState(place=place, node=reading.node)
        if before.time is not None and reading.time < before.time:
            return Step()
        step = _Draft()
        node = msgspec.structs.replace(
            before,
            node=reading.node,
            time=reading.time,
            failing=None,
            driver_version=reading.driver_version,
            cuda_version=reading.cuda_version,
            source=reading.source,
            fingerprint=reading.fingerprint,
        )
        self._put(node, step)  # it has its GPUs of before until all of this reading's are placed
        left = {gpu.uuid: (gpu, since) for gpu, since in zip(before.gpus, before.since, strict=True)}
        found = {gpu.uuid: gpu for gpu in reading.gpus}
        self._note_shared_serials(found.values())

        gpus: list[Gpu] = []
        since: list[float] = []
        taken_elsewhere: set[str] = set()
        for uuid, gpu in found.items():
            if known := left.pop(uuid, None):
                if known[0] != gpu:
                    step.changes.append(Change.of(node, Event.ALTERED, reading.time, gpu))
                gpus.append(gpu if known[0] != gpu else known[0])  # the old one: one copy of its strings is enough
                since.append(known[1])
            elif self._arrived_later_elsewhere(uuid, reading.time):
                taken_elsewhere.add(uuid)
            else:
                step.changes.append(self._arrive(gpu, node, step))
                gpus.append(gpu)
                since.append(reading.time)
        node = msgspec.structs.replace(
            node,
            gpus=tuple(gpus),
            since=tuple(since),
            taken_elsewhere=frozenset(taken_elsewhere) if taken_elsewhere else NO_UUIDS,
        )
        self._put(node, step)
        step.changes += self._depart([gpu for gpu, _ in left.values()], node, reading.time)
        if step.changes:
            self._reindex(node.place, before.gpus, node.gpus)
        return step.done(reading)

    def set_node(self, cluster: str, node: NodeInfo) -> Step:
        """Keep what Kubernetes says of a node, before its first reading or between readings."""
        step = _Draft()
        place = Place(cluster, node.name)
        if (before := self.node(place)) is None:
            self._put(NodeState(place=place, node=node), step)
        elif before.node != node:
            self._put(msgspec.structs.replace(before, node=node), step)
        else:  # equal: the caller holds the new value anyway, and one copy is enough
            self._nodes[cluster][node.name] = msgspec.structs.replace(before, node=node)
        return step.done()

    def read_failed(self, place: Place, reason: ReadFailure, time: float) -> Step:
        """Keep until its next reading that a node cannot be read; of an unknown node nothing is kept."""
        step = _Draft()
        if (node := self.node(place)) is not None:
            failing = Failing(reason, time if node.failing is None else node.failing.since)
            if node.failing != failing:
                self._put(msgspec.structs.replace(node, failing=failing), step)
        return step.done()

    def remove_node(self, place: Place, time: float) -> Step:
        """Forget a node; what was in it has vanished until it is seen elsewhere."""
        step = _Draft()
        self._remove(place, time, step)
        return step.done()

    def remove_cluster(self, cluster: str, time: float) -> Step:
        """Forget a cluster and all that was ever seen in it."""
        step = _Draft()
        for node in list(self.nodes(cluster)):
            self._remove(Place(cluster, node), time, step)
        self._absent = {uuid: place for uuid, place in self._absent.items() if place.cluster != cluster}
        return Step(changes=tuple(step.changes), nodes=step.nodes, removed_cluster=cluster)

    def restore(self, nodes: Iterable[NodeState], absent: Mapping[str, Place]) -> Step:
        """Fill an empty inventory with what an earlier one knew; nothing counts as changed by it.

        `absent` says where GPUs that are in no node were last, by UUID.
        """
        if self._nodes:
            raise ValueError("only an empty inventory can be restored")
        step = _Draft()
        uuids: set[str] = set()  # in more than one place
        serials: set[str] = set()
        for node in nodes:
            self._put(node, step)
            self._note_shared_serials(node.gpus)
            uuids.update(gpu.uuid for gpu in node.gpus if self._locations.add(gpu.uuid, node.place))
            for serial in {gpu.serial for gpu in node.gpus} - {None}:
                if serial is not None and self._serials.add(serial, node.place):
                    serials.add(serial)
            for chassis in {gpu.chassis for gpu in node.gpus}:
                if chassis is not None:
                    self._chassis.add(chassis, node.place)
        for uuid in uuids:
            self._update_conflict(uuid)
        for serial in serials:
            self._update_conflicts_of_serial(serial)
        self._absent.update(itertools.islice(absent.items(), self._max_absent))
        return step.done()

    def adopt(self, recorded: NodeState) -> Step:
        """Take over what another inventory recorded of a node, where its reading is the newer one.

        A GPU that is there by both is there since when the other one says.
        """
        steps = []
        if self.node(recorded.place) is None:
            steps.append(self.set_node(recorded.place.cluster, recorded.node))
        node = self._nodes[recorded.place.cluster][recorded.place.node]
        if recorded.time is not None and recorded.fingerprint is not None:
            if node.time is None or node.time < recorded.time:
                reading = Reading(
                    cluster=recorded.place.cluster,
                    node=node.node,
                    source=recorded.source,
                    fingerprint=recorded.fingerprint,
                    time=recorded.time,
                    driver_version=recorded.driver_version,
                    cuda_version=recorded.cuda_version,
                    gpus=recorded.gpus,
                )
                steps.append(self.apply(reading))
                node = self._nodes[recorded.place.cluster][recorded.place.node]
            known = {gpu.uuid: since for gpu, since in zip(recorded.gpus, recorded.since, strict=True)}
            since = tuple(known.get(gpu.uuid, own) for gpu, own in zip(node.gpus, node.since, strict=True))
            if since != node.since:
                draft = _Draft()
                self._put(msgspec.structs.replace(node, since=since), draft)
                steps.append(draft.done())
        return Step(
            changes=tuple(change for step in steps for change in step.changes),
            nodes={place: state for step in steps for place, state in step.nodes.items()},
        )

    # Questions

    def clusters(self) -> Collection[str]:
        """Return the names of the clusters with at least one node; the view is live."""
        return self._nodes.keys()

    def nodes(self, cluster: str) -> Mapping[str, NodeState]:
        """Return a cluster's nodes by name; the view is live."""
        return self._nodes.get(cluster, _NO_NODES)

    def node(self, place: Place) -> NodeState | None:
        """Return one node as it is now."""
        return self.nodes(place.cluster).get(place.node)

    def find(
        self, *, uuid: str | None = None, serial: str | None = None, chassis: str | None = None
    ) -> list[Placement]:
        """Return the GPUs that have this UUID, or this serial, or are in this chassis; UUIDs in either case."""
        if uuid is not None:
            uuid = canonical_uuid(uuid)
            return self._found(self._locations.places(uuid), lambda gpu: gpu.uuid == uuid)
        if serial is not None:
            return self._found(self._serials.places(serial), lambda gpu: gpu.serial == serial)
        if chassis is not None:
            return self._found(self._chassis.places(chassis), lambda gpu: gpu.chassis == chassis)
        return []

    def placements(self, place: Place) -> list[Placement]:
        """Return the GPUs of one node."""
        node = self.node(place)
        return [] if node is None else node.placements()

    def count(self, cluster: str) -> int:
        """Return how many GPUs a cluster has; one that is confirmed in several places is one."""
        places = (self._locations.places(uuid) for uuid in self.contested(cluster))
        twice = sum(max(0, sum(place.cluster == cluster for place in several) - 1) for several in places)
        return sum(len(node.gpus) for node in self.nodes(cluster).values()) - twice

    def known(self, cluster: str) -> dict[str, Known]:
        """Return, by node, the last readings that need not be repeated while they are fresh."""
        return {
            name: Known(node.fingerprint, node.time)
            for name, node in self.nodes(cluster).items()
            if node.fingerprint is not None and node.time is not None
        }

    def absent(self) -> Mapping[str, Place]:
        """Return where each GPU that is in no node was last, by UUID."""
        return MappingProxyType(self._absent)

    def contested(self, cluster: str) -> Collection[str]:
        """Return the UUIDs of the cluster's GPUs that are confirmed in two places; the view is live."""
        return self._conflicts.get(cluster, ())

    def conflicts(self, cluster: str) -> int:
        """Return how many of the cluster's GPUs are confirmed in two places."""
        return len(self._conflicts.get(cluster, ()))

    def failing(self, cluster: str, reason: ReadFailure) -> int:
        """Return how many of the cluster's nodes could not be read last, for this reason."""
        return self._failing[cluster, reason]

    # How a step is made

    def _put(self, node: NodeState, step: "_Draft") -> None:
        """Let a node be in this state."""
        nodes = self._nodes.setdefault(node.place.cluster, {})
        before = nodes.get(node.place.node)
        self._count_failing(node.place.cluster, before.failing if before else None, node.failing)
        nodes[node.place.node] = node
        step.nodes[node.place] = node

    def _remove(self, place: Place, time: float, step: "_Draft") -> None:
        nodes = self._nodes.get(place.cluster, {})
        if (node := nodes.pop(place.node, None)) is None:
            return
        if not nodes:
            del self._nodes[place.cluster]
        self._count_failing(place.cluster, node.failing, None)
        step.nodes[place] = None
        step.changes += self._depart(node.gpus, node, time)
        self._reindex(place, node.gpus, ())

    def _count_failing(self, cluster: str, before: Failing | None, after: Failing | None) -> None:
        if before is not after:
            for sign, one in ((-1, before), (1, after)):
                if one is not None:
                    self._failing[cluster, one.reason] += sign

    def _arrived_later_elsewhere(self, uuid: str, time: float) -> bool:
        """Return whether a GPU seen at `time` has since come to where it is now: readings may arrive out of order."""
        places = self._locations.places(uuid)
        return bool(places) and all(time < self._at(place).since_of(uuid) for place in places)

    def _arrive(self, gpu: Gpu, node: NodeState, step: "_Draft") -> Change:
        """Locate a GPU in a node that did not have it; elsewhere it is not any more, unless that is a conflict."""
        uuid, time, places = gpu.uuid, node.time or 0.0, self._locations.places(gpu.uuid)
        others = [self._at(place) for place in places]
        if others and (uuid in node.taken_elsewhere or any((other.time or 0.0) > time for other in others)):
            self._locations.add(uuid, node.place)
            return Change.of(node, Event.APPEARED, time, gpu)
        previous = max(others, key=lambda other: other.time or 0.0).place if others else self._absent.pop(uuid, None)
        for other in others:
            self._take(uuid, other, step)
        self._locations.set(uuid, (node.place,))
        if previous is None or previous == node.place:
            return Change.of(node, Event.APPEARED, time, gpu)
        return Change.of(node, Event.MOVED, time, gpu, previous=previous)

    def _take(self, uuid: str, node: NodeState, step: "_Draft") -> None:
        """Take a GPU from the node whose reading had it, because another node has it now."""
        at = next(index for index, gpu in enumerate(node.gpus) if gpu.uuid == uuid)
        without = msgspec.structs.replace(
            node,
            gpus=node.gpus[:at] + node.gpus[at + 1 :],
            since=node.since[:at] + node.since[at + 1 :],
            taken_elsewhere=node.taken_elsewhere | {uuid},
        )
        self._put(without, step)
        self._reindex(node.place, node.gpus, without.gpus)

    def _depart(self, gpus: Iterable[Gpu], node: NodeState, time: float) -> list[Change]:
        """Let GPUs be in a node no more."""
        changes = []
        for gpu in gpus:
            self._locations.discard(gpu.uuid, node.place)
            if not self._locations.places(gpu.uuid):
                self._absent[gpu.uuid] = node.place
                if len(self._absent) > self._max_absent:
                    del self._absent[next(iter(self._absent))]
            changes.append(Change.of(node, Event.VANISHED, time, gpu))
        return changes

    def _reindex(self, place: Place, before: Collection[Gpu], after: Collection[Gpu]) -> None:
        """Bring the indexes and conflicts in line with a node's GPUs, given those that it had before."""
        serials = self._move(self._serials, place, {gpu.serial for gpu in before}, {gpu.serial for gpu in after})
        self._move(self._chassis, place, {gpu.chassis for gpu in before}, {gpu.chassis for gpu in after})
        for uuid in {gpu.uuid for gpu in itertools.chain(before, after)}:
            self._update_conflict(uuid)
        for serial in serials:
            places = self._serials.places(serial)
            # Among more than two, a node more or less changes nothing for the others.
            if len(places) <= 2 and places != (place,):
                self._update_conflicts_of_serial(serial)

    @staticmethod
    def _move(index: PlaceIndex, place: Place, before: set[str | None], after: set[str | None]) -> set[str]:
        """Replace the keys that a node had in an index; returns both the old and the new ones."""
        for key in before - after:
            if key is not None:
                index.discard(key, place)
        for key in after - before:
            if key is not None:
                index.add(key, place)
        return {key for key in before | after if key is not None}

    def _note_shared_serials(self, gpus: Iterable[Gpu]) -> None:
        seen: set[str] = set()
        for gpu in gpus:
            if gpu.serial is not None:
                shared = gpu.serial in seen or (gpu.model is not None and _SUPERCHIP.search(gpu.model))
                if shared and gpu.serial not in self._shared_serials:
                    self._shared_serials.add(gpu.serial)
                    self._update_conflicts_of_serial(gpu.serial)
                seen.add(gpu.serial)

    def _update_conflicts_of_serial(self, serial: str) -> None:
        for place in self._serials.places(serial):
            for gpu in self._at(place).gpus:
                if gpu.serial == serial:
                    self._update_conflict(gpu.uuid)

    def _update_conflict(self, uuid: str) -> None:
        """Decide in which clusters a GPU is in conflict."""
        places = self._locations.places(uuid)
        contested = len(places) > 1 or any(
            gpu.serial is not None
            and gpu.serial not in self._shared_serials
            and len(self._serials.places(gpu.serial)) > 1
            for place in places
            for gpu in self._at(place).gpus
            if gpu.uuid == uuid
        )
        clusters = {place.cluster for place in places} if contested else set()
        for cluster in clusters:
            self._conflicts.setdefault(cluster, set()).add(uuid)
        for cluster in [name for name, uuids in self._conflicts.items() if uuid in uuids and name not in clusters]:
            self._conflicts[cluster].discard(uuid)

    def _at(self, place: Place) -> NodeState:
        return self._nodes[place.cluster][place.node]

    def _found(self, places: Iterable[Place], wanted: Callable[[Gpu], bool]) -> list[Placement]:
        return [one for place in places for one in self._at(place).placements() if wanted(one.gpu)]


class _Draft:
    """A step while it is made."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.nodes: dict[Place, NodeState | None] = {}

    def done(self, reading: Reading | None = None) -> Step:
        return Step(changes=tuple(self.changes), nodes=self.nodes, reading=reading)
