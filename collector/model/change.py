"""Changes of GPUs, and the step of the inventory that caused them."""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from collector.health import HEALTH_FIELDS, Condition, Degradation, Health, degradations, grew
from collector.model.differences import FieldChange
from collector.model.gpu import Gpu
from collector.model.node import Place
from collector.model.node_state import NodeState
from collector.model.reading import Reading

__all__ = [
    "CHANGE_EVENTS",
    "Change",
    "Event",
    "Step",
]


class Event(StrEnum):
    """Events of a GPU."""

    APPEARED = "appeared"
    MOVED = "moved"
    VANISHED = "vanished"
    ALTERED = "altered"
    HEALTH = "health"
    CONFIRMED = "confirmed"


CHANGE_EVENTS = tuple(event for event in Event if event is not Event.CONFIRMED)  # those that are changes


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change of one GPU; `place` is where it is now or, if it vanished, was last."""

    event: Event
    time: float
    gpu: Gpu
    place: Place
    machine: str
    source: str
    previous: Place | None = None  # where it came from, for MOVED
    last_seen: float | None = None  # Unix seconds; when it was last found at its former place, if it was lost there
    changes: tuple[FieldChange, ...] = ()  # altered fields, for ALTERED and HEALTH (its fields, and "lost")
    confirmed: float | None = None  # Unix seconds; when it was last read at its place, for VANISHED
    lost: bool = False  # whether it did not respond at its place, for APPEARED, MOVED and VANISHED

    @classmethod
    def of(
        cls,
        node: NodeState,
        event: Event,
        time: float,
        gpu: Gpu,
        *,
        previous: Place | None = None,
        last_seen: float | None = None,
        changes: tuple[FieldChange, ...] = (),
        confirmed: float | None = None,
        lost: bool = False,
    ) -> "Change":
        """Return a change at `time` (Unix seconds) of a GPU of a node."""
        return cls(
            event=event,
            time=time,
            gpu=gpu,
            place=node.place,
            machine=node.node.machine,
            source=node.source,
            previous=previous,
            last_seen=last_seen,
            changes=changes,
            confirmed=confirmed,
            lost=lost,
        )

    @property
    def degradations(self) -> tuple[tuple[Degradation, ...], tuple[Degradation, ...]]:
        """Why the GPU was degraded before its health changed, and after; for HEALTH."""
        health, growth = self.gpu.health or Health(), self.gpu.ecc_growth
        before = {one.field: one.before for one in self.changes if one.field in HEALTH_FIELDS}
        after = {one.field: one.after for one in self.changes if one.field in HEALTH_FIELDS}
        lost = next((one for one in self.changes if one.field == "lost"), FieldChange("lost", False, False))
        then, now = msgspec.structs.replace(health, **before), msgspec.structs.replace(health, **after)
        grown = growth if grew(then, now) else None
        read = self.time if grown is None else grown  # a change's time may be later
        was = Condition(then, bool(lost.before), growth if grown is None else None, read)
        return degradations(was), degradations(Condition(now, bool(lost.after), growth, read))


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one inventory step: changes of GPUs, and affected nodes with their new state."""

    changes: tuple[Change, ...] = ()
    nodes: Mapping[Place, NodeState | None] = {}  # None: the node is gone
    reading: Reading | None = None  # the reading that caused it, if any
    removed_cluster: str | None = None  # a cluster that is forgotten completely, including its absent GPUs
    verify: tuple[Place, ...] = ()  # nodes to read again now, because another node claims one of their GPUs
    verify_later: Mapping[Place, float] = {}  # likewise, after this many seconds: such claims were refuted before
