"""A step of the inventory while it is made: its changes, the nodes that it touches, and those to be read again."""

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
    """A step while it is made."""

    def __init__(self, now: float | None = None) -> None:
        self.now = now  # on the monotonic clock, if a reading causes it
        self.changes: list[Change] = []
        self._health: list[Change] = []  # after the others: how a GPU is where it has come to
        self.were_lost: AbstractSet[str] = NO_UUIDS  # of the node that was read, before and after the reading
        self.are_lost: AbstractSet[str] = NO_UUIDS
        self.nodes: dict[Place, NodeState | None] = {}
        self.verify: dict[Place, float] = {}  # in how many seconds

    def found_again(self, node: NodeState, time: float, before: Gpu, after: Gpu) -> None:
        """Add what a reading has altered of a GPU that stays in its node."""
        if after is not before and (changes := field_changes(before, after)):
            self.changes.append(Change.of(node, Event.ALTERED, time, after, changes=changes))
        if after is not before or self.were_lost or self.are_lost:
            self.worn(node, time, before, after.uuid in self.were_lost, after, after.uuid in self.are_lost)

    def worn(self, node: NodeState, time: float, before: Gpu | None, was_lost: bool, after: Gpu, lost: bool) -> None:
        """Add what is different of the health of a GPU of a node since `before`, if anything is."""
        changes = health_changes(None if before is None else before.health, after.health)
        if was_lost != lost:
            changes = (FieldChange("lost", was_lost, lost), *changes)
        if changes:
            self._health.append(Change.of(node, Event.HEALTH, time, after, changes=changes))

    def lost(self, before: NodeState, after: NodeState, time: float) -> None:
        """Add which GPUs of a node no longer answer, or do again, without a reading."""
        was, now = before.lost_uuids, after.lost_uuids
        if was == now:
            return
        for gpu, since in zip(after.gpus, after.since, strict=True):
            if gpu.uuid not in after.claims:
                self.worn(after, max(time, since), gpu, gpu.uuid in was, gpu, gpu.uuid in now)

    def times_at_home(self) -> Mapping[str, float]:
        """Return when GPUs that stay where they are were altered, or their health changed, by UUID."""
        own = (change for change in (*self.changes, *self._health) if change.event in (Event.ALTERED, Event.HEALTH))
        return {change.gpu.uuid: change.time for change in own}

    def done(self, reading: Reading | None = None, *, removed_cluster: str | None = None) -> Step:
        """Return the step; its `reading` is what caused it, if anything did."""
        return Step(
            changes=(*self.changes, *self._health),
            nodes=self.nodes,
            reading=reading,
            removed_cluster=removed_cluster,
            verify=tuple(place for place, delay in self.verify.items() if delay <= 0.0) if self.verify else (),
            verify_later={place: delay for place, delay in self.verify.items() if delay > 0.0} if self.verify else {},
        )
