"""An inventory that mirrors the nodes of other shards' clusters, and settles the claims of its own."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from collector.inventory.draft import Draft
from collector.inventory.inventory import Inventory
from collector.model import Change, Event, Gpu, NodeInfo, NodeState, Place, Step

__all__ = ["MirroringInventory"]


class _Left(NamedTuple):
    """A GPU that has left a mirrored node."""

    gpu: Gpu
    since: float
    node: NodeState  # its previous state
    time: float  # Unix seconds


class MirroringInventory(Inventory):
    """The whole fleet as seen by one shard: its own clusters from readings, the others mirrored.

    Only a cluster's own shard decides what happened to the GPUs there, by these rules:

    1. A GPU that leaves a node has vanished, unless a node of the same shard claims it. If it turns up elsewhere, that
       shard records it.
    2. A GPU that arrives in a node and is in no other has moved from where it vanished, in any cluster.
    3. A GPU that a mirrored node has is claimed, as within a shard, and the mirrored node's own shard is asked to read
       the node again. If the GPU is gone from there, it has moved; if it is still there, the claimant is read again,
       and if that confirms it too, both are in conflict.
    4. A claim by a mirrored node is shown as a claim until its own shard has settled it.
    """

    def mirror(
        self,
        nodes: Mapping[Place, NodeState | None],
        now: float,
        *,
        answered: Mapping[Place, float] = {},
        gone_at: Mapping[str, float] = {},
    ) -> Step:
        """Set the states of nodes of other shards' clusters, in one step; None: the node is gone.

        `now` is the process's monotonic time. `answered` are nodes that were read on this shard's request, with its
        time. `gone_at` is when (Unix seconds) a cluster's nodes were last removed.
        """
        draft = Draft(now)
        left: list[_Left] = []
        touched: list[tuple[NodeState, NodeState | None]] = []  # before and after
        for place, state in nodes.items():
            before = self.node(place)
            if before == state:
                continue
            before = before or NodeState(place=place, node=NodeInfo(name=place.node))
            if state is None:
                self._drop(before, draft)
                touched.append((before, None))
                left += _departures(before, (), gone_at.get(place.cluster, 0.0))
            else:
                self._put(state, draft)
                touched.append((before, state))
                left += _departures(before, state.gpus, state.time or 0.0)
                self._arrivals(before, state, draft)
        self._depart_all(left, draft)
        for before, after in touched:
            if after is None or before.gpus != after.gpus or before.claims != after.claims:
                self._reindex(before.place, before, after)
        for place, asked in answered.items():
            self._note_answer(place, asked, now, draft)
        return self._own_part(draft.done())

    def forget_unread(self, cluster: str) -> Step:
        """Forget why nodes of a cluster could not be read: this shard will find out itself."""
        draft = Draft()
        for node in list(self.nodes(cluster).values()):
            if node.failing is not None or node.uncovered is not None:
                self._put(msgspec.structs.replace(node, failing=None, uncovered=None), draft)
        return draft.done()

    def homes_to_ask(self, cluster: str) -> set[Place]:
        """Return the nodes of a mirrored cluster that have a GPU which a node of this shard claims."""
        return {
            home
            for uuid in self.claimed(cluster)
            if any(claim.confirmed is None for claim in self._claims.to_settle(uuid).values())
            for home in self._homes(uuid)
            if home.cluster == cluster
        }

    def passed_by(self, changes: Iterable[Change]) -> set[str]:
        """Return the GPUs that vanished from where this shard has not seen them, as they were there between two looks.

        `changes` are what was recorded meanwhile; `recall` then takes the last places of these GPUs. The page, log and
        metrics use them. The history cannot rely on them, because another shard may have recorded a later place since:
        `correct_previous` reads the store in the transaction that records a move.
        """
        found = set()
        for change in changes:
            uuid, place = change.gpu.uuid, change.place
            if change.event is Event.VANISHED and self._is_mirrored(place.cluster) and not self._locations.places(uuid):
                absent = self._absent.get(uuid)
                if absent is None or absent.place != place:
                    found.add(uuid)
        return found

    def _depart_all(self, left: Sequence[_Left], draft: Draft) -> None:
        """Remove GPUs from mirrored nodes; the places of the others are already known."""
        for one in left:
            self._locations.discard(one.gpu.uuid, one.node.place)
            if one.gpu.uuid in one.node.claims:
                self._claims.close(one.gpu.uuid, one.node.place)
        for one in left:
            if one.gpu.uuid not in one.node.claims:
                self._left(one.gpu, one.node, one.since, max(one.time, one.since), draft)

    def _arrivals(self, before: NodeState, after: NodeState, draft: Draft) -> None:
        """Note the places of a mirrored node's GPUs, and which of them it claims."""
        place, known = after.place, {gpu.uuid for gpu in before.gpus}
        if known == {gpu.uuid for gpu in after.gpus} and before.claims == after.claims:
            return
        for gpu in after.gpus:
            uuid, claimed = gpu.uuid, gpu.uuid in after.claims
            was_claimed = uuid in before.claims
            self._locations.add(uuid, place)
            if claimed and not was_claimed:
                self._claims.open(uuid, place, None)
            elif was_claimed and not claimed:
                self._claims.close(uuid, place)
            if not claimed and (was_claimed or uuid not in known):
                self._absent.pop(uuid)
                self._has_home(uuid, place, draft)

    def _has_home(self, uuid: str, place: Place, draft: Draft) -> None:
        """Have this shard's nodes that have a GPU read again, or the nodes from which they claim it."""
        for home in self._homes(uuid):
            if home != place and not self._is_mirrored(home.cluster):
                self._ask(home, place, draft)
        for claimant, claim in self._claims.to_settle(uuid).items():
            claim.confirmed = None
            self._ask(place, claimant, draft)

    def _note_answer(self, place: Place, asked: float, now: float, draft: Draft) -> None:
        """Have the claimants read again if a requested reading found that a mirrored node still has their GPU."""
        node = self.node(place)
        if node is None or not len(self._claims):
            return
        for gpu in node.gpus:
            if gpu.uuid in node.claims:
                continue
            for claimant, claim in self._claims.to_settle(gpu.uuid).items():
                if claim.confirmed is None and claim.opened <= asked:
                    claim.confirmed = now
                    self._ask(claimant, place, draft)

    def _drop(self, node: NodeState, draft: Draft) -> None:
        """Remove a node, before its GPUs are processed as departed."""
        place = node.place
        nodes = self._nodes[place.cluster]
        del nodes[place.node]
        if not nodes:
            del self._nodes[place.cluster]
        self._verify_backoff.forget(place)
        self._count_failing(place.cluster, node.failing, None)
        self._count_unread(place.cluster, node.unread, None)
        draft.nodes[place] = None

    def _own_part(self, step: Step) -> Step:
        """Return a step without the changes of mirrored nodes, which their own shards report."""
        if not step.changes:
            return step
        changes: Sequence[Change] = [one for one in step.changes if not self._is_mirrored(one.place.cluster)]
        return msgspec.structs.replace(step, changes=tuple(changes))


def _departures(before: NodeState, after: Sequence[Gpu], time: float) -> list[_Left]:
    if not before.gpus or before.gpus is after:
        return []
    there = {gpu.uuid for gpu in after}
    pairs = zip(before.gpus, before.since, strict=True)
    return [_Left(gpu, since, before, time) for gpu, since in pairs if gpu.uuid not in there]
