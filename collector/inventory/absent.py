"""The last place of each GPU that is in no node: this distinguishes a move from a first appearance."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from collector.inventory.last_known import with_last_known
from collector.model import SEAT_FIELDS, Gpu, Place

__all__ = ["Absent", "AbsentGpus", "merged"]


class Absent(NamedTuple):
    """The last place of a GPU that is in no node, and until when it was there (Unix seconds; 0 if unknown)."""

    place: Place
    time: float
    facts: Gpu | None = None  # its last known values, as returned by `collector.inventory.last_known.facts_of`
    lost: bool = False  # whether it had stopped responding

    @property
    def read(self) -> float:
        """When it was last read there (Unix seconds), according to its facts."""
        return max((one.time for one in self.facts.last_known), default=self.time) if self.facts else self.time

    def until(self, now: float) -> "Absent":
        """Return it with times after `now` (Unix seconds) set to `now`."""
        if self.time <= now and self.read <= now:
            return self
        facts = self.facts
        if facts is not None:
            known = tuple(one._replace(time=min(one.time, now)) for one in facts.last_known)
            facts = msgspec.structs.replace(facts, last_known=known)
        return self._replace(time=min(self.time, now), facts=facts)


def merged(known: Absent, recorded: Absent) -> Absent:
    """Return the later of two inventories' places of a GPU, with what either of them knows about it in that cluster.

    If both name the same cluster, the later reading decides its state, not which of them noticed its departure later.
    """
    later, earlier = (recorded, known) if known.time < recorded.time else (known, recorded)
    if earlier.facts is None or earlier.place.cluster != later.place.cluster:
        return later
    same_node = earlier.place == later.place
    if later.facts is None:
        own, other, lost = Gpu(uuid=earlier.facts.uuid), earlier, later.lost
    elif earlier.read > later.read:
        own, other, lost = earlier.facts, later, earlier.lost
    else:
        own, other, lost = later.facts, earlier, later.lost or (earlier.lost and earlier.read == later.read)
    own = _seated(own, later, earlier)
    facts = own if other.facts is None else with_last_known(own, other.facts, other.time, same_node=same_node)
    return later._replace(facts=facts, lost=lost)


def _seated(gpu: Gpu, later: Absent, earlier: Absent) -> Gpu:
    """Return a GPU with only its position in its last node, as far as known."""
    seat: dict[str, object] = dict.fromkeys(SEAT_FIELDS)
    for absent in (earlier, later):
        if absent.facts is not None and absent.place == later.place:
            seat |= {name: value for name in SEAT_FIELDS if (value := getattr(absent.facts, name)) is not None}
    return msgspec.structs.replace(gpu, **seat)


class AbsentGpus:
    """The GPUs that are in no node, by UUID; at most `limit`.

    Those of the cluster with the most are forgotten first, longest absent first: a cluster that makes up GPUs displaces
    only its own. Of as many forgotten ones, it is still known until when they were there.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._clusters: dict[str, str] = {}  # by UUID
        self._gpus: dict[str, dict[str, Absent]] = {}  # by cluster and UUID, in the order in which they left
        self._nodes: dict[Place, dict[str, Absent]] = {}  # the same by node
        self._latest = 0.0  # no time of theirs is after this
        self._forgotten: dict[str, float] = {}  # until when forgotten ones were there (Unix seconds), by UUID

    def add(self, uuid: str, place: Place, time: float, facts: Gpu | None = None, *, lost: bool = False) -> None:
        """Remember a GPU's last place, its last known values, and whether it had stopped responding."""
        self.pop(uuid)
        self._clusters[uuid] = place.cluster
        absent = Absent(place, time, facts, lost)
        self._latest = max(self._latest, time, absent.read)
        self._gpus.setdefault(place.cluster, {})[uuid] = absent
        self._nodes.setdefault(place, {})[uuid] = absent
        if len(self._clusters) > self._limit:
            most = max(self._gpus.values(), key=len)
            uuid = next(iter(most))
            self.note(uuid, most[uuid].time)
            self.pop(uuid)

    def note(self, uuid: str, time: float) -> None:
        """Remember until when (Unix seconds) a GPU was in a place that need not be known."""
        self._latest = max(self._latest, time)
        self._forgotten[uuid] = max(time, self._forgotten.get(uuid, 0.0))  # a store may know less than this process
        if len(self._forgotten) > self._limit:
            del self._forgotten[next(iter(self._forgotten))]

    def cap_times(self, now: float) -> None:
        """Set times after `now` (Unix seconds) to `now`."""
        if self._latest <= now:
            return
        self._latest = now
        for uuid, cluster in self._clusters.items():
            absent = self._gpus[cluster][uuid]
            if (capped := absent.until(now)) is not absent:
                self._gpus[cluster][uuid] = self._nodes[absent.place][uuid] = capped
        self._forgotten = {uuid: min(time, now) for uuid, time in self._forgotten.items()}

    def return_of(self, uuid: str, time: float) -> tuple[float, Absent | None]:
        """Forget a GPU that is back at `time`; returns since when, which is not before it left, and its last place."""
        forgotten = self._forgotten.pop(uuid, 0.0)
        absent = self.pop(uuid)
        return max(time, forgotten if absent is None else absent.time), absent

    def get(self, uuid: str) -> Absent | None:
        """Return a GPU's last place, if known."""
        cluster = self._clusters.get(uuid)
        return None if cluster is None else self._gpus[cluster][uuid]

    def pop(self, uuid: str) -> Absent | None:
        """Forget a GPU; returns its last place, if known."""
        if (cluster := self._clusters.pop(uuid, None)) is None:
            return None
        absent = self._gpus[cluster].pop(uuid)
        left = self._nodes[absent.place]
        del left[uuid]
        if not left:
            del self._nodes[absent.place]
        return absent

    def of(self, place: Place) -> Mapping[str, Absent]:
        """Return the GPUs that were last in this node, by UUID, in the order in which they left."""
        return self._nodes.get(place, {})

    def forget_cluster(self, cluster: str) -> None:
        """Forget the GPUs that were last in this cluster."""
        for uuid, absent in self._gpus.pop(cluster, {}).items():
            del self._clusters[uuid]
            self._nodes.pop(absent.place, None)
            self.note(uuid, absent.time)

    def places(self) -> Mapping[str, Place]:
        """Return each GPU's last place, by UUID."""
        return {uuid: absent.place for gpus in self._gpus.values() for uuid, absent in gpus.items()}
