"""One problem as shown by page, API and command line; times are Unix seconds."""

from collections.abc import Sequence

import msgspec

from collector.health import Level
from collector.model import Gpu, Place
from collector.views.problems.kinds import OF_ALL, ProblemKind, Severity

__all__ = ["MAX_LISTED", "Problem", "ProblemGpu", "ProblemNode"]

MAX_LISTED = 100  # nodes and GPUs that a problem lists


class ProblemNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node that has a problem."""

    cluster: str
    node: str
    since: float | None = None
    reason: str = ""
    tries: int | None = None  # failed reading attempts since then; None if there were none
    next_try: float | None = None

    @property
    def place(self) -> Place:
        """Where it is."""
        return Place(self.cluster, self.node)


class ProblemGpu(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU that has a problem, and its current or last position, as far as known."""

    cluster: str
    node: str
    serial: str | None = None
    uuid: str | None = None
    model: str | None = None
    chassis: str | None = None
    tray: str | None = None
    slot: str | None = None
    module: str | None = None
    pci_bus_id: str | None = None
    last_seen: float | None = None
    reason: str = ""

    @classmethod
    def of(cls, place: Place, gpu: Gpu, last_seen: float | None, reason: str = "") -> "ProblemGpu":
        """Return a GPU on a node."""
        return cls(
            cluster=place.cluster,
            node=place.node,
            serial=gpu.serial,
            uuid=gpu.uuid,
            model=gpu.model,
            chassis=gpu.chassis,
            tray=gpu.tray,
            slot=gpu.slot,
            module=gpu.module,
            pci_bus_id=gpu.pci_bus_id,
            last_seen=last_seen,
            reason=reason,
        )

    @property
    def place(self) -> Place:
        """Where it is or was."""
        return Place(self.cluster, self.node)


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One problem, shared by any number of GPUs, nodes or clusters."""

    id: str  # stays the same while the problem lasts
    severity: Severity
    kind: ProblemKind
    title: str  # a whole sentence, without a full stop
    count: int  # number in the title: of GPUs, nodes, clusters or dead letters
    gpus_affected: int = 0  # affected GPUs, as far as known
    consequences: int = 0  # consequences that are not separate problems
    clusters: Sequence[str] = ()  # all of them
    nodes: Sequence[ProblemNode] = ()  # the first MAX_LISTED
    nodes_total: int = 0
    gpus: Sequence[ProblemGpu] = ()  # the first MAX_LISTED
    gpus_total: int = 0
    since: float | None = None  # of several, the earliest
    reason: str = ""  # in the words of the component that failed
    remedy: str = ""
    url: str = ""  # path of the page with details

    @property
    def breaks(self) -> bool:
        """Whether its GPUs are gone or need replacement, which every page shows in the same colour."""
        worn_out = f"{ProblemKind.GPU_DEGRADED}:{Level.REPLACE}"
        return self.kind in (ProblemKind.GPU_MISSING, ProblemKind.GPU_LOST) or self.id == worn_out

    @property
    def rank(self) -> tuple[object, ...]:
        """The sort key: severity, then what stops the history first and what a reset cures last, size, age."""
        since = float("inf") if self.since is None else self.since
        severity, size = list(Severity).index(self.severity), max(self.gpus_affected, 1)
        mild = self.id == f"{ProblemKind.GPU_DEGRADED}:{Level.RESET}"
        return severity, int(self.kind not in OF_ALL) + mild, -size, -self.count, since, self.id
