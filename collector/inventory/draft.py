"""An inventory step under construction: its changes, the affected nodes, and the nodes to read again."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from collector.model import (
    NO_UUIDS,
    Change,
    Event,
    FieldChange,
    Gpu,
    NodeState,
    Place,
    Reading,
    Step,
    field_changes,
    health_changes,
)

__all__ = ["Draft"]


class Draft:
    """A step under construction."""

    def __init__(self, now: float | None = None) -> None:
        self.now = now  # monotonic time, if caused by a reading
        self.changes: list[Change] = []
        self._health: list[Change] = []  # appended last: the health of GPUs in their new places
        self.were_lost: AbstractSet[str] = NO_UUIDS  # the node that was read, before and after the reading
        self.are_lost: AbstractSet[str] = NO_UUIDS
        self.nodes: dict[Place, NodeState | None] = {}
        self.verify: dict[Place, float] = {}  # delay in seconds

    def found_again(self, node: NodeState, time: float, before: Gpu, after: Gpu) -> None:
        """Add what a reading altered about a GPU that stays in its node."""
        if after is not before and (changes := field_changes(before, after)):
            self.changes.append(Change.of(node, Event.ALTERED, time, after, changes=changes))
        if after is not before or self.were_lost or self.are_lost:
            self.worn(node, time, before, after.uuid in self.were_lost, after, after.uuid in self.are_lost)

    def worn(self, node: NodeState, time: float, before: Gpu | None, was_lost: bool, after: Gpu, lost: bool) -> None:
        """Add how the health of a node's GPU differs from `before`, if it does."""
        changes = health_changes(None if before is None else before.health, after.health)
        if was_lost != lost:
            changes = (FieldChange("lost", was_lost, lost), *changes)
        if changes:
            self._health.append(Change.of(node, Event.HEALTH, time, after, changes=changes))

    def lost(self, before: NodeState, after: NodeState, time: float) -> None:
        """Add which GPUs of a node stopped responding, or respond again, without a reading."""
        was, now = before.lost_uuids, after.lost_uuids
        if was == now:
            return
        for gpu, since in zip(after.gpus, after.since, strict=True):
            if gpu.uuid not in after.claims:
                self.worn(after, max(time, since), gpu, gpu.uuid in was, gpu, gpu.uuid in now)

    def times_at_home(self) -> Mapping[str, float]:
        """Return when GPUs that stay in place were altered, or their health changed, by UUID."""
        own = (change for change in (*self.changes, *self._health) if change.event in (Event.ALTERED, Event.HEALTH))
        return {change.gpu.uuid: change.time for change in own}

    def done(self, reading: Reading | None = None, *, removed_cluster: str | None = None) -> Step:
        """Return the step; `reading` is the one that caused it, if any."""
        return Step(
            changes=(*self.changes, *self._health),
            nodes=self.nodes,
            reading=reading,
            removed_cluster=removed_cluster,
            verify=tuple(place for place, delay in self.verify.items() if delay <= 0.0) if self.verify else (),
            verify_later={place: delay for place, delay in self.verify.items() if delay > 0.0} if self.verify else {},
        )
