"""The state of each GPU of a node, in a word with reasons, for tiles, rows and repair sheets."""

from collections.abc import Iterator
from typing import NamedTuple

from collector.health import Degradation, Level
from collector.marks import Mark, MarkKind
from collector.model import NodeState
from collector.views.collector_view import CollectorView
from collector.views.condition import REASON_WORDS
from collector.views.degraded import DegradedGpu, degraded_in
from collector.views.humanize import LEVEL_WORDS

__all__ = ["GpuState", "gpu_states"]


class GpuState(NamedTuple):
    """The state of a GPU in a node."""

    reported: bool = False  # its driver reports health data
    lost: bool = False  # it does not respond
    contested: bool = False  # another node also confirms it
    claimed: bool = False  # which node has it is being verified
    degraded: DegradedGpu | None = None
    mark: Mark | None = None

    @property
    def level(self) -> Level | None:
        """The action required by its reports; None if none, and for a GPU that merely does not respond."""
        return self.degraded.level if self.degraded is not None and self.reasons else None

    @property
    def reasons(self) -> tuple[Degradation, ...]:
        """Why it is degraded, other than not responding; worst first."""
        return tuple(one for one in self.degraded.reasons if one is not Degradation.LOST) if self.degraded else ()

    @property
    def severity(self) -> str:
        """How much attention it needs: "bad", "idle" or "good"; "" if it reports nothing."""
        if self.lost or self.contested or self.level is Level.REPLACE:
            return "bad"
        if self.level is not None or self.claimed or self.mark is not None:
            return "idle"
        return "good" if self.reported else ""

    @property
    def words(self) -> str:
        """Describe the worst state in a word or two."""
        if self.lost:
            return "lost"
        if self.contested:
            return "conflict"
        if self.level is not None:
            return LEVEL_WORDS[self.level]
        if self.claimed:
            return "being verified"
        if self.mark is not None:
            return f"marked {self.mark.kind}"
        return "healthy" if self.reported else "present"

    @property
    def repair(self) -> tuple[str, ...]:
        """Describe why its board should be pulled; empty if it should not."""
        return tuple(self._repair())

    def _repair(self) -> Iterator[str]:
        if self.lost:
            yield REASON_WORDS[Degradation.LOST]
        if self.level is Level.REPLACE:
            yield f"{LEVEL_WORDS[Level.REPLACE]}: {', '.join(REASON_WORDS[one] for one in self.reasons)}"
        if self.mark is not None and self.mark.kind is MarkKind.RMA:
            noted = f": {self.mark.note}" if self.mark.note else ""
            yield f"marked {self.mark.kind}{noted}{f' ({self.mark.ticket})' if self.mark.ticket else ''}"


def gpu_states(view: CollectorView, entry: NodeState) -> dict[str, GpuState]:
    """Return the state of each GPU of a node, by UUID."""
    inventory, now, cluster = view.inventory, view.now(), entry.place.cluster
    contested, claimed, lost = inventory.contested(cluster), inventory.claimed(cluster), entry.lost_uuids
    degraded = {one.placement.gpu.uuid: one for one in degraded_in(entry)}
    return {
        gpu.uuid: GpuState(
            reported=gpu.health is not None,
            lost=gpu.uuid in lost,
            contested=gpu.uuid in contested and gpu.uuid not in entry.claims,
            claimed=gpu.uuid in claimed,
            degraded=degraded.get(gpu.uuid),
            mark=view.marks.of(gpu.uuid, gpu.serial, now),
        )
        for gpu in entry.gpus
    }
