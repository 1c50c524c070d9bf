"""Applies readings to the fleet, tracks where every GPU is, and returns the changes of each step."""

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType

import msgspec

from collector.health import Condition, of_card, shared
from collector.inventory.absent import Absent, AbsentGpus, merged
from collector.inventory.claims import Claims
from collector.inventory.conflicts import Conflicts
from collector.inventory.draft import Draft
from collector.inventory.index import PlaceIndex
from collector.inventory.last_known import (
    facts_of,
    newest_marks,
    settled,
    with_foreign_growth,
    with_growth,
    with_last_known,
    with_own_health,
)
from collector.inventory.listed import with_listed
from collector.inventory.unseen import also_lost, also_silent, silent_gpus, unseen_gpus
from collector.inventory.verify_backoff import VerifyBackoff
from collector.model import (
    NO_UUIDS,
    Change,
    Event,
    Failing,
    Gpu,
    GpuRef,
    Known,
    NodeInfo,
    NodeState,
    Place,
    Placement,
    ReadFailure,
    Reading,
    Step,
    Unread,
    UnreadReason,
    Unseen,
    canonical_uuid,
)

__all__ = ["MAX_ABSENT_GPUS", "Inventory"]

MAX_ABSENT_GPUS = 100_000  # absent GPUs that are remembered, over all clusters

_LONG_AGO = float("-inf")  # on the monotonic clock
_NO_TIMES: Mapping[str, float] = MappingProxyType({})
_NO_FACTS: Mapping[str, Gpu] = MappingProxyType({})
_NO_NODES: Mapping[str, NodeState] = MappingProxyType({})


class Inventory:
    """The place of every GPU, keyed by UUID and indexed by serial, chassis and node.

    Every step returns its changes, the affected nodes, and the nodes to read again now, as values. Times are Unix
    seconds and always passed in; readings take effect in the order in which they are applied. The cost of a step
    depends on its node's GPUs, not on the size of the fleet.

    A GPU reported by a second node is a claim (`collector.inventory.claims`): both nodes publish it until a reading
    settles whether it has moved. A GPU confirmed by two nodes is a conflict, published in both places until one of
    them stops reporting it. One serial under two UUIDs on two nodes is a conflict as well, unless both nodes'
    data shows one board that carries several GPUs. So no reading takes a GPU from another node: only that node's own
    answer does, or its silence within one cluster.

    Values that a GPU no longer reports, such as its serial, are kept as last known (`collector.inventory.last_known`).

    A GPU's health follows its UUID: its first reading in a new place is compared with the last one in the previous
    place, once the move is settled. It is also compared across clusters, but unreported values are not taken over from
    another cluster, which may have made them up. Growth of its errors is, if its own reading confirms the number. For
    the same reason, the two places of a GPU in conflict are never compared with each other.

    With several shards, `is_mirrored` returns whether another shard reads a cluster (`collector.inventory.mirroring`).
    Those clusters only change here as reported by their own shards.

    A GPU that does not respond stays in its node, as lost (`collector.inventory.unseen`); one that was never read there
    is known only by its bus address. The same is true of a GPU known only from ResourceSlices
    (`collector.inventory.listed`).
    """

    def __init__(
        self, *, max_absent: int = MAX_ABSENT_GPUS, is_mirrored: Callable[[str], bool] = lambda _cluster: False
    ) -> None:
        self._is_mirrored = is_mirrored
        self._nodes: dict[str, dict[str, NodeState]] = {}
        self._locations = PlaceIndex()  # by UUID; several while it is claimed or in conflict
        self._serials = PlaceIndex()
        self._chassis = PlaceIndex()
        self._claims = Claims(self._locations, is_mirrored)
        self._verify_backoff = VerifyBackoff()
        self._absent = AbsentGpus(max_absent)
        self._unlisted: dict[Place, NodeState] = {}  # those with GPUs that do not respond
        self._conflicts = Conflicts(self._locations, self._serials, self._claims, self.node)
        self._failing: Counter[tuple[str, ReadFailure]] = Counter()  # number of nodes by cluster and reason
        self._unread: Counter[tuple[str, str]] = Counter()  # likewise, by the reason's value

    # Steps

    def apply(self, reading: Reading) -> Step:
        """Replace a node's GPUs with those found by a reading."""
        step = Draft(reading.ended)
        place = Place(reading.cluster, reading.node.name)
        before = self.node(place) or NodeState(place=place, node=reading.node)
        node = msgspec.structs.replace(
            before,
            node=reading.node,
            time=reading.time,
            failing=None,
            driver_version=reading.driver_version or (before.driver_version if reading.partial else None),
            cuda_version=reading.cuda_version or (before.cuda_version if reading.partial else None),
            source=reading.source,
            fingerprint=reading.fingerprint,
            sharing=reading.sharing,
            partial=reading.partial or bool(reading.unread),
        )
        self._put(node, step)  # it keeps its previous GPUs until all of this reading's are placed
        left = {gpu.uuid: (gpu, since) for gpu, since in zip(before.gpus, before.since, strict=True)}
        found = {gpu.uuid: self._with_last_known(gpu, before, left.get(gpu.uuid), reading) for gpu in reading.gpus}
        unseen = unseen_gpus(before, reading)
        step.were_lost = before.lost_uuids
        step.are_lost = {one.uuid for one in unseen if one.lost} if unseen else NO_UUIDS

        gpus: list[Gpu] = []
        since: list[float] = []
        claims: set[str] = set()
        opened: list[str] = []  # UUIDs of claims
        for uuid, gpu in found.items():
            if (known := left.pop(uuid, None)) is None:
                at, claimed = self._arrive(gpu, node, reading, step)
                if claimed:
                    opened.append(uuid)
            else:
                at, claimed = known[1], uuid in before.claims
                if claimed:
                    at, claimed = self._claim_again(gpu, node, at, reading, step)
                else:
                    self._confirm(uuid, node.place, reading, step)
                    if gpu is not known[0] or step.were_lost or step.are_lost:
                        step.found_again(node, max(reading.time, at), known[0], gpu)
            if claimed:
                claims.add(uuid)
            gpus.append(gpu)
            since.append(at)
        for gpu, at in self._staying(unseen, left, node, step):
            claims |= before.claims & {gpu.uuid}
            gpus.append(gpu)
            since.append(at)
        node = msgspec.structs.replace(
            node,
            gpus=tuple(gpus),
            since=tuple(since),
            claims=frozenset(claims) if claims else NO_UUIDS,
            unseen=unseen,
            silent=silent_gpus(before, reading, gpus, unseen),
        )
        self._put(node, step)
        self._depart(left.values(), before, reading.time, step)
        if before.gpus != node.gpus or before.claims != node.claims:
            self._reindex(node.place, before, node)
        for uuid in opened:
            self._ask_homes(uuid, node.place, step)
        self._hold_claims(step)
        return step.done(reading)

    def set_node(self, cluster: str, node: NodeInfo, time: float = 0.0) -> Step:
        """Keep Kubernetes' data on a node, before its first reading or between readings.

        `time` is when it was received, for what its ResourceSlices reveal.
        """
        step = Draft()
        place = Place(cluster, node.name)
        if (before := self.node(place)) is None:
            known = self._unlisted.pop(place, None)
            silent = known.silent if known is not None and known.node.uid == node.uid else ()
            self._put(NodeState(place=place, node=node, silent=silent), step)
        elif before.node != node:
            self._put(msgspec.structs.replace(before, node=node), step)
            if not node.ready:
                self._lose_claimed(place, step)
            self._note_listed(place, before.node, time, step)
        else:  # equal: the caller holds the new value anyway, and one copy is enough
            self._nodes[cluster][node.name] = msgspec.structs.replace(before, node=node)
        return step.done()

    def read_failed(
        self,
        place: Place,
        reason: ReadFailure,
        time: float,
        message: str = "",
        lost: Collection[GpuRef] = (),
        next_try: float | None = None,
    ) -> Step:
        """Note that a node cannot be read, until its next reading; ignored for an unknown node.

        `lost` are GPUs that did not respond: known ones stay in the node, and the others are kept by address.
        `next_try` (Unix seconds) is when the node is read again, if known.
        """
        step = Draft()
        if (node := self.node(place)) is not None:
            self._lose_claimed(place, step)  # before any of them counts as lost: a claimed one has moved
            node = self._at(place)
            since, tries = (time, 0) if node.failing is None else (node.failing.since, node.failing.tries)
            failing = Failing(reason, since, message, tries + 1, next_try)
            unseen = also_lost(node, lost, time)
            silent = also_silent(node, lost, unseen, time)
            after = msgspec.structs.replace(node, failing=failing, unseen=unseen, silent=silent)
            after = with_listed(node.node, after, time)
            again = node.failing is not None and node.failing[:3] == failing[:3]  # except for the number of tries
            if again and (node.unseen, node.silent) == (after.unseen, after.silent):
                self._nodes[place.cluster][place.node] = after  # which publishers need not know
            else:
                self._put(after, step)
                step.lost(node, after, time)
                self._hold_claims(step)
        return step.done()

    def cannot_verify(self, place: Place) -> Step:
        """Note that a node cannot be read again now, such as one without a pod."""
        step = Draft()
        self._lose_claimed(place, step)
        return step.done()

    def set_uncovered(self, place: Place, reason: UnreadReason | None, time: float) -> Step:
        """Note why no ready pod covers a node (None: one does); ignored for an unknown node."""
        step = Draft()
        if (node := self.node(place)) is not None:
            since = time if node.uncovered is None else node.uncovered.since
            uncovered = None if reason is None else Unread(reason, since)
            differs = node.uncovered != uncovered
            if differs:
                self._put(msgspec.structs.replace(node, uncovered=uncovered), step)
            if reason is not None:
                self._lose_claimed(place, step)
            if differs:
                self._note_listed(place, node.node, time, step)
        return step.done()

    def remove_node(self, place: Place, time: float) -> Step:
        """Forget a node; its GPUs have vanished until they are seen elsewhere."""
        step = Draft()
        self._remove(place, time, step)
        return step.done()

    def unlist_node(self, place: Place, time: float) -> Step:
        """Remove a node that will be found again; it then regains its unresponsive GPUs, if it is the same machine."""
        if (node := self.node(place)) is not None and node.silent:
            self._unlisted[place] = node
        return self.remove_node(place, time)

    def remove_cluster(self, cluster: str, time: float) -> Step:
        """Forget a cluster and everything ever seen in it."""
        step = Draft()
        for before in list(self.nodes(cluster).values()):  # so that nothing moves to a node that is about to be removed
            if before.claims:
                node = before
                for uuid in before.claims:
                    self._claims.close(uuid, node.place)
                    self._locations.discard(uuid, node.place)
                    node = self._without(uuid, node)
                self._put(node, step)
                self._reindex(node.place, before, node)
        for name in list(self.nodes(cluster)):
            self._remove(Place(cluster, name), time, step)
        self._absent.forget_cluster(cluster)
        self._unlisted = {place: node for place, node in self._unlisted.items() if place.cluster != cluster}
        return step.done(removed_cluster=cluster)

    def restore(
        self,
        nodes: Iterable[NodeState],
        absent: Mapping[str, Place],
        left: Mapping[str, float] = _NO_TIMES,
        facts: Mapping[str, Gpu] = _NO_FACTS,
        lost: AbstractSet[str] = NO_UUIDS,
    ) -> Step:
        """Fill an empty inventory with the data of an earlier one, without reporting changes.

        `absent` has the last place of each GPU that is in no node, by UUID. `left` is until when (Unix seconds) it was
        there, also of GPUs whose places are forgotten: none can return before that, whatever the clock says. `facts`
        are their last known values, and `lost` are those that had stopped responding. Nodes with open claims should be
        read soon: see `nodes_in_claim`.
        """
        if self._nodes:
            raise ValueError("only an empty inventory can be restored")
        step = Draft()
        uuids: set[str] = set()  # those in more than one place, or claimed
        serials: set[str] = set()
        for node in nodes:
            self._put(node, step)
            uuids |= self._locations.add_all([gpu.uuid for gpu in node.gpus], node.place)
            serials |= self._serials.add_all([gpu.serial for gpu in node.gpus], node.place)
            self._chassis.add_all([gpu.chassis for gpu in node.gpus], node.place)
            uuids |= node.claims  # in only one place if another shard recorded that its home is gone
            for uuid in node.claims:
                self._claims.open(uuid, node.place, None)
        for uuid in uuids:
            self._conflicts.update(uuid)
        for serial in serials:
            self._conflicts.update_serial(serial)
        for uuid, place in absent.items():
            self._absent.add(uuid, place, left.get(uuid, 0.0), facts.get(uuid), lost=uuid in lost)
        for uuid, time in left.items():
            if uuid not in absent:
                self._absent.note(uuid, time)
        return step.done()

    def recall(
        self,
        absent: Mapping[str, Place],
        left: Mapping[str, float],
        facts: Mapping[str, Gpu] = _NO_FACTS,
        lost: AbstractSet[str] = NO_UUIDS,
    ) -> None:
        """Take over what another inventory recorded about GPUs that are in no node, including their last places.

        `left` is when (Unix seconds) GPUs left their last places, by UUID, possibly also of other GPUs: none that is in
        no node can return before that. This inventory's own data on a GPU is kept where the other one has none.
        """
        for uuid in dict.fromkeys((*absent, *left)):
            known, time = self._absent.get(uuid), left.get(uuid, 0.0)
            if known is not None:
                if uuid in absent:
                    both = merged(known, Absent(absent[uuid], time, facts.get(uuid), uuid in lost))
                else:  # the other inventory does not know that it has left
                    both = known._replace(time=max(known.time, time))
                if both != known:
                    self._absent.add(uuid, both.place, both.time, both.facts, lost=both.lost)
            elif self._locations.places(uuid):
                continue
            elif uuid in absent:
                self._absent.add(uuid, absent[uuid], time, facts.get(uuid), lost=uuid in lost)
            else:
                self._absent.note(uuid, time)

    def cap_absences(self, now: float) -> None:
        """Let GPUs that are in no node have left by `now` (Unix seconds), whatever the clock said at that time."""
        self._absent.cap_times(now)

    def adopt(self, recorded: NodeState) -> Step:
        """Take over another inventory's record of a node, if its reading is newer.

        For a GPU that both have there, the other inventory's `since` is used. One that is known elsewhere is claimed,
        which the other inventory's record of that node may settle. Which reading is newer depends on two machines'
        clocks, so where the two disagree, and for unsettled claims of the other inventory, a new reading decides.
        """
        place = recorded.place
        steps = []
        if self.node(place) is None:
            steps.append(self.set_node(place.cluster, recorded.node))
        node = self._at(place)
        if recorded.time is not None and recorded.fingerprint is not None:
            if recorded.claims or (node.time is not None and _differ(node, recorded)):
                steps.append(Step(verify=(place,)))
            theirs = recorded.gpus
            if recorded.fingerprint.restarts < 0:  # of an older version: `collector.store.codec.decode_node`
                theirs = with_own_health(theirs, node.gpus)
            if node.time is None or node.time < recorded.time:
                reading = Reading(
                    cluster=place.cluster,
                    node=node.node,
                    source=recorded.source,
                    fingerprint=recorded.fingerprint,
                    sharing=recorded.sharing,
                    time=recorded.time,
                    driver_version=recorded.driver_version,
                    cuda_version=recorded.cuda_version,
                    gpus=tuple(gpu for gpu in theirs if gpu.uuid not in recorded.claims),
                    lost=tuple(GpuRef(uuid) for uuid in recorded.lost_uuids),
                    started=_LONG_AGO,
                    ended=_LONG_AGO,
                )
                steps.append(self.apply(reading))
                node = self._at(place)
            known = {gpu.uuid: since for gpu, since in zip(recorded.gpus, recorded.since, strict=True)}
            since = tuple(known.get(gpu.uuid, own) for gpu, own in zip(node.gpus, node.since, strict=True))
            same = node.time == recorded.time
            unseen = recorded.unseen if same else node.unseen
            silent = recorded.silent if same else node.silent
            partial = recorded.partial if same else node.partial
            gpus = _with_facts(node.gpus, recorded)
            adopted = msgspec.structs.replace(
                node, since=since, unseen=unseen, silent=silent, partial=partial, gpus=gpus
            )
            if adopted != node:
                draft = Draft()
                self._put(with_listed(node.node, adopted, recorded.time), draft)
                if gpus != node.gpus:
                    self._reindex(place, node, adopted)
                steps.append(draft.done())
        elif recorded.silent and node.time is None and not node.silent:
            draft = Draft()
            self._put(with_listed(node.node, msgspec.structs.replace(node, silent=recorded.silent), 0.0), draft)
            steps.append(draft.done())
        return Step(
            changes=tuple(change for step in steps for change in step.changes),
            nodes={place: state for step in steps for place, state in step.nodes.items()},
            verify=tuple(place for step in steps for place in step.verify),
            verify_later={place: delay for step in steps for place, delay in step.verify_later.items()},
        )

    # Queries

    def clusters(self) -> Collection[str]:
        """Return the names of the clusters with at least one node; the view is live."""
        return self._nodes.keys()

    def nodes(self, cluster: str) -> Mapping[str, NodeState]:
        """Return a cluster's nodes by name; the view is live."""
        return self._nodes.get(cluster, _NO_NODES)

    def node(self, place: Place) -> NodeState | None:
        """Return the current state of a node."""
        return self.nodes(place.cluster).get(place.node)

    def find(
        self, *, uuid: str | None = None, serial: str | None = None, chassis: str | None = None
    ) -> list[Placement]:
        """Return the GPUs with this UUID (in either case), serial or chassis."""
        if uuid is not None:
            uuid = canonical_uuid(uuid)
            return self._found(self._locations.places(uuid), lambda gpu: gpu.uuid == uuid)
        if serial is not None:
            return self._found(self._serials.places(serial), lambda gpu: gpu.serial == serial)
        if chassis is not None:
            return self._found(self._chassis.places(chassis), lambda gpu: gpu.chassis == chassis)
        return []

    def chassis_places(self, chassis: str) -> tuple[Place, ...]:
        """Return the nodes that have GPUs in a chassis."""
        return self._chassis.places(chassis)

    def placements(self, place: Place) -> list[Placement]:
        """Return the GPUs of one node."""
        node = self.node(place)
        return [] if node is None else node.placements()

    def count(self, cluster: str) -> int:
        """Return how many GPUs a cluster has, counting one that several nodes report once."""
        several = self._locations.several()
        twice = sum(max(0, sum(place.cluster == cluster for place in places) - 1) for places in several)
        return sum(len(node.gpus) for node in self.nodes(cluster).values()) - twice

    def known(self, cluster: str) -> dict[str, Known]:
        """Return, by node, the last readings that need not be repeated while they are fresh."""
        return {
            name: Known(node.fingerprint, node.time, node.sharing, _boards(node.node, node.fingerprint.boot_id))
            for name, node in self.nodes(cluster).items()
            if node.fingerprint is not None and node.time is not None
        }

    def facts(self, uuid: str) -> Gpu | None:
        """Return the last known values of a GPU that is in no node; None if there are none."""
        absent = self.absent_gpu(uuid)
        return None if absent is None else absent.facts

    def last_condition(self, uuid: str) -> Condition | None:
        """Return the last condition of a GPU that is in no node; None if unknown."""
        if (absent := self.absent_gpu(uuid)) is None:
            return None
        facts = absent.facts or Gpu(uuid=uuid)
        return Condition(of_card(facts.health), absent.lost, facts.ecc_growth, absent.read)

    def last_place(self, uuid: str) -> Place | None:
        """Return the last place of a GPU that is in no node; None if unknown."""
        absent = self.absent_gpu(uuid)
        return None if absent is None else absent.place

    def absent(self) -> Mapping[str, Place]:
        """Return the last place of each GPU that is in no node, by UUID."""
        return self._absent.places()

    def absent_from(self, place: Place) -> Mapping[str, Absent]:
        """Return the absent GPUs that were last in this node, by UUID, in the order in which they left."""
        return self._absent.of(place)

    def absent_gpu(self, uuid: str) -> Absent | None:
        """Return the last place and state of a GPU that is in no node, and until when; None if unknown."""
        return self._absent.get(canonical_uuid(uuid))

    def contested(self, cluster: str) -> Collection[str]:
        """Return the UUIDs of the cluster's GPUs that are confirmed in two places; the view is live."""
        return self._conflicts.contested(cluster)

    def conflicts(self, cluster: str) -> int:
        """Return how many of the cluster's GPUs are confirmed in two places."""
        return len(self._conflicts.contested(cluster))

    def claimed(self, cluster: str) -> AbstractSet[str]:
        """Return the UUIDs of the cluster's GPUs in an open claim, as home or as claimant; the view is live."""
        return self._claims.uuids_in(cluster)

    def claims(self, cluster: str) -> int:
        """Return how many of the cluster's GPUs are in an open claim."""
        return len(self.claimed(cluster))

    def nodes_in_claim(self, cluster: str) -> set[str]:
        """Return the nodes of a cluster that report a GPU in an open claim: their next reading can settle it."""
        return self._claims.nodes_in(cluster)

    def nodes_in_conflict(self, cluster: str) -> set[str]:
        """Return the nodes of a cluster that confirm a GPU in conflict."""
        homes = (home for uuid in self.contested(cluster) for home in self._homes(uuid))
        return {home.node for home in homes if home.cluster == cluster}

    def failing(self, cluster: str, reason: ReadFailure) -> int:
        """Return how many of the cluster's nodes failed to be read at the last attempt, for this reason."""
        return self._failing[cluster, reason]

    def unread(self, cluster: str, reason: UnreadReason) -> int:
        """Return how many of the cluster's nodes cannot be read now, or have not been read yet, for this reason."""
        return self._unread[cluster, reason.value]

    # Building a step

    def _put(self, node: NodeState, step: Draft) -> None:
        """Store a node's state."""
        nodes = self._nodes.setdefault(node.place.cluster, {})
        before = nodes.get(node.place.node)
        self._count_failing(node.place.cluster, before.failing if before else None, node.failing)
        self._count_unread(node.place.cluster, before.unread if before else None, node.unread)
        nodes[node.place.node] = node
        step.nodes[node.place] = node

    def _note_listed(self, place: Place, before: NodeInfo, time: float, step: Draft) -> None:
        """Apply what the ResourceSlices of a node reveal; `before` is Kubernetes' previous data on it."""
        node = self._at(place)
        after = with_listed(before, node, time)
        if after is not node:
            self._put(after, step)
            step.lost(node, after, time)
            self._hold_claims(step)

    def _remove(self, place: Place, time: float, step: Draft) -> None:
        nodes = self._nodes.get(place.cluster, {})
        if (node := nodes.pop(place.node, None)) is None:
            return
        if not nodes:
            del self._nodes[place.cluster]
        self._verify_backoff.forget(place)
        self._count_failing(place.cluster, node.failing, None)
        self._count_unread(place.cluster, node.unread, None)
        step.nodes[place] = None
        self._depart(zip(node.gpus, node.since, strict=True), node, time, step)
        self._reindex(place, node, None)

    def _count_failing(self, cluster: str, before: Failing | None, after: Failing | None) -> None:
        if before is not after:
            for sign, one in ((-1, before), (1, after)):
                if one is not None:
                    self._failing[cluster, one.reason] += sign

    def _count_unread(self, cluster: str, before: Unread | None, after: Unread | None) -> None:
        if before is not after:
            for sign, one in ((-1, before), (1, after)):
                if one is not None:
                    self._unread[cluster, one.reason.value] += sign

    def _staying(
        self, unseen: Iterable[Unseen], left: dict[str, tuple[Gpu, float]], node: NodeState, step: Draft
    ) -> list[tuple[Gpu, float]]:
        """Remove from the GPUs that a reading did not find those that nevertheless stay in its node.

        A lost GPU that responds in another node of the cluster does not stay: it has moved.
        """
        stay = [
            left.pop(one.uuid)
            for one in unseen
            if one.uuid in left and not (one.lost and self._claims.is_claimed_within(one.uuid, node.place.cluster))
        ]
        for gpu, since in stay:
            if gpu.uuid not in node.claims:
                step.found_again(node, max(node.time or since, since), gpu, gpu)
        return stay

    # Places of a GPU

    def _homes(self, uuid: str) -> list[Place]:
        """Return the nodes that have a GPU, not counting claimants."""
        return self._claims.homes(uuid)

    def _arrive(self, gpu: Gpu, node: NodeState, reading: Reading, step: Draft) -> tuple[float, bool]:
        """Place a GPU in a node that did not have it; returns since when, and whether it is a claim."""
        uuid, place = gpu.uuid, node.place
        if homes := self._homes(uuid):
            self._locations.add(uuid, place)
            self._claims.open(uuid, place, reading.ended)
            return max(reading.time, *(self._at(home).since_of(uuid) for home in homes)), True
        self._locations.add(uuid, place)
        return self._come(gpu, node, reading.time, step), False

    def _come(self, gpu: Gpu, node: NodeState, time: float, step: Draft) -> float:
        """Record from where a GPU came that is in no other node; returns since when it is in this one."""
        at, absent = self._absent.return_of(gpu.uuid, time)
        lost = gpu.uuid in step.are_lost
        if absent is None or absent.place == node.place:
            step.changes.append(Change.of(node, Event.APPEARED, at, gpu, lost=lost))
        else:
            step.changes.append(Change.of(node, Event.MOVED, at, gpu, previous=absent.place, lost=lost))
        known = None if absent is None else absent.facts
        step.worn(node, at, known, absent is not None and absent.lost, gpu, lost)
        return at

    def _ask_homes(self, uuid: str, claimant: Place, step: Draft) -> None:
        """Have the homes of a claimed GPU read again; an unreadable one of the same cluster loses it."""
        for home in self._homes(uuid):
            state = self._at(home)
            silent = state.failing is not None or not state.node.ready or uuid in state.lost_uuids
            if home.cluster == claimant.cluster and silent:
                self._lose(uuid, home, step)
            else:
                self._ask(home, claimant, step)

    def _ask(self, place: Place, other: Place, step: Draft) -> None:
        """Have a node read again because of another one's claim, with backoff after refuted claims."""
        delay = self._verify_backoff.delay(other, place, step.now)
        step.verify[place] = min(delay, step.verify.get(place, delay))

    def _confirm(self, uuid: str, home: Place, reading: Reading, step: Draft) -> None:
        """Note that a home still has a GPU, and have its claimants read again."""
        for claimant, claim in self._claims.to_settle(uuid).items():
            if claim.confirmed is None:
                if claim.answered_by_home(reading):
                    claim.confirmed = _LONG_AGO if reading.ended is None else reading.ended
                    self._ask(claimant, home, step)
                else:
                    self._ask(home, claimant, step)

    def _claim_again(
        self, gpu: Gpu, node: NodeState, since: float, reading: Reading, step: Draft
    ) -> tuple[float, bool]:
        """Note that a claimant still has a GPU; returns since when, and whether it is still a claim."""
        uuid, place = gpu.uuid, node.place
        claim, homes = self._claims.get(uuid, place), self._homes(uuid)
        if claim is not None:
            claim.note_repeated(reading)
        if not homes:  # its home was lost without an answer, such as by another inventory's record
            self._claims.close(uuid, place)
            return self._come(gpu, node, since, step), False
        if claim is None or claim.answered_by_claimant(reading):  # both have it: a conflict
            self._claims.close(uuid, place)
            lost = uuid in step.are_lost
            step.changes.append(Change.of(node, Event.APPEARED, since, gpu, lost=lost))
            step.worn(node, since, None, False, gpu, lost)  # compared with no other place
            return since, False
        for home in homes:
            asked, other = (home, place) if claim.confirmed is None else (place, home)
            self._ask(asked, other, step)
        return since, True

    def _hold_claims(self, step: Draft) -> None:
        """Adjust the claims to a GPU so that none began before a change of it in its home.

        Such a change is written before the claim is settled, and a GPU's changes must be in order of time.
        """
        if not len(self._claims):
            return
        for uuid, time in step.times_at_home().items():
            for claimant in self._claims.claimants(uuid):
                node = self._at(claimant)
                if node.since_of(uuid) < time:
                    pairs = zip(node.gpus, node.since, strict=True)
                    since = tuple(time if gpu.uuid == uuid else at for gpu, at in pairs)
                    self._put(msgspec.structs.replace(node, since=since), step)

    def _depart(self, gpus: Iterable[tuple[Gpu, float]], node: NodeState, time: float, step: Draft) -> None:
        """Remove GPUs from a node; each is given with the time since when it was there."""
        for gpu, since in gpus:
            self._locations.discard(gpu.uuid, node.place)
            if gpu.uuid in node.claims:
                self._claims.close(gpu.uuid, node.place)
                for home in self._homes(gpu.uuid):
                    self._verify_backoff.reset(home, node.place)
            else:
                self._left(gpu, node, since, max(time, since), step)

    @staticmethod
    def _without(uuid: str, node: NodeState) -> NodeState:
        at = next(index for index, gpu in enumerate(node.gpus) if gpu.uuid == uuid)
        return msgspec.structs.replace(
            node,
            gpus=node.gpus[:at] + node.gpus[at + 1 :],
            since=node.since[:at] + node.since[at + 1 :],
            claims=node.claims - {uuid} or NO_UUIDS,
            unseen=tuple(one for one in node.unseen if one.uuid != uuid),
        )

    def _left(self, gpu: Gpu, node: NodeState, since: float, time: float, step: Draft) -> None:
        """Record what became of a GPU that one of its homes had since `since` and no longer has at `time`."""
        uuid = gpu.uuid
        unseen = next((one for one in node.unseen if one.uuid == uuid), None)
        last_seen, lost = (None, False) if unseen is None else (unseen.confirmed, unseen.lost)
        confirmed = _confirmed(node, uuid, since)
        if homes := self._homes(uuid):  # it was in conflict
            time = max(time, *(self._at(home).since_of(uuid) for home in homes))
        else:
            if (successor := self._claims.successor(uuid, node.place)) is not None:
                if self._is_mirrored(node.place.cluster):  # its own shard has already recorded that it vanished
                    since, last_seen = max(since, time), None
                self._move(gpu, Absent(node.place, confirmed, lost=lost), since, last_seen, successor, step)
                return
            self._absent.add(uuid, node.place, time, facts_of(gpu, confirmed), lost=lost)
        vanished = Change.of(node, Event.VANISHED, time, gpu, last_seen=last_seen, confirmed=confirmed, lost=lost)
        step.changes.append(vanished)

    def _move(
        self, known: Gpu, was: Absent, since: float, last_seen: float | None, claimant: Place, step: Draft
    ) -> None:
        """Settle a claim: the GPU has moved. Other claimants now claim it from its new home.

        `was` is the GPU according to its previous place, with when it was last read there. The time of the move is when
        its claimant reported it, but not before `since`, when it arrived in its previous place.
        """
        uuid, previous = known.uuid, was.place
        state = self._at(claimant)
        claimed = next(one for one in state.gpus if one.uuid == uuid)
        if previous.cluster == claimant.cluster:
            gpu = settled(claimed, known, was.time)
        else:
            gpu = with_foreign_growth(claimed, known, state.time or was.time)
        self._claims.close(uuid, claimant)
        at = max(since, state.since_of(uuid))
        state = msgspec.structs.replace(
            state,
            gpus=tuple(gpu if one is claimed else one for one in state.gpus),
            since=tuple(at if one is claimed else own for one, own in zip(state.gpus, state.since, strict=True)),
            claims=state.claims - {uuid} or NO_UUIDS,
        )
        self._put(state, step)
        self._serials.add_all({gpu.serial}, claimant)  # may be last known from its previous place
        lost = uuid in state.lost_uuids
        step.changes.append(Change.of(state, Event.MOVED, at, gpu, previous=previous, last_seen=last_seen, lost=lost))
        step.worn(state, at, known, was.lost, gpu, lost)
        self._verify_backoff.reset(claimant, previous)
        for other, claim in self._claims.to_settle(uuid).items():
            claim.confirmed = None
            self._ask(claimant, other, step)
        self._conflicts.gpu_moved(gpu, claimant)

    def _lose_claimed(self, place: Place, step: Draft) -> None:
        """Remove from an unresponsive node the GPUs that other nodes of its cluster claim."""
        if len(self._claims) and (node := self.node(place)) is not None:
            for gpu in node.gpus:
                if gpu.uuid not in node.claims and self._claims.is_claimed_within(gpu.uuid, place.cluster):
                    self._lose(gpu.uuid, place, step)

    def _lose(self, uuid: str, place: Place, step: Draft) -> None:
        """Remove a GPU from a node without a reading of the node."""
        node = self._at(place)
        gpu, since = next((gpu, at) for gpu, at in zip(node.gpus, node.since, strict=True) if gpu.uuid == uuid)
        without = self._without(uuid, node)
        self._put(without, step)
        self._locations.discard(uuid, place)
        self._left(gpu, node, since, max(since, _confirmed(node, uuid, since)), step)
        self._serials.replace(place, {gpu.serial}, {gpu.serial} & {one.serial for one in without.gpus})
        self._chassis.replace(place, {gpu.chassis}, {gpu.chassis} & {one.chassis for one in without.gpus})
        self._conflicts.gpu_lost(gpu, place)

    def _reindex(self, place: Place, node_before: NodeState, node: NodeState | None) -> None:
        """Update the indexes and conflicts for a node's new state, given the previous one; None: it is gone."""
        before, after = node_before.gpus, () if node is None else node.gpus
        serials = self._serials.replace(place, {gpu.serial for gpu in before}, {gpu.serial for gpu in after})
        self._chassis.replace(place, {gpu.chassis for gpu in before}, {gpu.chassis for gpu in after})
        for uuid in {gpu.uuid for gpu in itertools.chain(before, after)}:
            self._conflicts.update(uuid)
        for serial in serials:  # also of a claim that is settled: one that is only claimed causes no conflict
            self._conflicts.serial_changed(serial, place)

    def _with_last_known(self, gpu: Gpu, node: NodeState, here: tuple[Gpu, float] | None, reading: Reading) -> Gpu:
        """Return a GPU of a reading with earlier readings' values: from its node, or else from its home or last place.

        A claimant adds nothing to a GPU, and another cluster only what the GPU itself confirms.
        """
        if here is not None:
            known, since = here
            if known == gpu:  # nearly always
                return known  # share its strings
            gpu = _with_shared_health(with_growth(gpu, known, reading.time))
            time, rebooted = _confirmed(node, gpu.uuid, since), _rebooted(node, reading)
            gpu = with_last_known(gpu, known, time, same_node=True, rebooted=rebooted)
            return known if known == gpu else gpu
        gpu = _with_shared_health(gpu)
        if (absent := self._absent.get(gpu.uuid)) is not None:
            if absent.facts is None:
                return gpu
            if absent.place.cluster != node.place.cluster:
                return with_foreign_growth(gpu, absent.facts, reading.time)
            gpu = with_growth(gpu, absent.facts, reading.time)
            return with_last_known(gpu, absent.facts, absent.time, same_node=absent.place == node.place)
        home = min((home for home in self._homes(gpu.uuid) if home.cluster == node.place.cluster), default=None)
        if home is None:
            return gpu
        state = self._at(home)
        known, since = next(one for one in zip(state.gpus, state.since, strict=True) if one[0].uuid == gpu.uuid)
        gpu = with_growth(gpu, known, reading.time)
        return with_last_known(gpu, known, _confirmed(state, gpu.uuid, since), same_node=False)

    def _at(self, place: Place) -> NodeState:
        return self._nodes[place.cluster][place.node]

    def _found(self, places: Iterable[Place], wanted: Callable[[Gpu], bool]) -> list[Placement]:
        return [one for place in places for one in self._at(place).placements() if wanted(one.gpu)]


def _with_shared_health(gpu: Gpu) -> Gpu:
    """Return a GPU whose health object is shared with all equal ones."""
    if gpu.health is None or (health := shared(gpu.health)) is gpu.health:
        return gpu
    return msgspec.structs.replace(gpu, health=health)


def _confirmed(node: NodeState, uuid: str, since: float) -> float:
    """Return when (Unix seconds) a node's GPU, there since `since`, was last read."""
    unseen = next((one.confirmed for one in node.unseen if one.uuid == uuid), None)
    return unseen if unseen is not None else since if node.time is None else node.time


def _rebooted(node: NodeState, reading: Reading) -> bool:
    """Return whether a node rebooted between its last reading and this one; False if either boot is unknown."""
    was = None if node.fingerprint is None else node.fingerprint.boot_id
    return bool(was and reading.fingerprint.boot_id) and was != reading.fingerprint.boot_id


def _boards(node: NodeInfo, boot_id: str) -> int | None:
    """Return a node's capacity according to ResourceSlices if this is still its boot, else None."""
    return node.capacity if node.listed is not None and node.boot_id == boot_id else None


def _with_facts(gpus: tuple[Gpu, ...], recorded: NodeState) -> tuple[Gpu, ...]:
    """Return a node's GPUs with the last known values that another inventory recorded for them there."""
    known = {gpu.uuid: (gpu, since) for gpu, since in zip(recorded.gpus, recorded.since, strict=True)}
    found = []
    for gpu in gpus:
        if gpu.uuid in known and gpu.uuid not in recorded.claims:
            other, since = known[gpu.uuid]
            time = _confirmed(recorded, gpu.uuid, since)
            gpu = newest_marks(with_last_known(gpu, other, time, same_node=True), other)
        found.append(gpu)
    return tuple(found)


def _differ(one: NodeState, other: NodeState) -> bool:
    """Return whether two states of a node have different GPUs."""
    return {gpu.uuid for gpu in one.gpus} != {gpu.uuid for gpu in other.gpus}
