"""What a look-up finds: for each id its matches, and for a "no" what was searched."""

from collections.abc import Hashable
from enum import StrEnum

import msgspec

from collector.marks import Mark
from collector.model import NodeState, Place, Placement
from collector.store import PastPlacement
from collector.views.terms import Term

__all__ = ["Hunt", "Kind", "Lookup", "LookupResult", "Match", "Searched"]


class Kind(StrEnum):
    """As what an id was found: the closed set of `kind`."""

    SERIAL = "serial"
    UUID = "uuid"
    CHASSIS = "chassis"
    NODE = "node"
    MACHINE = "machine"
    CLUSTER = "cluster"
    BUS = "bus"  # a PCI bus address
    PART_NUMBER = "part_number"
    MODEL = "model"
    TICKET = "ticket"  # of a mark
    PARTIAL = "partial"  # it is a part of what was found


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU, node or cluster that an id names; exactly one of the first five says which."""

    kind: Kind
    gpu: Placement | None = None  # that is present
    former_gpu: PastPlacement | None = None  # the last place where it was known by this id; `since` 0: unknown
    node: NodeState | None = None
    former_node: PastPlacement | None = None  # the last placement on a node that is gone
    cluster: str = ""
    mark: Mark | None = None  # of the GPU; the only thing that is known of one that was never seen
    now: tuple[Place, ...] = ()  # where a former GPU is now, if it is anywhere

    @property
    def uuid(self) -> str | None:
        """The UUID of the GPU; None for what is none, and for a marked serial that was never seen."""
        if self.gpu is not None:
            return self.gpu.gpu.uuid
        if self.former_gpu is not None:
            return self.former_gpu.uuid
        return self.mark.uuid if self.mark is not None else None


class LookupResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one id found."""

    term: Term
    kind: Kind | None = None  # of the first match; None: nothing was found
    matches: tuple[Match, ...] = ()
    total: int = 0  # matches, also those beyond the limit
    more: bool = False  # than `total`, at which counting ended
    whole: str = ""  # why it was looked for as a whole only; empty: parts were looked for as well

    @property
    def cut(self) -> bool:
        """Whether there are more matches than are given."""
        return self.more or self.total > len(self.matches)


class Searched(msgspec.Struct, frozen=True, kw_only=True):
    """Where a look-up has looked."""

    clusters: int
    nodes: int
    gpus: int
    down: tuple[str, ...] = ()  # clusters that cannot be reached, whose last-known state was searched
    never: tuple[str, ...] = ()  # clusters of which nothing was ever known
    limit: str = ""  # why what the ids are parts of was not looked for everywhere
    recorded: bool = False  # whether a store was searched alone, which does not know how the clusters are now
    unread: int = 0  # nodes whose GPUs cannot be read, or have not been yet
    history: bool = False  # False without a store
    history_since: float | None = None  # Unix seconds of the first change that it has
    history_error: str = ""  # why it could not be searched


class Lookup(msgspec.Struct, frozen=True, kw_only=True):
    """The results in the order of the ids, and where was looked."""

    results: tuple[LookupResult, ...]
    searched: Searched


class Hunt:
    """What has been found of one term so far; at most `most` matches are kept."""

    def __init__(self, term: Term, most: int) -> None:
        self.term = term
        self.matches: list[Match] = []
        self.total = 0
        self.more = False
        self._most = most
        self._seen: set[Hashable] = set()

    def add(self, key: Hashable, match: Match) -> None:
        """Count a match that is not there yet, and keep it while there is room."""
        if key in self._seen:
            return
        self.total += 1
        if len(self.matches) < self._most:
            self._seen.add(key)
            self.matches.append(match)

    def has(self, key: Hashable) -> bool:
        """Return whether a match is there already."""
        return key in self._seen

    @property
    def found(self) -> bool:
        """Whether there is a match."""
        return self.total > 0

    @property
    def partial(self) -> bool:
        """Whether the term is but a part of what was found."""
        return bool(self.matches) and self.matches[0].kind is Kind.PARTIAL

    @property
    def full(self) -> bool:
        """Whether nothing more is kept."""
        return len(self.matches) >= self._most

    def add_gpu(self, kind: Kind, placement: Placement) -> None:
        """Add a GPU that is present."""
        self.add((placement.gpu.uuid, placement.place), Match(kind=kind, gpu=placement))
        self._seen.add(placement.gpu.uuid)

    def add_node(self, kind: Kind, entry: NodeState) -> None:
        """Add a node that is present."""
        self.add(entry.place, Match(kind=kind, node=entry))

    def _ends_otherwise(self, match: Match) -> bool:
        """Return what puts the GPUs first whose serial ends with the term: nobody reads the middle of a sticker out."""
        gpu = match.gpu.gpu if match.gpu is not None else match.former_gpu
        serial = (gpu.serial or "") if gpu is not None else ""
        return not any(serial.lower().endswith(reading.lower()) for reading in self.term.readings)

    def result(self, whole: str = "") -> LookupResult:
        """Return what was found; `whole` says why no parts were looked for."""
        return LookupResult(
            term=self.term,
            kind=self.matches[0].kind if self.matches else None,
            matches=tuple(sorted(self.matches, key=self._ends_otherwise) if self.partial else self.matches),
            total=self.total,
            more=self.more,
            whole="" if self.matches else whole,
        )
