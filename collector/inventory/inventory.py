"""Applies readings to the fleet, knows where every GPU is, and emits what changed."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

from collector.inventory.node import NONE, NodeEntry, NodeSnapshot
from collector.model import (
    Change,
    Event,
    Failing,
    Gpu,
    Known,
    NodeInfo,
    Place,
    Placement,
    ReadFailure,
    Reading,
    canonical_uuid,
)

__all__ = ["Inventory"]


class Inventory:
    """Where every GPU is, keyed by UUID and indexed by serial, chassis and node.

    `on_node` is told of each node whose published facts changed or that is gone. Times are Unix seconds and always
    passed in. A change costs what its node's GPUs cost, however large the fleet is.

    A GPU seen on a second node has moved, and the first node's reading counts as superseded. When the first node's next
    reading still has the GPU, both keep confirming it: that is a conflict, published in both places until one of them
    stops. One serial under two UUIDs on two nodes is a conflict as well, except on boards whose GPUs share a serial.
    """

    def __init__(self, on_node: Callable[[Place], None] = lambda _place: None) -> None:
        self._on_node = on_node
        self._nodes: dict[str, dict[str, NodeEntry]] = {}
        self._homes: dict[str, tuple[NodeEntry, ...]] = {}  # by UUID; more than one is a conflict
        self._serials: dict[str, tuple[NodeEntry, ...]] = {}
        self._chassis: dict[str, tuple[NodeEntry, ...]] = {}
        self._ghosts: dict[str, Place] = {}  # UUID -> where a GPU that is nowhere was last
        self._shared_serials: set[str] = set()  # seen on two GPUs of one node: a board of several GPUs
        self._conflicts: dict[str, set[str]] = {}  # cluster -> UUIDs
        self._failing: Counter[tuple[str, ReadFailure]] = Counter()  # by cluster and reason: nodes

    def apply(self, reading: Reading) -> list[Change]:
        """Replace all that a node had by what a reading of it found; a reading older than the last one is ignored."""
        entry = self._entry(Place(reading.cluster, reading.node.name), reading.node)
        if entry.time is not None and reading.time < entry.time:
            return []
        before = {gpu.uuid: (gpu, since) for gpu, since in zip(entry.gpus, entry.since, strict=True)}
        found = {gpu.uuid: gpu for gpu in reading.gpus}
        self._note_shared_serials(found.values())
        entry.node, entry.source, entry.fingerprint = reading.node, reading.source, reading.fingerprint
        entry.driver_version, entry.cuda_version = reading.driver_version, reading.cuda_version

        changes: list[Change] = []
        stay: list[Gpu] = []
        since: list[float] = []
        superseded: set[str] = set()
        for uuid, gpu in found.items():
            if known := before.pop(uuid, None):
                if known[0] != gpu:
                    changes.append(_change(Event.ALTERED, reading.time, gpu, entry))
                stay.append(gpu if known[0] != gpu else known[0])  # the old one: one copy of its strings is enough
                since.append(known[1])
            elif self._came_later(uuid, reading.time):
                superseded.add(uuid)
            else:
                changes.append(self._arrive(uuid, gpu, entry, reading.time))
                stay.append(gpu)
                since.append(reading.time)
        gone = [gpu for gpu, _ in before.values()]
        old = entry.gpus
        entry.gpus, entry.since = tuple(stay), tuple(since)
        entry.time, entry.superseded = reading.time, frozenset(superseded) if superseded else NONE
        self._fail(entry, None)
        changes += self._depart(gone, entry, reading.time)
        if changes:
            self._index(entry, old)
        self._on_node(entry.place)
        return changes

    def set_node(self, cluster: str, node: NodeInfo) -> None:
        """Keep what Kubernetes says of a node, before its first reading or between readings."""
        place = Place(cluster, node.name)
        known = self.node(place)
        before = None if known is None else known.node
        self._entry(place, node).node = node  # also an equal one: whoever told of it holds it anyway
        if before != node:
            self._on_node(place)

    def read_failed(self, place: Place, reason: ReadFailure, time: float) -> None:
        """Keep until its next reading that a node cannot be read; nothing of one that is unknown."""
        if (entry := self.node(place)) is not None:
            self._fail(entry, Failing(reason, time if entry.failing is None else entry.failing.since))

    def remove_node(self, place: Place, time: float) -> list[Change]:
        """Forget a node; what was in it has vanished until it is seen elsewhere."""
        nodes = self._nodes.get(place.cluster, {})
        entry = nodes.pop(place.node, None)
        if entry is None:
            return []
        if not nodes:
            del self._nodes[place.cluster]
        self._fail(entry, None)
        gone, entry.gpus, entry.since = entry.gpus, (), ()
        changes = self._depart(gone, entry, time)
        self._index(entry, gone)
        self._on_node(place)
        return changes

    def remove_cluster(self, cluster: str, time: float) -> list[Change]:
        """Forget a cluster and all that was ever seen in it."""
        changes = [
            change for node in list(self.nodes(cluster)) for change in self.remove_node(Place(cluster, node), time)
        ]
        self._ghosts = {uuid: place for uuid, place in self._ghosts.items() if place.cluster != cluster}
        return changes

    def snapshot(self, place: Place) -> NodeSnapshot | None:
        """Take down all that is known of a node; None if it is unknown."""
        entry = self.node(place)
        return None if entry is None else entry.snapshot()

    def restore(self, nodes: Iterable[NodeSnapshot], ghosts: Mapping[str, Place]) -> None:
        """Fill an empty inventory with what an earlier one knew; nothing counts as changed by it.

        `ghosts` tells where GPUs that are nowhere were last, by UUID.
        """
        if self._nodes:
            raise ValueError("only an empty inventory can be restored")
        uuids: set[str] = set()  # in more than one place
        serials: set[str] = set()
        for snapshot in nodes:
            entry = self._entry(snapshot.place, snapshot.node)
            entry.time, entry.source, entry.fingerprint = snapshot.time, snapshot.source, snapshot.fingerprint
            entry.driver_version, entry.cuda_version = snapshot.driver_version, snapshot.cuda_version
            entry.gpus, entry.since, entry.superseded = snapshot.gpus, snapshot.since, snapshot.superseded
            self._note_shared_serials(entry.gpus)
            uuids |= _add(self._homes, {gpu.uuid for gpu in entry.gpus}, entry)
            serials |= _add(self._serials, {gpu.serial for gpu in entry.gpus}, entry)
            _add(self._chassis, {gpu.chassis for gpu in entry.gpus}, entry)
            self._on_node(entry.place)
        for uuid in uuids:
            self._judge(uuid)
        for serial in serials:
            self._judge_serial(serial)
        self._ghosts.update(itertools.islice(ghosts.items(), _GHOSTS))

    def adopt(self, recorded: NodeSnapshot) -> list[Change]:
        """Take over what another inventory knew of a node, where its reading is the newer one.

        A GPU that is there by both is there since when the other one says.
        """
        entry = self.node(recorded.place)
        changes: list[Change] = []
        if entry is None:
            self.set_node(recorded.place.cluster, recorded.node)
            entry = self._nodes[recorded.place.cluster][recorded.place.node]
        if recorded.time is not None and recorded.fingerprint is not None:
            if entry.time is None or entry.time < recorded.time:
                changes = self.apply(
                    Reading(
                        cluster=recorded.place.cluster,
                        node=entry.node,
                        source=recorded.source,
                        fingerprint=recorded.fingerprint,
                        time=recorded.time,
                        driver_version=recorded.driver_version,
                        cuda_version=recorded.cuda_version,
                        gpus=recorded.gpus,
                    )
                )
            since = {gpu.uuid: since for gpu, since in zip(recorded.gpus, recorded.since, strict=True)}
            entry.since = tuple(since.get(gpu.uuid, own) for gpu, own in zip(entry.gpus, entry.since, strict=True))
        return changes

    def clusters(self) -> Collection[str]:
        """Name the clusters with at least one node."""
        return self._nodes.keys()

    def nodes(self, cluster: str) -> Mapping[str, NodeEntry]:
        """Show a cluster's nodes by name; the view is live."""
        return self._nodes.get(cluster, {})

    def node(self, place: Place) -> NodeEntry | None:
        """Find one node."""
        return self.nodes(place.cluster).get(place.node)

    def find(
        self, *, uuid: str | None = None, serial: str | None = None, chassis: str | None = None
    ) -> list[Placement]:
        """Find the GPUs that have this UUID, or this serial, or are in this chassis; UUIDs in either case."""
        if uuid is not None:
            uuid = canonical_uuid(uuid)
            return self._found(self._homes.get(uuid, ()), lambda gpu: gpu.uuid == uuid)
        if serial is not None:
            return self._found(self._serials.get(serial, ()), lambda gpu: gpu.serial == serial)
        if chassis is not None:
            return self._found(self._chassis.get(chassis, ()), lambda gpu: gpu.chassis == chassis)
        return []

    def placements(self, place: Place) -> list[Placement]:
        """List the GPUs of one node."""
        entry = self.node(place)
        return [] if entry is None else self._found(entry.alone, lambda _gpu: True)

    def count(self, cluster: str) -> int:
        """Count the cluster's GPUs; one that is confirmed in several places is one."""
        homes = (self._homes[uuid] for uuid in self.contested(cluster))
        twice = sum(max(0, sum(home.place.cluster == cluster for home in places) - 1) for places in homes)
        return sum(len(entry.gpus) for entry in self.nodes(cluster).values()) - twice

    def known(self, cluster: str) -> dict[str, Known]:
        """Tell which readings a new watch of the cluster need not repeat, by node."""
        return {
            name: Known(entry.fingerprint, entry.time)
            for name, entry in self.nodes(cluster).items()
            if entry.fingerprint is not None and entry.time is not None
        }

    def contested(self, cluster: str) -> Collection[str]:
        """Name the UUIDs of the cluster's GPUs that are confirmed in two places; the view is live."""
        return self._conflicts.get(cluster, ())

    def conflicts(self, cluster: str) -> int:
        """Count the cluster's GPUs that are confirmed in two places."""
        return len(self._conflicts.get(cluster, ()))

    def failing(self, cluster: str, reason: ReadFailure) -> int:
        """Count the cluster's nodes whose last reading failed for this reason."""
        return self._failing[cluster, reason]

    def _entry(self, place: Place, node: NodeInfo) -> NodeEntry:
        nodes = self._nodes.setdefault(place.cluster, {})
        if (entry := nodes.get(place.node)) is None:
            entry = nodes[place.node] = NodeEntry(place, node)
        return entry

    def _fail(self, entry: NodeEntry, failing: Failing | None) -> None:
        for sign, one in ((-1, entry.failing), (1, failing)):
            if one is not None:
                self._failing[entry.place.cluster, one.reason] += sign
        entry.failing = failing

    def _came_later(self, uuid: str, time: float) -> bool:
        """Tell whether a GPU seen at `time` has since come to where it is now: readings need not arrive in order."""
        homes = self._homes.get(uuid, ())
        return bool(homes) and all(time < home.since_of(uuid) for home in homes)

    def _arrive(self, uuid: str, gpu: Gpu, entry: NodeEntry, time: float) -> Change:
        """Give a GPU that its node did not have a home there."""
        homes = self._homes.get(uuid, ())
        if homes and (uuid in entry.superseded or any(home.time is not None and home.time > time for home in homes)):
            self._homes[uuid] = (*homes, entry)
            return _change(Event.APPEARED, time, gpu, entry)
        previous = max(homes, key=lambda home: home.time or 0.0).place if homes else self._ghosts.pop(uuid, None)
        for home in homes:
            self._supersede(uuid, home)
        self._homes[uuid] = entry.alone
        if previous is None or previous == entry.place:
            return _change(Event.APPEARED, time, gpu, entry)
        return _change(Event.MOVED, time, gpu, entry, previous)

    def _supersede(self, uuid: str, entry: NodeEntry) -> None:
        """Take a GPU from the node whose reading had it, because another node has it now."""
        index = next(index for index, gpu in enumerate(entry.gpus) if gpu.uuid == uuid)
        taken = entry.gpus[index]
        entry.gpus = entry.gpus[:index] + entry.gpus[index + 1 :]
        entry.since = entry.since[:index] + entry.since[index + 1 :]
        entry.superseded |= {uuid}
        self._index(entry, [taken])
        self._on_node(entry.place)

    def _depart(self, gone: Iterable[Gpu], entry: NodeEntry, time: float) -> list[Change]:
        """End the homes that GPUs had in a node."""
        changes = []
        for gpu in gone:
            uuid = gpu.uuid
            others = tuple(home for home in self._homes[uuid] if home is not entry)
            if others:
                self._homes[uuid] = others[0].alone if len(others) == 1 else others
            else:
                del self._homes[uuid]
                self._ghosts[uuid] = entry.place
                if len(self._ghosts) > _GHOSTS:
                    del self._ghosts[next(iter(self._ghosts))]
            changes.append(_change(Event.VANISHED, time, gpu, entry))
        return changes

    def _note_shared_serials(self, gpus: Iterable[Gpu]) -> None:
        seen: set[str] = set()
        for gpu in gpus:
            if gpu.serial is not None:
                shared = gpu.serial in seen or (gpu.model is not None and _SUPERCHIP.search(gpu.model))
                if shared and gpu.serial not in self._shared_serials:
                    self._shared_serials.add(gpu.serial)
                    self._judge_serial(gpu.serial)
                seen.add(gpu.serial)

    def _index(self, entry: NodeEntry, before: Collection[Gpu]) -> None:
        """Bring the indexes and conflicts in line with a node's GPUs, given those that it had before."""
        touched = {*before, *entry.gpus}
        for index, key in ((self._serials, _serial), (self._chassis, _chassis)):
            here = {key(gpu) for gpu in entry.gpus}
            for value in {value for gpu in touched if (value := key(gpu)) is not None}:
                others = tuple(other for other in index.get(value, ()) if other is not entry)
                if value in here:
                    index[value] = (*others, entry) if others else entry.alone
                elif others:
                    index[value] = others[0].alone if len(others) == 1 else others
                else:
                    index.pop(value, None)
        for gpu in touched:
            self._judge(gpu.uuid)
        for serial in {gpu.serial for gpu in touched if gpu.serial is not None}:
            homes = self._serials.get(serial, ())
            # Among more than two, a node more or less changes nothing for the others.
            if len(homes) <= 2 and homes is not entry.alone:
                self._judge_serial(serial)

    def _judge_serial(self, serial: str) -> None:
        for home in self._serials.get(serial, ()):
            for gpu in home.gpus:
                if gpu.serial == serial:
                    self._judge(gpu.uuid)

    def _judge(self, uuid: str) -> None:
        """Decide afresh in which clusters a GPU is in conflict."""
        homes = self._homes.get(uuid, ())
        contested = len(homes) > 1 or any(
            gpu.serial is not None and gpu.serial not in self._shared_serials and len(self._serials[gpu.serial]) > 1
            for home in homes
            for gpu in home.gpus
            if gpu.uuid == uuid
        )
        clusters = {home.place.cluster for home in homes} if contested else set()
        for cluster in clusters:
            self._conflicts.setdefault(cluster, set()).add(uuid)
        for cluster in [name for name, uuids in self._conflicts.items() if uuid in uuids and name not in clusters]:
            self._conflicts[cluster].discard(uuid)

    @staticmethod
    def _found(entries: Iterable[NodeEntry], wanted: Callable[[Gpu], bool]) -> list[Placement]:
        return [
            Placement(gpu=gpu, place=entry.place, since=since, confirmed=entry.time or since)
            for entry in entries
            for gpu, since in zip(entry.gpus, entry.since, strict=True)
            if wanted(gpu)
        ]


_GHOSTS = 100_000  # GPUs that are nowhere and whose last place is remembered; the longest gone are forgotten first

# Grace superchips carry two GPUs on one board under one serial, also where each is given to a node of its own.
_SUPERCHIP = re.compile(r"\bGB\d{3}\b")


def _add(index: dict[str, tuple[NodeEntry, ...]], keys: Iterable[str | None], entry: NodeEntry) -> set[str]:
    """Put a node that is new to an index under some keys; returns those that other nodes have as well."""
    shared = set()
    for key in keys:
        if key is not None and (others := index.setdefault(key, entry.alone)) is not entry.alone:
            index[key] = (*others, entry)
            shared.add(key)
    return shared


def _serial(gpu: Gpu) -> str | None:
    return gpu.serial


def _chassis(gpu: Gpu) -> str | None:
    return gpu.chassis


def _change(event: Event, time: float, gpu: Gpu, entry: NodeEntry, previous: Place | None = None) -> Change:
    return Change(
        event=event,
        time=time,
        gpu=gpu,
        place=entry.place,
        machine=entry.node.machine,
        source=entry.source,
        previous=previous,
    )
