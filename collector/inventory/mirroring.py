"""An inventory that mirrors the nodes of clusters that other shards read, and settles the claims of its own."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from collector.inventory.draft import Draft
from collector.inventory.inventory import Inventory
from collector.model import Change, Gpu, NodeInfo, NodeState, Place, Step

__all__ = ["MirroringInventory"]


class _Left(NamedTuple):
    """A GPU that a mirrored node no longer has."""

    gpu: Gpu
    since: float
    node: NodeState  # as it was
    time: float  # Unix seconds


class MirroringInventory(Inventory):
    """The whole fleet, as each shard of an installation has it: its own clusters by readings, the others mirrored.

    The shard of a cluster alone decides what happens to the GPUs there, by these rules:

    1. A GPU that leaves a node has vanished, unless a node of the same shard claims it. Where it turns up is for
       another shard to say.
    2. A GPU that comes to a node, and is in no other one, has moved from where it vanished, in whatever cluster.
    3. A GPU that a mirrored node has is claimed, as within a shard, and the mirrored node's own shard is asked to read
       it again. When that one has let go of the GPU, it has moved; when it has answered that the GPU is still there,
       the claimant is read again, and then both are in conflict.
    4. What a mirrored node claims is shown as a claim until its own shard has settled it.
    """

    def mirror(
        self,
        nodes: Mapping[Place, NodeState | None],
        now: float,
        *,
        answered: Mapping[Place, float] = {},
        gone_at: Mapping[str, float] = {},
    ) -> Step:
        """Let nodes of other shards' clusters be in these states, all at once; None: the node is gone.

        `now` is the time on the process's monotonic clock. `answered` are nodes that were read because this shard asked
        for that, with when it did. `gone_at` says when (Unix seconds) nodes of a cluster were removed last.
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
        """Forget why nodes of a cluster could not be read: this shard is about to find out itself."""
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

    def _depart_all(self, left: Sequence[_Left], draft: Draft) -> None:
        """Let GPUs be in mirrored nodes no longer; where others are is known already."""
        for one in left:
            self._locations.discard(one.gpu.uuid, one.node.place)
            if one.gpu.uuid in one.node.claims:
                self._claims.close(one.gpu.uuid, one.node.place)
        for one in left:
            if one.gpu.uuid not in one.node.claims:
                self._left(one.gpu, one.node, one.since, max(one.time, one.since), draft)

    def _arrivals(self, before: NodeState, after: NodeState, draft: Draft) -> None:
        """Note where the GPUs of a mirrored node are, and which of them it claims."""
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
        """Have the nodes of this shard read again that have a GPU, or those asked for it of which they claim it."""
        for home in self._homes(uuid):
            if home != place and not self._is_mirrored(home.cluster):
                self._ask(home, place, draft)
        for claimant, claim in self._claims.to_settle(uuid).items():
            claim.confirmed = None
            self._ask(place, claimant, draft)

    def _note_answer(self, place: Place, asked: float, now: float, draft: Draft) -> None:
        """Have those read again that claim what a mirrored node still has, by a reading that was asked for then."""
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
        """Remove a node, whose GPUs are still to depart."""
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
        """Return a step without what happened to mirrored nodes: their own shards say that."""
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
