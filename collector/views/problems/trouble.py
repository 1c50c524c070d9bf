"""Single troubles, and rows of troubles of one kind, however many nodes and clusters have them."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from collector.model import Place
from collector.text import one_line
from collector.views.problems.kinds import CAUSES, ProblemKind
from collector.views.problems.problem import MAX_LISTED, ProblemGpu, ProblemNode

__all__ = ["Trouble", "TroubleRow", "Troubles"]

MAX_REASONS = 20  # different ones that a row keeps
MAX_REASON_LENGTH = 300  # characters


# The API server's address at the start of a reason, and the pod for which a right is missing.
_PLACES = re.compile(r'^https?://[^\s"]+: |(?<=\bpods) "[^"]*"')


class Trouble(msgspec.Struct, frozen=True):
    """One trouble of a cluster, node, sink or the collector."""

    kind: ProblemKind
    variant: str = ""  # only troubles of one kind and variant share a row
    count: int = 1  # in the unit of the kind: GPUs, nodes, clusters, dead letters
    keys: tuple[str, ...] = ()  # instead of the count: the identities counted, so that duplicates count once
    size: int = 0  # affected GPUs; per key, if there are keys
    cluster: str = ""
    node: ProblemNode | None = None
    gpus: tuple[ProblemGpu, ...] = ()
    since: float | None = None  # Unix seconds
    reason: str = ""
    consequences: int = 0  # consequences it explains


class TroubleRow:
    """All troubles of one kind and variant."""

    def __init__(self, kind: ProblemKind, variant: str) -> None:
        self.kind = kind
        self.variant = variant
        self.plain = 0  # count of troubles without keys
        self.keys: set[str] = set()
        self.plain_size = 0  # likewise
        self.key_size = 0
        self.since: float | None = None
        self.clusters: set[str] = set()
        self.nodes: list[ProblemNode] = []
        self.nodes_total = 0
        self.gpus: list[ProblemGpu] = []
        self.gpus_total = 0
        self.counted_reasons: Counter[str] = Counter()  # without names of places
        self.texts: dict[str, str] = {}  # of each as given; empty: several variants
        self.consequences = 0
        self._last: Place | None = None

    @property
    def count(self) -> int:
        """The count, in the unit of the kind."""
        return self.plain + len(self.keys)

    @property
    def reasons(self) -> Counter[str]:
        """The frequency of each reason; without addresses and names if only these differ."""
        return Counter({self.texts[folded] or folded: count for folded, count in self.counted_reasons.items()})

    @property
    def size(self) -> int:
        """The number of GPUs affected."""
        return self.plain_size + self.key_size * len(self.keys)

    def add(self, trouble: Trouble) -> None:
        """Add a trouble; those of one node are added consecutively."""
        if trouble.keys:
            self.keys.update(trouble.keys)
            self.key_size = trouble.size
        else:
            self.plain += trouble.count
            self.plain_size += trouble.size
        self.consequences += trouble.consequences
        self._began(trouble.since)
        if trouble.cluster:
            self.clusters.add(trouble.cluster)
        if trouble.node is not None:
            place = trouble.node.place
            if place != self._last:
                self._last = place
                self.nodes_total += 1
                if len(self.nodes) < MAX_LISTED:
                    self.nodes.append(trouble.node)
        self.gpus += trouble.gpus[: MAX_LISTED - len(self.gpus)]
        self.gpus_total += len(trouble.gpus)
        if trouble.reason:
            self._give(one_line(trouble.reason, MAX_REASON_LENGTH), 1)

    def merge(self, other: "TroubleRow") -> None:
        """Add the troubles of another row, for different nodes."""
        self.plain += other.plain
        self.plain_size += other.plain_size
        self.keys |= other.keys
        self.key_size = self.key_size or other.key_size
        self.consequences += other.consequences
        self._began(other.since)
        self.clusters |= other.clusters
        self.nodes += other.nodes[: MAX_LISTED - len(self.nodes)]
        self.nodes_total += other.nodes_total
        self.gpus += other.gpus[: MAX_LISTED - len(self.gpus)]
        self.gpus_total += other.gpus_total
        for folded, count in other.counted_reasons.items():
            self._count(folded, other.texts[folded], count)

    def swallow(self, consequence: "TroubleRow") -> None:
        """Absorb a consequence of this row."""
        self.consequences += consequence.count + consequence.consequences
        if self.since is None:
            self.since = consequence.since
        if self.kind is ProblemKind.CLUSTER_UNREAD:  # whose only reasons are those of its nodes
            for folded in consequence.counted_reasons:
                self._count(folded, consequence.texts[folded], 1)  # it counts clusters

    def _began(self, since: float | None) -> None:
        if since is not None and (self.since is None or since < self.since):
            self.since = since

    def _give(self, reason: str, count: int) -> None:
        self._count(_PLACES.sub("", reason), reason, count)

    def _count(self, folded: str, text: str, count: int) -> None:
        if folded in self.counted_reasons:
            if text != self.texts[folded]:
                self.texts[folded] = ""
        elif len(self.counted_reasons) < MAX_REASONS:
            self.texts[folded] = text
        else:
            return
        self.counted_reasons[folded] += count


class Troubles:
    """The troubles of any number of nodes and clusters, by row."""

    def __init__(self, troubles: Iterable[Trouble] = ()) -> None:
        self._rows: dict[tuple[ProblemKind, str], TroubleRow] = {}
        for trouble in troubles:
            self.add(trouble)

    def __iter__(self) -> Iterator[TroubleRow]:
        """Yield the rows."""
        return iter(self._rows.values())

    def add(self, trouble: Trouble) -> None:
        """Add one trouble to the row of its kind."""
        self._row(trouble.kind, trouble.variant).add(trouble)

    def merge(self, other: "Troubles") -> None:
        """Add the troubles of other nodes or of another cluster."""
        for row in other:
            self._row(row.kind, row.variant).merge(row)

    def swallow(self, causes: Mapping[ProblemKind, frozenset[ProblemKind]] = CAUSES) -> None:
        """Let each cause absorb its consequences; all troubles belong to one cluster."""
        for cause, explained in causes.items():
            row = next((row for row in self if row.kind is cause), None)
            if row is not None:
                for key in [key for key in self._rows if key[0] in explained]:
                    row.swallow(self._rows.pop(key))

    def _row(self, kind: ProblemKind, variant: str) -> TroubleRow:
        key = (kind, variant)
        if (row := self._rows.get(key)) is None:
            row = self._rows[key] = TroubleRow(kind, variant)
        return row
