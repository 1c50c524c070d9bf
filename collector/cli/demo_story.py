"""What a story about the demo fleet's past consists of: readings, notes, and GPUs and pages worth looking at."""

from typing import NamedTuple

from collector.collect.nvidia_smi import Report
from collector.marks import MarkKind
from collector.model import Place
from collector.web.pages import links

__all__ = [
    "DAY_SECONDS",
    "PAST_DAYS",
    "Featured",
    "Note",
    "Seen",
    "Sight",
    "Story",
]

DAY_SECONDS = 86400.0
PAST_DAYS = 60.0


class Seen(NamedTuple):
    """One reading of a node."""

    ago: float  # seconds before the demo began
    place: Place
    report: Report


class Note(NamedTuple):
    """A note about a GPU."""

    ago: float  # seconds before the demo began
    uuid: str
    kind: MarkKind
    by: str
    note: str
    ticket: str = ""
    days: float | None = None  # from the start of the demo until the mark expires; None: never


class Featured(NamedTuple):
    """A GPU worth looking at."""

    title: str
    uuid: str
    serial: str


class Sight(NamedTuple):
    """A page worth looking at."""

    title: str
    path: str  # relative to the page's URL


class Story:
    """The events, in order, and what remains to be done to the fleet once its clusters run."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.notes: list[Note] = []
        self.lost: list[tuple[Place, str]] = []  # GPUs that fell off the bus: their nodes and UUIDs
        self.unreadable: list[tuple[Place, str]] = []  # nodes and the command's output there
        self.doubled: list[tuple[Place, str, Place]] = []  # GPUs' nodes and UUIDs, and where else they are claimed
        self.missing: list[tuple[Place, str]] = []  # GPUs that the driver no longer finds
        self.swapped: list[Place] = []  # nodes whose tray was replaced
        self.featured: list[Featured] = []
        self.stages: set[Place] = set()  # the nodes where those are in the end

    @property
    def troubled(self) -> set[Place]:
        """The nodes whose problems last while the demo runs."""
        doubled = {place for home, _, claimant in self.doubled for place in (home, claimant)}
        return self.stages | doubled | {place for place, _ in (*self.unreadable, *self.missing, *self.lost)}

    @property
    def sights(self) -> list[Sight]:
        """The pages to look at first, of different kinds as far as the fleet has them."""
        gpus = [Sight(f"GPU {one.serial}: {one.title}", links.gpu_url(one.uuid)) for one in self.featured]
        missing = [
            Sight(f"{place.node} of {place.cluster}: a GPU is missing, and gpuid knows which", links.node_url(place))
            for place, _ in self.missing
        ]
        swapped = [
            Sight(
                f"{place.node} of {place.cluster}: a tray was swapped, slot by slot",
                links.address("/changes", {"event": "replaced", "cluster": place.cluster, "node": place.node}),
            )
            for place in self.swapped
        ]
        return [*gpus[:1], *missing[:1], *swapped[:1], *gpus[1:]]
