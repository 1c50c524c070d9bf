"""The results of a look-up: the matches of each id, and what was searched."""

from collections.abc import Hashable
from enum import StrEnum

import msgspec

from collector.marks import Mark
from collector.model import NodeState, Place, Placement
from collector.store import PastPlacement
from collector.views.terms import Term

__all__ = ["Hunt", "Kind", "Lookup", "LookupResult", "Match", "Searched"]


class Kind(StrEnum):
    """How an id was matched: the closed set of `kind`."""

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
    PARTIAL = "partial"  # a substring of the match


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU, node or cluster that an id names; exactly one of the first five fields is set."""

    kind: Kind
    gpu: Placement | None = None  # that is present
    former_gpu: PastPlacement | None = None  # the last place where it was known by this id; `since` 0: unknown
    node: NodeState | None = None
    former_node: PastPlacement | None = None  # the last placement on a node that is gone
    cluster: str = ""
    mark: Mark | None = None  # of the GPU; all that is known of one never seen
    now: tuple[Place, ...] = ()  # where a former GPU is now, if anywhere

    @property
    def uuid(self) -> str | None:
        """The UUID of the GPU; None for anything else, and for a marked serial that was never seen."""
        if self.gpu is not None:
            return self.gpu.gpu.uuid
        if self.former_gpu is not None:
            return self.former_gpu.uuid
        return self.mark.uuid if self.mark is not None else None


class LookupResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one id."""

    term: Term
    kind: Kind | None = None  # of the first match; None: nothing was found
    matches: tuple[Match, ...] = ()
    total: int = 0  # number of matches, including those beyond the limit
    more: bool = False  # than `total`, where counting stopped
    whole: str = ""  # why only exact matches were searched; empty: partial ones were, too

    @property
    def cut(self) -> bool:
        """Whether there are more matches than are given."""
        return self.more or self.total > len(self.matches)


class Searched(msgspec.Struct, frozen=True, kw_only=True):
    """Where a look-up has looked."""

    clusters: int
    nodes: int
    gpus: int
    down: tuple[str, ...] = ()  # unreachable clusters, whose last known state was searched
    never: tuple[str, ...] = ()  # clusters that were never read
    limit: str = ""  # why partial matches were not searched everywhere
    recorded: bool = False  # whether only a store was searched, which does not know the clusters' current state
    unread: int = 0  # nodes whose GPUs cannot be read, or have not been read yet
    history: bool = False  # False without a store
    history_since: float | None = None  # Unix seconds of its first change
    history_error: str = ""  # why it could not be searched


class Lookup(msgspec.Struct, frozen=True, kw_only=True):
    """The results in the order of the ids, and where the look-up searched."""

    results: tuple[LookupResult, ...]
    searched: Searched


class Hunt:
    """The matches of one term so far; at most `most` are kept."""

    def __init__(self, term: Term, most: int) -> None:
        self.term = term
        self.matches: list[Match] = []
        self.total = 0
        self.more = False
        self._most = most
        self._seen: set[Hashable] = set()

    def add(self, key: Hashable, match: Match) -> None:
        """Count a new match, and keep it if there is room."""
        if key in self._seen:
            return
        self.total += 1
        if len(self.matches) < self._most:
            self._seen.add(key)
            self.matches.append(match)

    def has(self, key: Hashable) -> bool:
        """Return whether a match is already there."""
        return key in self._seen

    @property
    def found(self) -> bool:
        """Whether there is a match."""
        return self.total > 0

    @property
    def partial(self) -> bool:
        """Whether the term is only a part of the matches."""
        return bool(self.matches) and self.matches[0].kind is Kind.PARTIAL

    @property
    def full(self) -> bool:
        """Whether no more matches are kept."""
        return len(self.matches) >= self._most

    def add_gpu(self, kind: Kind, placement: Placement) -> None:
        """Add a GPU that is present."""
        self.add((placement.gpu.uuid, placement.place), Match(kind=kind, gpu=placement))
        self._seen.add(placement.gpu.uuid)

    def add_node(self, kind: Kind, entry: NodeState) -> None:
        """Add a node that is present."""
        self.add(entry.place, Match(kind=kind, node=entry))

    def _ends_otherwise(self, match: Match) -> bool:
        """Return a sort key that puts serials ending with the term first: people read out the end of a sticker."""
        gpu = match.gpu.gpu if match.gpu is not None else match.former_gpu
        serial = (gpu.serial or "") if gpu is not None else ""
        return not any(serial.lower().endswith(reading.lower()) for reading in self.term.readings)

    def result(self, whole: str = "") -> LookupResult:
        """Return the result; `whole` says why no partial matches were searched."""
        return LookupResult(
            term=self.term,
            kind=self.matches[0].kind if self.matches else None,
            matches=tuple(sorted(self.matches, key=self._ends_otherwise) if self.partial else self.matches),
            total=self.total,
            more=self.more,
            whole="" if self.matches else whole,
        )
